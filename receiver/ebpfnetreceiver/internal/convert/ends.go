// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"net/netip"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/connections"
)

// attributes of a point by ends at most
const endsAttributes = 12

// ConnectionCount is one of the numbers that a metric of connections has, and what tells
// it from others of that metric.
type ConnectionCount struct {
	Place      int // in connections.Counts
	Key, Value string
}

// AppendConnectionMetric adds a delta sum by ends with a point for each number that was
// gained.
func AppendConnectionMetric(to pmetric.MetricSlice, metric Metric, counts []ConnectionCount, points []*aggregate.ConnectionPoint, now time.Time) {
	out := pmetric.NewMetricSlice()
	dps := metric.appendTo(out, len(points), pmetric.AggregationTemporalityDelta)
	for _, p := range points {
		for _, count := range counts {
			n := p.Counts[count.Place]
			if n == 0 {
				continue
			}
			attrs := metric.appendPoint(dps, flow.Volume{Packets: n}, p.Start, now)
			putBetween(&p.Between, connections.RoleOf(count.Place, p.Role), attrs)
			if count.Key != "" {
				attrs.PutStr(count.Key, count.Value)
			}
		}
	}
	if dps.Len() > 0 {
		out.MoveAndAppendTo(to)
	}
}

// AppendDistributions adds a delta histogram of seconds by ends, of what a point says.
func AppendDistributions(to pmetric.MetricSlice, name, description string, points []*aggregate.ConnectionPoint, of func(*aggregate.ConnectionPoint) *aggregate.Distribution, now time.Time) {
	var into pmetric.Metric
	var exists bool
	for _, p := range points {
		d := of(p)
		if d == nil {
			continue
		}
		if !exists {
			into, exists = appendSeconds(to, name, description), true
			emptyDelta(into, d.Exponential != nil)
		}
		if d.Exponential != nil {
			putExponentialDelta(d, p, now, into.ExponentialHistogram().DataPoints().AppendEmpty())
		} else {
			putExplicitDelta(d, p, now, into.Histogram().DataPoints().AppendEmpty())
		}
	}
}

func emptyDelta(m pmetric.Metric, exponential bool) {
	if exponential {
		m.SetEmptyExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	} else {
		m.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	}
}

func putExplicitDelta(d *aggregate.Distribution, p *aggregate.ConnectionPoint, now time.Time, to pmetric.HistogramDataPoint) {
	to.SetStartTimestamp(pcommon.NewTimestampFromTime(p.Start))
	to.SetTimestamp(pcommon.NewTimestampFromTime(now))
	to.SetCount(d.Count)
	to.SetSum(d.Sum)
	to.SetMin(d.Min)
	to.SetMax(d.Max)
	to.ExplicitBounds().FromRaw(d.Bounds)
	to.BucketCounts().FromRaw(d.Counts)
	putBetween(&p.Between, p.Role, to.Attributes())
}

func putExponentialDelta(d *aggregate.Distribution, p *aggregate.ConnectionPoint, now time.Time, to pmetric.ExponentialHistogramDataPoint) {
	to.SetStartTimestamp(pcommon.NewTimestampFromTime(p.Start))
	to.SetTimestamp(pcommon.NewTimestampFromTime(now))
	to.SetCount(d.Count)
	to.SetSum(d.Sum)
	to.SetMin(d.Min)
	to.SetMax(d.Max)
	to.SetScale(d.Exponential.Scale())
	to.SetZeroCount(d.Exponential.ZeroCount())
	// durations are not negative
	from, into := d.Exponential.Positive(), to.Positive()
	into.SetOffset(from.Offset())
	for i := range from.Len() {
		into.BucketCounts().Append(from.At(i))
	}
	putBetween(&p.Between, p.Role, to.Attributes())
}

// putBetween puts the ends of connections, where they are known. Beside them the role of
// this machine's end is all that there is.
func putBetween(b *connections.Between, role flow.Role, attrs pcommon.Map) {
	attrs.EnsureCapacity(endsAttributes)
	attrs.PutStr(netattr.ConnectionRole, role.String())
	if !b.Client.IsValid() {
		return
	}
	putAddress(b.Client, netattr.SourceAddress, attrs)
	putAddress(b.Server, netattr.DestinationAddress, attrs)
	if b.Port != 0 {
		attrs.PutInt(netattr.DestinationPort, int64(b.Port))
	}
	putOtherEnds(b, attrs)
	attrs.PutStr(netattr.NetworkTransport, flow.TCP.String())
	attrs.PutStr(netattr.NetworkType, NetworkType(b.Client.Is6()))
	if b.Role == flow.Server {
		putContainers("", b.Container, attrs)
	} else {
		putContainers(b.Container, "", attrs)
	}
}

func putOtherEnds(b *connections.Between, attrs pcommon.Map) {
	if b.OtherClient.IsValid() {
		attrs.PutStr(netattr.NATSourceAddress, b.OtherClient.String())
	}
	if b.OtherServer.IsValid() {
		attrs.PutStr(netattr.NATDestinationAddress, b.OtherServer.String())
		attrs.PutInt(netattr.NATDestinationPort, int64(b.OtherPort))
	}
	if b.OtherClient.IsValid() || b.OtherServer.IsValid() {
		attrs.PutBool(netattr.NATOriginal, b.Opened)
	}
}

func putAddress(address netip.Addr, key string, attrs pcommon.Map) {
	if address.IsValid() && !address.IsUnspecified() {
		attrs.PutStr(key, address.String())
	}
}

// putSeriesEnds puts what else tells who the ends of a series are.
func putSeriesEnds(key *aggregate.SeriesKey, attrs pcommon.Map) {
	ends := key.Known()
	if ends.NATSource.IsValid() {
		attrs.PutStr(netattr.NATSourceAddress, ends.NATSource.String())
	}
	if ends.NATDestination.IsValid() {
		attrs.PutStr(netattr.NATDestinationAddress, ends.NATDestination.String())
	}
	switch {
	case !ends.HasNATPort:
	case key.Server == flow.SourceSide:
		attrs.PutInt(netattr.NATSourcePort, int64(ends.NATPort))
	default:
		attrs.PutInt(netattr.NATDestinationPort, int64(ends.NATPort))
	}
	if ends.Translated {
		attrs.PutBool(netattr.NATOriginal, ends.Original)
	}
	putContainers(ends.SourceContainer, ends.DestinationContainer, attrs)
}
