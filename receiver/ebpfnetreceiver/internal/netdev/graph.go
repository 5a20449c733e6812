// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"maps"
	"slices"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// Graph says which of a packet's sightings counts it: of all that it causes on
// its way through this namespace, one. The kernel helps with skb->skb_iif, the
// interface that the packet last came in by, and these are the rules:
//
//   - Coming in, the lowest watched interface counts: a port before its bridge, a
//     device before the VLAN on it, what carries a tunnel (where the programs open
//     it) before the tunnel. net/core/dev.c sets skb_iif at each step up.
//   - Going out after coming in (skb_iif is set), nothing counts that was counted
//     coming in. What was not goes by the next rule.
//     The kernel forgets skb_iif of IPv6 packets that it cuts into fragments; the
//     programs tell those from what was made here, and they count only where
//     something comes in that is not counted.
//   - Going out, made here (skb_iif is 0), the lowest watched interface counts,
//     but a watched tunnel itself rather than what carries it: skb_scrub_packet
//     clears skb_iif when the packet is wrapped, so that below the tunnel nobody
//     can tell who made it. The same function does so within a veth pair, where
//     the end that sends counts rather than the one that receives.
//
// Not all can be told apart from this. What stays open where only some of the
// interfaces are watched is in Doubts. A Graph does not see packets that other
// programs redirect, nor an interface of another namespace that is stacked on one
// of this and forwards: skb_iif is an index of that namespace then.
//
// A Graph does not change, and is safe for concurrent use.
type Graph struct {
	nodes map[int]node
	// allEntered: whatever comes in from elsewhere is counted coming in.
	allEntered bool
	// wrapped are the encapsulations that watched tunnels of this namespace make.
	wrapped map[encapsulation]struct{}
	// gone are the nodes that only the graphs before knew, oldest first.
	gone   []int
	doubts []Doubt
}

// node has all answers for an interface.
type node struct {
	role Role
	flow verdict
	// outer is about the packets of tunnels themselves, which no other tunnel
	// opens or makes.
	outer verdict
	// gone: only graphs before knew it.
	gone bool
}

type verdict struct {
	// entered: what comes in by it was counted, by it or below it.
	entered bool
	// ingress: it counts what comes in.
	ingress bool
	// egress: it counts what goes out, unless that was counted coming in.
	egress bool
}

// stranger is the verdict on what was watched and is not known: it was there for
// so short a time that it never came into a graph.
var stranger = verdict{ingress: true, egress: true}

// encapsulation is what an outer header shows of the tunnel.
type encapsulation struct {
	kind TunnelType
	port uint16 // 0 stands for all
	id   uint32
	// which says how to read id.
	which identity
}

type identity uint8

const (
	withoutID identity = iota
	withID
	anyID
)

// Options of a Graph.
type Options struct {
	// VXLANPorts and GenevePorts are the UDP ports whose packets are opened.
	VXLANPorts  []uint16
	GenevePorts []uint16
	// GRE and IPIP say whether those are.
	GRE, IPIP bool
}

func (o Options) opens(t Tunnel) bool {
	switch t.Type {
	case VXLAN:
		return slices.Contains(o.VXLANPorts, t.Port)
	case Geneve:
		return slices.Contains(o.GenevePorts, t.Port)
	case GRE:
		return o.GRE
	case IPIP:
		return o.IPIP
	default:
		return false
	}
}

// Observation is a packet, or several, seen at an interface.
type Observation struct {
	Interface int
	Direction flow.Direction
	// From is skb->skb_iif. Coming in, it is the interface itself.
	From int
	// Tunnel is set where the packet was in a tunnel that the program opened. A
	// sighting on the tunnel's own device is not in it any more, or not yet.
	Tunnel   TunnelType
	TunnelID uint32
	HasID    bool
	// TunnelPort is the outer UDP destination port; 0 where it is not known.
	TunnelPort uint16
}

// remembered is how many interfaces that are gone a Graph keeps, in case that
// packets they saw, or that came in by them, are still to be judged.
const remembered = 4096

// NewGraph makes the graph of all interfaces, of which some are watched. Those
// that ceased to be there, or to be watched, stay among either until the records
// of their time have been read. before is the graph it replaces, or nil: from it
// stem the answers about interfaces that have gone since.
func NewGraph(all map[int]Interface, watched func(index int) bool, o Options, before *Graph) *Graph {
	b := newBuilder(all, watched, o)
	g := &Graph{nodes: make(map[int]node, len(all)), wrapped: b.wrapped()}
	flows, outers := b.verdicts(false), b.verdicts(true)
	for index, i := range b.all {
		g.nodes[index] = node{role: i.Role, flow: flows[index], outer: outers[index]}
	}
	g.allEntered = b.allEntered(flows)
	g.doubts = b.doubts(flows)
	g.remember(before)
	return g
}

func (g *Graph) remember(before *Graph) {
	if before == nil {
		return
	}
	gone := slices.DeleteFunc(slices.Clone(before.gone), g.knows)
	for _, index := range slices.Sorted(maps.Keys(before.nodes)) {
		if !g.knows(index) && !before.nodes[index].gone {
			gone = append(gone, index)
		}
	}
	g.gone = gone[max(0, len(gone)-remembered):]
	for _, index := range g.gone {
		n := before.nodes[index]
		n.gone = true
		g.nodes[index] = n
	}
}

func (g *Graph) knows(index int) bool {
	_, ok := g.nodes[index]
	return ok
}

// Role gives RoleUnknown for an interface that is not known; for one that is
// gone, what it was.
func (g *Graph) Role(index int) Role {
	return g.nodes[index].role
}

// Owns says whether the packets count here; else they do elsewhere.
func (g *Graph) Owns(o Observation) bool {
	v := stranger
	if n, ok := g.nodes[o.Interface]; ok {
		v = n.flow
	}
	switch {
	case o.Direction == flow.Ingress:
		return v.ingress
	case !v.egress:
		return false
	case o.From == flow.FromForgotten:
		return !g.allEntered
	case o.From != 0:
		return !g.nodes[o.From].flow.entered
	default:
		return o.Tunnel == flow.NoTunnel || !g.wraps(o)
	}
}

// OwnsOuter says whether packets of a tunnel, as such, count here. Where tunnels
// are nested, each program opens the outermost one it sees, and this is about
// that. From is as in Observation.
func (g *Graph) OwnsOuter(index int, d flow.Direction, from int) bool {
	v := stranger
	if n, ok := g.nodes[index]; ok {
		v = n.outer
	}
	if d == flow.Ingress {
		return v.ingress
	}
	return v.egress && (from == 0 || !g.nodes[from].outer.entered)
}

// wraps says whether a watched tunnel of this namespace made such packets, and
// so has seen them.
func (g *Graph) wraps(o Observation) bool {
	e := encapsulation{kind: o.Tunnel, port: o.TunnelPort, id: o.TunnelID, which: withID}
	if !o.HasID {
		e.id, e.which = 0, withoutID
	}
	if _, ok := g.wrapped[e]; ok {
		return true
	}
	e.id, e.which = 0, anyID
	_, ok := g.wrapped[e]
	return ok
}
