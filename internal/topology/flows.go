// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"sync"
)

// ring has the newest flow records. It is made of chunks that are only added to, so that
// who reads takes a list of them and holds nothing up.
type ring struct {
	max int

	mu     sync.Mutex // guards what follows
	chunks [][]Record // oldest first
	next   uint64     // number of the record that comes next
	count  int
}

const chunkSize = 1024

func (r *ring) add(records []Record) (pushedOut int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range records {
		last := len(r.chunks) - 1
		if last < 0 || len(r.chunks[last]) == cap(r.chunks[last]) {
			r.chunks = append(r.chunks, make([]Record, 0, min(chunkSize, max(r.max, 1))))
			last++
		}
		r.next++
		records[i].seq = r.next
		r.chunks[last] = append(r.chunks[last], records[i])
		r.count++
	}
	for len(r.chunks) > 1 && r.count-len(r.chunks[0]) >= r.max {
		r.count -= len(r.chunks[0])
		pushedOut += int64(len(r.chunks[0]))
		// readers have the list that was
		r.chunks = append([][]Record(nil), r.chunks[1:]...)
	}
	return pushedOut
}

// view gives the chunks as they are.
func (r *ring) view() [][]Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([][]Record(nil), r.chunks...)
}

func (r *ring) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return min(r.count, r.max)
}

// Flows gives records that match, newest first: up to limit of those before a cursor, the
// cursor that goes on from there, 0 at the end, and how many match in all.
func (g *Graph) Flows(match func(*Record) bool, cursor uint64, limit int) (found []*Record, next uint64, total int) {
	chunks := g.flows.view()
	seen := 0
	for c := len(chunks) - 1; c >= 0 && seen < g.flows.max; c-- {
		for i := len(chunks[c]) - 1; i >= 0 && seen < g.flows.max; i-- {
			seen++
			r := &chunks[c][i]
			if !match(r) {
				continue
			}
			total++
			if cursor != 0 && r.seq >= cursor {
				continue
			}
			switch {
			case len(found) < limit:
				found = append(found, r)
			case next == 0:
				next = found[len(found)-1].seq
			}
		}
	}
	return found, next, total
}

// Of gives the IDs of the vertices at a record's ends.
func (r *Record) Of() (source, destination string) { return r.sourceID, r.destinedID }
