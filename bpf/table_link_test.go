// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
)

const (
	typeIPv4   = layers.EthernetTypeIPv4
	typeIPv6   = layers.EthernetTypeIPv6
	type8021Q  = layers.EthernetTypeDot1Q
	type8021AD = layers.EthernetTypeQinQ
	type9100   = layers.EthernetType(0x9100)
	typeMPLS   = layers.EthernetTypeMPLSUnicast
	typePPPoE  = layers.EthernetTypePPPoESession
)

// maxTags and maxLabels are how many the programs walk.
const (
	maxTags   = 4
	maxLabels = 8
)

func vlanCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp, udp := layers.IPProtocolTCP, layers.IPProtocolUDP
	// bits beside the VLAN's number
	priority := &layers.Dot1Q{VLANIdentifier: 4095, Priority: 7, DropEligible: true, Type: typeIPv4}
	return []packetCase{
		{
			name:  "802.1q",
			frame: eth(tb, type8021Q, inside([]packets.Layer{packets.VLAN(100, typeIPv4)}, tcp4(4))...),
			flow:  v4(tcp, ports, vlan(100)), flags: tcpACK,
		},
		{
			name:  "802.1q with ipv6",
			frame: eth(tb, type8021Q, inside([]packets.Layer{packets.VLAN(2, typeIPv6)}, tcp6(4))...),
			flow:  v6(tcp, ports, vlan(2)), flags: tcpACK,
		},
		{
			name:  "802.1q with priority",
			frame: eth(tb, type8021Q, inside([]packets.Layer{priority}, udp4(4))...),
			flow:  v4(udp, ports, vlan(4095)),
		},
		{
			// IEEE 802.1Q: it tags the priority and no VLAN, but it is on the wire
			name:  "802.1q with vlan 0",
			frame: eth(tb, type8021Q, inside([]packets.Layer{packets.VLAN(0, typeIPv4)}, udp4(4))...),
			flow:  v4(udp, ports, vlan(0)),
		},
		{
			name:  "802.1ad alone",
			frame: eth(tb, type8021AD, inside([]packets.Layer{packets.VLAN(200, typeIPv4)}, udp4(4))...),
			flow:  v4(udp, ports, vlan(200)),
		},
		{
			name: "qinq of 802.1ad and 802.1q",
			frame: eth(tb, type8021AD, inside([]packets.Layer{
				packets.VLAN(200, type8021Q), packets.VLAN(100, typeIPv4),
			}, tcp4(4))...),
			flow: v4(tcp, ports, vlan(200), innerVLAN(100)), flags: tcpACK,
		},
		{
			name: "qinq of 802.1q twice with ipv6",
			frame: eth(tb, type8021Q, inside([]packets.Layer{
				packets.VLAN(300, type8021Q), packets.VLAN(301, typeIPv6),
			}, udp6(4))...),
			flow: v6(udp, ports, vlan(300), innerVLAN(301)),
		},
		{
			name: "qinq of 0x9100 and 802.1q",
			frame: eth(tb, type9100, inside([]packets.Layer{
				packets.VLAN(400, type8021Q), packets.VLAN(401, typeIPv4),
			}, udp4(4))...),
			flow: v4(udp, ports, vlan(400), innerVLAN(401)),
		},
		{
			name:  "three tags",
			frame: tagged(tb, 3),
			flow:  v4(udp, ports, vlan(11), innerVLAN(12)),
		},
		{
			name:  "as many tags as are walked",
			frame: tagged(tb, maxTags),
			flow:  v4(udp, ports, vlan(11), innerVLAN(12)),
		},
		{
			name:    "one tag too many",
			frame:   tagged(tb, maxTags+1),
			outcome: unsupported,
		},
		{
			name:    "802.1q with arp",
			frame:   eth(tb, type8021Q, packets.VLAN(100, layers.EthernetTypeARP), packets.Payload(28)),
			outcome: notIP,
		},
	}
}

// tagged is a packet in n tags: 11, 12, …
func tagged(tb testing.TB, n int) []byte {
	tb.Helper()
	var tags []packets.Layer
	for i := range n {
		next := type8021Q
		if i == n-1 {
			next = typeIPv4
		}
		tags = append(tags, packets.VLAN(uint16(11+i), next))
	}
	return eth(tb, type8021AD, inside(tags, udp4(4))...)
}

func mplsCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp, udp := layers.IPProtocolTCP, layers.IPProtocolUDP
	labels := []uint32{0xfffff, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008}
	var cases []packetCase
	for n := 1; n <= maxLabels; n++ {
		cases = append(cases, packetCase{
			name:  fmt.Sprintf("mpls with %d labels", n),
			frame: eth(tb, typeMPLS, inside(packets.MPLS(labels[:n]...), tcp4(4))...),
			flow:  v4(tcp, ports, mpls(0xfffff)), flags: tcpACK,
		})
	}
	tag := []packets.Layer{packets.VLAN(100, typeMPLS)}
	// RFC 4448, section 4.6: a zero word, then a frame
	word := []packets.Layer{gopacket.Payload(make([]byte, 4)), packets.Ethernet(typeIPv4)}
	return append(cases,
		packetCase{
			name:    "mpls with one label too many",
			frame:   eth(tb, typeMPLS, inside(packets.MPLS(labels...), tcp4(4))...),
			outcome: unsupported,
		},
		packetCase{
			name:  "mpls with ipv6",
			frame: eth(tb, typeMPLS, inside(packets.MPLS(2, 77), udp6(4))...),
			flow:  v6(udp, ports, mpls(2)),
		},
		packetCase{
			name:  "mpls multicast",
			frame: eth(tb, layers.EthernetTypeMPLSMulticast, inside(packets.MPLS(500), udp4(4))...),
			flow:  v4(udp, ports, mpls(500)),
		},
		packetCase{
			name:  "mpls in 802.1q",
			frame: eth(tb, type8021Q, inside(slices.Concat(tag, packets.MPLS(600, 601)), udp4(4))...),
			flow:  v4(udp, ports, vlan(100), mpls(600)),
		},
		packetCase{
			name:    "mpls pseudowire with control word",
			frame:   eth(tb, typeMPLS, inside(slices.Concat(packets.MPLS(700, 701), word), udp4(4))...),
			outcome: notIP,
		},
		packetCase{
			name:    "mpls with nothing below",
			frame:   eth(tb, typeMPLS, packets.MPLS(800)...),
			outcome: truncated,
		},
		packetCase{
			name:    "mpls without bottom of stack",
			frame:   eth(tb, typeMPLS, packets.MPLS(900, 901, 902)[:2]...),
			outcome: truncated,
		},
	)
}

func pppoeCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp, udp := layers.IPProtocolTCP, layers.IPProtocolUDP
	const pppIPv4, pppIPv6, pppLCP = layers.PPPTypeIPv4, layers.PPPTypeIPv6, layers.PPPType(0xc021)
	session := eth(tb, typePPPoE, inside(packets.PPPoE(pppIPv4), tcp4(4))...)
	tag := []packets.Layer{packets.VLAN(7, typePPPoE)}
	lcp := append(packets.PPPoE(pppLCP), gopacket.Payload{9, 1, 0, 8, 0x12, 0x34, 0x56, 0x78})
	return []packetCase{
		{
			name:  "pppoe with ipv4",
			frame: session,
			flow:  v4(tcp, ports), flags: tcpACK,
		},
		{
			name:  "pppoe with ipv6",
			frame: eth(tb, typePPPoE, inside(packets.PPPoE(pppIPv6), udp6(4))...),
			flow:  v6(udp, ports),
		},
		{
			name:  "pppoe in 802.1q",
			frame: eth(tb, type8021Q, inside(slices.Concat(tag, packets.PPPoE(pppIPv4)), udp4(4))...),
			flow:  v4(udp, ports, vlan(7)),
		},
		{
			name:    "pppoe with lcp echo",
			frame:   eth(tb, typePPPoE, lcp...),
			outcome: notIP,
		},
		{
			name:    "pppoe of another version",
			frame:   packets.Patch(session, packets.EthernetLen, 0x21),
			outcome: malformed,
		},
		{
			// RFC 2516, section 6: zero in a session
			name:    "pppoe session with a code",
			frame:   packets.Patch(session, packets.EthernetLen+1, 0xa7),
			outcome: malformed,
		},
		{
			name:    "pppoe discovery",
			frame:   eth(tb, layers.EthernetTypePPPoEDiscovery, gopacket.Payload{0x11, 9, 0, 0, 0, 4, 1, 1, 0, 0}),
			outcome: notIP,
		},
	}
}

// otherLinkCases are frames that carry no IP.
func otherLinkCases(tb testing.TB) []packetCase {
	tb.Helper()
	arp := &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: typeIPv4,
		HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
		SourceHwAddress: net.HardwareAddr{2, 0, 0x5e, 0x10, 0, 1}, DstHwAddress: make([]byte, 6),
		SourceProtAddress: packets.Source4.AsSlice(), DstProtAddress: packets.Destination4.AsSlice(),
	}
	lldp := gopacket.Payload{
		0x02, 7, 4, 2, 0, 0x5e, 0x10, 0, 1, // chassis: its address
		0x04, 5, 5, 'e', 't', 'h', '0', // port: its name
		0x06, 2, 0, 120, // time to live
		0, 0,
	}
	// a spanning tree's bridge sends these: IEEE 802.1D, section 9
	bpdu := []packets.Layer{&layers.LLC{DSAP: 0x42, SSAP: 0x42, Control: 3}, gopacket.Payload(make([]byte, 35))}
	cases := []packetCase{
		{name: "arp", frame: eth(tb, layers.EthernetTypeARP, arp)},
		{name: "arp with padding", frame: packets.Pad(eth(tb, layers.EthernetTypeARP, arp))},
		{name: "lldp", frame: eth(tb, layers.EthernetTypeLinkLayerDiscovery, lldp)},
		{name: "llc spanning tree", frame: packets.Pad(eth(tb, 38, bpdu...))},
		{name: "llc snap with arp", frame: eth(tb, 36, inside(snap(0, layers.EthernetTypeARP), []packets.Layer{arp})...)},
		{name: "llc snap of another organization", frame: eth(tb, 52, inside(snap(0x0c, typeIPv4), tcp4(4))...)},
		{name: "llc snap with a vlan tag", frame: eth(tb, 52, inside(snap(0, layers.EthernetTypeDot1Q), tcp4(4))...)},
		{name: "unknown ethertype", frame: eth(tb, 0x88b5, tcp4(4)...)},
		{name: "largest ethertype", frame: eth(tb, 0xffff, packets.Payload(50))},
	}
	for i := range cases {
		cases[i].outcome = notIP
	}
	return cases
}

// paddingCases are packets shorter than Ethernet's shortest frame.
func paddingCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp, udp := layers.IPProtocolTCP, layers.IPProtocolUDP
	padded := func(c packetCase) packetCase {
		c.needs = len(c.frame)
		c.frame = packets.Pad(c.frame)
		return c
	}
	long := eth6(tb, udp6(0)...)
	return []packetCase{
		padded(packetCase{name: "padded udp", frame: eth4(tb, udp4(1)...), flow: v4(udp, ports)}),
		padded(packetCase{name: "padded tcp", frame: eth4(tb, tcp4(0)...), flow: v4(tcp, ports), flags: tcpACK}),
		padded(packetCase{
			name:  "padded udp in 802.1q",
			frame: eth(tb, type8021Q, inside([]packets.Layer{packets.VLAN(5, typeIPv4)}, udp4(1))...),
			flow:  v4(udp, ports, vlan(5)),
		}),
		padded(packetCase{
			name:  "padded last fragment",
			frame: eth4(tb, packets.IPv4Fragment(udp, 1480, false), packets.Payload(1)),
			flow:  v4(udp, fragment),
		}),
		padded(packetCase{
			name:  "padded ipv6 no next header",
			frame: eth6(tb, packets.IPv6(layers.IPProtocolNoNextHeader), packets.Payload(2)),
			flow:  v6(layers.IPProtocolNoNextHeader),
		}),
		{
			// a trailer such as a switch or a time-stamping card adds
			name:  "ipv6 udp with a trailer",
			frame: append(slices.Clone(long), 0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 5, 6, 7, 8),
			flow:  v6(udp, ports), needs: len(long),
		},
	}
}

// gsoCases are super-packets: one for the kernel, several frames on the wire.
// Payload and segment sizes are such that the 14 bytes that a test run adds to
// a packet without link header make no other number of segments.
func gsoCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp, udp := layers.IPProtocolTCP, layers.IPProtocolUDP
	const mss = 100
	both := &bpftest.SKB{GSOSegs: 3, GSOSize: mss}
	sizeOnly := &bpftest.SKB{GSOSize: mss}
	timestamps := packets.TCP(tcpACK)
	timestamps.Options = []layers.TCPOption{
		{OptionType: layers.TCPOptionKindTimestamps, OptionData: make([]byte, 8)},
	}
	tag := []packets.Layer{packets.VLAN(9, typeIPv4)}
	cases := []packetCase{
		{name: "tcp on ipv4", frame: eth4(tb, tcp4(280)...), flow: v4(tcp, ports), headers: 54},
		{name: "tcp on ipv6", frame: eth6(tb, tcp6(280)...), flow: v6(tcp, ports), headers: 74},
		{name: "udp on ipv4", frame: eth4(tb, udp4(280)...), flow: v4(udp, ports), headers: 42},
		{name: "udp on ipv6", frame: eth6(tb, udp6(280)...), flow: v6(udp, ports), headers: 62},
		{
			name:  "tcp with options",
			frame: eth4(tb, packets.IPv4Options(tcp, 8), timestamps, packets.Payload(280)),
			flow:  v4(tcp, ports), headers: 14 + 28 + 32,
		},
		{
			name:  "tcp in 802.1q",
			frame: eth(tb, type8021Q, inside(tag, tcp4(280))...),
			flow:  v4(tcp, ports, vlan(9)), headers: 58,
		},
		{
			name:  "tcp behind hop-by-hop options",
			frame: eth6(tb, packets.IPv6(hopByHop), packets.Options(tcp, 8), packets.TCP(tcpACK), packets.Payload(280)),
			flow:  v6(tcp, ports), headers: 82, chain: []layers.IPProtocol{hopByHop},
		},
		{
			name:  "tcp longer than the length field",
			frame: packets.Patch16(eth4(tb, tcp4(280)...), ipv4Total, 0),
			flow:  v4(tcp, ports), headers: 54, needs: 54,
		},
	}
	var all []packetCase
	for _, c := range cases {
		c.segments = 3
		if c.flow.Protocol == uint8(tcp) {
			c.flags = tcpACK
		}
		counted, uncounted := c, c
		counted.name, counted.skb = "gso "+c.name, both
		uncounted.name, uncounted.skb = "gso without segments "+c.name, sizeOnly
		all = append(all, counted, uncounted)
	}
	return append(all, gsoEdgeCases(tb)...)
}

func gsoEdgeCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp := layers.IPProtocolTCP
	gso := func(name string, payload int, segments uint64, skb bpftest.SKB) packetCase {
		return packetCase{
			name: "gso " + name, frame: eth4(tb, tcp4(payload)...), flow: v4(tcp, ports), flags: tcpACK,
			skb: &skb, segments: segments, headers: 54,
		}
	}
	return []packetCase{
		gso("of one segment", 50, 1, bpftest.SKB{GSOSegs: 1, GSOSize: 100}),
		gso("without segments, of one", 86, 1, bpftest.SKB{GSOSize: 100}),
		gso("without segments, last of one byte", 201, 3, bpftest.SKB{GSOSize: 100}),
		gso("without segments, the longest of three", 286, 3, bpftest.SKB{GSOSize: 100}),
		gso("with segments and no size", 280, 7, bpftest.SKB{GSOSegs: 7}),
		gso("without payload", 0, 1, bpftest.SKB{GSOSize: 100}),
		{
			name: "gso of what is not ip", frame: eth(tb, layers.EthernetTypeARP, packets.Payload(28)),
			outcome: notIP, skb: &bpftest.SKB{GSOSegs: 1, GSOSize: 100}, segments: 1,
		},
	}
}

// snap is what RFC 1042 puts between an IEEE 802.3 length and a packet.
func snap(organization byte, kind layers.EthernetType) []packets.Layer {
	return []packets.Layer{
		&layers.LLC{DSAP: 0xaa, SSAP: 0xaa, Control: 3},
		&layers.SNAP{OrganizationalCode: []byte{0, 0, organization}, Type: kind},
	}
}

func snapCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp := layers.IPProtocolTCP
	return []packetCase{
		{name: "llc snap with ipv4", frame: eth(tb, 52, inside(snap(0, typeIPv4), tcp4(4))...), flow: v4(tcp, ports), flags: tcpACK},
		{name: "llc snap with ipv6", frame: eth(tb, 72, inside(snap(0, layers.EthernetTypeIPv6), tcp6(4))...), flow: v6(tcp, ports), flags: tcpACK},
	}
}
