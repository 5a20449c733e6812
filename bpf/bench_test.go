// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

// What a packet of one flow costs at TC. The empty program is what the kernel's
// test run costs by itself: subtract it before comparing the others.
func BenchmarkTC(b *testing.B) {
	tcp, tcpV6 := eth4(b, tcp4(64)...), eth6(b, tcp6(64)...)
	b.Run("empty", func(b *testing.B) {
		repeat(b, emptyProgram(b, ebpf.SchedCLS), tcp, tcUnspec)
	})
	b.Run("interfaces", func(b *testing.B) {
		r := bpftest.New(b, bpftest.Options{NoFlows: true})
		repeat(b, r.TC.TcIngress, tcp, tcUnspec)
		require.Empty(b, r.Flows(b))
	})
	for _, maps := range flowMaps {
		for _, packet := range []struct {
			name  string
			frame []byte
		}{{"ipv4", tcp}, {"ipv6", tcpV6}} {
			b.Run("flow/"+maps.name+"/"+packet.name, func(b *testing.B) {
				r := bpftest.New(b, bpftest.Options{PerCPU: maps.perCPU})
				repeat(b, r.TC.TcIngress, packet.frame, tcUnspec)
				require.Len(b, r.Flows(b), 1)
				require.GreaterOrEqual(b, r.Flows(b)[0].Stats.Packets, uint64(b.N))
			})
		}
	}
	b.Run("flow/shared/without link header", func(b *testing.B) {
		r := bpftest.New(b, bpftest.Options{})
		repeat(b, r.TC.TcIngressL3, tcp, tcUnspec)
		require.Len(b, r.Flows(b), 1)
	})
}

func BenchmarkXDP(b *testing.B) {
	tcp := eth4(b, tcp4(64)...)
	b.Run("empty", func(b *testing.B) {
		repeat(b, emptyProgram(b, ebpf.XDP), tcp, xdpPass)
	})
	b.Run("count", func(b *testing.B) {
		r := bpftest.New(b, bpftest.Options{})
		repeat(b, r.XDP.XdpCount, tcp, xdpPass)
		require.GreaterOrEqual(b, xdpInterface(b, r)[bpf.TCParseOutcomePARSE_OK].Packets, uint64(b.N))
	})
}

// repeat runs a program b.N times, in system calls of some milliseconds: the
// kernel begins one anew that a signal interrupts.
func repeat(b *testing.B, prog *ebpf.Program, frame []byte, want uint32) {
	b.Helper()
	const most = 1 << 16
	b.ResetTimer()
	for left := b.N; left > 0; left -= most {
		ret, err := prog.Run(&ebpf.RunOptions{Data: frame, Repeat: uint32(min(left, most))})
		require.NoError(b, err)
		require.Equal(b, want, ret)
	}
	b.StopTimer()
}
