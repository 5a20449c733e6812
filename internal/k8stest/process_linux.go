// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8stest

import (
	"os/exec"
	"syscall"
)

// dieWithTest makes the kernel end a process when the test does without its clean-up.
func dieWithTest(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
