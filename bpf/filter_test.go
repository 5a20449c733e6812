// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
)

type rulePart func(*bpf.TCFilterRule)

// include and exclude are rules that say all of their parts at once.
func include(parts ...rulePart) bpf.TCFilterRule {
	var r bpf.TCFilterRule
	for _, part := range parts {
		part(&r)
	}
	return r
}

func exclude(parts ...rulePart) bpf.TCFilterRule {
	r := include(parts...)
	r.Exclude = 1
	return r
}

// network is that of an address with so many bits.
func network(cidr string) rulePart {
	prefix := netip.MustParsePrefix(cidr)
	bits := prefix.Bits()
	if prefix.Addr().Is4() {
		bits += 96 // behind ::ffff:
	}
	address := prefix.Addr().As16()
	var mask [16]byte
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return func(r *bpf.TCFilterRule) {
		r.IpVersion = 6
		if prefix.Addr().Is4() {
			r.IpVersion = 4
		}
		for i := range r.Mask {
			r.Mask[i] = binary.NativeEndian.Uint32(mask[4*i:])
			r.Network[i] = binary.NativeEndian.Uint32(address[4*i:]) & r.Mask[i]
		}
	}
}

func portsFrom(first, last uint16) rulePart {
	return func(r *bpf.TCFilterRule) { r.PortMin, r.PortMax = first, last }
}

func protocol(p layers.IPProtocol) rulePart {
	return func(r *bpf.TCFilterRule) { r.Protocol, r.HasProtocol = uint8(p), 1 }
}

// filterCases are one packet of each kind that rules can tell from others.
func filterCases(tb testing.TB) []packetCase {
	tb.Helper()
	named := func(name string, c packetCase) packetCase {
		c.name = name
		return c
	}
	return []packetCase{
		{name: "tcp4", frame: eth4(tb, tcp4(5)...), flow: v4(protoTCP, ports), flags: tcpACK},
		{name: "udp6", frame: eth6(tb, udp6(5)...), flow: v6(protoUDP, ports)},
		{
			name: "icmp", frame: eth4(tb, packets.IPv4(layers.IPProtocolICMPv4), packets.ICMP(8, 4), packets.Payload(3)),
			flow: v4(layers.IPProtocolICMPv4, typeAndCode(8, 4)),
		},
		{
			name: "icmpv6", frame: eth6(tb, packets.IPv6(layers.IPProtocolICMPv6), packets.ICMPv6(8, 4), packets.Payload(3)),
			flow: v6(layers.IPProtocolICMPv6, typeAndCode(8, 4)),
		},
		{
			name: "fragment", frame: eth4(tb, packets.IPv4Fragment(protoUDP, 1480, false), packets.Payload(7)),
			flow: v4(protoUDP, fragment),
		},
		{
			name: "hop-by-hop", outcome: malformed, flow: v6(hopByHop),
			frame: packets.Patch16(eth6(tb, packets.IPv6(hopByHop), packets.Options(protoTCP, 8), packets.Payload(9)), ipv6Payload, 7),
		},
		named("in vxlan", frame4().in(tb, vxlan4())),
		named("in ipip", packet6().in(tb, inIP4("", protoIPv6, over4(kindIPIP), 0))),
		named("arp in vxlan", noFlow(tb, vxlan4(), "", packets.InnerEthernet(typeARP), packets.Payload(28))),
	}
}

// A packet is in a flow where a rule includes it, or none includes, and no rule
// excludes it; else it is counted as filtered. What is opened as a tunnel's is
// judged by what is in the tunnel.
func TestFilter(t *testing.T) {
	bpftest.RequireBPF(t)
	all := []string{"tcp4", "udp6", "icmp", "icmpv6", "fragment", "hop-by-hop", "in vxlan", "in ipip", "arp in vxlan"}
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(names, name) })
	}
	outer4 := []string{"tcp4", "icmp", "fragment", "arp in vxlan"}
	outer6 := []string{"udp6", "icmpv6", "hop-by-hop"}
	other := exclude(network("203.0.113.0/24"))

	for _, tc := range []struct {
		name   string
		rules  []bpf.TCFilterRule
		wanted []string
	}{
		{"no rules", nil, all},
		{"all", []bpf.TCFilterRule{include()}, all},
		{"nothing", []bpf.TCFilterRule{exclude()}, nil},
		{"source address", []bpf.TCFilterRule{include(network("192.0.2.1/32"))}, outer4},
		{"destination address", []bpf.TCFilterRule{include(network("198.51.100.7/32"))}, outer4},
		{"neighbour of an address", []bpf.TCFilterRule{include(network("198.51.100.6/32"))}, nil},
		{"31 bits", []bpf.TCFilterRule{include(network("198.51.100.6/31"))}, outer4},
		{"a network", []bpf.TCFilterRule{include(network("192.0.2.0/25"))}, outer4},
		{"a rule with bits of the host", []bpf.TCFilterRule{include(network("192.0.2.77/25"))}, outer4},
		{"the other half of a network", []bpf.TCFilterRule{include(network("192.0.2.128/25"))}, nil},
		{"all of ipv4", []bpf.TCFilterRule{include(network("0.0.0.0/0"))}, append([]string{"in vxlan"}, outer4...)},
		{"all of ipv6", []bpf.TCFilterRule{include(network("::/0"))}, without(append([]string{"in vxlan"}, outer4...)...)},
		{"2000::/3", []bpf.TCFilterRule{include(network("2000::/3"))}, append([]string{"in ipip"}, outer6...)},
		{"ipv6 of 47 bits", []bpf.TCFilterRule{include(network("2001:db8:9f8e::/47"))}, outer6},
		{"ipv6 of 65 bits", []bpf.TCFilterRule{include(network("2001:db8:a1b2:c3d4:8000::/65"))}, outer6},
		{"the other 65 bits", []bpf.TCFilterRule{include(network("2001:db8:a1b2:c3d4::/65"))}, nil},
		{"an ipv6 address", []bpf.TCFilterRule{include(network("2001:db8:9f8e:7d6c:5b4a:3928:1706:f5e4/128"))}, outer6},
		{"its neighbour", []bpf.TCFilterRule{include(network("2001:db8:9f8e:7d6c:5b4a:3928:1706:f5e5/128"))}, nil},
		{"the address in a tunnel", []bpf.TCFilterRule{include(network("10.0.0.0/8"))}, []string{"in vxlan"}},
		{"not the address in a tunnel", []bpf.TCFilterRule{exclude(network("10.32.54.76/32"))}, without("in vxlan")},
		{
			"the destination port", []bpf.TCFilterRule{include(portsFrom(443, 443))},
			[]string{"tcp4", "udp6", "in vxlan", "in ipip"},
		},
		{
			"the source port", []bpf.TCFilterRule{include(portsFrom(40001, 40001))},
			[]string{"tcp4", "udp6", "in vxlan", "in ipip"},
		},
		{"ports that end before", []bpf.TCFilterRule{include(portsFrom(1, 442))}, nil},
		{"ports that begin behind", []bpf.TCFilterRule{include(portsFrom(444, 4788))}, nil},
		{
			"ports around", []bpf.TCFilterRule{include(portsFrom(400, 500))},
			[]string{"tcp4", "udp6", "in vxlan", "in ipip"},
		},
		// a type of ICMP is no port, and a fragment has none
		{
			"all ports", []bpf.TCFilterRule{include(portsFrom(0, 65535))},
			[]string{"tcp4", "udp6", "in vxlan", "in ipip", "arp in vxlan"},
		},
		{"the ports 8 and 4", []bpf.TCFilterRule{include(portsFrom(4, 8))}, nil},
		{"a tunnel's port", []bpf.TCFilterRule{exclude(portsFrom(4789, 4789))}, without("arp in vxlan")},
		{
			"a protocol", []bpf.TCFilterRule{include(protocol(protoTCP))},
			[]string{"tcp4", "in vxlan", "in ipip"},
		},
		{"protocol 0", []bpf.TCFilterRule{include(protocol(0))}, []string{"hop-by-hop"}},
		{"all but a protocol", []bpf.TCFilterRule{exclude(protocol(protoUDP))}, without("udp6", "fragment", "arp in vxlan")},
		{
			"an address and a port", []bpf.TCFilterRule{include(network("192.0.2.0/24"), portsFrom(443, 443))},
			[]string{"tcp4"},
		},
		{
			"a protocol and a port", []bpf.TCFilterRule{include(protocol(protoUDP), portsFrom(443, 443))},
			[]string{"udp6"},
		},
		{
			"a protocol and an address", []bpf.TCFilterRule{exclude(protocol(protoUDP), network("192.0.2.0/24"))},
			without("fragment", "arp in vxlan"),
		},
		{"either of two", []bpf.TCFilterRule{include(protocol(0)), include(network("10.0.0.0/8"))}, []string{"hop-by-hop", "in vxlan"}},
		// in either order
		{
			"one and not the other", []bpf.TCFilterRule{include(protocol(protoTCP)), exclude(network("10.0.0.0/8"))},
			[]string{"tcp4", "in ipip"},
		},
		{
			"not the one, but the other", []bpf.TCFilterRule{exclude(network("10.0.0.0/8")), include(protocol(protoTCP))},
			[]string{"tcp4", "in ipip"},
		},
		{
			"the last of as many as there can be",
			append(slices.Repeat([]bpf.TCFilterRule{other}, 31), exclude(protocol(protoTCP))),
			without("tcp4", "in vxlan", "in ipip"),
		},
		{
			"included by the last",
			append(slices.Repeat([]bpf.TCFilterRule{other}, 31), include(protocol(protoTCP))),
			[]string{"tcp4", "in vxlan", "in ipip"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel() // what takes the time is loading the programs anew
			r := bpftest.New(t, bpftest.Options{Filter: tc.rules})
			for _, prog := range classifiers(r) {
				for _, c := range filterCases(t) {
					before := r.Ledger(t, prog.hook())
					res := r.RunTC(t, prog.prog, c.frame, nil)
					volume := bpf.TCVolume{Packets: 1, Bytes: uint64(len(c.frame))}
					assert.Equal(t, volume, res.Interface, "%s at %s", c.name, prog.name)
					assert.Equal(t, c.outcome, res.Outcome, "%s at %s", c.name, prog.name)
					if slices.Contains(tc.wanted, c.name) {
						assert.Equal(t, c.wantFlows(prog), withoutTimes(res.Flows), "%s at %s", c.name, prog.name)
					} else {
						assert.Empty(t, res.Flows, "%s at %s", c.name, prog.name)
						before.Filtered = plus(before.Filtered, volume)
					}
					assert.Equal(t, before, r.Ledger(t, prog.hook()), "%s at %s", c.name, prog.name)
				}
			}
		})
	}
}

func plus(a, b bpf.TCVolume) bpf.TCVolume {
	return bpf.TCVolume{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes}
}

func (c *classifier) hook() bpf.TCHook {
	if c.egress {
		return bpf.TCHookHOOK_TC_EGRESS
	}
	return bpf.TCHookHOOK_TC_INGRESS
}

// What sampling leaves out is counted to the packet, and is as much as it says.
// The interface is counted whole.
func TestSampling(t *testing.T) {
	const steps, packetsAStep = 100, 2000
	bpftest.RequireBPF(t)
	for _, oneIn := range []uint32{1, 2, 10, 1000} {
		r := bpftest.New(t, bpftest.Options{Sampling: oneIn})
		c := frame4().in(t, vxlan4())
		for range steps {
			ret, err := r.TC.TcEgress.Run(&ebpf.RunOptions{Data: c.frame, Repeat: packetsAStep})
			require.NoError(t, err)
			require.Equal(t, tcUnspec, ret)
		}
		// more where a signal made the kernel begin a step anew
		all := r.Interface(t, bpf.TCDirectionDIRECTION_EGRESS)
		require.GreaterOrEqual(t, all.Packets, uint64(steps*packetsAStep))
		require.Equal(t, all.Packets*uint64(len(c.frame)), all.Bytes)

		flows := r.Flows(t)
		require.Len(t, flows, 1)
		stats := flows[0].Stats
		counted := bpf.TCVolume{Packets: stats.Packets, Bytes: stats.Bytes}
		out := r.Ledger(t, bpf.TCHookHOOK_TC_EGRESS).SampledOut
		require.Equal(t, all, plus(counted, out), "1 in %d", oneIn)
		require.Equal(t, counted.Packets*uint64(c.tunnel.off), stats.TunnelBytes)
		require.Equal(t, bpf.TCLedger{SampledOut: out}, r.Ledger(t, bpf.TCHookHOOK_TC_EGRESS))

		p := 1 / float64(oneIn)
		mean := float64(all.Packets) * p
		sigma := math.Sqrt(mean * (1 - p))
		require.InDelta(t, mean, float64(counted.Packets), 5*sigma, "1 in %d", oneIn)
		t.Logf("1 in %d: %d of %d counted, %+.2f sigma", oneIn, counted.Packets, all.Packets,
			(float64(counted.Packets)-mean)/max(sigma, 1))
	}
}
