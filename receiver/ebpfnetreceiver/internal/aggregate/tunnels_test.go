// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

const idle = time.Minute

// The end points order as their names do.
var (
	vtep1 = netip.MustParseAddr("192.0.2.1")
	vtep2 = netip.MustParseAddr("192.0.2.2")
	vtep3 = netip.MustParseAddr("192.0.2.3")
)

func vxlan(source, destination netip.Addr, id uint32) flow.Tunnel {
	return flow.Tunnel{Type: flow.VXLAN, Source: source, Destination: destination, ID: id, HasID: true}
}

// network is all of a VXLAN identifier.
func network(id uint32) flow.Tunnel {
	return flow.Tunnel{Type: flow.VXLAN, ID: id, HasID: true}
}

// tunnelled has so many packets of ten bytes on the wire, the last one at a
// second after the beginning.
func tunnelled(tunnel flow.Tunnel, packets uint64, last int) flow.Record {
	rec := record(client, server, 40001, 443, packets)
	rec.Bytes, rec.WireBytes = packets, 10*packets // what is inside is less
	rec.Tunnel, rec.First, rec.Last = &tunnel, at(last-1), at(last)
	return rec
}

func addTunnelled(tu *Tunnels, records ...flow.Record) {
	for i := range records {
		tu.Add(&records[i])
	}
}

func tunnelPoint(tunnel flow.Tunnel, packets uint64, start int) TunnelPoint {
	return TunnelPoint{Tunnel: tunnel, Total: volume(packets), Start: at(start)}
}

// Totals of each direction and of each network stand on from their start, which
// is the beginning of the interval that they first came in.
func TestTunnelsAddUp(t *testing.T) {
	tu := NewTunnels(10, idle, at(0))
	tunnels, networks := tu.Collect(at(5))
	require.Empty(t, tunnels)
	require.Empty(t, networks)

	there, back, other := vxlan(vtep1, vtep2, 7), vxlan(vtep2, vtep1, 7), vxlan(vtep1, vtep3, 7)
	addTunnelled(tu, tunnelled(there, 1, 6), tunnelled(back, 2, 7), tunnelled(there, 4, 8))
	tunnels, networks = tu.Collect(at(10))
	require.ElementsMatch(t, []TunnelPoint{tunnelPoint(there, 5, 5), tunnelPoint(back, 2, 5)}, tunnels)
	require.Equal(t, []TunnelPoint{tunnelPoint(network(7), 7, 5)}, networks)

	addTunnelled(tu, tunnelled(other, 8, 11), tunnelled(there, 16, 12))
	tunnels, networks = tu.Collect(at(15))
	require.ElementsMatch(t, []TunnelPoint{
		tunnelPoint(there, 21, 5), tunnelPoint(back, 2, 5), tunnelPoint(other, 8, 10),
	}, tunnels, "also those that are idle")
	require.Equal(t, []TunnelPoint{tunnelPoint(network(7), 31, 5)}, networks)
}

// Networks are VXLAN's; identifiers of other tunnels are none.
func TestTunnelsOfOtherTypes(t *testing.T) {
	tu := NewTunnels(10, idle, at(0))
	geneve, gre := vxlan(vtep1, vtep2, 7), flow.Tunnel{Type: flow.GRE, Source: vtep1, Destination: vtep2}
	geneve.Type = flow.Geneve
	addTunnelled(tu, tunnelled(geneve, 1, 1), tunnelled(gre, 2, 1), tunnelled(vxlan(vtep1, vtep2, 0), 4, 1))
	tunnels, networks := tu.Collect(at(5))
	require.ElementsMatch(t, []TunnelPoint{
		tunnelPoint(geneve, 1, 0), tunnelPoint(gre, 2, 0), tunnelPoint(vxlan(vtep1, vtep2, 0), 4, 0),
	}, tunnels)
	require.Equal(t, []TunnelPoint{tunnelPoint(network(0), 4, 0)}, networks, "zero is one")
}

// Each counted packet stands for others that were not.
func TestTunnelsOfSamples(t *testing.T) {
	tu := NewTunnels(10, idle, at(0))
	rec := tunnelled(vxlan(vtep1, vtep2, 7), 3, 1)
	rec.SampledFrom = 100
	tu.Add(&rec)
	tunnels, networks := tu.Collect(at(5))
	require.Equal(t, []TunnelPoint{tunnelPoint(vxlan(vtep1, vtep2, 7), 300, 0)}, tunnels)
	require.Equal(t, []TunnelPoint{tunnelPoint(network(7), 300, 0)}, networks)
}

// What there is no room for goes to a series of its type without addresses.
func TestTunnelsAreBounded(t *testing.T) {
	tu := NewTunnels(2, idle, at(0))
	gre := flow.Tunnel{Type: flow.GRE, Source: vtep1, Destination: vtep2, ID: 9, HasID: true}
	addTunnelled(tu,
		tunnelled(vxlan(vtep1, vtep2, 1), 1, 1),
		tunnelled(vxlan(vtep2, vtep1, 1), 2, 1),
		tunnelled(vxlan(vtep1, vtep3, 2), 4, 1), // over it from here on
		tunnelled(vxlan(vtep1, vtep3, 3), 8, 1),
		tunnelled(gre, 16, 1),
		tunnelled(vxlan(vtep1, vtep2, 1), 32, 1), // has its place
	)
	tunnels, networks := tu.Collect(at(5))
	require.ElementsMatch(t, []TunnelPoint{
		tunnelPoint(vxlan(vtep1, vtep2, 1), 33, 0),
		tunnelPoint(vxlan(vtep2, vtep1, 1), 2, 0),
		tunnelPoint(flow.Tunnel{Type: flow.VXLAN}, 12, 0),
		tunnelPoint(flow.Tunnel{Type: flow.GRE}, 16, 0),
	}, tunnels)
	require.ElementsMatch(t, []TunnelPoint{
		tunnelPoint(network(1), 35, 0), tunnelPoint(network(2), 4, 0), tunnelPoint(flow.Tunnel{Type: flow.VXLAN}, 8, 0),
	}, networks)
	// 2 is a pair of its own, and there is room for one more
	require.Equal(t, 2, tu.Active())
}

// Those of which nothing came for long are forgotten, and begin anew at another
// start.
func TestTunnelsAreForgotten(t *testing.T) {
	tu := NewTunnels(1, idle, at(0))
	first, second := vxlan(vtep1, vtep2, 1), vxlan(vtep1, vtep3, 2)
	addTunnelled(tu, tunnelled(first, 1, 1))
	tunnels, _ := tu.Collect(began.Add(keepGone))
	require.Equal(t, []TunnelPoint{tunnelPoint(first, 1, 0)}, tunnels)

	tunnels, networks := tu.Collect(began.Add(keepGone + time.Second))
	require.Empty(t, tunnels)
	require.Empty(t, networks)
	addTunnelled(tu, tunnelled(second, 2, 1), tunnelled(first, 4, 1))
	tunnels, networks = tu.Collect(began.Add(keepGone + 2*time.Second))
	start := began.Add(keepGone + time.Second)
	require.ElementsMatch(t, []TunnelPoint{
		{Tunnel: second, Total: volume(2), Start: start},
		{Tunnel: flow.Tunnel{Type: flow.VXLAN}, Total: volume(4), Start: start},
	}, tunnels, "the place is free")
	require.ElementsMatch(t, []TunnelPoint{
		{Tunnel: network(2), Total: volume(2), Start: start},
		{Tunnel: flow.Tunnel{Type: flow.VXLAN}, Total: volume(4), Start: start},
	}, networks)

	// One that is used stays, whatever its age.
	for now := 2 * keepGone; now < 6*keepGone; now += keepGone {
		addTunnelled(tu, tunnelled(second, 2, 1))
		tunnels, _ = tu.Collect(began.Add(now))
		require.Contains(t, startsOf(tunnels), start)
	}
}

func startsOf(points []TunnelPoint) []time.Time {
	var all []time.Time
	for _, p := range points {
		all = append(all, p.Start)
	}
	return all
}

// A tunnel comes up with its first packet, whatever direction that had, and goes
// once, when both directions were idle for long enough.
func TestTunnelEvents(t *testing.T) {
	tu := NewTunnels(10, idle, at(0))
	first, back := vxlan(vtep2, vtep1, 7), vxlan(vtep1, vtep2, 7)
	require.Empty(t, tu.Events(at(0)))
	require.Equal(t, 0, tu.Active())

	addTunnelled(tu, tunnelled(first, 1, 10), tunnelled(back, 1, 12), tunnelled(first, 1, 11))
	require.Equal(t, []TunnelEvent{{Tunnel: first, Up: true, At: at(9)}}, tu.Events(at(15)), "at its first packet")
	require.Equal(t, 1, tu.Active())
	require.Empty(t, tu.Events(at(20)))

	addTunnelled(tu, tunnelled(back, 1, 40))
	require.Empty(t, tu.Events(at(40).Add(idle)), "one direction is enough")
	require.Equal(t, 1, tu.Active())
	require.Equal(t, []TunnelEvent{{Tunnel: first, At: at(40).Add(idle)}}, tu.Events(at(41).Add(idle)))
	require.Equal(t, 0, tu.Active())
	require.Empty(t, tu.Events(at(41).Add(2*idle)))

	addTunnelled(tu, tunnelled(back, 1, 500))
	require.Equal(t, []TunnelEvent{{Tunnel: back, Up: true, At: at(499)}}, tu.Events(at(500)), "it is up again, as it was seen now")
	require.Equal(t, 1, tu.Active())
}

// Records of an interval come in no order: the event is of the earliest.
func TestTunnelEventsAreOfTheFirstPacket(t *testing.T) {
	tu := NewTunnels(10, idle, at(0))
	first, back := vxlan(vtep2, vtep1, 7), vxlan(vtep1, vtep2, 7)
	addTunnelled(tu, tunnelled(back, 1, 12), tunnelled(first, 1, 10), tunnelled(back, 1, 11))
	require.Equal(t, []TunnelEvent{{Tunnel: first, Up: true, At: at(9)}}, tu.Events(at(15)))
	addTunnelled(tu, tunnelled(back, 1, 5))
	require.Empty(t, tu.Events(at(15)), "what was handed out stays")
	require.Equal(t, []TunnelEvent{{Tunnel: first, At: at(12).Add(idle)}}, tu.Events(at(20).Add(idle)))
}

// Each identifier, each type and each pair of end points is a tunnel of its own,
// and the pairs of VXLAN are counted.
func TestTunnelsActiveArePairsOfVXLAN(t *testing.T) {
	tu := NewTunnels(100, idle, at(0))
	geneve := vxlan(vtep1, vtep2, 7)
	geneve.Type = flow.Geneve
	addTunnelled(tu,
		tunnelled(vxlan(vtep1, vtep2, 7), 1, 1), tunnelled(vxlan(vtep2, vtep1, 7), 1, 1),
		tunnelled(vxlan(vtep1, vtep2, 8), 1, 1), tunnelled(vxlan(vtep2, vtep1, 9), 1, 30),
		tunnelled(vxlan(vtep3, vtep1, 7), 1, 1),
		tunnelled(geneve, 1, 1),
		tunnelled(flow.Tunnel{Type: flow.IPIP, Source: vtep2, Destination: vtep3}, 1, 1),
	)
	require.Equal(t, 2, tu.Active())
	require.Len(t, tu.Events(at(5)), 6)
	// the pair lives for as long as one of its networks does
	require.Len(t, tu.Events(at(2).Add(idle)), 5)
	require.Equal(t, 1, tu.Active())
	require.Len(t, tu.Events(at(31).Add(idle)), 1)
	require.Equal(t, 0, tu.Active())
}

// Those that are followed are bounded too; one that found no room comes up when
// there is some.
func TestTunnelEventsAreBounded(t *testing.T) {
	tu := NewTunnels(1, idle, at(0))
	first, second := vxlan(vtep1, vtep2, 1), vxlan(vtep1, vtep3, 1)
	addTunnelled(tu, tunnelled(first, 1, 10), tunnelled(second, 1, 11))
	require.Equal(t, []TunnelEvent{{Tunnel: first, Up: true, At: at(9)}}, tu.Events(at(15)))
	require.Equal(t, []TunnelEvent{{Tunnel: first, At: at(10).Add(idle)}}, tu.Events(at(11).Add(idle)))
	addTunnelled(tu, tunnelled(second, 1, 100))
	require.Equal(t, []TunnelEvent{{Tunnel: second, Up: true, At: at(99)}}, tu.Events(at(101)))
}

// Over random tunnels: totals have all that came in, points go forward only, and
// ups and downs of a tunnel take turns.
func TestTunnelsLoseNothing(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		tu := NewTunnels(1+rnd.IntN(30), idle, at(0))
		var in, out, ofVXLAN, outOfVXLAN flow.Volume
		last, lastOfVXLAN := map[flow.Tunnel]TunnelPoint{}, map[flow.Tunnel]TunnelPoint{}
		up := map[flow.Tunnel]bool{}
		now := 0
		for range 200 {
			for range rnd.IntN(20) {
				rec := tunnelled(randomTunnel(rnd), 1+rnd.Uint64N(100), now+1)
				in.Add(rec.WireVolume())
				if rec.Tunnel.Type == flow.VXLAN {
					ofVXLAN.Add(rec.WireVolume())
				}
				tu.Add(&rec)
			}
			now += 1 + rnd.IntN(8) // so that many are idle, and some forgotten for want of room
			tunnels, networks := tu.Collect(at(now))
			out.Add(gainedBy(t, last, tunnels, now))
			outOfVXLAN.Add(gainedBy(t, lastOfVXLAN, networks, now))
			require.Equal(t, in, out, "seed %d", seed)
			require.Equal(t, ofVXLAN, outOfVXLAN, "seed %d", seed)
			events := tu.Events(at(now))
			slices.SortStableFunc(events, func(a, b TunnelEvent) int { return cmp.Compare(a.At.UnixNano(), b.At.UnixNano()) })
			for _, e := range events {
				require.NotEqual(t, up[pair(e.Tunnel)], e.Up, "seed %d", seed)
				up[pair(e.Tunnel)] = e.Up
				require.False(t, e.At.After(at(now)))
			}
		}
	}
}

// gainedBy is what points gained since the last ones, as who reads them sees it:
// a later start begins at zero.
func gainedBy(t *testing.T, last map[flow.Tunnel]TunnelPoint, points []TunnelPoint, now int) flow.Volume {
	t.Helper()
	var sum flow.Volume
	for _, p := range points {
		before, ok := last[p.Tunnel]
		switch {
		case ok && p.Start.Equal(before.Start):
			require.GreaterOrEqual(t, p.Total.Packets, before.Total.Packets)
			sum.Add(p.Total.Sub(before.Total))
		default:
			require.True(t, !ok || p.Start.After(before.Start))
			sum.Add(p.Total)
		}
		require.True(t, p.Start.Before(at(now)))
		last[p.Tunnel] = p
	}
	return sum
}

// A table that is full lets go of what is idle, for what comes.
func TestTunnelsThatAreIdleMakeRoom(t *testing.T) {
	tu := NewTunnels(1, idle, at(0))
	first, second := vxlan(vtep1, vtep2, 1), vxlan(vtep1, vtep3, 2)
	addTunnelled(tu, tunnelled(first, 1, 1))
	tu.Collect(at(0).Add(idle))
	tunnels, _ := tu.Collect(at(0).Add(2*idle + time.Second))
	require.Empty(t, tunnels)
	addTunnelled(tu, tunnelled(second, 2, 1))
	tunnels, _ = tu.Collect(at(0).Add(2*idle + 2*time.Second))
	require.Equal(t, []TunnelPoint{{Tunnel: second, Total: volume(2), Start: at(0).Add(2*idle + time.Second)}}, tunnels)
}

func randomTunnel(rnd *rand.Rand) flow.Tunnel {
	ends := []netip.Addr{vtep1, vtep2, vtep3}
	from := rnd.IntN(3)
	tunnel := vxlan(ends[from], ends[(from+1+rnd.IntN(2))%3], rnd.Uint32N(4))
	if rnd.IntN(3) == 0 {
		tunnel.Type = flow.TunnelType(1 + rnd.IntN(flow.TunnelTypes-1))
	}
	if tunnel.Type == flow.IPIP {
		tunnel.ID, tunnel.HasID = 0, false
	}
	return tunnel
}
