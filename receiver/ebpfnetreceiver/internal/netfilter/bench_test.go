// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netfilter

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// What a packet costs at each end of a hook. The empty program is what the
// kernel's test run costs by itself: subtract it before comparing the others. In
// a test run no hook comes after the first: the last one finds a note only once.
func BenchmarkProgram(b *testing.B) {
	netnstest.Enter(b)
	p := load(b)
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Netfilter, AttachType: ebpf.AttachNetfilter, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	require.NoError(b, err)
	defer empty.Close()

	packet := make([]byte, 20+8)
	packet[0] = 0x45 // IPv4; the test run takes it for one that is sent from here
	for _, prog := range []struct {
		name string
		*ebpf.Program
	}{{"empty", empty}, {"first", p.programs.First}, {"last", p.programs.Last}} {
		b.Run(prog.name, func(b *testing.B) {
			before := count(b, p, Place{LocalOut, false}).Seen.Packets
			const most = 1 << 16 // a signal makes the kernel begin a test run anew
			b.ResetTimer()
			for left := b.N; left > 0; left -= most {
				ret, err := prog.Run(&ebpf.RunOptions{Data: packet, Repeat: uint32(min(left, most))})
				require.NoError(b, err)
				require.Equal(b, uint32(1), ret)
			}
			b.StopTimer()
			if prog.Program == p.programs.First {
				require.GreaterOrEqual(b, count(b, p, Place{LocalOut, false}).Seen.Packets-before, uint64(b.N))
			}
		})
	}
}

// What a datagram costs that a router passes on, through three hooks, without and
// with the probe: the difference is that of six programs.
func BenchmarkForward(b *testing.B) {
	for _, with := range []bool{false, true} {
		name := map[bool]string{false: "without", true: "with"}[with]
		b.Run(name, func(b *testing.B) {
			l := newLab(b)
			if with {
				load(b)
			}
			run(b, "table inet t { chain c { type filter hook postrouting priority 0; udp dport 9 drop; }; }", "nft", "-f", "-")
			var fd int
			l.client.Do(b, func() { fd = udp(b, false) })
			send(b, fd, server.v4, 1)
			b.ResetTimer()
			for range b.N {
				send(b, fd, server.v4, 1)
			}
		})
	}
}

// What it costs to read all counters.
func BenchmarkCounters(b *testing.B) {
	netnstest.Enter(b)
	p := load(b)
	for b.Loop() {
		_, err := p.Counters()
		require.NoError(b, err)
	}
}
