// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// matches says what a rule is meant to match, by the types that it is made of.
func matches(rule *FilterRule, key *flow.Key) bool {
	inPorts := func(port uint16) bool { return rule.PortMin <= port && port <= rule.PortMax }
	switch {
	case rule.HasProtocol && rule.Protocol != key.Protocol:
		return false
	case rule.PortMax != 0 && !key.HasTransportPorts():
		return false
	case rule.PortMax != 0 && !inPorts(key.SourcePort) && !inPorts(key.DestinationPort):
		return false
	default:
		return !rule.Network.IsValid() || rule.Network.Contains(key.Source) || rule.Network.Contains(key.Destination)
	}
}

// wanted says what a filter is meant to let through.
func wanted(rules []FilterRule, key *flow.Key) bool {
	includes, included := false, false
	for i := range rules {
		match := matches(&rules[i], key)
		if rules[i].Exclude && match {
			return false
		}
		includes = includes || !rules[i].Exclude
		included = included || !rules[i].Exclude && match
	}
	return included || !includes
}

// run has a program see a frame, on the loopback interface, so many times.
func run(tb testing.TB, prog *ebpf.Program, frame []byte, times uint32) {
	tb.Helper()
	_, err := prog.Run(&ebpf.RunOptions{Data: frame, Repeat: times})
	require.NoError(tb, err)
}

// frameOf is a frame of a flow.
func frameOf(tb testing.TB, key *flow.Key) []byte {
	tb.Helper()
	protocol := layers.IPProtocol(key.Protocol)
	var transport packets.Layer
	switch source, destination := key.SourcePort, key.DestinationPort; {
	case key.Has&flow.HasPorts == 0:
		transport = packets.Payload(0)
	case key.Protocol == flow.TCP:
		transport = &layers.TCP{SrcPort: layers.TCPPort(source), DstPort: layers.TCPPort(destination)}
	case key.Protocol == flow.UDP:
		transport = &layers.UDP{SrcPort: layers.UDPPort(source), DstPort: layers.UDPPort(destination)}
	case key.Protocol == flow.ICMP:
		transport = packets.ICMP(uint8(source), uint8(destination))
	case key.Protocol == flow.ICMPv6:
		transport = packets.ICMPv6(uint8(source), uint8(destination))
	default:
		require.FailNow(tb, "no such frame", "%v", key)
	}
	from, to := net.IP(key.Source.AsSlice()), net.IP(key.Destination.AsSlice())
	fragment := key.Has&flow.IsFragment != 0
	if key.Source.Is4() {
		ip := packets.IPv4(protocol)
		if fragment {
			ip = packets.IPv4Fragment(protocol, 1480, false)
		}
		ip.SrcIP, ip.DstIP = from, to
		return eth4(tb, ip, transport, packets.Payload(20))
	}
	ip := packets.IPv6(protocol)
	ip.SrcIP, ip.DstIP = from, to
	if fragment {
		ip.NextHeader = layers.IPProtocolIPv6Fragment
		return eth6(tb, ip, packets.IPv6Fragment(protocol, 1480, false), transport, packets.Payload(20))
	}
	return eth6(tb, ip, transport, packets.Payload(20))
}

// requireFiltered runs a packet of each flow through the programs and compares
// which are counted, and what the ledger says of the others.
func requireFiltered(t *testing.T, rules []FilterRule, keys []flow.Key) {
	t.Helper()
	opts := defaults()
	opts.Filter = rules
	p := load(t, opts)
	want := map[flow.Key]flow.Volume{}
	var all, filtered flow.Volume
	for i := range keys {
		key := keys[i]
		frame := frameOf(t, &key)
		run(t, p.tc.TcIngress, frame, 1)
		all.Add(volumeOf(frame))
		if !wanted(rules, &key) {
			filtered.Add(volumeOf(frame))
			continue
		}
		key.InterfaceIndex = bpftest.Loopback
		v := want[key]
		v.Add(volumeOf(frame))
		want[key] = v
	}
	require.Equal(t, want, volumes(t, drain(t, p)), "%+v", rules)
	h, err := p.Health()
	require.NoError(t, err)
	ingress := h.Hooks[HookTCIngress]
	require.Equal(t, all, ingress.Seen())
	require.Equal(t, filtered, ingress.Filtered)
	require.Equal(t, HookHealth{}, h.Hooks[HookTCEgress])
}

// keyOf is the key of "source destination" with ports.
func keyOf(addresses string, protocol flow.Protocol, sourcePort, destinationPort uint16) flow.Key {
	source, destination, _ := strings.Cut(addresses, " ")
	return flow.Key{
		Source: netip.MustParseAddr(source), Destination: netip.MustParseAddr(destination),
		SourcePort: sourcePort, DestinationPort: destinationPort, Protocol: protocol, Has: flow.HasPorts,
	}
}

func withoutPorts(key flow.Key, has flow.Has) flow.Key {
	key.SourcePort, key.DestinationPort, key.Has = 0, 0, has
	return key
}

// The rules by their words, each at its bounds.
func TestFilter(t *testing.T) {
	bpftest.RequireBPF(t)
	in := func(network string) FilterRule { return FilterRule{Network: netip.MustParsePrefix(network)} }
	not := func(rule FilterRule) FilterRule { rule.Exclude = true; return rule }
	ports := func(first, last uint16) FilterRule { return FilterRule{PortMin: first, PortMax: last} }
	web := keyOf("10.0.0.1 192.0.2.1", flow.TCP, 40001, 443)
	for _, tt := range []struct {
		name  string
		rules []FilterRule
		key   flow.Key
		want  bool
	}{
		{"no rules", nil, web, true},
		{"source in the network", []FilterRule{in("10.0.0.0/8")}, web, true},
		{"destination in the network", []FilterRule{in("192.0.2.0/24")}, web, true},
		{"neither in the network", []FilterRule{in("10.0.0.2/31")}, web, false},
		{"just the address", []FilterRule{in("10.0.0.1/32")}, web, true},
		{"all of ipv4", []FilterRule{in("0.0.0.0/0")}, web, true},
		{"all of ipv4 is no ipv6", []FilterRule{in("0.0.0.0/0")}, keyOf("2001:db8::1 2001:db8::2", flow.TCP, 1, 2), false},
		{"ipv6 in the network", []FilterRule{in("2001:db8::/33")}, keyOf("2001:db9::1 2001:db8:7fff::2", flow.TCP, 1, 2), true},
		{"ipv6 beside the network", []FilterRule{in("2001:db8::/33")}, keyOf("2001:db9::1 2001:db8:8000::2", flow.TCP, 1, 2), false},
		{"all of ipv6", []FilterRule{in("::/0")}, keyOf("::1 ::2", flow.TCP, 1, 2), true},
		{"all of ipv6 is not ipv4", []FilterRule{in("::/0")}, keyOf("10.0.0.1 10.0.0.2", flow.TCP, 1, 2), false},
		{"just the ipv6 address", []FilterRule{in("::1/128")}, keyOf("::1 ::2", flow.TCP, 1, 2), true},
		{"not just the ipv6 address", []FilterRule{in("::3/128")}, keyOf("::1 ::2", flow.TCP, 1, 2), false},
		{"first port", []FilterRule{ports(443, 500)}, web, true},
		{"last port", []FilterRule{ports(40000, 40001)}, web, true},
		{"before the first port", []FilterRule{ports(444, 40000)}, web, false},
		{"all ports", []FilterRule{ports(1, 65535)}, keyOf("10.0.0.1 10.0.0.2", flow.UDP, 0, 65535), true},
		{"port zero is in no range", []FilterRule{ports(1, 65535)}, keyOf("10.0.0.1 10.0.0.2", flow.UDP, 0, 0), false},
		{"type of icmp is no port", []FilterRule{ports(1, 65535)}, keyOf("10.0.0.1 10.0.0.2", flow.ICMP, 8, 1), false},
		{"type of icmpv6 is no port", []FilterRule{ports(1, 65535)}, keyOf("::1 ::2", flow.ICMPv6, 128, 1), false},
		{"a later fragment has no port", []FilterRule{not(ports(1, 65535))}, withoutPorts(web, flow.IsFragment), true},
		{"a later fragment has addresses", []FilterRule{in("10.0.0.0/8")}, withoutPorts(web, flow.IsFragment), true},
		{"protocol", []FilterRule{{Protocol: flow.TCP, HasProtocol: true}}, web, true},
		{"another protocol", []FilterRule{{Protocol: flow.UDP, HasProtocol: true}}, web, false},
		{"protocol zero is one", []FilterRule{{HasProtocol: true}}, web, false},
		{
			"all that a rule says", []FilterRule{{Network: netip.MustParsePrefix("10.0.0.0/8"), PortMin: 443, PortMax: 443, Protocol: flow.UDP, HasProtocol: true}},
			web, false,
		},
		{"one of two", []FilterRule{ports(80, 80), ports(443, 443)}, web, true},
		{"excluded", []FilterRule{not(ports(443, 443))}, web, false},
		{"not excluded", []FilterRule{not(ports(80, 80))}, web, true},
		{"excluded of what is included", []FilterRule{in("10.0.0.0/8"), not(ports(443, 443))}, web, false},
		{"excluded before it is included", []FilterRule{not(ports(443, 443)), in("10.0.0.0/8")}, web, false},
		{"the last of all rules", append(slicesOf(not(ports(80, 80)), MaxFilterRules-1), not(ports(443, 443))), web, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, wanted(tt.rules, &tt.key), "the test's own idea")
			requireFiltered(t, tt.rules, []flow.Key{tt.key})
		})
	}
}

func slicesOf(rule FilterRule, n int) []FilterRule {
	all := make([]FilterRule, n)
	for i := range all {
		all[i] = rule
	}
	return all
}

// Random rules let just those flows through that they are meant to.
func TestFilterOfRandomFlows(t *testing.T) {
	bpftest.RequireBPF(t)
	counted, all := 0, 0
	for seed := range uint64(25) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		rules := make([]FilterRule, 1+rnd.IntN(1+int(seed)))
		for i := range rules {
			rules[i] = randomRule(rnd)
		}
		keys := make([]flow.Key, 200)
		for i := range keys {
			keys[i] = randomKey(rnd)
			all++
			if wanted(rules, &keys[i]) {
				counted++
			}
		}
		requireFiltered(t, rules, keys)
	}
	require.InDelta(t, all/2, counted, float64(all)/3, "both are to happen often")
	t.Logf("%d of %d were counted", counted, all)
}

func randomAddr(rnd *rand.Rand, ipv6 bool) netip.Addr {
	few := byte(rnd.IntN(4))
	if ipv6 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 4: few, 7: byte(rnd.IntN(4)), 15: few})
	}
	return netip.AddrFrom4([4]byte{10, few, byte(rnd.IntN(4)), 1})
}

func randomRule(rnd *rand.Rand) FilterRule {
	rule := FilterRule{Exclude: rnd.IntN(3) == 0}
	if rnd.IntN(2) == 0 {
		addr := randomAddr(rnd, rnd.IntN(2) == 0)
		rule.Network = netip.PrefixFrom(addr, 1+rnd.IntN(addr.BitLen())).Masked()
	}
	if rnd.IntN(2) == 0 {
		rule.PortMin = uint16(1 + rnd.IntN(5))
		rule.PortMax = rule.PortMin + uint16(rnd.IntN(3))
	}
	if rnd.IntN(3) == 0 {
		rule.Protocol, rule.HasProtocol = randomProtocol(rnd), true
	}
	return rule
}

func randomProtocol(rnd *rand.Rand) flow.Protocol {
	return []flow.Protocol{flow.TCP, flow.UDP, flow.ICMP, flow.ICMPv6, 253}[rnd.IntN(5)]
}

func randomKey(rnd *rand.Rand) flow.Key {
	ipv6 := rnd.IntN(2) == 0
	key := flow.Key{
		Source: randomAddr(rnd, ipv6), Destination: randomAddr(rnd, ipv6),
		SourcePort: uint16(rnd.IntN(8)), DestinationPort: uint16(rnd.IntN(8)),
		Protocol: randomProtocol(rnd), Has: flow.HasPorts,
	}
	switch {
	case rnd.IntN(8) == 0:
		return withoutPorts(key, flow.IsFragment)
	case key.Protocol == 253, key.Protocol == flow.ICMP && ipv6, key.Protocol == flow.ICMPv6 && !ipv6:
		key.Protocol = 253
		return withoutPorts(key, 0)
	default:
		return key
	}
}

// One rule or port more than there is room for is an error, and not left out.
func TestLoadRefusesTooManyOptions(t *testing.T) {
	bpftest.RequireBPF(t)
	ports := make([]uint16, MaxTunnelPorts+1)
	for _, tt := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Filter = slicesOf(FilterRule{HasProtocol: true}, MaxFilterRules+1) }, "a filter of 33 rules: 32 are possible"},
		{func(o *Options) { o.Tunnels.VXLANPorts = ports }, "9 ports of a tunnel: 8 are possible"},
		{func(o *Options) { o.Tunnels.GenevePorts = ports }, "9 ports of a tunnel: 8 are possible"},
	} {
		opts := defaults()
		tt.change(&opts)
		_, err := Load(opts)
		require.ErrorContains(t, err, tt.want)
	}
}

// Of samples, what was counted and what was not is all there was, and what was
// counted stands for about all of it: five standard deviations are left by one
// run in two million.
func TestSampling(t *testing.T) {
	bpftest.RequireBPF(t)
	const sent = 20_000
	for _, flowMap := range []FlowMap{FlowMapShared, FlowMapPerCPU} {
		for _, from := range []uint32{0, 1, 2, 7, 100, math.MaxUint32} {
			t.Run(fmt.Sprintf("%s, one in %d", flowMap, from), func(t *testing.T) {
				opts := defaults()
				opts.FlowMap, opts.Sampling = flowMap, from
				p := load(t, opts)
				frame := udp4(t, packets.SourcePort, 100)
				run(t, p.tc.TcEgress, frame, sent)
				var counted flow.Volume
				for _, v := range volumes(t, drain(t, p)) {
					counted.Add(v)
				}
				h, err := p.Health()
				require.NoError(t, err)
				egress := h.Hooks[HookTCEgress]
				all := flow.Volume{Packets: sent, Bytes: sent * uint64(len(frame))}
				require.Equal(t, all, egress.Seen())
				require.Equal(t, all.Sub(counted), egress.SampledOut)
				require.Equal(t, counted.Packets*uint64(len(frame)), counted.Bytes)
				if from <= 1 {
					require.Equal(t, all, counted)
					return
				}
				share := 1 / float64(from)
				require.InDelta(t, sent*share, counted.Packets, 5*math.Sqrt(sent*share*(1-share)), "%d were counted", counted.Packets)
				t.Logf("%d of %d were counted: %+.2f standard deviations", counted.Packets, sent,
					(float64(counted.Packets)-sent*share)/math.Sqrt(sent*share*(1-share)))
			})
		}
	}
}

// A packet that the filter does not want is not drawn among the samples.
func TestFilterGoesBeforeSampling(t *testing.T) {
	bpftest.RequireBPF(t)
	opts := defaults()
	opts.Sampling = 2
	opts.Filter = []FilterRule{{Protocol: flow.UDP, HasProtocol: true, Exclude: true}}
	p := load(t, opts)
	frame := udp4(t, packets.SourcePort, 100)
	run(t, p.tc.TcIngress, frame, 100)
	h, err := p.Health()
	require.NoError(t, err)
	require.Equal(t, uint64(100), h.Hooks[HookTCIngress].Filtered.Packets)
	require.Equal(t, flow.Volume{}, h.Hooks[HookTCIngress].SampledOut)
}
