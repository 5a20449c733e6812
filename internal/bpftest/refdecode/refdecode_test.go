// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package refdecode

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Headers as they stand on the wire; spaces are for the reader.
const (
	ethIPv4 = "0200 0000 0001 0200 0000 0002 0800"
	ethIPv6 = "0200 0000 0001 0200 0000 0002 86dd"
	ethTag  = "0200 0000 0001 0200 0000 0002 8100"
	ethSTag = "0200 0000 0001 0200 0000 0002 88a8"
	ethMPLS = "0200 0000 0001 0200 0000 0002 8847"
	ethPPP  = "0200 0000 0001 0200 0000 0002 8864"

	v4src, v4dst = "0a00 0001", "0a00 0002"
	v6src        = "2001 0db8 0000 0000 0000 0000 0000 0001"
	v6dst        = "2001 0db8 0000 0000 0000 0000 0000 0002"

	// RFC 768: ports 4000 and 53, length 12
	udpHeader = "0fa0 0035 000c 0000"
	data4     = "6461 7461"
	// RFC 9293: ports 4000 and 443, sequence, acknowledgment, five words, SYN+ACK, window, checksum, urgent
	tcpHeader = "0fa0 01bb 0000 0001 0000 0002 5012 ffff 0000 0000"
)

// ip4 is an IPv4 header without options: total length, fragment field and protocol are hex.
func ip4(total, fragment, protocol string) string {
	return "4500" + total + "0000" + fragment + "40" + protocol + "0000" + v4src + v4dst
}

func ip6(payloadLen, next string) string {
	return "6000 0000" + payloadLen + next + "40" + v6src + v6dst
}

func unhex(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(parts, ""), " ", ""))
	require.NoError(t, err)
	return b
}

func flow4(protocol uint8) *Flow {
	return &Flow{
		Source:      netip.MustParseAddr("10.0.0.1"),
		Destination: netip.MustParseAddr("10.0.0.2"),
		Protocol:    protocol,
	}
}

func flow6(protocol uint8) *Flow {
	return &Flow{
		Source:      netip.MustParseAddr("2001:db8::1"),
		Destination: netip.MustParseAddr("2001:db8::2"),
		Protocol:    protocol,
	}
}

func (f *Flow) ports(source, destination uint16) *Flow {
	f.HasPorts, f.SourcePort, f.DestinationPort = true, source, destination
	return f
}

func (f *Flow) fragment() *Flow {
	f.Fragment = true
	return f
}

func (f *Flow) tagged(ids ...uint16) *Flow {
	f.VLANs = ids
	return f
}

func (f *Flow) labelled(label uint32) *Flow {
	f.Labels = []uint32{label}
	return f
}

type decodeTest struct {
	name  string
	bytes []string
	want  Result
}

func runDecode(t *testing.T, tests []decodeTest) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, Decode(Packet{Data: unhex(t, tt.bytes...)}))
		})
	}
}

func TestDecodeLink(t *testing.T) {
	udp4 := ip4("0020", "0000", "11") + udpHeader + data4
	runDecode(t, []decodeTest{
		{"ARP", []string{"ffff ffff ffff 0200 0000 0002 0806 0001 0800 0604 0001"}, Result{Outcome: NotIP}},
		{"802.3 length, LLC and SNAP, another organization", []string{"0180 c200 0000 0200 0000 0002 0026 aaaa 0300 000c 0800"}, Result{Outcome: NotIP}},
		{"802.3 length, SNAP cut", []string{"0180 c200 0000 0200 0000 0002 0026 aaaa 0300 0000 08"}, Result{Outcome: Truncated}},
		{"802.3 length and LLC", []string{"0180 c200 0000 0200 0000 0002 0026 4242 03"}, Result{Outcome: NotIP}},
		{"cut in the type", []string{"0200 0000 0001 0200 0000 0002 08"}, Result{Outcome: Truncated}},
		{
			"one tag, priority 7", []string{ethTag, "e064 0800", udp4},
			Result{Outcome: OK, Flow: flow4(udp).ports(4000, 53).tagged(100), HeaderLen: 14 + 4 + 20 + 8},
		},
		{
			"service and customer tag", []string{ethSTag, "0fff 8100", "0000 0800", udp4},
			Result{Outcome: OK, Flow: flow4(udp).ports(4000, 53).tagged(4095, 0), HeaderLen: 14 + 8 + 20 + 8},
		},
		{
			"four tags", []string{ethTag, "0001 9100", "0002 88a8", "0003 8100", "0004 0800", udp4},
			Result{Outcome: OK, Flow: flow4(udp).ports(4000, 53).tagged(1, 2), HeaderLen: 14 + 16 + 20 + 8},
		},
		{"five tags", []string{ethTag, "0001 8100", "0002 8100", "0003 8100", "0004 8100", "0005 0800", udp4}, Result{Outcome: Unsupported}},
		{"cut in a tag", []string{ethTag, "0001 08"}, Result{Outcome: Truncated}},
		{"tagged ARP", []string{ethTag, "0001 0806", data4}, Result{Outcome: NotIP}},
		{
			"two labels, IPv4", []string{ethMPLS, "1234 5040", "0001 0140", udp4},
			Result{Outcome: OK, Flow: flow4(udp).ports(4000, 53).labelled(0x12345), HeaderLen: 14 + 8 + 20 + 8},
		},
		{
			"tag, label, IPv6", []string{ethTag, "0007 8848", "0000 2140", ip6("000c", "11"), udpHeader, data4},
			Result{Outcome: OK, Flow: flow6(udp).ports(4000, 53).tagged(7).labelled(2), HeaderLen: 14 + 4 + 4 + 40 + 8},
		},
		{"pseudowire with control word", []string{ethMPLS, "0001 0140", "0000 0000", ethIPv4}, Result{Outcome: NotIP}},
		{"nothing below the label", []string{ethMPLS, "0001 0140"}, Result{Outcome: Truncated}},
		{"nine labels", []string{ethMPLS, strings.Repeat("0001 0040", 8), "0001 0140", udp4}, Result{Outcome: Unsupported}},
		{"no bottom of stack", []string{ethMPLS, "0001 0040"}, Result{Outcome: Truncated}},
		{
			"PPPoE IPv4", []string{ethPPP, "1100 0001 0022 0021", udp4},
			Result{Outcome: OK, Flow: flow4(udp).ports(4000, 53), HeaderLen: 14 + 8 + 20 + 8},
		},
		{
			"PPPoE IPv6", []string{ethPPP, "1100 0001 0036 0057", ip6("000c", "11"), udpHeader, data4},
			Result{Outcome: OK, Flow: flow6(udp).ports(4000, 53), HeaderLen: 14 + 8 + 40 + 8},
		},
		{"PPP link control", []string{ethPPP, "1100 0001 000a c021", "0901 0008 0000 0000"}, Result{Outcome: NotIP}},
		{"PPPoE version 2", []string{ethPPP, "2100 0001 0022 0021", udp4}, Result{Outcome: Malformed}},
		{"PPPoE code", []string{ethPPP, "1109 0001 0022 0021", udp4}, Result{Outcome: Malformed}},
		{"cut in PPPoE", []string{ethPPP, "1100 0001 0022 00"}, Result{Outcome: Truncated}},
	})
}

func TestDecodeIPv4(t *testing.T) {
	runDecode(t, []decodeTest{
		{
			"protocol without ports", []string{ethIPv4, ip4("0018", "0000", "32"), data4},
			Result{Outcome: OK, Flow: flow4(50), HeaderLen: 34},
		},
		{
			"Ethernet padding", []string{ethIPv4, ip4("0018", "0000", "02"), data4, "0000 0000 0000"},
			Result{Outcome: OK, Flow: flow4(2), HeaderLen: 34},
		},
		{
			"options", []string{ethIPv4, "4600 0024 0000 0000 4011 0000", v4src, v4dst, "9404 0000", udpHeader, data4},
			Result{Outcome: OK, Flow: flow4(udp).ports(4000, 53), HeaderLen: 14 + 24 + 8},
		},
		{
			"options cut by the frame", []string{ethIPv4, "4600 0024 0000 0000 4011 0000", v4src, v4dst, "9404"},
			Result{Outcome: Truncated, Flow: flow4(udp)},
		},
		{
			"total length within the header", []string{ethIPv4, ip4("0013", "0000", "11"), udpHeader, data4},
			Result{Outcome: Malformed, Flow: flow4(udp)},
		},
		{
			"total length 0", []string{ethIPv4, ip4("0000", "0000", "11"), udpHeader, data4},
			Result{Outcome: OK, Flow: flow4(udp).ports(4000, 53), HeaderLen: 42},
		},
		{
			"total length 0, header cut by the frame", []string{ethIPv4, ip4("0000", "0000", "11"), "0fa0 0035 000c"},
			Result{Outcome: Truncated, Flow: flow4(udp).ports(4000, 53)},
		},
		{
			"payload cut by the frame", []string{ethIPv4, ip4("0020", "0000", "11"), udpHeader, "6461"},
			Result{Outcome: Truncated, Flow: flow4(udp).ports(4000, 53), HeaderLen: 42},
		},
		{
			"first fragment", []string{ethIPv4, ip4("0020", "2000", "11"), "0fa0 0035 0100 0000", data4},
			Result{Outcome: OK, Flow: flow4(udp).ports(4000, 53), HeaderLen: 42},
		},
		{
			"first fragment without ports", []string{ethIPv4, ip4("0017", "2000", "11"), "0fa0 00"},
			Result{Outcome: Malformed, Flow: flow4(udp)},
		},
		{
			"middle fragment", []string{ethIPv4, ip4("0020", "2001", "11"), udpHeader, data4},
			Result{Outcome: OK, Flow: flow4(udp).fragment(), HeaderLen: 34},
		},
		{
			"last fragment, cut", []string{ethIPv4, ip4("0020", "1fff", "06"), udpHeader},
			Result{Outcome: Truncated, Flow: flow4(tcp).fragment(), HeaderLen: 34},
		},
		{
			"IPsec AH is not stepped over", []string{ethIPv4, ip4("002c", "0000", "33"), "1104 0000 0000 0001 0000 0001 0000 0000 0000 0000 0000 0000"},
			Result{Outcome: OK, Flow: flow4(51), HeaderLen: 34},
		},
		{"version 6", []string{ethIPv4, "6500 0020 0000 0000 4011 0000", v4src, v4dst, udpHeader, data4}, Result{Outcome: Malformed}},
		{"header of four words", []string{ethIPv4, "4400 0020 0000 0000 4011 0000", v4src, v4dst, udpHeader, data4}, Result{Outcome: Malformed}},
		{"cut in the addresses", []string{ethIPv4, "4500 0020 0000 0000 4011 0000", v4src, "0a00 00"}, Result{Outcome: Truncated}},
	})
}

func TestDecodeIPv6(t *testing.T) {
	hop := func(next string) string { return next + "00 0104 0000 0000" } // PadN
	runDecode(t, []decodeTest{
		{
			"no next header", []string{ethIPv6, ip6("0000", "3b")},
			Result{Outcome: OK, Flow: flow6(59), HeaderLen: 54},
		},
		{
			"hop-by-hop, routing, destination options", []string{
				ethIPv6, ip6("002c", "00"), hop("2b"), "3c01 0400 0000 0000 0000 0000 0000 0000", hop("11"), udpHeader, data4,
			},
			Result{Outcome: OK, Flow: flow6(udp).ports(4000, 53), HeaderLen: 54 + 8 + 16 + 8 + 8},
		},
		{
			"authentication header", []string{ethIPv6, ip6("0024", "33"), "1104 0000 0000 0001 0000 0001 0000 0000 0000 0000 0000 0000", udpHeader, data4},
			Result{Outcome: OK, Flow: flow6(udp).ports(4000, 53), HeaderLen: 54 + 24 + 8},
		},
		{
			"authentication header shorter than its fields", []string{ethIPv6, ip6("0014", "33"), "1100 0000 0000 0001", udpHeader, data4},
			Result{Outcome: Malformed, Flow: flow6(udp)},
		},
		{
			"first fragment", []string{ethIPv6, ip6("0014", "2c"), "1100 0001 0000 0001", "0fa0 0035 0100 0000", data4},
			Result{Outcome: OK, Flow: flow6(udp).ports(4000, 53), HeaderLen: 54 + 8 + 8},
		},
		{
			"atomic fragment", []string{ethIPv6, ip6("0014", "2c"), "1100 0000 0000 0001", udpHeader, data4},
			Result{Outcome: OK, Flow: flow6(udp).ports(4000, 53), HeaderLen: 54 + 8 + 8},
		},
		{
			"later fragment of destination options", []string{ethIPv6, ip6("0014", "2c"), "3c00 0009 0000 0001", udpHeader, data4},
			Result{Outcome: OK, Flow: flow6(60).fragment(), HeaderLen: 54 + 8},
		},
		{
			"mobility header is not stepped over", []string{ethIPv6, ip6("0008", "87"), "3b00 0000 0000 0000"},
			Result{Outcome: OK, Flow: flow6(135), HeaderLen: 54},
		},
		{
			"twelve extension headers", []string{ethIPv6, ip6("006c", "3c"), strings.Repeat(hop("3c"), 11), hop("11"), udpHeader, data4},
			Result{Outcome: OK, Flow: flow6(udp).ports(4000, 53), HeaderLen: 54 + 96 + 8},
		},
		{
			"thirteen extension headers", []string{ethIPv6, ip6("0074", "3c"), strings.Repeat(hop("3c"), 12), hop("11"), udpHeader, data4},
			Result{Outcome: Unsupported, Flow: flow6(60)},
		},
		{
			"extension header beyond the payload length", []string{ethIPv6, ip6("000c", "3c"), "1101 0104 0000 0000", udpHeader, data4},
			Result{Outcome: Malformed, Flow: flow6(udp)},
		},
		{
			"extension header cut by the frame", []string{ethIPv6, ip6("001c", "3c"), "1101 0104 0000 0000", data4},
			Result{Outcome: Truncated, Flow: flow6(udp)},
		},
		{
			"no room for an extension header", []string{ethIPv6, ip6("0004", "2b"), data4},
			Result{Outcome: Malformed, Flow: flow6(43)},
		},
		{
			"jumbogram", []string{ethIPv6, ip6("0000", "00"), "1100 c204 0001 0000", "0fa0 0035 0000 0000", data4},
			Result{Outcome: OK, Flow: flow6(udp).ports(4000, 53), HeaderLen: 54 + 8 + 8, JumboLen: 8},
		},
		{"version 4", []string{ethIPv6, "4000 0000 000c 1140", v6src, v6dst, udpHeader, data4}, Result{Outcome: Malformed}},
		{"cut in the addresses", []string{ethIPv6, "6000 0000 000c 1140", v6src, v6dst[:37]}, Result{Outcome: Truncated}},
	})
}

func TestDecodeTransport(t *testing.T) {
	runDecode(t, []decodeTest{
		{
			"TCP", []string{ethIPv4, ip4("002c", "0000", "06"), tcpHeader, data4},
			Result{Outcome: OK, Flow: flow4(tcp).ports(4000, 443), TCPFlags: 0x12, HeaderLen: 54},
		},
		{
			"TCP options", []string{ethIPv6, ip6("0018", "06"), "0fa0 01bb 0000 0001 0000 0000 60ff ffff 0000 0000 0204 05b4"},
			Result{Outcome: OK, Flow: flow6(tcp).ports(4000, 443), TCPFlags: 0xff, HeaderLen: 54 + 24},
		},
		{
			"TCP data offset 4", []string{ethIPv4, ip4("0028", "0000", "06"), "0fa0 01bb 0000 0001 0000 0000 4002 ffff 0000 0000"},
			Result{Outcome: Malformed, Flow: flow4(tcp).ports(4000, 443), TCPFlags: 0x02},
		},
		{
			"TCP data offset beyond the datagram", []string{ethIPv4, ip4("0028", "0000", "06"), "0fa0 01bb 0000 0001 0000 0000 6002 ffff 0000 0000 0000 0000"},
			Result{Outcome: Malformed, Flow: flow4(tcp).ports(4000, 443), TCPFlags: 0x02},
		},
		{
			"TCP options cut by the frame", []string{ethIPv4, ip4("002c", "0000", "06"), "0fa0 01bb 0000 0001 0000 0000 6002 ffff 0000 0000 0204"},
			Result{Outcome: Truncated, Flow: flow4(tcp).ports(4000, 443), TCPFlags: 0x02},
		},
		{
			"TCP header cut by the datagram", []string{ethIPv4, ip4("0027", "0000", "06"), tcpHeader},
			Result{Outcome: Malformed, Flow: flow4(tcp).ports(4000, 443)},
		},
		{
			"UDP", []string{ethIPv4, ip4("0020", "0000", "11"), udpHeader, data4},
			Result{Outcome: OK, Flow: flow4(udp).ports(4000, 53), HeaderLen: 42},
		},
		{
			"UDP length 7", []string{ethIPv4, ip4("0020", "0000", "11"), "0fa0 0035 0007 0000", data4},
			Result{Outcome: Malformed, Flow: flow4(udp).ports(4000, 53)},
		},
		{
			"UDP length 0", []string{ethIPv4, ip4("0020", "0000", "11"), "0fa0 0035 0000 0000", data4},
			Result{Outcome: Malformed, Flow: flow4(udp).ports(4000, 53)},
		},
		{
			"UDP length 0 in a datagram of length 0", []string{ethIPv4, ip4("0000", "0000", "11"), "0fa0 0035 0000 0000", data4},
			Result{Outcome: OK, Flow: flow4(udp).ports(4000, 53), HeaderLen: 42},
		},
		{
			"UDP length of a super-packet, cut by the frame", []string{ethIPv4, ip4("0000", "0000", "11"), "0fa0 0035 000d 0000", data4},
			Result{Outcome: Truncated, Flow: flow4(udp).ports(4000, 53), HeaderLen: 42},
		},
		{
			"UDP length beyond the datagram", []string{ethIPv4, ip4("0020", "0000", "11"), "0fa0 0035 000d 0000", data4, "00"},
			Result{Outcome: Malformed, Flow: flow4(udp).ports(4000, 53)},
		},
		{
			"UDP-Lite covered whole", []string{ethIPv4, ip4("0020", "0000", "88"), "0fa0 0035 0000 0000", data4},
			Result{Outcome: OK, Flow: flow4(udpLite).ports(4000, 53), HeaderLen: 42},
		},
		{
			"UDP-Lite coverage within the header", []string{ethIPv4, ip4("0020", "0000", "88"), "0fa0 0035 0007 0000", data4},
			Result{Outcome: Malformed, Flow: flow4(udpLite).ports(4000, 53)},
		},
		{
			"SCTP", []string{ethIPv4, ip4("0020", "0000", "84"), "0b59 0b5a 0000 0001 0000 0000"},
			Result{Outcome: OK, Flow: flow4(sctp).ports(2905, 2906), HeaderLen: 46},
		},
		{
			"SCTP header cut by the datagram", []string{ethIPv4, ip4("001f", "0000", "84"), "0b59 0b5a 0000 0001 0000 0000"},
			Result{Outcome: Malformed, Flow: flow4(sctp).ports(2905, 2906)},
		},
		{
			"DCCP cut by the frame", []string{ethIPv4, ip4("0024", "0000", "21"), "1389 138a 0400 0000 0000 00"},
			Result{Outcome: Truncated, Flow: flow4(dccp).ports(5001, 5002)},
		},
		{
			"ICMP echo request", []string{ethIPv4, ip4("001c", "0000", "01"), "0800 0000 0001 0001"},
			Result{Outcome: OK, Flow: flow4(icmp).ports(8, 0), HeaderLen: 42},
		},
		{
			"ICMP of seven bytes", []string{ethIPv4, ip4("001b", "0000", "01"), "0303 0000 0001 00"},
			Result{Outcome: Malformed, Flow: flow4(icmp).ports(3, 3)},
		},
		{
			"ICMPv6 of four bytes", []string{ethIPv6, ip6("0004", "3a"), "8001 0000"},
			Result{Outcome: OK, Flow: flow6(icmpv6).ports(128, 1), HeaderLen: 58},
		},
	})
}

func TestDecodeNoLink(t *testing.T) {
	tag := uint16(0x6005)
	bytes := unhex(t, ip6("000c", "11"), udpHeader, data4)

	got := Decode(Packet{Data: bytes, NoLink: true, EtherType: 0x86dd, Tag: &tag})
	assert.Equal(t, Result{Outcome: OK, Flow: flow6(udp).ports(4000, 53).tagged(5), HeaderLen: 48}, got)

	got = Decode(Packet{Data: bytes, NoLink: true, EtherType: 0x0800})
	assert.Equal(t, Result{Outcome: Malformed}, got)

	got = Decode(Packet{Data: bytes, NoLink: true, EtherType: 0x00f6})
	assert.Equal(t, Result{Outcome: NotIP}, got)
}

func TestDecodeTagBesideTheFrame(t *testing.T) {
	tag := uint16(7)
	got := Decode(Packet{Data: unhex(t, ethTag, "0001 8100", "0002 0800", ip4("0018", "0000", "32"), data4), Tag: &tag})
	assert.Equal(t, Result{Outcome: OK, Flow: flow4(50).tagged(7, 1), HeaderLen: 42}, got)
}

// A frame that is cut has to be told from a whole one at every length, and
// what is left of it may never name another flow.
func TestDecodeCutAtEveryLength(t *testing.T) {
	frame := unhex(t, ethTag, "0007 8847", "0001 0140", ip6("0024", "00"), "0600 0104 0000 0000", tcpHeader[:30], "6012 ffff 0000 0000 0204 05b4", data4)
	whole := Decode(Packet{Data: frame})
	require.Equal(t, Result{
		Outcome: OK, Flow: flow6(tcp).ports(4000, 443).tagged(7).labelled(0x10), TCPFlags: 0x12, HeaderLen: 14 + 4 + 4 + 40 + 8 + 24,
	}, whole)

	for n := range frame {
		got := Decode(Packet{Data: frame[:n]})
		assert.Equal(t, Truncated, got.Outcome, "%d bytes", n)
		assert.Equal(t, n >= 62, got.Flow != nil, "%d bytes", n)
		if got.Flow == nil {
			continue
		}
		assert.Equal(t, n >= 74, got.Flow.HasPorts, "%d bytes", n)
		if got.Flow.HasPorts {
			assert.Equal(t, whole.Flow, got.Flow, "%d bytes", n)
		}
	}
}

func TestOutcomeString(t *testing.T) {
	for outcome, want := range []string{"ok", "truncated", "malformed", "unsupported", "not-ip", "invalid"} {
		assert.Equal(t, want, Outcome(outcome).String())
	}
}
