// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

// A flow's times are those of its first and last packet by the monotonic clock.
func TestFlowTimes(t *testing.T) {
	forBothMaps(t, bpftest.Options{}, func(t *testing.T, r *bpftest.Runner) {
		frame := conversation{50000}.frame(t, tcpACK, 0)
		before := clock(t, unix.CLOCK_MONOTONIC_COARSE)
		send(t, r.TC.TcIngress, frame)
		first := r.Flows(t)[0].Stats
		require.LessOrEqual(t, before, first.FirstMonoNs)
		require.Equal(t, first.FirstMonoNs, first.LastMonoNs)
		require.LessOrEqual(t, first.FirstMonoNs, clock(t, unix.CLOCK_MONOTONIC))

		// until the coarsest of the clocks has moved on
		for tick := first.FirstMonoNs; tick <= first.FirstMonoNs; {
			tick = clock(t, unix.CLOCK_MONOTONIC_COARSE)
		}
		send(t, r.TC.TcIngress, frame)
		last := r.Flows(t)[0].Stats
		require.Equal(t, first.FirstMonoNs, last.FirstMonoNs)
		require.Less(t, first.LastMonoNs, last.LastMonoNs)
		require.LessOrEqual(t, last.LastMonoNs, clock(t, unix.CLOCK_MONOTONIC))
	})
}

// clock reads one of the kernel's clocks. Programs use the coarse one where the
// kernel lets them, which is up to a timer tick behind the other.
func clock(tb testing.TB, id int32) uint64 {
	tb.Helper()
	var now unix.Timespec
	require.NoError(tb, unix.ClockGettime(id, &now))
	return uint64(now.Nano())
}
