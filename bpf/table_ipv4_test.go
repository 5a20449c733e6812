// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
)

// Fields of the IPv4 header in a frame without tags.
const (
	ipv4Version  = packets.EthernetLen
	ipv4Total    = packets.EthernetLen + 2
	ipv4Fragment = packets.EthernetLen + 6
)

func ipv4OptionCases(tb testing.TB) []packetCase {
	tb.Helper()
	var cases []packetCase
	for size := 4; size <= 40; size += 4 {
		cases = append(cases, packetCase{
			name: fmt.Sprintf("ipv4 with %d bytes of options", size),
			frame: eth4(tb, packets.IPv4Options(layers.IPProtocolTCP, size),
				packets.TCP(tcpFIN|tcpACK), packets.Payload(5)),
			flow: v4(layers.IPProtocolTCP, ports), flags: tcpFIN | tcpACK,
		})
	}
	return cases
}

func ipv4FragmentCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp, udp := layers.IPProtocolTCP, layers.IPProtocolUDP
	fragmentOf := func(proto layers.IPProtocol, offset uint16, more bool, parts ...packets.Layer) []byte {
		return eth4(tb, append([]packets.Layer{packets.IPv4Fragment(proto, offset, more)}, parts...)...)
	}
	options := packets.IPv4Options(udp, 8)
	options.FragOffset = 185
	return []packetCase{
		{
			name:  "ipv4 first fragment of tcp",
			frame: fragmentOf(tcp, 0, true, packets.TCP(tcpACK), packets.Payload(12)),
			flow:  v4(tcp, ports), flags: tcpACK,
		},
		{
			// its length is that of the whole datagram
			name:  "ipv4 first fragment of udp",
			frame: packets.Patch16(fragmentOf(udp, 0, true, packets.UDP(), packets.Payload(8)), transport4+4, 3008),
			flow:  v4(udp, ports),
		},
		{
			name:  "ipv4 first fragment of icmp",
			frame: fragmentOf(layers.IPProtocolICMPv4, 0, true, packets.ICMP(8, 0), packets.Payload(8)),
			flow:  v4(layers.IPProtocolICMPv4, typeAndCode(8, 0)),
		},
		{
			name:  "ipv4 middle fragment",
			frame: fragmentOf(udp, 1480, true, packets.Payload(24)),
			flow:  v4(udp, fragment),
		},
		{
			name:  "ipv4 last fragment",
			frame: fragmentOf(udp, 2960, false, packets.Payload(3)),
			flow:  v4(udp, fragment),
		},
		{
			name:  "ipv4 last fragment with options",
			frame: eth4(tb, options, packets.Payload(9)),
			flow:  v4(udp, fragment),
		},
		{
			// RFC 1858, section 3: it would overwrite the flags of the first fragment
			name:  "ipv4 fragment at offset 8 with what looks like a tcp header",
			frame: fragmentOf(tcp, 8, false, packets.TCP(tcpSYN)),
			flow:  v4(tcp, fragment),
		},
		{
			name:  "ipv4 fragment at the largest offset",
			frame: fragmentOf(tcp, 8191*8, false, packets.Payload(8)),
			flow:  v4(tcp, fragment),
		},
		{
			name:  "ipv4 fragment at the offset with only the highest bit",
			frame: fragmentOf(tcp, 32768, true, packets.TCP(tcpSYN)),
			flow:  v4(tcp, fragment),
		},
		{
			name:    "ipv4 tiny first fragment",
			frame:   fragmentOf(tcp, 0, true, packets.Head(tb, 8, packets.TCP(tcpSYN))),
			outcome: malformed, flow: v4(tcp, ports),
		},
		{
			name:    "ipv4 first fragment of udp shorter than its header",
			frame:   fragmentOf(udp, 0, true, packets.Payload(3)),
			outcome: malformed, flow: v4(udp),
		},
		{
			name:  "ipv4 don't fragment and the reserved flag",
			frame: packets.Patch16(eth4(tb, tcp4(4)...), ipv4Fragment, 0xc000),
			flow:  v4(tcp, ports), flags: tcpACK,
		},
	}
}

// ipv4LengthCases are about the total length, which is 50 where it is right.
func ipv4LengthCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp := layers.IPProtocolTCP
	length := func(total uint16) []byte {
		return packets.Patch16(eth4(tb, tcp4(10)...), ipv4Total, total)
	}
	return []packetCase{
		{
			// a super-packet longer than the field can say
			name:  "ipv4 total length 0",
			frame: length(0), flow: v4(tcp, ports), flags: tcpACK,
			needs: transport4 + packets.TCPLen,
		},
		{
			name:  "ipv4 total length 1",
			frame: length(1), outcome: malformed, flow: v4(tcp),
		},
		{
			name:  "ipv4 total length one shorter than the header",
			frame: length(19), outcome: malformed, flow: v4(tcp),
		},
		{
			name:    "ipv4 total length shorter than the header with options",
			frame:   packets.Patch16(eth4(tb, packets.IPv4Options(tcp, 4), packets.TCP(tcpACK)), ipv4Total, 23),
			outcome: malformed, flow: v4(tcp),
		},
		{
			// where nothing behind the header would miss the bytes
			name: "ipv4 total length shorter than the header with options of an unknown protocol",
			frame: packets.Patch16(eth4(tb, packets.IPv4Options(protoUnknown, 4), packets.Payload(8)),
				ipv4Total, 23),
			outcome: malformed, flow: v4(protoUnknown),
		},
		{
			name: "ipv4 total length 0 of an unknown protocol",
			frame: packets.Patch16(eth4(tb, packets.IPv4Options(protoUnknown, 40), packets.Payload(8)),
				ipv4Total, 0),
			flow: v4(protoUnknown), needs: transport4 + 40,
		},
		{
			name:  "ipv4 total length of the header alone",
			frame: length(20), outcome: malformed, flow: v4(tcp),
		},
		{
			name:  "ipv4 total length that ends among the ports",
			frame: length(23), outcome: malformed, flow: v4(tcp),
		},
		{
			name:  "ipv4 total length that ends behind the ports",
			frame: length(24), outcome: malformed, flow: v4(tcp, ports),
		},
		{
			name:  "ipv4 total length one shorter than the tcp header",
			frame: length(39), outcome: malformed, flow: v4(tcp, ports),
		},
		{
			name:  "ipv4 total length at the end of the tcp header",
			frame: length(40), flow: v4(tcp, ports), flags: tcpACK,
			needs: transport4 + packets.TCPLen,
		},
		{
			name:  "ipv4 total length longer than the frame",
			frame: length(80), outcome: truncated, flow: v4(tcp, ports), flags: tcpACK,
		},
		{
			name:  "ipv4 total length 65535",
			frame: length(65535), outcome: truncated, flow: v4(tcp, ports), flags: tcpACK,
		},
		{
			name:    "ipv4 fragment longer than the frame",
			frame:   packets.Patch16(packets.Patch16(eth4(tb, udp4(10)...), ipv4Fragment, 5), ipv4Total, 100),
			outcome: truncated, flow: v4(layers.IPProtocolUDP, fragment),
		},
	}
}

func ipv4VersionCases(tb testing.TB) []packetCase {
	tb.Helper()
	tcp := eth4(tb, tcp4(10)...)
	var cases []packetCase
	for ihl := range byte(5) {
		cases = append(cases, packetCase{
			name:    fmt.Sprintf("ipv4 header length %d", ihl),
			frame:   packets.Patch(tcp, ipv4Version, 4<<4|ihl),
			outcome: malformed,
		})
	}
	for _, version := range []byte{0, 5, 6, 15} {
		cases = append(cases, packetCase{
			name:    fmt.Sprintf("ipv4 with version %d", version),
			frame:   packets.Patch(tcp, ipv4Version, version<<4|5),
			outcome: malformed,
		})
	}
	return append(cases, packetCase{
		name:    "ipv4 header length of 60 in a datagram of 50",
		frame:   append(packets.Patch(tcp, ipv4Version, 4<<4|15), make([]byte, 30)...),
		outcome: malformed, flow: v4(layers.IPProtocolTCP),
	}, packetCase{
		name:    "ipv6 behind the ethertype of ipv4",
		frame:   eth4(tb, tcp6(0)...),
		outcome: malformed,
	})
}

// ipv4PayloadCases carry what has no ports, though its bytes could pass for some.
func ipv4PayloadCases(tb testing.TB) []packetCase {
	tb.Helper()
	var cases []packetCase
	for _, t := range []struct {
		name  string
		proto layers.IPProtocol
		rest  []packets.Layer
	}{
		{"esp", layers.IPProtocolESP, []packets.Layer{packets.Payload(40)}},
		{"ah", layers.IPProtocolAH, []packets.Layer{packets.AH(layers.IPProtocolTCP), packets.TCP(tcpACK)}},
		{"igmp", layers.IPProtocolIGMP, []packets.Layer{packets.Payload(8)}},
		{"an unknown protocol", protoUnknown, []packets.Layer{packets.Payload(30)}},
		{"an unknown protocol without payload", protoUnknown, nil},
		{"no next header", layers.IPProtocolNoNextHeader, []packets.Layer{packets.Payload(8)}},
	} {
		cases = append(cases, packetCase{
			name:  t.name + " on ipv4",
			frame: eth4(tb, append([]packets.Layer{packets.IPv4(t.proto)}, t.rest...)...),
			flow:  v4(t.proto),
		})
	}
	return cases
}
