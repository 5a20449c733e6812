// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

// emptyProgram does nothing but let the packet go on: what any program costs,
// and what the kernel itself says of a packet.
func emptyProgram(tb testing.TB, kind ebpf.ProgramType) *ebpf.Program {
	tb.Helper()
	bpftest.RequireBPF(tb)
	answer := map[ebpf.ProgramType]int32{ebpf.SchedCLS: -1, ebpf.XDP: int32(xdpPass)}
	require.Contains(tb, answer, kind)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: kind, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, answer[kind]), asm.Return()},
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, prog.Close()) })
	return prog
}
