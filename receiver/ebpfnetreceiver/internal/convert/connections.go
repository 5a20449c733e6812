// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"net/netip"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/connections"
)

// attributes of a connection's record at most
const connectionAttributes = 30

// ConnectionEvent is a log record of something that happened to a connection.
type ConnectionEvent struct{ connections.Event }

// Append implements Event.
func (e ConnectionEvent) Append(_ *Observer, to plog.LogRecordSlice, observed time.Time) {
	lr := appendEvent(to, netattr.EventConnection, e.At, observed)
	attrs := lr.Attributes()
	attrs.EnsureCapacity(connectionAttributes)
	attrs.PutStr(netattr.ConnectionPhase, string(e.Phase))
	attrs.PutStr(netattr.ConnectionRole, e.Role.String())
	attrs.PutStr(netattr.NetworkTransport, e.Protocol.String())
	attrs.PutStr(netattr.NetworkType, NetworkType(e.Local.Addr().Is6()))
	e.putEnds(attrs)
	putProcess(&e.Process, attrs)
	if e.Role == flow.Server {
		putContainers("", e.Process.ContainerID, attrs)
	} else {
		putContainers(e.Process.ContainerID, "", attrs)
	}
	attrs.PutInt(netattr.ObservationNetNS, int64(e.NetNS))
	if e.Failure != flow.NotFailed && e.Phase != connections.Connect && e.Phase != connections.Accept {
		attrs.PutStr(netattr.ErrorType, e.Failure.String())
	}
	if e.Latency > 0 {
		attrs.PutDouble(netattr.ConnectionLatency, e.Latency.Seconds())
	}
	if e.Phase == connections.Close {
		e.putEnd(attrs)
	}
	if e.Phase == connections.Failed {
		attrs.PutInt(netattr.TCPRetransmits, int64(e.Now.Retransmits))
	}
}

// putEnds puts the end that opened the connection as the source.
func (e ConnectionEvent) putEnds(attrs pcommon.Map) {
	source, destination, nat := e.Local, e.Remote, e.NAT
	if e.Role == flow.Server {
		source, destination, nat = destination, source, nat.Reverse()
	}
	putEnd(source, netattr.SourceAddress, netattr.SourcePort, attrs)
	putEnd(destination, netattr.DestinationAddress, netattr.DestinationPort, attrs)
	if !unspecified(source) && !unspecified(destination) {
		rec := flow.Record{Key: flow.Key{
			Source: source.Addr(), SourcePort: source.Port(), Destination: destination.Addr(), DestinationPort: destination.Port(),
			Protocol: e.Protocol, Has: flow.HasPorts,
		}, NAT: nat}
		putNAT(&rec, attrs)
		attrs.PutStr(netattr.FlowCommunityID, rec.CommunityID())
	}
}

// unspecified says that a UDP socket has no such end, or sends from any address.
func unspecified(end netip.AddrPort) bool {
	return !end.IsValid() || end.Addr().IsUnspecified() || end.Port() == 0
}

func putEnd(end netip.AddrPort, address, port string, attrs pcommon.Map) {
	if end.IsValid() && !end.Addr().IsUnspecified() {
		attrs.PutStr(address, end.Addr().String())
	}
	if end.Port() != 0 {
		attrs.PutInt(port, int64(end.Port()))
	}
}

// putEnd puts what a connection has done in its life.
func (e ConnectionEvent) putEnd(attrs pcommon.Map) {
	// of UDP the end is known by the next reading only
	if !e.EstablishedAt.IsZero() && e.Protocol == flow.TCP {
		attrs.PutDouble(netattr.ConnectionDuration, e.Closed.Sub(e.EstablishedAt).Seconds())
	}
	attrs.PutInt(netattr.ConnectionBytesSent, int64(e.Now.BytesSent))
	attrs.PutInt(netattr.ConnectionBytesReceived, int64(e.Now.BytesReceived))
	if e.Protocol != flow.TCP {
		return
	}
	attrs.PutInt(netattr.ConnectionSegmentsSent, int64(e.Now.SegmentsSent))
	attrs.PutInt(netattr.ConnectionSegmentsReceived, int64(e.Now.SegmentsReceived))
	attrs.PutInt(netattr.TCPRetransmits, int64(e.Now.Retransmits))
	if e.RTT > 0 {
		attrs.PutDouble(netattr.TCPRTT, e.RTT.Seconds())
	}
	switch {
	case e.ResetSent:
		attrs.PutStr(netattr.TCPResetBy, "local")
	case e.ResetReceived:
		attrs.PutStr(netattr.TCPResetBy, "remote")
	}
}

func putProcess(p *flow.Process, attrs pcommon.Map) {
	if p.PID == 0 {
		return
	}
	attrs.PutInt(netattr.ProcessPID, int64(p.PID))
	attrs.PutStr(netattr.ProcessExecutableName, p.Name)
	if p.ContainerID != "" {
		attrs.PutStr(netattr.ContainerID, p.ContainerID)
	}
}

// putContainers puts those of the ends that are known.
func putContainers(source, destination string, attrs pcommon.Map) {
	if source != "" {
		attrs.PutStr(netattr.SourceContainerID, source)
	}
	if destination != "" {
		attrs.PutStr(netattr.DestinationContainerID, destination)
	}
}

// putQuality puts how well a flow went in its interval.
func putQuality(rec *flow.Record, attrs pcommon.Map) {
	if rec.Process != nil {
		putProcess(rec.Process, attrs)
	}
	putContainers(rec.SourceContainer, rec.DestinationContainer, attrs)
	if rec.Dropped > 0 {
		attrs.PutInt(netattr.Drops, int64(rec.Dropped))
	}
	if rec.TCP == nil {
		return
	}
	if rec.TCP.RTT > 0 {
		attrs.PutDouble(netattr.TCPRTT, rec.TCP.RTT.Seconds())
	}
	if rec.TCP.HasRetransmits {
		attrs.PutInt(netattr.TCPRetransmits, int64(rec.TCP.Retransmits))
	}
	attrs.PutInt(netattr.TCPResets, int64(rec.TCP.Resets))
}

// AppendListenMetric adds a cumulative sum with a point per listening address.
func AppendListenMetric(to pmetric.MetricSlice, metric Metric, points []connections.Listener, start, now time.Time) {
	if len(points) == 0 {
		return
	}
	dps := metric.appendTo(to, len(points), pmetric.AggregationTemporalityCumulative)
	for i := range points {
		attrs := metric.appendPoint(dps, flow.Volume{Packets: points[i].Drops}, start, now)
		if at := points[i].Address; at.IsValid() {
			attrs.PutStr(netattr.ServerAddress, at.Addr().String())
			attrs.PutInt(netattr.ServerPort, int64(at.Port()))
		}
	}
}
