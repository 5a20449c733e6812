// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"cmp"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/netprobe-otel/netprobe/internal/topology"
)

// graphAnswer is what /api/topology gives.
type graphAnswer struct {
	Window   span          `json:"window"`
	Level    string        `json:"level"`
	Mappings *mappings     `json:"mappings,omitempty"`
	Nodes    []graphVertex `json:"nodes"`
	Edges    []edge        `json:"edges"`
	Folded   folded        `json:"folded"`
	LeftOut  leftOut       `json:"left_out"`
}

const (
	defaultEdges = 2000
	mostEdges    = 100_000
	mostDepth    = 16
)

// chosen is what the filters of a request choose.
type chosen struct {
	level    topology.Level
	snapshot *topology.Snapshot
	leftOut  leftOut
}

// choose reads the filters, and gives what they choose.
func (e *topologyExtension) choose(q *query) *chosen {
	return e.chooseAt(q, q.level(e.kubernetes()), func(level topology.Level) *topology.Snapshot {
		window, at := q.window(), q.at()
		if q.err != nil {
			return nil
		}
		return e.Snapshot(window, at, level)
	})
}

// chooseAt does it with a graph that it is given at a level.
func (e *topologyExtension) chooseAt(q *query, level topology.Level, at func(topology.Level) *topology.Snapshot) *chosen {
	f := topology.Filter{Namespace: q.str("namespace"), Node: q.str("node"), Class: q.class(), Text: q.str("q")}
	minBytes := q.integer("min_bytes", 0, 0, math.MaxInt64)
	limit := q.integer("limit", defaultEdges, 0, mostEdges)
	focus, focused := q.text("focus")
	depth := q.integer("depth", 1, 1, mostDepth)
	if _, ok := q.text("depth"); ok && !focused {
		q.fail("depth", "is of a focus, and there is none")
	}
	if q.err != nil {
		return nil
	}
	var s *topology.Snapshot
	if f.Empty() {
		s = at(level)
	} else if s = at(topology.LevelPod); s != nil {
		// names are of pods, whatever they are folded to then
		s = topology.Lift(f.Apply(s), level)
	}
	if q.err != nil {
		return nil
	}
	s = s.AtLeast(minBytes)
	if focused {
		var ok bool
		if s, ok = s.Around(focus, int(depth)); !ok {
			q.err = notFound("focus: there is no %q at level %s with these filters", focus, level)
			q.err.Parameter = "focus"
			return nil
		}
	}
	c := &chosen{level: level, snapshot: s.Largest(int(limit), topology.Bytes)}
	c.leftOut = leftOut{len(s.Vertices) - len(c.snapshot.Vertices), len(s.Edges) - len(c.snapshot.Edges)}
	return c
}

// kubernetes says whether there is a cluster.
func (e *topologyExtension) kubernetes() bool { return e.resolver != nil || e.Kubernetes() }

func (c *chosen) answer() *graphAnswer {
	s := c.snapshot
	out := &graphAnswer{Window: spanOf(s), Level: c.level.String(), Nodes: verticesOf(s), Edges: edgesOf(s), Folded: foldedOf(s), LeftOut: c.leftOut}
	return out
}

func verticesOf(s *topology.Snapshot) []graphVertex {
	in, out := s.InOut()
	vertices := make([]graphVertex, len(s.Vertices))
	for i := range s.Vertices {
		vertices[i] = graphVertex{vertexOf(&s.Vertices[i]), countersOf(&in[i]), countersOf(&out[i])}
	}
	return vertices
}

func edgesOf(s *topology.Snapshot) []edge {
	edges := make([]edge, len(s.Edges))
	for i := range s.Edges {
		edges[i] = edgeOf(s, &s.Edges[i])
	}
	return edges
}

func (e *topologyExtension) topology(q *query) (any, error) {
	withMappings := q.boolean("mappings", true)
	c := e.choose(q)
	if q.err != nil {
		return nil, nil
	}
	out := c.answer()
	if withMappings {
		out.Mappings = e.mappings()
	}
	return out, nil
}

// export gives the graph in another language.
func (e *topologyExtension) export(w http.ResponseWriter, r *http.Request) {
	q := newQuery(r.URL.RawQuery, with(filters, "format"), e.Now())
	format := q.oneOf("format", "", "dot", "mermaid")
	if format == "" {
		q.fail("format", "is needed: dot or mermaid")
	}
	var c *chosen
	if q.err == nil {
		c = e.choose(q)
	}
	if q.err != nil {
		writeError(w, r, q.err)
		return
	}
	if format == "dot" {
		w.Header().Set("Content-Type", "text/vnd.graphviz; charset=utf-8")
		write(w, r, http.StatusOK, []byte(c.snapshot.DOT()))
		return
	}
	w.Header().Set("Content-Type", "text/vnd.mermaid; charset=utf-8")
	write(w, r, http.StatusOK, []byte(c.snapshot.Mermaid()))
}

type diffAnswer struct {
	From    span      `json:"from"`
	To      span      `json:"to"`
	Level   string    `json:"level"`
	New     []edge    `json:"new"`
	Gone    []edge    `json:"gone"`
	Changed []changed `json:"changed"`
}

type changed struct {
	Edge  edge    `json:"edge"`
	After edge    `json:"after"`
	Ratio float64 `json:"bytes_ratio"`
}

// diff compares the graph of a window up to one moment with that up to another.
func (e *topologyExtension) diff(q *query) (any, error) {
	from, to := q.time("from"), q.time("to")
	if from.IsZero() {
		q.fail("from", "is needed: the moment to compare with")
	}
	window, level := q.window(), q.level(e.kubernetes())
	minRatio := q.float("min_ratio", 1.5, 1, math.MaxFloat64)
	if !to.Before(q.now) {
		to = time.Time{} // now
	}
	if q.err != nil {
		return nil, nil
	}
	before := e.chooseAt(q, level, func(l topology.Level) *topology.Snapshot { return e.Snapshot(window, from, l) })
	if q.err != nil {
		return nil, nil
	}
	after := e.chooseAt(q, level, func(l topology.Level) *topology.Snapshot { return e.Snapshot(window, to, l) })
	out := &diffAnswer{From: spanOf(before.snapshot), To: spanOf(after.snapshot), Level: level.String(), New: []edge{}, Gone: []edge{}, Changed: []changed{}}
	had := map[string]edge{}
	for _, b := range edgesOf(before.snapshot) {
		had[b.ID] = b
	}
	for _, a := range edgesOf(after.snapshot) {
		b, ok := had[a.ID]
		if !ok {
			out.New = append(out.New, a)
			continue
		}
		delete(had, a.ID)
		ratio := float64(a.Total.Bytes) / float64(max(b.Total.Bytes, 1))
		if ratio >= minRatio || ratio <= 1/minRatio {
			out.Changed = append(out.Changed, changed{b, a, ratio})
		}
	}
	for _, b := range edgesOf(before.snapshot) {
		if _, gone := had[b.ID]; gone {
			out.Gone = append(out.Gone, b)
		}
	}
	return out, nil
}

type pathAnswer struct {
	Window  span       `json:"window"`
	Path    []pathEdge `json:"path"`
	Latency float64    `json:"latency_seconds"`
	Graph   struct {
		Nodes []graphVertex `json:"nodes"`
		Edges []edge        `json:"edges"`
	} `json:"graph"`
	Cycles []string `json:"cycles,omitempty"`
}

type pathEdge struct {
	Edge    edge    `json:"edge"`
	Latency float64 `json:"latency_seconds"`
}

// criticalPath gives who depends on whom, and where waiting adds up to most.
func (e *topologyExtension) criticalPath(q *query) (any, error) {
	window, at, from := q.window(), q.at(), q.str("from")
	if q.err != nil {
		return nil, nil
	}
	level := topology.LevelService
	if !e.kubernetes() {
		level = topology.LevelAddress
	}
	s := e.Snapshot(window, at, level).Largest(defaultEdges, topology.Bytes)
	p, ok := s.CriticalPath(from)
	if !ok {
		err := notFound("from: there is no %q at level %s in this window", from, level)
		err.Parameter = "from"
		return nil, err
	}
	out := &pathAnswer{Window: spanOf(s), Path: []pathEdge{}, Latency: p.Latency.Seconds()}
	for _, i := range p.Edges {
		total := s.Edges[i].Total()
		out.Path = append(out.Path, pathEdge{edgeOf(s, &s.Edges[i]), total.MeanRTT().Seconds()})
	}
	for _, i := range p.Cycles {
		out.Cycles = append(out.Cycles, edgeOf(s, &s.Edges[i]).ID)
	}
	out.Graph.Nodes, out.Graph.Edges = verticesOf(s), edgesOf(s)
	return out, nil
}

type (
	statsAnswer struct {
		Window      span                `json:"window"`
		Totals      counters            `json:"totals"`
		ByDirection map[string]counters `json:"by_direction"`
		ByProtocol  map[string]counters `json:"by_protocol"`
		ByPort      []portCounters      `json:"by_port"`
		NodeMatrix  []pairCounters      `json:"node_matrix"`
		TopTalkers  map[string][]edge   `json:"top_talkers"`
	}

	portCounters struct {
		Transport string `json:"transport"`
		Port      uint16 `json:"port,omitempty"`
		counters
	}

	pairCounters struct {
		Source string `json:"source"`
		Target string `json:"target"`
		counters
	}
)

const (
	maxTalkers  = 10
	maxPortRows = 50
	maxPairs    = 10_000
)

func (e *topologyExtension) stats(q *query) (any, error) {
	window, at := q.window(), q.at()
	if q.err != nil {
		return nil, nil
	}
	s := e.Snapshot(window, at, topology.LevelPod)
	total, byClass := s.Totals()
	out := &statsAnswer{
		Window: spanOf(s), Totals: countersOf(&total), ByDirection: map[string]counters{}, ByProtocol: map[string]counters{},
		ByPort: []portCounters{}, NodeMatrix: e.nodeMatrix(e.Snapshot(window, at, topology.LevelNode)),
	}
	for class, c := range byClass {
		name := class.String()
		if class == topology.NoClass {
			name = "unknown"
		}
		out.ByDirection[name] = countersOf(&c)
	}
	byProtocol := map[string]topology.Counters{}
	for i := range s.Ports {
		p := &s.Ports[i]
		of := byProtocol[p.Transport]
		of.Add(&p.Counters)
		byProtocol[p.Transport] = of
		if len(out.ByPort) < maxPortRows {
			out.ByPort = append(out.ByPort, portCounters{p.Transport, p.Port, countersOf(&p.Counters)})
		}
	}
	for name, c := range byProtocol {
		if name == "" {
			name = "unknown"
		}
		out.ByProtocol[name] = countersOf(&c)
	}
	level := topology.LevelAddress
	if e.kubernetes() {
		level = topology.LevelWorkload
	}
	out.TopTalkers = e.topTalkers(e.Snapshot(window, at, level))
	return out, nil
}

// topTalkers are the largest edges by each measure, of those that have any of it.
func (e *topologyExtension) topTalkers(s *topology.Snapshot) map[string][]edge {
	out := map[string][]edge{}
	for name, measure := range map[string]func(*topology.Counters) int64{
		"bytes": topology.Bytes, "packets": func(c *topology.Counters) int64 { return c.Packets },
		"flows":       func(c *topology.Counters) int64 { return c.Flows },
		"retransmits": func(c *topology.Counters) int64 { return c.Retransmits },
	} {
		top := s.Largest(maxTalkers, measure)
		out[name] = edgesOf(top)
		out[name] = slices.DeleteFunc(out[name], func(e edge) bool {
			return map[string]int64{"bytes": e.Total.Bytes, "packets": e.Total.Packets, "flows": e.Total.Flows, "retransmits": e.Total.Retransmits}[name] == 0
		})
	}
	return out
}

// nodeMatrix is what nodes sent each other.
func (e *topologyExtension) nodeMatrix(s *topology.Snapshot) []pairCounters {
	type pair struct{ from, to int32 }
	sums := map[pair]*topology.Counters{}
	add := func(from, to int32, c *topology.Counters) {
		if s.Vertices[from].Kind != topology.KindNode || s.Vertices[to].Kind != topology.KindNode || *c == (topology.Counters{}) {
			return
		}
		have, ok := sums[pair{from, to}]
		if !ok {
			have = &topology.Counters{}
			sums[pair{from, to}] = have
		}
		have.Add(c)
	}
	for i := range s.Edges {
		add(s.Edges[i].From, s.Edges[i].To, &s.Edges[i].Forward)
		add(s.Edges[i].To, s.Edges[i].From, &s.Edges[i].Reverse)
	}
	out := make([]pairCounters, 0, len(sums))
	for p, c := range sums {
		out = append(out, pairCounters{s.Vertices[p.from].Name, s.Vertices[p.to].Name, countersOf(c)})
	}
	slices.SortFunc(out, func(a, b pairCounters) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Target, b.Target))
	})
	return out[:min(len(out), maxPairs)]
}
