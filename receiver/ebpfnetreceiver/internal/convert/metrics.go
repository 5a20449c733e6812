// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
)

// Metric describes a sum that is made by hand, because each of its points has a
// start time of its own, which the generated builder cannot say.
type Metric struct {
	Name, Unit, Description string
	Value                   func(flow.Volume) uint64
}

func (m *Metric) appendTo(to pmetric.MetricSlice, points int, temporality pmetric.AggregationTemporality) pmetric.NumberDataPointSlice {
	out := to.AppendEmpty()
	out.SetName(m.Name)
	out.SetUnit(m.Unit)
	out.SetDescription(m.Description)
	sum := out.SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(temporality)
	sum.DataPoints().EnsureCapacity(points)
	return sum.DataPoints()
}

func (m *Metric) appendPoint(to pmetric.NumberDataPointSlice, v flow.Volume, start, at time.Time) pcommon.Map {
	dp := to.AppendEmpty()
	dp.SetStartTimestamp(pcommon.NewTimestampFromTime(start))
	dp.SetTimestamp(pcommon.NewTimestampFromTime(at))
	dp.SetIntValue(int64(m.Value(v)))
	return dp.Attributes()
}

// AppendFlowMetric adds a delta sum with a point per series that gained
// something. sampledFrom is how many packets each counted one stands for.
func AppendFlowMetric(to pmetric.MetricSlice, metric Metric, points []aggregate.SeriesPoint, sampledFrom uint32, now time.Time) {
	if len(points) == 0 {
		return
	}
	dps := metric.appendTo(to, len(points), pmetric.AggregationTemporalityDelta)
	for i := range points {
		point := &points[i]
		attrs := metric.appendPoint(dps, point.Volume, point.Start, now)
		seriesAttributes(&point.SeriesKey, attrs)
		if sampledFrom > 1 {
			attrs.PutInt(netattr.FlowSamplingInterval, int64(sampledFrom))
		}
	}
}

func seriesAttributes(key *aggregate.SeriesKey, attrs pcommon.Map) {
	attrs.EnsureCapacity(seriesAttributesAtMost(key))
	if key.Source.IsValid() {
		attrs.PutStr(netattr.SourceAddress, key.Source.String())
		attrs.PutStr(netattr.DestinationAddress, key.Destination.String())
	}
	switch key.Server {
	case flow.SourceSide:
		attrs.PutInt(netattr.SourcePort, int64(key.Port))
	case flow.DestinationSide:
		attrs.PutInt(netattr.DestinationPort, int64(key.Port))
	case flow.NoSide:
	}
	attrs.PutStr(netattr.NetworkTransport, key.Protocol.String())
	attrs.PutStr(netattr.NetworkType, NetworkType(key.IPv6))
	if key.HasTunnelID {
		attrs.PutInt(netattr.TunnelID, int64(key.TunnelID))
	}
	if key.Interface != "" {
		attrs.PutStr(netattr.NetworkInterfaceName, key.Interface)
		attrs.PutStr(netattr.ObservationDirection, key.Direction.String())
	}
	putSeriesEnds(key, attrs)
}

// seriesAttributesAtMost is for a map that is allocated once, and not larger than it need be.
func seriesAttributesAtMost(key *aggregate.SeriesKey) int {
	if key.Known() != (aggregate.Ends{}) {
		return 14
	}
	return 8
}

// AppendTunnelMetric adds a cumulative sum with a point per tunnel of one type.
func AppendTunnelMetric(to pmetric.MetricSlice, metric Metric, kind flow.TunnelType, points []aggregate.TunnelPoint, now time.Time) {
	n := 0
	for i := range points {
		if points[i].Type == kind {
			n++
		}
	}
	if n == 0 {
		return
	}
	dps := metric.appendTo(to, n, pmetric.AggregationTemporalityCumulative)
	for i := range points {
		point := &points[i]
		if point.Type != kind {
			continue
		}
		attrs := metric.appendPoint(dps, point.Total, point.Start, now)
		if point.HasID {
			attrs.PutInt(netattr.TunnelID, int64(point.ID))
		}
		if point.Source.IsValid() {
			attrs.PutStr(netattr.TunnelSourceAddress, point.Source.String())
			attrs.PutStr(netattr.TunnelDestinationAddress, point.Destination.String())
		}
	}
}
