// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
)

const (
	typeARP = layers.EthernetTypeARP
	typeTEB = layers.EthernetTypeTransparentEthernetBridging

	protoTCP  = layers.IPProtocolTCP
	protoUDP  = layers.IPProtocolUDP
	protoGRE  = layers.IPProtocolGRE
	protoIPv4 = layers.IPProtocolIPv4
	protoIPv6 = layers.IPProtocolIPv6
)

// Where the headers of the tunnels begin, in a frame without tags.
const (
	udpTunnel4 = packets.EthernetLen + packets.IPv4Len + packets.UDPLen // 42
	udpTunnel6 = packets.EthernetLen + packets.IPv6Len + packets.UDPLen // 62
)

// around is what a tunnel puts before what it carries.
type around struct {
	name   string
	layers []packets.Layer
	// len is how many bytes that is.
	len int
	// flow is that of the tunnel's own packets.
	flow   *bpf.TCFlowKey
	tunnel bpf.TCTunnelKey
	chain  []layers.IPProtocol
}

// content is what a tunnel carries.
type content struct {
	name   string
	layers []packets.Layer
	len    int
	// addresses is from how many of its bytes its addresses are read.
	addresses int
	flow      *bpf.TCFlowKey
	flags     uint8
	chain     []layers.IPProtocol
}

// in is the content in the tunnel.
func (c content) in(tb testing.TB, a around) packetCase {
	tb.Helper()
	frame := packets.Build(tb, slices.Concat(a.layers, c.layers)...)
	require.Len(tb, frame, a.len+c.len, "%s in %s", c.name, a.name)
	return packetCase{
		name: a.name + " with " + c.name, frame: frame, flow: c.flow, flags: c.flags, chain: c.chain,
		tunnel: &carried{
			tunnel: a.tunnel, outer: a.flow, chain: a.chain,
			off: a.len, addresses: a.len + c.addresses, len: c.len,
		},
	}
}

// noFlow is what a tunnel carries that is not IP: the flow is the tunnel's.
func noFlow(tb testing.TB, a around, name string, parts ...packets.Layer) packetCase {
	tb.Helper()
	frame := packets.Build(tb, slices.Concat(a.layers, parts)...)
	return packetCase{
		name: a.name + " with " + name, frame: frame, flow: with(a.flow, isTunnel), chain: a.chain,
		tunnel: &carried{tunnel: a.tunnel, outer: a.flow, chain: a.chain, off: a.len},
	}
}

// with is the key with more parts.
func with(k *bpf.TCFlowKey, parts ...keyPart) *bpf.TCFlowKey {
	more := *k
	for _, part := range parts {
		part(&more)
	}
	return &more
}

func inTunnel(k *bpf.TCFlowKey) { k.Has |= uint8(bpf.TCFlowHasFLOW_IN_TUNNEL) }
func isTunnel(k *bpf.TCFlowKey) { k.Has |= uint8(bpf.TCFlowHasFLOW_IS_TUNNEL) }
func isNested(k *bpf.TCFlowKey) { k.Has |= uint8(bpf.TCFlowHasFLOW_IS_NESTED) }

// to is a tunnel's flow to a UDP port.
func to(port uint16) keyPart {
	return func(k *bpf.TCFlowKey) {
		k.SourcePort, k.DestinationPort = packets.TunnelSourcePort, port
		k.Has |= uint8(bpf.TCFlowHasFLOW_HAS_PORTS)
	}
}

// in4 and in6 are flows in a tunnel.
func in4(protocol layers.IPProtocol, parts ...keyPart) *bpf.TCFlowKey {
	return with(v4(protocol, parts...), inTunnel, func(k *bpf.TCFlowKey) {
		k.Source, k.Destination = packets.InnerSource4.As16(), packets.InnerDestination4.As16()
	})
}

func in6(protocol layers.IPProtocol, parts ...keyPart) *bpf.TCFlowKey {
	return with(v6(protocol, parts...), inTunnel, func(k *bpf.TCFlowKey) {
		k.Source, k.Destination = packets.InnerSource6.As16(), packets.InnerDestination6.As16()
	})
}

// over4 and over6 are tunnels between the outer addresses.
func over4(kind bpf.TCTunnelType, id ...uint32) bpf.TCTunnelKey {
	return tunnelKey(bpf.TCTunnelKey{
		Source: packets.Source4.As16(), Destination: packets.Destination4.As16(), IpVersion: 4,
	}, kind, id)
}

func over6(kind bpf.TCTunnelType, id ...uint32) bpf.TCTunnelKey {
	return tunnelKey(bpf.TCTunnelKey{
		Source: packets.Source6.As16(), Destination: packets.Destination6.As16(), IpVersion: 6,
	}, kind, id)
}

func tunnelKey(k bpf.TCTunnelKey, kind bpf.TCTunnelType, id []uint32) bpf.TCTunnelKey {
	k.Type = uint8(kind)
	if len(id) > 0 {
		k.Id, k.HasId = id[0], 1
	}
	return k
}

const (
	kindVXLAN  = bpf.TCTunnelTypeTUNNEL_VXLAN
	kindGeneve = bpf.TCTunnelTypeTUNNEL_GENEVE
	kindGRE    = bpf.TCTunnelTypeTUNNEL_GRE
	kindIPIP   = bpf.TCTunnelTypeTUNNEL_IPIP
)

// inUDP4 and inUDP6 are a tunnel's headers of size bytes behind UDP.
func inUDP4(name string, port uint16, key bpf.TCTunnelKey, size int, header packets.Layer) around {
	return around{
		name: name, len: udpTunnel4 + size, flow: v4(protoUDP, to(port)), tunnel: key,
		layers: []packets.Layer{packets.Ethernet(typeIPv4), packets.IPv4(protoUDP), packets.UDPTunnel(port), header},
	}
}

func inUDP6(name string, port uint16, key bpf.TCTunnelKey, size int, header packets.Layer) around {
	return around{
		name: name, len: udpTunnel6 + size, flow: v6(protoUDP, to(port)), tunnel: key,
		layers: []packets.Layer{packets.Ethernet(typeIPv6), packets.IPv6(protoUDP), packets.UDPTunnel(port), header},
	}
}

// inIP4 and inIP6 are a tunnel's headers of size bytes, or none, behind IP.
func inIP4(name string, proto layers.IPProtocol, key bpf.TCTunnelKey, size int, header ...packets.Layer) around {
	return around{
		name: name, len: transport4 + size, flow: v4(proto), tunnel: key,
		layers: append([]packets.Layer{packets.Ethernet(typeIPv4), packets.IPv4(proto)}, header...),
	}
}

func inIP6(name string, proto layers.IPProtocol, key bpf.TCTunnelKey, size int, header ...packets.Layer) around {
	return around{
		name: name, len: transport6 + size, flow: v6(proto), tunnel: key,
		layers: append([]packets.Layer{packets.Ethernet(typeIPv6), packets.IPv6(proto)}, header...),
	}
}

func vxlan4() around {
	return inUDP4("vxlan", packets.VXLANPort, over4(kindVXLAN, packets.VNI), 8, packets.VXLAN(packets.VNI))
}

func vxlan6() around {
	return inUDP6("vxlan on ipv6", packets.VXLANPort, over6(kindVXLAN, packets.VNI), 8, packets.VXLAN(packets.VNI))
}

// packet4 and packet6 are TCP segments with four bytes; frame4 and frame6 have
// an Ethernet header before them.
func packet4() content {
	return content{
		name:   "ipv4",
		layers: []packets.Layer{packets.InnerIPv4(protoTCP), packets.TCP(tcpPSH | tcpACK), packets.Payload(4)},
		len:    44, addresses: 20, flow: in4(protoTCP, ports), flags: tcpPSH | tcpACK,
	}
}

func packet6() content {
	return content{
		name:   "ipv6",
		layers: []packets.Layer{packets.InnerIPv6(protoTCP), packets.TCP(tcpSYN), packets.Payload(4)},
		len:    64, addresses: 40, flow: in6(protoTCP, ports), flags: tcpSYN,
	}
}

func frame4() content {
	return packet4().behind("ethernet and ipv4", 14, packets.InnerEthernet(typeIPv4))
}
func frame6() content {
	return packet6().behind("ethernet and ipv6", 14, packets.InnerEthernet(typeIPv6))
}

// behind is the content with a link header of size bytes.
func (c content) behind(name string, size int, link ...packets.Layer) content {
	c.name, c.layers = name, inside(link, c.layers)
	c.len += size
	c.addresses += size
	return c
}

// raw is a header that gopacket cannot write.
func raw(b ...byte) packets.Layer { return gopacket.Payload(b) }

func vxlanCases(tb testing.TB) []packetCase {
	tb.Helper()
	linux := packets.VXLAN(0xffffff)
	arounds := []around{
		vxlan4(), vxlan6(),
		inUDP4("vxlan at 8472", packets.VXLANLinuxPort, over4(kindVXLAN, 0xffffff), 8, linux),
		inUDP6("vxlan on ipv6 at 8472", packets.VXLANLinuxPort, over6(kindVXLAN, 0xffffff), 8, linux),
	}
	var cases []packetCase
	for _, a := range arounds {
		cases = append(cases, frame4().in(tb, a), frame6().in(tb, a))
	}
	header := func(name string, id uint32, b ...byte) packetCase {
		return frame4().in(tb, inUDP4("vxlan of "+name, packets.VXLANPort, over4(kindVXLAN, id), 8, raw(b...)))
	}
	return append(cases,
		header("identifier 0", 0, 0x08, 0, 0, 0, 0, 0, 0, 0),
		header("identifier 1", 1, 0x08, 0, 0, 0, 0, 0, 1, 0),
		header("identifier 0x10000", 0x10000, 0x08, 0, 0, 0, 1, 0, 0, 0),
		// draft-smith-vxlan-group-policy: a group, and the bits D and A
		header("a group", 0x010203, 0x88, 0, 0xab, 0xcd, 1, 2, 3, 0),
		header("a group with policy bits", 0x010203, 0x88, 0x48, 0xff, 0xff, 1, 2, 3, 0),
		header("group 0", 0x010203, 0x88, 0, 0, 0, 1, 2, 3, 0),
	)
}

// refusedCase is a packet with a tunnel's header, of which size bytes are read,
// that is not opened.
func refusedCase(tb testing.TB, a around, why bpf.TCTunnelRefusal, size int, parts ...packets.Layer) packetCase {
	tb.Helper()
	return packetCase{
		name: "refused " + a.name, frame: packets.Build(tb, slices.Concat(a.layers, parts)...), flow: a.flow,
		tunnel: &carried{refused: why, outer: a.flow, off: size},
	}
}

func vxlanRefusalCases(tb testing.TB) []packetCase {
	tb.Helper()
	refused := func(name string, why bpf.TCTunnelRefusal, b ...byte) packetCase {
		a := inUDP4("vxlan with "+name, packets.VXLANPort, bpf.TCTunnelKey{}, 8, raw(b...))
		return refusedCase(tb, a, why, udpTunnel4+8, frame4().layers...)
	}
	const (
		noVNI    = bpf.TCTunnelRefusalREFUSED_VXLAN_NO_VNI
		reserved = bpf.TCTunnelRefusalREFUSED_VXLAN_RESERVED_BITS
		gpe      = bpf.TCTunnelRefusalREFUSED_VXLAN_GPE
		nsh      = bpf.TCTunnelRefusalREFUSED_VXLAN_NSH
	)
	cases := []packetCase{
		refused("no flags", noVNI, 0, 0, 0, 0, 1, 2, 3, 0),
		refused("all flags but I", noVNI, 0xf7, 0, 0, 0, 1, 2, 3, 0),
		refused("gpe and no I", noVNI, 0x04, 0, 0, 3, 1, 2, 3, 0),
		refused("gpe of ipv4", gpe, 0x0c, 0, 0, 1, 1, 2, 3, 0),
		refused("gpe of ethernet", gpe, 0x0c, 0, 0, 3, 1, 2, 3, 0),
		refused("gpe of nothing", gpe, 0x0c, 0, 0, 0, 1, 2, 3, 0),
		refused("gpe of oam", gpe, 0x0d, 0, 0, 3, 1, 2, 3, 0),
		refused("gpe of bum", gpe, 0x0e, 0, 0, 3, 1, 2, 3, 0),
		refused("nsh", nsh, 0x0c, 0, 0, 4, 1, 2, 3, 0),
		// what GPE reserves is set, so it is not that
		refused("gpe of version 1", reserved, 0x1c, 0, 0, 3, 1, 2, 3, 0),
		refused("gpe and its second byte", reserved, 0x0c, 1, 0, 3, 1, 2, 3, 0),
		refused("gpe and its third byte", reserved, 0x0c, 0, 0x80, 3, 1, 2, 3, 0),
		refused("gpe and its last byte", reserved, 0x0c, 0, 0, 3, 1, 2, 3, 1),
		refused("group and gpe", reserved, 0x8c, 0, 0, 3, 1, 2, 3, 0),
		refused("the second byte", reserved, 0x08, 0x40, 0, 0, 1, 2, 3, 0),
		refused("the third byte", reserved, 0x08, 0, 1, 0, 1, 2, 3, 0),
		refused("the fourth byte", reserved, 0x08, 0, 0, 1, 1, 2, 3, 0),
		refused("the last byte", reserved, 0x08, 0, 0, 0, 1, 2, 3, 0x80),
		refused("a group and the last byte", reserved, 0x88, 0, 0, 0, 1, 2, 3, 1),
	}
	for _, bit := range []byte{0x40, 0x20, 0x10, 0x02, 0x01} {
		cases = append(cases, refused("flag "+hex(bit), reserved, 0x08|bit, 0, 0, 0, 1, 2, 3, 0))
	}
	for _, bit := range []byte{0x80, 0x20, 0x10, 0x04, 0x02, 0x01} {
		cases = append(cases, refused("a group and bit "+hex(bit), reserved, 0x88, bit, 0, 1, 1, 2, 3, 0))
	}
	v6 := inUDP6("vxlan on ipv6 with no flags", packets.VXLANPort, bpf.TCTunnelKey{}, 8, raw(0, 0, 0, 0, 1, 2, 3, 0))
	return append(cases, refusedCase(tb, v6, noVNI, udpTunnel6+8, frame6().layers...))
}

func hex(b byte) string {
	const digits = "0123456789abcdef"
	return "0x" + string([]byte{digits[b>>4], digits[b&15]})
}

func geneve4(name string, size int, kind layers.EthernetType, options ...int) around {
	return inUDP4(name, packets.GenevePort, over4(kindGeneve, packets.VNI), 8+size, packets.Geneve(packets.VNI, kind, options...))
}

func geneveCases(tb testing.TB) []packetCase {
	tb.Helper()
	geneve6 := inUDP6("geneve on ipv6", packets.GenevePort, over6(kindGeneve, packets.VNI), 8+12,
		packets.Geneve(packets.VNI, typeTEB, 8))
	cases := []packetCase{
		frame4().in(tb, geneve4("geneve", 0, typeTEB)),
		frame6().in(tb, geneve4("geneve", 0, typeTEB)),
		frame4().in(tb, geneve6), frame6().in(tb, geneve6),
		packet4().in(tb, geneve4("geneve without ethernet", 0, typeIPv4)),
		packet6().in(tb, geneve4("geneve without ethernet", 0, typeIPv6)),
		frame4().in(tb, geneve4("geneve with an empty option", 4, typeTEB, 0)),
		frame4().in(tb, geneve4("geneve with three options", 4+8+28, typeTEB, 0, 4, 24)),
		packet6().in(tb, geneve4("geneve with options and no ethernet", 16, typeIPv6, 12)),
		frame4().in(tb, geneve4("geneve with the longest options", 128+124, typeTEB, 124, 120)),
		frame4().in(tb, geneve4("geneve with as many options as there can be", 252, typeTEB, make([]int, 63)...)),
		noFlow(tb, geneve4("geneve", 0, typeARP), "arp", packets.Payload(28)),
		noFlow(tb, geneve4("geneve with an option", 8, typeMPLS, 4), "mpls", packets.Payload(28)),
	}
	// version and length, flags, type, identifier, reserved
	header := func(name string, b ...byte) around {
		return inUDP4("geneve with "+name, packets.GenevePort, over4(kindGeneve, 0x010203), len(b), raw(b...))
	}
	// that an option is critical is for the tunnel's end to know, and what is
	// reserved to be ignored (RFC 8926, section 3.4)
	cases = append(cases,
		frame4().in(tb, header("critical options", 1, 0x40, 0x65, 0x58, 1, 2, 3, 0, 0, 0, 0x80, 0)),
		frame4().in(tb, header("reserved bits", 0, 0x3f, 0x65, 0x58, 1, 2, 3, 0xff)),
		frame4().in(tb, header("reserved bits of an option", 1, 0, 0x65, 0x58, 1, 2, 3, 0, 0, 0, 0, 0xe0)),
	)
	for _, c := range []struct {
		name  string
		flags []byte
		why   bpf.TCTunnelRefusal
	}{
		{"version 1", []byte{0x40, 0}, bpf.TCTunnelRefusalREFUSED_GENEVE_VERSION},
		{"version 2", []byte{0x80, 0}, bpf.TCTunnelRefusalREFUSED_GENEVE_VERSION},
		{"version 3 and control", []byte{0xc0, 0x80}, bpf.TCTunnelRefusalREFUSED_GENEVE_VERSION},
		{"control", []byte{0, 0x80}, bpf.TCTunnelRefusalREFUSED_GENEVE_CONTROL},
	} {
		a := header(c.name, c.flags[0], c.flags[1], 0x65, 0x58, 1, 2, 3, 0)
		cases = append(cases, refusedCase(tb, a, c.why, udpTunnel4+8, frame4().layers...))
	}
	return append(cases, geneveDamageCases(tb)...)
}

// geneveDamageCases have options that do not end where they are said to.
func geneveDamageCases(tb testing.TB) []packetCase {
	tb.Helper()
	damaged := func(name string, b ...byte) packetCase {
		a := inUDP4("", packets.GenevePort, bpf.TCTunnelKey{}, len(b), raw(b...))
		return packetCase{
			name: "geneve " + name, frame: packets.Build(tb, slices.Concat(a.layers, frame4().layers)...),
			outcome: malformed, flow: a.flow, tunnel: &carried{outer: a.flow},
		}
	}
	return []packetCase{
		damaged("option longer than the options", 1, 0, 0x65, 0x58, 1, 2, 3, 0, 0, 0, 0, 1),
		damaged("second option longer than the options", 3, 0, 0x65, 0x58, 1, 2, 3, 0,
			0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 31),
		damaged("last of as many options as there can be longer than the options",
			append(append([]byte{63, 0, 0x65, 0x58, 1, 2, 3, 0}, make([]byte, 62*4)...), 0, 0, 0, 1)...),
		// more than the datagram has: 63 words, and 58 bytes behind the header
		damaged("options longer than the datagram", 63, 0, 0x65, 0x58, 1, 2, 3, 0),
	}
}

func greCases(tb testing.TB) []packetCase {
	tb.Helper()
	const key = 0xfedcba98
	gre4 := func(name string, size int, header packets.Layer, id ...uint32) around {
		return inIP4(name, protoGRE, over4(kindGRE, id...), size, header)
	}
	gre6 := func(name string, size int, header packets.Layer, id ...uint32) around {
		return inIP6(name, protoGRE, over6(kindGRE, id...), size, header)
	}
	cases := []packetCase{
		packet4().in(tb, gre4("gre", 4, packets.GRE(typeIPv4))),
		packet6().in(tb, gre4("gre", 4, packets.GRE(typeIPv6))),
		packet4().in(tb, gre6("gre on ipv6", 4, packets.GRE(typeIPv4))),
		packet6().in(tb, gre6("gre on ipv6", 4, packets.GRE(typeIPv6))),
		frame4().in(tb, gre4("gre", 4, packets.GRE(typeTEB))),
		frame6().in(tb, gre6("gre on ipv6", 4, packets.GRE(typeTEB))),
		packet4().in(tb, gre4("gre with a key", 8, packets.GREKey(typeIPv4, key), key)),
		frame6().in(tb, gre6("gre on ipv6 with a key", 8, packets.GREKey(typeTEB, key), key)),
		packet4().in(tb, gre4("gre with key 0", 8, packets.GREKey(typeIPv4, 0), 0)),
		packet4().in(tb, gre4("gre with all options", 16, packets.GREOptions(typeIPv4, key), key)),
		frame6().in(tb, gre6("gre on ipv6 with all options", 16, packets.GREOptions(typeTEB, key), key)),
		packet4().in(tb, gre4("gre with a checksum", 8, raw(0x80, 0, 8, 0, 0xab, 0xcd, 0, 0))),
		packet4().in(tb, gre4("gre with a sequence number", 8, raw(0x10, 0, 8, 0, 0, 0, 0, 9))),
		packet4().in(tb, gre4("gre with a checksum and a key", 12, raw(0xa0, 0, 8, 0, 0xab, 0xcd, 0, 0, 0, 0, 1, 2), 0x102)),
		packet4().in(tb, gre4("gre with a key and a sequence number", 12, raw(0x30, 0, 8, 0, 0, 0, 1, 2, 0, 0, 0, 9), 0x102)),
		// RFC 2784, section 2.3: to be ignored
		packet4().in(tb, gre4("gre with reserved bits", 4, raw(0x0f, 0xf8, 8, 0))),
		noFlow(tb, gre4("gre of mpls", 4, packets.GRE(typeMPLS)), "mpls", packets.Payload(24)),
		// a router's keepalive: type 0, and nothing behind
		noFlow(tb, gre4("gre of a keepalive", 4, raw(0, 0, 0, 0)), "nothing"),
		noFlow(tb, gre4("gre of wccp", 4, raw(0, 0, 0x88, 0x3e)), "wccp", packets.Payload(24)),
	}
	refused := func(name string, why bpf.TCTunnelRefusal, header []packets.Layer) packetCase {
		return refusedCase(tb, inIP4(name, protoGRE, bpf.TCTunnelKey{}, 0, header...), why, transport4+4, frame4().layers...)
	}
	const version, source, erspan = bpf.TCTunnelRefusalREFUSED_GRE_VERSION,
		bpf.TCTunnelRefusalREFUSED_GRE_ROUTING, bpf.TCTunnelRefusalREFUSED_ERSPAN
	return append(cases,
		// RFC 2637, section 4.1: version 1, key, sequence number, type PPP
		refused("pptp", version, []packets.Layer{raw(0x30, 1, 0x88, 0x0b, 0, 4, 0, 1, 0, 0, 0, 1)}),
		refused("gre of version 2", version, []packets.Layer{raw(0, 2, 8, 0)}),
		refused("gre of version 4", version, []packets.Layer{raw(0, 4, 8, 0)}),
		refused("gre with routing", source, []packets.Layer{raw(0x40, 0, 8, 0, 0, 0, 0, 0)}),
		refused("gre with routing of version 1", version, []packets.Layer{raw(0x40, 1, 8, 0, 0, 0, 0, 0)}),
		refused("erspan of type 1", erspan, packets.ERSPAN1()),
		refused("erspan of type 2", erspan, packets.ERSPAN2()),
		refused("erspan of type 3", erspan, packets.ERSPAN3()),
	)
}

func ipipCases(tb testing.TB) []packetCase {
	tb.Helper()
	in4 := func(proto layers.IPProtocol) around { return inIP4("ip in ipv4", proto, over4(kindIPIP), 0) }
	in6 := func(proto layers.IPProtocol) around { return inIP6("ip in ipv6", proto, over6(kindIPIP), 0) }
	other := func(a around, c content, name string, outcome bpf.TCParseOutcome) packetCase {
		pc := noFlow(tb, a, name, c.layers...)
		pc.outcome = outcome
		return pc
	}
	return []packetCase{
		packet4().in(tb, in4(protoIPv4)), packet6().in(tb, in4(protoIPv6)),
		packet4().in(tb, in6(protoIPv4)), packet6().in(tb, in6(protoIPv6)),
		// the protocol says one and the packet another
		other(in4(protoIPv4), packet6(), "ipv6 in place of ipv4", malformed),
		other(in6(protoIPv6), packet4(), "ipv4 in place of ipv6", malformed),
		other(in4(protoIPv4), content{layers: []packets.Layer{packets.Payload(19)}}, "less than a header", malformed),
		other(in4(protoIPv6), content{}, "nothing", malformed),
		// a payload length of 0 does not say that there is nothing
		other(in6(protoIPv4), content{}, "nothing", truncated),
	}
}

// carriedCases are about what is in a tunnel.
func carriedCases(tb testing.TB) []packetCase {
	tb.Helper()
	c := func(name string, addresses, size int, flow *bpf.TCFlowKey, parts ...packets.Layer) content {
		return content{name: name, layers: parts, len: size, addresses: addresses, flow: flow}
	}
	ip4, ip6 := packets.InnerEthernet(typeIPv4), packets.InnerEthernet(typeIPv6)
	const icmp, icmp6, sctp = layers.IPProtocolICMPv4, layers.IPProtocolICMPv6, layers.IPProtocolSCTP
	fragment4 := func(offset uint16, more bool) packets.Layer {
		ip := packets.InnerIPv4(protoUDP)
		ip.FragOffset = offset / 8
		if more {
			ip.Flags = layers.IPv4MoreFragments
		}
		return ip
	}
	// its length is that of the whole datagram
	udpOfAll := raw(0x9c, 0x41, 0x01, 0xbb, 0x0b, 0xb8, 0, 0)
	options := packets.InnerIPv4(protoUDP)
	options.Options = slices.Repeat([]layers.IPv4Option{{OptionType: 1}}, 8)

	chained := c("extension headers", 54, 14+40+8+16+8+3, in6(protoUDP, ports), ip6, packets.InnerIPv6(hopByHop),
		packets.Options(destOptions, 8), packets.Options(protoUDP, 16), packets.UDP(), packets.Payload(3))
	chained.chain = []layers.IPProtocol{hopByHop, destOptions}
	first6 := c("ipv6 first fragment", 54, 14+40+8+8+8, in6(protoUDP, ports), ip6, packets.InnerIPv6(fragmentHeader),
		packets.IPv6Fragment(protoUDP, 0, true), udpOfAll, packets.Payload(8))
	later6 := c("ipv6 later fragment", 54, 14+40+8+24, in6(protoUDP, fragment), ip6, packets.InnerIPv6(fragmentHeader),
		packets.IPv6Fragment(protoUDP, 1448, true), packets.Payload(24))
	first6.chain = []layers.IPProtocol{fragmentHeader}
	later6.chain = first6.chain

	var cases []packetCase
	for _, content := range []content{
		c("udp", 34, 14+20+8+5, in4(protoUDP, ports), ip4, packets.InnerIPv4(protoUDP), packets.UDP(), packets.Payload(5)),
		c("icmp", 34, 14+20+8+6, in4(icmp, typeAndCode(3, 1)), ip4, packets.InnerIPv4(icmp), packets.ICMP(3, 1), packets.Payload(6)),
		c("icmpv6", 54, 14+40+4+6, in6(icmp6, typeAndCode(135, 0)), ip6, packets.InnerIPv6(icmp6), packets.ICMPv6(135, 0), packets.Payload(6)),
		c("sctp", 34, 14+20+12+4, in4(sctp, ports), ip4, packets.InnerIPv4(sctp), packets.SCTP(), packets.Payload(4)),
		c("an unknown protocol", 34, 14+20+9, in4(protoUnknown), ip4, packets.InnerIPv4(protoUnknown), packets.Payload(9)),
		c("ipv4 options", 34, 14+28+8+2, in4(protoUDP, ports), ip4, options, packets.UDP(), packets.Payload(2)),
		chained,
		c("ipv4 first fragment", 34, 14+20+8+8, in4(protoUDP, ports), ip4, fragment4(0, true), udpOfAll, packets.Payload(8)),
		c("ipv4 later fragment", 34, 14+20+24, in4(protoUDP, fragment), ip4, fragment4(1480, true), packets.Payload(24)),
		c("ipv4 last fragment", 34, 14+20+3, in4(protoUDP, fragment), ip4, fragment4(2960, false), packets.Payload(3)),
		first6, later6,
		// tags in a tunnel are not those of the underlay
		packet4().behind("802.1q", 18, packets.InnerEthernet(type8021Q), packets.VLAN(100, typeIPv4)),
		packet6().behind("802.1ad", 18, packets.InnerEthernet(type8021AD), packets.VLAN(100, typeIPv6)),
		packet4().behind("9100", 18, packets.InnerEthernet(type9100), packets.VLAN(100, typeIPv4)),
		packet6().behind("four tags", 30, packets.InnerEthernet(type8021AD), packets.VLAN(1, type8021Q),
			packets.VLAN(2, type8021Q), packets.VLAN(3, type8021Q), packets.VLAN(4, typeIPv6)),
	} {
		cases = append(cases, content.in(tb, vxlan4()))
	}
	return append(cases, carriedOtherCases(tb)...)
}

// carriedOtherCases have in the tunnel what is no IP packet.
func carriedOtherCases(tb testing.TB) []packetCase {
	tb.Helper()
	cases := []packetCase{
		noFlow(tb, vxlan4(), "arp", packets.InnerEthernet(typeARP), packets.Payload(28)),
		noFlow(tb, vxlan6(), "arp", packets.InnerEthernet(typeARP), packets.Payload(28)),
		noFlow(tb, vxlan4(), "arp in 802.1q", packets.InnerEthernet(type8021Q), packets.VLAN(5, typeARP), packets.Payload(28)),
		noFlow(tb, vxlan4(), "llc", packets.InnerEthernet(38), packets.Payload(38)),
		noFlow(tb, vxlan4(), "mpls", packets.InnerEthernet(typeMPLS), packets.Payload(38)),
		noFlow(tb, vxlan4(), "an ethernet header", packets.InnerEthernet(typeARP)),
	}
	damaged := func(name string, outcome bpf.TCParseOutcome, parts ...packets.Layer) packetCase {
		c := noFlow(tb, vxlan4(), name, parts...)
		c.outcome = outcome
		return c
	}
	ip := frame4().layers
	return append(cases,
		damaged("five tags", unsupported, packets.InnerEthernet(type8021Q), packets.VLAN(1, type8021Q), packets.VLAN(2, type8021Q),
			packets.VLAN(3, type8021Q), packets.VLAN(4, type8021Q), packets.VLAN(5, typeIPv4), packets.Payload(40)),
		damaged("nothing", malformed),
		damaged("half an ethernet header", malformed, packets.Payload(13)),
		damaged("half a tag", malformed, packets.InnerEthernet(type8021Q), packets.Payload(3)),
		damaged("half an ipv4 header", malformed, packets.Head(tb, 14+19, ip...)),
		damaged("half an ipv6 header", malformed, packets.Head(tb, 14+39, frame6().layers...)),
		damaged("the wrong ip version", malformed, packets.InnerEthernet(typeIPv4), packets.Payload(40)),
	)
}

// nestedCases have a tunnel in the tunnel, which stays closed.
func nestedCases(tb testing.TB) []packetCase {
	tb.Helper()
	ip4 := packets.InnerEthernet(typeIPv4)
	c := func(name string, addresses, size int, flow *bpf.TCFlowKey, parts ...packets.Layer) content {
		return content{name: name, layers: parts, len: size, addresses: addresses, flow: with(flow, isNested)}
	}
	gre4 := inIP4("gre", protoGRE, over4(kindGRE), 4, packets.GRE(typeIPv4))
	later := packets.InnerIPv4(protoGRE)
	later.FragOffset = 100
	elsewhere := c("udp at another port", 34, 14+20+8+8+58, in4(protoUDP, to(packets.VXLANGPEPort)),
		append([]packets.Layer{ip4, packets.InnerIPv4(protoUDP), packets.UDPTunnel(packets.VXLANGPEPort), packets.VXLAN(7)}, frame4().layers...)...)
	fragmented := c("a later fragment of gre", 20, 20+8, in4(protoGRE, fragment), later, packets.Payload(8))
	for _, closed := range []*content{&elsewhere, &fragmented} {
		closed.flow.Has &^= uint8(bpf.TCFlowHasFLOW_IS_NESTED)
	}
	return []packetCase{
		c("vxlan", 34, 14+20+8+8+58, in4(protoUDP, to(packets.VXLANPort)),
			append([]packets.Layer{ip4, packets.InnerIPv4(protoUDP), packets.UDPTunnel(packets.VXLANPort), packets.VXLAN(7)}, frame4().layers...)...).in(tb, vxlan4()),
		c("geneve", 54, 14+40+8+8+44, in6(protoUDP, to(packets.GenevePort)),
			append([]packets.Layer{packets.InnerEthernet(typeIPv6), packets.InnerIPv6(protoUDP), packets.UDPTunnel(packets.GenevePort), packets.Geneve(7, typeIPv4)}, packet4().layers...)...).in(tb, vxlan4()),
		c("ip in ip", 34, 14+20+44, in4(protoIPv4), append([]packets.Layer{ip4, packets.InnerIPv4(protoIPv4)}, packet4().layers...)...).in(tb, vxlan4()),
		c("gre", 20, 20+4+64, in4(protoGRE), append([]packets.Layer{packets.InnerIPv4(protoGRE), packets.GRE(typeIPv6)}, packet6().layers...)...).in(tb, gre4),
		c("ip in ipv6", 40, 40+64, in6(protoIPv6), append([]packets.Layer{packets.InnerIPv6(protoIPv6)}, packet6().layers...)...).in(tb, inIP4("ip in ipv4", protoIPv6, over4(kindIPIP), 0)),
		elsewhere.in(tb, vxlan4()), fragmented.in(tb, gre4),
	}
}
