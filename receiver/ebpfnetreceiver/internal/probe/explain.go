// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// capabilities that loading and attaching need. CAP_SYS_ADMIN holds all of them.
var capabilities = []struct {
	name string
	bit  int
	why  string
}{
	{"CAP_BPF", unix.CAP_BPF, "loads programs and maps"},
	{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN, "attaches programs to interfaces"},
	{"CAP_PERFMON", unix.CAP_PERFMON, "lets programs read packets directly"},
}

// explainLoad adds to a load error what is missing and what to do about it.
// memlock is why the limit on locked memory could not be lifted, if so.
func explainLoad(err, memlock error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		if missing := missingCapabilities(); missing != "" {
			return fmt.Errorf("%w: missing %s; run as root, or grant these capabilities (setcap, systemd AmbientCapabilities=, container securityContext)", err, missing)
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
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return fmt.Errorf("%w: this kernel's verifier refuses the program, which is a bug in NetProbe: please report it with the kernel version and this log: %-20v", err, verifier)
	}
	return err
}

func missingCapabilities() string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return ""
	}
	has := func(bit int) bool { return data[bit/32].Effective&(1<<(bit%32)) != 0 }
	if has(unix.CAP_SYS_ADMIN) && has(unix.CAP_NET_ADMIN) {
		return ""
	}
	var missing []string
	for _, c := range capabilities {
		if !has(c.bit) {
			missing = append(missing, fmt.Sprintf("%s (%s)", c.name, c.why))
		}
	}
	return strings.Join(missing, ", ")
}

// NetNS gives the inode number of the network namespace of this process.
func NetNS() (uint64, error) {
	var st unix.Stat_t
	const path = "/proc/self/ns/net"
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}
