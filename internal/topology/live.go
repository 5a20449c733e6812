// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// shardCount is into how many parts the live edges are split, so that who reads holds up
// a small part of what comes in.
const shardCount = 32

const (
	maxAddresses = 16 // of a vertex
	maxProtocols = 8  // of an edge
	maxVNIs      = 4  // of an edge
	maxPorts     = 64 // told apart in a shard
	maxNodes     = 10000
	minShard     = 4 // edges that a shard may have although there is no room

	// reportingFor is for how long a node is taken to report after its last record.
	reportingFor = 2 * time.Minute
	// idleFor is for how long an edge or a vertex without traffic keeps its place.
	idleFor = time.Hour
)

// live is the bucket that records go into.
type live struct {
	maxVertices, maxEdges int
	conversations         *conversations

	vertexMu sync.RWMutex // guards what follows
	vertices map[vertexKey]*vertex
	order    uint32 // of the next vertex

	shards [shardCount]shard
	edges  atomic.Int64
	// folded is since the start; foldedBefore what frozen buckets have of it.
	foldedVertices, foldedEdges, foldedRecords atomic.Int64

	nodes sync.Map // node that reports: *atomic.Int64, when last
	known atomic.Int64

	other *vertex
	// kubernetes: something had a name.
	kubernetes atomic.Bool
}

// vertexKey is a Key that costs no string for an address.
type vertexKey struct {
	kind            Kind
	addr            netip.Addr
	namespace, name string
}

// vertex is one with what changes.
type vertex struct {
	// Vertex is guarded by vertexMu, but for its Key.
	Vertex
	key     vertexKey
	order   uint32
	id      string
	last    atomic.Int64
	bytes   atomic.Int64
	evicted atomic.Bool
}

type edgeKey struct {
	from, to *vertex
	service  string
	class    Class
}

// edge has counters of the bucket, by who reported them.
type edge struct {
	key       edgeKey
	sides     [2]Counters  // forward and reverse, each by its sender's node or the only one
	far       *[2]Counters // by the receiver's node; which of them count is judged when read
	protocols []Protocol
	vnis      []int64
	first     int64
	last      int64
	active    bool
}

type portKey struct {
	transport string
	port      uint16
}

type shard struct {
	mu    sync.Mutex // guards what follows
	edges map[edgeKey]*edge
	ports map[portKey]*Counters
	_     [40]byte // shards do not share a cache line
}

func newLive(o *Options) *live {
	l := &live{maxVertices: o.MaxVertices, maxEdges: o.MaxEdges, conversations: newConversations(o.MaxConversations), vertices: map[vertexKey]*vertex{}}
	for i := range l.shards {
		l.shards[i].edges, l.shards[i].ports = map[edgeKey]*edge{}, map[portKey]*Counters{}
	}
	l.other = &vertex{id: "other"}
	return l
}

// add counts a record that came at a time.
func (l *live) add(r *Record, now int64) bool {
	if r.ReportingNode != "" {
		l.reports(r.ReportingNode, now)
	}
	from, to := l.vertexOf(&r.Source, now), l.vertexOf(&r.Destination, now)
	r.Source.intern(from)
	r.Destination.intern(to)
	r.sourceID, r.destinedID = from.id, to.id
	forward, first := l.conversations.see(r)
	counted := Counters{Bytes: r.Bytes, Packets: r.Packets, Retransmits: r.Retransmits, Resets: r.Resets}
	if r.RTT > 0 {
		counted.RTT, counted.RTTs = r.RTT, 1
	}
	if first {
		counted.Flows = 1
	}
	from.bytes.Add(r.Bytes)
	to.bytes.Add(r.Bytes)
	far := r.Class == InterNode && r.Reporter == "destination"
	l.count(r, from, to, forward, far, &counted, now)
	// One that its sender's node reports too is not shown twice.
	return !far || !l.isReporting(r.Source.Node, now)
}

// addDrops counts what was dropped.
func (l *live) addDrops(r *Record, now int64) {
	from, to := l.vertexOf(&r.Source, now), l.vertexOf(&r.Destination, now)
	// Nobody says who opened the conversation; the lower port is a server's.
	forward := !r.HasPorts || r.Destination.Port <= r.Source.Port
	l.count(r, from, to, forward, false, &Counters{Drops: r.Drops}, now)
}

func (l *live) reports(node string, now int64) {
	at, ok := l.nodes.Load(node)
	if !ok {
		if l.known.Load() >= maxNodes {
			return
		}
		var loaded bool
		if at, loaded = l.nodes.LoadOrStore(node, new(atomic.Int64)); !loaded {
			l.known.Add(1)
		}
	}
	at.(*atomic.Int64).Store(now)
}

func (l *live) isReporting(node string, now int64) bool {
	at, ok := l.nodes.Load(node)
	return ok && now-at.(*atomic.Int64).Load() < int64(reportingFor)
}

func keyOf(e *End) vertexKey {
	switch {
	case e.Pod != "":
		return vertexKey{kind: KindPod, namespace: e.Namespace, name: e.Pod}
	case e.Service != "":
		return vertexKey{kind: KindService, namespace: e.Namespace, name: e.Service}
	case e.Node != "":
		return vertexKey{kind: KindNode, name: e.Node}
	default:
		return vertexKey{kind: KindExternal, addr: e.who().Addr()}
	}
}

// vertexOf gives the vertex of an end, other if there is no room.
func (l *live) vertexOf(e *End, now int64) *vertex {
	key := keyOf(e)
	l.vertexMu.RLock()
	v := l.vertices[key]
	current := v != nil && v.has(e)
	l.vertexMu.RUnlock()
	if !current {
		v = l.changeVertex(key, e, now)
	}
	if v.last.Load() < now {
		v.last.Store(now)
	}
	return v
}

// has says whether there is nothing new in what an end tells.
func (v *vertex) has(e *End) bool {
	return (v.key.kind == KindService || e.Node == "" || v.Node == e.Node) && (e.WorkloadName == "" || v.WorkloadName == e.WorkloadName) &&
		(slices.Contains(v.Addresses, e.address(v.key.kind)) || len(v.Addresses) >= maxAddresses)
}

func (l *live) changeVertex(key vertexKey, e *End, now int64) *vertex {
	l.vertexMu.Lock()
	v := l.vertices[key]
	full := v == nil && len(l.vertices) >= l.maxVertices
	l.vertexMu.Unlock()
	if full {
		l.foldVertices(now)
	}
	l.vertexMu.Lock()
	defer l.vertexMu.Unlock()
	if v = l.vertices[key]; v == nil {
		if len(l.vertices) >= l.maxVertices {
			l.foldedVertices.Add(1)
			return l.other
		}
		v = &vertex{key: key, order: l.order, Vertex: Vertex{Key: Key{key.kind, key.namespace, key.name}, First: now}}
		if key.kind == KindExternal {
			v.Name = key.addr.String()
		} else {
			l.kubernetes.Store(true)
		}
		v.id = v.Key.ID()
		l.order++
		l.vertices[key] = v
	}
	if e.Node != "" && key.kind != KindService {
		v.Node, v.Zone = e.Node, e.Zone
	}
	if e.WorkloadName != "" {
		v.WorkloadKind, v.WorkloadName = e.WorkloadKind, e.WorkloadName
	}
	if len(e.Labels) > 0 {
		v.Labels = e.Labels
	}
	if addr := e.address(key.kind); addr.IsValid() && len(v.Addresses) < maxAddresses && !slices.Contains(v.Addresses, addr) {
		// readers have the slice that was
		v.Addresses = append(slices.Clone(v.Addresses), addr)
	}
	return v
}

// intern lets a record share what strings the vertex has, so that many records do not
// keep many copies of them.
func (e *End) intern(v *vertex) {
	if v.key.kind == KindPod {
		e.Namespace, e.Pod = v.Namespace, v.Name
	}
	e.Labels = nil
}

// count adds to the edge of a record.
func (l *live) count(r *Record, from, to *vertex, forward, far bool, c *Counters, now int64) {
	called, side := &r.Destination, 0
	if !forward {
		from, to, called, side = to, from, &r.Source, 1
	}
	s := &l.shards[shardOf(from, to)]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := l.edgeOf(s, from, to, called, r.Class.opened(forward), now)
	sides := &e.sides
	if far {
		if e.far == nil {
			e.far = &[2]Counters{}
		}
		sides = e.far
	}
	e.sides[0].Flows += c.Flows // it counts once, whoever reported it first
	flows := c.Flows
	c.Flows = 0
	sides[side].Add(c)
	c.Flows = flows
	e.active, e.last = true, now
	if far && l.isReporting(r.Source.Node, now) {
		return
	}
	port := uint16(0)
	if r.HasPorts {
		port = called.who().Port()
	}
	e.protocol(r.Transport, port, c.Bytes)
	s.port(r.Transport, port, c)
	if r.Tunnel != nil && r.Tunnel.HasID && len(e.vnis) < maxVNIs && !slices.Contains(e.vnis, r.Tunnel.ID) {
		e.vnis = append(e.vnis, r.Tunnel.ID)
	}
}

// shardOf spreads edges evenly (Fibonacci hashing).
func shardOf(from, to *vertex) uint64 {
	return ((uint64(from.order)<<32 | uint64(to.order)) * 0x9E3779B97F4A7C15) >> 32 % shardCount
}

// edgeOf gives the edge, of other if there is no room. The shard is locked.
func (l *live) edgeOf(s *shard, from, to *vertex, called *End, class Class, now int64) *edge {
	if from.evicted.Load() {
		from = l.other
	}
	if to.evicted.Load() {
		to = l.other
	}
	key := edgeKey{from: from, to: to, class: class}
	if called.Service != "" {
		key.service = called.Namespace + "/" + called.Service
	}
	if e, ok := s.edges[key]; ok {
		return e
	}
	if int(l.edges.Load()) >= l.maxEdges && len(s.edges) >= minShard {
		l.foldEdges(s, now)
	}
	e := &edge{key: key, first: now, last: now}
	s.edges[key] = e
	l.edges.Add(1)
	return e
}

// foldEdges makes room in a shard: edges that have been idle go, then the smallest
// quarter becomes other's.
func (l *live) foldEdges(s *shard, now int64) {
	list := make([]*edge, 0, len(s.edges))
	for _, e := range s.edges {
		if e.key.from != l.other || e.key.to != l.other {
			list = append(list, e)
		}
	}
	// idle ones first, the oldest of them before the others; then the smallest
	slices.SortFunc(list, func(a, b *edge) int {
		if a.active != b.active {
			if b.active {
				return -1
			}
			return 1
		}
		if !a.active {
			return cmp.Compare(a.last, b.last)
		}
		return cmp.Compare(a.bytes(), b.bytes())
	})
	for _, e := range list[:(len(list)+3)/4] {
		delete(s.edges, e.key)
		l.edges.Add(-1)
		if e.active {
			l.foldInto(s, e, edgeKey{from: l.other, to: l.other, class: e.key.class})
			l.foldedEdges.Add(1)
		}
	}
}

// foldInto adds an edge to another.
func (l *live) foldInto(s *shard, e *edge, key edgeKey) {
	to, ok := s.edges[key]
	if !ok {
		e.key = key
		s.edges[key] = e
		l.edges.Add(1)
		return
	}
	for side := range to.sides {
		to.sides[side].Add(&e.sides[side])
		if e.far != nil {
			if to.far == nil {
				to.far = &[2]Counters{}
			}
			to.far[side].Add(&e.far[side])
		}
	}
	for _, p := range e.protocols {
		to.protocol(p.Transport, p.Port, p.Bytes)
	}
	to.first, to.last, to.active = min(to.first, e.first), max(to.last, e.last), true
}

func (e *edge) bytes() int64 {
	n := e.sides[0].Bytes + e.sides[1].Bytes
	if e.far != nil {
		n += e.far[0].Bytes + e.far[1].Bytes
	}
	return n
}

// foldVertices makes room for a tenth: those that talked least become other, and those
// that have not for longest before them.
func (l *live) foldVertices(now int64) {
	l.vertexMu.Lock()
	defer l.vertexMu.Unlock()
	if len(l.vertices) < l.maxVertices {
		return // another has
	}
	list := make([]*vertex, 0, len(l.vertices))
	for _, v := range l.vertices {
		list = append(list, v)
	}
	minute := func(v *vertex) int64 { return v.last.Load() / int64(time.Minute) }
	slices.SortFunc(list, func(a, b *vertex) int {
		return cmp.Or(cmp.Compare(minute(a), minute(b)), cmp.Compare(a.bytes.Load(), b.bytes.Load()))
	})
	for _, v := range list[:(len(list)+9)/10] {
		v.evicted.Store(true)
		delete(l.vertices, v.key)
		l.foldedVertices.Add(1)
	}
	for i := range l.shards {
		l.rekey(&l.shards[i], now)
	}
}

// rekey gives what edges of folded vertices have to other.
func (l *live) rekey(s *shard, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var moved []*edge
	for key, e := range s.edges {
		if key.from.evicted.Load() || key.to.evicted.Load() {
			moved = append(moved, e)
		}
	}
	for _, e := range moved {
		delete(s.edges, e.key)
		l.edges.Add(-1)
		if !e.active {
			continue
		}
		key := e.key
		if key.from.evicted.Load() {
			key.from = l.other
		}
		if key.to.evicted.Load() {
			key.to = l.other
		}
		l.foldInto(s, e, key)
		l.foldedEdges.Add(1)
	}
}

// protocol counts what an edge carries. Where there are more than it has room for, the
// one that carried least makes way for one that carries more.
func (e *edge) protocol(transport string, port uint16, bytes int64) {
	if transport == "" || bytes == 0 {
		return
	}
	e.protocols = addProtocol(e.protocols, Protocol{transport, port, bytes})
}

func addProtocol(list []Protocol, p Protocol) []Protocol {
	least := -1
	for i := range list {
		if list[i].Port == p.Port && list[i].Transport == p.Transport {
			list[i].Bytes += p.Bytes
			return list
		}
		if least < 0 || list[i].Bytes < list[least].Bytes {
			least = i
		}
	}
	if len(list) < maxProtocols {
		return append(list, p)
	}
	if list[least].Bytes < p.Bytes {
		list[least] = p
	}
	return list
}

func (s *shard) port(transport string, port uint16, c *Counters) {
	key := portKey{transport, port}
	have, ok := s.ports[key]
	if !ok {
		if len(s.ports) >= maxPorts {
			key.port = 0
			if have, ok = s.ports[key]; !ok && len(s.ports) >= 2*maxPorts {
				return
			}
		}
		if !ok {
			have = &Counters{}
			s.ports[key] = have
		}
	}
	have.Add(c)
}

// snapshot copies what is active. With reset the bucket begins anew.
func (l *live) snapshot(now int64, reset bool) *Snapshot {
	b := newBuilder()
	index := map[*vertex]int32{}
	rows := make([]*edge, 0, 256)
	var copies []edge
	for i := range l.shards {
		s := &l.shards[i]
		rows, copies = rows[:0], copies[:0]
		s.mu.Lock()
		for _, e := range s.edges {
			if e.active {
				rows = append(rows, e)
			} else if reset && now-e.last > int64(idleFor) {
				delete(s.edges, e.key)
				l.edges.Add(-1)
			}
		}
		for _, e := range rows {
			copied := *e
			copied.protocols, copied.vnis = slices.Clone(e.protocols), slices.Clone(e.vnis)
			if e.far != nil {
				far := *e.far
				copied.far = &far
			}
			copies = append(copies, copied)
			if reset {
				e.sides, e.far, e.protocols, e.vnis, e.active = [2]Counters{}, nil, nil, nil, false
			}
		}
		for key, c := range s.ports {
			b.port(key.transport, key.port, c)
		}
		if reset {
			clear(s.ports)
		}
		s.mu.Unlock()
		for i := range copies {
			b.Edges = append(b.Edges, l.row(&copies[i], b, index, now))
		}
	}
	b.Folded = Folded{l.foldedVertices.Load(), l.foldedEdges.Load(), l.foldedRecords.Load()}
	if reset {
		l.foldedVertices.Add(-b.Folded.Vertices)
		l.foldedEdges.Add(-b.Folded.Edges)
		l.foldedRecords.Add(-b.Folded.Records)
		l.forget(now)
	}
	if at, ok := index[l.other]; ok {
		b.Vertices[at].Folded = b.Folded.Vertices
	}
	b.finish()
	return &b.Snapshot
}

// row makes an edge of what was copied.
func (l *live) row(e *edge, b *builder, index map[*vertex]int32, now int64) Edge {
	out := Edge{
		From: l.rowVertex(e.key.from, b, index), To: l.rowVertex(e.key.to, b, index), Service: e.key.service, Class: e.key.class,
		Forward: e.sides[0], Reverse: e.sides[1], Protocols: e.protocols, VNIs: e.vnis, First: e.first, Last: e.last,
	}
	if e.far != nil {
		// What its receiver's node reported counts where the sender's does not report.
		if !l.isReporting(b.Vertices[out.From].Node, now) {
			out.Forward.Add(&e.far[0])
		}
		if !l.isReporting(b.Vertices[out.To].Node, now) {
			out.Reverse.Add(&e.far[1])
		}
	}
	return out
}

func (l *live) rowVertex(v *vertex, b *builder, index map[*vertex]int32) int32 {
	at, ok := index[v]
	if !ok {
		at = int32(len(b.Vertices))
		index[v] = at
		l.vertexMu.RLock()
		copied := v.Vertex
		l.vertexMu.RUnlock()
		copied.Last = v.last.Load()
		if copied.Kind == KindNode {
			copied.Node = copied.Name
		}
		b.Vertices = append(b.Vertices, copied)
	}
	return at
}

// forget forgets vertices that have been idle, and that nodes report.
func (l *live) forget(now int64) {
	l.vertexMu.Lock()
	var gone []*vertex
	for key, v := range l.vertices {
		if now-v.last.Load() > int64(idleFor)+int64(time.Minute) { // after their edges
			delete(l.vertices, key)
			gone = append(gone, v)
		}
	}
	for _, v := range gone {
		v.evicted.Store(true)
	}
	l.vertexMu.Unlock()
	l.nodes.Range(func(node, at any) bool {
		if now-at.(*atomic.Int64).Load() > int64(idleFor) {
			l.nodes.Delete(node)
			l.known.Add(-1)
		}
		return true
	})
}

// holder gives who of a kind was seen last with an address, nil for nobody.
func (l *live) holder(addr netip.Addr, kind Kind) *Vertex {
	l.vertexMu.RLock()
	defer l.vertexMu.RUnlock()
	var found *vertex
	for key, v := range l.vertices {
		if key.kind == kind && slices.Contains(v.Addresses, addr) && (found == nil || v.last.Load() > found.last.Load()) {
			found = v
		}
	}
	if found == nil {
		return nil
	}
	out := found.Vertex
	out.Last = found.last.Load()
	return &out
}

func (l *live) vertexCount() int {
	l.vertexMu.RLock()
	defer l.vertexMu.RUnlock()
	return len(l.vertices)
}

// noTime is later than all.
const noTime = math.MaxInt64
