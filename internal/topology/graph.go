// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the budgets of a graph.
type Options struct {
	MaxVertices, MaxEdges int
	MaxConversations      int
	MaxFlowRecords        int
	// HistoryBytes is how many encoded buckets have at most.
	HistoryBytes int64
	// Step is how long a bucket is, FineFor for how long it stays so, CoarseStep how long
	// those are that it is joined to then, and Retention for how long those are kept.
	Step, FineFor, CoarseStep, Retention time.Duration
	// Refresh is how old what readers see may be.
	Refresh time.Duration
	// Now is the clock; nil for the machine's.
	Now func() time.Time
}

// Defaults of options.
func Defaults() Options {
	return Options{
		MaxVertices: 20_000, MaxEdges: 100_000, MaxConversations: 500_000, MaxFlowRecords: 20_000, HistoryBytes: 128 << 20,
		Step: time.Minute, FineFor: time.Hour, CoarseStep: 10 * time.Minute, Retention: 24 * time.Hour, Refresh: time.Second,
	}
}

// Graph is the graph with its history. Records go into it while others read.
type Graph struct {
	o       Options
	live    *live
	flows   *ring
	history *history
	faces   *interfaces
	ledger  *ledger
	views   *views
	started time.Time

	// rotating is held by who makes history; rotateMu too while the live bucket, which began
	// at begin, becomes it.
	rotating sync.Mutex
	rotateMu sync.RWMutex
	begin    time.Time

	received, listed, leftOut, dropped, pushed atomic.Int64
}

var _ Sink = (*Graph)(nil)

// New gives an empty graph.
func New(o Options) *Graph {
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &Graph{
		o: o, live: newLive(&o), flows: &ring{max: o.MaxFlowRecords}, faces: newInterfaces(o.Now()),
		ledger: &ledger{all: map[LedgerEntry]*LedgerEntry{}},
	}
	g.history = &history{o: &g.o}
	g.views = newViews(g)
	g.started = o.Now()
	g.begin = g.started
	return g
}

// Keep lets history be kept in a store, and reads what is there. What cannot be read is
// left out, and the error says so.
func (g *Graph) Keep(ctx context.Context, s Store) error {
	g.history.store = s
	return g.history.load(ctx, g.o.Now())
}

// AddRecords implements Sink.
func (g *Graph) AddRecords(records []Record) {
	now := g.o.Now().UnixNano()
	n := 0
	for i := range records {
		if !records[i].Source.Addr.IsValid() || !records[i].Destination.Addr.IsValid() {
			g.dropped.Add(1)
			continue
		}
		g.received.Add(1)
		if !g.live.add(&records[i], now) {
			g.leftOut.Add(1)
			continue
		}
		records[n] = records[i]
		n++
	}
	g.pushed.Add(g.flows.add(records[:n]))
}

// AddDrops implements Sink.
func (g *Graph) AddDrops(records []Record) {
	now := g.o.Now().UnixNano()
	for i := range records {
		if records[i].Source.Addr.IsValid() && records[i].Destination.Addr.IsValid() {
			g.live.addDrops(&records[i], now)
		}
	}
}

// AddInterfaces implements Sink.
func (g *Graph) AddInterfaces(readings []InterfaceReading) { g.faces.add(readings) }

// AddLedger implements Sink.
func (g *Graph) AddLedger(readings []LedgerReading) { g.ledger.add(readings) }

// Interfaces gives what interfaces carried in a span.
func (g *Graph) Interfaces(from, to time.Time) []Interface { return g.faces.between(from, to) }

// Ledger gives what became of packets.
func (g *Graph) Ledger() []LedgerEntry { return g.ledger.list() }

// Holder gives who of a kind was seen last with an address, of those that have a place; nil
// for nobody.
func (g *Graph) Holder(addr netip.Addr, kind Kind) *Vertex { return g.live.holder(addr, kind) }

// Now is the time by the graph's clock.
func (g *Graph) Now() time.Time { return g.o.Now() }

// Kubernetes says whether something of a cluster has been seen.
func (g *Graph) Kubernetes() bool { return g.live.kubernetes.Load() }

// Rotate makes history of the live bucket. Readers wait for a copy of it only.
func (g *Graph) Rotate(ctx context.Context) error {
	g.rotating.Lock()
	defer g.rotating.Unlock()
	now := g.o.Now()
	g.rotateMu.Lock()
	if !now.After(g.begin) {
		g.rotateMu.Unlock()
		return nil
	}
	s := g.live.snapshot(now.UnixNano(), true)
	s.From, s.To = g.begin, now
	g.begin = now
	added := g.history.append(s)
	g.views.rotated()
	g.rotateMu.Unlock()
	g.live.conversations.ageAfter(now)
	return g.history.tidyUp(ctx, now, added)
}

// Run makes history at each step, and stores the live bucket at each interval where there
// is a store. It ends with the context, after what there is has been stored. What goes
// wrong it tells of.
func (g *Graph) Run(ctx context.Context, interval time.Duration, failed func(error)) {
	step := time.NewTimer(g.untilStep())
	defer step.Stop()
	save := time.NewTicker(max(interval, time.Second))
	defer save.Stop()
	report := func(err error) {
		if err != nil {
			failed(err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			report(g.Rotate(context.WithoutCancel(ctx)))
			return
		case <-step.C:
			report(g.Rotate(ctx))
			step.Reset(g.untilStep())
		case <-save.C:
			if g.history.store != nil {
				report(g.history.saveLive(ctx, g.current()))
			}
		}
	}
}

// untilStep is the time until the bucket is over: at a whole step of the clock, so that
// buckets of several runs and nodes lie alike.
func (g *Graph) untilStep() time.Duration {
	now := g.o.Now()
	return now.Truncate(g.o.Step).Add(g.o.Step).Sub(now)
}

// current copies the live bucket.
func (g *Graph) current() *Snapshot {
	g.rotateMu.RLock()
	defer g.rotateMu.RUnlock()
	return g.copyLive()
}

// copyLive does it where rotateMu is held.
func (g *Graph) copyLive() *Snapshot {
	now := g.o.Now()
	s := g.live.snapshot(now.UnixNano(), false)
	s.From, s.To = g.begin, now
	return s
}

// Status is what the graph has, and has not.
type Status struct {
	Started                                     time.Time
	Received, LeftOut, Invalid, PushedOut       int64
	Vertices, Edges, Conversations, FlowRecords int
	MaxVertices, MaxEdges, MaxFlowRecords       int
	HistoryBytes, MaxHistoryBytes, HistoryLost  int64
	HistoryBuckets                              int
	HistoryFrom, HistoryTo                      time.Time
	Folded                                      Folded
}

// Status gives it.
func (g *Graph) Status() Status {
	s := Status{
		Started: g.started, Received: g.received.Load(), LeftOut: g.leftOut.Load(), Invalid: g.dropped.Load(), PushedOut: g.pushed.Load(),
		Vertices: g.live.vertexCount(), Edges: int(g.live.edges.Load()), Conversations: g.live.conversations.count(), FlowRecords: g.flows.len(),
		MaxVertices: g.o.MaxVertices, MaxEdges: g.o.MaxEdges, MaxFlowRecords: g.o.MaxFlowRecords, MaxHistoryBytes: g.o.HistoryBytes,
		Folded: Folded{g.live.foldedVertices.Load(), g.live.foldedEdges.Load(), g.live.foldedRecords.Load()},
	}
	s.HistoryFrom, s.HistoryTo, s.HistoryBytes, s.HistoryBuckets = g.history.span()
	g.history.mu.Lock()
	s.HistoryLost = g.history.lost
	g.history.mu.Unlock()
	return s
}
