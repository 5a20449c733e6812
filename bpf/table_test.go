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
}

// volume is what the packet is on the wire. link is how many bytes of link
// header each segment repeats: none, where the device has no link header.
func (c *packetCase) volume(link uint64) bpf.TCVolume {
	v := bpf.TCVolume{Packets: 1, Bytes: uint64(len(c.frame))}
	if c.segments > 1 {
		v.Packets = c.segments
		v.Bytes += (c.segments - 1) * (c.headers - packets.EthernetLen + link)
	}
	return v
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
