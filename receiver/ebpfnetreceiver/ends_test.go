// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/connections"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadatatest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/sockets"
)

func identifyingConfig() *Config {
	cfg := testConfig()
	cfg.Flows.IdentifyEnds = true
	return cfg
}

// randomConnections gives what becomes of sockets, the same for the same seed: some are
// followed and some only counted, and some end while the others are read.
type randomConnections struct {
	rnd  *rand.Rand
	next uint64
	live []flow.Connection
	fake *fakeSockets
}

func (r *randomConnections) step() {
	for range r.rnd.IntN(10) {
		r.begin()
	}
	for i := range r.live {
		now := &r.live[i].Now
		now.Retransmits += r.rnd.Uint32N(3)
		now.SegmentsReceived += r.rnd.Uint32N(2)
		r.live[i].RTT = time.Duration(1+r.rnd.IntN(20)) * 100 * time.Microsecond
	}
	r.end(r.rnd.IntN(6))
	r.uncounted()
	r.fake.meanwhile = func() {
		r.end(r.rnd.IntN(3))
		r.fake.reading.Live = append([]flow.Connection{}, r.live...)
		r.uncounted()
	}
}

func (r *randomConnections) begin() {
	r.next++
	c := flow.Connection{
		ID: flow.ConnectionID{Socket: r.next}, Protocol: flow.TCP, Role: flow.Role(r.rnd.IntN(2)),
		Local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(r.rnd.IntN(4))}), uint16(r.rnd.IntN(3))+80),
		Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(r.rnd.IntN(4))}), uint16(r.rnd.IntN(3))+80),
	}
	if c.Role == flow.Client && r.rnd.IntN(3) == 0 {
		c.Failure = flow.Failure(1 + r.rnd.IntN(flow.Failures-1)) // it will come to nothing
	} else {
		c.Established = true
		if c.Role == flow.Client {
			c.Latency = time.Duration(1+r.rnd.IntN(9)) * time.Millisecond
		}
	}
	r.live = append(r.live, c)
}

func (r *randomConnections) end(n int) {
	counters := r.fake.counters[flow.TCP]
	for range min(n, len(r.live)) {
		c := r.live[0]
		r.live = r.live[1:]
		c.Closed = time.Unix(100, 0)
		if !c.Established {
			counters.Failed[c.Failure]++
		} else {
			c.ResetSent, c.ResetReceived = r.rnd.IntN(3) == 0, r.rnd.IntN(3) == 0
			if c.ResetSent {
				counters.ResetSent[c.Role]++
			}
			if c.ResetReceived {
				counters.ResetReceived[c.Role]++
			}
		}
		r.fake.reading.Closed = append(r.fake.reading.Closed, c)
	}
	r.fake.counters[flow.TCP] = counters
}

// uncounted is what ends without that there was room to follow it.
func (r *randomConnections) uncounted() {
	counters := r.fake.counters[flow.TCP]
	counters.Failed[1+r.rnd.IntN(flow.Failures-1)]++
	counters.ResetSent[r.rnd.IntN(flow.Roles)] += r.rnd.Uint64N(2)
	r.fake.counters[flow.TCP] = counters
	r.fake.health.SYNACKRetransmits += r.rnd.Uint64N(3)
}

// windowsOf reads random connections in a session.
func windowsOf(t *testing.T, seed uint64, identify bool) []window {
	t.Helper()
	s, _, sk := openTestSession(t)
	s.cfg.Flows.IdentifyEnds = identify
	fake := &fakeSockets{counters: map[flow.Protocol]sockets.Counters{flow.TCP: {}, flow.UDP: {}}}
	require.NoError(t, s.useSockets(fake))
	r := &randomConnections{rnd: rand.New(rand.NewPCG(seed, 5)), fake: fake}
	for range 20 {
		r.step()
		s.tick(context.Background())
	}
	r.step()
	s.collect(context.Background(), sk) // the last one
	require.Len(t, sk.windows, 21)
	return sk.windows
}

// summed has the values of sums and histograms of TCP, by all but the ends.
type summed map[string]float64

func (s summed) add(md pmetric.Metrics) {
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				s.addMetric(m)
			}
		}
	}
}

func (s summed) addMetric(m pmetric.Metric) {
	switch m.Name() {
	case "netprobe.tcp.retransmits", "netprobe.tcp.resets", "netprobe.tcp.failed.connections":
		for _, dp := range m.Sum().DataPoints().All() {
			s.addValue(m.Name(), dp.Attributes(), "", float64(dp.IntValue()))
		}
	case roundTrips, connectLatencies:
		for _, dp := range m.Histogram().DataPoints().All() {
			s.addValue(m.Name(), dp.Attributes(), "sum", dp.Sum())
			s.addValue(m.Name(), dp.Attributes(), "count", float64(dp.Count()))
			for i, n := range dp.BucketCounts().All() {
				s.addValue(m.Name(), dp.Attributes(), fmt.Sprint(i), float64(n))
			}
		}
	}
}

func (s summed) addValue(name string, attrs pcommon.Map, what string, value float64) {
	for _, key := range []string{"netprobe.connection.role", "netprobe.tcp.reset.by", "error.type"} {
		if v, ok := attrs.Get(key); ok {
			name += " " + v.Str()
		}
	}
	if value > 0 {
		s[name+" "+what] += value
	}
}

// All deltas by ends add up to what the totals are without the option: over budgets that
// are too small, refusals, and what nobody follows.
func TestMetricsByEndsAddUpToTheTotals(t *testing.T) {
	for seed := range uint64(8) {
		totals, identified := windowsOf(t, seed, false), windowsOf(t, seed, true)
		synctest.Test(t, func(t *testing.T) {
			m, p, _ := newTestMetricsSink(t, testConfig())
			for i := range totals {
				m.give(&totals[i])
			}
			want := summed{}
			want.add(p.taken)
			m.stop(context.Background())

			cfg := identifyingConfig()
			cfg.Flows.MaxSeries = 1 + int(seed)*4
			m, p, _ = newTestMetricsSink(t, cfg)
			rnd := rand.New(rand.NewPCG(seed, 6))
			got := summed{}
			for i := range identified {
				if p.err = nil; i < len(identified)-1 && rnd.IntN(3) == 0 {
					p.err = errTest
				}
				p.taken = pmetric.NewMetrics()
				m.give(&identified[i])
				got.add(p.taken)
			}
			m.stop(context.Background())
			require.GreaterOrEqual(t, len(want), 30, "of all kinds")
			require.Len(t, got, len(want))
			for what, value := range want {
				require.InDelta(t, value, got[what], 1e-9, "seed %d: %s", seed, what)
			}
		})
	}
}

// Ends are on the points of the metrics that have none without the option, and those do
// not come twice.
func TestMetricsByEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _ := newTestMetricsSink(t, identifyingConfig())
		w := windowAt(100)
		gain := connections.Gain{
			Between: connections.Between{Client: netip.MustParseAddr("10.0.0.1"), Server: netip.MustParseAddr("10.0.0.2"), Port: 443, Role: flow.Client, Container: "0123"},
			RTT:     time.Millisecond,
		}
		gain.Counts[connections.Retransmits] = 3
		w.sockets = &socketWindow{
			counters: map[flow.Protocol]sockets.Counters{flow.TCP: {ResetSent: [flow.Roles]uint64{5, 6}}},
			gains:    []connections.Gain{gain},
		}
		m.give(w)
		require.Equal(t, map[int64]time.Time{3: utc(95)}, sums(p.taken, "netprobe.tcp.retransmits"))
		require.Empty(t, sums(p.taken, "netprobe.tcp.resets"))
		require.Equal(t, map[string]int64{"tcp client": 0, "tcp server": 0}, valuesOf(t, p.taken, "netprobe.socket.connections"), "it has no ends to name")
		dp := onlyPoint(t, p.taken, "netprobe.tcp.retransmits")
		require.Equal(t, map[string]any{
			"source.address": "10.0.0.1", "destination.address": "10.0.0.2", "destination.port": int64(443), "network.transport": "tcp",
			"network.type": "ipv4", "netprobe.connection.role": "client", "source.container.id": "0123",
		}, dp.Attributes().AsRaw())
		m.give(windowAt(105))
		require.Empty(t, sums(p.taken, "netprobe.tcp.retransmits"))
		m.stop(context.Background())
	})
}

func onlyPoint(t *testing.T, md pmetric.Metrics, name string) pmetric.NumberDataPoint {
	t.Helper()
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if m.Name() == name {
					require.Equal(t, 1, m.Sum().DataPoints().Len())
					return m.Sum().DataPoints().At(0)
				}
			}
		}
	}
	require.FailNow(t, "no such metric", name)
	return pmetric.NumberDataPoint{}
}

func TestMetricsByEndsSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := identifyingConfig()
		metrics := &cfg.MetricsBuilderConfig.Metrics
		metrics.NetprobeTCPRetransmits.Enabled, metrics.NetprobeTCPResets.Enabled, metrics.NetprobeTCPFailedConnections.Enabled = false, false, false
		cfg.Sockets.Histograms.Type = "off"
		m, p, _ := newTestMetricsSink(t, cfg)
		w := windowAt(100)
		gain := connections.Gain{Between: connections.Between{Role: flow.Client}, RTT: time.Millisecond, Latency: time.Millisecond}
		for i := range gain.Counts {
			gain.Counts[i] = 1
		}
		w.sockets = &socketWindow{gains: []connections.Gain{gain}}
		m.give(w)
		got := summed{}
		got.add(p.taken)
		require.Empty(t, got)
		m.stop(context.Background())
	})
}

func TestMetricsByEndsFoldedAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := identifyingConfig()
		cfg.Flows.MaxSeries = 1
		m, p, tt := newTestMetricsSink(t, cfg)
		w := windowAt(100)
		w.sockets = &socketWindow{}
		for port := range uint16(4) {
			gain := connections.Gain{Between: connections.Between{Client: netip.MustParseAddr("10.0.0.1"), Port: port}}
			gain.Counts[connections.Retransmits] = 10
			w.sockets.gains = append(w.sockets.gains, gain)
		}
		m.give(w)
		require.Equal(t, map[int64]time.Time{10: utc(95), 30: utc(95)}, sums(p.taken, "netprobe.tcp.retransmits"))
		metadatatest.AssertEqualReceiverEbpfnetConnectionsFolded(t, tt, []metricdata.DataPoint[int64]{{Value: 3}}, metricdatatest.IgnoreTimestamp())
		m.stop(context.Background())
	})
}

// Points of flows, and of conversations, have what is known of the ends where the option
// says so, and begin with their interval.
func TestMetricsOfFlowsWithTheirEnds(t *testing.T) {
	identified := map[string]any{
		"netprobe.nat.destination.address": "10.244.0.7", "netprobe.nat.destination.port": int64(8443),
		"netprobe.nat.original": true, "source.container.id": "0123",
	}
	for _, identify := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			cfg := testConfig()
			cfg.Flows.IdentifyEnds = identify
			m, p, _ := newTestMetricsSink(t, cfg)
			m.give(windowAt(100, 1))
			m.give(windowAt(105))
			w := windowAt(110, 2)
			rec := &w.flows[0]
			other := rec.Tuple()
			other.Destination, other.DestinationPort = netip.MustParseAddr("10.244.0.7"), 8443
			rec.NAT = &flow.NAT{Other: other, Original: rec.Tuple()}
			rec.SourceContainer, rec.SourcePort = "0123", 40002
			rec.NAT.Original.SourcePort = 40002
			m.give(w)
			for _, name := range []string{"netprobe.flow.packets", "netprobe.flow.bytes", "netprobe.flows"} {
				dp := onlyPoint(t, p.taken, name)
				want := map[string]any{
					"source.address": "192.0.2.1", "destination.address": "198.51.100.7", "destination.port": int64(443),
					"network.transport": "tcp", "network.type": "ipv4",
				}
				start := utc(100)
				if identify {
					start = utc(105)
					for key, value := range identified {
						want[key] = value
					}
				}
				require.Equal(t, want, dp.Attributes().AsRaw(), name)
				require.Equal(t, start, dp.StartTimestamp().AsTime(), name)
			}
			m.stop(context.Background())
		})
	}
}
