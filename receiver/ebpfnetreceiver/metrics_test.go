// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/golden"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/pmetrictest"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadatatest"
)

var update = flag.Bool("update", false, "write the golden files anew, to be read before they are committed")

// metricsPipeline keeps the metrics that it takes.
type metricsPipeline struct {
	err   error
	calls int
	taken pmetric.Metrics
}

func newTestMetricsSink(t *testing.T, cfg *Config) (*metricsSink, *metricsPipeline, *componenttest.Telemetry) {
	t.Helper()
	p := &metricsPipeline{}
	next, err := consumer.NewMetrics(func(_ context.Context, md pmetric.Metrics) error {
		p.calls++
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
	m.start(time.Unix(95, 0), 42)
	return m, p, tt
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
			cfg := testConfig()
			cfg.TC.Mode, cfg.XDP.Mode = tt.tc, tt.xdp
			m, p, _ := newTestMetricsSink(t, cfg)
			w := fullWindow()
			switch {
			case tt.tc == "off": // then nothing counts these
				w.flows = nil
			case tt.xdp == "off":
				w.xdp, w.interfaces[0].Gained.XDP = nil, none.XDP
			}
			m.consume(context.Background(), w)
			requireGoldenMetrics(t, tt.name, p.taken)
			m.stop(context.Background())
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
	m, p, _ := newTestMetricsSink(t, testConfig())
	w := fullWindow()
	w.interfaces = w.interfaces[:1]
	m.consume(context.Background(), w)
	require.Equal(t, map[int64]time.Time{7: utc(95)}, sums(p.taken, "netprobe.flow.packets"))
	require.Equal(t, map[int64]time.Time{1010: utc(95)}, sums(p.taken, "netprobe.interface.rx.packets"))

	m.consume(context.Background(), windowAt(105))
	w = windowAt(110, 8)
	w.interfaces = []aggregate.InterfacePoint{interfacePoint("eth0")}
	m.consume(context.Background(), w)
	require.Equal(t, map[int64]time.Time{8: utc(100)}, sums(p.taken, "netprobe.flow.packets"))
	require.Equal(t, map[int64]time.Time{800: utc(100)}, sums(p.taken, "netprobe.flow.bytes"))
	require.Equal(t, map[int64]time.Time{1010: utc(95)}, sums(p.taken, "netprobe.interface.rx.packets"))
}

// What flows gained in an interval that was refused comes with the next.
func TestMetricsSinkRefused(t *testing.T) {
	m, p, tt := newTestMetricsSink(t, testConfig())
	p.err = errTest
	m.consume(context.Background(), windowAt(100, 1))
	m.consume(context.Background(), windowAt(105, 2))
	p.err = consumererror.NewPermanent(errTest)
	m.consume(context.Background(), windowAt(110)) // nothing new, and tried again
	require.Equal(t, 3, p.calls)
	p.err = nil
	m.consume(context.Background(), windowAt(115, 4))
	require.Equal(t, map[int64]time.Time{7: utc(95)}, sums(p.taken, "netprobe.flow.packets"))
	require.Equal(t, map[int64]time.Time{700: utc(95)}, sums(p.taken, "netprobe.flow.bytes"))
	m.consume(context.Background(), windowAt(120, 8))
	require.Equal(t, map[int64]time.Time{8: utc(115)}, sums(p.taken, "netprobe.flow.packets"))

	requireReceived(t, tt, "otelcol_receiver_accepted_metric_points", 4)
	requireReceived(t, tt, "otelcol_receiver_refused_metric_points", 6)
}

func TestMetricsSinkHasNothingToSay(t *testing.T) {
	m, p, _ := newTestMetricsSink(t, testConfig())
	m.consume(context.Background(), windowAt(100))
	require.Equal(t, 0, p.calls)
}

func TestMetricsSinkSwitchedOff(t *testing.T) {
	cfg := testConfig()
	cfg.MetricsBuilderConfig.Metrics.NetprobeFlowBytes.Enabled = false
	cfg.MetricsBuilderConfig.Metrics.NetprobeInterfaceRxPackets.Enabled = false
	m, p, _ := newTestMetricsSink(t, cfg)
	m.consume(context.Background(), fullWindow())
	require.Equal(t, map[int64]time.Time{7: utc(95)}, sums(p.taken, "netprobe.flow.packets"))
	require.Empty(t, sums(p.taken, "netprobe.flow.bytes"))
	require.Empty(t, sums(p.taken, "netprobe.interface.rx.packets"))
	require.Equal(t, map[int64]time.Time{2020: utc(95)}, sums(p.taken, "netprobe.interface.tx.packets"))

	// without flow metrics there are no series to keep either
	cfg = testConfig()
	cfg.MetricsBuilderConfig.Metrics.NetprobeFlowBytes.Enabled = false
	cfg.MetricsBuilderConfig.Metrics.NetprobeFlowPackets.Enabled = false
	m, p, _ = newTestMetricsSink(t, cfg)
	m.consume(context.Background(), fullWindow())
	require.Empty(t, sums(p.taken, "netprobe.flow.packets"))
	require.Equal(t, 0, m.series.Len())
}

// XDP series are there where XDP is, also at zero, and for the last time with
// what an interface that has gone still gained.
func TestMetricsSinkXDP(t *testing.T) {
	cfg := testConfig()
	cfg.XDP.Mode = "auto"
	m, p, _ := newTestMetricsSink(t, cfg)
	w := windowAt(100)
	w.interfaces = []aggregate.InterfacePoint{{Name: "eth0", Elapsed: time.Second}}
	w.xdp = map[string]bool{"eth0": true}
	m.consume(context.Background(), w)
	require.Equal(t, map[int64]time.Time{0: utc(95)}, sums(p.taken, "netprobe.xdp.packets"))

	w.xdp = nil
	m.consume(context.Background(), w)
	require.Empty(t, sums(p.taken, "netprobe.xdp.packets"))

	w.interfaces = []aggregate.InterfacePoint{interfacePoint("eth0")}
	m.consume(context.Background(), w)
	require.Equal(t, map[int64]time.Time{25: utc(95), 2: utc(95), 4: utc(95)}, sums(p.taken, "netprobe.xdp.packets"))
}

// An interface that appears in the moment of the reading has no rate yet.
func TestMetricsSinkNoRateOverNoTime(t *testing.T) {
	m, p, _ := newTestMetricsSink(t, testConfig())
	w := windowAt(100)
	w.interfaces = []aggregate.InterfacePoint{interfacePoint("eth0")}
	w.interfaces[0].Elapsed, w.interfaces[0].Gained.XDP = 0, none.XDP
	m.consume(context.Background(), w)
	require.Equal(t, 4, p.taken.DataPointCount())
	require.Equal(t, map[int64]time.Time{1010: utc(95)}, sums(p.taken, "netprobe.interface.rx.packets"))
}

func TestMetricsSinkTelemetry(t *testing.T) {
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
	m.consume(context.Background(), windowAt(100, 1))
	requireSeries(1, 0)
	w := windowAt(105, 2, 4, 8)
	w.flows[1].Source, w.flows[2].DestinationPort = w.flows[1].Destination, 80
	m.consume(context.Background(), w)
	requireSeries(2, 12)
	m.consume(context.Background(), w)
	requireSeries(2, 24)
}

// The descriptions written by hand are those that are documented, but for what
// the documentation adds to them.
func TestFlowMetricsAreThoseOfTheMetadata(t *testing.T) {
	require.Equal(t, metadata.MetricsInfo.NetprobeFlowBytes.Name, flowBytes.Name)
	require.Equal(t, metadata.MetricsInfo.NetprobeFlowPackets.Name, flowPackets.Name)
	documentation, err := os.ReadFile("documentation.md")
	require.NoError(t, err)
	require.Contains(t, string(documentation), flowBytes.Description[:len(flowBytes.Description)-1])
	require.Contains(t, string(documentation), flowPackets.Description[:len(flowPackets.Description)-1])
	require.Equal(t, "By", flowBytes.Unit)
	require.Equal(t, "{packet}", flowPackets.Unit)
}
