// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// at is a time so many seconds after the beginning.
func at(seconds int) time.Time {
	return began.Add(time.Duration(seconds) * time.Second)
}

// counters that stand at rx received and tx sent packets, of ten bytes each.
func counters(rx, tx uint64) flow.InterfaceCounters {
	c := flow.InterfaceCounters{Rx: volume(rx), Tx: volume(tx)}
	c.XDP[flow.OutcomeMalformed] = volume(rx)
	return c
}

func volume(packets uint64) flow.Volume {
	return flow.Volume{Packets: packets, Bytes: 10 * packets}
}

func point(name string, total, gained flow.InterfaceCounters, elapsed int) InterfacePoint {
	return InterfacePoint{Name: name, Total: total, Gained: gained, Elapsed: time.Duration(elapsed) * time.Second}
}

func requireCollect(t *testing.T, a *Interfaces, now time.Time, want ...InterfacePoint) {
	t.Helper()
	var got []InterfacePoint
	a.Collect(now, func(p InterfacePoint) { got = append(got, p) })
	byName := func(a, b InterfacePoint) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(got, byName)
	slices.SortFunc(want, byName)
	require.Equal(t, want, got)
}

func TestInterfacesAddUp(t *testing.T) {
	a := NewInterfaces()
	a.Appear(2, "eth0", at(0))
	requireCollect(t, a, at(1), point("eth0", counters(0, 0), counters(0, 0), 1))

	a.Observe(2, counters(10, 1))
	a.Observe(2, counters(30, 4))
	requireCollect(t, a, at(3), point("eth0", counters(30, 4), counters(30, 4), 2))

	a.Observe(2, counters(35, 4))
	requireCollect(t, a, at(8), point("eth0", counters(35, 4), counters(5, 0), 5))
}

func TestInterfacesOfAnInterval(t *testing.T) {
	a := NewInterfaces()
	a.Appear(2, "eth0", at(0))
	requireCollect(t, a, at(10), point("eth0", counters(0, 0), counters(0, 0), 10))

	a.Appear(3, "eth1", at(14))
	a.Observe(2, counters(1, 0))
	a.Observe(3, counters(2, 0))
	requireCollect(t, a, at(15),
		point("eth0", counters(1, 0), counters(1, 0), 5),
		point("eth1", counters(2, 0), counters(2, 0), 1))
}

func TestInterfacesUnknownIndex(t *testing.T) {
	a := NewInterfaces()
	a.Observe(2, counters(1, 1))
	a.Rename(2, "eth0", at(0))
	a.Vanish(2, at(0))
	requireCollect(t, a, at(1))
}

func TestInterfacesRename(t *testing.T) {
	a := NewInterfaces()
	a.Appear(2, "eth0", at(0))
	a.Observe(2, counters(10, 0))
	requireCollect(t, a, at(5), point("eth0", counters(10, 0), counters(10, 0), 5))

	a.Observe(2, counters(12, 0))
	a.Rename(2, "uplink", at(7))
	a.Observe(2, counters(15, 0))
	requireCollect(t, a, at(10),
		point("eth0", counters(12, 0), counters(2, 0), 5), // once more, with what it gained before
		point("uplink", counters(3, 0), counters(3, 0), 3))
	requireCollect(t, a, at(15), point("uplink", counters(3, 0), counters(0, 0), 5))

	a.Observe(2, counters(20, 0))
	a.Rename(2, "uplink", at(16)) // to the name it has
	a.Rename(2, "eth0", at(18))
	a.Observe(2, counters(21, 0))
	requireCollect(t, a, at(20),
		point("uplink", counters(8, 0), counters(5, 0), 5),
		point("eth0", counters(13, 0), counters(1, 0), 2)) // goes on where it was
}

// Two interfaces that swap names, the way a list tells of it: both at once.
func TestInterfacesSwapNames(t *testing.T) {
	a := NewInterfaces()
	a.Appear(2, "a", at(0))
	a.Appear(3, "b", at(0))
	a.Observe(2, counters(100, 0))
	a.Observe(3, counters(7, 0))
	requireCollect(t, a, at(5),
		point("a", counters(100, 0), counters(100, 0), 5),
		point("b", counters(7, 0), counters(7, 0), 5))

	a.Observe(2, counters(110, 0))
	a.Rename(2, "b", at(9))
	a.Observe(3, counters(8, 0))
	a.Rename(3, "a", at(9))
	a.Observe(2, counters(120, 0))
	a.Observe(3, counters(10, 0))
	requireCollect(t, a, at(10),
		point("a", counters(112, 0), counters(12, 0), 5), // 10 of index 2, 2 of index 3
		point("b", counters(18, 0), counters(11, 0), 5))

	a.Vanish(2, at(11))
	requireCollect(t, a, at(15), point("a", counters(112, 0), counters(0, 0), 5))
}

// A rename by way of a third name must not make the rate of the whole interval
// that of its last moment.
func TestInterfacesRateSpansAShortAbsence(t *testing.T) {
	a := NewInterfaces()
	a.Appear(2, "eth0", at(0))
	requireCollect(t, a, at(10), point("eth0", counters(0, 0), counters(0, 0), 10))
	a.Observe(2, counters(1000, 0))
	a.Rename(2, "tmp", at(18))
	a.Rename(2, "eth0", at(19))
	requireCollect(t, a, at(20), point("eth0", counters(1000, 0), counters(1000, 0), 10))
}

func TestInterfacesVanishAndReturn(t *testing.T) {
	a := NewInterfaces()
	a.Appear(2, "veth1", at(0))
	a.Observe(2, counters(10, 10))
	requireCollect(t, a, at(5), point("veth1", counters(10, 10), counters(10, 10), 5))

	a.Observe(2, counters(11, 10))
	a.Vanish(2, at(6))
	requireCollect(t, a, at(10), point("veth1", counters(11, 10), counters(1, 0), 5))
	requireCollect(t, a, at(15))

	// The new one has counters at zero and continues the total.
	a.Appear(9, "veth1", at(17))
	a.Observe(9, counters(4, 0))
	requireCollect(t, a, at(20), point("veth1", counters(15, 10), counters(4, 0), 3))
}

func TestInterfacesNothingGainedBeforeTheEnd(t *testing.T) {
	a := NewInterfaces()
	a.Appear(2, "veth1", at(0))
	a.Observe(2, counters(3, 0))
	requireCollect(t, a, at(5), point("veth1", counters(3, 0), counters(3, 0), 5))
	a.Vanish(2, at(6))
	requireCollect(t, a, at(10))
}

// The successor appears before the end of the one before it is known.
func TestInterfacesVanishAfterTheNamePassedOn(t *testing.T) {
	a := NewInterfaces()
	a.Appear(2, "veth1", at(0))
	a.Observe(2, counters(10, 0))
	a.Appear(3, "veth1", at(1))
	a.Vanish(2, at(2))
	a.Observe(3, counters(5, 0))
	requireCollect(t, a, at(5), point("veth1", counters(15, 0), counters(15, 0), 5))
	requireCollect(t, a, at(6), point("veth1", counters(15, 0), counters(0, 0), 1))
}

// An index that is used again begins at zero under its new name.
func TestInterfacesIndexUsedAgain(t *testing.T) {
	a := NewInterfaces()
	a.Appear(2, "veth1", at(0))
	a.Observe(2, counters(10, 0))
	a.Vanish(2, at(1))
	a.Appear(2, "veth2", at(1))
	a.Observe(2, counters(4, 0))
	requireCollect(t, a, at(5),
		point("veth1", counters(10, 0), counters(10, 0), 5),
		point("veth2", counters(4, 0), counters(4, 0), 4))
}

func TestInterfacesExpire(t *testing.T) {
	a := NewInterfaces()
	a.Appear(2, "old", at(0))
	a.Appear(3, "older", at(0))
	a.Observe(2, counters(10, 0))
	a.Observe(3, counters(10, 0))
	requireCollect(t, a, at(1),
		point("old", counters(10, 0), counters(10, 0), 1),
		point("older", counters(10, 0), counters(10, 0), 1))
	a.Vanish(3, at(1))
	a.Vanish(2, at(2))
	requireCollect(t, a, at(1).Add(keepGone+time.Nanosecond))
	require.NotContains(t, a.names, "older")

	a.Appear(4, "old", at(1).Add(keepGone+time.Second))
	a.Appear(5, "older", at(1).Add(keepGone+time.Second))
	requireCollect(t, a, at(2).Add(keepGone+time.Second),
		point("old", counters(10, 0), counters(0, 0), 1), // kept
		point("older", counters(0, 0), counters(0, 0), 1))
	require.Len(t, a.names, 2)
}
