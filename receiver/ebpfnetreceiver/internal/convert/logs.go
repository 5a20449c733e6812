// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package convert makes pdata of what the receiver counted. It knows nothing
// of eBPF.
package convert // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
)

// Observer is what all records of one receiver share.
type Observer struct {
	// Version of the build, for the scope.
	Version string
	// NetNS is the inode number of the network namespace.
	NetNS uint64
}

// attributes of a record at most, so that a map is allocated once
const flowAttributes = 46

// FlowLogs gives one log record per flow record, all observed at the same time.
func (o *Observer) FlowLogs(records []flow.Record, observed time.Time) plog.Logs {
	ld, out := o.logs(len(records))
	for i := range records {
		rec := &records[i]
		lr := appendEvent(out, netattr.EventFlow, rec.Last, observed)
		o.flowAttributes(rec, lr.Attributes())
	}
	return ld
}

func (o *Observer) flowAttributes(rec *flow.Record, attrs pcommon.Map) {
	attrs.EnsureCapacity(flowAttributes)
	attrs.PutStr(netattr.SourceAddress, rec.Source.String())
	attrs.PutStr(netattr.DestinationAddress, rec.Destination.String())
	attrs.PutStr(netattr.NetworkTransport, rec.Protocol.String())
	attrs.PutStr(netattr.NetworkType, NetworkType(rec.Source.Is6()))
	putPorts(rec, attrs)
	volume := rec.Estimate()
	attrs.PutInt(netattr.FlowPackets, int64(volume.Packets))
	attrs.PutInt(netattr.FlowBytes, int64(volume.Bytes))
	if rec.SampledFrom > 1 {
		attrs.PutInt(netattr.FlowSamplingInterval, int64(rec.SampledFrom))
	}
	attrs.PutInt(netattr.FlowStart, rec.First.UnixNano())
	attrs.PutStr(netattr.FlowCommunityID, rec.CommunityID())
	if rec.Protocol == flow.TCP && rec.Has&flow.HasPorts != 0 {
		attrs.PutInt(netattr.TCPFlags, int64(rec.TCPFlags))
	}
	if side, evidence := rec.Initiator(); side != flow.NoSide {
		attrs.PutStr(netattr.FlowInitiator, side.String())
		attrs.PutStr(netattr.FlowInitiatorEvidence, string(evidence))
	}
	putLink(rec, attrs)
	putTunnel(rec, attrs)
	putNAT(rec, attrs)
	putQuality(rec, attrs)
	attrs.PutStr(netattr.NetworkInterfaceName, rec.Interface)
	attrs.PutStr(netattr.ObservationDirection, rec.Direction.String())
	attrs.PutInt(netattr.ObservationNetNS, int64(o.NetNS))
	if len(rec.Others) > 0 {
		others := attrs.PutEmptySlice(netattr.ObservationInterfaces)
		others.EnsureCapacity(len(rec.Others))
		for _, name := range rec.Others {
			others.AppendEmpty().SetStr(name)
		}
	}
}

func putTunnel(rec *flow.Record, attrs pcommon.Map) {
	if rec.Tunnel == nil {
		return
	}
	putTunnelEnds(rec.Tunnel, attrs)
	if rec.Has&flow.IsNested != 0 {
		attrs.PutBool(netattr.TunnelNested, true)
	}
}

func putTunnelEnds(t *flow.Tunnel, attrs pcommon.Map) {
	attrs.PutStr(netattr.TunnelType, t.Type.String())
	if t.HasID {
		attrs.PutInt(netattr.TunnelID, int64(t.ID))
	}
	if t.Source.IsValid() {
		attrs.PutStr(netattr.TunnelSourceAddress, t.Source.String())
		attrs.PutStr(netattr.TunnelDestinationAddress, t.Destination.String())
	}
}

// putNAT gives of the other side of a translation what differs from this one.
func putNAT(rec *flow.Record, attrs pcommon.Map) {
	if rec.NAT == nil {
		return
	}
	other, ports := &rec.NAT.Other, rec.HasTransportPorts()
	if other.Source != rec.Source || other.SourcePort != rec.SourcePort {
		attrs.PutStr(netattr.NATSourceAddress, other.Source.String())
		if ports {
			attrs.PutInt(netattr.NATSourcePort, int64(other.SourcePort))
		}
	}
	if other.Destination != rec.Destination || other.DestinationPort != rec.DestinationPort {
		attrs.PutStr(netattr.NATDestinationAddress, other.Destination.String())
		if ports {
			attrs.PutInt(netattr.NATDestinationPort, int64(other.DestinationPort))
		}
	}
	attrs.PutBool(netattr.NATOriginal, rec.NAT.Original == rec.Tuple())
}

func (o *Observer) logs(n int) (plog.Logs, plog.LogRecordSlice) {
	ld := plog.NewLogs()
	sl := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	sl.Scope().SetName(metadata.ScopeName)
	sl.Scope().SetVersion(o.Version)
	sl.LogRecords().EnsureCapacity(n)
	return ld, sl.LogRecords()
}

func putPorts(rec *flow.Record, attrs pcommon.Map) {
	switch {
	case rec.Has&flow.HasPorts == 0:
	case rec.Protocol.IsICMP():
		attrs.PutInt(netattr.ICMPType, int64(rec.SourcePort))
		attrs.PutInt(netattr.ICMPCode, int64(rec.DestinationPort))
	default:
		attrs.PutInt(netattr.SourcePort, int64(rec.SourcePort))
		attrs.PutInt(netattr.DestinationPort, int64(rec.DestinationPort))
	}
}

func putLink(rec *flow.Record, attrs pcommon.Map) {
	if rec.Has&flow.HasVLAN != 0 {
		attrs.PutInt(netattr.VLANID, int64(rec.VLAN))
	}
	if rec.Has&flow.HasInnerVLAN != 0 {
		attrs.PutInt(netattr.VLANInnerID, int64(rec.InnerVLAN))
	}
	if rec.Has&flow.HasMPLS != 0 {
		attrs.PutInt(netattr.MPLSLabel, int64(rec.MPLSLabel))
	}
}

// NetworkType is the value of network.type.
func NetworkType(ipv6 bool) string {
	if ipv6 {
		return "ipv6"
	}
	return "ipv4"
}

// appendEvent begins a log record of something that happened at a time.
func appendEvent(to plog.LogRecordSlice, name string, at, observed time.Time) plog.LogRecord {
	lr := to.AppendEmpty()
	lr.SetEventName(name)
	lr.SetTimestamp(pcommon.NewTimestampFromTime(at))
	lr.SetObservedTimestamp(pcommon.NewTimestampFromTime(observed))
	lr.SetSeverityNumber(plog.SeverityNumberInfo)
	return lr
}
