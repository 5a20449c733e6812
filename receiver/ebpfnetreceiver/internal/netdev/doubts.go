// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"maps"
	"slices"
)

// Doubt is an interface because of which some packets may be counted wrongly.
type Doubt struct {
	Interface int
	Name      string
	// Why says what may be wrong, and what to do.
	Why string
}

const (
	whyTunnel = "it is not watched: a packet that was counted when it came in, and then is sent through this tunnel, " +
		"counts once more on what carries the tunnel; watch this interface too"
	whyPair = "it is not watched: a packet that was counted when it came in, and then is sent through this veth pair, " +
		"counts once more behind it; watch both ends"
	whyCarriers = "it does not say which interface carries it, and not all that may are watched: " +
		"packets that come through it by the others are not counted; watch all of them or none"
	whyStandIn = "the interface whose packets it carries is not watched: those that bypass this one are not counted; " +
		"watch that one too"
	whyIPVLAN = "a packet that was counted when it came in, and is forwarded to this interface, " +
		"counts once more on the one below; nothing tells them apart"
	whyPorts = "some of its ports are watched and others are not: packets between the latter and this host, " +
		"or networks behind it, are not counted; watch all ports or none"
)

// Doubts lists, by index, where watching only some interfaces leaves open what
// was counted. It is empty where all are watched, but for forwarding ipvlans.
func (g *Graph) Doubts() []Doubt {
	return g.doubts
}

func (b *builder) doubts(flows map[int]verdict) []Doubt {
	var doubts []Doubt
	for _, index := range slices.Sorted(maps.Keys(b.all)) {
		i := b.all[index]
		if why := b.doubt(i, flows); why != "" {
			doubts = append(doubts, Doubt{Interface: index, Name: i.Name, Why: why})
		}
	}
	return doubts
}

func (b *builder) doubt(i Interface, flows map[int]verdict) string {
	counting := b.countsEntries(flows)
	switch i.Role {
	case RoleTunnel:
		return b.tunnelDoubt(i, flows, counting)
	case RoleVethLocal:
		if !b.watched[i.Index] && counting {
			return whyPair
		}
	case RoleUplink:
		if b.standIn(i) && b.watched[i.Index] && !b.watched[i.Master] {
			return whyStandIn
		}
	case RoleStacked:
		if (i.Kind == "ipvlan" || i.Kind == "ipvtap") && flows[i.Lower].entered && counting {
			return whyIPVLAN
		}
	case RoleBridge, RoleBond, RoleVRF:
		ports := b.portsOf(i)
		entered := func(port int) bool { return flows[port].entered }
		if slices.ContainsFunc(ports, entered) && !allFunc(ports, entered) && b.watchedBeside(ports) {
			return whyPorts
		}
	}
	return ""
}

func (b *builder) tunnelDoubt(i Interface, flows map[int]verdict, counting bool) string {
	if !b.opened(i.Tunnel) {
		return ""
	}
	if !b.watched[i.Index] && flows[i.Index].entered && counting {
		return whyTunnel
	}
	if _, ok := b.all[i.Tunnel.Link]; ok || !b.carried {
		return ""
	}
	for index := range b.bases {
		if !b.covered(b.all[index]) {
			return whyCarriers
		}
	}
	return ""
}

// covered says whether whatever comes in by an interface is seen there, or at
// the device above it.
func (b *builder) covered(i Interface) bool {
	if b.watched[i.Index] {
		return true
	}
	if master := b.all[i.Master]; master.Role == RoleVRF || !b.watched[master.Index] {
		return false
	}
	for index, upper := range b.all {
		if upper.Role == RoleStacked && upper.Lower == i.Index && !b.watched[index] {
			return false
		}
	}
	return true
}

// allEntered says whether whatever comes in was counted, wherever it does.
func (b *builder) allEntered(flows map[int]verdict) bool {
	for index, i := range b.all {
		switch i.Role {
		case RoleUnknown, RoleLoopback, RoleVRF, RoleIFB, RoleDummy: // nothing comes in by these
		default:
			if !flows[index].entered {
				return false
			}
		}
	}
	return true
}

// countsEntries says whether any packet is counted when it comes in, be it as
// it leaves the other end of a pair.
func (b *builder) countsEntries(flows map[int]verdict) bool {
	for index := range b.watched {
		if flows[index].ingress || flows[index].egress && b.all[index].Role == RoleVethLocal {
			return true
		}
	}
	return false
}

// watchedBeside says whether any interface is watched that is none of the ports.
func (b *builder) watchedBeside(ports []int) bool {
	for index := range b.watched {
		if !slices.Contains(ports, index) {
			return true
		}
	}
	return false
}

func allFunc(ports []int, ok func(int) bool) bool {
	return !slices.ContainsFunc(ports, func(port int) bool { return !ok(port) })
}
