// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

func TestTupleOf(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, tt := range []struct {
		name                string
		protocol            flow.Protocol
		source, destination uint16 // of the flow
		has                 flow.Has
		want                [2]uint16
		no                  bool
	}{
		{name: "tcp", protocol: flow.TCP, source: 40000, destination: 80, has: flow.HasPorts, want: [2]uint16{40000, 80}},
		{name: "tagged udp", protocol: flow.UDP, source: 7, destination: 53, has: flow.HasPorts | flow.HasVLAN, want: [2]uint16{7, 53}},
		{name: "sctp", protocol: flow.SCTP, source: 1, destination: 2, has: flow.HasPorts, want: [2]uint16{1, 2}},
		{name: "later fragment", protocol: flow.UDP, has: flow.IsFragment, no: true},
		{name: "later fragment of icmp", protocol: flow.ICMP, has: flow.IsFragment, no: true},
		{name: "gre", protocol: 47},
		{name: "esp", protocol: 50},
		{name: "echo request", protocol: flow.ICMP, source: 8, has: flow.HasPorts, want: [2]uint16{0, 8}},
		{name: "echo reply", protocol: flow.ICMP, source: 0, has: flow.HasPorts, want: [2]uint16{8, 0}},
		{name: "timestamp reply", protocol: flow.ICMP, source: 14, has: flow.HasPorts, want: [2]uint16{13, 0}},
		{name: "port unreachable", protocol: flow.ICMP, source: 3, destination: 3, has: flow.HasPorts, no: true},
		{name: "time exceeded", protocol: flow.ICMP, source: 11, has: flow.HasPorts, no: true},
		{name: "icmpv6 echo request", protocol: flow.ICMPv6, source: 128, has: flow.HasPorts, want: [2]uint16{0, 128}},
		{name: "icmpv6 echo reply", protocol: flow.ICMPv6, source: 129, has: flow.HasPorts, want: [2]uint16{128, 0}},
		{name: "icmpv6 type of icmp", protocol: flow.ICMPv6, source: 8, has: flow.HasPorts, no: true},
		{name: "neighbour solicitation", protocol: flow.ICMPv6, source: 135, has: flow.HasPorts, no: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := TupleOf(&flow.Key{
				Source: a, Destination: b, SourcePort: tt.source, DestinationPort: tt.destination,
				Protocol: tt.protocol, Has: tt.has,
			})
			require.Equal(t, !tt.no, ok)
			if tt.no {
				require.Zero(t, got)
				return
			}
			require.Equal(t, Tuple{
				Source: a, Destination: b, SourcePort: tt.want[0], DestinationPort: tt.want[1], Protocol: tt.protocol,
			}, got)
			require.Equal(t, got, got.Reverse().Reverse())
		})
	}
}

func TestKeyOfATuple(t *testing.T) {
	for _, want := range []Tuple{
		tcp("192.0.2.1:1", "192.0.2.2:2"),
		tcp("[2001:db8::1]:1", "[2001:db8::2]:2"),
		tcp("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2"),
	} {
		k, ok := want.key()
		require.True(t, ok)
		require.Equal(t, want, k.tuple())
		reverse := k.reverse()
		require.Equal(t, want.Reverse(), reverse.tuple())
		require.Equal(t, k.canonical(), reverse.canonical())
	}
	four, ok := (&Tuple{Source: netip.MustParseAddr("192.0.2.1"), Destination: netip.MustParseAddr("192.0.2.2")}).key()
	require.True(t, ok)
	mapped, ok := (&Tuple{Source: netip.MustParseAddr("::ffff:192.0.2.1"), Destination: netip.MustParseAddr("::ffff:192.0.2.2")}).key()
	require.True(t, ok)
	require.NotEqual(t, four, mapped)

	for name, bad := range map[string]Tuple{
		"empty":          {},
		"no destination": {Source: netip.MustParseAddr("192.0.2.1")},
		"two families":   {Source: netip.MustParseAddr("192.0.2.1"), Destination: netip.MustParseAddr("::1")},
	} {
		_, ok := bad.key()
		require.False(t, ok, name)
	}
}
