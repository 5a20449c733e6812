// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"
)

// Filter chooses edges. What is empty chooses all, and what is not combines.
type Filter struct {
	// Namespace and Node are those of an end.
	Namespace, Node string
	Class           Class
	// Text is in a name or an address of an end, or in the name of the service, in
	// whichever case.
	Text string
}

// Empty says whether it chooses all.
func (f *Filter) Empty() bool { return *f == Filter{} }

// Apply gives what of a snapshot of pods the filter chooses.
func (f *Filter) Apply(s *Snapshot) *Snapshot {
	if f.Empty() {
		return s
	}
	text := strings.ToLower(f.Text)
	// of each vertex, once
	matches := make([]int8, len(s.Vertices))
	named := func(i int32) bool {
		if matches[i] == 0 {
			matches[i] = -1
			if s.Vertices[i].contains(text) {
				matches[i] = 1
			}
		}
		return matches[i] > 0
	}
	return s.where(func(e *Edge) bool {
		from, to := &s.Vertices[e.From], &s.Vertices[e.To]
		return (f.Namespace == "" || from.Namespace == f.Namespace || to.Namespace == f.Namespace) &&
			(f.Node == "" || from.Node == f.Node || to.Node == f.Node) &&
			(f.Class == NoClass || e.Class == f.Class) &&
			(text == "" || named(e.From) || named(e.To) || contains(e.Service, text))
	})
}

func (v *Vertex) contains(text string) bool {
	for _, have := range [...]string{v.Name, v.Namespace, v.WorkloadName, v.Node} {
		if contains(have, text) {
			return true
		}
	}
	for _, a := range v.Addresses {
		if strings.Contains(a.String(), text) {
			return true
		}
	}
	return strings.Contains(strings.ToLower(v.ID()), text)
}

func contains(have, lower string) bool { return strings.Contains(strings.ToLower(have), lower) }

// where gives the edges that are chosen, and their vertices.
func (s *Snapshot) where(chosen func(*Edge) bool) *Snapshot {
	return s.only(func(yield func(*Edge) bool) {
		for i := range s.Edges {
			if e := &s.Edges[i]; chosen(e) && !yield(e) {
				return
			}
		}
	})
}

// only gives some of the edges, in their order, and their vertices.
func (s *Snapshot) only(edges iter.Seq[*Edge]) *Snapshot {
	out := &Snapshot{From: s.From, To: s.To, Ports: s.Ports, Folded: s.Folded}
	at := make([]int32, len(s.Vertices))
	take := func(i int32) int32 {
		if at[i] == 0 {
			out.Vertices = append(out.Vertices, s.Vertices[i])
			at[i] = int32(len(out.Vertices))
		}
		return at[i] - 1
	}
	for have := range edges {
		e := *have
		e.From, e.To = take(e.From), take(e.To)
		out.Edges = append(out.Edges, e)
	}
	return out
}

// AtLeast gives the edges that carried so many bytes.
func (s *Snapshot) AtLeast(bytes int64) *Snapshot {
	if bytes <= 0 {
		return s
	}
	return s.where(func(e *Edge) bool { return e.Forward.Bytes+e.Reverse.Bytes >= bytes })
}

// Around gives what is as many edges away from a vertex, whichever way. False if the
// vertex is not there.
func (s *Snapshot) Around(id string, depth int) (*Snapshot, bool) {
	near := make([]bool, len(s.Vertices))
	found := false
	for i := range s.Vertices {
		if s.Vertices[i].ID() == id {
			near[i], found = true, true
		}
	}
	if !found {
		return nil, false
	}
	for range depth - 1 {
		next := slices.Clone(near)
		for i := range s.Edges {
			if e := &s.Edges[i]; near[e.From] || near[e.To] {
				next[e.From], next[e.To] = true, true
			}
		}
		near = next
	}
	return s.where(func(e *Edge) bool { return near[e.From] || near[e.To] }), true
}

// Largest gives the edges that are largest by a measure, and by bytes where that is equal.
func (s *Snapshot) Largest(limit int, measure func(*Counters) int64) *Snapshot {
	type rank struct {
		i           int32
		size, bytes int64
	}
	ranks := make([]rank, len(s.Edges))
	for i := range s.Edges {
		t := s.Edges[i].Total()
		ranks[i] = rank{int32(i), measure(&t), t.Bytes}
	}
	slices.SortFunc(ranks, func(a, b rank) int {
		return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(b.bytes, a.bytes), cmp.Compare(a.i, b.i))
	})
	return s.only(func(yield func(*Edge) bool) {
		for _, r := range ranks[:min(limit, len(ranks))] {
			if !yield(&s.Edges[r.i]) {
				return
			}
		}
	})
}

// Bytes is a measure.
func Bytes(c *Counters) int64 { return c.Bytes }

// InOut gives what each vertex received and sent.
func (s *Snapshot) InOut() (in, out []Counters) {
	in, out = make([]Counters, len(s.Vertices)), make([]Counters, len(s.Vertices))
	for i := range s.Edges {
		e := &s.Edges[i]
		out[e.From].Add(&e.Forward)
		in[e.To].Add(&e.Forward)
		out[e.To].Add(&e.Reverse)
		in[e.From].Add(&e.Reverse)
	}
	return in, out
}

// quote leaves nothing in a text that a graph language, or a page that shows it, would
// take for its own: letters, digits and a few signs stay, others are shown as numbers.
func quote(text string, escape func(*strings.Builder, rune)) string {
	var b strings.Builder
	n := 0
	for _, r := range text {
		if n++; n > 200 {
			b.WriteString("...")
			break
		}
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(" ./:_-", r):
			b.WriteRune(r)
		case r < 0x20, r == 0x7f, r == utf8.RuneError:
			b.WriteByte('?')
		default:
			escape(&b, r)
		}
	}
	return b.String()
}
