// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"maps"
	"slices"
)

// builder works out a Graph.
type builder struct {
	all     map[int]Interface
	watched map[int]bool
	options Options
	// ports of each master.
	ports map[int][]int
	// datapath are the ports of Open vSwitch. Netlink tells which they are, and
	// not which of them a bridge of its has.
	datapath []int
	// bases are the interfaces by which packets come from and go to other machines,
	// those of tunnels that name no link among them.
	bases map[int]bool
	// carried: some watched interface may carry a tunnel that names none.
	carried bool
}

func newBuilder(all map[int]Interface, watched func(int) bool, o Options) *builder {
	b := &builder{all: withPeers(all), watched: map[int]bool{}, options: o, ports: map[int][]int{}}
	for index, i := range b.all {
		if watched(index) {
			b.watched[index] = true
		}
		if _, ok := all[i.Master]; !ok {
			continue
		}
		b.ports[i.Master] = append(b.ports[i.Master], index)
		if all[i.Master].Kind == "openvswitch" {
			b.datapath = append(b.datapath, index)
		}
	}
	b.bases = b.findBases()
	carriers := b.carriers()
	for index := range b.watched {
		b.carried = b.carried || carriers[index]
	}
	return b
}

// withPeers settles which pairs are local. When one end changes namespace, the
// kernel announces it alone, so that the other's record may be out of date.
func withPeers(all map[int]Interface) map[int]Interface {
	settled := maps.Clone(all)
	for index, i := range all {
		if i.Role == RoleVethLocal && i.Peer != 0 {
			if peer, ok := settled[i.Peer]; ok && peer.Role == RolePod {
				peer.Role, peer.Peer = RoleVethLocal, index
				settled[i.Peer] = peer
			}
		}
	}
	for index, i := range settled {
		if i.Role == RoleVethLocal && settled[i.Peer].Peer != index {
			i.Role, i.Peer = RolePod, 0
			settled[index] = i
		}
	}
	return settled
}

// findBases gives the hardware. Where there is none, this namespace is a
// container's, and any pair may lead out of it.
func (b *builder) findBases() map[int]bool {
	bases := map[int]bool{}
	for index, i := range b.all {
		if i.Role == RoleUplink {
			bases[index] = true
		}
	}
	if len(bases) > 0 {
		return bases
	}
	for index, i := range b.all {
		if i.Role == RolePod || i.Role == RoleVethLocal {
			bases[index] = true
		}
	}
	return bases
}

// carriers are the bases and what is above them: what may carry a tunnel that
// names no link.
func (b *builder) carriers() map[int]bool {
	return b.close(b.bases, func(i Interface, have map[int]bool) bool {
		switch i.Role {
		case RoleBridge, RoleBond:
			return b.anyPort(i, have)
		case RoleStacked:
			return have[i.Lower]
		default:
			return false
		}
	})
}

// close adds to a set what follows from what is in it, until nothing does.
func (b *builder) close(set map[int]bool, follows func(i Interface, have map[int]bool) bool) map[int]bool {
	have := maps.Clone(set)
	for more := true; more; {
		more = false
		for index, i := range b.all {
			if !have[index] && follows(i, have) {
				have[index], more = true, true
			}
		}
	}
	return have
}

func (b *builder) portsOf(i Interface) []int {
	if i.Kind == "openvswitch" {
		return b.datapath
	}
	return b.ports[i.Index]
}

func (b *builder) anyPort(i Interface, have map[int]bool) bool {
	return slices.ContainsFunc(b.portsOf(i), func(port int) bool { return have[port] })
}

// standIn says that hardware has another device carry its packets: the virtual
// function below a virtual machine's interface (net_failover, netvsc). They are
// the same packets, and the master has more of them: some bypass the other.
func (b *builder) standIn(i Interface) bool {
	master, ok := b.all[i.Master]
	return ok && master.Role == RoleUplink && master.Kind == ""
}

// opened says that the programs see into the tunnel, on some interface of this
// namespace.
func (b *builder) opened(t Tunnel) bool {
	return b.options.opens(t) && !t.Foreign
}

// carrierIn says whether what carries the tunnel is in the set, as far as known.
func (b *builder) carrierIn(t Tunnel, have map[int]bool) bool {
	if _, ok := b.all[t.Link]; ok {
		return have[t.Link]
	}
	return b.carried
}

// verdicts works out who counts. To the outer packets of tunnels, a tunnel is
// like any other interface.
func (b *builder) verdicts(outer bool) map[int]verdict {
	before := func(i Interface, have map[int]bool) bool { return b.countedBefore(i, outer, have) }
	after := func(i Interface, have map[int]bool) bool { return b.countedAfter(i, outer, have) }
	// The kernel names a routing domain as what a packet came in by, and does not
	// show it the packet (vrf_ip_rcv, drivers/net/vrf.c).
	seeing := maps.Clone(b.watched)
	maps.DeleteFunc(seeing, func(index int, _ bool) bool { return b.all[index].Role == RoleVRF })
	entered, left := b.close(seeing, before), b.close(seeing, after)
	verdicts := make(map[int]verdict, len(b.all))
	for index, i := range b.all {
		v := verdict{entered: entered[index]}
		if b.watched[index] {
			v.ingress, v.egress = !before(i, entered), !after(i, left)
		}
		if i.Role == RoleVRF {
			// What it does receive is what it sent to an address of its own.
			v.ingress = b.watched[index] && !v.egress
		}
		verdicts[index] = v
	}
	return verdicts
}

// countedBefore says whether what comes in by an interface was counted before,
// given where what comes in was.
func (b *builder) countedBefore(i Interface, outer bool, entered map[int]bool) bool {
	watched := b.watched[i.Index]
	switch i.Role {
	case RoleLoopback:
		return watched // going out
	case RoleIFB:
		return true // where it was redirected from
	case RoleBridge, RoleBond, RoleVRF:
		return b.anyPort(i, entered)
	case RoleStacked:
		return entered[i.Lower]
	case RoleVethLocal:
		return b.watched[i.Peer]
	case RoleTunnel:
		return !outer && b.opened(i.Tunnel) && b.carrierIn(i.Tunnel, entered)
	case RoleUplink:
		return b.standIn(i) && b.watched[i.Master] || !watched && b.anyPort(i, entered)
	default:
		return false
	}
}

// countedAfter says whether what goes out by an interface will be counted after,
// given where what goes out is.
func (b *builder) countedAfter(i Interface, outer bool, left map[int]bool) bool {
	watched := b.watched[i.Index]
	switch i.Role {
	case RoleIFB:
		return true // where it goes back to
	case RoleBridge, RoleBond, RoleVRF:
		return b.anyPort(i, left)
	case RoleStacked:
		return left[i.Lower]
	case RoleVethLocal:
		return !watched && b.watched[i.Peer]
	case RoleTunnel:
		return !outer && !watched && b.opened(i.Tunnel) && b.carrierIn(i.Tunnel, left)
	case RoleUplink:
		return b.standIn(i) && b.watched[i.Master] || !watched && b.anyPort(i, left)
	default:
		return false
	}
}

// wrapped lists what the watched tunnels of this namespace make, with and
// without the port.
func (b *builder) wrapped() map[encapsulation]struct{} {
	set := map[encapsulation]struct{}{}
	for index := range b.watched {
		i := b.all[index]
		if i.Role != RoleTunnel || !b.opened(i.Tunnel) {
			continue
		}
		e := encapsulation{kind: i.Tunnel.Type, port: i.Tunnel.Port}
		switch {
		case i.Tunnel.External:
			e.which = anyID
		case i.Tunnel.HasID:
			e.id, e.which = i.Tunnel.ID, withID
		}
		set[e] = struct{}{}
		e.port = 0
		set[e] = struct{}{}
	}
	return set
}
