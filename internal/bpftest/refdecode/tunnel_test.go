// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package refdecode

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What tunnels carry, with other addresses than what is around them.
const (
	innerIPv4 = "0200 0000 0003 0200 0000 0004 0800"
	innerIPv6 = "0200 0000 0003 0200 0000 0004 86dd"
	innerTag  = "0200 0000 0003 0200 0000 0004 8100"
	innerMACs = "0200 0000 0003 0200 0000 0004"

	innerIP4 = "4500 0020 0000 0000 4011 0000 c0a8 0001 c0a8 0002"
	innerIP6 = "6000 0000 000c 1140 fd00 0000 0000 0000 0000 0000 0000 0001 fd00 0000 0000 0000 0000 0000 0000 0002"

	// 32 and 52 bytes: UDP to port 53 with four bytes
	udp4In = innerIP4 + udpHeader + data4
	udp6In = innerIP6 + udpHeader + data4
	arpIn  = innerMACs + "0806 0001 0800 0604 0001"

	// RFC 7348: I, VNI 5001
	vni5001 = "0800 0000 0013 8900"
)

func hexLen(parts ...string) int {
	return len(strings.ReplaceAll(strings.Join(parts, ""), " ", "")) / 2
}

// around4 is IPv4 with its length around a payload.
func around4(protocol string, payload ...string) string {
	all := strings.Join(payload, "")
	return ip4(fmt.Sprintf("%04x", 20+hexLen(all)), "0000", protocol) + all
}

func around6(next string, payload ...string) string {
	all := strings.Join(payload, "")
	return ip6(fmt.Sprintf("%04x", hexLen(all)), next) + all
}

// udpTo is UDP from port 49153 with its length around a payload.
func udpTo(port string, payload ...string) string {
	all := strings.Join(payload, "")
	return "c001" + port + fmt.Sprintf("%04x", 8+hexLen(all)) + "0000" + all
}

// vxlan4 is a frame whose VXLAN header stands at 42 and what it carries at 50.
func vxlan4(payload ...string) string {
	return ethIPv4 + around4("11", udpTo("12b5", vni5001, strings.Join(payload, "")))
}

func inner4(protocol uint8) *Flow {
	return &Flow{
		Source:      netip.MustParseAddr("192.168.0.1"),
		Destination: netip.MustParseAddr("192.168.0.2"),
		Protocol:    protocol,
	}
}

func inner6(protocol uint8) *Flow {
	return &Flow{
		Source:      netip.MustParseAddr("fd00::1"),
		Destination: netip.MustParseAddr("fd00::2"),
		Protocol:    protocol,
	}
}

// dns4 and dns6 are the flows of udp4In and udp6In.
func dns4() *Flow { return inner4(udp).ports(4000, 53) }
func dns6() *Flow { return inner6(udp).ports(4000, 53) }

// over4 and over6 are tunnels between the addresses of flow4 and flow6.
func over4(kind string) *Tunnel {
	return &Tunnel{Type: kind, Source: flow4(0).Source, Destination: flow4(0).Destination}
}

func over6(kind string) *Tunnel {
	return &Tunnel{Type: kind, Source: flow6(0).Source, Destination: flow6(0).Destination}
}

func (t *Tunnel) id(id uint32) *Tunnel {
	t.HasID, t.ID = true, id
	return t
}

func (t *Tunnel) nested() *Tunnel {
	t.Nested = true
	return t
}

func vxlan5001() *Tunnel { return over4(VXLAN).id(5001) }

// toVXLAN is the flow around a tunnel of vxlan4.
func toVXLAN() *Flow { return flow4(udp).ports(0xc001, 4789) }

type tunnelTest struct {
	name  string
	bytes []string
	want  Result
	// flowBytes is what counts for the flow.
	flowBytes int
}

func runTunnel(t *testing.T, tests []tunnelTest) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := unhex(t, tt.bytes...)
			got := Decode(Packet{Data: data})
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.flowBytes, got.FlowBytes(len(data)), "bytes of the flow")
		})
	}
}

func TestDecodeVXLAN(t *testing.T) {
	runTunnel(t, []tunnelTest{
		{
			"IPv4 in IPv4", []string{vxlan4(innerIPv4, udp4In)},
			Result{Flow: dns4(), HeaderLen: 50 + 14 + 20 + 8, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 46}, 46,
		},
		{
			"IPv6 in IPv4 to Linux's port", []string{ethIPv4, around4("11", udpTo("2118", vni5001, innerIPv6, udp6In))},
			Result{Flow: dns6(), HeaderLen: 50 + 14 + 40 + 8, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 66}, 66,
		},
		{
			"IPv4 in IPv6 behind destination options", []string{
				ethIPv6, around6("3c", "1100 0104 0000 0000", udpTo("12b5", vni5001, innerIPv4, udp4In)),
			},
			Result{Flow: dns4(), HeaderLen: 54 + 8 + 16 + 14 + 20 + 8, Tunnel: over6(VXLAN).id(5001), InnerOffset: 78, InnerLen: 46}, 46,
		},
		{
			"IPv6 in IPv6", []string{ethIPv6, around6("11", udpTo("12b5", vni5001, innerIPv6, udp6In))},
			Result{Flow: dns6(), HeaderLen: 54 + 16 + 14 + 40 + 8, Tunnel: over6(VXLAN).id(5001), InnerOffset: 70, InnerLen: 66}, 66,
		},
		{
			"the largest identifier", []string{ethIPv4, around4("11", udpTo("12b5", "0800 0000 ffff ff00", innerIPv4, udp4In))},
			Result{Flow: dns4(), HeaderLen: 92, Tunnel: over4(VXLAN).id(1<<24 - 1), InnerOffset: 50, InnerLen: 46}, 46,
		},
		{
			"identifier 0", []string{ethIPv4, around4("11", udpTo("12b5", "0800 0000 0000 0000", innerIPv4, udp4In))},
			Result{Flow: dns4(), HeaderLen: 92, Tunnel: over4(VXLAN).id(0), InnerOffset: 50, InnerLen: 46}, 46,
		},
		{
			"TCP inside", []string{vxlan4(innerIPv4, "4500 0028 0000 0000 4006 0000 c0a8 0001 c0a8 0002", tcpHeader)},
			Result{Flow: inner4(tcp).ports(4000, 443), TCPFlags: 0x12, HeaderLen: 104, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 54}, 54,
		},
		{
			"padding inside counts", []string{vxlan4(innerIPv4, udp4In, "0000 0000 0000")},
			Result{Flow: dns4(), HeaderLen: 92, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 52}, 52,
		},
		{
			"padding outside does not", []string{vxlan4(innerIPv4, udp4In), "0000 0000 0000"},
			Result{Flow: dns4(), HeaderLen: 92, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 46}, 46,
		},
		{
			"what IP holds behind UDP does not", []string{ethIPv4, around4("11", udpTo("12b5", vni5001, innerIPv4, udp4In), "0000 0000")},
			Result{Flow: dns4(), HeaderLen: 92, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 46}, 46,
		},
		{
			"a tag and a label around", []string{ethTag, "0064 8847", "0001 2140", around4("11", udpTo("12b5", vni5001, innerIPv4, udp4In))},
			Result{Flow: dns4().tagged(100).labelled(18), HeaderLen: 100, Tunnel: vxlan5001(), InnerOffset: 58, InnerLen: 46}, 46,
		},
		{
			"four tags inside", []string{vxlan4(innerTag, "0001 88a8 0002 9100 0003 8100 0004 86dd", udp6In)},
			Result{Flow: dns6(), HeaderLen: 50 + 14 + 16 + 48, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 82}, 82,
		},
		{
			"five tags inside", []string{vxlan4(innerTag, strings.Repeat("0001 8100", 4), "0005 0800", udp4In)},
			Result{Outcome: Unsupported, Flow: toVXLAN(), HeaderLen: 42, Tunnel: vxlan5001(), InnerOffset: 50, IsTunnel: true}, 14 + 20 + 16 + 34 + 32,
		},
		{
			"UDP from the port, not to it", []string{ethIPv4, around4("11", "12b5 0035 003e 0000", vni5001, innerIPv4, udp4In)},
			Result{Flow: flow4(udp).ports(4789, 53), HeaderLen: 42}, 96,
		},
		{
			"GPE's port", []string{ethIPv4, around4("11", udpTo("12b6", "0c00 0003 0013 8900", innerIPv4, udp4In))},
			Result{Flow: flow4(udp).ports(0xc001, 4790), HeaderLen: 42}, 96,
		},
		{
			"UDP-Lite", []string{ethIPv4, around4("88", udpTo("12b5", vni5001, innerIPv4, udp4In))},
			Result{Flow: flow4(udpLite).ports(0xc001, 4789), HeaderLen: 42}, 96,
		},
	})
}

// What is no IP packet, or cannot be read as one, leaves the flow to the tunnel.
func TestDecodeTunnelItself(t *testing.T) {
	itself := func(outcome Outcome) Result {
		return Result{Outcome: outcome, Flow: toVXLAN(), HeaderLen: 42, Tunnel: vxlan5001(), InnerOffset: 50, IsTunnel: true}
	}
	for _, tt := range []struct {
		name, inside string
		want         Outcome
	}{
		{"ARP", arpIn, OK},
		{"tagged ARP", innerTag + "0001 0806 0001 0800", OK},
		{"MPLS", innerMACs + "8847 0001 0140" + udp4In, OK},
		{"PPPoE", innerMACs + "8864 1100 0001 0022 0021" + udp4In, OK},
		{"802.3 with SNAP", innerMACs + "0028 aaaa 0300 0000 0800" + udp4In, OK},
		{"Ethernet in Ethernet", innerMACs + "6558" + innerIPv4 + udp4In, OK},
		{"nothing", "", Malformed},
		{"Ethernet header cut", innerIPv4[:len(innerIPv4)-2], Malformed},
		{"tag cut", innerTag + "0001 08", Malformed},
		{"no IPv4 header", innerIPv4, Malformed},
		{"IPv4 header of 19 bytes", innerIPv4 + innerIP4[:len(innerIP4)-2], Malformed},
		{"IPv4 header of four words", innerIPv4 + "44" + innerIP4[2:] + udpHeader + data4, Malformed},
		{"IPv6 as IPv4", innerIPv4 + udp6In, Malformed},
		{"IPv4 as IPv6", innerIPv6 + udp4In + udp4In, Malformed},
		{"IPv6 header of 39 bytes", innerIPv6 + innerIP6[:len(innerIP6)-2], Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := unhex(t, vxlan4(tt.inside))
			got := Decode(Packet{Data: data})
			assert.Equal(t, itself(tt.want), got)
			assert.Equal(t, len(data), got.FlowBytes(len(data)), "bytes of the flow")
		})
	}
}

// The packet inside is judged as one outside is, and ends where the one around it does.
func TestDecodeInnerFaults(t *testing.T) {
	inner := func(outcome Outcome, flow *Flow, headerLen, innerLen int) Result {
		return Result{Outcome: outcome, Flow: flow, HeaderLen: headerLen, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: innerLen}
	}
	ip := func(total, fragment, protocol string) string {
		return innerIPv4 + "4500" + total + "0000" + fragment + "40" + protocol + "0000 c0a8 0001 c0a8 0002"
	}
	runTunnel(t, []tunnelTest{
		{
			"options cut by the datagram around", []string{vxlan4(innerIPv4, "46", innerIP4[2:])},
			inner(Malformed, inner4(udp), 0, 34), 34,
		},
		{
			"UDP header cut by the datagram around", []string{vxlan4(innerIPv4, innerIP4, "0fa0 0035 000c")},
			inner(Malformed, dns4(), 0, 40), 40,
		},
		{
			"payload cut before it was sent", []string{vxlan4(innerIPv4, innerIP4, udpHeader, "6461")},
			inner(Truncated, dns4(), 92, 44), 44,
		},
		{
			"payload cut before it was sent, of IPv6", []string{vxlan4(innerIPv6, innerIP6, udpHeader, "6461")},
			inner(Truncated, dns6(), 112, 64), 64,
		},
		{
			"total length within the header", []string{vxlan4(ip("0013", "0000", "11"), udpHeader, data4)},
			inner(Malformed, inner4(udp), 0, 46), 46,
		},
		{
			"total length 0 ends with the datagram around", []string{vxlan4(ip("0000", "0000", "11"), "0fa0 0035 0000 0000", data4)},
			inner(OK, dns4(), 92, 46), 46,
		},
		{
			"total length 0, UDP longer than the datagram around", []string{vxlan4(ip("0000", "0000", "11"), "0fa0 0035 000d 0000", data4), "00"},
			inner(Truncated, dns4(), 92, 46), 46,
		},
		{
			"UDP length beyond the inner datagram", []string{vxlan4(ip("0020", "0000", "11"), "0fa0 0035 000d 0000", data4, "00")},
			inner(Malformed, dns4(), 0, 47), 47,
		},
		{
			"TCP data offset", []string{vxlan4(ip("0028", "0000", "06"), "0fa0 01bb 0000 0001 0000 0000 4002 ffff 0000 0000")},
			inner(Malformed, inner4(tcp).ports(4000, 443), 0, 54).flags(0x02), 54,
		},
		{
			"first fragment", []string{vxlan4(ip("0020", "2000", "11"), "0fa0 0035 0100 0000", data4)},
			inner(OK, dns4(), 92, 46), 46,
		},
		{
			"later fragment", []string{vxlan4(ip("0020", "0001", "11"), udpHeader, data4)},
			inner(OK, inner4(udp).fragment(), 84, 46), 46,
		},
		{
			"protocol without ports", []string{vxlan4(ip("0018", "0000", "32"), data4)},
			inner(OK, inner4(50), 84, 38), 38,
		},
		{
			"extension headers", []string{vxlan4(innerIPv6, "6000 0000 0014 3c40", innerIP6[20:], "1100 0104 0000 0000", udpHeader, data4)},
			inner(OK, dns6(), 50+14+40+8+8, 74), 74,
		},
		{
			"thirteen extension headers", []string{
				vxlan4(innerIPv6, "6000 0000 0068 3c40", innerIP6[20:], strings.Repeat("3c00 0104 0000 0000", 13)),
			},
			inner(Unsupported, inner6(60), 0, 14+40+104), 14 + 40 + 104,
		},
	})
}

func (r Result) flags(flags uint8) Result {
	r.TCPFlags = flags
	return r
}

func TestDecodeNested(t *testing.T) {
	ip := func(fragment, protocol string, payload ...string) string {
		all := strings.Join(payload, "")
		return innerIPv4 + fmt.Sprintf("4500 %04x", 20+hexLen(all)) + "0000" + fragment + "40" + protocol + "0000 c0a8 0001 c0a8 0002" + all
	}
	for _, tt := range []struct {
		name, inside string
		want         bool
	}{
		{"VXLAN", ip("0000", "11", udpTo("12b5", vni5001, innerIPv4, udp4In)), true},
		{"VXLAN cut in its header", ip("0000", "11", udpTo("2118", "0800")), true},
		{"Geneve refused", ip("0000", "11", udpTo("17c1", "4000 6558 0000 0100")), true},
		{"GRE", ip("0000", "2f", "0000 0800", udp4In), true},
		{"IPv4", ip("0000", "04", udp4In), true},
		{"IPv6", ip("0000", "29", udp6In), true},
		{"first fragment", ip("2000", "2f", "0000 0800", udp4In), true},
		{"later fragment of VXLAN", ip("0001", "11", udpTo("12b5", vni5001)), false},
		{"later fragment of GRE", ip("0001", "2f", data4), false},
		{"UDP from the port", ip("0000", "11", "12b5 0035 0008 0000"), false},
		{"UDP-Lite to the port", ip("0000", "88", udpTo("12b5")), false},
		{"ESP", ip("0000", "32", data4), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Decode(Packet{Data: unhex(t, vxlan4(tt.inside))})
			require.NotNil(t, got.Tunnel)
			assert.False(t, got.IsTunnel)
			assert.Equal(t, "192.168.0.1", got.Flow.Source.String())
			assert.Equal(t, tt.want, got.Tunnel.Nested)
			assert.Equal(t, 50, got.InnerOffset)
		})
	}
}

// What is wrong with the packet around decides whether it is opened.
func TestDecodeTunnelOuterFaults(t *testing.T) {
	vxlan := vxlan4(innerIPv4, udp4In)
	udpLen := func(size string) string {
		return ethIPv4 + around4("11", "c001 12b5", size, "0000", vni5001, innerIPv4, udp4In)
	}
	fragment := func(field string, payload ...string) string {
		all := strings.Join(payload, "")
		return ethIPv4 + ip4(fmt.Sprintf("%04x", 20+hexLen(all)), field, "11") + all
	}
	cut := func(frame string, bytes int) string {
		return strings.ReplaceAll(frame, " ", "")[:bytes*2]
	}
	runTunnel(t, []tunnelTest{
		{
			"cut in the payload inside", []string{cut(vxlan, 94)},
			Result{Outcome: Truncated, Flow: dns4(), HeaderLen: 92, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 46}, 44,
		},
		{
			"cut in the addresses inside", []string{cut(vxlan, 80)},
			Result{Outcome: Truncated, Flow: toVXLAN(), HeaderLen: 42, Tunnel: vxlan5001(), InnerOffset: 50, IsTunnel: true}, 80,
		},
		{
			"cut in the frame inside", []string{cut(vxlan, 63)},
			Result{Outcome: Truncated, Flow: toVXLAN(), HeaderLen: 42, Tunnel: vxlan5001(), InnerOffset: 50, IsTunnel: true}, 63,
		},
		{
			"cut before the frame inside", []string{cut(vxlan, 50)},
			Result{Outcome: Truncated, Flow: toVXLAN(), HeaderLen: 42, Tunnel: vxlan5001(), InnerOffset: 50, IsTunnel: true}, 50,
		},
		{
			"cut in the VXLAN header", []string{cut(vxlan, 49)},
			Result{Outcome: Truncated, Flow: toVXLAN(), HeaderLen: 42}, 49,
		},
		{
			"cut in the padding inside", []string{cut(vxlan4(innerIPv4, udp4In, "0000 0000"), 98)},
			Result{Outcome: Truncated, Flow: dns4(), HeaderLen: 92, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 50}, 48,
		},
		{
			"cut in GRE behind a whole packet", []string{cut(ethIPv4+around4("2f", "0000 0800", udp4In, "0000"), 71)},
			Result{Outcome: Truncated, Flow: dns4(), HeaderLen: 66, Tunnel: over4(GRE), InnerOffset: 38, InnerLen: 32}, 32,
		},
		{
			"cut in GRE that is not IP", []string{cut(ethIPv4+around4("2f", "0000 880b", "ff03 0021", udp4In), 60)},
			Result{Outcome: Truncated, Flow: flow4(gre), HeaderLen: 34, Tunnel: over4(GRE), InnerOffset: 38, IsTunnel: true}, 60,
		},
		{
			"cut behind ARP", []string{cut(vxlan4(arpIn, "0000 0000"), 74)},
			Result{Outcome: Truncated, Flow: toVXLAN(), HeaderLen: 42, Tunnel: vxlan5001(), InnerOffset: 50, IsTunnel: true}, 74,
		},
		{
			"cut, malformed inside", []string{cut(vxlan4(innerIPv4, "44", innerIP4[2:], data4), 86)},
			Result{Outcome: Malformed, Flow: toVXLAN(), HeaderLen: 42, Tunnel: vxlan5001(), InnerOffset: 50, IsTunnel: true}, 86,
		},
		{
			"cut, refused", []string{cut(ethIPv4+around4("11", udpTo("12b5", "0000 0000 0013 8900", innerIPv4, udp4In)), 60)},
			Result{Outcome: Truncated, Flow: toVXLAN(), HeaderLen: 42, Refused: VXLANNoVNI}, 60,
		},
		{
			"UDP length beyond the datagram", []string{udpLen("003f")},
			Result{Outcome: Malformed, Flow: toVXLAN()}, 96,
		},
		{
			"UDP length 7", []string{udpLen("0007")},
			Result{Outcome: Malformed, Flow: toVXLAN()}, 96,
		},
		{
			"UDP length within the VXLAN header", []string{udpLen("000f")},
			Result{Outcome: Malformed, Flow: toVXLAN(), HeaderLen: 42}, 96,
		},
		{
			"UDP length within the frame inside", []string{udpLen("0016")},
			Result{Outcome: Malformed, Flow: toVXLAN(), HeaderLen: 42, Tunnel: vxlan5001(), InnerOffset: 50, IsTunnel: true}, 96,
		},
		{
			"UDP length within the ports inside", []string{udpLen("0034")},
			Result{Outcome: Malformed, Flow: inner4(udp), Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 36}, 36,
		},
		{
			"super-packet without lengths", []string{
				ethIPv4, ip4("0000", "0000", "11"), "c001 12b5 0000 0000", vni5001, innerIPv4, "4500 0000", innerIP4[9:], "0fa0 0035 0000 0000", data4,
			},
			Result{Flow: dns4(), HeaderLen: 92, Tunnel: vxlan5001(), InnerOffset: 50}, 46,
		},
		{
			"super-packet whose UDP has a length", []string{
				ethIPv4, ip4("0000", "0000", "11"), udpTo("12b5", vni5001, innerIPv4, udp4In), "0000",
			},
			Result{Flow: dns4(), HeaderLen: 92, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 46}, 46,
		},
		{
			"super-packet, inner header cut by the packet", []string{
				ethIPv4, ip4("0000", "0000", "11"), "c001 12b5 0000 0000", vni5001, innerIPv4, innerIP4, "0fa0 0035 0000",
			},
			Result{Outcome: Truncated, Flow: dns4(), Tunnel: vxlan5001(), InnerOffset: 50}, 40,
		},
		{
			"first fragment", []string{fragment("2000", "c001 12b5 0100 0000", vni5001, innerIPv4, innerIP4, udpHeader)},
			Result{Flow: dns4(), HeaderLen: 92, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 42}, 42,
		},
		{
			"first fragment, header inside cut by it", []string{fragment("2000", "c001 12b5 0100 0000", vni5001, innerIPv4, innerIP4, "0fa0 0035")},
			Result{Outcome: Malformed, Flow: dns4(), Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 38}, 38,
		},
		{
			"first fragment, VXLAN header cut by it", []string{fragment("2000", "c001 12b5 0100 0000", "0800 0000")},
			Result{Outcome: Malformed, Flow: toVXLAN(), HeaderLen: 42}, 46,
		},
		{
			"first fragment, cut by the packet", []string{cut(fragment("2000", "c001 12b5 0100 0000", vni5001, innerIPv4, innerIP4, udpHeader, data4), 94)},
			Result{Outcome: Truncated, Flow: dns4(), HeaderLen: 92, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 46}, 44,
		},
		{
			"later fragment", []string{fragment("0001", udpTo("12b5", vni5001, innerIPv4, udp4In))},
			Result{Flow: flow4(udp).fragment(), HeaderLen: 34}, 96,
		},
	})
}

func TestRefusedVXLAN(t *testing.T) {
	for _, tt := range []struct{ name, header, want string }{
		{"I", vni5001, ""},
		{"no I", "0000 0000 0013 8900", VXLANNoVNI},
		{"no I, P", "0400 0003 0013 8900", VXLANNoVNI},
		{"no I, G", "8000 0001 0013 8900", VXLANNoVNI},
		{"no I, reserved", "f700 0000 0013 8900", VXLANNoVNI},
		{"P, NSH", "0c00 0004 0013 8900", VXLANNSH},
		{"P, Ethernet", "0c00 0003 0013 8900", VXLANGPE},
		{"P, B and O, IPv4", "0f00 0001 0013 8900", VXLANGPE},
		{"P, NSH, version 1", "1c00 0004 0013 8900", VXLANReservedBits},
		{"P, reserved flag", "4c00 0004 0013 8900", VXLANReservedBits},
		{"P, G", "8c00 0004 0013 8900", VXLANReservedBits},
		{"P, second byte", "0c01 0004 0013 8900", VXLANReservedBits},
		{"P, third byte", "0c00 0104 0013 8900", VXLANReservedBits},
		{"P, last byte", "0c00 0004 0013 8901", VXLANReservedBits},
		{"each flag: 0x01", "0900 0000 0013 8900", VXLANReservedBits},
		{"each flag: 0x02", "0a00 0000 0013 8900", VXLANReservedBits},
		{"each flag: 0x10", "1800 0000 0013 8900", VXLANReservedBits},
		{"each flag: 0x20", "2800 0000 0013 8900", VXLANReservedBits},
		{"each flag: 0x40", "4800 0000 0013 8900", VXLANReservedBits},
		{"second byte", "0840 0000 0013 8900", VXLANReservedBits},
		{"third byte", "0800 8000 0013 8900", VXLANReservedBits},
		{"fourth byte", "0800 0001 0013 8900", VXLANReservedBits},
		{"last byte", "0800 0000 0013 8980", VXLANReservedBits},
		{"G with a group", "8800 ffff 0013 8900", ""},
		{"G, D, A with a group", "8848 1234 0013 8900", ""},
		{"G, another bit beside D and A", "8849 1234 0013 8900", VXLANReservedBits},
		{"G, last byte", "8800 1234 0013 8901", VXLANReservedBits},
		{"G, reserved flag", "8a00 1234 0013 8900", VXLANReservedBits},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Decode(Packet{Data: unhex(t, ethIPv4, around4("11", udpTo("12b5", tt.header, innerIPv4, udp4In)))})
			want := Result{Flow: toVXLAN(), HeaderLen: 42, Refused: tt.want}
			if tt.want == "" {
				want = Result{Flow: dns4(), HeaderLen: 92, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 46}
			}
			assert.Equal(t, want, got)
		})
	}
}

func TestDecodeGeneve(t *testing.T) {
	geneve := func(payload ...string) []string {
		return []string{ethIPv4, around4("11", udpTo("17c1", payload...))}
	}
	toGeneve := func() *Flow { return flow4(udp).ports(0xc001, 6081) }
	// two options: one word of data, none; and what follows at 50+12
	const options = "0102 8001 dead beef 0102 0300"
	runTunnel(t, []tunnelTest{
		{
			"Ethernet", geneve("0000 6558 0013 8900", innerIPv4, udp4In),
			Result{Flow: dns4(), HeaderLen: 92, Tunnel: over4(Geneve).id(5001), InnerOffset: 50, InnerLen: 46}, 46,
		},
		{
			"IPv4, shorter than the datagram around", geneve("0000 0800 0013 8900", udp4In, "0000"),
			Result{Flow: dns4(), HeaderLen: 78, Tunnel: over4(Geneve).id(5001), InnerOffset: 50, InnerLen: 32}, 32,
		},
		{
			"IPv6", geneve("0000 86dd 0000 0000", udp6In),
			Result{Flow: dns6(), HeaderLen: 98, Tunnel: over4(Geneve).id(0), InnerOffset: 50, InnerLen: 52}, 52,
		},
		{
			"options, critical, reserved bits", geneve("037f 6558 0013 89ff", options, innerIPv4, udp4In),
			Result{Flow: dns4(), HeaderLen: 104, Tunnel: over4(Geneve).id(5001), InnerOffset: 62, InnerLen: 46}, 46,
		},
		{
			"the longest option", geneve("2000 0800 0013 8900", "0102 031f", strings.Repeat("dddd dddd", 31), udp4In),
			Result{Flow: dns4(), HeaderLen: 78 + 128, Tunnel: over4(Geneve).id(5001), InnerOffset: 178, InnerLen: 32}, 32,
		},
		{
			"most options there can be", geneve("3f00 0800 0013 8900", strings.Repeat("0102 0300", 63), udp4In),
			Result{Flow: dns4(), HeaderLen: 78 + 252, Tunnel: over4(Geneve).id(5001), InnerOffset: 302, InnerLen: 32}, 32,
		},
		{
			"ARP", geneve("0000 6558 0013 8900", arpIn),
			Result{Flow: toGeneve(), HeaderLen: 42, Tunnel: over4(Geneve).id(5001), InnerOffset: 50, IsTunnel: true}, 50 + hexLen(arpIn),
		},
		{
			"MPLS", geneve("0000 8847 0013 8900", "0001 0140", udp4In),
			Result{Flow: toGeneve(), HeaderLen: 42, Tunnel: over4(Geneve).id(5001), InnerOffset: 50, IsTunnel: true}, 86,
		},
		{
			"a tag without Ethernet", geneve("0000 8100 0013 8900", "0001 0800", udp4In),
			Result{Flow: toGeneve(), HeaderLen: 42, Tunnel: over4(Geneve).id(5001), InnerOffset: 50, IsTunnel: true}, 86,
		},
		{
			"an option beyond the options", geneve("0200 6558 0013 8900", "0102 0302 dead beef", innerIPv4, udp4In),
			Result{Outcome: Malformed, Flow: toGeneve(), HeaderLen: 42}, 104,
		},
		{
			"options beyond the datagram", geneve("0300 6558 0013 8900", "0102 0301 dead beef"),
			Result{Outcome: Malformed, Flow: toGeneve(), HeaderLen: 42}, 58,
		},
		{
			"header cut by the datagram", geneve("0000 6558 0013 89"),
			Result{Outcome: Malformed, Flow: toGeneve(), HeaderLen: 42}, 49,
		},
		{
			"version", geneve("4000 6558 0013 8900", innerIPv4, udp4In),
			Result{Flow: toGeneve(), HeaderLen: 42, Refused: GeneveVersion}, 96,
		},
		{
			"control", geneve("0080 6558 0013 8900", innerIPv4, udp4In),
			Result{Flow: toGeneve(), HeaderLen: 42, Refused: GeneveControl}, 96,
		},
		{
			"control of another version", geneve("c080 6558 0013 8900"),
			Result{Flow: toGeneve(), HeaderLen: 42, Refused: GeneveVersion}, 50,
		},
	})

	cutOptions := unhex(t, geneve("0300 6558 0013 8900", options, innerIPv4, udp4In)...)[:61]
	assert.Equal(t, Result{Outcome: Truncated, Flow: toGeneve(), HeaderLen: 42}, Decode(Packet{Data: cutOptions}))
}

func TestDecodeGRE(t *testing.T) {
	gre4 := func(payload ...string) []string { return []string{ethIPv4, around4("2f", payload...)} }
	const sum, key, seq = "abcd 0000", "0a0b 0c0d", "0000 0007"
	runTunnel(t, []tunnelTest{
		{
			"IPv4", gre4("0000 0800", udp4In),
			Result{Flow: dns4(), HeaderLen: 34 + 4 + 28, Tunnel: over4(GRE), InnerOffset: 38, InnerLen: 32}, 32,
		},
		{
			"IPv6 in IPv6", []string{ethIPv6, around6("2f", "0000 86dd", udp6In)},
			Result{Flow: dns6(), HeaderLen: 54 + 4 + 48, Tunnel: over6(GRE), InnerOffset: 58, InnerLen: 52}, 52,
		},
		{
			"Ethernet, with a tag", gre4("0000 6558", innerTag, "0007 0800", udp4In),
			Result{Flow: dns4(), HeaderLen: 34 + 4 + 18 + 28, Tunnel: over4(GRE), InnerOffset: 38, InnerLen: 50}, 50,
		},
		{
			"checksum", gre4("8000 0800", sum, udp4In),
			Result{Flow: dns4(), HeaderLen: 70, Tunnel: over4(GRE), InnerOffset: 42, InnerLen: 32}, 32,
		},
		{
			"key", gre4("2000 0800", key, udp4In),
			Result{Flow: dns4(), HeaderLen: 70, Tunnel: over4(GRE).id(0x0a0b0c0d), InnerOffset: 42, InnerLen: 32}, 32,
		},
		{
			"key 0", gre4("2000 0800", "0000 0000", udp4In),
			Result{Flow: dns4(), HeaderLen: 70, Tunnel: over4(GRE).id(0), InnerOffset: 42, InnerLen: 32}, 32,
		},
		{
			"sequence number", gre4("1000 0800", seq, udp4In),
			Result{Flow: dns4(), HeaderLen: 70, Tunnel: over4(GRE), InnerOffset: 42, InnerLen: 32}, 32,
		},
		{
			"checksum, key, sequence number", gre4("b000 86dd", sum, key, seq, udp6In),
			Result{Flow: dns6(), HeaderLen: 34 + 16 + 48, Tunnel: over4(GRE).id(0x0a0b0c0d), InnerOffset: 50, InnerLen: 52}, 52,
		},
		{
			"reserved bits are ignored", gre4("0ff8 0800", udp4In),
			Result{Flow: dns4(), HeaderLen: 66, Tunnel: over4(GRE), InnerOffset: 38, InnerLen: 32}, 32,
		},
		{
			"shorter than the datagram around", gre4("0000 0800", udp4In, data4),
			Result{Flow: dns4(), HeaderLen: 66, Tunnel: over4(GRE), InnerOffset: 38, InnerLen: 32}, 32,
		},
		{
			"longer than the datagram around", gre4("0000 0800", innerIP4, udpHeader),
			Result{Outcome: Truncated, Flow: dns4(), HeaderLen: 66, Tunnel: over4(GRE), InnerOffset: 38, InnerLen: 28}, 28,
		},
		{
			"total length 0", gre4("0000 0800", "4500 0000", innerIP4[9:], udpHeader, data4),
			Result{Flow: dns4(), HeaderLen: 66, Tunnel: over4(GRE), InnerOffset: 38, InnerLen: 32}, 32,
		},
		{
			"total length within the header", gre4("0000 0800", "4500 0013", innerIP4[9:], udpHeader, data4),
			Result{Outcome: Malformed, Flow: inner4(udp), Tunnel: over4(GRE), InnerOffset: 38, InnerLen: 19}, 19,
		},
		{
			"PPP", gre4("0000 880b", "ff03 0021", udp4In),
			Result{Flow: flow4(gre), HeaderLen: 34, Tunnel: over4(GRE), InnerOffset: 38, IsTunnel: true}, 74,
		},
		{
			"WCCP", gre4("0000 883e", "0000 0000", udp4In),
			Result{Flow: flow4(gre), HeaderLen: 34, Tunnel: over4(GRE), InnerOffset: 38, IsTunnel: true}, 74,
		},
		{
			"keepalive: nothing, of protocol 0", gre4("0000 0000"),
			Result{Flow: flow4(gre), HeaderLen: 34, Tunnel: over4(GRE), InnerOffset: 38, IsTunnel: true}, 38,
		},
		{
			"header cut by the datagram", gre4("0000 08"),
			Result{Outcome: Malformed, Flow: flow4(gre), HeaderLen: 34}, 37,
		},
		{
			"key cut by the datagram", gre4("2000 0800", "0a0b 0c"),
			Result{Outcome: Malformed, Flow: flow4(gre), HeaderLen: 34}, 41,
		},
		{
			"PPTP", gre4("3081 880b 000a 0001", seq, seq, "ff03 0021", udp4In),
			Result{Flow: flow4(gre), HeaderLen: 34, Refused: GREVersion}, 34 + 52,
		},
		{
			"version 2", gre4("0002 0800", udp4In),
			Result{Flow: flow4(gre), HeaderLen: 34, Refused: GREVersion}, 70,
		},
		{
			"version 4", gre4("0004 0800", udp4In),
			Result{Flow: flow4(gre), HeaderLen: 34, Refused: GREVersion}, 70,
		},
		{
			"routing", gre4("4000 0800", sum, "0000 0000", udp4In),
			Result{Flow: flow4(gre), HeaderLen: 34, Refused: GRERouting}, 78,
		},
		{
			"ERSPAN I", gre4("0000 88be", innerIPv4, udp4In),
			Result{Flow: flow4(gre), HeaderLen: 34, Refused: ERSPAN}, 84,
		},
		{
			"ERSPAN II", gre4("1000 88be", seq, "1001 0001 0000 0000", innerIPv4, udp4In),
			Result{Flow: flow4(gre), HeaderLen: 34, Refused: ERSPAN}, 96,
		},
		{
			"ERSPAN III", gre4("1000 22eb", seq, "2001 0001 0000 0000 0000 0000", innerIPv4, udp4In),
			Result{Flow: flow4(gre), HeaderLen: 34, Refused: ERSPAN}, 100,
		},
		{
			"first fragment", []string{ethIPv4, ip4("0034", "2000", "2f"), "0000 0800", "4500 0100", innerIP4[9:], "0fa0 0035 00ec 0000"},
			Result{Flow: dns4(), HeaderLen: 66, Tunnel: over4(GRE), InnerOffset: 38, InnerLen: 28}, 28,
		},
		{
			"later fragment", []string{ethIPv4, ip4("0038", "0001", "2f"), "0000 0800", udp4In},
			Result{Flow: flow4(gre).fragment(), HeaderLen: 34}, 70,
		},
	})

	cut := unhex(t, gre4("2000 0800", key, udp4In)...)[:41]
	assert.Equal(t, Result{Outcome: Truncated, Flow: flow4(gre), HeaderLen: 34}, Decode(Packet{Data: cut}))
}

func TestDecodeIPIP(t *testing.T) {
	runTunnel(t, []tunnelTest{
		{
			"4 in 4", []string{ethIPv4, around4("04", udp4In)},
			Result{Flow: dns4(), HeaderLen: 62, Tunnel: over4(IPIP), InnerOffset: 34, InnerLen: 32}, 32,
		},
		{
			"6 in 4", []string{ethIPv4, around4("29", udp6In)},
			Result{Flow: dns6(), HeaderLen: 82, Tunnel: over4(IPIP), InnerOffset: 34, InnerLen: 52}, 52,
		},
		{
			"4 in 6", []string{ethIPv6, around6("04", udp4In)},
			Result{Flow: dns4(), HeaderLen: 82, Tunnel: over6(IPIP), InnerOffset: 54, InnerLen: 32}, 32,
		},
		{
			"6 in 6 behind destination options", []string{ethIPv6, around6("3c", "2900 0401 0400 0104", udp6In)}, // RFC 2473, section 4.1.1
			Result{Flow: dns6(), HeaderLen: 110, Tunnel: over6(IPIP), InnerOffset: 62, InnerLen: 52}, 52,
		},
		{
			"behind IPv4 options", []string{ethIPv4, "4600 0038 0000 0000 4004 0000", v4src, v4dst, "0101 0100", udp4In},
			Result{Flow: dns4(), HeaderLen: 66, Tunnel: over4(IPIP), InnerOffset: 38, InnerLen: 32}, 32,
		},
		{
			"padding of the frame", []string{ethIPv4, around4("04", udp4In), data4},
			Result{Flow: dns4(), HeaderLen: 62, Tunnel: over4(IPIP), InnerOffset: 34, InnerLen: 32}, 32,
		},
		{
			"IPv6 where IPv4 should be", []string{ethIPv4, around4("04", udp6In)},
			Result{Outcome: Malformed, Flow: flow4(ipv4InIP), HeaderLen: 34, Tunnel: over4(IPIP), InnerOffset: 34, IsTunnel: true}, 86,
		},
		{
			"nothing inside", []string{ethIPv4, around4("29")},
			Result{Outcome: Malformed, Flow: flow4(ipv6InIP), HeaderLen: 34, Tunnel: over4(IPIP), InnerOffset: 34, IsTunnel: true}, 34,
		},
		{
			"nothing behind a payload length of 0", []string{ethIPv6, around6("29")},
			Result{Outcome: Truncated, Flow: flow6(ipv6InIP), HeaderLen: 54, Tunnel: over6(IPIP), InnerOffset: 54, IsTunnel: true}, 54,
		},
		{
			"cut before the packet inside", []string{ethIPv4, ip4("0034", "0000", "04")},
			Result{Outcome: Truncated, Flow: flow4(ipv4InIP), HeaderLen: 34, Tunnel: over4(IPIP), InnerOffset: 34, IsTunnel: true}, 34,
		},
		{
			"no lengths at all", []string{ethIPv6, ip6("0000", "04"), "4500 0000", innerIP4[9:], udpHeader, data4},
			Result{Flow: dns4(), HeaderLen: 82, Tunnel: over6(IPIP), InnerOffset: 54}, 32,
		},
		{
			"6 in 6 in 6", []string{ethIPv6, around6("29", "6000 0000 0034 2940", innerIP6[20:], udp6In)},
			Result{Flow: inner6(ipv6InIP), HeaderLen: 94, Tunnel: over6(IPIP).nested(), InnerOffset: 54, InnerLen: 92}, 92,
		},
		{
			"first fragment", []string{ethIPv6, around6("2c", "2900 0001 0000 0001", "6000 0000 0100 1140", innerIP6[20:], "0fa0 0035 0100 0000")},
			Result{Flow: dns6(), HeaderLen: 110, Tunnel: over6(IPIP), InnerOffset: 62, InnerLen: 48}, 48,
		},
		{
			"later fragment", []string{ethIPv6, around6("2c", "2900 0008 0000 0001", udp6In)},
			Result{Flow: flow6(ipv6InIP).fragment(), HeaderLen: 62}, 114,
		},
	})
}

func TestDecodePorts(t *testing.T) {
	frame := unhex(t, ethIPv4, around4("11", udpTo("12b6", vni5001, innerIPv4, udp4In)))
	ports := &Ports{VXLAN: []uint16{4790}, Geneve: []uint16{6082}}
	assert.Equal(t,
		Result{Flow: dns4(), HeaderLen: 92, Tunnel: vxlan5001(), InnerOffset: 50, InnerLen: 46},
		Decode(Packet{Data: frame, Ports: ports}))

	frame = unhex(t, ethIPv4, around4("11", udpTo("17c2", "0000 6558 0013 8900", innerIPv4, udp4In)))
	assert.Equal(t,
		Result{Flow: dns4(), HeaderLen: 92, Tunnel: over4(Geneve).id(5001), InnerOffset: 50, InnerLen: 46},
		Decode(Packet{Data: frame, Ports: ports}))

	frame = unhex(t, vxlan4(innerIPv4, udp4In))
	closed := Result{Flow: toVXLAN(), HeaderLen: 42}
	assert.Equal(t, closed, Decode(Packet{Data: frame, Ports: ports}), "no more the default")
	assert.Equal(t, closed, Decode(Packet{Data: frame, Ports: &Ports{}}))
	assert.Equal(t, closed, Decode(Packet{Data: frame, OuterOnly: true}))

	frame = unhex(t, ethIPv4, around4("04", udp4In))
	assert.Equal(t, Result{Flow: flow4(ipv4InIP), HeaderLen: 34}, Decode(Packet{Data: frame, OuterOnly: true}))
}

func TestDecodeTunnelNoLink(t *testing.T) {
	tag := uint16(7)
	got := Decode(Packet{
		Data:   unhex(t, around4("11", udpTo("12b5", vni5001, innerTag, "0064 0800", udp4In))),
		NoLink: true, EtherType: 0x0800, Tag: &tag,
	})
	assert.Equal(t, Result{
		Flow: dns4().tagged(7), HeaderLen: 36 + 18 + 28, Tunnel: vxlan5001(), InnerOffset: 36, InnerLen: 50,
	}, got)
}

// Of what the packet is longer than its first bytes, as a hook sees one that is
// not all in reach, only the headers have to be there.
func TestDecodeTunnelLongerThanItsData(t *testing.T) {
	frame := unhex(t, vxlan4(innerIPv4, udp4In))
	whole := Decode(Packet{Data: frame})
	assert.Equal(t, whole, Decode(Packet{Data: frame[:92], Length: len(frame)}))

	got := Decode(Packet{Data: frame[:87], Length: len(frame)})
	assert.Equal(t, Truncated, got.Outcome)
	assert.Equal(t, inner4(udp), got.Flow)
	assert.Equal(t, 46, got.FlowBytes(len(frame)))
}

// A frame that is cut has to be told from a whole one at every length, and what
// is left of it names the flow inside, the tunnel, or nothing.
func TestDecodeTunnelCutAtEveryLength(t *testing.T) {
	for _, tt := range []struct {
		name  string
		frame string
		// the first lengths at which the tunnel is known, then the addresses, then the ports
		tunnel, addresses, ports int
	}{
		{"VXLAN", vxlan4(innerTag, "0001 0800", udp4In), 50, 88, 92},
		{"VXLAN over IPv6", ethIPv6 + around6("00", "1100 0104 0000 0000", udpTo("12b5", vni5001, innerIPv6, udp6In)), 78, 132, 136},
		{"Geneve", ethIPv4 + around4("11", udpTo("17c1", "0200 86dd 0013 8900", "0102 8001 dead beef", udp6In)), 58, 98, 102},
		{"GRE", ethIPv4 + around4("2f", "b000 6558", "abcd 0000 0a0b 0c0d 0000 0007", innerIPv4, udp4In), 50, 84, 88},
		{"IP in IP", ethIPv6 + around6("04", udp4In), 54, 74, 78},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frame := unhex(t, tt.frame)
			whole := Decode(Packet{Data: frame})
			require.Equal(t, OK, whole.Outcome)
			require.NotNil(t, whole.Tunnel)
			require.True(t, whole.Flow.HasPorts)
			for n := range frame {
				got := Decode(Packet{Data: frame[:n]})
				require.Equal(t, Truncated, got.Outcome, "%d bytes", n)
				require.Empty(t, got.Refused, "%d bytes", n)
				require.Equal(t, n >= tt.tunnel, got.Tunnel != nil, "%d bytes", n)
				if got.Tunnel == nil {
					continue
				}
				require.Equal(t, whole.Tunnel, got.Tunnel, "%d bytes", n)
				require.Equal(t, whole.InnerOffset, got.InnerOffset, "%d bytes", n)
				require.Equal(t, n < tt.addresses, got.IsTunnel, "%d bytes", n)
				require.Equal(t, n >= tt.addresses, got.Flow.Source == whole.Flow.Source, "%d bytes", n)
				if !got.IsTunnel {
					require.Equal(t, n >= tt.ports, got.Flow.HasPorts, "%d bytes", n)
					require.Equal(t, n-whole.InnerOffset, got.FlowBytes(n), "%d bytes", n)
				}
			}
		})
	}
}
