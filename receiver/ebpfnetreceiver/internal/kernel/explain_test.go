// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

var capabilities = []Capability{
	{Bit: unix.CAP_BPF, Name: "CAP_BPF", Why: "loads programs and maps"},
	{Bit: unix.CAP_NET_ADMIN, Name: "CAP_NET_ADMIN", Why: "attaches programs"},
	{Bit: unix.CAP_PERFMON, Name: "CAP_PERFMON", Why: "reads memory"},
}

const (
	missingBPF      = "CAP_BPF (loads programs and maps)"
	missingNetAdmin = "CAP_NET_ADMIN (attaches programs)"
	missingPerfmon  = "CAP_PERFMON (reads memory)"
)

func TestMissingCapabilities(t *testing.T) {
	bpftest.RequireBPF(t)
	require.Empty(t, missingOf(capabilities))
	for _, tt := range []struct {
		taken []int
		want  string
	}{
		{[]int{unix.CAP_BPF}, ""}, // CAP_SYS_ADMIN holds it
		{[]int{unix.CAP_SYS_ADMIN}, ""},
		{[]int{unix.CAP_NET_ADMIN}, missingNetAdmin},
		{[]int{unix.CAP_NET_ADMIN, unix.CAP_BPF, unix.CAP_PERFMON}, missingNetAdmin},
		{[]int{unix.CAP_SYS_ADMIN, unix.CAP_BPF}, missingBPF},
		{[]int{unix.CAP_SYS_ADMIN, unix.CAP_PERFMON}, missingPerfmon},
		{
			[]int{unix.CAP_SYS_ADMIN, unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON},
			missingBPF + ", " + missingNetAdmin + ", " + missingPerfmon,
		},
	} {
		bpftest.Without(t, func() { require.Equal(t, tt.want, missingOf(capabilities)) }, tt.taken...)
	}
}

func TestExplain(t *testing.T) {
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
			err := Explain(tt.err, tt.memlock, capabilities...)
			require.ErrorIs(t, err, tt.err)
			require.EqualError(t, err, tt.want)
		})
	}
}

// The verifier's refusals are "permission denied" more often than not.
func TestExplainRefusal(t *testing.T) {
	bpftest.RequireBPF(t)
	for _, cause := range []error{unix.EINVAL, unix.EACCES} {
		err := Explain(fmt.Errorf("load: %w", &ebpf.VerifierError{Cause: cause, Log: []string{"R1 invalid mem access"}}), nil, capabilities...)
		require.ErrorIs(t, err, cause)
		require.ErrorContains(t, err, "this kernel's verifier refuses the program, which is a bug in NetProbe")
		require.ErrorContains(t, err, "R1 invalid mem access")
		require.NotContains(t, err.Error(), "security module")
	}
	// what is refused before the verifier looks comes as its error, with no log
	err := Explain(fmt.Errorf("load: %w", &ebpf.VerifierError{Cause: unix.EPERM}), nil, capabilities...)
	require.ErrorContains(t, err, "security module")
}

// Nobody can tell from the kernel's "operation not permitted" what to do.
func TestExplainWithoutPrivilege(t *testing.T) {
	bpftest.RequireBPF(t)
	bpftest.Without(t, func() {
		_, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		require.ErrorIs(t, err, unix.EPERM)
		require.ErrorContains(t, Explain(err, errors.New("the limit stays"), capabilities...), ": missing "+missingBPF+", "+missingPerfmon+
			"; run as root, or grant these capabilities (setcap, systemd AmbientCapabilities=, container securityContext)")
	}, unix.CAP_SYS_ADMIN, unix.CAP_BPF, unix.CAP_PERFMON)
}
