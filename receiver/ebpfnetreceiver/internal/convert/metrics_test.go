// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
)

var (
	bytesMetric = FlowMetric{
		Name: "netprobe.flow.bytes", Unit: "By", Description: "Bytes.",
		Value: func(v flow.Volume) uint64 { return v.Bytes },
	}
	packetsMetric = FlowMetric{
		Name: "netprobe.flow.packets", Unit: "{packet}", Description: "Packets.",
		Value: func(v flow.Volume) uint64 { return v.Packets },
	}
)

// points are all kinds of series, each with a start of its own.
func points() []aggregate.SeriesPoint {
	keys := []aggregate.SeriesKey{
		{Source: source4, Destination: destination4, Interface: "eth0", Protocol: flow.TCP, Server: flow.DestinationSide, Port: 443},
		{Source: destination4, Destination: source4, Interface: "eth0", Protocol: flow.TCP, Server: flow.SourceSide, Port: 443},
		{Source: source6, Destination: destination6, Interface: "eth1", Protocol: flow.UDP, IPv6: true, Server: flow.DestinationSide},
		{Source: source6, Destination: destination6, Interface: "eth1", Protocol: flow.ICMPv6, IPv6: true},
		{Interface: "eth0", Protocol: flow.TCP},
		{Interface: "eth1", Protocol: 253, IPv6: true},
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
	AppendFlowMetric(to, bytesMetric, points(), last)
	AppendFlowMetric(to, packetsMetric, points(), last)
	requireGoldenMetrics(t, "flows", md)

	for i := range to.Len() {
		sum := to.At(i).Sum()
		require.True(t, sum.IsMonotonic())
		require.Equal(t, pmetric.AggregationTemporalityDelta, sum.AggregationTemporality())
	}
}

func TestAppendFlowMetricWithoutPoints(t *testing.T) {
	to := pmetric.NewMetricSlice()
	AppendFlowMetric(to, bytesMetric, nil, last)
	require.Equal(t, 0, to.Len())
}

func BenchmarkAppendFlowMetric(b *testing.B) {
	all := make([]aggregate.SeriesPoint, 9000)
	for i := range all {
		all[i] = points()[i%len(points())]
	}
	b.ReportAllocs()
	for b.Loop() {
		AppendFlowMetric(pmetric.NewMetricSlice(), bytesMetric, all, last)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(all)), "ns/point")
}
