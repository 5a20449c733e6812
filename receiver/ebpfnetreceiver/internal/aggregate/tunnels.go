// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"net/netip"
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// TunnelPoint is what the frames of one direction of a tunnel came to since
// Start. One without addresses is of all tunnels of its type that there was no
// room for.
type TunnelPoint struct {
	flow.Tunnel
	Total flow.Volume
	Start time.Time
}

// TunnelEvent says that packets of a tunnel were seen for the first time, or
// none for the idle time. Both directions are one tunnel.
type TunnelEvent struct {
	// Tunnel has the direction that was seen first.
	flow.Tunnel
	Up bool
	At time.Time
}

// Tunnels adds up the frames of tunnels and follows which of them are alive.
type Tunnels struct {
	max  int
	idle time.Duration

	start    time.Time // of the current interval
	totals   map[flow.Tunnel]*tunnelTotal
	networks map[flow.Tunnel]*tunnelTotal // VXLAN, without addresses
	alive    map[flow.Tunnel]*aliveTunnel // by the ordered pair
	events   []TunnelEvent
}

type tunnelTotal struct {
	total flow.Volume
	start time.Time
	used  time.Time
}

type aliveTunnel struct {
	first flow.Tunnel
	last  time.Time
	// event is one more than the index of its event among those that are not
	// handed out yet, which records of the same interval may still correct: they
	// come in no order.
	event int
}

// NewTunnels follows at most so many, each of which is gone after it was idle
// for so long. It begins the first interval at now.
func NewTunnels(limit int, idle time.Duration, now time.Time) *Tunnels {
	return &Tunnels{
		max: limit, idle: idle, start: now,
		totals: map[flow.Tunnel]*tunnelTotal{}, networks: map[flow.Tunnel]*tunnelTotal{},
		alive: map[flow.Tunnel]*aliveTunnel{},
	}
}

// Add adds the frames of a record that was seen in a tunnel.
func (t *Tunnels) Add(rec *flow.Record) {
	tunnel := *rec.Tunnel
	t.see(tunnel, rec.First, rec.Last)
	volume := rec.WireEstimate()
	t.add(t.totals, tunnel, volume)
	if tunnel.Type == flow.VXLAN {
		t.add(t.networks, flow.Tunnel{Type: flow.VXLAN, ID: tunnel.ID, HasID: true}, volume)
	}
}

func (t *Tunnels) add(totals map[flow.Tunnel]*tunnelTotal, key flow.Tunnel, volume flow.Volume) {
	if _, ok := totals[key]; !ok && len(totals) >= t.max {
		key = flow.Tunnel{Type: key.Type}
	}
	s := totals[key]
	if s == nil {
		s = &tunnelTotal{start: t.start}
		totals[key] = s
	}
	s.total.Add(volume)
	s.used = t.start
}

// pair is the tunnel in the direction from the lower to the higher address.
func pair(t flow.Tunnel) flow.Tunnel {
	if t.Source.Compare(t.Destination) > 0 {
		t.Source, t.Destination = t.Destination, t.Source
	}
	return t
}

func (t *Tunnels) see(tunnel flow.Tunnel, first, last time.Time) {
	key := pair(tunnel)
	a := t.alive[key]
	if a == nil {
		if len(t.alive) >= t.max {
			return
		}
		t.events = append(t.events, TunnelEvent{Tunnel: tunnel, Up: true, At: first})
		a = &aliveTunnel{first: tunnel, event: len(t.events)}
		t.alive[key] = a
	} else if a.event > 0 && first.Before(t.events[a.event-1].At) {
		a.first = tunnel
		t.events[a.event-1].Tunnel, t.events[a.event-1].At = tunnel, first
	}
	if last.After(a.last) {
		a.last = last
	}
}

// Active is how many pairs of VXLAN end points are alive, whatever their identifiers.
func (t *Tunnels) Active() int {
	pairs := map[[2]netip.Addr]bool{}
	for key := range t.alive {
		if key.Type == flow.VXLAN {
			pairs[[2]netip.Addr{key.Source, key.Destination}] = true
		}
	}
	return len(pairs)
}

// Events hands out what happened since it was last called, after it has looked
// which tunnels are gone.
func (t *Tunnels) Events(now time.Time) []TunnelEvent {
	for key, a := range t.alive {
		if now.Sub(a.last) > t.idle {
			t.events = append(t.events, TunnelEvent{Tunnel: a.first, At: a.last.Add(t.idle)})
			delete(t.alive, key)
		}
	}
	for _, e := range t.events {
		if a := t.alive[pair(e.Tunnel)]; a != nil {
			a.event = 0
		}
	}
	events := t.events
	t.events = nil
	return events
}

// Collect ends the interval at now and hands out all totals, by tunnel and, of
// VXLAN, by identifier alone. Those of which nothing came for long are forgotten,
// and sooner where there is no more room; they begin anew, at a new start, if
// something does.
func (t *Tunnels) Collect(now time.Time) (tunnels, networks []TunnelPoint) {
	tunnels, networks = t.points(t.totals, now), t.points(t.networks, now)
	t.start = now
	return tunnels, networks
}

func (t *Tunnels) points(totals map[flow.Tunnel]*tunnelTotal, now time.Time) []TunnelPoint {
	keep := keepGone
	if len(totals) >= t.max {
		keep = t.idle // those that are gone make room for those that come
	}
	out := make([]TunnelPoint, 0, len(totals))
	for key, s := range totals {
		if s.used != t.start && now.Sub(s.used) > keep {
			delete(totals, key)
			continue
		}
		out = append(out, TunnelPoint{Tunnel: key, Total: s.total, Start: s.start})
	}
	return out
}
