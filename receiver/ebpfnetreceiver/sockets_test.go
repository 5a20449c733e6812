// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/connections"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/sockets"
)

// fakeSockets reads what tests say.
type fakeSockets struct {
	reading    sockets.Reading
	counters   map[flow.Protocol]sockets.Counters
	health     sockets.Health
	err        error
	udpMissing error
	closed     int
	// meanwhile is what happens while connections are read, before they have been and after.
	meanwhile func()
}

func (f *fakeSockets) Features() []sockets.Feature {
	return []sockets.Feature{{Name: sockets.TCP}, {Name: sockets.UDP, Err: f.udpMissing}}
}

func (f *fakeSockets) Read() (sockets.Reading, error) {
	if f.meanwhile != nil {
		f.meanwhile()
	}
	r := f.reading
	f.reading = sockets.Reading{}
	if f.meanwhile != nil {
		f.meanwhile()
	}
	return r, f.err
}

func (f *fakeSockets) Counters() (map[flow.Protocol]sockets.Counters, error) {
	if f.err != nil {
		return nil, f.err
	}
	return maps.Clone(f.counters), nil
}

func (f *fakeSockets) Health() (sockets.Health, error) { return f.health, f.err }

func (f *fakeSockets) Close() error {
	f.closed++
	return nil
}

func openTestSockets(t *testing.T) (*session, *fakeProbe, *fakeSink, *fakeSockets) {
	t.Helper()
	s, p, sk := openTestSession(t)
	f := &fakeSockets{counters: map[flow.Protocol]sockets.Counters{flow.TCP: {}, flow.UDP: {}}}
	require.NoError(t, s.useSockets(f))
	return s, p, sk, f
}

// testConnection is that whose packets testRecord counts.
func testConnection() flow.Connection {
	rec := testRecord(loopback, 1)
	return flow.Connection{
		ID: flow.ConnectionID{Socket: 1}, Protocol: rec.Protocol, Role: flow.Client, Established: true,
		Local:   netip.AddrPortFrom(rec.Source, rec.SourcePort),
		Remote:  netip.AddrPortFrom(rec.Destination, rec.DestinationPort),
		Process: flow.Process{PID: 4711, Name: "curl"},
		RTT:     3 * time.Millisecond, Latency: 2 * time.Millisecond, EstablishedAt: time.Unix(90, 0),
		Now: flow.ConnectionNumbers{BytesSent: 10, SegmentsReceived: 1, Retransmits: 2},
	}
}

func TestConnectionsReachSinks(t *testing.T) {
	s, p, sk, f := openTestSockets(t)
	s.handle(appeared(2, "fake0"))
	c := testConnection()
	f.reading.Live = []flow.Connection{c}
	f.health.SYNACKRetransmits = 5
	p.flows = []flow.Record{testRecord(2, 7)}
	s.tick(context.Background())

	w := sk.last(t)
	require.Equal(t, []convert.Event{convert.ConnectionEvent{Event: connections.Event{Connection: c, Phase: connections.Connect, At: c.EstablishedAt}}}, w.events)
	require.Equal(t, map[connections.Kind]connections.Totals{
		{Protocol: c.Protocol, Role: flow.Client}: {BytesSent: 10, Retransmits: 2},
	}, w.sockets.totals)
	require.EqualValues(t, 5, w.sockets.synACKs)
	require.Contains(t, w.sockets.histograms, roundTrips)
	require.Contains(t, w.sockets.histograms, connectLatencies)
	require.Contains(t, w.sockets.counters, flow.UDP)
	require.Len(t, w.flows, 1)
	require.Equal(t, &c.Process, w.flows[0].Process)

	require.NoError(t, s.closeSockets())
	require.Equal(t, 1, f.closed)
}

// What was read before stays where a reading fails: no total goes back.
func TestConnectionsThatCannotBeRead(t *testing.T) {
	s, _, sk, f := openTestSockets(t)
	f.counters[flow.TCP] = sockets.Counters{Opened: [flow.Roles]uint64{3, 4}}
	f.health = sockets.Health{SYNACKRetransmits: 2}
	s.tick(context.Background())
	want := sk.last(t).sockets.counters
	require.EqualValues(t, 3, want[flow.TCP].Opened[flow.Client])

	f.err = errors.New("as a test wants")
	s.tick(context.Background())
	require.Equal(t, want, sk.last(t).sockets.counters)
	require.EqualValues(t, 2, sk.last(t).sockets.synACKs)
}

func TestUDPThatIsNotWatchedIsNotZero(t *testing.T) {
	s, _, sk := openTestSession(t)
	f := &fakeSockets{counters: map[flow.Protocol]sockets.Counters{flow.TCP: {}, flow.UDP: {}}, udpMissing: errors.New("too old")}
	require.NoError(t, s.useSockets(f))
	s.tick(context.Background())
	require.Contains(t, sk.last(t).sockets.counters, flow.TCP)
	require.NotContains(t, sk.last(t).sockets.counters, flow.UDP)
}

func TestHistogramsThatAreOff(t *testing.T) {
	s, _, sk := openTestSession(t)
	s.cfg.Sockets.Histograms.Type = "off"
	f := &fakeSockets{counters: map[flow.Protocol]sockets.Counters{flow.TCP: {}}}
	f.reading.Live = []flow.Connection{testConnection()}
	require.NoError(t, s.useSockets(f))
	s.tick(context.Background())
	require.Len(t, sk.last(t).events, 1)
	require.Empty(t, sk.last(t).sockets.histograms)
}

func TestWithoutSocketsThereIsNothingOfThem(t *testing.T) {
	s, _, sk := openTestSession(t)
	s.tick(context.Background())
	require.Nil(t, sk.last(t).sockets)
}

// Drops are on the record of the packets that were dropped, in the interval's first
// one that has them.
func TestFlowsHaveTheirDrops(t *testing.T) {
	rec := testRecord(2, 7)
	drop := func(key flow.Key, n uint64) convert.Event { return convert.DropEvent{Key: key, Packets: n} }
	other := rec.Key
	other.SourcePort++
	translated := testRecord(2, 7)
	translated.SourcePort += 2
	inner := translated.Tuple()
	inner.Destination = netip.MustParseAddr("203.0.113.9")
	translated.NAT = &flow.NAT{Other: inner}
	w := &window{
		flows:  []flow.Record{rec, rec, translated},
		events: []convert.Event{drop(rec.Key, 2), drop(rec.Key, 3), drop(other, 9), drop(flow.Key{Source: inner.Source, Destination: inner.Destination, SourcePort: inner.SourcePort, DestinationPort: inner.DestinationPort, Protocol: inner.Protocol}, 4)},
	}
	s := &session{}
	s.completeFlows(w)
	require.EqualValues(t, 5, w.flows[0].Dropped)
	require.Zero(t, w.flows[1].Dropped)
	require.EqualValues(t, 4, w.flows[2].Dropped)
}

// What was dropped between the reading of flows and that of drops is in a flow's next
// record.
func TestDropsThatAreReadBeforeTheirFlow(t *testing.T) {
	s := &session{}
	s.completeFlows(&window{events: []convert.Event{convert.DropEvent{Key: testRecord(loopback, 1).Key, Packets: 3}}})
	w := &window{flows: []flow.Record{testRecord(loopback, 1)}}
	s.completeFlows(w)
	require.EqualValues(t, 3, w.flows[0].Dropped)

	s.completeFlows(&window{events: []convert.Event{convert.DropEvent{Key: testRecord(loopback, 1).Key, Packets: 3}}})
	s.completeFlows(&window{})
	w = &window{flows: []flow.Record{testRecord(loopback, 1)}}
	s.completeFlows(w)
	require.Zero(t, w.flows[0].Dropped, "it was not of this flow's packets")
}

// valuesOf gives the values of a sum by their attributes' values, joined.
func valuesOf(t *testing.T, md pmetric.Metrics, name string) map[string]int64 {
	t.Helper()
	got := map[string]int64{}
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if m.Name() != name {
					continue
				}
				for _, dp := range m.Sum().DataPoints().All() {
					got[labels(dp.Attributes())] = dp.IntValue()
				}
			}
		}
	}
	return got
}

func labels(attrs pcommon.Map) string {
	var text string
	for _, key := range []string{"network.transport", "netprobe.connection.role", "netprobe.connection.phase", "netprobe.tcp.reset.by", "error.type", "server.address"} {
		if v, ok := attrs.Get(key); ok {
			text += v.AsString() + " "
		}
	}
	return text[:max(len(text)-1, 0)]
}

func TestSocketMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _ := newTestMetricsSink(t, testConfig())
		w := windowAt(100)
		w.sockets = &socketWindow{
			counters: map[flow.Protocol]sockets.Counters{
				flow.TCP: {
					Opened: [flow.Roles]uint64{10, 20}, Closed: [flow.Roles]uint64{8, 18},
					Failed:    [flow.Failures]uint64{flow.Refused: 1, flow.TimedOut: 2, flow.Reset: 3, flow.Unreachable: 4, flow.Canceled: 5, flow.OtherFailure: 6},
					ResetSent: [flow.Roles]uint64{1, 2}, ResetReceived: [flow.Roles]uint64{3, 4},
				},
				flow.UDP: {Opened: [flow.Roles]uint64{30, 40}, Closed: [flow.Roles]uint64{28, 0}},
			},
			totals: map[connections.Kind]connections.Totals{
				{Protocol: flow.TCP, Role: flow.Client}: {BytesSent: 100, BytesReceived: 200, Retransmits: 7},
				{Protocol: flow.TCP, Role: flow.Server}: {BytesSent: 300, BytesReceived: 400, Retransmits: 8},
				{Protocol: flow.UDP, Role: flow.Client}: {BytesSent: 500, BytesReceived: 600},
			},
			synACKs:   2,
			listeners: []connections.Listener{{Address: netip.MustParseAddrPort("[::]:80"), Drops: 9}},
		}
		m.give(w)
		require.Equal(t, map[string]int64{"tcp client": 10, "tcp server": 20, "udp client": 30, "udp server": 40}, valuesOf(t, p.taken, "netprobe.socket.connections"))
		require.Equal(t, map[string]int64{
			"tcp client connect": 10, "tcp client close": 8, "tcp client failed": 21, "tcp server accept": 20, "tcp server close": 18,
			"udp client connect": 30, "udp client close": 28, "udp server accept": 40, "udp server close": 0,
		}, valuesOf(t, p.taken, "netprobe.socket.events"))
		require.Equal(t, map[string]int64{"tcp client": 100, "tcp server": 300, "udp client": 500, "udp server": 0}, valuesOf(t, p.taken, "netprobe.socket.bytes.sent"))
		require.Equal(t, map[string]int64{"tcp client": 200, "tcp server": 400, "udp client": 600, "udp server": 0}, valuesOf(t, p.taken, "netprobe.socket.bytes.recv"))
		require.Equal(t, map[string]int64{"client": 7, "server": 10}, valuesOf(t, p.taken, "netprobe.tcp.retransmits"))
		require.Equal(t, map[string]int64{"client local": 1, "server local": 2, "client remote": 3, "server remote": 4}, valuesOf(t, p.taken, "netprobe.tcp.resets"))
		require.Equal(t, map[string]int64{
			"client refused": 1, "client timeout": 2, "client reset": 3, "client unreachable": 4, "client canceled": 5, "client _OTHER": 6,
		}, valuesOf(t, p.taken, "netprobe.tcp.failed.connections"))
		require.Equal(t, map[string]int64{"::": 9}, valuesOf(t, p.taken, "netprobe.tcp.listen.overflows"))
		m.stop(context.Background())
	})
}
