// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// bigNode has a bridge with pods, an uplink and a VXLAN tunnel.
func bigNode(pods int) map[int]Interface {
	const uplink, bridge, tunnel = 1, 2, 3
	all := map[int]Interface{
		uplink: {Index: uplink, Role: RoleUplink},
		bridge: {Index: bridge, Role: RoleBridge, Kind: "bridge"},
		tunnel: {Index: tunnel, Role: RoleTunnel, Tunnel: Tunnel{Type: VXLAN, ID: 1, HasID: true, Port: 8472, Link: uplink}},
	}
	for index := tunnel + 1; index <= tunnel+pods; index++ {
		all[index] = Interface{Index: index, Role: RolePod, Kind: "veth", Master: bridge}
	}
	return all
}

func everything(int) bool { return true }

func ownsObservations() []Observation {
	return []Observation{
		{Interface: 1, Direction: flow.Ingress, From: 1},
		{Interface: 1, Direction: flow.Egress, Tunnel: VXLAN, TunnelID: 1, HasID: true, TunnelPort: 8472},
		{Interface: 1, Direction: flow.Egress, Tunnel: VXLAN, TunnelID: 2, HasID: true, TunnelPort: 8472},
		{Interface: 3, Direction: flow.Egress, From: 2},
		{Interface: 40, Direction: flow.Egress, From: 2},
		{Interface: 4, Direction: flow.Ingress, From: 4},
	}
}

func BenchmarkOwns(b *testing.B) {
	g := NewGraph(bigNode(250), everything, ports, nil)
	observations := ownsObservations()
	owned := 0
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if g.Owns(observations[i%len(observations)]) {
			owned++
		}
	}
	require.Positive(b, owned)
}

func BenchmarkNewGraph(b *testing.B) {
	all := bigNode(1000)
	var g *Graph
	b.ReportAllocs()
	for b.Loop() {
		g = NewGraph(all, everything, ports, g)
	}
	require.Equal(b, RolePod, g.Role(4))
}

func TestOwnsDoesNotAllocate(t *testing.T) {
	g := NewGraph(bigNode(10), everything, ports, nil)
	observations := ownsObservations()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		for _, o := range observations {
			g.Owns(o)
			g.OwnsOuter(o.Interface, o.Direction, o.From)
		}
	}))
}
