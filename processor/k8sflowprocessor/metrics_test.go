// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	c "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/clustertest"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/metadatatest"
)

func startMetrics(t *testing.T, cfg *Config, next consumer.Metrics, r inventory.Resolver) processor.Metrics {
	set, _ := settings(t)
	p, err := NewFactory().CreateMetrics(t.Context(), set, cfg, next)
	require.NoError(t, err)
	require.NoError(t, p.Start(t.Context(), hostWith(r)))
	return p
}

// delta is a point of a delta sum.
type delta struct {
	value int64
	attrs attributes
}

// sent is a point of a flow metric, of what a client sent to a server's port.
func sent(value int64, source, destination string, port int64, more attributes) delta {
	return delta{value, merge(attributes{
		netattr.SourceAddress: source, netattr.DestinationAddress: destination, netattr.DestinationPort: port,
		netattr.NetworkTransport: "tcp", netattr.NetworkType: "ipv4",
	}, more)}
}

func deltas(t *testing.T, name string, end time.Time, points ...delta) pmetric.Metrics {
	md := pmetric.NewMetrics()
	addDeltas(t, md, name, end, points...)
	return md
}

func addDeltas(t *testing.T, md pmetric.Metrics, name string, end time.Time, points ...delta) {
	m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName(name)
	m.SetUnit("By")
	sum := m.SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	for _, p := range points {
		dp := sum.DataPoints().AppendEmpty()
		dp.SetStartTimestamp(timestamp(end.Add(-10 * time.Second)))
		dp.SetTimestamp(timestamp(end))
		dp.SetIntValue(p.value)
		require.NoError(t, dp.Attributes().FromRaw(p.attrs))
	}
}

// lastOf gives the last value of each series of a metric, by its attributes as text.
func lastOf(t *testing.T, sink *consumertest.MetricsSink, name string) map[string]int64 {
	out := map[string]int64{}
	for _, md := range sink.AllMetrics() {
		for _, m := range metricsOf(md, name) {
			require.Equal(t, pmetric.AggregationTemporalityCumulative, m.Sum().AggregationTemporality())
			require.True(t, m.Sum().IsMonotonic())
			for _, dp := range m.Sum().DataPoints().All() {
				key := text(dp.Attributes())
				require.GreaterOrEqual(t, dp.IntValue(), out[key])
				require.Less(t, dp.StartTimestamp(), dp.Timestamp())
				out[key] = dp.IntValue()
			}
		}
	}
	return out
}

func metricsOf(md pmetric.Metrics, name string) []pmetric.Metric {
	var out []pmetric.Metric
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if m.Name() == name {
					out = append(out, m)
				}
			}
		}
	}
	return out
}

func text(attrs pcommon.Map) string {
	raw := attrs.AsRaw()
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		parts = append(parts, fmt.Sprint(key, "=", raw[key]))
	}
	short := strings.NewReplacer("netprobe.flow.", "", "network.", "", "namespace.name", "ns", "source.k8s.", "s.", "destination.k8s.", "d.", "workload.", "")
	return short.Replace(strings.Join(parts, " "))
}

func TestPointsAreFoldedToWorkloads(t *testing.T) {
	var sink consumertest.MetricsSink
	p := startMetrics(t, defaults(on("n1")), &sink, c.New())
	const bytes = "netprobe.flow.bytes"
	require.NoError(t, p.ConsumeMetrics(t.Context(), deltas(t, bytes, at,
		sent(100, c.Client1, c.Web1, 8080, nil),
		sent(20, c.Client1, c.Web2, 8080, nil),
		sent(3, c.Client1, c.WebService, 80, attributes{netattr.NATDestinationAddress: c.Web2, netattr.NATDestinationPort: 8080, netattr.NATOriginal: true}),
		sent(4, c.Client1, c.Outside, 443, nil),
		sent(5, c.Client1, "198.51.100.1", 443, nil),
		// masqueraded: who opened it is who it was before
		sent(30, c.Node1, c.Outside, 443, attributes{netattr.NATSourceAddress: c.Client1, netattr.NATOriginal: false}),
		sent(40, c.Outside, c.Node1, c.WebNodePort, attributes{
			netattr.NATSourceAddress: c.Gateway1, netattr.NATDestinationAddress: c.Web2, netattr.NATDestinationPort: 8080, netattr.NATOriginal: true,
		}),
		sent(6, c.Node1, c.Web1, 8080, nil),
		sent(7, c.Node1, c.Web1, 8080, attributes{netattr.SourceContainerID: c.NodeShell}),
		sent(8, c.Web2, c.Client1, 40000, nil), // n2 reports it
		sent(70, c.Bare1, c.Static1, 1, nil),
		delta{9, attributes{netattr.NetworkTransport: "udp", netattr.NetworkType: "ipv4"}},
	)))
	require.NoError(t, p.ConsumeMetrics(t.Context(), deltas(t, bytes, at.Add(10*time.Second), sent(1000, c.Client1, c.Web1, 9999, nil))))
	require.NoError(t, p.Shutdown(t.Context()))
	require.Equal(t, map[string]int64{
		"d.ns=shop d.kind=Deployment d.name=web direction=intra-node transport=tcp type=ipv4 s.ns=shop s.kind=Deployment s.name=client":                    1100,
		"d.ns=shop d.kind=Deployment d.name=web direction=inter-node transport=tcp type=ipv4 s.ns=shop s.kind=Deployment s.name=client":                    20,
		"d.ns=shop d.service.name=web d.kind=Deployment d.name=web direction=inter-node transport=tcp type=ipv4 s.ns=shop s.kind=Deployment s.name=client": 3,
		"d.ns=shop d.service.name=web d.kind=Deployment d.name=web direction=ingress transport=tcp type=ipv4":                                              40,
		"direction=egress transport=tcp type=ipv4 s.ns=shop s.kind=Deployment s.name=client":                                                               39,
		"d.ns=shop d.kind=Deployment d.name=web direction=intra-node transport=tcp type=ipv4 s.node.name=n1":                                               6,
		"d.ns=shop d.kind=Deployment d.name=web direction=intra-node transport=tcp type=ipv4 s.ns=kube-system s.kind=DaemonSet s.name=agent":               7,
		"d.ns=default d.kind=Pod d.name=static direction=intra-node transport=tcp type=ipv4 s.ns=default s.kind=Pod s.name=bare":                           70,
		"transport=udp type=ipv4": 9,
	}, lastOf(t, &sink, bytes))
	require.Equal(t, 1, sink.AllMetrics()[1].DataPointCount(), "only what has changed")
}

func TestDimensionsAreChosen(t *testing.T) {
	for _, tt := range []struct {
		dimensions []string
		want       string
	}{
		{[]string{}, "direction=inter-node transport=tcp type=ipv4"},
		{[]string{"node"}, "d.node.name=n2 direction=inter-node transport=tcp type=ipv4 s.node.name=n1"},
		{[]string{"pod"}, "d.pod.name=web-2 d.pod.uid=uid-web-2 direction=inter-node transport=tcp type=ipv4 s.pod.name=client-1 s.pod.uid=uid-client-1"},
		{[]string{"address"}, "destination.address=10.244.2.3 direction=inter-node transport=tcp type=ipv4 source.address=10.244.1.2"},
		{[]string{"port", "tunnel"}, "destination.port=8080 direction=inter-node netprobe.tunnel.id=1 transport=tcp type=ipv4"},
		{[]string{"zone"}, "destination.cloud.availability_zone=b direction=inter-node transport=tcp type=ipv4 source.cloud.availability_zone=a"},
	} {
		var sink consumertest.MetricsSink
		p := startMetrics(t, defaults(func(cfg *Config) { cfg.Metrics.Dimensions = tt.dimensions }), &sink, c.New())
		require.NoError(t, p.ConsumeMetrics(t.Context(), deltas(t, "netprobe.flow.packets", at, sent(7, c.Client1, c.Web2, 8080, attributes{netattr.TunnelID: 1}))))
		require.Equal(t, map[string]int64{tt.want: 7}, lastOf(t, &sink, "netprobe.flow.packets"))
		require.NoError(t, p.Shutdown(t.Context()))
	}
}

// Both ends' nodes report each packet across them, and their sum is what there was.
func TestTwoNodesCountOnce(t *testing.T) {
	points := []delta{
		sent(100, c.Client1, c.Web2, 8080, nil), sent(20, c.Web2, c.Client1, 1, nil), sent(3, c.Node1, c.Node2, 22, nil), sent(4, c.Node2, c.Client1, 9, nil),
	}
	total := func(reporters string) int64 {
		var sum int64
		for _, node := range []string{"n1", "n2"} {
			var sink consumertest.MetricsSink
			p := startMetrics(t, defaults(on(node), func(cfg *Config) { cfg.Metrics.Reporters = reporters }), &sink, c.New())
			require.NoError(t, p.ConsumeMetrics(t.Context(), deltas(t, "netprobe.flow.bytes", at, points...)))
			require.NoError(t, p.Shutdown(t.Context()))
			for series, value := range lastOf(t, &sink, "netprobe.flow.bytes") {
				sum += value
				require.Equal(t, reporters == reportersAll, strings.Contains(series, "reporter="), series)
			}
		}
		return sum
	}
	require.EqualValues(t, 127, total(reportersPreferred))
	require.EqualValues(t, 254, total(reportersAll))
}

func TestFlowsAreCountedByWhatTheyAre(t *testing.T) {
	var sink consumertest.MetricsSink
	p := startMetrics(t, defaults(on("n1"), func(cfg *Config) { cfg.Metrics.Dimensions = []string{"workload"} }), &sink, c.New())
	require.NoError(t, p.ConsumeMetrics(t.Context(), deltas(t, "netprobe.flows", at,
		sent(1, c.Client1, c.Web1, 8080, nil),
		sent(2, c.Client1, c.Web2, 8080, nil),
		sent(4, c.Client1, c.WebService, 80, attributes{netattr.NATDestinationAddress: c.Web2, netattr.NATDestinationPort: 8080, netattr.NATOriginal: true}),
		sent(8, c.Outside, c.Node1, c.WebNodePort, nil),
		sent(16, c.Client1, c.Outside, 443, nil),
		sent(32, c.Node1, c.Node2, 22, nil),
		sent(64, c.Web2, c.Client1, 40000, nil), // n2 reports it
	)))
	require.NoError(t, p.Shutdown(t.Context()))
	sum := func(name string) (total int64) {
		for _, value := range lastOf(t, &sink, name) {
			total += value
		}
		return total
	}
	require.EqualValues(t, 1+2+4, sum("netprobe.k8s.pod.flows"))
	require.EqualValues(t, 4+8, sum("netprobe.k8s.service.flows"))
	require.EqualValues(t, 2+4+32, sum("netprobe.k8s.inter_node.flows"))
	require.EqualValues(t, 1, sum("netprobe.k8s.intra_node.flows"))
	require.EqualValues(t, 63, sum("netprobe.flows"))
}

// What there is no room for goes together, and all adds up.
func TestSeriesHaveABudget(t *testing.T) {
	set, tel := settings(t)
	var sink consumertest.MetricsSink
	cfg := defaults(func(cfg *Config) { cfg.Metrics.MaxSeries, cfg.Metrics.Dimensions = 3, []string{"address"} })
	p, err := NewFactory().CreateMetrics(t.Context(), set, cfg, &sink)
	require.NoError(t, err)
	require.NoError(t, p.Start(t.Context(), hostWith(c.New())))
	var points []delta
	for i := range int64(10) {
		points = append(points, sent(1+i, c.Client1, fmt.Sprintf("203.0.113.%d", i), 443, nil))
	}
	require.NoError(t, p.ConsumeMetrics(t.Context(), deltas(t, "netprobe.flow.bytes", at, points...)))
	got := lastOf(t, &sink, "netprobe.flow.bytes")
	require.Len(t, got, 4)
	require.EqualValues(t, 4+5+6+7+8+9+10, got["direction=egress transport=tcp type=ipv4 otel.metric.overflow=true"])
	metadatatest.AssertEqualProcessorK8sFlowPoints(t, tel, []metricdata.DataPoint[int64]{
		{Value: 3, Attributes: attribute.NewSet(attribute.String("outcome", "folded"))},
		{Value: 7, Attributes: attribute.NewSet(attribute.String("outcome", "overflow"))},
	}, metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualProcessorK8sFlowSeries(t, tel, []metricdata.DataPoint[int64]{
		{Value: 3, Attributes: attribute.NewSet(attribute.String("metric", "netprobe.flow.bytes"))},
	}, metricdatatest.IgnoreTimestamp())
	require.NoError(t, p.Shutdown(t.Context()))
}

// What has been folded is this processor's: the one before must not send it again.
func TestNothingIsCountedTwiceWhereThePipelineRefuses(t *testing.T) {
	next := &refusingMetrics{times: 1}
	p := startMetrics(t, defaults(), next, c.New())
	require.NoError(t, p.ConsumeMetrics(t.Context(), deltas(t, "netprobe.flow.bytes", at, sent(1, c.Client1, c.Web1, 1, nil), sent(5, c.Client1, c.DB2, 1, nil))))
	require.Empty(t, next.AllMetrics())
	require.NoError(t, p.ConsumeMetrics(t.Context(), deltas(t, "netprobe.flow.bytes", at.Add(time.Second), sent(10, c.Client1, c.Web1, 1, nil))))
	var sum int64
	for _, value := range lastOf(t, &next.MetricsSink, "netprobe.flow.bytes") {
		sum += value
	}
	require.EqualValues(t, 16, sum, "also the series that did not change since")
	next.times = 1
	other := deltas(t, "somebody.elses", at, sent(1, c.Client1, c.Web1, 1, nil))
	require.Error(t, p.ConsumeMetrics(t.Context(), other), "what is not folded is the sender's still")
	require.NoError(t, p.Shutdown(t.Context()))
}

type refusingMetrics struct {
	consumertest.MetricsSink
	times int
}

func (r *refusingMetrics) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	if r.times > 0 {
		r.times--
		return context.DeadlineExceeded
	}
	return r.MetricsSink.ConsumeMetrics(ctx, md)
}

// Metrics of others, and of interfaces, pass as they are; tunnels' ends are named.
func TestOtherMetricsPass(t *testing.T) {
	var sink consumertest.MetricsSink
	p := startMetrics(t, defaults(), &sink, c.New())
	md := deltas(t, "somebody.elses", at, sent(1, c.Client1, c.Web1, 1, nil))
	addDeltas(t, md, "netprobe.interface.rx.bytes", at, delta{7, attributes{netattr.NetworkInterfaceName: "eth0"}})
	md.ResourceMetrics().At(1).ScopeMetrics().At(0).Metrics().At(0).Sum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	addDeltas(t, md, "netprobe.vxlan.bytes", at, delta{9, attributes{netattr.TunnelID: 1, netattr.TunnelSourceAddress: c.Node1, netattr.TunnelDestinationAddress: c.Node2}})
	tunnels := md.ResourceMetrics().At(2).ScopeMetrics().At(0).Metrics().At(0)
	tunnels.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	want := pmetric.NewMetrics()
	md.CopyTo(want)
	named := want.ResourceMetrics().At(2).ScopeMetrics().At(0).Metrics().At(0).Sum().DataPoints().At(0).Attributes()
	named.PutStr("netprobe.tunnel.source.k8s.node.name", "n1")
	named.PutStr("netprobe.tunnel.destination.k8s.node.name", "n2")
	require.NoError(t, p.ConsumeMetrics(t.Context(), md))
	require.Equal(t, want, sink.AllMetrics()[0])
	require.NoError(t, p.Shutdown(t.Context()))
}

// Each end of a connection measures for itself, so both of them report.
func TestHistogramsAreFolded(t *testing.T) {
	var sink consumertest.MetricsSink
	p := startMetrics(t, defaults(on("n2")), &sink, c.New())
	for i := range 2 {
		md := pmetric.NewMetrics()
		m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
		m.SetName("netprobe.tcp.rtt")
		m.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
		for _, server := range []string{c.Web2, c.DB2, c.Web2} {
			dp := m.Histogram().DataPoints().AppendEmpty()
			require.NoError(t, dp.Attributes().FromRaw(sent(0, c.Client1, server, 80, attributes{netattr.ConnectionRole: "server"}).attrs))
			dp.SetStartTimestamp(timestamp(at.Add(time.Duration(i-1) * time.Second)))
			dp.SetTimestamp(timestamp(at.Add(time.Duration(i) * time.Second)))
			dp.ExplicitBounds().FromRaw([]float64{0.1, 1})
			dp.BucketCounts().FromRaw([]uint64{1, 2, 3})
			dp.SetCount(6)
			dp.SetSum(5)
		}
		require.NoError(t, p.ConsumeMetrics(t.Context(), md))
	}
	points := metricsOf(sink.AllMetrics()[1], "netprobe.tcp.rtt")[0].Histogram().DataPoints()
	require.Equal(t, 2, points.Len())
	counts := map[any][]uint64{}
	for _, dp := range points.All() {
		counts[dp.Attributes().AsRaw()["destination.k8s.workload.name"]] = dp.BucketCounts().AsRaw()
		require.Equal(t, timestamp(at.Add(-time.Second)), dp.StartTimestamp())
	}
	require.Equal(t, map[any][]uint64{"web": {4, 8, 12}, "db": {2, 4, 6}}, counts)
	require.NoError(t, p.Shutdown(t.Context()))
}
