// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"reflect"
	"testing"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/refdecode"
)

// referenceOutcome is an outcome of the reference decoder in the programs' terms.
func referenceOutcome(outcome refdecode.Outcome) bpf.TCParseOutcome {
	switch outcome {
	case refdecode.OK:
		return bpf.TCParseOutcomePARSE_OK
	case refdecode.Truncated:
		return bpf.TCParseOutcomePARSE_TRUNCATED
	case refdecode.Malformed:
		return bpf.TCParseOutcomePARSE_MALFORMED
	case refdecode.Unsupported:
		return bpf.TCParseOutcomePARSE_UNSUPPORTED
	case refdecode.NotIP:
		return bpf.TCParseOutcomePARSE_NOT_IP
	default:
		return bpf.TCParseOutcomePARSE_OUTCOMES
	}
}

// referenceKey is a flow of the reference decoder as the key of the flow table
// at ingress of the loopback.
func referenceKey(flow *refdecode.Flow) bpf.TCFlowKey {
	key := bpf.TCFlowKey{
		Source:          flow.Source.As16(),
		Destination:     flow.Destination.As16(),
		Ifindex:         bpftest.Loopback,
		SourcePort:      flow.SourcePort,
		DestinationPort: flow.DestinationPort,
		Protocol:        flow.Protocol,
		IpVersion:       6,
		Direction:       uint8(bpf.TCDirectionDIRECTION_INGRESS),
	}
	has := func(what bpf.TCFlowHas) { key.Has |= uint8(what) }
	if flow.Source.Is4() {
		key.IpVersion = 4
	}
	if flow.HasPorts {
		has(bpf.TCFlowHasFLOW_HAS_PORTS)
	}
	if flow.Fragment {
		has(bpf.TCFlowHasFLOW_IS_FRAGMENT)
	}
	if len(flow.VLANs) > 0 {
		key.VlanId = flow.VLANs[0]
		has(bpf.TCFlowHasFLOW_HAS_VLAN)
	}
	if len(flow.VLANs) > 1 {
		key.InnerVlanId = flow.VLANs[1]
		has(bpf.TCFlowHasFLOW_HAS_INNER_VLAN)
	}
	if len(flow.Labels) > 0 {
		key.MplsLabel = flow.Labels[0]
		has(bpf.TCFlowHasFLOW_HAS_MPLS)
	}
	return key
}

// referenceTunnel is a tunnel of the reference decoder in the programs' terms.
func referenceTunnel(t *refdecode.Tunnel) bpf.TCTunnelKey {
	if t == nil {
		return bpf.TCTunnelKey{}
	}
	key := bpf.TCTunnelKey{
		Source: t.Source.As16(), Destination: t.Destination.As16(), Id: t.ID, IpVersion: 6,
		Type: map[string]uint8{
			refdecode.VXLAN:  uint8(bpf.TCTunnelTypeTUNNEL_VXLAN),
			refdecode.Geneve: uint8(bpf.TCTunnelTypeTUNNEL_GENEVE),
			refdecode.GRE:    uint8(bpf.TCTunnelTypeTUNNEL_GRE),
			refdecode.IPIP:   uint8(bpf.TCTunnelTypeTUNNEL_IPIP),
		}[t.Type],
	}
	if t.Source.Is4() {
		key.IpVersion = 4
	}
	if t.HasID {
		key.HasId = 1
	}
	return key
}

var referenceRefusals = map[string]bpf.TCTunnelRefusal{
	"":                          bpf.TCTunnelRefusalTUNNEL_NOT_REFUSED,
	refdecode.VXLANNoVNI:        bpf.TCTunnelRefusalREFUSED_VXLAN_NO_VNI,
	refdecode.VXLANReservedBits: bpf.TCTunnelRefusalREFUSED_VXLAN_RESERVED_BITS,
	refdecode.VXLANGPE:          bpf.TCTunnelRefusalREFUSED_VXLAN_GPE,
	refdecode.VXLANNSH:          bpf.TCTunnelRefusalREFUSED_VXLAN_NSH,
	refdecode.GeneveVersion:     bpf.TCTunnelRefusalREFUSED_GENEVE_VERSION,
	refdecode.GeneveControl:     bpf.TCTunnelRefusalREFUSED_GENEVE_CONTROL,
	refdecode.GREVersion:        bpf.TCTunnelRefusalREFUSED_GRE_VERSION,
	refdecode.GRERouting:        bpf.TCTunnelRefusalREFUSED_GRE_ROUTING,
	refdecode.ERSPAN:            bpf.TCTunnelRefusalREFUSED_ERSPAN,
}

// tunnelBytes is how many of a packet's bytes on the wire are not the flow's.
func tunnelBytes(packet refdecode.Result, length int, volume bpf.TCVolume) uint64 {
	if packet.Tunnel == nil || packet.IsTunnel {
		return 0
	}
	return uint64(length-packet.FlowBytes(length)) + (volume.Packets-1)*uint64(packet.InnerOffset)
}

// referenceTC is what a TC program has to do with a packet of that volume.
func referenceTC(packet refdecode.Result, length int, volume bpf.TCVolume) bpftest.Result {
	want := bpftest.Result{
		Return:    tcUnspec,
		Outcome:   referenceOutcome(packet.Outcome),
		Volume:    volume,
		Interface: volume,
		Refused:   referenceRefusals[packet.Refused],
	}
	if packet.Flow == nil {
		return want
	}
	flow := bpftest.Flow{
		Key:    referenceKey(packet.Flow),
		Stats:  referenceStats(volume, packet.TCPFlags),
		Tunnel: referenceTunnel(packet.Tunnel),
	}
	flow.Stats.TunnelBytes = tunnelBytes(packet, length, volume)
	has := func(what bpf.TCFlowHas) { flow.Key.Has |= uint8(what) }
	switch {
	case packet.Tunnel == nil:
	case packet.IsTunnel:
		has(bpf.TCFlowHasFLOW_IS_TUNNEL)
	default:
		has(bpf.TCFlowHasFLOW_IN_TUNNEL)
		if packet.Tunnel.Nested {
			has(bpf.TCFlowHasFLOW_IS_NESTED)
		}
	}
	want.Flows = []bpftest.Flow{flow}
	return want
}

func referenceStats(volume bpf.TCVolume, flags uint8) bpf.TCFlowStats {
	stats := bpf.TCFlowStats{Packets: volume.Packets, Bytes: volume.Bytes, TcpFlagsHint: flags}
	for bit := range stats.TcpFlagSeen {
		stats.TcpFlagSeen[bit] = flags >> bit & 1
	}
	const syn, ack = 0x02, 0x10
	switch flags & (syn | ack) {
	case syn:
		stats.SynSeen = 1
	case syn | ack:
		stats.SynAckSeen = 1
	}
	return stats
}

// requireSame compares what a program did with what it had to do.
func requireSame(t *testing.T, want, got bpftest.Result, frame []byte) {
	got.Flows = withoutTimes(got.Flows)
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("programs and reference differ\nreference %+v\nprogram   %+v\nframe     %x", want, got, frame)
	}
}
