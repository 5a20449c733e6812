// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

// What a program has put in before a Flush is handled when that returns, each once
// and in its order.
func TestRing(t *testing.T) {
	bpftest.RequireBPF(t)
	buffer, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 4096})
	require.NoError(t, err)
	defer buffer.Close()
	var got []byte
	ring, err := ReadRing(buffer, func(sample []byte) { got = append(got, sample[0]) })
	require.NoError(t, err)

	ring.Flush()
	require.Empty(t, got)
	for n := range byte(3) {
		output(t, buffer, 2*n)
		output(t, buffer, 2*n+1)
		ring.Flush()
		require.Len(t, got, int(2*n)+2)
	}
	require.Equal(t, []byte{0, 1, 2, 3, 4, 5}, got)

	require.NoError(t, ring.Close())
	ring.Flush() // does not wait for what is closed
	output(t, buffer, 9)
	require.Len(t, got, 6)
}

// output runs a program that puts a byte into the buffer.
func output(t *testing.T, buffer *ebpf.Map, value byte) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, int32(value)),
			asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
			asm.LoadMapPtr(asm.R1, buffer.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -8),
			asm.Mov.Imm(asm.R3, 8),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnRingbufOutput.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	require.NoError(t, err)
	defer prog.Close()
	_, err = prog.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
	require.NoError(t, err)
}
