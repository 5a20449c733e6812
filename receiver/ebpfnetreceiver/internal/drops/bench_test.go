// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// What a drop costs is what the kernel measures of the programs ("ns/drop", the clock's
// own cost included): sending and dropping a frame around it takes far more, and varies.
func BenchmarkDrop(b *testing.B) {
	for _, tt := range []struct {
		name    string
		senders uint16
	}{
		{"1 flow", 1},
		{"1000 flows", 1000},
	} {
		b.Run(tt.name, func(b *testing.B) {
			d := newDropper(b)
			benchmarkSends(b, d, d.probe, tt.senders)
		})
	}
	b.Run("of another namespace", func(b *testing.B) {
		d := newDropper(b)
		require.NoError(b, d.probe.Close())
		var other *Probe
		netnstest.New(b).Do(b, func() { other = load(b, roomy()) })
		benchmarkSends(b, d, other, 1)
	})
}

func benchmarkSends(b *testing.B, d *dropper, p *Probe, senders uint16) {
	measuring, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	require.NoError(b, err)
	defer func() { require.NoError(b, measuring.Close()) }()
	frames := make([][]byte, senders)
	for i := range frames {
		tuple := sent
		tuple.SourcePort = uint16(i)
		frames[i] = d.far.frame(b, tuple, anyone)
	}
	for i := 0; b.Loop(); i++ {
		d.far.send(b, frames[i%len(frames)])
	}
	perDrop := 0.0
	for _, prog := range []*ebpf.Program{p.objs.KfreeSkb, p.objs.KfreeSkbNested} {
		stats, err := prog.Stats()
		require.NoError(b, err)
		perDrop += float64(stats.Runtime.Nanoseconds()) / float64(stats.RunCount)
	}
	b.ReportMetric(perDrop, "ns/drop")
}

// Most of it is to wait for programs that run.
func BenchmarkCollect1000Flows(b *testing.B) {
	d := newDropper(b)
	for b.Loop() {
		b.StopTimer()
		for i := range uint16(1000) {
			tuple := sent
			tuple.SourcePort = i
			d.far.send(b, d.far.frame(b, tuple, anyone))
		}
		b.StartTimer()
		_, _, err := d.probe.Collect()
		require.NoError(b, err)
	}
}

// fillCounts makes a count of each of so many reasons, of as many packets on each CPU.
func fillCounts(tb testing.TB, p *Probe, n int) {
	tb.Helper()
	cpus := kernel.PossibleCPUs()
	keys := make([]bpf.DropsDropKey, n)
	values := make([]bpf.DropsVolume, n*cpus)
	for i := range keys {
		keys[i].Reason, keys[i].Ifindex = uint32(i), 1
		for cpu := range cpus {
			values[i*cpus+cpu].Packets = uint64(i)
		}
	}
	written, err := p.objs.DropCounts.BatchUpdate(keys, values, nil)
	require.NoError(tb, err)
	require.Equal(tb, n, written)
}

func BenchmarkCounts(b *testing.B) {
	netnstest.Enter(b)
	p := load(b, Options{MaxEntries: 4096, MaxFlows: 1})
	fillCounts(b, p, 4000)
	for _, tt := range []struct {
		name string
		read func(func(*bpf.DropsDropKey, []bpf.DropsVolume)) error
	}{{"batch", p.eachCount}, {"one by one", p.eachCountAlone}} {
		b.Run(tt.name, func(b *testing.B) {
			for b.Loop() {
				n := 0
				require.NoError(b, tt.read(func(*bpf.DropsDropKey, []bpf.DropsVolume) { n++ }))
				require.GreaterOrEqual(b, n, 4000)
			}
		})
	}
}
