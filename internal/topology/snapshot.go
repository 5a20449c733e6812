// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"cmp"
	"slices"
	"time"
)

// Snapshot is the graph of a span of time. It must not be changed once others have it.
type Snapshot struct {
	From, To time.Time
	Vertices []Vertex
	Edges    []Edge
	Ports    []PortTotal
	Folded   Folded
}

// builder makes a snapshot of several.
type builder struct {
	Snapshot
	vertices map[Key]int32
	edges    map[rowKey]int32
	ports    map[portKey]int
}

type rowKey struct {
	from, to int32
	service  string
	class    Class
}

func newBuilder() *builder {
	return &builder{vertices: map[Key]int32{}, edges: map[rowKey]int32{}, ports: map[portKey]int{}}
}

func (b *builder) port(transport string, port uint16, c *Counters) {
	key := portKey{transport, port}
	at, ok := b.ports[key]
	if !ok {
		at = len(b.Ports)
		b.ports[key] = at
		b.Ports = append(b.Ports, PortTotal{Transport: transport, Port: port})
	}
	b.Ports[at].Add(c)
}

// vertex adds a vertex under a key, and gives its index.
func (b *builder) vertex(key Key, v *Vertex) int32 {
	at, ok := b.vertices[key]
	if !ok {
		at = int32(len(b.Vertices))
		b.vertices[key] = at
		added := *v
		added.Key = key
		b.Vertices = append(b.Vertices, added)
		return at
	}
	have := &b.Vertices[at]
	if v.Last >= have.Last { // the later one knows better
		if v.Node != "" {
			have.Node, have.Zone = v.Node, v.Zone
		}
		if v.WorkloadKind != "" {
			have.WorkloadKind, have.WorkloadName = v.WorkloadKind, v.WorkloadName
		}
		if len(v.Labels) > 0 {
			have.Labels = v.Labels
		}
	}
	have.First, have.Last = earlier(have.First, v.First), max(have.Last, v.Last)
	have.Folded += v.Folded
	for _, addr := range v.Addresses {
		if len(have.Addresses) >= maxAddresses {
			break
		}
		if !slices.Contains(have.Addresses, addr) {
			have.Addresses = append(have.Addresses[:len(have.Addresses):len(have.Addresses)], addr)
		}
	}
	return at
}

// earlier leaves out zero, which is no time.
func earlier(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// edge adds an edge, of which From and To are the builder's.
func (b *builder) edge(e *Edge) {
	key := rowKey{e.From, e.To, e.Service, e.Class}
	at, ok := b.edges[key]
	if !ok {
		b.edges[key] = int32(len(b.Edges))
		added := *e
		// they are added to
		added.Protocols, added.VNIs = slices.Clone(e.Protocols), slices.Clone(e.VNIs)
		b.Edges = append(b.Edges, added)
		return
	}
	have := &b.Edges[at]
	have.Forward.Add(&e.Forward)
	have.Reverse.Add(&e.Reverse)
	for _, p := range e.Protocols {
		have.Protocols = addProtocol(have.Protocols, p)
	}
	for _, vni := range e.VNIs {
		if len(have.VNIs) < maxVNIs && !slices.Contains(have.VNIs, vni) {
			have.VNIs = append(have.VNIs, vni)
		}
	}
	have.First, have.Last = earlier(have.First, e.First), max(have.Last, e.Last)
}

// add adds a snapshot.
func (b *builder) add(s *Snapshot) {
	index := make([]int32, len(s.Vertices))
	for i := range s.Vertices {
		index[i] = b.vertex(s.Vertices[i].Key, &s.Vertices[i])
	}
	for i := range s.Edges {
		e := s.Edges[i]
		e.From, e.To = index[e.From], index[e.To]
		b.edge(&e)
	}
	for i := range s.Ports {
		b.port(s.Ports[i].Transport, s.Ports[i].Port, &s.Ports[i].Counters)
	}
	b.Folded.add(s.Folded)
	if !s.From.IsZero() && (b.From.IsZero() || s.From.Before(b.From)) {
		b.From = s.From
	}
	if s.To.After(b.To) {
		b.To = s.To
	}
}

// finish sorts what lists have, the largest first.
func (b *builder) finish() {
	for i := range b.Edges {
		e := &b.Edges[i]
		slices.SortFunc(e.Protocols, func(a, b Protocol) int {
			return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Transport, b.Transport), cmp.Compare(a.Port, b.Port))
		})
		slices.Sort(e.VNIs)
	}
	slices.SortFunc(b.Ports, func(x, y PortTotal) int {
		return cmp.Or(cmp.Compare(y.Bytes, x.Bytes), cmp.Compare(x.Transport, y.Transport), cmp.Compare(x.Port, y.Port))
	})
}

// fold makes a snapshot of those edges that carry most, and gives the others to other.
func fold(s *Snapshot, maxEdges int) *Snapshot {
	if len(s.Edges) <= maxEdges {
		return s
	}
	order := make([]int32, len(s.Edges))
	size := make([]int64, len(s.Edges))
	for i := range order {
		order[i] = int32(i)
		size[i] = s.Edges[i].Forward.Bytes + s.Edges[i].Reverse.Bytes
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Or(cmp.Compare(size[b], size[a]), cmp.Compare(a, b)) })
	b := newBuilder()
	b.From, b.To, b.Ports, b.Folded = s.From, s.To, s.Ports, s.Folded
	at := func(i int32) int32 { return b.vertex(s.Vertices[i].Key, &s.Vertices[i]) }
	for _, i := range order[:maxEdges] {
		e := s.Edges[i]
		e.From, e.To = at(e.From), at(e.To)
		b.edge(&e)
	}
	kept := len(b.Vertices)
	var other int32 = -1
	for _, i := range order[maxEdges:] {
		e := s.Edges[i]
		if other < 0 {
			other = b.vertex(Key{}, &Vertex{})
		}
		was := s.Vertices[e.From].Kind != KindOther || s.Vertices[e.To].Kind != KindOther
		e.From, e.To, e.Service = other, other, ""
		b.edge(&e)
		if was {
			b.Folded.Edges++
		}
	}
	if lost := int64(len(s.Vertices) - kept); lost > 0 {
		b.Folded.Vertices += lost
	}
	if other >= 0 {
		b.Vertices[other].Folded = b.Folded.Vertices
	}
	b.finish()
	return &b.Snapshot
}

// Totals are sums over all edges.
func (s *Snapshot) Totals() (total Counters, byClass map[Class]Counters) {
	byClass = map[Class]Counters{}
	for i := range s.Edges {
		t := s.Edges[i].Total()
		total.Add(&t)
		of := byClass[s.Edges[i].Class]
		of.Add(&t)
		byClass[s.Edges[i].Class] = of
	}
	return total, byClass
}
