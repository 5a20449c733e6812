// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func key(protocol Protocol, source, destination string, sourcePort, destinationPort uint16) Key {
	return Key{
		Source:          netip.MustParseAddr(source),
		Destination:     netip.MustParseAddr(destination),
		SourcePort:      sourcePort,
		DestinationPort: destinationPort,
		Protocol:        protocol,
		Has:             HasPorts,
	}
}

func withoutPorts(protocol Protocol, source, destination string) Key {
	k := key(protocol, source, destination, 0, 0)
	k.Has = 0
	return k
}

// reverse is the key of the answers to an ordinary flow.
func reverse(k Key) Key {
	k.Source, k.Destination = k.Destination, k.Source
	k.SourcePort, k.DestinationPort = k.DestinationPort, k.SourcePort
	return k
}

// The values are those of the specification's baseline data set. It gives the
// type's counterpart in place of the code where a message has one; packets have
// the code, which is zero for all of them.
func TestCommunityIDBaseline(t *testing.T) {
	for _, tt := range []struct {
		name string
		key  Key
		want string
	}{
		{"tcp", key(TCP, "128.232.110.120", "66.35.250.204", 34855, 80), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
		{"tcp answer", key(TCP, "66.35.250.204", "128.232.110.120", 80, 34855), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
		{"tcp over ipv6", key(TCP, "2001:470:e5bf:dead:4957:2174:e82c:4887", "2607:f8b0:400c:c03::1a", 63943, 25), "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="},
		{"tcp over ipv6 answer", key(TCP, "2607:f8b0:400c:c03::1a", "2001:470:e5bf:dead:4957:2174:e82c:4887", 25, 63943), "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="},
		{"udp", key(UDP, "192.168.1.52", "8.8.8.8", 54585, 53), "1:d/FP5EW3wiY1vCndhwleRRKHowQ="},
		{"udp answer", key(UDP, "8.8.8.8", "192.168.1.52", 53, 54585), "1:d/FP5EW3wiY1vCndhwleRRKHowQ="},
		{"sctp", key(SCTP, "192.168.170.8", "192.168.170.56", 7, 7), "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="},
		{"sctp answer", key(SCTP, "192.168.170.56", "192.168.170.8", 7, 7), "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="},
		{"rsvp", withoutPorts(46, "10.1.12.1", "10.1.12.2"), "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw="},
		{"rsvp answer", withoutPorts(46, "10.1.12.2", "10.1.12.1"), "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw="},
		{"echo request", key(ICMP, "192.168.0.89", "192.168.0.1", 8, 0), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
		{"echo reply", key(ICMP, "192.168.0.1", "192.168.0.89", 0, 0), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
		{"time exceeded", key(ICMP, "10.0.0.1", "10.0.0.2", 11, 0), "1:YHxtAirCG//0OzkcVAukqKQN9xM="},
		{"neighbour solicitation", key(ICMPv6, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 0), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="},
		{"neighbour advertisement", key(ICMPv6, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 136, 0), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="},
		{"neighbour solicitation the other way", key(ICMPv6, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 135, 0), "1:zavyT/cezQr1fmImYCwYnMXbgck="},
		{"neighbour advertisement the other way", key(ICMPv6, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 136, 0), "1:zavyT/cezQr1fmImYCwYnMXbgck="},
		{"icmpv6 time exceeded", key(ICMPv6, "3ffe:501:1800:2345::2", "3ffe:507:0:1:200:86ff:fe05:80da", 3, 0), "1:2ObVBgIn28oZvibYZhZMBgh7WdQ="},
		{"icmpv6 port unreachable", key(ICMPv6, "3ffe:501:410:0:2c0:dfff:fe47:33e", "3ffe:507:0:1:200:86ff:fe05:80da", 1, 4), "1:hLZd0XGWojozrvxqE0dWB1iM6R0="},
		{"icmpv6 echo request", key(ICMPv6, "3ffe:507:0:1:200:86ff:fe05:80da", "3ffe:501:0:1001::2", 128, 0), "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg="},
		{"icmpv6 echo reply", key(ICMPv6, "3ffe:501:0:1001::2", "3ffe:507:0:1:200:86ff:fe05:80da", 129, 0), "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg="},
		{"router solicitation", key(ICMPv6, "fe80::200:86ff:fe05:80da", "ff02::2", 133, 0), "1:hO+sN4H+MG5MY/8hIrXPqc4ZQz0="},
		{"router advertisement", key(ICMPv6, "fe80::260:97ff:fe07:69ea", "ff02::1", 134, 0), "1:pkvHqCL88/tg1k4cPigmZXUtL00="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, tt.key.CommunityID())
		})
	}
}

// The values are Wireshark's (tshark -e communityid) for such packets.
func TestCommunityIDWireshark(t *testing.T) {
	const a, b, a6, b6 = "192.0.2.1", "198.51.100.7", "2001:db8::1", "2001:db8::2"
	for _, tt := range []struct {
		name string
		key  Key
		want string
	}{
		{"destination unreachable", key(ICMP, a, b, 3, 3), "1:f1Gng8k5RO6FITNfjjAEusCOegA="},
		{"destination unreachable back", key(ICMP, b, a, 3, 3), "1:LLf7B5fu4Sc+v8+xlTeNrkAIpGI="},
		{"redirect", key(ICMP, a, b, 5, 3), "1:ukwy4wue2LaTLBW2MDQp4ZccCMQ="},
		{"router advertisement", key(ICMP, a, b, 9, 0), "1:nccH6PjHPiWo/ou3S+9RjgP7X+A="},
		{"router solicitation", key(ICMP, b, a, 10, 0), "1:nccH6PjHPiWo/ou3S+9RjgP7X+A="},
		{"timestamp", key(ICMP, a, b, 13, 0), "1:IR+4xj9pEwi7mRPmyFNuzHszu0I="},
		{"information", key(ICMP, a, b, 15, 0), "1:BrXmhkJrjJZPcDLr7jR1EJYqUHY="},
		{"address mask", key(ICMP, a, b, 17, 0), "1:aSvsVN5pIwoqpyKeB4iksVAu/K0="},
		{"packet too big", key(ICMPv6, a6, b6, 2, 3), "1:SBJg9L3zP8mgr66+r+duRb+RVhQ="},
		{"listener query", key(ICMPv6, a6, b6, 130, 0), "1:00K5zJ2eLsDMSeSVZcN3NeAa3kQ="},
		{"listener report", key(ICMPv6, b6, a6, 131, 0), "1:00K5zJ2eLsDMSeSVZcN3NeAa3kQ="},
		{"listener done", key(ICMPv6, a6, b6, 132, 3), "1:tI0wqJNkjNvdIWMpYOrnAM+bkxw="},
		{"node information", key(ICMPv6, a6, b6, 139, 0), "1:Sk22M0RiSzqPc3Ud7RgLkieiFvo="},
		{"home agent discovery", key(ICMPv6, a6, b6, 144, 0), "1:ms66bqjCiS0Nx3DNXCp9wH22xNw="},
		{"tcp with itself", key(TCP, a, a, 40001, 443), "1:UqePS1I30EdR3U7/Y/Jo516WdMs="},
		{"gre", withoutPorts(47, a, b), "1:RgkLaSviQYJ7OVkhn/T3l+5nv8A="},
		{"dccp, whose ports version 1 does not know", key(DCCP, a, b, 40001, 443), "1:Vf0eaFFg/j7+didfdOMd4cMR4aM="},
		{"later fragment of udp", withoutPorts(UDP, a, b), "1:dGjNevNceD/Hi7zTJnwT2T4H58M="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, tt.key.CommunityID())
		})
	}
}

// The two messages of a pair are one conversation, and the same message sent
// the other way is another.
func TestCommunityIDOfICMPPairs(t *testing.T) {
	for _, tt := range []struct {
		protocol       Protocol
		source, dest   string
		first, second  uint16
		firstC, secndC uint16 // codes, which must not matter
	}{
		{ICMP, "192.0.2.1", "198.51.100.7", 8, 0, 0, 9},
		{ICMP, "192.0.2.1", "198.51.100.7", 10, 9, 0, 16},
		{ICMP, "192.0.2.1", "198.51.100.7", 13, 14, 0, 0},
		{ICMP, "192.0.2.1", "198.51.100.7", 15, 16, 0, 0},
		{ICMP, "192.0.2.1", "198.51.100.7", 17, 18, 0, 0},
		{ICMPv6, "2001:db8::1", "2001:db8::2", 128, 129, 0, 0},
		{ICMPv6, "2001:db8::1", "2001:db8::2", 130, 131, 0, 0},
		{ICMPv6, "2001:db8::1", "2001:db8::2", 133, 134, 0, 0},
		{ICMPv6, "2001:db8::1", "2001:db8::2", 135, 136, 0, 0},
		{ICMPv6, "2001:db8::1", "2001:db8::2", 139, 140, 1, 2},
		{ICMPv6, "2001:db8::1", "2001:db8::2", 144, 145, 0, 0},
	} {
		asked := key(tt.protocol, tt.source, tt.dest, tt.first, tt.firstC)
		answered := key(tt.protocol, tt.dest, tt.source, tt.second, tt.secndC)
		back := key(tt.protocol, tt.dest, tt.source, tt.first, tt.firstC)
		require.Equal(t, asked.CommunityID(), answered.CommunityID(), "types %d and %d", tt.first, tt.second)
		require.NotEqual(t, asked.CommunityID(), back.CommunityID(), "type %d both ways", tt.first)
	}
}

func TestCommunityIDOfUnpairedICMP(t *testing.T) {
	there := key(ICMP, "192.0.2.1", "198.51.100.7", 3, 1)
	back := key(ICMP, "198.51.100.7", "192.0.2.1", 3, 1)
	otherCode := key(ICMP, "192.0.2.1", "198.51.100.7", 3, 3)
	require.NotEqual(t, there.CommunityID(), back.CommunityID())
	require.NotEqual(t, there.CommunityID(), otherCode.CommunityID())
}

func TestCommunityIDIsTheSameForBothDirections(t *testing.T) {
	for _, protocol := range []Protocol{TCP, UDP, SCTP, DCCP, UDPLite, 47} {
		for _, addresses := range [][2]string{
			{"192.0.2.1", "198.51.100.7"}, {"192.0.2.1", "192.0.2.1"},
			{"2001:db8::1", "2001:db8::ffff"}, {"::1", "::1"},
		} {
			for _, ports := range [][2]uint16{{40001, 443}, {443, 40001}, {7, 7}} {
				there := key(protocol, addresses[0], addresses[1], ports[0], ports[1])
				back := reverse(there)
				require.Equal(t, there.CommunityID(), back.CommunityID(), "%v", there)
			}
		}
	}
}

// What a later fragment does not have is not zero: it stays out of the hash.
// That holds for the direction of ICMP too, which nothing tells.
func TestCommunityIDOfFragments(t *testing.T) {
	for _, protocol := range []Protocol{TCP, UDP, ICMP} {
		fragment := withoutPorts(protocol, "192.0.2.1", "198.51.100.7")
		fragment.Has = IsFragment
		whole := key(protocol, "192.0.2.1", "198.51.100.7", 0, 0)
		back := reverse(fragment)
		require.NotEqual(t, whole.CommunityID(), fragment.CommunityID(), protocol.String())
		require.Equal(t, back.CommunityID(), fragment.CommunityID(), protocol.String())
	}
	there := withoutPorts(ICMPv6, "2001:db8::1", "2001:db8::2")
	back := reverse(there)
	require.Equal(t, there.CommunityID(), back.CommunityID())
}

// A translated conversation has the identifier of the one that was opened, on
// both sides of the translation and in both directions.
func TestCommunityIDOfNAT(t *testing.T) {
	for _, protocol := range []Protocol{TCP, UDP, SCTP} {
		original := key(protocol, "10.42.0.5", "10.43.0.10", 40001, 53)
		translated := key(protocol, "10.42.0.5", "10.42.1.9", 40001, 8053)
		want := original.CommunityID()
		for name, rec := range map[string]Record{
			"there, before": {Key: original, NAT: &NAT{Other: translated.Tuple(), Original: original.Tuple()}},
			"there, after":  {Key: translated, NAT: &NAT{Other: original.Tuple(), Original: original.Tuple()}},
			"back, before": {Key: reverse(translated), NAT: &NAT{
				Other: original.Tuple().Reverse(), Original: original.Tuple().Reverse(), Reply: true,
			}},
			"back, after": {Key: reverse(original), NAT: &NAT{
				Other: translated.Tuple().Reverse(), Original: original.Tuple().Reverse(), Reply: true,
			}},
			"not translated": {Key: original},
		} {
			before := rec.Key
			require.Equal(t, want, rec.CommunityID(), "%s %s", protocol, name)
			require.Equal(t, before, rec.Key)
		}
		require.NotEqual(t, want, (&Record{Key: translated}).CommunityID())
	}
}

// Request and answer of a translated echo are one conversation too.
func TestCommunityIDOfNATOfICMP(t *testing.T) {
	request, answer := key(ICMP, "10.42.0.5", "10.43.0.10", 8, 0), key(ICMP, "10.43.0.10", "10.42.0.5", 0, 0)
	there := Record{Key: key(ICMP, "10.42.0.5", "10.42.1.9", 8, 0), NAT: &NAT{Original: request.Tuple()}}
	back := Record{Key: key(ICMP, "10.42.1.9", "10.42.0.5", 0, 0), NAT: &NAT{Original: answer.Tuple(), Reply: true}}
	require.Equal(t, request.CommunityID(), there.CommunityID())
	require.Equal(t, request.CommunityID(), back.CommunityID())
}

// Only addresses, protocol and ports make a conversation.
func TestCommunityIDIgnoresWhereItWasSeen(t *testing.T) {
	plain := key(TCP, "192.0.2.1", "198.51.100.7", 40001, 443)
	seen := plain
	seen.Has |= HasVLAN | HasInnerVLAN | HasMPLS
	seen.VLAN, seen.InnerVLAN, seen.MPLSLabel = 5, 6, 7
	seen.InterfaceIndex, seen.Direction, seen.From = 8, Egress, 9
	seen.Tunnel = &Tunnel{Type: VXLAN, ID: 10, HasID: true}
	require.Equal(t, plain.CommunityID(), seen.CommunityID())
}

func BenchmarkCommunityID(b *testing.B) {
	k := key(TCP, "2001:db8::1", "2001:db8::2", 40001, 443)
	b.ReportAllocs()
	for b.Loop() {
		_ = k.CommunityID()
	}
}
