// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
)

var (
	bytesMetric = Metric{
		Name: "netprobe.flow.bytes", Unit: "By", Description: "Bytes.",
		Value: func(v flow.Volume) uint64 { return v.Bytes },
	}
	packetsMetric = Metric{
		Name: "netprobe.flow.packets", Unit: "{packet}", Description: "Packets.",
		Value: func(v flow.Volume) uint64 { return v.Packets },
	}
)

// points are all kinds of series, each with a start of its own.
func points() []aggregate.SeriesPoint {
	keys := []aggregate.SeriesKey{
		{Source: source4, Destination: destination4, Protocol: flow.TCP, Server: flow.DestinationSide, Port: 443},
		{Source: destination4, Destination: source4, Protocol: flow.TCP, Server: flow.SourceSide, Port: 443},
		{Source: source6, Destination: destination6, Protocol: flow.UDP, IPv6: true, Server: flow.DestinationSide},
		{Source: source6, Destination: destination6, Protocol: flow.ICMPv6, IPv6: true},
		{Source: source4, Destination: destination4, Protocol: flow.TCP, Server: flow.DestinationSide, Port: 443, HasTunnelID: true}, // zero is a VNI
		{Protocol: flow.TCP},
		{Protocol: 253, IPv6: true},
		// where every interface counts for itself
		{Source: source4, Destination: destination4, Interface: "eth0", Protocol: flow.UDP, Server: flow.DestinationSide, Port: 53},
		{Source: source4, Destination: destination4, Interface: "eth0", Direction: flow.Egress, Protocol: flow.UDP, Server: flow.DestinationSide, Port: 53},
		{Interface: "eth1", Protocol: flow.TCP},
	}
	out := make([]aggregate.SeriesPoint, len(keys))
	for i, key := range keys {
		out[i] = aggregate.SeriesPoint{
			SeriesKey: key,
			Volume:    flow.Volume{Packets: uint64(1 + i), Bytes: uint64(1000 + i)},
			Start:     first.Add(-(1 << i) * 1_000_000_000),
		}
	}
	return out
}

func TestAppendFlowMetric(t *testing.T) {
	md := pmetric.NewMetrics()
	to := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	AppendFlowMetric(to, bytesMetric, points(), 1, last)
	AppendFlowMetric(to, packetsMetric, points(), 1, last)
	requireGoldenMetrics(t, "flows", md)

	for i := range to.Len() {
		sum := to.At(i).Sum()
		require.True(t, sum.IsMonotonic())
		require.Equal(t, pmetric.AggregationTemporalityDelta, sum.AggregationTemporality())
	}
}

// Samples say so; the values are estimates already.
func TestAppendFlowMetricOfSamples(t *testing.T) {
	to := pmetric.NewMetricSlice()
	AppendFlowMetric(to, bytesMetric, points(), 100, last)
	dps := to.At(0).Sum().DataPoints()
	require.Equal(t, len(points()), dps.Len())
	for i, dp := range dps.All() {
		interval, ok := dp.Attributes().Get("netprobe.flow.sampling_interval")
		require.True(t, ok)
		require.Equal(t, int64(100), interval.Int())
		require.Equal(t, int64(1000+i), dp.IntValue())
	}
}

// tunnels are all kinds of them, each with a total and a start of its own.
func tunnels() []aggregate.TunnelPoint {
	all := []flow.Tunnel{
		{Type: flow.VXLAN, Source: source4, Destination: destination4, ID: 1<<24 - 1, HasID: true},
		{Type: flow.VXLAN, Source: destination4, Destination: source4, HasID: true}, // zero is a VNI
		{Type: flow.Geneve, Source: source4, Destination: destination4, ID: 7, HasID: true},
		{Type: flow.VXLAN, Source: source6, Destination: destination6, ID: 7, HasID: true},
		{Type: flow.GRE, Source: source4, Destination: destination4},
		{Type: flow.VXLAN}, // all that there was no room for
		{Type: flow.VXLAN, ID: 7, HasID: true},
	}
	out := make([]aggregate.TunnelPoint, len(all))
	for i, tunnel := range all {
		out[i] = aggregate.TunnelPoint{
			Tunnel: tunnel,
			Total:  flow.Volume{Packets: uint64(1 + i), Bytes: uint64(1000 + i)},
			Start:  first.Add(-(1 << i) * time.Second),
		}
	}
	return out
}

func TestAppendTunnelMetric(t *testing.T) {
	md := pmetric.NewMetrics()
	to := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	AppendTunnelMetric(to, bytesMetric, flow.VXLAN, tunnels(), last)
	AppendTunnelMetric(to, packetsMetric, flow.GRE, tunnels(), last)
	requireGoldenMetrics(t, "tunnels", md)

	for i := range to.Len() {
		sum := to.At(i).Sum()
		require.True(t, sum.IsMonotonic())
		require.Equal(t, pmetric.AggregationTemporalityCumulative, sum.AggregationTemporality())
	}
}

// A type of which there is none makes no metric, also where there are others.
func TestAppendTunnelMetricWithoutPoints(t *testing.T) {
	to := pmetric.NewMetricSlice()
	AppendTunnelMetric(to, bytesMetric, flow.VXLAN, nil, last)
	AppendTunnelMetric(to, bytesMetric, flow.IPIP, tunnels(), last)
	require.Equal(t, 0, to.Len())
}

func TestAppendFlowMetricWithoutPoints(t *testing.T) {
	to := pmetric.NewMetricSlice()
	AppendFlowMetric(to, bytesMetric, nil, 1, last)
	require.Equal(t, 0, to.Len())
}

func BenchmarkAppendFlowMetric(b *testing.B) {
	all := make([]aggregate.SeriesPoint, 9000)
	for i := range all {
		all[i] = points()[i%len(points())]
	}
	b.ReportAllocs()
	for b.Loop() {
		AppendFlowMetric(pmetric.NewMetricSlice(), bytesMetric, all, 1, last)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(all)), "ns/point")
}
