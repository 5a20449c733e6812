// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/golden"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/pmetrictest"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadatatest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netfilter"
)

var update = flag.Bool("update", false, "write the golden files anew, to be read before they are committed")

// metricsPipeline keeps the metrics that it takes. Tests look into it while the
// sink rests.
type metricsPipeline struct {
	err   error
	calls int
	taken pmetric.Metrics
	// proceed is waited for in each call, where it is not nil.
	proceed chan struct{}
}

// newTestMetricsSink is a sink that was started. It is for a bubble of synctest,
// in which a test can wait until the sink rests.
func newTestMetricsSink(t *testing.T, cfg *Config) (*metricsSink, *metricsPipeline, *componenttest.Telemetry) {
	t.Helper()
	p := &metricsPipeline{}
	next, err := consumer.NewMetrics(func(_ context.Context, md pmetric.Metrics) error {
		p.calls++
		if p.proceed != nil {
			<-p.proceed
		}
		if p.err != nil {
			return p.err
		}
		p.taken = pmetric.NewMetrics()
		md.CopyTo(p.taken)
		return nil
	})
	require.NoError(t, err)
	tt := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tt.Shutdown(context.Background())) })
	set := metadatatest.NewSettings(tt)
	set.BuildInfo.Version = "1.2.3"
	m, err := newMetricsSink(set, cfg, next)
	require.NoError(t, err)
	m.start(time.Unix(95, 0), 42, newTestLedger(t, tt))
	return m, p, tt
}

// give gives the sink a window that it accounts for, and waits until it rests.
func (m *metricsSink) give(w *window) {
	w.accountant = m
	m.consume(context.Background(), w)
	synctest.Wait()
}

// interfacePoint of an interval of five seconds, another number in each place.
func interfacePoint(name string) aggregate.InterfacePoint {
	p := aggregate.InterfacePoint{
		Name: name,
		Total: flow.InterfaceCounters{
			Rx: flow.Volume{Packets: 1010, Bytes: 101010}, Tx: flow.Volume{Packets: 2020, Bytes: 202020},
		},
		Gained: flow.InterfaceCounters{
			Rx: flow.Volume{Packets: 11, Bytes: 1111}, Tx: flow.Volume{Packets: 22, Bytes: 2222},
		},
		Elapsed: 5 * time.Second,
	}
	p.Gained.XDP[flow.OutcomeOK] = flow.Volume{Packets: 1, Bytes: 10}
	p.Total.XDP[flow.OutcomeOK] = flow.Volume{Packets: 1, Bytes: 10}
	p.Total.XDP[flow.OutcomeTruncated] = flow.Volume{Packets: 2, Bytes: 20}
	p.Total.XDP[flow.OutcomeMalformed] = flow.Volume{Packets: 4, Bytes: 40}
	p.Total.XDP[flow.OutcomeUnsupported] = flow.Volume{Packets: 8, Bytes: 80}
	p.Total.XDP[flow.OutcomeNotIP] = flow.Volume{Packets: 16, Bytes: 160}
	return p
}

var none flow.InterfaceCounters

// fullWindow has one interface with all programs and one that XDP is not
// attached to.
func fullWindow() *window {
	w := windowAt(100, 3, 4)
	w.interfaces = []aggregate.InterfacePoint{interfacePoint("eth0"), interfacePoint("eth1")}
	w.interfaces[1].Total.XDP, w.interfaces[1].Gained.XDP = none.XDP, none.XDP
	w.xdp = map[string]bool{"eth0": true}
	w.speeds = map[string]float64{"eth0": 1e5} // of which 1111 and 2222 bytes in 5 s are 1.8 and 3.6 %
	end := func(ip string) netip.Addr { return netip.MustParseAddr(ip) }
	tunnel := func(id uint32, source, destination string, packets uint64, start int64) aggregate.TunnelPoint {
		return aggregate.TunnelPoint{
			Tunnel: flow.Tunnel{Type: flow.VXLAN, ID: id, HasID: true, Source: end(source), Destination: end(destination)},
			Total:  packetsOf100Bytes(packets), Start: time.Unix(start, 0),
		}
	}
	gre := tunnel(9, "192.0.2.1", "192.0.2.2", 64, 95)
	gre.Type = flow.GRE
	w.tunnels = []aggregate.TunnelPoint{
		tunnel(7, "192.0.2.1", "192.0.2.2", 1, 95), tunnel(7, "192.0.2.2", "192.0.2.1", 2, 97), gre,
	}
	w.networks = []aggregate.TunnelPoint{{
		Tunnel: flow.Tunnel{Type: flow.VXLAN, ID: 7, HasID: true}, Total: packetsOf100Bytes(3), Start: time.Unix(95, 0),
	}}
	w.tunnelsActive = 1
	w.drops = []convert.DropPoint{
		{DropKey: convert.DropKey{Reason: "NO_SOCKET", Interface: "eth0", Transport: "udp", Direction: "ingress"}, Packets: 6, Start: time.Unix(95, 0)},
		{DropKey: convert.DropKey{Reason: "NOT_SPECIFIED"}, Packets: 1, Start: time.Unix(97, 0)},
	}
	w.netfilterDrops = true
	w.netfilter = []netfilter.Count{
		{Place: netfilter.Place{Hook: netfilter.LocalIn}, Seen: packetsOf100Bytes(7), Dropped: packetsOf100Bytes(2)},
		{Place: netfilter.Place{Hook: netfilter.Forward, IPv6: true}, Seen: packetsOf100Bytes(5)},
	}
	return w
}

func requireGoldenMetrics(t *testing.T, name string, got pmetric.Metrics) {
	t.Helper()
	path := filepath.Join("testdata", name+".yaml")
	if *update {
		require.NoError(t, golden.WriteMetricsToFile(path, got, golden.SkipMetricTimestampNormalization()))
		require.NoError(t, os.Chmod(path, 0o644))
	}
	want, err := golden.ReadMetrics(path)
	require.NoError(t, err)
	require.NoError(t, pmetrictest.CompareMetrics(want, got,
		pmetrictest.IgnoreMetricsOrder(), pmetrictest.IgnoreMetricDataPointsOrder()))
}

func TestMetricsSink(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tc, xdp string
	}{
		{"metrics_all", "auto", "auto"},
		{"metrics_tc_only", "tcx", "off"},
		{"metrics_xdp_only", "off", "generic"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig()
				cfg.TC.Mode, cfg.XDP.Mode = tt.tc, tt.xdp
				m, p, _ := newTestMetricsSink(t, cfg)
				w := fullWindow()
				switch {
				case tt.tc == "off": // then nothing counts these
					w.flows, w.tunnels, w.networks = nil, nil, nil
				case tt.xdp == "off":
					w.xdp, w.interfaces[0].Gained.XDP = nil, none.XDP
				}
				m.give(w)
				requireGoldenMetrics(t, tt.name, p.taken)
				m.stop(context.Background())
			})
		})
	}
}

// sums gives the values of a sum's points, whatever their attributes.
func sums(md pmetric.Metrics, name string) map[int64]time.Time {
	got := map[int64]time.Time{}
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				if metric.Name() != name {
					continue
				}
				for _, dp := range metric.Sum().DataPoints().All() {
					got[dp.IntValue()] = dp.StartTimestamp().AsTime()
				}
			}
		}
	}
	return got
}

func utc(seconds int64) time.Time {
	return time.Unix(seconds, 0).UTC()
}

// Totals start with the receiver, deltas where the ones before ended.
func TestMetricsSinkStartTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _ := newTestMetricsSink(t, testConfig())
		w := fullWindow()
		w.interfaces = w.interfaces[:1]
		m.give(w)
		require.Equal(t, map[int64]time.Time{7: utc(95)}, sums(p.taken, "netprobe.flow.packets"))
		require.Equal(t, map[int64]time.Time{1010: utc(95)}, sums(p.taken, "netprobe.interface.rx.packets"))

		m.give(windowAt(105))
		w = windowAt(110, 8)
		w.interfaces = []aggregate.InterfacePoint{interfacePoint("eth0")}
		m.give(w)
		require.Equal(t, map[int64]time.Time{8: utc(100)}, sums(p.taken, "netprobe.flow.packets"))
		require.Equal(t, map[int64]time.Time{800: utc(100)}, sums(p.taken, "netprobe.flow.bytes"))
		require.Equal(t, map[int64]time.Time{1010: utc(95)}, sums(p.taken, "netprobe.interface.rx.packets"))
	})
}

// What flows gained in an interval that was refused comes with the next.
func TestMetricsSinkRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, tt := newTestMetricsSink(t, testConfig())
		p.err = errTest
		m.give(windowAt(100, 1))
		m.give(windowAt(105, 2))
		requireLedger(t, tt, map[string]uint64{})
		p.err = consumererror.NewPermanent(errTest)
		m.give(windowAt(110)) // nothing new, and tried again
		require.Equal(t, 3, p.calls)
		p.err = nil
		m.give(windowAt(115, 4))
		require.Equal(t, map[int64]time.Time{7: utc(95)}, sums(p.taken, "netprobe.flow.packets"))
		require.Equal(t, map[int64]time.Time{700: utc(95)}, sums(p.taken, "netprobe.flow.bytes"))
		requireLedger(t, tt, map[string]uint64{"exported": 7})
		m.give(windowAt(120, 8))
		require.Equal(t, map[int64]time.Time{8: utc(115)}, sums(p.taken, "netprobe.flow.packets"))
		m.stop(context.Background())
		requireLedger(t, tt, map[string]uint64{"exported": 15})

		// with one each time of the tunnels alive, and one of the conversation that began
		requireReceived(t, tt, "otelcol_receiver_accepted_metric_points", 4+2+1)
		requireReceived(t, tt, "otelcol_receiver_refused_metric_points", 6+3+3)
	})
}

// A conversation is counted in the interval that it began in, with what other metrics of
// flows are switched on, and comes again where the pipeline refused it.
func TestMetricsSinkConversations(t *testing.T) {
	for _, others := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			cfg := testConfig()
			metrics := &cfg.MetricsBuilderConfig.Metrics
			metrics.NetprobeFlowBytes.Enabled, metrics.NetprobeFlowPackets.Enabled = others, others
			m, p, _ := newTestMetricsSink(t, cfg)
			p.err = errTest
			m.give(windowAt(100, 1, 1))
			p.err = nil
			w := windowAt(105, 2, 2)
			w.flows[1].SourcePort++ // another one, in the same series
			m.give(w)
			require.Equal(t, map[int64]time.Time{2: utc(95)}, sums(p.taken, "netprobe.flows"))
			m.give(windowAt(110, 4))
			require.Empty(t, sums(p.taken, "netprobe.flows"))
			w.flows[1].SourcePort++
			w.end = time.Unix(115, 0)
			m.give(w)
			require.Equal(t, map[int64]time.Time{1: utc(105)}, sums(p.taken, "netprobe.flows"))
			m.stop(context.Background())
		})
	}
}

func TestMetricsSinkConversationsSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.MetricsBuilderConfig.Metrics.NetprobeFlows.Enabled = false
		m, p, _ := newTestMetricsSink(t, cfg)
		m.give(windowAt(100, 1))
		require.Equal(t, map[int64]time.Time{1: utc(95)}, sums(p.taken, "netprobe.flow.packets"))
		require.Empty(t, sums(p.taken, "netprobe.flows"))
		require.Nil(t, m.conversations)
		m.stop(context.Background())
	})
}

func TestMetricsSinkHasNothingToSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.MetricsBuilderConfig.Metrics.NetprobeVxlanTunnelsActive.Enabled = false
		m, p, tt := newTestMetricsSink(t, cfg)
		m.give(windowAt(100))
		require.Equal(t, 0, p.calls)
		requireLedger(t, tt, map[string]uint64{})
		m.give(windowAt(105, 1))
		require.Equal(t, 1, p.calls, "having nothing to say is not being busy")
	})
}

func TestMetricsSinkSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.MetricsBuilderConfig.Metrics.NetprobeFlowBytes.Enabled = false
		cfg.MetricsBuilderConfig.Metrics.NetprobeInterfaceRxPackets.Enabled = false
		m, p, _ := newTestMetricsSink(t, cfg)
		m.give(fullWindow())
		require.Equal(t, map[int64]time.Time{7: utc(95)}, sums(p.taken, "netprobe.flow.packets"))
		require.Empty(t, sums(p.taken, "netprobe.flow.bytes"))
		require.Empty(t, sums(p.taken, "netprobe.interface.rx.packets"))
		require.Equal(t, map[int64]time.Time{2020: utc(95)}, sums(p.taken, "netprobe.interface.tx.packets"))

		// without flow metrics there are no series to keep either
		cfg = testConfig()
		cfg.MetricsBuilderConfig.Metrics.NetprobeFlowBytes.Enabled = false
		cfg.MetricsBuilderConfig.Metrics.NetprobeFlowPackets.Enabled = false
		m, p, _ = newTestMetricsSink(t, cfg)
		m.give(fullWindow())
		require.Empty(t, sums(p.taken, "netprobe.flow.packets"))
		require.Equal(t, 0, m.series.Len())
	})
}

// XDP series are there where XDP is, also at zero, and for the last time with
// what an interface that has gone still gained.
func TestMetricsSinkXDP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.XDP.Mode = "auto"
		m, p, _ := newTestMetricsSink(t, cfg)
		w := windowAt(100)
		w.interfaces = []aggregate.InterfacePoint{{Name: "eth0", Elapsed: time.Second}}
		w.xdp = map[string]bool{"eth0": true}
		m.give(w)
		require.Equal(t, map[int64]time.Time{0: utc(95)}, sums(p.taken, "netprobe.xdp.packets"))

		w.xdp = nil
		m.give(w)
		require.Empty(t, sums(p.taken, "netprobe.xdp.packets"))

		w.interfaces = []aggregate.InterfacePoint{interfacePoint("eth0")}
		m.give(w)
		require.Equal(t, map[int64]time.Time{25: utc(95), 2: utc(95), 4: utc(95)}, sums(p.taken, "netprobe.xdp.packets"))
	})
}

// An interface that appears in the moment of the reading has no rate yet.
func TestMetricsSinkNoRateOverNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _ := newTestMetricsSink(t, testConfig())
		w := windowAt(100)
		w.interfaces = []aggregate.InterfacePoint{interfacePoint("eth0")}
		w.interfaces[0].Elapsed, w.interfaces[0].Gained.XDP = 0, none.XDP
		m.give(w)
		require.Equal(t, 4+1, p.taken.DataPointCount(), "totals, and the tunnels alive")
		require.Equal(t, map[int64]time.Time{1010: utc(95)}, sums(p.taken, "netprobe.interface.rx.packets"))
	})
}

func TestMetricsSinkConversationsTelemetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Flows.MaxEntries = 2
		m, _, tt := newTestMetricsSink(t, cfg)
		w := windowAt(100, 1, 1, 1, 1, 1)
		for i := range w.flows {
			w.flows[i].SourcePort += uint16(i)
		}
		m.give(w)
		one := func(value int64) []metricdata.DataPoint[int64] {
			return []metricdata.DataPoint[int64]{{Value: value}}
		}
		metadatatest.AssertEqualReceiverEbpfnetConversations(t, tt, one(2), metricdatatest.IgnoreTimestamp())
		metadatatest.AssertEqualReceiverEbpfnetConversationsEvicted(t, tt, one(3), metricdatatest.IgnoreTimestamp())
		m.stop(context.Background())
	})
}

func TestMetricsSinkTelemetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Flows.MaxSeries = 1
		m, _, tt := newTestMetricsSink(t, cfg)
		one := func(value int64) []metricdata.DataPoint[int64] {
			return []metricdata.DataPoint[int64]{{Value: value}}
		}
		requireSeries := func(series, folded int64) {
			t.Helper()
			metadatatest.AssertEqualReceiverEbpfnetFlowSeries(t, tt, one(series), metricdatatest.IgnoreTimestamp())
			metadatatest.AssertEqualReceiverEbpfnetFlowSeriesFolded(t, tt, one(folded), metricdatatest.IgnoreTimestamp())
		}
		m.give(windowAt(100, 1))
		requireSeries(1, 0)
		w := windowAt(105, 2, 4, 8)
		w.flows[1].Source, w.flows[2].DestinationPort = w.flows[1].Destination, 80
		m.give(w)
		requireSeries(2, 12)
		m.give(w)
		requireSeries(2, 24)
	})
}

// Totals and series go on adding up while the pipeline is busy, and nobody
// waits for it: the next metrics have all of it.
func TestMetricsSinkOfABusyPipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, tt := newTestMetricsSink(t, testConfig())
		p.proceed = make(chan struct{})
		m.give(windowAt(100, 1))
		m.give(windowAt(105, 2))
		m.give(windowAt(110, 4))
		require.Equal(t, 1, p.calls)
		requireLedger(t, tt, map[string]uint64{})

		p.proceed <- struct{}{}
		synctest.Wait()
		require.Equal(t, map[int64]time.Time{1: utc(95)}, sums(p.taken, "netprobe.flow.packets"))
		requireLedger(t, tt, map[string]uint64{"exported": 1})
		require.Equal(t, 1, p.calls, "the next interval is soon enough")

		m.give(windowAt(115, 8))
		p.proceed <- struct{}{}
		synctest.Wait()
		require.Equal(t, map[int64]time.Time{14: utc(100)}, sums(p.taken, "netprobe.flow.packets"))
		m.stop(context.Background())
		requireLedger(t, tt, map[string]uint64{"exported": 15})
	})
}

// What is refused after the pipeline took its time goes to what came meanwhile.
func TestMetricsSinkOfABusyPipelineThatRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, tt := newTestMetricsSink(t, testConfig())
		p.proceed, p.err = make(chan struct{}), errTest
		m.give(windowAt(100, 1))
		m.give(windowAt(105, 2))
		p.proceed <- struct{}{}
		synctest.Wait()
		p.err = nil
		m.give(windowAt(110, 4))
		p.proceed <- struct{}{}
		synctest.Wait()
		require.Equal(t, map[int64]time.Time{7: utc(95)}, sums(p.taken, "netprobe.flow.packets"))
		m.stop(context.Background())
		requireLedger(t, tt, map[string]uint64{"exported": 7})
	})
}

// The last packets of an interface that has gone come with the first metrics that
// the pipeline takes, once, whether it was busy or refused those before.
func TestMetricsSinkInterfaceGoneMeanwhile(t *testing.T) {
	gone := func() *window {
		w := windowAt(105)
		w.interfaces = []aggregate.InterfacePoint{interfacePoint("eth0")}
		return w
	}
	for _, tt := range []struct {
		name string
		miss func(m *metricsSink, p *metricsPipeline)
	}{
		{"busy", func(m *metricsSink, p *metricsPipeline) {
			p.proceed = make(chan struct{})
			m.give(windowAt(100, 1))
			m.give(gone())
			close(p.proceed)
			synctest.Wait()
		}},
		{"refused", func(m *metricsSink, p *metricsPipeline) {
			p.err = errTest
			m.give(gone())
			p.err = nil
		}},
		{"busy and refused", func(m *metricsSink, p *metricsPipeline) {
			p.proceed, p.err = make(chan struct{}), errTest
			m.give(gone())
			m.give(windowAt(110))
			close(p.proceed)
			synctest.Wait()
			p.err = nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, p, _ := newTestMetricsSink(t, testConfig())
				tt.miss(m, p)
				m.give(windowAt(115))
				require.Equal(t, map[int64]time.Time{1010: utc(95)}, sums(p.taken, "netprobe.interface.rx.packets"))
				require.Equal(t, map[int64]time.Time{25: utc(95), 2: utc(95), 4: utc(95)}, sums(p.taken, "netprobe.xdp.packets"))
				m.give(windowAt(120))
				require.Empty(t, sums(p.taken, "netprobe.interface.rx.packets"))
				m.stop(context.Background())
			})
		})
	}
}

// gauges gives the values of a gauge.
func gauges(md pmetric.Metrics, name string) []float64 {
	var got []float64
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				if metric.Name() != name {
					continue
				}
				for _, dp := range metric.Gauge().DataPoints().All() {
					got = append(got, dp.DoubleValue())
				}
			}
		}
	}
	return got
}

// An interface that is still there is handed on once, with its rate over the time
// since it last was.
func TestMetricsSinkInterfaceStillThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _ := newTestMetricsSink(t, testConfig())
		p.err = errTest
		w := windowAt(100)
		w.interfaces = []aggregate.InterfacePoint{interfacePoint("eth0")}
		m.give(w)
		p.err = nil
		w = windowAt(105)
		w.interfaces = []aggregate.InterfacePoint{interfacePoint("eth0")}
		w.interfaces[0].Total.Rx.Packets, w.interfaces[0].Gained.Rx.Packets = 2222, 49
		m.give(w)
		require.Equal(t, map[int64]time.Time{2222: utc(95)}, sums(p.taken, "netprobe.interface.rx.packets"))
		require.Equal(t, []float64{(11 + 49) / 10.}, gauges(p.taken, "netprobe.interface.rx.packets.rate"))
		m.give(w)
		require.Equal(t, []float64{49 / 5.}, gauges(p.taken, "netprobe.interface.rx.packets.rate"))
		m.stop(context.Background())
	})
}

// The last window is handed on before consume returns, after what is on its way.
func TestMetricsSinkLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, tt := newTestMetricsSink(t, testConfig())
		p.proceed = make(chan struct{})
		m.give(windowAt(100, 1))
		w := windowAt(105, 2)
		w.accountant, w.leaving = m, m
		left := false
		go func() {
			m.consume(context.Background(), w)
			left = true
		}()
		synctest.Wait()
		require.False(t, left)
		p.proceed <- struct{}{}
		synctest.Wait()
		require.Equal(t, 2, p.calls)
		require.False(t, left)
		p.proceed <- struct{}{}
		synctest.Wait()
		require.True(t, left)
		require.Equal(t, map[int64]time.Time{2: utc(100)}, sums(p.taken, "netprobe.flow.packets"))
		m.stop(context.Background())
		requireLedger(t, tt, map[string]uint64{"exported": 3})
	})
}

// That another sink leaves is nothing to wait for.
func TestMetricsSinkStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _ := newTestMetricsSink(t, testConfig())
		p.proceed = make(chan struct{})
		w := windowAt(100, 1)
		w.leaving = &fakeSink{}
		m.give(w) // does not hang
		close(p.proceed)
		m.stop(context.Background())
		require.Equal(t, map[int64]time.Time{1: utc(95)}, sums(p.taken, "netprobe.flow.packets"))
	})
}

// What the pipeline has not taken at the end is lost, and said to be: what it
// refused, what waits for it, and what it still refuses when nobody waits any more.
func TestMetricsSinkRefusedUntilShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, tt := newTestMetricsSink(t, testConfig())
		p.err = errTest
		m.give(windowAt(100, 1))
		w := windowAt(105, 2)
		w.accountant, w.leaving = m, m
		m.consume(context.Background(), w)
		m.stop(context.Background())
		requireLedger(t, tt, map[string]uint64{"lost refused_until_shutdown": 3})
	})
}

func TestMetricsSinkStopOutOfTime(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want map[string]uint64
	}{
		{nil, map[string]uint64{"exported": 1, "lost refused_until_shutdown": 2}},
		{errTest, map[string]uint64{"lost refused_until_shutdown": 3}},
	} {
		synctest.Test(t, func(t *testing.T) {
			m, p, own := newTestMetricsSink(t, testConfig())
			p.proceed, p.err = make(chan struct{}), tt.err
			m.give(windowAt(100, 1)) // on its way
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			w := windowAt(105, 2)
			w.accountant, w.leaving = m, m
			m.consume(ctx, w)
			m.stop(ctx)
			requireLedger(t, own, map[string]uint64{"lost refused_until_shutdown": 2})
			close(p.proceed)
			synctest.Wait()
			requireLedger(t, own, tt.want)
		})
	}
}

// A sink that does not account leaves the ledger to the one that does.
func TestMetricsSinkThatDoesNotAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, tt := newTestMetricsSink(t, testConfig())
		m.consume(context.Background(), windowAt(100, 1))
		synctest.Wait()
		require.Equal(t, map[int64]time.Time{1: utc(95)}, sums(p.taken, "netprobe.flow.packets"))
		p.err = errTest
		m.consume(context.Background(), windowAt(105, 2))
		m.stop(context.Background())
		requireLedger(t, tt, map[string]uint64{})
	})
}

// It accounts where it hands flows on.
func TestMetricsSinkAccounts(t *testing.T) {
	for _, tt := range []struct{ packets, bytes, want bool }{
		{true, true, true}, {true, false, true}, {false, true, true}, {false, false, false},
	} {
		cfg := testConfig()
		cfg.MetricsBuilderConfig.Metrics.NetprobeFlowPackets.Enabled = tt.packets
		cfg.MetricsBuilderConfig.Metrics.NetprobeFlowBytes.Enabled = tt.bytes
		m, err := newMetricsSink(testSettings(), cfg, consumertest.NewNop())
		require.NoError(t, err)
		require.Equal(t, tt.want, m.accounts())
	}
}

func TestMetricsSinkTunnelsSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		metrics := &cfg.MetricsBuilderConfig.Metrics
		metrics.NetprobeVxlanBytes.Enabled, metrics.NetprobeVxlanVniStats.Enabled = false, false
		metrics.NetprobeVxlanTunnelsActive.Enabled = false
		m, p, _ := newTestMetricsSink(t, cfg)
		m.give(fullWindow())
		require.Equal(t, map[int64]time.Time{1: utc(95), 2: utc(97)}, sums(p.taken, "netprobe.vxlan.packets"))
		for _, name := range []string{"netprobe.vxlan.bytes", "netprobe.vxlan.vni.stats", "netprobe.vxlan.tunnels.active"} {
			require.Empty(t, sums(p.taken, name))
		}
		m.stop(context.Background())
	})
}

// The descriptions written by hand are those that are documented, but for what
// the documentation adds to them.
func TestMetricsMadeByHandAreThoseOfTheMetadata(t *testing.T) {
	documentation, err := os.ReadFile("documentation.md")
	require.NoError(t, err)
	for name, metric := range map[string]convert.Metric{
		metadata.MetricsInfo.NetprobeFlowBytes.Name:            flowBytes,
		metadata.MetricsInfo.NetprobeDrops.Name:                droppedPackets,
		metadata.MetricsInfo.NetprobeFlows.Name:                flowsBegun,
		metadata.MetricsInfo.NetprobeTCPRetransmits.Name:       tcpRetransmits,
		metadata.MetricsInfo.NetprobeTCPResets.Name:            tcpResets,
		metadata.MetricsInfo.NetprobeTCPFailedConnections.Name: tcpFailedConnections,
		metadata.MetricsInfo.NetprobeFlowPackets.Name:          flowPackets,
		metadata.MetricsInfo.NetprobeVxlanBytes.Name:           vxlanBytes,
		metadata.MetricsInfo.NetprobeVxlanPackets.Name:         vxlanPackets,
		metadata.MetricsInfo.NetprobeVxlanVniStats.Name:        vxlanNetworks,
	} {
		require.Equal(t, name, metric.Name)
		_, section, found := strings.Cut(string(documentation), "### "+name+"\n")
		require.True(t, found, name)
		section, _, _ = strings.Cut(section, "\n### ")
		require.Contains(t, section, strings.TrimSuffix(metric.Description, "."))
		require.Contains(t, section, "| "+metric.Unit+" |")
	}
}

// Where a kernel does not tell what netfilter drops, nothing says that nothing was.
func TestMetricsSinkNetfilterWithoutDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, _ := newTestMetricsSink(t, testConfig())
		w := fullWindow()
		w.netfilterDrops = false
		m.give(w)
		require.Len(t, sums(p.taken, "netprobe.netfilter.packets"), 2, "seen, of two places")
		m.stop(context.Background())
	})
}
