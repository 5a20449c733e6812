// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package aggregate keeps what must outlive one reading of the kernel's
// counters: totals that never go back, and series that are contiguous. It
// knows nothing of eBPF or pdata.
package aggregate // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"

import (
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// keepGone is how long the totals of a name without interface are kept, so
// that an interface that comes back under its name continues them. It is well
// over the time after which exporters forget a series.
const keepGone = 30 * time.Minute

// Interfaces adds up counters by interface name.
//
// The kernel's counters belong to an index and start at zero when programs are
// attached; a name can pass from one index to another, and an index can be
// renamed. What an index gains goes to the name it has at that time, so no
// total ever goes back and no packet counts under two names.
type Interfaces struct {
	indexes map[int]*indexState
	names   map[string]*nameState
}

type indexState struct {
	name string
	last flow.InterfaceCounters
}

type nameState struct {
	total   flow.InterfaceCounters
	rated   flow.InterfaceCounters // total at the last Collect
	present bool
	since   time.Time // of the last Collect, or when it appeared
	gone    time.Time
}

// InterfacePoint is the state of one interface at a Collect.
type InterfacePoint struct {
	Name  string
	Total flow.InterfaceCounters
	// Gained since the last Collect, or since the interface appeared, in Elapsed.
	Gained  flow.InterfaceCounters
	Elapsed time.Duration
}

// NewInterfaces returns an empty set.
func NewInterfaces() *Interfaces {
	return &Interfaces{indexes: map[int]*indexState{}, names: map[string]*nameState{}}
}

// Appear notes that counters at zero belong to an interface from now on.
func (a *Interfaces) Appear(index int, name string, now time.Time) {
	a.indexes[index] = &indexState{name: name}
	n := a.names[name]
	if n == nil {
		n = &nameState{}
		a.names[name] = n
	}
	if !n.present {
		n.present = true
		// What it gained before a short absence is still to be reported, over
		// the whole time since the last Collect.
		if n.total == n.rated {
			n.since = now
		}
	}
}

// Rename moves an index to another name. Observe it before, for the old name.
func (a *Interfaces) Rename(index int, name string, now time.Time) {
	state := a.indexes[index]
	if state == nil || state.name == name {
		return
	}
	last := state.last
	a.Vanish(index, now)
	a.Appear(index, name, now)
	a.indexes[index].last = last
}

// Observe adds what an index gained since it was last observed.
func (a *Interfaces) Observe(index int, counters flow.InterfaceCounters) {
	state := a.indexes[index]
	if state == nil {
		return
	}
	a.names[state.name].total.Add(counters.Sub(state.last))
	state.last = counters
}

// Vanish notes that an interface is no more. Observe it before.
func (a *Interfaces) Vanish(index int, now time.Time) {
	state := a.indexes[index]
	if state == nil {
		return
	}
	delete(a.indexes, index)
	for _, other := range a.indexes {
		if other.name == state.name {
			return // the name has already passed on
		}
	}
	n := a.names[state.name]
	n.present, n.gone = false, now
}

// Collect hands out every interface that is there, and once more each that
// has vanished since the last Collect.
func (a *Interfaces) Collect(now time.Time, yield func(InterfacePoint)) {
	for name, n := range a.names {
		gained := n.total.Sub(n.rated)
		if n.present || gained != (flow.InterfaceCounters{}) {
			yield(InterfacePoint{Name: name, Total: n.total, Gained: gained, Elapsed: now.Sub(n.since)})
		}
		n.rated, n.since = n.total, now
		if !n.present && now.Sub(n.gone) > keepGone {
			delete(a.names, name)
		}
	}
}
