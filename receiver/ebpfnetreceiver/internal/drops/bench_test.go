// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netnstest"
)

// What a drop costs: a datagram sent by a pair of devices, dropped on its arrival,
// with and without the program. The difference is the program's.
func BenchmarkDrop(b *testing.B) {
	for _, tt := range []struct {
		name    string
		counted bool
		senders uint16
	}{
		{"not counted", false, 1},
		{"counted, 1 flow", true, 1},
		{"counted, 1000 flows", true, 1000},
	} {
		b.Run(tt.name, func(b *testing.B) {
			d := newDropper(b)
			if !tt.counted {
				require.NoError(b, d.probe.Close())
			}
			benchmarkSends(b, d, tt.senders)
		})
	}
	b.Run("of another namespace", func(b *testing.B) {
		d := newDropper(b)
		require.NoError(b, d.probe.Close())
		netnstest.New(b).Do(b, func() { load(b, roomy()) })
		benchmarkSends(b, d, 1)
	})
}

func benchmarkSends(b *testing.B, d *dropper, senders uint16) {
	frames := make([][]byte, senders)
	for i := range frames {
		tuple := sent
		tuple.SourcePort = uint16(i)
		frames[i] = d.far.frame(b, tuple, anyone)
	}
	for i := 0; b.Loop(); i++ {
		d.far.send(b, frames[i%len(frames)])
	}
}

func BenchmarkCollect(b *testing.B) {
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
