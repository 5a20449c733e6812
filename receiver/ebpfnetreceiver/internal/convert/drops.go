// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netattr"
)

// DropKey is what drops are counted by; what is empty is not known.
type DropKey struct {
	Reason, Interface, Transport, Direction string
}

// DropPoint is how many packets were dropped since Start.
type DropPoint struct {
	DropKey
	Packets uint64
	Start   time.Time
}

// DropEvent is the drops of a flow for one reason in an interval.
type DropEvent struct {
	DropKey
	Key     flow.Key // of which the tuple is known
	Packets uint64
	First   time.Time
}

func (k *DropKey) put(attrs pcommon.Map) {
	for _, a := range [...]struct{ key, value string }{
		{netattr.DropReason, k.Reason},
		{netattr.NetworkInterfaceName, k.Interface},
		{netattr.NetworkTransport, k.Transport},
		{netattr.ObservationDirection, k.Direction},
	} {
		if a.value != "" {
			attrs.PutStr(a.key, a.value)
		}
	}
}

// AppendDropMetric adds a cumulative sum with a point per key.
func AppendDropMetric(to pmetric.MetricSlice, metric Metric, points []DropPoint, now time.Time) {
	if len(points) == 0 {
		return
	}
	dps := metric.appendTo(to, len(points), pmetric.AggregationTemporalityCumulative)
	for i := range points {
		points[i].put(metric.appendPoint(dps, flow.Volume{Packets: points[i].Packets}, points[i].Start, now))
	}
}

// Append implements Event.
func (e DropEvent) Append(o *Observer, to plog.LogRecordSlice, observed time.Time) {
	lr := appendEvent(to, netattr.EventDrop, e.First, observed)
	attrs := lr.Attributes()
	attrs.PutStr(netattr.SourceAddress, e.Key.Source.String())
	attrs.PutStr(netattr.DestinationAddress, e.Key.Destination.String())
	attrs.PutStr(netattr.NetworkType, NetworkType(e.Key.Source.Is6()))
	putPorts(&flow.Record{Key: e.Key}, attrs)
	e.put(attrs)
	attrs.PutInt(netattr.Drops, int64(e.Packets))
	attrs.PutInt(netattr.ObservationNetNS, int64(o.NetNS))
}
