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

// FlowMetric describes one of the two flow metrics.
type FlowMetric struct {
	Name, Unit, Description string
	Value                   func(flow.Volume) uint64
}

// AppendFlowMetric adds a delta sum with a point per series that gained
// something. It is made by hand because every point has its own start time,
// which the generated builder cannot say.
func AppendFlowMetric(to pmetric.MetricSlice, metric FlowMetric, points []aggregate.SeriesPoint, now time.Time) {
	if len(points) == 0 {
		return
	}
	m := to.AppendEmpty()
	m.SetName(metric.Name)
	m.SetUnit(metric.Unit)
	m.SetDescription(metric.Description)
	sum := m.SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	dps := sum.DataPoints()
	dps.EnsureCapacity(len(points))
	at := pcommon.NewTimestampFromTime(now)
	for i := range points {
		point := &points[i]
		dp := dps.AppendEmpty()
		dp.SetStartTimestamp(pcommon.NewTimestampFromTime(point.Start))
		dp.SetTimestamp(at)
		dp.SetIntValue(int64(metric.Value(point.Volume)))
		seriesAttributes(&point.SeriesKey, dp.Attributes())
	}
}

func seriesAttributes(key *aggregate.SeriesKey, attrs pcommon.Map) {
	attrs.EnsureCapacity(6)
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
	attrs.PutStr(netattr.NetworkInterfaceName, key.Interface)
}
