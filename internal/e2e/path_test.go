// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import "slices"

// sighting is where a packet can be counted on its way through a node.
type sighting struct {
	device, direction string
	// translated: the packet is as the server's end sees it, where that differs.
	translated bool
	// wrapped: it is in the tunnel.
	wrapped bool
}

func (s sighting) String() string { return s.direction + " at " + s.device }

const (
	in  = "ingress"
	out = "egress"
)

// path gives where a flight can be counted on a node, in its own order: what is
// received climbs from the lowest device, what is sent descends to it. Services
// and the node's own address are translated after the packet has come in and
// before it goes out.
func (f *flight) path(n *node) []sighting {
	from, to := f.ends()
	if from.node != n && to.node != n {
		return nil
	}
	var path []sighting
	switch {
	case from.isPod() && from.node == n:
		path = append(path, sighting{device: from.veth, direction: in})
		if f.switched() {
			return append(path, sighting{device: to.veth, direction: out})
		}
		path = append(path, sighting{device: bridge, direction: in})
	case from.node == n: // the host has nothing coming in
	case f.tunnelled():
		path = append(path, sighting{device: uplink, direction: in, wrapped: true}, sighting{device: overlay, direction: in})
	default:
		path = append(path, sighting{device: uplink, direction: in})
	}
	came := len(path)
	switch {
	case to.isPod() && to.node == n:
		path = append(path, sighting{device: bridge, direction: out}, sighting{device: to.veth, direction: out})
	case to.node == n: // it is the host's
	case f.tunnelled():
		path = append(path, sighting{device: overlay, direction: out}, sighting{device: uplink, direction: out, wrapped: true})
	default:
		path = append(path, sighting{device: uplink, direction: out})
	}
	// The client's node translates: what the server sends is as the server sees
	// it until there.
	for i := range path {
		path[i].translated = n != f.conversation.client.node || (i >= came) == f.toServer
	}
	return path
}

// switched says whether the bridge hands it from pod to pod, as it is.
func (f *flight) switched() bool {
	from, to := f.ends()
	return from.isPod() && to.isPod() && from.node == to.node && !f.translated()
}

// owner is which one counts: the lowest that it comes in by; of what the host
// itself sends, the tunnel or else the lowest that it goes out by.
func owner(path []sighting) sighting {
	if path[0].direction == in || path[0].device == overlay {
		return path[0]
	}
	return path[len(path)-1]
}

// key is what the flight looks like at a sighting.
func (f *flight) key(s sighting) flowKey {
	if s.translated {
		return f.server
	}
	return f.client
}

// leavesBy is the first device that the sender has, and what it looks like there.
func (f *flight) leavesBy() (*namespace, string, flowKey) {
	from, _ := f.ends()
	if from.node == nil || from.isPod() {
		key := f.server
		if f.toServer {
			key = f.client
		}
		return from.namespace, podDevice, key
	}
	first := f.path(from.node)[0]
	return from.namespace, first.device, f.key(first)
}

// others are the devices beside the owner that tell of the same packets. Later
// fragments have no ports, so that no translation of theirs is known.
func (f *flight) others(path []sighting) []string {
	own := owner(path)
	var names []string
	for _, s := range path {
		if s.device != own.device && (f.server.hasPorts || f.key(s) == f.key(own)) {
			names = append(names, s.device)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
