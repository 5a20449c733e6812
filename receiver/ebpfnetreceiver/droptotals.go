// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"cmp"
	"slices"
	"time"

	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
)

// keepDrops is how long the total of a series that nothing adds to any more is
// kept, so that it goes on if an interface comes back under its name. It is well
// over the time after which exporters forget a series.
const keepDrops = 30 * time.Minute

// dropTotals adds up drops by what their series are named by. No total goes back:
// what the kernel's counts have no more of an interface that is gone is kept here.
type dropTotals struct {
	series map[convert.DropKey]*dropSeries
	// max is how many series are kept beside those that the kernel has counts of.
	max int
}

type dropSeries struct {
	kept  uint64 // of interfaces that are gone
	total uint64 // as last told
	start time.Time
	seen  time.Time // in the kernel's counts
}

func newDropTotals(most int) *dropTotals {
	return &dropTotals{series: map[convert.DropKey]*dropSeries{}, max: most}
}

// keep adds what the kernel's counts have no more.
func (t *dropTotals) keep(key convert.DropKey, packets uint64, from, now time.Time) {
	t.at(key, from, now).kept += packets
}

// at gives a series, which begins at from if it is new.
func (t *dropTotals) at(key convert.DropKey, from, now time.Time) *dropSeries {
	s := t.series[key]
	if s == nil {
		s = &dropSeries{start: from}
		t.series[key] = s
	}
	s.seen = now
	return s
}

// collect gives the totals of all series that the kernel has counts of, and once
// more of each that has gained something since it had.
func (t *dropTotals) collect(counts map[convert.DropKey]uint64, from, now time.Time) []convert.DropPoint {
	var points []convert.DropPoint
	for key := range counts {
		t.at(key, from, now)
	}
	for key, s := range t.series {
		packets, live := counts[key]
		total := s.kept + packets
		if live || total > s.total {
			points = append(points, convert.DropPoint{DropKey: key, Packets: total, Start: s.start})
		}
		s.total = total
	}
	t.forget(counts, now)
	return points
}

// forget ends series that have had nothing for long, and the oldest of those that
// are too many.
func (t *dropTotals) forget(counts map[convert.DropKey]uint64, now time.Time) {
	var idle []convert.DropKey
	for key, s := range t.series {
		if _, live := counts[key]; live {
			continue
		}
		if now.Sub(s.seen) > keepDrops {
			delete(t.series, key)
		} else {
			idle = append(idle, key)
		}
	}
	if len(idle) <= t.max {
		return
	}
	slices.SortFunc(idle, func(a, b convert.DropKey) int {
		return cmp.Compare(t.series[a].seen.UnixNano(), t.series[b].seen.UnixNano())
	})
	for _, key := range idle[:len(idle)-t.max] {
		delete(t.series, key)
	}
}
