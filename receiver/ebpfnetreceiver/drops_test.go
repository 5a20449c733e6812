// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/drops"
)

func udpDrop(index uint32) drops.Key {
	return drops.Key{Reason: "NO_SOCKET", InterfaceIndex: index, IPVersion: 4, Protocol: flow.UDP, Direction: drops.Ingress}
}

func udpSeries(name string) convert.DropKey {
	return convert.DropKey{Reason: "NO_SOCKET", Interface: name, Transport: "udp", Direction: "ingress"}
}

// readDropPoints ticks once, and gives the totals of series by their interface.
func readDropPoints(t *testing.T, s *session, sk *fakeSink) map[string]uint64 {
	t.Helper()
	s.tick(context.Background())
	points := map[string]uint64{}
	for _, p := range sk.last(t).drops {
		require.Equal(t, udpSeries(p.Interface), p.DropKey)
		points[p.Interface] = p.Packets
	}
	return points
}

func openTestDrops(t *testing.T) (*session, *fakeSink, *fakeDrops) {
	t.Helper()
	s, _, sk := openTestSession(t)
	f := &fakeDrops{counts: map[drops.Key]uint64{}}
	s.useDrops(f)
	return s, sk, f
}

// The kernel's counts of interfaces that are gone make room. The series of a name
// that comes back goes on where it was.
func TestDropsOfInterfacesThatAreGone(t *testing.T) {
	s, sk, f := openTestDrops(t)
	s.handle(appeared(2, "fake0"))
	s.handle(appeared(3, "fake1"))
	f.counts[udpDrop(2)], f.counts[udpDrop(3)], f.counts[udpDrop(0)] = 5, 1, 9
	require.Equal(t, map[string]uint64{"fake0": 5, "fake1": 1, "": 9}, readDropPoints(t, s, sk))
	require.Zero(t, f.forgets, "nothing is gone")

	s.handle(gone(2, "fake0"))
	f.counts[udpDrop(2)] = 6
	f.onForget = func() { f.counts[udpDrop(2)] = 7 } // after the reading
	require.Equal(t, map[string]uint64{"fake0": 6, "fake1": 1, "": 9}, readDropPoints(t, s, sk))
	require.Equal(t, map[drops.Key]uint64{udpDrop(3): 1, udpDrop(0): 9}, f.counts)

	f.onForget = nil
	require.Equal(t, map[string]uint64{"fake0": 7, "fake1": 1, "": 9}, readDropPoints(t, s, sk), "what came after the reading")
	require.Equal(t, map[string]uint64{"fake1": 1, "": 9}, readDropPoints(t, s, sk), "it has ended")
	require.Equal(t, 1, f.forgets)
	require.NotContains(t, s.dropNames, uint32(2))

	s.handle(appeared(9, "fake0"))
	f.counts[udpDrop(9)] = 1
	require.Equal(t, map[string]uint64{"fake0": 8, "fake1": 1, "": 9}, readDropPoints(t, s, sk))
}

// A name that passes on while the interface that had it is still there is one
// series, of which no total goes back as the first one goes.
func TestDropsOfANameThatPassesOn(t *testing.T) {
	s, sk, f := openTestDrops(t)
	s.handle(appeared(2, "fake0"))
	f.counts[udpDrop(2)] = 5
	require.Equal(t, map[string]uint64{"fake0": 5}, readDropPoints(t, s, sk))
	s.handle(appeared(2, "fake1"))
	s.handle(appeared(3, "fake0"))
	f.counts[udpDrop(3)] = 1
	require.Equal(t, map[string]uint64{"fake0": 6}, readDropPoints(t, s, sk))
	s.handle(gone(2, "fake1"))
	for range 3 {
		require.Equal(t, map[string]uint64{"fake0": 6}, readDropPoints(t, s, sk))
	}
	require.Len(t, f.counts, 1)
}

// What cannot be read or forgotten is there the next time.
func TestDropsThatCannotBeReadOrForgotten(t *testing.T) {
	s, sk, f := openTestDrops(t)
	s.handle(appeared(2, "fake0"))
	f.counts[udpDrop(2)] = 5
	require.Equal(t, map[string]uint64{"fake0": 5}, readDropPoints(t, s, sk))
	f.collectErr = errTest
	require.Empty(t, readDropPoints(t, s, sk))
	f.collectErr = nil
	require.Equal(t, map[string]uint64{"fake0": 5}, readDropPoints(t, s, sk))

	s.handle(gone(2, "fake0"))
	f.forgetErr = errTest
	for range 2 {
		require.Equal(t, map[string]uint64{"fake0": 5}, readDropPoints(t, s, sk), "still under its name")
	}
	f.forgetErr = nil
	require.Equal(t, map[string]uint64{"fake0": 5}, readDropPoints(t, s, sk))
	require.Empty(t, f.counts)
	require.Equal(t, 3, f.forgets)
}

// However many interfaces come and go, only so many series are kept, the newest,
// for some time. One that has ended begins anew, and says so by its start.
func TestDropTotalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 3
		totals := newDropTotals(most)
		began := time.Now()
		stay := udpSeries("stays")
		read := func(counts map[convert.DropKey]uint64) map[convert.DropKey]convert.DropPoint {
			from := time.Now()
			time.Sleep(time.Second)
			points := map[convert.DropKey]convert.DropPoint{}
			for _, p := range totals.collect(counts, from, time.Now()) {
				points[p.DropKey] = p
			}
			return points
		}
		for i := range 10 {
			key := udpSeries(fmt.Sprintf("veth%d", i))
			read(map[convert.DropKey]uint64{stay: 1, key: 2})
			totals.keep(key, 2, time.Now(), time.Now())
		}
		points := read(map[convert.DropKey]uint64{stay: 1, udpSeries("veth0"): 1, udpSeries("veth9"): 1})
		require.Equal(t, convert.DropPoint{DropKey: stay, Packets: 1, Start: began}, points[stay])
		require.Equal(t, uint64(3), points[udpSeries("veth9")].Packets, "was kept")
		require.Equal(t, began.Add(9*time.Second), points[udpSeries("veth9")].Start)
		require.Equal(t, uint64(1), points[udpSeries("veth0")].Packets, "was not")
		require.Equal(t, began.Add(10*time.Second), points[udpSeries("veth0")].Start)
		require.Len(t, totals.series, 3+most, "those that are there, and veth6 to veth8")

		time.Sleep(keepDrops)
		read(map[convert.DropKey]uint64{stay: 1})
		require.Len(t, totals.series, 1)
	})
}

// The estimate of kernel memory has what is loaded, and only that.
func TestMemoryEstimate(t *testing.T) {
	s, _, _ := openTestSession(t)
	opts := s.options()
	require.Equal(t, opts.MapBytes(), s.mapBytes(&opts))
	s.netfilter = &fakeNetfilter{}
	require.Equal(t, opts.MapBytes()+1000, s.mapBytes(&opts))
	s.useDrops(&fakeDrops{})
	dropped := drops.Options{MaxEntries: 4096, MaxFlows: 8192} // the defaults
	require.Equal(t, opts.MapBytes()+1000+dropped.MapBytes(), s.mapBytes(&opts))
}
