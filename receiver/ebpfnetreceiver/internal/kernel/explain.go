// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Capability is one that loading or attaching needs.
type Capability struct {
	Bit int
	// Name is as in capabilities(7).
	Name string
	// Why says what it does, as in "loads programs and maps".
	Why string
}

// Explain adds to an error of loading or attaching what is missing and what to do
// about it. memlock is why the limit on locked memory could not be lifted, if so.
func Explain(err, memlock error, needed ...Capability) error {
	// what it did not like is EACCES more often than not; what was refused before it has no log
	var verifier *ebpf.VerifierError
	refused := errors.As(err, &verifier) && len(verifier.Log) > 0
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		if missing := missingOf(needed); missing != "" {
			return fmt.Errorf("%w: missing %s; run as root, or grant these capabilities (setcap, systemd AmbientCapabilities=, container securityContext)", err, missing)
		}
		if refused {
			return explainRefusal(err, verifier)
		}
		if memlock != nil {
			return fmt.Errorf("%w: %w", err, memlock)
		}
		return fmt.Errorf("%w: all capabilities are there, so a security module or lockdown mode may forbid it; see the kernel log", err)
	}
	if _, btfErr := btf.LoadKernelSpec(); btfErr != nil {
		return fmt.Errorf("%w: the kernel's type information cannot be read (%w); it needs CONFIG_DEBUG_INFO_BTF=y, which shows as /sys/kernel/btf/vmlinux, and /sys mounted", err, btfErr)
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("%w: the kernel lacks a feature; NetProbe needs Linux 5.10 or later with CONFIG_BPF_SYSCALL=y", err)
	}
	if refused {
		return explainRefusal(err, verifier)
	}
	return err
}

func explainRefusal(err error, verifier *ebpf.VerifierError) error {
	return fmt.Errorf("%w: this kernel's verifier refuses the program, which is a bug in NetProbe: please report it with the kernel version and this log: %-20v", err, verifier)
}

// missingOf lists the capabilities that this thread does not have.
func missingOf(needed []Capability) string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return ""
	}
	has := func(bit int) bool { return data[bit/32].Effective&(1<<(bit%32)) != 0 }
	// it stands for those that were once a part of it (include/linux/capability.h)
	admin := has(unix.CAP_SYS_ADMIN)
	var missing []string
	for _, c := range needed {
		wasAdmin := c.Bit == unix.CAP_BPF || c.Bit == unix.CAP_PERFMON
		if !has(c.Bit) && (!wasAdmin || !admin) {
			missing = append(missing, fmt.Sprintf("%s (%s)", c.Name, c.Why))
		}
	}
	return strings.Join(missing, ", ")
}
