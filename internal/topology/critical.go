// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import "time"

// Path is a way through the graph.
type Path struct {
	Edges   []int32 // indices, in their order
	Latency time.Duration
	// Cycles are edges that were left out because they lead back.
	Cycles []int32
}

// CriticalPath finds the way, from a vertex or from any, along which round trip times add
// up to most. Edges whose time was not measured do not lengthen it. False if the vertex is
// not there.
func (s *Snapshot) CriticalPath(from string) (*Path, bool) {
	out := make([][]int32, len(s.Vertices))
	for i := range s.Edges {
		if e := &s.Edges[i]; s.Vertices[e.From].Kind != KindOther && s.Vertices[e.To].Kind != KindOther {
			out[e.From] = append(out[e.From], int32(i))
		}
	}
	w := &walker{s: s, out: out, state: make([]uint8, len(s.Vertices)), best: make([]time.Duration, len(s.Vertices)), next: make([]int32, len(s.Vertices)), cyclic: make([]bool, len(s.Edges))}
	start, found := int32(-1), false
	for i := range s.Vertices {
		if from != "" && s.Vertices[i].ID() != from {
			continue
		}
		found = true
		w.walk(int32(i))
		if start < 0 || w.best[i] > w.best[start] {
			start = int32(i)
		}
	}
	if from != "" && !found {
		return nil, false
	}
	p := &Path{Cycles: w.cycles}
	if start < 0 {
		return p, true
	}
	p.Latency = w.best[start]
	for at := start; w.next[at] >= 0; at = s.Edges[w.next[at]].To {
		p.Edges = append(p.Edges, w.next[at])
	}
	return p, true
}

// walker walks depth first, with a stack of its own: a graph may be deep.
type walker struct {
	s      *Snapshot
	out    [][]int32
	state  []uint8 // 0 not met, 1 on the way, 2 done
	best   []time.Duration
	next   []int32
	cyclic []bool
	cycles []int32
}

func (w *walker) walk(root int32) {
	if w.state[root] != 0 {
		return
	}
	type frame struct {
		at   int32
		edge int
	}
	stack := []frame{{root, 0}}
	w.state[root] = 1
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.edge < len(w.out[top.at]) {
			i := w.out[top.at][top.edge]
			top.edge++
			switch to := w.s.Edges[i].To; w.state[to] {
			case 0:
				w.state[to] = 1
				stack = append(stack, frame{to, 0})
			case 1:
				w.cyclic[i] = true
				w.cycles = append(w.cycles, i)
			}
			continue
		}
		w.finish(top.at)
		stack = stack[:len(stack)-1]
	}
}

// finish finds the longest way on from a vertex, of those that it leads to all is known.
func (w *walker) finish(at int32) {
	w.state[at], w.next[at] = 2, -1
	for _, i := range w.out[at] {
		if w.cyclic[i] {
			continue
		}
		e := &w.s.Edges[i]
		total := e.Total()
		if length := total.MeanRTT() + w.best[e.To]; length > w.best[at] {
			w.best[at], w.next[at] = length, i
		}
	}
}
