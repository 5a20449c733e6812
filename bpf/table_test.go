// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
)

// Outcomes, short enough for tables.
const (
	ok          = bpf.TCParseOutcomePARSE_OK
	truncated   = bpf.TCParseOutcomePARSE_TRUNCATED
	malformed   = bpf.TCParseOutcomePARSE_MALFORMED
	unsupported = bpf.TCParseOutcomePARSE_UNSUPPORTED
	notIP       = bpf.TCParseOutcomePARSE_NOT_IP
)

// What the programs answer: TC_ACT_UNSPEC, which is TCX_NEXT, and XDP_PASS.
const (
	tcUnspec uint32 = 0xffffffff
	xdpPass  uint32 = 2
)

// flowMaps are the kinds of map that flows may be counted in.
var flowMaps = []struct {
	name   string
	perCPU bool
}{{"shared", false}, {"per-CPU", true}}

// Next headers that gopacket has no constant for.
const (
	protoDCCP     = layers.IPProtocol(33)
	protoMobility = layers.IPProtocol(135)
	// for experiments, RFC 3692: nobody will ever parse it
	protoUnknown = layers.IPProtocol(253)
)

// TCP flags.
const (
	tcpFIN = 1 << iota
	tcpSYN
	tcpRST
	tcpPSH
	tcpACK
	tcpURG
	tcpECE
	tcpCWR
)

// packetCase is a packet and what every program must make of it.
type packetCase struct {
	name    string
	frame   []byte
	outcome bpf.TCParseOutcome
	// flow is the key at ingress, nil for a packet that is in no flow.
	flow  *bpf.TCFlowKey
	flags uint8

	// needs is how many bytes of the frame must be there for nothing to be
	// missing: all of it if zero. Behind them lie padding, or payload of which
	// no length in the packet tells.
	needs int
	// chain names the headers before flow.Protocol, which a packet cut there has.
	chain []layers.IPProtocol

	// skb is what the kernel says of the packet besides its bytes; then
	// segments is how many frames it is on the wire, and headers how many bytes
	// each of them repeats.
	skb      *bpftest.SKB
	segments uint64
	headers  uint64
	// jumbo is how many bytes of the frame are in no segment.
	jumbo uint64

	// tunnel is what is around the flow, or what was refused to be opened.
	tunnel *carried
}

// carried is what a packet of a tunnel has besides.
type carried struct {
	// tunnel is zero for a packet that is not opened.
	tunnel  bpf.TCTunnelKey
	refused bpf.TCTunnelRefusal
	// outer is the flow of the tunnel's own packet, as if tunnels were not opened;
	// outside is how it then ends, and needs how many bytes it needs for that: as
	// many as the packet, if zero.
	outer   *bpf.TCFlowKey
	outside bpf.TCParseOutcome
	needs   int
	// chain is to outer what a packet's chain is to its flow.
	chain []layers.IPProtocol
	// off is where the tunnel's headers end, and addresses where the addresses of
	// the packet inside do: from then on the flow is its own. Where the flow is the
	// tunnel's own for good it is 0.
	off, addresses int
	// unread is how many bytes before off are stepped over and not read.
	unread int
	// len is how many bytes belong to what is in the tunnel, 0 where that is no flow.
	len int
	// endless: no length says so, it ends with the frame.
	endless bool
}

// volume is what the packet is on the wire. link is how many bytes of link
// header each segment repeats: none, where the device has no link header.
func (c *packetCase) volume(link uint64) bpf.TCVolume {
	v := bpf.TCVolume{Packets: 1, Bytes: uint64(len(c.frame))}
	if c.segments > 1 {
		v.Packets = c.segments
		v.Bytes += (c.segments - 1) * (c.headers - packets.EthernetLen + link)
	}
	v.Bytes -= c.jumbo
	return v
}

// tunnelBytes is how many bytes of the volume are not of the packet in the
// tunnel, of which each segment repeats all that is before it. Of the first size
// bytes of the frame the test run of a device without link header says that they
// are 14 more than there are.
func (c *packetCase) tunnelBytes(size int, link uint64) uint64 {
	if c.tunnel == nil || c.tunnel.len == 0 {
		return 0
	}
	off := c.tunnel.off - packets.EthernetLen + int(link)
	own := off
	if !c.tunnel.endless {
		own = size - min(c.tunnel.len, size-off)
	}
	return uint64(own) + (max(c.segments, 1)-1)*uint64(off)
}

// outside is the packet as the programs see it that open no tunnels.
func (c packetCase) outside() packetCase {
	if t := c.tunnel; t != nil {
		c.outcome, c.flow, c.chain, c.needs, c.tunnel = t.outside, t.outer, t.chain, t.needs, nil
	}
	return c
}

// refused is why the packet is not opened as a tunnel's.
func (c *packetCase) refused() bpf.TCTunnelRefusal {
	if c.tunnel == nil {
		return bpf.TCTunnelRefusalTUNNEL_NOT_REFUSED
	}
	return c.tunnel.refused
}

// wantFlows is the flow table after the packet at a TC program.
func (c *packetCase) wantFlows(prog classifier) []bpftest.Flow {
	flows := wantFlows(prog.key(c.flow), c.volume(uint64(prog.link)), c.flags)
	if c.tunnel != nil && len(flows) > 0 {
		flows[0].Tunnel = c.tunnel.tunnel
		flows[0].Stats.TunnelBytes = c.tunnelBytes(len(c.frame), uint64(prog.link))
	}
	return flows
}

// whole is how many bytes must be there for nothing to be missing.
func (c *packetCase) whole() int {
	if c.needs != 0 {
		return c.needs
	}
	return len(c.frame)
}

// allCases is the whole table.
func allCases(tb testing.TB) []packetCase {
	tb.Helper()
	var all []packetCase
	for _, cases := range []func(testing.TB) []packetCase{
		transportCases, transportDamageCases, shortTransportCases,
		ipv4OptionCases, ipv4FragmentCases, ipv4LengthCases, ipv4VersionCases, ipv4PayloadCases,
		ipv6ExtensionCases, ipv6FragmentCases, ipv6LengthCases, ipv6PayloadCases,
		vlanCases, mplsCases, pppoeCases, snapCases, otherLinkCases, paddingCases,
		gsoCases,
		vxlanCases, vxlanRefusalCases, geneveCases, greCases, ipipCases,
		carriedCases, nestedCases, outerCases, tunnelEndCases, closedCases, tunnelGSOCases,
	} {
		all = append(all, cases(tb)...)
	}
	names := make(map[string]bool, len(all))
	for _, c := range all {
		require.False(tb, names[c.name], "two cases are named %q", c.name)
		names[c.name] = true
	}
	return all
}

type keyPart func(*bpf.TCFlowKey)

func key(parts ...keyPart) *bpf.TCFlowKey {
	k := &bpf.TCFlowKey{Ifindex: bpftest.Loopback}
	for _, part := range parts {
		part(k)
	}
	return k
}

// v4 is a flow between the two IPv4 addresses, without ports unless a part adds them.
func v4(protocol layers.IPProtocol, parts ...keyPart) *bpf.TCFlowKey {
	return key(append([]keyPart{func(k *bpf.TCFlowKey) {
		k.Source, k.Destination = packets.Source4.As16(), packets.Destination4.As16()
		k.IpVersion, k.Protocol = 4, uint8(protocol)
	}}, parts...)...)
}

// v6 is a flow between the two IPv6 addresses, without ports unless a part adds them.
func v6(protocol layers.IPProtocol, parts ...keyPart) *bpf.TCFlowKey {
	return key(append([]keyPart{func(k *bpf.TCFlowKey) {
		k.Source, k.Destination = packets.Source6.As16(), packets.Destination6.As16()
		k.IpVersion, k.Protocol = 6, uint8(protocol)
	}}, parts...)...)
}

func ports(k *bpf.TCFlowKey) {
	k.SourcePort, k.DestinationPort = packets.SourcePort, packets.DestinationPort
	k.Has |= uint8(bpf.TCFlowHasFLOW_HAS_PORTS)
}

func typeAndCode(typ, code uint8) keyPart {
	return func(k *bpf.TCFlowKey) {
		k.SourcePort, k.DestinationPort = uint16(typ), uint16(code)
		k.Has |= uint8(bpf.TCFlowHasFLOW_HAS_PORTS)
	}
}

func fragment(k *bpf.TCFlowKey) { k.Has |= uint8(bpf.TCFlowHasFLOW_IS_FRAGMENT) }

func vlan(id uint16) keyPart {
	return func(k *bpf.TCFlowKey) {
		k.VlanId = id
		k.Has |= uint8(bpf.TCFlowHasFLOW_HAS_VLAN)
	}
}

func innerVLAN(id uint16) keyPart {
	return func(k *bpf.TCFlowKey) {
		k.InnerVlanId = id
		k.Has |= uint8(bpf.TCFlowHasFLOW_HAS_INNER_VLAN)
	}
}

func mpls(label uint32) keyPart {
	return func(k *bpf.TCFlowKey) {
		k.MplsLabel = label
		k.Has |= uint8(bpf.TCFlowHasFLOW_HAS_MPLS)
	}
}

// eth, eth4 and eth6 build frames.
func eth(tb testing.TB, etherType layers.EthernetType, parts ...packets.Layer) []byte {
	tb.Helper()
	return packets.Build(tb, append([]packets.Layer{packets.Ethernet(etherType)}, parts...)...)
}

func eth4(tb testing.TB, parts ...packets.Layer) []byte {
	tb.Helper()
	return eth(tb, layers.EthernetTypeIPv4, parts...)
}

func eth6(tb testing.TB, parts ...packets.Layer) []byte {
	tb.Helper()
	return eth(tb, layers.EthernetTypeIPv6, parts...)
}

// tcp4, udp4, tcp6 and udp6 are packets for cases that are about another layer.
func tcp4(payload int) []packets.Layer {
	return []packets.Layer{packets.IPv4(layers.IPProtocolTCP), packets.TCP(tcpACK), packets.Payload(payload)}
}

func udp4(payload int) []packets.Layer {
	return []packets.Layer{packets.IPv4(layers.IPProtocolUDP), packets.UDP(), packets.Payload(payload)}
}

func tcp6(payload int) []packets.Layer {
	return []packets.Layer{packets.IPv6(layers.IPProtocolTCP), packets.TCP(tcpACK), packets.Payload(payload)}
}

func udp6(payload int) []packets.Layer {
	return []packets.Layer{packets.IPv6(layers.IPProtocolUDP), packets.UDP(), packets.Payload(payload)}
}

// inside puts link layers before a packet.
func inside(link []packets.Layer, packet []packets.Layer) []packets.Layer {
	return slices.Concat(link, packet)
}
