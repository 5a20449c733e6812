// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"sync"
	"time"
)

// Level is how fine a graph is.
type Level uint8

// Levels.
const (
	LevelPod Level = iota
	LevelWorkload
	LevelService
	LevelNode
	LevelAddress
	levels
)

// LevelNames are those that clients use.
var LevelNames = [levels]string{"pod", "workload", "service", "node", "address"}

func (l Level) String() string { return LevelNames[l] }

// ParseLevel gives the level of a name, false where there is none.
func ParseLevel(name string) (Level, bool) {
	for l, have := range LevelNames {
		if have == name {
			return Level(l), true
		}
	}
	return 0, false
}

// viewKey says what a view is of.
type viewKey struct {
	window time.Duration
	at     int64 // 0 for now
	level  Level
}

// view is a snapshot that several readers share. Who comes first makes it.
type view struct {
	mu       sync.Mutex // held while it is made; guards what follows
	snapshot *Snapshot
	made     time.Time
	used     time.Time // guarded by views.mu
}

// How many are kept; each may be as large as the graph.
const (
	maxViews = 8
	maxBases = 2
	// unusedFor is for how long a view is kept that nobody asks for.
	unusedFor = time.Minute
)

// views caches snapshots, because many readers ask for the same.
type views struct {
	g   *Graph
	mu  sync.Mutex // guards what follows
	all map[viewKey]*view
	// base has what a window has of history, which changes once in a step only.
	base map[time.Duration]*view
	now  view // the live bucket
}

func newViews(g *Graph) *views {
	return &views{g: g, all: map[viewKey]*view{}, base: map[time.Duration]*view{}}
}

// rotated forgets what history was. rotateMu is held.
func (v *views) rotated() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.base)
	v.now.mu.Lock()
	v.now.snapshot = nil
	v.now.mu.Unlock()
	for key, have := range v.all {
		if v.g.o.Now().Sub(have.used) > unusedFor {
			delete(v.all, key)
		}
	}
}

// Snapshot gives the graph of a window up to a time, at a level; a zero time is now. It
// has whole buckets, so that it may begin a little before. It must not be changed.
func (g *Graph) Snapshot(window time.Duration, at time.Time, level Level) *Snapshot {
	if level == LevelAddress && !g.Kubernetes() {
		level = LevelPod // they are the same
	}
	key := viewKey{window: window, level: level}
	if !at.IsZero() {
		key.at = at.UnixNano()
	}
	return g.views.get(key, func() *Snapshot {
		if level != LevelPod {
			return lift(g.Snapshot(window, at, LevelPod), level)
		}
		if at.IsZero() {
			return g.recent(window)
		}
		return g.past(window, at)
	})
}

// get gives a view that is fresh enough, or makes one.
func (v *views) get(key viewKey, make func() *Snapshot) *Snapshot {
	now := v.g.o.Now()
	v.mu.Lock()
	have, ok := v.all[key]
	if !ok {
		v.evict()
		have = &view{}
		v.all[key] = have
	}
	have.used = now
	v.mu.Unlock()
	have.mu.Lock()
	defer have.mu.Unlock()
	if have.snapshot == nil || v.g.o.Now().Sub(have.made) >= v.g.o.Refresh {
		have.snapshot = make()
		have.made = v.g.o.Now()
	}
	return have.snapshot
}

// evict makes room for one. mu is held.
func (v *views) evict() {
	for len(v.all) >= maxViews {
		var oldest viewKey
		var at time.Time
		for key, have := range v.all {
			if at.IsZero() || have.used.Before(at) {
				oldest, at = key, have.used
			}
		}
		delete(v.all, oldest)
	}
}

// live gives the bucket that is not over, as old as it may be. rotateMu is held.
func (v *views) live() *Snapshot {
	v.now.mu.Lock()
	defer v.now.mu.Unlock()
	if v.now.snapshot == nil || v.g.o.Now().Sub(v.now.made) >= v.g.o.Refresh {
		v.now.snapshot = v.g.copyLive()
		v.now.made = v.g.o.Now()
	}
	return v.now.snapshot
}

// recent joins history with the live bucket.
func (g *Graph) recent(window time.Duration) *Snapshot {
	past, live := g.halves(window)
	b := newBuilder()
	if !past.To.IsZero() {
		b.add(past)
	}
	b.add(live)
	b.finish()
	return fold(&b.Snapshot, g.o.MaxEdges)
}

// halves gives what history has of a window up to now, and the live bucket.
func (g *Graph) halves(window time.Duration) (past, live *Snapshot) {
	g.rotateMu.RLock()
	defer g.rotateMu.RUnlock()
	v := g.views
	v.mu.Lock()
	base, ok := v.base[window]
	if !ok {
		if len(v.base) >= maxBases {
			clear(v.base)
		}
		base = &view{}
		v.base[window] = base
	}
	v.mu.Unlock()
	base.mu.Lock()
	defer base.mu.Unlock()
	if base.snapshot == nil {
		now := g.o.Now()
		base.snapshot = g.join(g.history.between(now.Add(-window), now))
	}
	return base.snapshot, v.live()
}

// past joins what history has of a window that is over, and the live bucket if it is of it.
func (g *Graph) past(window time.Duration, at time.Time) *Snapshot {
	g.rotateMu.RLock()
	live := g.views.live()
	buckets := g.history.between(at.Add(-window), at)
	g.rotateMu.RUnlock()
	b := newBuilder()
	b.add(g.join(buckets))
	if live.From.Before(at) && live.To.After(at.Add(-window)) {
		b.add(live)
	}
	if b.From.IsZero() {
		b.From, b.To = at.Add(-window), at
	}
	b.finish()
	return fold(&b.Snapshot, g.o.MaxEdges)
}

func (g *Graph) join(buckets []bucket) *Snapshot {
	b := newBuilder()
	for i := range buckets {
		if s, err := Decode(buckets[i].data); err == nil {
			b.add(s)
		}
	}
	return &b.Snapshot
}

// Lift folds a graph of pods to a level.
func Lift(s *Snapshot, level Level) *Snapshot {
	if level == LevelPod {
		return s
	}
	return lift(s, level)
}

func lift(s *Snapshot, level Level) *Snapshot {
	b := newBuilder()
	b.From, b.To, b.Ports, b.Folded = s.From, s.To, s.Ports, s.Folded
	l := lifter{s: s, b: b, level: level, at: make([]int32, len(s.Vertices))}
	for i := range l.at {
		l.at[i] = -1
	}
	if level == LevelService {
		l.learn()
	}
	for i := range s.Edges {
		e := s.Edges[i]
		called := e.Service
		e.From, e.To = l.lift(e.From, ""), l.lift(e.To, called)
		if level == LevelService {
			e.Service = ""
		}
		b.edge(&e)
	}
	b.finish()
	return &b.Snapshot
}

type lifter struct {
	s     *Snapshot
	b     *builder
	level Level
	at    []int32
	// serves is the service that a workload is most called through.
	serves map[Key]string
}

// learn finds out which service a workload stands behind: calls tell it.
func (l *lifter) learn() {
	type pair struct {
		workload Key
		service  string
	}
	bytes := map[pair]int64{}
	for i := range l.s.Edges {
		e := &l.s.Edges[i]
		if to := &l.s.Vertices[e.To]; e.Service != "" && to.Kind == KindPod {
			bytes[pair{to.Workload(), e.Service}] += e.Forward.Bytes + e.Reverse.Bytes + 1
		}
	}
	l.serves = map[Key]string{}
	most := map[Key]int64{}
	for p, n := range bytes {
		if n > most[p.workload] || n == most[p.workload] && p.service < l.serves[p.workload] {
			l.serves[p.workload], most[p.workload] = p.service, n
		}
	}
}

func (l *lifter) lift(i int32, called string) int32 {
	v := &l.s.Vertices[i]
	if l.level == LevelService && called != "" && (v.Kind == KindPod || v.Kind == KindNode || v.Kind == KindService) {
		return l.b.vertex(serviceKey(called), l.coarse(v))
	}
	if l.at[i] < 0 {
		key := l.key(v)
		out := v
		if key != v.Key {
			out = l.coarse(v)
		}
		l.at[i] = l.b.vertex(key, out)
	}
	return l.at[i]
}

// coarse leaves out what is of one pod only.
func (l *lifter) coarse(v *Vertex) *Vertex {
	out := *v
	switch l.level {
	case LevelService:
		out.Node, out.Zone, out.WorkloadKind, out.WorkloadName, out.Labels = "", "", "", "", nil
	case LevelWorkload:
		if out.WorkloadKind == "" {
			out.WorkloadKind, out.WorkloadName = "Pod", v.Name
		}
		out.Node, out.Zone, out.Labels = "", "", nil
	case LevelNode:
		out.WorkloadKind, out.WorkloadName, out.Labels, out.Addresses = "", "", nil, nil
	}
	return &out
}

func serviceKey(name string) Key {
	for i := range len(name) {
		if name[i] == '/' {
			return Key{KindService, name[:i], name[i+1:]}
		}
	}
	return Key{KindService, "", name}
}

func (l *lifter) key(v *Vertex) Key {
	switch {
	case v.Kind == KindPod && l.level == LevelWorkload:
		return v.Workload()
	case v.Kind == KindPod && l.level == LevelService:
		if service, ok := l.serves[v.Workload()]; ok {
			return serviceKey(service)
		}
		return v.Workload()
	case v.Kind == KindPod && l.level == LevelNode && v.Node != "":
		return Key{KindNode, "", v.Node}
	case l.level == LevelAddress && v.Kind != KindExternal && v.Kind != KindOther && len(v.Addresses) > 0:
		return Key{KindAddress, "", v.Addresses[0].String()}
	}
	return v.Key
}
