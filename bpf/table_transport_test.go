// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
)

// Where the transport header lies behind headers without options.
const (
	transport4 = packets.EthernetLen + packets.IPv4Len
	transport6 = packets.EthernetLen + packets.IPv6Len
)

// transportCases are sound packets of every protocol whose header is read, on
// both versions of IP.
func transportCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcpOptions := packets.TCP(tcpPSH | tcpACK)
	tcpOptions.Options = []layers.TCPOption{
		{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop},
		{OptionType: layers.TCPOptionKindTimestamps, OptionData: make([]byte, 8)},
	}
	var cases []packetCase
	for _, t := range []struct {
		name   string
		proto  layers.IPProtocol
		header packets.Layer
		rest   int
		flags  uint8
	}{
		{"tcp", layers.IPProtocolTCP, packets.TCP(tcpPSH | tcpACK), 10, tcpPSH | tcpACK},
		{"tcp without payload", layers.IPProtocolTCP, packets.TCP(tcpSYN), 0, tcpSYN},
		{"tcp with options", layers.IPProtocolTCP, tcpOptions, 10, tcpPSH | tcpACK},
		{"udp", layers.IPProtocolUDP, packets.UDP(), 10, 0},
		{"udp without payload", layers.IPProtocolUDP, packets.UDP(), 0, 0},
		{"udp-lite", layers.IPProtocolUDPLite, packets.UDPLite(), 10, 0},
		{"sctp", layers.IPProtocolSCTP, packets.SCTP(), 16, 0},
		{"dccp", protoDCCP, packets.DCCP(), 10, 0},
	} {
		cases = append(cases, packetCase{
			name:  t.name + " on ipv4",
			frame: eth4(tb, packets.IPv4(t.proto), t.header, packets.Payload(t.rest)),
			flow:  v4(t.proto, ports), flags: t.flags,
		}, packetCase{
			name:  t.name + " on ipv6",
			frame: eth6(tb, packets.IPv6(t.proto), t.header, packets.Payload(t.rest)),
			flow:  v6(t.proto, ports), flags: t.flags,
		})
	}
	return append(cases, icmpCases(tb)...)
}

func icmpCases(tb testing.TB) []packetCase {
	tb.Helper()
	icmp, icmp6 := layers.IPProtocolICMPv4, layers.IPProtocolICMPv6
	return []packetCase{
		{
			name:  "icmp echo",
			frame: eth4(tb, packets.IPv4(icmp), packets.ICMP(8, 0), packets.Payload(10)),
			flow:  v4(icmp, typeAndCode(8, 0)),
		},
		{
			// the packet inside is about another flow, which this is not
			name:  "icmp port unreachable",
			frame: eth4(tb, append([]packets.Layer{packets.IPv4(icmp), packets.ICMP(3, 3)}, udp4(0)...)...),
			flow:  v4(icmp, typeAndCode(3, 3)),
		},
		{
			name:  "icmpv6 echo reply",
			frame: eth6(tb, packets.IPv6(icmp6), packets.ICMPv6(129, 0), packets.Payload(14)),
			flow:  v6(icmp6, typeAndCode(129, 0)),
		},
		{
			name:  "icmpv6 packet too big",
			frame: eth6(tb, append([]packets.Layer{packets.IPv6(icmp6), packets.ICMPv6(2, 7), packets.Payload(4)}, udp6(0)...)...),
			flow:  v6(icmp6, typeAndCode(2, 7)),
		},
		{
			name:  "icmpv6 of four bytes",
			frame: eth6(tb, packets.IPv6(icmp6), packets.ICMPv6(200, 1)),
			flow:  v6(icmp6, typeAndCode(200, 1)),
		},
	}
}

// transportDamageCases are packets whose IP header is sound and whose transport header is not.
func transportDamageCases(tb testing.TB) []packetCase {
	tb.Helper()
	var cases []packetCase
	tcp, udp := layers.IPProtocolTCP, layers.IPProtocolUDP
	for offset := range byte(5) {
		cases = append(cases, packetCase{
			name:    fmt.Sprintf("tcp data offset %d", offset),
			frame:   packets.Patch(eth4(tb, tcp4(10)...), transport4+12, offset<<4),
			outcome: malformed, flow: v4(tcp, ports), flags: tcpACK,
		})
	}
	for _, t := range []struct {
		name   string
		length uint16
		damage bool
	}{
		{"shorter than its header", 7, true},
		{"1", 1, true},
		{"one longer than the datagram", 19, true},
		{"of a far longer datagram", 65535, true},
		{"0 in a datagram that has a length", 0, true},
		// what is behind it belongs to the IP datagram, not to the UDP one
		{"shorter than the datagram", 9, false},
	} {
		outcome := ok
		if t.damage {
			outcome = malformed
		}
		cases = append(cases, packetCase{
			name:    "udp length " + t.name + " on ipv4",
			frame:   packets.Patch16(eth4(tb, udp4(10)...), transport4+4, t.length),
			outcome: outcome, flow: v4(udp, ports),
		}, packetCase{
			name:    "udp length " + t.name + " on ipv6",
			frame:   packets.Patch16(eth6(tb, udp6(10)...), transport6+4, t.length),
			outcome: outcome, flow: v6(udp, ports),
		})
	}
	return append(cases,
		packetCase{
			name:    "tcp header one word longer than the datagram on ipv4",
			frame:   packets.Patch(eth4(tb, tcp4(10)...), transport4+12, 8<<4),
			outcome: malformed, flow: v4(tcp, ports), flags: tcpACK,
		},
		packetCase{
			name:    "tcp header longer than the datagram on ipv6",
			frame:   packets.Patch(eth6(tb, tcp6(10)...), transport6+12, 15<<4),
			outcome: malformed, flow: v6(tcp, ports), flags: tcpACK,
		},
		packetCase{
			name:  "tcp header that fills the datagram",
			frame: packets.Patch(eth4(tb, tcp4(12)...), transport4+12, 8<<4),
			flow:  v4(tcp, ports), flags: tcpACK,
		},
		packetCase{
			// the datagram ends first, though the frame goes on
			name:    "tcp header longer than the datagram before padding",
			frame:   append(packets.Patch(eth4(tb, tcp4(0)...), transport4+12, 6<<4), make([]byte, 20)...),
			outcome: malformed, flow: v4(tcp, ports), flags: tcpACK,
		},
		packetCase{
			// a jumbogram, RFC 2675, section 4
			name:  "udp length 0 in an ipv6 packet of length 0",
			frame: packets.Patch16(packets.Patch16(eth6(tb, udp6(10)...), transport6+4, 0), transport6-36, 0),
			flow:  v6(udp, ports), needs: transport6 + 8,
		},
		packetCase{
			name:    "udp length up to the end of padding",
			frame:   packets.Patch16(packets.Pad(eth4(tb, udp4(0)...)), transport4+4, 26),
			outcome: malformed, flow: v4(udp, ports),
		},
	)
}

// shortTransportCases are transport headers that the datagram ends one byte
// before the end of, though the frame goes on.
func shortTransportCases(tb testing.TB) []packetCase {
	tb.Helper()
	var cases []packetCase
	for _, t := range []struct {
		name   string
		proto  layers.IPProtocol
		header packets.Layer
		size   uint16
		parts  keyPart
	}{
		{"tcp", layers.IPProtocolTCP, packets.TCP(tcpACK), packets.TCPLen, ports},
		{"udp", layers.IPProtocolUDP, packets.UDP(), packets.UDPLen, ports},
		{"udp-lite", layers.IPProtocolUDPLite, packets.UDPLite(), packets.UDPLen, ports},
		{"sctp", layers.IPProtocolSCTP, packets.SCTP(), 12, ports},
		{"dccp", protoDCCP, packets.DCCP(), 12, ports},
		{"icmp", layers.IPProtocolICMPv4, packets.ICMP(8, 0), 8, typeAndCode(8, 0)},
	} {
		cases = append(cases, packetCase{
			name: "short " + t.name + " on ipv4",
			frame: packets.Patch16(eth4(tb, packets.IPv4(t.proto), t.header, packets.Payload(30)),
				ipv4Total, packets.IPv4Len+t.size-1),
			outcome: malformed, flow: v4(t.proto, t.parts),
		}, packetCase{
			name: "short " + t.name + " on ipv6",
			frame: packets.Patch16(eth6(tb, packets.IPv6(t.proto), t.header, packets.Payload(30)),
				ipv6Payload, t.size-1),
			outcome: malformed, flow: v6(t.proto, t.parts),
		})
	}
	return append(cases, packetCase{
		name: "short icmpv6 on ipv6",
		frame: packets.Patch16(eth6(tb, packets.IPv6(layers.IPProtocolICMPv6), packets.ICMPv6(128, 0),
			packets.Payload(30)), ipv6Payload, 3),
		// type and code are there, but not the four bytes that they are read with
		outcome: malformed, flow: v6(layers.IPProtocolICMPv6),
	})
}
