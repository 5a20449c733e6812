// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

// without takes capabilities away from this goroutine until fn has returned.
func without(t *testing.T, fn func(), capabilities ...int) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	require.NoError(t, unix.Capget(&header, &all[0]))
	fewer := all
	for _, c := range capabilities {
		fewer[c/32].Effective &^= 1 << (c % 32)
	}
	require.NoError(t, unix.Capset(&header, &fewer[0]))
	defer func() { require.NoError(t, unix.Capset(&header, &all[0])) }()
	fn()
}

const (
	missingBPF      = "CAP_BPF (loads programs and maps)"
	missingNetAdmin = "CAP_NET_ADMIN (attaches programs to interfaces)"
	missingPerfmon  = "CAP_PERFMON (lets programs read packets directly)"
)

func TestMissingCapabilities(t *testing.T) {
	bpftest.RequireBPF(t)
	require.Empty(t, missingCapabilities())
	for _, tt := range []struct {
		taken []int
		want  string
	}{
		{[]int{unix.CAP_BPF}, ""}, // CAP_SYS_ADMIN holds it
		{[]int{unix.CAP_SYS_ADMIN}, ""},
		{[]int{unix.CAP_NET_ADMIN}, missingNetAdmin},
		{[]int{unix.CAP_SYS_ADMIN, unix.CAP_BPF}, missingBPF},
		{[]int{unix.CAP_SYS_ADMIN, unix.CAP_PERFMON}, missingPerfmon},
		{
			[]int{unix.CAP_SYS_ADMIN, unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON},
			missingBPF + ", " + missingNetAdmin + ", " + missingPerfmon,
		},
	} {
		without(t, func() { require.Equal(t, tt.want, missingCapabilities()) }, tt.taken...)
	}
}

// Nobody can tell from the kernel's "operation not permitted" what to do.
func TestLoadWithoutPrivilege(t *testing.T) {
	bpftest.RequireBPF(t)
	without(t, func() {
		_, err := Load(defaults())
		require.ErrorIs(t, err, unix.EPERM)
		require.ErrorContains(t, err, "missing "+missingBPF+", "+missingNetAdmin+", "+missingPerfmon+
			"; run as root, or grant these capabilities (setcap, systemd AmbientCapabilities=, container securityContext)")
	}, unix.CAP_SYS_ADMIN, unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON)
}

func TestExplainLoad(t *testing.T) {
	bpftest.RequireBPF(t)
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Fatalf("the kernel has no type information: %v", err)
	}
	other, memlock := errors.New("something else"), errors.New("the limit stays")
	for _, tt := range []struct {
		name         string
		err, memlock error
		want         string
	}{
		{
			"refused with all capabilities", fmt.Errorf("load: %w", unix.EPERM), nil,
			"load: operation not permitted: all capabilities are there, so a security module or lockdown mode may forbid it; see the kernel log",
		},
		{
			"refused for want of locked memory", fmt.Errorf("load: %w", unix.EPERM), memlock,
			"load: operation not permitted: the limit stays",
		},
		{
			"feature", fmt.Errorf("load: %w", ebpf.ErrNotSupported), memlock,
			"load: not supported: the kernel lacks a feature; NetProbe needs Linux 5.10 or later with CONFIG_BPF_SYSCALL=y",
		},
		{"anything", other, memlock, "something else"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := explainLoad(tt.err, tt.memlock)
			require.ErrorIs(t, err, tt.err)
			require.EqualError(t, err, tt.want)
		})
	}

	err := explainLoad(fmt.Errorf("load: %w", &ebpf.VerifierError{Cause: unix.EINVAL, Log: []string{"R1 invalid mem access"}}), nil)
	require.ErrorContains(t, err, "this kernel's verifier refuses the program, which is a bug in NetProbe")
	require.ErrorContains(t, err, "R1 invalid mem access")
}

func TestNetNS(t *testing.T) {
	inode, err := NetNS()
	require.NoError(t, err)
	target, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	require.Equal(t, target, fmt.Sprintf("net:[%d]", inode))
}

func TestReason(t *testing.T) {
	for want, errs := range map[string][]error{
		"no_ethernet":       {errXDPNeedsEthernet},
		"not_supported":     {ebpf.ErrNotSupported, unix.EOPNOTSUPP},
		"in_use":            {unix.EBUSY, unix.EEXIST},
		"refused_by_driver": {unix.EINVAL, unix.ERANGE},
		"not_permitted":     {unix.EPERM, unix.EACCES},
		"no_memory":         {unix.ENOMEM},
		"interface_gone":    {unix.ENODEV},
		"other":             {unix.EIO, errors.New("anything")},
	} {
		for _, err := range errs {
			require.Equal(t, want, reason(fmt.Errorf("attach: %w", err)), err.Error())
		}
	}
}
