// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/awalterschulze/gographviz"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
)

// clock is one that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func newGraph(change ...func(*Options)) (*Graph, *clock) {
	c := &clock{now: start}
	o := Defaults()
	o.Now, o.Refresh = c.Now, 0
	for _, f := range change {
		f(&o)
	}
	return New(o), c
}

// pod is an end in a cluster.
func pod(name, addr, node string, port uint16) End {
	workload, _, _ := strings.Cut(name, "-")
	return End{Addr: netip.MustParseAddr(addr), Port: port, Namespace: "shop", Pod: name, WorkloadKind: "Deployment", WorkloadName: workload, Node: node}
}

func outside(addr string, port uint16) End { return End{Addr: netip.MustParseAddr(addr), Port: port} }

func flowOf(source, destination End, bytes int64, change ...func(*Record)) Record {
	r := Record{
		Time: start, Source: source, Destination: destination, Transport: "tcp", HasPorts: true, Bytes: bytes, Packets: bytes / 100, Initiator: SourceSide,
	}
	for _, f := range change {
		f(&r)
	}
	return r
}

func answer(r *Record) { r.Initiator = DestinationSide }

func (s *Snapshot) edge(t *testing.T, from, to string) *Edge {
	t.Helper()
	for i := range s.Edges {
		if e := &s.Edges[i]; s.Vertices[e.From].ID() == from && s.Vertices[e.To].ID() == to {
			return e
		}
	}
	require.Failf(t, "there is no such edge", "%s -> %s", from, to)
	return nil
}

// An edge has both directions of a conversation, which counts once.
func TestGraphOfConversation(t *testing.T) {
	g, c := newGraph()
	web, db := pod("web-1", "10.1.0.1", "a", 40000), pod("db-0", "10.1.1.1", "b", 5432)
	db.Service = "db"
	for range 3 {
		g.AddRecords([]Record{
			flowOf(web, db, 1000, func(r *Record) { r.RTT, r.Retransmits = 2*time.Millisecond, 1 }),
			flowOf(db, web, 5000, answer, func(r *Record) { r.RTT = 4 * time.Millisecond }),
		})
		c.advance(time.Second)
	}
	s := g.Snapshot(time.Minute, time.Time{}, LevelPod)
	require.Len(t, s.Edges, 1)
	e := s.edge(t, "pod:shop/web-1", "pod:shop/db-0")
	require.Equal(t, Counters{Bytes: 3000, Packets: 30, Flows: 1, Retransmits: 3, RTT: 6 * time.Millisecond, RTTs: 3}, e.Forward)
	require.Equal(t, Counters{Bytes: 15000, Packets: 150, RTT: 12 * time.Millisecond, RTTs: 3}, e.Reverse)
	require.Equal(t, "shop/db", e.Service)
	require.Equal(t, []Protocol{{"tcp", 5432, 18000}}, e.Protocols)
	require.Equal(t, start.UnixNano(), e.First)
	require.Equal(t, start.Add(2*time.Second).UnixNano(), e.Last)

	require.Equal(t, int64(18000), g.Snapshot(time.Minute, time.Time{}, LevelWorkload).edge(t, "workload:shop/Deployment/web", "workload:shop/Deployment/db").Protocols[0].Bytes)
	require.Equal(t, int64(3000), g.Snapshot(time.Minute, time.Time{}, LevelService).edge(t, "workload:shop/Deployment/web", "service:shop/db").Forward.Bytes)
	require.Equal(t, int64(3000), g.Snapshot(time.Minute, time.Time{}, LevelNode).edge(t, "node:a", "node:b").Forward.Bytes)
	require.Equal(t, int64(3000), g.Snapshot(time.Minute, time.Time{}, LevelAddress).edge(t, "address:10.1.0.1", "address:10.1.1.1").Forward.Bytes)
}

// Where nobody says who opened a conversation, it is who was seen first, of both directions.
// A caller that a node hides is itself in both directions, and no pod has the address that hides it.
func TestGraphOfTranslated(t *testing.T) {
	g, _ := newGraph()
	web := pod("web-1", "10.1.0.7", "a", 8080)
	hidden := outside("10.1.0.1", 6000)
	hidden.Real = netip.MustParseAddrPort("203.0.113.9:5000")
	caller := pod("client-1", "10.1.0.1", "a", 6001)
	caller.Real = netip.MustParseAddrPort("10.1.0.8:5001")
	service := outside("192.0.2.1", 30080)
	service.Namespace, service.Pod, service.Node, service.Real = "shop", "web-1", "a", netip.MustParseAddrPort("10.1.0.7:8080")
	g.AddRecords([]Record{
		flowOf(outside("203.0.113.9", 5000), service, 300), flowOf(web, hidden, 500, answer), flowOf(web, caller, 700, answer),
	})
	s := g.Snapshot(time.Minute, time.Time{}, LevelPod)
	require.Len(t, s.Edges, 2)
	e := s.edge(t, "external:203.0.113.9", "pod:shop/web-1")
	require.Equal(t, []int64{300, 500}, []int64{e.Forward.Bytes, e.Reverse.Bytes})
	require.Len(t, e.Protocols, 1)
	require.Equal(t, uint16(8080), e.Protocols[0].Port)
	require.Equal(t, "client-1", g.Holder(netip.MustParseAddr("10.1.0.8"), KindPod).Name)
	for _, addr := range []string{"10.1.0.1", "192.0.2.1"} {
		require.Nil(t, g.Holder(netip.MustParseAddr(addr), KindPod), addr)
	}
}

func TestGraphWithoutOpener(t *testing.T) {
	g, _ := newGraph()
	a, b := outside("10.0.0.9", 7000), outside("10.0.0.1", 9000)
	nobody := func(r *Record) { r.Initiator = NoSide }
	g.AddRecords([]Record{flowOf(a, b, 100, nobody), flowOf(b, a, 300, nobody), flowOf(a, b, 100, nobody)})
	s := g.Snapshot(time.Minute, time.Time{}, LevelAddress)
	require.Len(t, s.Edges, 1)
	e := s.edge(t, "external:10.0.0.9", "external:10.0.0.1")
	require.Equal(t, int64(200), e.Forward.Bytes)
	require.Equal(t, int64(300), e.Reverse.Bytes)
	require.Equal(t, int64(1), e.Forward.Flows)
}

// Of what two nodes report, what the sender's node does counts, whichever comes first;
// where that node does not report, the receiver's does.
func TestGraphCountsEachPacketOnce(t *testing.T) {
	g, _ := newGraph()
	a, b, silent := pod("web-1", "10.1.0.1", "a", 4000), pod("db-0", "10.1.1.1", "b", 5432), pod("old-1", "10.1.2.1", "c", 6000)
	between := func(reporter, node string) func(*Record) {
		return func(r *Record) { r.Class, r.Reporter, r.ReportingNode = InterNode, reporter, node }
	}
	g.AddRecords([]Record{ // the receiver's node comes first, when nothing is known of the sender's
		flowOf(a, b, 1000, between("destination", "b")),
		flowOf(silent, b, 700, between("destination", "b")),
	})
	g.AddRecords([]Record{
		flowOf(a, b, 1000, between("source", "a")),
		flowOf(b, a, 4000, answer, between("destination", "a")),
		flowOf(b, a, 4000, answer, between("source", "b")),
	})
	s := g.Snapshot(time.Minute, time.Time{}, LevelPod)
	e := s.edge(t, "pod:shop/web-1", "pod:shop/db-0")
	require.Equal(t, int64(1000), e.Forward.Bytes)
	require.Equal(t, int64(4000), e.Reverse.Bytes)
	require.Equal(t, int64(1), e.Forward.Flows)
	require.Equal(t, int64(700), s.edge(t, "pod:shop/old-1", "pod:shop/db-0").Forward.Bytes)

	// and the list of records has what the sender's node reported
	_, _, total := g.Flows(func(r *Record) bool { return r.Reporter == "source" }, 0, 10)
	require.Equal(t, 2, total)
	_, _, total = g.Flows(func(r *Record) bool { return r.Reporter == "destination" && r.Source.Node == "b" }, 0, 10)
	require.Zero(t, total)
}

// A window has the minutes that are in it, a moment what was then, and an hour later the
// minutes are ten.
func TestGraphHistory(t *testing.T) {
	g, c := newGraph()
	a, b := outside("10.0.0.1", 1000), outside("10.0.0.2", 80)
	for minute := range 150 {
		g.AddRecords([]Record{flowOf(a, b, int64(1000+minute))})
		c.advance(time.Minute)
		require.NoError(t, g.Rotate(context.Background()))
	}
	bytes := func(window time.Duration, at time.Time) int64 {
		s := g.Snapshot(window, at, LevelAddress)
		if len(s.Edges) == 0 {
			return 0
		}
		return s.Edges[0].Forward.Bytes
	}
	sum := func(from, to int) (n int64) { // minutes, the last left out
		for m := from; m < to; m++ {
			n += int64(1000 + m)
		}
		return n
	}
	require.Equal(t, sum(149, 150), bytes(time.Minute, time.Time{}))
	require.Equal(t, sum(145, 150), bytes(5*time.Minute, time.Time{}))
	require.Equal(t, sum(100, 101), bytes(time.Minute, start.Add(101*time.Minute)))
	// coarse ones are taken whole
	require.Equal(t, sum(20, 30), bytes(time.Minute, start.Add(25*time.Minute)))
	require.Equal(t, sum(0, 150), bytes(24*time.Hour, time.Time{}))
	require.Zero(t, bytes(time.Minute, start.Add(-time.Hour)))
	_, _, _, buckets := g.history.span()
	require.Equal(t, 9+60, buckets)
	require.Equal(t, int64(1), g.Snapshot(24*time.Hour, time.Time{}, LevelAddress).Edges[0].Forward.Flows)
}

// What is there when a process is killed is there when the next has begun.
func TestGraphKeepsHistory(t *testing.T) {
	kept := &memory{data: map[string][]byte{}}
	g, c := newGraph()
	require.NoError(t, g.Keep(t.Context(), kept))
	a, b := outside("10.0.0.1", 1000), outside("10.0.0.2", 80)
	for range 3 {
		g.AddRecords([]Record{flowOf(a, b, 1000)})
		c.advance(time.Minute)
		require.NoError(t, g.Rotate(t.Context()))
	}
	g.AddRecords([]Record{flowOf(a, b, 50)})
	c.advance(time.Second)
	require.NoError(t, g.history.saveLive(t.Context(), g.current()))

	next, nc := newGraph()
	nc.advance(c.Now().Sub(start) + 5*time.Second)
	next.begin = nc.Now()
	require.NoError(t, next.Keep(t.Context(), kept))
	s := next.Snapshot(time.Hour, time.Time{}, LevelAddress)
	require.Equal(t, int64(3050), s.edge(t, "external:10.0.0.1", "external:10.0.0.2").Forward.Bytes)

	// and nothing of it twice
	nc.advance(time.Minute)
	require.NoError(t, next.Rotate(t.Context()))
	again, ac := newGraph()
	ac.advance(nc.Now().Sub(start))
	require.NoError(t, again.Keep(t.Context(), kept))
	require.Equal(t, int64(3050), again.Snapshot(time.Hour, time.Time{}, LevelAddress).Edges[0].Forward.Bytes)

	// what is damaged is left out, and said
	for key := range kept.data {
		if strings.HasPrefix(key, "bucket-") {
			kept.data[key] = kept.data[key][:10]
			break
		}
	}
	damaged, _ := newGraph()
	require.ErrorContains(t, damaged.Keep(t.Context(), kept), "read a snapshot")
}

// memory is a store.
type memory struct {
	mu   sync.Mutex
	data map[string][]byte
}

func (m *memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.data[key], nil
}

func (m *memory) Apply(_ context.Context, changes map[string][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, value := range changes {
		if value == nil {
			delete(m.data, key)
		} else {
			m.data[key] = value
		}
	}
	return nil
}

// refusing is one that is full.
type refusing struct{ memory }

var errFull = errors.New("the disk is full")

func (*refusing) Apply(context.Context, map[string][]byte) error { return errFull }

func TestGraphGoesOnWithoutStore(t *testing.T) {
	g, c := newGraph()
	require.ErrorIs(t, g.Keep(t.Context(), &refusing{memory{data: map[string][]byte{}}}), errFull)
	g.AddRecords([]Record{flowOf(outside("10.0.0.1", 1), outside("10.0.0.2", 2), 10)})
	c.advance(time.Minute)
	require.ErrorIs(t, g.Rotate(t.Context()), errFull)
	require.Len(t, g.Snapshot(time.Hour, time.Time{}, LevelAddress).Edges, 1)
}

// However many there are, the budgets hold, nothing of the sum is lost, and the largest
// keep their names.
func TestGraphBudgets(t *testing.T) {
	g, c := newGraph(func(o *Options) { o.MaxVertices, o.MaxEdges, o.MaxFlowRecords, o.HistoryBytes = 200, 640, 100, 64<<10 })
	random := rand.New(rand.NewPCG(1, 2))
	large := flowOf(outside("192.0.2.1", 1), outside("192.0.2.2", 443), 1_000_000)
	var sum int64
	for range 20 {
		for range 300 {
			addr := func() string { return fmt.Sprintf("10.%d.%d.%d", random.IntN(4), random.IntN(256), random.IntN(256)) }
			r := flowOf(outside(addr(), 1), outside(addr(), 443), 100)
			sum += r.Bytes + large.Bytes
			g.AddRecords([]Record{r, large})
		}
		c.advance(time.Minute)
		require.NoError(t, g.Rotate(t.Context()))
	}
	s := g.Snapshot(time.Hour, time.Time{}, LevelAddress)
	total, _ := s.Totals()
	require.Equal(t, sum, total.Bytes)
	require.LessOrEqual(t, len(s.Edges), 640+minShard)
	require.Equal(t, 20*300*large.Bytes, s.edge(t, "external:192.0.2.1", "external:192.0.2.2").Forward.Bytes)
	status := g.Status()
	require.LessOrEqual(t, status.Vertices, 200)
	require.LessOrEqual(t, status.Edges, 640+minShard*shardCount)
	require.LessOrEqual(t, status.FlowRecords, 100)
	require.LessOrEqual(t, status.HistoryBytes, int64(64<<10))
	require.Positive(t, s.Folded.Vertices)
	require.Positive(t, s.Folded.Edges)
	other := slices.IndexFunc(s.Vertices, func(v Vertex) bool { return v.Kind == KindOther })
	require.GreaterOrEqual(t, other, 0)
	require.Positive(t, s.Vertices[other].Folded)
}

func TestCodec(t *testing.T) {
	g, c := newGraph()
	web, db := pod("web-1", "10.1.0.1", "a", 40000), pod("db-0", "fd00::1", "b", 5432)
	db.Service, web.Zone, web.Labels = "db", "z1", []Label{{"app", "web"}}
	g.AddRecords([]Record{flowOf(web, db, 1000, func(r *Record) {
		r.Class, r.RTT, r.Tunnel = InterNode, time.Millisecond, &Tunnel{Type: "vxlan", ID: 7, HasID: true}
	}), flowOf(outside("203.0.113.9", 1), web, 10)})
	c.advance(time.Second)
	want := g.current()
	data := Encode(want)
	got, err := Decode(data)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })))
	for n := range data {
		_, err := Decode(data[:n])
		require.Error(t, err, "cut at %d", n)
	}
}

func FuzzDecode(f *testing.F) {
	g, _ := newGraph()
	web := pod("web-1", "10.1.0.1", "a", 40000)
	g.AddRecords([]Record{flowOf(web, outside("fd00::1", 53), 1000)})
	f.Add(Encode(g.current()))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Decode(data)
		if err != nil {
			return
		}
		lifted := lift(s, LevelService)
		require.LessOrEqual(t, len(lifted.Edges), len(s.Edges))
		_, err = Decode(Encode(s))
		require.NoError(t, err)
	})
}

// A page that goes on from a cursor has what the one before had not, also while records come.
func TestFlowsPages(t *testing.T) {
	g, _ := newGraph(func(o *Options) { o.MaxFlowRecords = 5000 })
	a, b := outside("10.0.0.1", 1), outside("10.0.0.2", 2)
	for i := range 2500 {
		g.AddRecords([]Record{flowOf(a, b, int64(i))})
	}
	even := func(r *Record) bool { return r.Bytes%2 == 0 }
	var got []int64
	for cursor := uint64(0); ; {
		found, next, total := g.Flows(even, cursor, 100)
		require.GreaterOrEqual(t, total, 1250)
		for _, r := range found {
			got = append(got, r.Bytes)
		}
		if cursor = next; cursor == 0 {
			break
		}
		g.AddRecords([]Record{flowOf(a, b, 9999998)})
	}
	require.Len(t, got, 1250)
	require.True(t, slices.IsSortedFunc(got, func(a, b int64) int { return int(b - a) }))
}

// Names that would be read as language are shown as text.
func TestExportOfHostileNames(t *testing.T) {
	g, _ := newGraph()
	names := []string{`a"]; evil -> n0; //`, `b\`, "c\nd", `</script><script>alert(1)</script>`, "end; click n0 href \"javascript:x\"", "日本", "#quot;`x`", "%%{init}%%"}
	for i, name := range names {
		e := outside(fmt.Sprintf("10.0.0.%d", i+1), 1)
		e.Pod, e.Namespace = name, "ns\""
		g.AddRecords([]Record{flowOf(e, outside("192.0.2.1", 443), 1000)})
	}
	s := g.Snapshot(time.Minute, time.Time{}, LevelPod)
	parsed, err := gographviz.Read([]byte(s.DOT()))
	require.NoError(t, err)
	require.Len(t, parsed.Nodes.Nodes, len(names)+1)
	require.Len(t, parsed.Edges.Edges, len(names))
	for _, n := range parsed.Nodes.Nodes {
		require.NotContains(t, strings.Trim(n.Attrs["label"], `"`), `"`)
		require.NotContains(t, n.Attrs["label"], "<")
		require.NotContains(t, n.Attrs["label"], `\`)
	}
	lines := strings.Split(strings.TrimSpace(s.Mermaid()), "\n")
	require.Len(t, lines, 1+2*len(names)+1)
	for _, line := range lines[1:] {
		require.Regexp(t, `^  n\d+(\["[A-Za-z0-9 ./:_?&#;-]*"\]| -->\|"[A-Za-z0-9 ./:_?&#;-]*"\| n\d+)$`, line)
	}
}

// The way along which waiting adds up to most is found, and what leads back is left out.
func TestCriticalPath(t *testing.T) {
	g, _ := newGraph()
	rtt := func(ms int) func(*Record) { return func(r *Record) { r.RTT = time.Duration(ms) * time.Millisecond } }
	at := map[string]End{}
	for i, name := range []string{"web", "api", "db", "cache"} {
		at[name] = pod(name+"-1", fmt.Sprintf("10.1.0.%d", i+1), "a", uint16(1000+i))
		e := at[name]
		e.Service = name
		at[name+"/service"] = e
	}
	g.AddRecords([]Record{
		flowOf(at["web"], at["api/service"], 10, rtt(5)), flowOf(at["api"], at["db/service"], 10, rtt(20)), flowOf(at["web"], at["cache/service"], 10, rtt(22)),
		flowOf(at["db"], at["api/service"], 10, rtt(100)), // back
	})
	s := g.Snapshot(time.Minute, time.Time{}, LevelService)
	p, ok := s.CriticalPath("workload:shop/Deployment/web")
	require.True(t, ok)
	require.Equal(t, 25*time.Millisecond, p.Latency)
	require.Len(t, p.Edges, 2)
	require.Equal(t, "service:shop/db", s.Vertices[s.Edges[p.Edges[1]].To].ID())
	require.Len(t, p.Cycles, 1)
	_, ok = s.CriticalPath("service:shop/none")
	require.False(t, ok)
}

func TestFilters(t *testing.T) {
	g, _ := newGraph()
	web, db := pod("web-1", "10.1.0.1", "a", 40000), pod("db-0", "10.1.1.1", "b", 5432)
	g.AddRecords([]Record{
		flowOf(web, db, 1000, func(r *Record) { r.Class = InterNode }),
		flowOf(outside("203.0.113.9", 1), web, 10, func(r *Record) { r.Class = Ingress }),
		flowOf(outside("203.0.113.9", 1), outside("203.0.113.10", 2), 5),
	})
	s := g.Snapshot(time.Minute, time.Time{}, LevelPod)
	for _, test := range []struct {
		Filter
		edges int
	}{
		{Filter{}, 3}, {Filter{Namespace: "shop"}, 2}, {Filter{Node: "b"}, 1}, {Filter{Class: Ingress}, 1}, {Filter{Text: "DB-"}, 1},
		{Filter{Text: "203.0.113"}, 2}, {Filter{Namespace: "shop", Text: "203.0.113"}, 1}, {Filter{Namespace: "none"}, 0},
	} {
		require.Len(t, test.Apply(s).Edges, test.edges, "%+v", test.Filter)
	}
	require.Len(t, s.AtLeast(10).Edges, 2)
	near, ok := s.Around("pod:shop/db-0", 1)
	require.True(t, ok)
	require.Len(t, near.Edges, 1)
	near, _ = s.Around("pod:shop/db-0", 2)
	require.Len(t, near.Edges, 2)
	_, ok = s.Around("pod:shop/none", 1)
	require.False(t, ok)
}

// What interfaces carried is what their counters gained, also where those begin anew.
func TestInterfaces(t *testing.T) {
	g, c := newGraph()
	read := func(value int64) {
		g.AddInterfaces([]InterfaceReading{{Node: "a", Name: "eth0", At: c.Now(), Start: start, Counter: RxBytes, Value: value}})
		c.advance(10 * time.Second)
	}
	for _, value := range []int64{100, 150, 30, 30} {
		read(value)
	}
	all := g.Interfaces(start, c.Now())
	require.Len(t, all, 1)
	require.Equal(t, int64(180), all[0].Total[RxBytes])
	require.Len(t, all[0].Steps, 4)
	// one that was there before begins at what it had
	g.AddInterfaces([]InterfaceReading{{Name: "old", At: c.Now(), Start: start.Add(-time.Hour), Counter: TxBytes, Value: 1000}})
	require.Zero(t, g.Interfaces(start, c.Now())[0].Total[TxBytes])
}

// Readers and writers do not disturb one another.
func TestGraphConcurrently(t *testing.T) {
	g, c := newGraph(func(o *Options) { o.MaxVertices, o.MaxEdges = 100, 320 })
	var writers, readers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 3000 {
				g.AddRecords([]Record{flowOf(outside(fmt.Sprintf("10.%d.0.%d", w, i%250), 1), outside("192.0.2.1", 443), 100)})
			}
		})
	}
	done := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					g.Snapshot(5*time.Minute, time.Time{}, LevelAddress)
					g.Flows(func(*Record) bool { return true }, 0, 10)
				}
			}
		})
	}
	readers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				c.advance(time.Second)
				if err := g.Rotate(context.Background()); err != nil {
					panic(err)
				}
			}
		}
	})
	writers.Wait()
	close(done)
	readers.Wait()
	total, _ := g.Snapshot(24*time.Hour, time.Time{}, LevelAddress).Totals()
	require.Equal(t, int64(4*3000*100), total.Bytes)
}
