// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"net/netip"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// decode fills rec from a map entry, all but its Interface.
func decode(rec *flow.Record, key *bpf.TCFlowKey, tunnel *flow.Tunnel, stats *bpf.TCFlowStats, c *kernel.Clock) {
	first := stats.FirstMonoNs
	if first == 0 || first > stats.LastMonoNs {
		first = stats.LastMonoNs
	}
	*rec = flow.Record{
		Key:        decodeKey(key),
		Packets:    stats.Packets,
		Bytes:      stats.Bytes - stats.TunnelBytes,
		WireBytes:  stats.Bytes,
		First:      c.Wall(first),
		Last:       c.Wall(stats.LastMonoNs),
		TCPFlags:   decodeFlags(&stats.TcpFlagSeen),
		SYNSeen:    stats.SynSeen != 0,
		SYNACKSeen: stats.SynAckSeen != 0,
	}
	rec.Tunnel = tunnel
}

// The bits of flow.Has and the outcomes are the kernel's. This does not compile
// when they part: an index other than 0 is out of range.
var (
	_ = "x"[flow.HasPorts-flow.Has(bpf.TCFlowHasFLOW_HAS_PORTS)]
	_ = "x"[flow.HasVLAN-flow.Has(bpf.TCFlowHasFLOW_HAS_VLAN)]
	_ = "x"[flow.HasInnerVLAN-flow.Has(bpf.TCFlowHasFLOW_HAS_INNER_VLAN)]
	_ = "x"[flow.HasMPLS-flow.Has(bpf.TCFlowHasFLOW_HAS_MPLS)]
	_ = "x"[flow.IsFragment-flow.Has(bpf.TCFlowHasFLOW_IS_FRAGMENT)]
	_ = "x"[flow.InTunnel-flow.Has(bpf.TCFlowHasFLOW_IN_TUNNEL)]
	_ = "x"[flow.IsTunnel-flow.Has(bpf.TCFlowHasFLOW_IS_TUNNEL)]
	_ = "x"[flow.IsNested-flow.Has(bpf.TCFlowHasFLOW_IS_NESTED)]

	_ = "x"[flow.VXLAN-flow.TunnelType(bpf.TCTunnelTypeTUNNEL_VXLAN)]
	_ = "x"[flow.Geneve-flow.TunnelType(bpf.TCTunnelTypeTUNNEL_GENEVE)]
	_ = "x"[flow.GRE-flow.TunnelType(bpf.TCTunnelTypeTUNNEL_GRE)]
	_ = "x"[flow.IPIP-flow.TunnelType(bpf.TCTunnelTypeTUNNEL_IPIP)]
	_ = "x"[flow.TunnelTypes-int(bpf.TCTunnelTypeTUNNEL_TYPES)]

	_ = "x"[flow.RefusedVXLANNoVNI-flow.Refusal(bpf.TCTunnelRefusalREFUSED_VXLAN_NO_VNI)]
	_ = "x"[flow.RefusedVXLANReservedBits-flow.Refusal(bpf.TCTunnelRefusalREFUSED_VXLAN_RESERVED_BITS)]
	_ = "x"[flow.RefusedVXLANGPE-flow.Refusal(bpf.TCTunnelRefusalREFUSED_VXLAN_GPE)]
	_ = "x"[flow.RefusedVXLANNSH-flow.Refusal(bpf.TCTunnelRefusalREFUSED_VXLAN_NSH)]
	_ = "x"[flow.RefusedGeneveVersion-flow.Refusal(bpf.TCTunnelRefusalREFUSED_GENEVE_VERSION)]
	_ = "x"[flow.RefusedGeneveControl-flow.Refusal(bpf.TCTunnelRefusalREFUSED_GENEVE_CONTROL)]
	_ = "x"[flow.RefusedGREVersion-flow.Refusal(bpf.TCTunnelRefusalREFUSED_GRE_VERSION)]
	_ = "x"[flow.RefusedGRERouting-flow.Refusal(bpf.TCTunnelRefusalREFUSED_GRE_ROUTING)]
	_ = "x"[flow.RefusedERSPAN-flow.Refusal(bpf.TCTunnelRefusalREFUSED_ERSPAN)]
	_ = "x"[flow.Refusals-int(bpf.TCTunnelRefusalTUNNEL_REFUSALS)]

	_ = "x"[flow.OutcomeTruncated-flow.Outcome(bpf.TCParseOutcomePARSE_TRUNCATED)]
	_ = "x"[flow.OutcomeMalformed-flow.Outcome(bpf.TCParseOutcomePARSE_MALFORMED)]
	_ = "x"[flow.OutcomeUnsupported-flow.Outcome(bpf.TCParseOutcomePARSE_UNSUPPORTED)]
	_ = "x"[flow.OutcomeNotIP-flow.Outcome(bpf.TCParseOutcomePARSE_NOT_IP)]
)

func decodeKey(key *bpf.TCFlowKey) flow.Key {
	source, destination := addresses(key.Source, key.Destination, key.IpVersion)
	return flow.Key{
		Source:          source,
		Destination:     destination,
		SourcePort:      key.SourcePort,
		DestinationPort: key.DestinationPort,
		Protocol:        flow.Protocol(key.Protocol),
		Has:             flow.Has(key.Has),
		Direction:       flow.Direction(key.Direction),
		VLAN:            key.VlanId,
		InnerVLAN:       key.InnerVlanId,
		MPLSLabel:       key.MplsLabel,
		InterfaceIndex:  key.Ifindex,
		From:            key.From,
	}
}

func decodeTunnel(key *bpf.TCTunnelKey) *flow.Tunnel {
	source, destination := addresses(key.Source, key.Destination, key.IpVersion)
	return &flow.Tunnel{
		Source: source, Destination: destination,
		ID: key.Id, HasID: key.HasId != 0, Type: flow.TunnelType(key.Type),
	}
}

func addresses(source, destination [16]byte, version uint8) (netip.Addr, netip.Addr) {
	if version == 4 {
		return netip.AddrFrom16(source).Unmap(), netip.AddrFrom16(destination).Unmap()
	}
	return netip.AddrFrom16(source), netip.AddrFrom16(destination)
}

func decodeFlags(seen *[8]uint8) flow.TCPFlags {
	var flags flow.TCPFlags
	for i, s := range seen {
		if s != 0 {
			flags |= 1 << i
		}
	}
	return flags
}
