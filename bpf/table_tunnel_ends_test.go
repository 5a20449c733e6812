// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
)

// linked puts size bytes of link layers in place of the Ethernet header of a
// tunnel, which tags its packets.
func (a around) linked(name string, size int, etherType layers.EthernetType, link []packets.Layer, parts ...keyPart) around {
	a.name += " in " + name
	a.layers = slices.Concat([]packets.Layer{packets.Ethernet(etherType)}, link, a.layers[1:])
	a.len += size
	a.flow = with(a.flow, parts...)
	return a
}

// outerCases are about the headers before a tunnel's.
func outerCases(tb testing.TB) []packetCase {
	tb.Helper()
	vlans := []packets.Layer{packets.VLAN(200, type8021Q), packets.VLAN(100, typeIPv4)}
	tagged := func(c content, parts ...keyPart) content {
		c.flow = with(c.flow, parts...)
		return c
	}
	gre4 := inIP4("gre", protoGRE, over4(kindGRE), 4, packets.GRE(typeIPv6))
	var cases []packetCase
	for _, link := range []struct {
		name  string
		size  int
		kind  layers.EthernetType
		link  []packets.Layer
		parts []keyPart
	}{
		{"802.1q", 4, type8021Q, []packets.Layer{packets.VLAN(9, typeIPv4)}, []keyPart{vlan(9)}},
		{"qinq", 8, type8021AD, vlans, []keyPart{vlan(200), innerVLAN(100)}},
		{"mpls", 8, typeMPLS, packets.MPLS(1234, 99), []keyPart{mpls(1234)}},
		{"pppoe", 8, typePPPoE, packets.PPPoE(layers.PPPTypeIPv4), nil},
	} {
		cases = append(cases,
			tagged(frame4(), link.parts...).in(tb, vxlan4().linked(link.name, link.size, link.kind, link.link, link.parts...)),
			tagged(packet6(), link.parts...).in(tb, gre4.linked(link.name, link.size, link.kind, link.link, link.parts...)))
	}
	// its own tag is not the outer one
	both := packet4().behind("802.1q", 18, packets.InnerEthernet(type8021Q), packets.VLAN(100, typeIPv4))
	cases = append(cases, tagged(both, vlan(9)).in(tb,
		vxlan4().linked("802.1q", 4, type8021Q, []packets.Layer{packets.VLAN(9, typeIPv4)}, vlan(9))))

	options := vxlan4()
	options.name, options.len = "vxlan behind ipv4 options", options.len+8
	options.layers = slices.Replace(slices.Clone(options.layers), 1, 2, packets.Layer(packets.IPv4Options(protoUDP, 8)))
	ipip := inIP4("ip in ip behind ipv4 options", protoIPv4, over4(kindIPIP), 8)
	ipip.layers[1] = packets.IPv4Options(protoIPv4, 8)
	extended := vxlan6()
	extended.name, extended.len, extended.chain = "vxlan behind extension headers", extended.len+24, []layers.IPProtocol{hopByHop, destOptions}
	extended.layers = slices.Replace(slices.Clone(extended.layers), 1, 2, packets.Layer(packets.IPv6(hopByHop)),
		packets.Options(destOptions, 8), packets.Options(protoUDP, 16))
	// RFC 2473, section 4.1.1: how deep tunnels may nest, before an IP packet
	limited := inIP6("ip in ipv6 behind an encapsulation limit", protoIPv6, over6(kindIPIP), 8)
	limited.chain = []layers.IPProtocol{destOptions}
	limited.layers = []packets.Layer{packets.Ethernet(typeIPv6), packets.IPv6(destOptions), packets.Options(protoIPv6, 8)}
	stepped := packet4().in(tb, ipip)
	stepped.tunnel.unread = 8
	return append(cases,
		frame6().in(tb, options), stepped, frame4().in(tb, extended), packet6().in(tb, limited))
}

// tunnelEndCases are about where what is in a tunnel ends.
func tunnelEndCases(tb testing.TB) []packetCase {
	tb.Helper()
	named := func(c packetCase, name string) packetCase {
		c.name = name
		return c
	}
	const (
		outerTotal = packets.EthernetLen + 2
		outerUDP   = transport4 + 4
		vxlanIP    = udpTunnel4 + 8 + 14 // the IP header in VXLAN
	)
	patched := func(c packetCase, off int, v uint16) packetCase {
		c.frame = packets.Patch16(c.frame, off, v)
		return c
	}
	vxlan := frame4().in(tb, vxlan4())
	whole := len(vxlan.frame) // 108

	// 58 bytes, which a device pads to 60
	short := content{
		name: "a short packet", layers: []packets.Layer{packets.InnerIPv4(protoUnknown)},
		len: 20, addresses: 20, flow: in4(protoUnknown),
	}.in(tb, inIP4("gre", protoGRE, over4(kindGRE), 4, packets.GRE(typeIPv4)))
	short.needs, short.tunnel.needs = len(short.frame), len(short.frame)
	short.frame = packets.Pad(short.frame)

	padded := content{
		name: "a padded frame", layers: append(frame4().layers, packets.Payload(7)),
		len: 58 + 7, addresses: 34, flow: in4(protoTCP, ports), flags: tcpPSH | tcpACK,
	}.in(tb, vxlan4())
	// of which the IP packet is no more than the 44 bytes
	padded = patched(padded, vxlanIP+2, 44)

	// a packet says itself where it ends, what the tunnel has behind it is not of it
	trailed := content{
		name: "bytes behind the packet", layers: append(packet4().layers, packets.Payload(7)),
		len: 44 + 7, addresses: 20, flow: in4(protoTCP, ports), flags: tcpPSH | tcpACK,
	}.in(tb, inIP4("gre", protoGRE, over4(kindGRE), 4, packets.GRE(typeIPv4)))
	trailed = patched(trailed, transport4+4+2, 44)
	trailed.tunnel.len = 44

	// the UDP datagram ends 5 bytes before the IP datagram does
	spare := frame4().in(tb, vxlan4())
	spare.frame = append(spare.frame, 1, 2, 3, 4, 5)
	spare = patched(spare, outerTotal, uint16(whole+5-14))

	longer := patched(vxlan, vxlanIP+2, 45)
	longer.outcome = truncated
	longer.tunnel = ptr(*vxlan.tunnel)
	// then its TCP header ends after the tunnel does
	headless := patched(patched(vxlan, outerTotal, uint16(whole-14-5)), outerUDP, uint16(whole-34-5))
	headless.frame = headless.frame[:whole-5]
	headless.outcome, headless.flags = malformed, 0
	headless.tunnel = ptr(*vxlan.tunnel)
	headless.tunnel.len = 58 - 5

	// the same of its IP options, also where nothing is read behind them
	options := packets.InnerIPv4(protoUnknown)
	options.Options = slices.Repeat([]layers.IPv4Option{{OptionType: 1}}, 40)
	optionless := content{
		name: "options", layers: []packets.Layer{packets.InnerEthernet(typeIPv4), options, packets.Payload(8)},
		len: 14 + 60 + 8, addresses: 34, flow: in4(protoUnknown),
	}.in(tb, vxlan4())
	optionless = patched(patched(optionless, outerTotal, 20+8+8+14+56), outerUDP, 8+8+14+56)
	optionless.outcome, optionless.tunnel.len, optionless.tunnel.needs = malformed, 14+56, udpTunnel4+8+14+56
	first := optionless // of several fragments
	first.frame = packets.Patch16(first.frame, ipv4Fragment, 0x2000)

	// what is longer than a length can say ends with the frame
	endless := patched(patched(vxlan, outerTotal, 0), outerUDP, 0)
	endless.tunnel = ptr(*vxlan.tunnel)
	endless.tunnel.needs, endless.tunnel.endless = udpTunnel4, true
	inner := patched(vxlan, vxlanIP+2, 0)
	inner.tunnel = ptr(*vxlan.tunnel)

	return append([]packetCase{
		named(short, "gre in a padded frame"),
		named(padded, "vxlan with a padded frame"),
		named(trailed, "gre with bytes behind the packet"),
		named(spare, "vxlan with bytes behind the udp datagram"),
		named(longer, "vxlan with a packet longer than the tunnel's"),
		named(headless, "vxlan with a transport header longer than the tunnel's datagram"),
		named(optionless, "vxlan with ip options longer than the tunnel's datagram"),
		named(first, "vxlan in a first fragment with ip options longer than it"),
		named(endless, "vxlan longer than the length fields"),
		named(inner, "vxlan with a packet longer than the length field"),
	}, tunnelFragmentCases(tb)...)
}

func ptr[T any](v T) *T { return &v }

// tunnelFragmentCases have the tunnel's datagram in fragments: the first is
// opened as far as it goes, of the others nobody knows what they carry.
func tunnelFragmentCases(tb testing.TB) []packetCase {
	tb.Helper()
	fragmented := func(a around, name string, more bool) around {
		a.name += " " + name
		a.layers = slices.Clone(a.layers)
		offset := uint16(0)
		if !more {
			offset = 1480
		}
		proto := layers.IPProtocol(a.flow.Protocol)
		a.layers[1] = packets.IPv4Fragment(proto, offset, more)
		return a
	}
	// the packet inside is of 1044 bytes, and of them 44 here
	const total = udpTunnel4 + 8 + 14 + 2
	vxlan := frame4().in(tb, fragmented(vxlan4(), "in a first fragment", true))
	vxlan.frame = packets.Patch16(packets.Patch16(vxlan.frame, total, 1044), transport4+4, 8+8+14+1044)
	ipip := packet6().in(tb, fragmented(inIP4("ip in ip", protoIPv6, over4(kindIPIP), 0), "in a first fragment", true))
	ipip.frame = packets.Patch16(ipip.frame, transport4+4, 24+1000)

	udp := content{
		name: "udp", layers: []packets.Layer{packets.InnerIPv4(protoUDP), raw(0x9c, 0x41, 0x01, 0xbb, 0x03, 0xf0, 0, 0), packets.Payload(8)},
		len: 20 + 8 + 8, addresses: 20, flow: in4(protoUDP, ports),
	}.in(tb, fragmented(inIP4("ip in ip", protoIPv4, over4(kindIPIP), 0), "in a first fragment", true))
	udp.frame = packets.Patch16(udp.frame, transport4+2, 20+1008)

	// its length is not that of a fragment, and longer than the datagram says
	udp6 := content{
		name: "udp longer than its datagram", layers: []packets.Layer{packets.InnerIPv6(protoUDP), raw(0x9c, 0x41, 0x01, 0xbb, 0, 17, 0, 0), packets.Payload(8)},
		len: 40 + 8 + 8, addresses: 40, flow: in6(protoUDP, ports),
	}.in(tb, fragmented(inIP4("ip in ip", protoIPv6, over4(kindIPIP), 0), "in a first fragment", true))
	udp6.outcome = malformed

	cases := []packetCase{vxlan, ipip, udp, udp6}
	for _, a := range []around{
		vxlan4(), geneve4("geneve", 0, typeTEB), inIP4("gre", protoGRE, over4(kindGRE), 4, packets.GRE(typeTEB)),
	} {
		c := closed(frame4().in(tb, fragmented(a, "in a later fragment", false)))
		c.flow = v4(layers.IPProtocol(a.flow.Protocol), fragment)
		c.tunnel.outer = c.flow
		cases = append(cases, c)
	}
	later := closed(packet4().in(tb, fragmented(inIP4("ip in ip", protoIPv4, over4(kindIPIP), 0), "in a later fragment", false)))
	later.flow = v4(protoIPv4, fragment)
	return append(cases, later)
}

// closed is the packet as one that no program takes for a tunnel's.
func closed(c packetCase) packetCase {
	c.name = "closed " + c.name
	c.flow, c.flags, c.chain = c.tunnel.outer, 0, c.tunnel.chain
	c.tunnel = &carried{outer: c.flow, chain: c.chain}
	return c
}

// closedCases look like a tunnel's, and are not by their port or protocol.
func closedCases(tb testing.TB) []packetCase {
	tb.Helper()
	gpe := inUDP4("vxlan at 4790", packets.VXLANGPEPort, bpf.TCTunnelKey{}, 8, packets.VXLAN(packets.VNI))
	from := inUDP4("vxlan from 4789", packets.VXLANPort, bpf.TCTunnelKey{}, 8, packets.VXLAN(packets.VNI))
	from.layers[2] = &layers.UDP{SrcPort: packets.VXLANPort, DstPort: packets.TunnelSourcePort}
	from.flow = v4(protoUDP, ports, func(k *bpf.TCFlowKey) {
		k.SourcePort, k.DestinationPort = packets.VXLANPort, packets.TunnelSourcePort
	})
	lite := inUDP4("udp-lite to 4789", packets.VXLANPort, bpf.TCTunnelKey{}, 8, packets.VXLAN(packets.VNI))
	lite.layers[1] = packets.IPv4(layers.IPProtocolUDPLite)
	lite.flow = v4(layers.IPProtocolUDPLite, to(packets.VXLANPort))
	tcp := packets.TCP(tcpACK)
	tcp.SrcPort, tcp.DstPort = packets.TunnelSourcePort, packets.VXLANPort
	overTCP := packetCase{
		name: "closed tcp to 4789", frame: eth4(tb, packets.IPv4(protoTCP), tcp, packets.VXLAN(packets.VNI), packets.Payload(50)),
		flow: v4(protoTCP, to(packets.VXLANPort)), flags: tcpACK,
	}
	// the tunnel's header is not there
	short := func(name string, a around, size int) packetCase {
		return packetCase{
			name: name, frame: packets.Build(tb, append(slices.Clone(a.layers[:len(a.layers)-1]), packets.Payload(size))...),
			outcome: malformed, flow: a.flow, tunnel: &carried{outer: a.flow},
		}
	}
	withUDPLength := func(name string, size uint16) packetCase {
		c := frame4().in(tb, vxlan4())
		c.frame = packets.Patch16(c.frame, transport4+4, size)
		c = closed(c)
		c.name, c.outcome, c.tunnel.outside = "closed vxlan with "+name, malformed, malformed
		return c
	}
	return []packetCase{
		closed(frame4().in(tb, gpe)), closed(frame4().in(tb, from)), closed(frame4().in(tb, lite)), overTCP,
		short("vxlan without its header", vxlan4(), 0),
		short("vxlan with half its header", vxlan4(), 7),
		short("geneve with half its header", geneve4("", 0, typeTEB), 7),
		short("gre with half its header", inIP4("", protoGRE, bpf.TCTunnelKey{}, 4, packets.GRE(typeIPv4)), 3),
		// of eight bytes that key and flags say
		short("gre with half its key", inIP4("", protoGRE, bpf.TCTunnelKey{}, 4, raw(), raw()), 0).replaced(tb, 0x20, 0, 8, 0, 0, 0, 1),
		short("gre with half its checksum", inIP4("", protoGRE, bpf.TCTunnelKey{}, 4, raw(), raw()), 0).replaced(tb, 0x80, 0, 8, 0, 0, 0, 1),
		short("gre with half its sequence number", inIP4("", protoGRE, bpf.TCTunnelKey{}, 4, raw(), raw()), 0).replaced(tb, 0x30, 0, 8, 0, 0, 0, 1, 2, 0, 0, 1),
		withUDPLength("a udp length too short", 7),
		withUDPLength("a udp length too long", 8+8+58+1),
	}
}

// replaced is the packet with other bytes behind a plain IPv4 header.
func (c packetCase) replaced(tb testing.TB, b ...byte) packetCase {
	tb.Helper()
	c.frame = eth4(tb, packets.IPv4(layers.IPProtocol(c.flow.Protocol)), raw(b...))
	return c
}

// tunnelGSOCases are super-packets of a tunnel: three segments of 100 bytes and
// less, each with the tunnel's headers.
func tunnelGSOCases(tb testing.TB) []packetCase {
	tb.Helper()
	ip4, ip6 := packets.InnerEthernet(typeIPv4), packets.InnerEthernet(typeIPv6)
	c := func(name string, headers, addresses int, flow *bpf.TCFlowKey, parts ...packets.Layer) content {
		return content{
			name: name, layers: append(parts, packets.Payload(280)), len: headers + 280, addresses: addresses,
			flow: flow, flags: tcpACK,
		}
	}
	tcp4 := []packets.Layer{packets.InnerIPv4(protoTCP), packets.TCP(tcpACK)}
	tcp6 := []packets.Layer{packets.InnerIPv6(protoTCP), packets.TCP(tcpACK)}
	udp := c("udp", 14+20+8, 34, in4(protoUDP, ports), ip4, packets.InnerIPv4(protoUDP), packets.UDP())
	udp.flags = 0
	cases := []packetCase{}
	for _, c := range []struct {
		content content
		around  around
		// what each segment repeats
		headers uint64
	}{
		{c("tcp", 14+40, 34, in4(protoTCP, ports), inside([]packets.Layer{ip4}, tcp4)...), vxlan4(), 42 + 8 + 54},
		{c("tcp6", 14+60, 54, in6(protoTCP, ports), inside([]packets.Layer{ip6}, tcp6)...), vxlan6(), 62 + 8 + 74},
		{udp, vxlan4(), 42 + 8 + 42},
		{
			c("tcp", 14+40, 34, in4(protoTCP, ports), inside([]packets.Layer{ip4}, tcp4)...),
			geneve4("geneve with options", 8+12, typeTEB, 4, 8), 42 + 8 + 20 + 54,
		},
		{c("tcp", 40, 20, in4(protoTCP, ports), tcp4...), inIP4("ip in ipv4", protoIPv4, over4(kindIPIP), 0), 34 + 40},
		{c("tcp6", 60, 40, in6(protoTCP, ports), tcp6...), inIP4("ip in ipv4", protoIPv6, over4(kindIPIP), 0), 34 + 60},
		{
			c("tcp", 40, 20, in4(protoTCP, ports), tcp4...),
			inIP4("gre with a key", protoGRE, over4(kindGRE, 5), 8, packets.GREKey(typeIPv4, 5)), 34 + 8 + 40,
		},
		{
			c("tcp", 14+40, 34, in4(protoTCP, ports, vlan(9)), inside([]packets.Layer{ip4}, tcp4)...),
			vxlan4().linked("802.1q", 4, type8021Q, []packets.Layer{packets.VLAN(9, typeIPv4)}, vlan(9)), 46 + 8 + 54,
		},
	} {
		pc := c.content.in(tb, c.around)
		pc.segments, pc.headers = 3, c.headers
		counted, uncounted := pc, pc
		counted.name, counted.skb = "gso "+pc.name, &bpftest.SKB{GSOSegs: 3, GSOSize: 100}
		uncounted.name, uncounted.skb = "gso without segments "+pc.name, &bpftest.SKB{GSOSize: 100}
		cases = append(cases, counted, uncounted)
	}
	return append(cases, jumboCases(tb)...)
}

// jumboCases have IPv6's option for packets over 64 KiB. In a super-packet the
// kernel put it there, and takes it out of the segments; else it is on the wire.
func jumboCases(tb testing.TB) []packetCase {
	tb.Helper()
	jumbo := raw(6, 0, 0xc2, 4, 0, 0, 0x01, 0x2c) // TCP next, and 300 bytes
	parts := []packets.Layer{packets.IPv6(hopByHop), jumbo, packets.TCP(tcpACK), packets.Payload(280)}
	innerParts := []packets.Layer{packets.InnerIPv6(hopByHop), jumbo, packets.TCP(tcpACK), packets.Payload(280)}

	plain := packetCase{
		name: "jumbogram", frame: packets.Patch16(eth6(tb, parts...), ipv6Payload, 0),
		flow: v6(protoTCP, ports), flags: tcpACK, chain: []layers.IPProtocol{hopByHop}, needs: 14 + 40 + 8 + 20,
	}
	inVXLAN := content{
		name: "a jumbogram", layers: append([]packets.Layer{packets.InnerEthernet(typeIPv6)}, innerParts...),
		len: 14 + 40 + 8 + 20 + 280, addresses: 54, flow: in6(protoTCP, ports), flags: tcpACK, chain: plain.chain,
	}.in(tb, vxlan4())
	inVXLAN.frame = packets.Patch16(inVXLAN.frame, udpTunnel4+8+14+4, 0)
	inIPIP := content{
		name: "a jumbogram", layers: innerParts,
		len: 40 + 8 + 20 + 280, addresses: 40, flow: in6(protoTCP, ports), flags: tcpACK, chain: plain.chain,
	}.in(tb, inIP6("ip in ipv6", protoIPv6, over6(kindIPIP), 0))
	inIPIP.frame = packets.Patch16(inIPIP.frame, transport6+4, 0)

	var cases []packetCase
	for _, c := range []struct {
		packetCase
		headers uint64
	}{{plain, 14 + 40 + 20}, {inVXLAN, 42 + 8 + 14 + 40 + 20}, {inIPIP, 54 + 40 + 20}} {
		cases = append(cases, c.packetCase)
		super := c.packetCase
		super.name = "gso " + c.name
		super.skb = &bpftest.SKB{GSOSegs: 3, GSOSize: 100}
		super.segments, super.headers, super.jumbo = 3, c.headers, 8
		cases = append(cases, super)
		super.name = "gso without segments " + c.name
		super.skb = &bpftest.SKB{GSOSize: 100}
		cases = append(cases, super)
	}
	// an option that is not that of the kernel stays in all segments
	other := plain
	other.name = "gso of other hop-by-hop options"
	other.frame = packets.Patch(eth6(tb, parts...), transport6+2, 1, 4)
	other.skb, other.segments, other.headers = &bpftest.SKB{GSOSegs: 3, GSOSize: 100}, 3, 14+40+8+20
	other.needs = 0
	longer := packetCase{
		name:  "gso of a jumbo option and others",
		frame: packets.Patch(eth6(tb, packets.IPv6(hopByHop), packets.Options(protoTCP, 16), packets.TCP(tcpACK), packets.Payload(280)), transport6+2, 0xc2, 4),
		flow:  v6(protoTCP, ports), flags: tcpACK, chain: plain.chain,
		skb: other.skb, segments: 3, headers: 14 + 40 + 16 + 20,
	}
	// no tunnel of the kernel makes one, so around a tunnel it is on the wire
	outer := content{
		name: "tcp", layers: []packets.Layer{packets.InnerIPv4(protoTCP), packets.TCP(tcpACK), packets.Payload(280)},
		len: 40 + 280, addresses: 20, flow: in4(protoTCP, ports), flags: tcpACK,
	}.in(tb, around{
		name: "gso ip in a jumbogram", len: 54 + 8, flow: v6(protoIPv4), tunnel: over6(kindIPIP), chain: plain.chain,
		layers: []packets.Layer{packets.Ethernet(typeIPv6), packets.IPv6(hopByHop), raw(4, 0, 0xc2, 4, 0, 0, 0x01, 0x40)},
	})
	outer.skb, outer.segments, outer.headers = other.skb, 3, 54+8+40
	return append(cases, other, longer, outer)
}
