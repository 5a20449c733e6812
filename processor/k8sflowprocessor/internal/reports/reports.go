// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package reports remembers which nodes reported the same packets. It knows nothing
// of pdata.
package reports // import "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/reports"

import (
	"slices"
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// Rank is whose report of the same packets stands: the lowest one's.
type Rank uint8

// Ranks.
const (
	Preferred Rank = iota // the source's node, or what stands for it
	Destination
	Transit
)

// Report is one record of a flow.
type Report struct {
	// Tuples are the packets' on both sides of a translation, or the same one twice.
	Tuples      [2]flow.Tuple
	First, Last time.Time
	Node        string
	Rank        Rank
	// Known is what this report knows of the conversation beyond its packets.
	Known Known
}

// Known is what the node knows that translated a flow, and no other one does: which service
// was called, and by what identifier the conversation goes, as it was opened.
type Known struct {
	// Translated: the node saw both sides of a translation.
	Translated                        bool
	SourceService, DestinationService string
	CommunityID                       string
}

// clockSlack is how far apart clocks of nodes may be, and packets on their way.
const clockSlack = 2 * time.Second

// same says whether another node reported some of the same packets.
func (r *Report) same(other *Report) bool {
	return r.Node != other.Node && !r.First.After(other.Last.Add(clockSlack)) && !other.First.After(r.Last.Add(clockSlack))
}

// before says whose report stands; of equal ones that of the first node by name.
func (r *Report) before(other *Report) bool {
	if r.Rank != other.Rank {
		return r.Rank < other.Rank
	}
	return r.Node < other.Node
}

// Memory has the reports of the last while. It is for one goroutine at a time.
type Memory struct {
	keep    time.Duration
	byTuple map[flow.Tuple][]*Report
	queue   []noted // in the order of time
}

type noted struct {
	report *Report
	until  time.Time
}

// New gives a memory that keeps reports for so long.
func New(keep time.Duration) *Memory {
	return &Memory{keep: keep, byTuple: map[flow.Tuple][]*Report{}}
}

// Len is how many reports are kept.
func (m *Memory) Len() int { return len(m.queue) }

// Add takes a report.
func (m *Memory) Add(r *Report, now time.Time) {
	m.queue = append(m.queue, noted{r, now.Add(m.keep)})
	m.byTuple[r.Tuples[0]] = append(m.byTuple[r.Tuples[0]], r)
	if r.Tuples[1] != r.Tuples[0] {
		m.byTuple[r.Tuples[1]] = append(m.byTuple[r.Tuples[1]], r)
	}
}

// Judge says whether a report stands, names the other nodes which reported the same
// packets, in order, and gives what is known of the conversation.
func (m *Memory) Judge(r *Report) (stands bool, others []string, known Known) {
	stands, known = true, r.Known
	for i, tuple := range r.Tuples {
		if i == 1 && tuple == r.Tuples[0] {
			break
		}
		for _, other := range m.byTuple[tuple] {
			if !r.same(other) {
				continue
			}
			if other.before(r) {
				stands = false
			}
			if other.Known.Translated && !known.Translated {
				known = other.Known
			}
			if !slices.Contains(others, other.Node) {
				others = append(others, other.Node)
			}
		}
	}
	slices.Sort(others)
	return stands, others, known
}

// Forget forgets what has been kept for long enough.
func (m *Memory) Forget(now time.Time) {
	over := 0
	for ; over < len(m.queue) && !m.queue[over].until.After(now); over++ {
		r := m.queue[over].report
		for _, tuple := range r.Tuples {
			m.remove(tuple, r)
		}
		m.queue[over] = noted{}
	}
	m.queue = m.queue[over:]
}

func (m *Memory) remove(tuple flow.Tuple, r *Report) {
	left := slices.DeleteFunc(m.byTuple[tuple], func(have *Report) bool { return have == r })
	if len(left) == 0 {
		delete(m.byTuple, tuple)
		return
	}
	m.byTuple[tuple] = left
}
