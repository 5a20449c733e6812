// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

const (
	maxInterfaces  = 4096
	interfaceStep  = 10 * time.Second
	interfaceSteps = 360 // an hour
	maxLedger      = 4096
)

type interfaceKey struct{ node, name string }

// series is what an interface carried, in steps.
type series struct {
	last   [interfaceCounters]int64 // as read last
	known  [interfaceCounters]bool
	steps  []InterfaceStep // oldest first
	use    float64
	hasUse bool
	at     time.Time
}

// InterfaceStep is what an interface carried in ten seconds.
type InterfaceStep struct {
	At     time.Time
	Values [interfaceCounters]int64
}

// Interface is what an interface carried in a span.
type Interface struct {
	Node, Name string
	Total      [interfaceCounters]int64
	// Utilization is of the last reading, the larger of both directions, of a link whose
	// speed is known.
	Utilization    float64
	HasUtilization bool
	Steps          []InterfaceStep
}

// interfaces is what all carried.
type interfaces struct {
	since time.Time

	mu   sync.Mutex // guards what follows
	all  map[interfaceKey]*series
	uses map[interfaceKey][2]float64
}

func newInterfaces(since time.Time) *interfaces {
	return &interfaces{since: since, all: map[interfaceKey]*series{}, uses: map[interfaceKey][2]float64{}}
}

func (i *interfaces) add(readings []InterfaceReading) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for k := range readings {
		r := &readings[k]
		key := interfaceKey{r.Node, r.Name}
		s, ok := i.all[key]
		if !ok {
			if len(i.all) >= maxInterfaces {
				i.forgetOldest()
			}
			s = &series{}
			i.all[key] = s
		}
		s.add(r, i, key)
	}
}

func (i *interfaces) forgetOldest() {
	var oldest interfaceKey
	var at time.Time
	for key, s := range i.all {
		if at.IsZero() || s.at.Before(at) {
			oldest, at = key, s.at
		}
	}
	delete(i.all, oldest)
	delete(i.uses, oldest)
}

// add adds what was gained. mu is held.
func (s *series) add(r *InterfaceReading, i *interfaces, key interfaceKey) {
	s.at = r.At
	if r.Counter > interfaceCounters {
		use := i.uses[key]
		use[r.Counter-RxUtilization] = r.Ratio
		i.uses[key] = use
		s.use, s.hasUse = max(use[0], use[1]), true
		return
	}
	if r.Counter >= interfaceCounters {
		return
	}
	gained := r.Value - s.last[r.Counter]
	switch {
	case !s.known[r.Counter] && !r.Start.Before(i.since):
		// it began when we were there
	case !s.known[r.Counter]:
		gained = 0 // it is of before
	case gained < 0:
		gained = r.Value // it began anew
	}
	s.last[r.Counter], s.known[r.Counter] = r.Value, true
	at := r.At.Truncate(interfaceStep)
	n := len(s.steps)
	if n == 0 || at.After(s.steps[n-1].At) {
		s.steps = append(s.steps, InterfaceStep{At: at})
		if len(s.steps) > 2*interfaceSteps {
			s.steps = append([]InterfaceStep(nil), s.steps[len(s.steps)-interfaceSteps:]...)
		}
	}
	s.steps[len(s.steps)-1].Values[r.Counter] += gained
}

// between gives what was carried in a span.
func (i *interfaces) between(from, to time.Time) []Interface {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []Interface
	for key, s := range i.all {
		o := Interface{Node: key.node, Name: key.name, Utilization: s.use, HasUtilization: s.hasUse}
		for _, step := range s.steps {
			if !step.At.Add(interfaceStep).After(from) || step.At.After(to) {
				continue
			}
			o.Steps = append(o.Steps, step)
			for c, v := range step.Values {
				o.Total[c] += v
			}
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Interface) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name)) })
	return out
}

// LedgerEntry is what became of packets.
type LedgerEntry struct {
	Node, Hook, Outcome, Cause string
	Packets, Bytes             int64
}

type ledger struct {
	mu  sync.Mutex // guards all
	all map[LedgerEntry]*LedgerEntry
}

func (l *ledger) add(readings []LedgerReading) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range readings {
		key := LedgerEntry{Node: r.Node, Hook: r.Hook, Outcome: r.Outcome, Cause: r.Cause}
		e, ok := l.all[key]
		if !ok {
			if len(l.all) >= maxLedger {
				continue
			}
			e = &LedgerEntry{Node: r.Node, Hook: r.Hook, Outcome: r.Outcome, Cause: r.Cause}
			l.all[key] = e
		}
		if r.Bytes {
			e.Bytes = r.Value
		} else {
			e.Packets = r.Value
		}
	}
}

func (l *ledger) list() []LedgerEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]LedgerEntry, 0, len(l.all))
	for _, e := range l.all {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b LedgerEntry) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Outcome, b.Outcome), cmp.Compare(a.Cause, b.Cause))
	})
	return out
}
