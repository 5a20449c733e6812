// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
)

// Fields of the IPv6 header in a frame without tags.
const (
	ipv6Version = packets.EthernetLen
	ipv6Payload = packets.EthernetLen + 4
)

const (
	hopByHop       = layers.IPProtocolIPv6HopByHop
	routing        = layers.IPProtocolIPv6Routing
	fragmentHeader = layers.IPProtocolIPv6Fragment
	ah             = layers.IPProtocolAH
	destOptions    = layers.IPProtocolIPv6Destination
)

// maxExtensions is how many extension headers the programs walk.
const maxExtensions = 12

func ipv6ExtensionCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp := layers.IPProtocolTCP
	segment := []packets.Layer{packets.TCP(tcpACK), packets.Payload(6)}
	// with a TCP segment behind the extension headers
	carry := func(first layers.IPProtocol, extensions ...packets.Layer) []byte {
		return eth6(tb, inside(append([]packets.Layer{packets.IPv6(first)}, extensions...), segment)...)
	}
	cases := []packetCase{
		{
			name:  "ipv6 hop-by-hop options",
			frame: carry(hopByHop, packets.Options(tcp, 8)),
			chain: []layers.IPProtocol{hopByHop},
		},
		{
			name:  "ipv6 routing header",
			frame: carry(routing, packets.Routing(tcp)),
			chain: []layers.IPProtocol{routing},
		},
		{
			name:  "ipv6 destination options",
			frame: carry(destOptions, packets.Options(tcp, 24)),
			chain: []layers.IPProtocol{destOptions},
		},
		{
			name:  "ipv6 authentication header",
			frame: carry(ah, packets.AH(tcp)),
			chain: []layers.IPProtocol{ah},
		},
		{
			// deeper than packet memory is read directly
			name:  "ipv6 destination options of 1040 bytes",
			frame: carry(destOptions, packets.Options(tcp, 1040)),
			chain: []layers.IPProtocol{destOptions},
		},
		{
			// all of RFC 8200, section 4.1, in its order
			name: "ipv6 chain of all extension headers",
			frame: carry(hopByHop, packets.Options(destOptions, 16), packets.Options(routing, 8),
				packets.Routing(fragmentHeader), packets.IPv6Fragment(ah, 0, true), packets.AH(destOptions),
				packets.Options(tcp, 8)),
			chain: []layers.IPProtocol{hopByHop, destOptions, routing, fragmentHeader, ah},
		},
		{
			name:  "ipv6 as many extension headers as are walked",
			frame: carry(destOptions, repeatedOptions(maxExtensions, tcp)...),
			chain: []layers.IPProtocol{destOptions},
		},
	}
	for i := range cases {
		cases[i].flow, cases[i].flags = v6(tcp, ports), tcpACK
	}
	return append(cases, ipv6ExtensionDamageCases(tb, carry)...)
}

// repeatedOptions are n destination options headers, the last before next.
func repeatedOptions(n int, next layers.IPProtocol) []packets.Layer {
	var extensions []packets.Layer
	for range n - 1 {
		extensions = append(extensions, packets.Options(destOptions, 8))
	}
	return append(extensions, packets.Options(next, 8))
}

func ipv6ExtensionDamageCases(tb testing.TB, carry func(layers.IPProtocol, ...packets.Layer) []byte) []packetCase {
	tb.Helper()
	tcp := layers.IPProtocolTCP
	short := packets.Patch16(carry(hopByHop, packets.Options(tcp, 8)), ipv6Payload, 7)
	return []packetCase{
		{
			name:    "ipv6 one extension header too many",
			frame:   carry(destOptions, repeatedOptions(maxExtensions+1, tcp)...),
			outcome: unsupported, flow: v6(destOptions),
		},
		{
			name:    "ipv6 twice as many extension headers as are walked",
			frame:   carry(destOptions, repeatedOptions(2*maxExtensions, tcp)...),
			outcome: unsupported, flow: v6(destOptions),
		},
		{
			// it names what would follow, and that is not there
			name:    "ipv6 extension header longer than the datagram",
			frame:   packets.Patch(carry(hopByHop, packets.Options(tcp, 8)), transport6+1, 255),
			outcome: malformed, flow: v6(tcp), chain: []layers.IPProtocol{hopByHop},
		},
		{
			name:    "ipv6 authentication header longer than the datagram",
			frame:   packets.Patch(carry(ah, packets.AH(tcp)), transport6+1, 255),
			outcome: malformed, flow: v6(tcp), chain: []layers.IPProtocol{ah},
		},
		{
			name:    "ipv6 extension header that the payload length cuts",
			frame:   short,
			outcome: malformed, flow: v6(hopByHop),
		},
		{
			// RFC 4302, section 2.2: 12 bytes are always there, so this contradicts
			// itself, and what is behind eight of them is no header
			name:    "ipv6 authentication header of eight bytes",
			frame:   packets.Patch(carry(ah, packets.AH(tcp)), transport6+1, 0),
			outcome: malformed, flow: v6(tcp), chain: []layers.IPProtocol{ah},
		},
	}
}

func ipv6FragmentCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp, udp := layers.IPProtocolTCP, layers.IPProtocolUDP
	fragmentOf := func(proto layers.IPProtocol, offset uint16, more bool, parts ...packets.Layer) []byte {
		return eth6(tb, append([]packets.Layer{
			packets.IPv6(fragmentHeader), packets.IPv6Fragment(proto, offset, more),
		}, parts...)...)
	}
	const behind = transport6 + 8
	chain := []layers.IPProtocol{fragmentHeader}
	return []packetCase{
		{
			name:  "ipv6 first fragment of tcp",
			frame: fragmentOf(tcp, 0, true, packets.TCP(tcpACK), packets.Payload(12)),
			flow:  v6(tcp, ports), flags: tcpACK, chain: chain,
		},
		{
			// its length is that of the whole datagram
			name:  "ipv6 first fragment of udp",
			frame: packets.Patch16(fragmentOf(udp, 0, true, packets.UDP(), packets.Payload(8)), behind+4, 3008),
			flow:  v6(udp, ports), chain: chain,
		},
		{
			// RFC 6946
			name:  "ipv6 atomic fragment",
			frame: fragmentOf(udp, 0, false, packets.UDP(), packets.Payload(5)),
			flow:  v6(udp, ports), chain: chain,
		},
		{
			name:    "ipv6 atomic fragment with a udp length longer than the datagram",
			frame:   packets.Patch16(fragmentOf(udp, 0, false, packets.UDP(), packets.Payload(5)), behind+4, 3008),
			outcome: malformed, flow: v6(udp, ports), chain: chain,
		},
		{
			name:  "ipv6 middle fragment",
			frame: fragmentOf(udp, 1448, true, packets.Payload(24)),
			flow:  v6(udp, fragment), chain: chain,
		},
		{
			name:  "ipv6 last fragment",
			frame: fragmentOf(udp, 2896, false, packets.Payload(3)),
			flow:  v6(udp, fragment), chain: chain,
		},
		{
			// the extension header that its first fragment holds is not here
			name:  "ipv6 last fragment of what begins with destination options",
			frame: fragmentOf(destOptions, 1448, false, packets.Options(tcp, 8), packets.TCP(tcpSYN)),
			flow:  v6(destOptions, fragment), chain: chain,
		},
		{
			name:  "ipv6 fragment at offset 8 with what looks like a tcp header",
			frame: fragmentOf(tcp, 8, false, packets.TCP(tcpSYN)),
			flow:  v6(tcp, fragment), chain: chain,
		},
		{
			name:  "ipv6 fragment at the offset with only the highest bit",
			frame: fragmentOf(tcp, 32768, true, packets.TCP(tcpSYN)),
			flow:  v6(tcp, fragment), chain: chain,
		},
		{
			name: "ipv6 middle fragment behind hop-by-hop options",
			frame: eth6(tb, packets.IPv6(hopByHop), packets.Options(fragmentHeader, 8),
				packets.IPv6Fragment(udp, 1448, true), packets.Payload(24)),
			flow: v6(udp, fragment), chain: []layers.IPProtocol{hopByHop, fragmentHeader},
		},
		{
			// a fragment that was cut up again, its first part: there is more of it
			// whatever the inner header says
			name: "ipv6 first fragment of a first fragment",
			frame: packets.Patch16(eth6(tb, packets.IPv6(fragmentHeader), packets.IPv6Fragment(fragmentHeader, 0, true),
				packets.IPv6Fragment(udp, 0, false), packets.UDP(), packets.Payload(8)), behind+8+4, 3008),
			flow: v6(udp, ports), chain: chain,
		},
		{
			name: "ipv6 middle fragment of a fragment",
			frame: eth6(tb, packets.IPv6(fragmentHeader), packets.IPv6Fragment(fragmentHeader, 8, true),
				packets.IPv6Fragment(udp, 0, false), packets.UDP()),
			flow: v6(fragmentHeader, fragment), chain: chain,
		},
		{
			name:    "ipv6 tiny first fragment",
			frame:   fragmentOf(tcp, 0, true, packets.Head(tb, 8, packets.TCP(tcpSYN))),
			outcome: malformed, flow: v6(tcp, ports), chain: chain,
		},
	}
}

// ipv6LengthCases are about the payload length, which is 30 where it is right.
func ipv6LengthCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp := layers.IPProtocolTCP
	right := eth6(tb, tcp6(10)...)
	length := func(payload uint16) []byte { return packets.Patch16(right, ipv6Payload, payload) }
	cases := []packetCase{
		{
			// a jumbogram, or a super-packet longer than the field can say
			name:  "ipv6 payload length 0",
			frame: length(0), flow: v6(tcp, ports), flags: tcpACK,
			needs: transport6 + packets.TCPLen,
		},
		{
			name:  "ipv6 payload length that ends among the ports",
			frame: length(3), outcome: malformed, flow: v6(tcp),
		},
		{
			name:  "ipv6 payload length that ends behind the ports",
			frame: length(4), outcome: malformed, flow: v6(tcp, ports),
		},
		{
			name:  "ipv6 payload length one shorter than the tcp header",
			frame: length(19), outcome: malformed, flow: v6(tcp, ports),
		},
		{
			name:  "ipv6 payload length at the end of the tcp header",
			frame: length(20), flow: v6(tcp, ports), flags: tcpACK,
			needs: transport6 + packets.TCPLen,
		},
		{
			name:  "ipv6 payload length longer than the frame",
			frame: length(60), outcome: truncated, flow: v6(tcp, ports), flags: tcpACK,
		},
		{
			name:  "ipv6 payload length 65535",
			frame: length(65535), outcome: truncated, flow: v6(tcp, ports), flags: tcpACK,
		},
		{
			name:    "ipv4 behind the ethertype of ipv6",
			frame:   eth6(tb, tcp4(20)...),
			outcome: malformed,
		},
	}
	for _, version := range []byte{0, 4, 5, 7, 15} {
		cases = append(cases, packetCase{
			name:    fmt.Sprintf("ipv6 with version %d", version),
			frame:   packets.Patch(right, ipv6Version, version<<4),
			outcome: malformed,
		})
	}
	return cases
}

// ipv6PayloadCases carry what has no ports, though its bytes could pass for some.
func ipv6PayloadCases(tb testing.TB) []packetCase {
	tb.Helper()
	var cases []packetCase
	for _, t := range []struct {
		name  string
		proto layers.IPProtocol
		rest  []packets.Layer
	}{
		{"no next header", layers.IPProtocolNoNextHeader, nil},
		// RFC 8200, section 4.7: the rest is to be ignored
		{"no next header and bytes behind it", layers.IPProtocolNoNextHeader, []packets.Layer{packets.Payload(8)}},
		{"esp", layers.IPProtocolESP, []packets.Layer{packets.Payload(40)}},
		{"mobility header", protoMobility, []packets.Layer{packets.Payload(16)}},
		{"an unknown protocol", protoUnknown, []packets.Layer{packets.Payload(30)}},
	} {
		cases = append(cases, packetCase{
			name:  t.name + " on ipv6",
			frame: eth6(tb, append([]packets.Layer{packets.IPv6(t.proto)}, t.rest...)...),
			flow:  v6(t.proto),
		})
	}
	return append(cases, packetCase{
		name: "no next header behind destination options",
		frame: eth6(tb, packets.IPv6(destOptions),
			packets.Options(layers.IPProtocolNoNextHeader, 8), packets.Payload(4)),
		flow:  v6(layers.IPProtocolNoNextHeader),
		chain: []layers.IPProtocol{destOptions},
	})
}
