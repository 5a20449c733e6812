// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package flannel reads what a host shows of flannel's network, and says where that is
// not what flannel says of the nodes in their annotations. It changes nothing, and knows
// nothing of the API that annotations come from.
package flannel // import "github.com/netprobe-otel/netprobe/internal/flannel"

import (
	"net"
	"net/netip"

	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// Types of devices that flannel makes, as the kernel calls them.
const (
	typeVXLAN     = "vxlan"
	typeWireGuard = "wireguard"
	typeIPIP      = "ipip"
)

// Host is what a network namespace has that can be flannel's.
type Host struct {
	// Devices are all of the types above, whoever made them.
	Devices   []inventory.FlannelDevice
	Addresses []Address
	// FDB are the forwarding entries of VXLAN devices, and Neighbours those of such
	// devices.
	FDB        []Entry
	Neighbours []Neighbour
	Routes     []Route
}

// Address is one that a device has.
type Address struct {
	Device int
	Addr   netip.Addr
}

// Entry says to which VTEP frames for a MAC address are sent.
type Entry struct {
	Device int
	MAC    string
	Remote netip.Addr
	// Port and VNI are this entry's own, where it has them; 0 for the device's.
	Port uint16
	VNI  uint32
	// Permanent entries are someone's; others were learned, and age.
	Permanent bool
}

// Neighbour says which MAC address an address has.
type Neighbour struct {
	Device    int
	Addr      netip.Addr
	MAC       string // "" while it is not known
	Permanent bool
}

// Route is one way to a network. A route with several next hops is several.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr // invalid for none
	Device  int
	// DeviceName is "" where the device is not known.
	DeviceName string
	Metric     int
	// Unusable is what the kernel calls a route that leads nowhere: blackhole,
	// unreachable, prohibit.
	Unusable string
}

// Keep chooses the routes that are of interest: those by devices that can be flannel's,
// those that lead to pods, be it among others, and those by way of a node.
type Keep struct {
	// networks has the nodes' pod networks with all that contain them.
	networks map[netip.Prefix]struct{}
	nodes    map[netip.Addr]struct{}
}

// KeepFor gives what is of interest for nodes.
func KeepFor(nodes []*inventory.Node) Keep {
	k := Keep{networks: map[netip.Prefix]struct{}{}, nodes: map[netip.Addr]struct{}{}}
	for _, n := range nodes {
		for _, addr := range addressesOf(n) {
			k.nodes[addr] = struct{}{}
		}
		for _, cidr := range n.PodCIDRs {
			for bits := cidr.Bits(); bits >= 0; bits-- {
				wider := netip.PrefixFrom(cidr.Addr(), bits).Masked()
				if _, ok := k.networks[wider]; ok {
					break // and so are those that contain it
				}
				k.networks[wider] = struct{}{}
			}
		}
	}
	return k
}

func (k *Keep) route(r *Route, tunnel bool) bool {
	if tunnel {
		return true
	}
	if _, ok := k.networks[r.Dst]; ok {
		return true
	}
	_, ok := k.nodes[r.Gateway]
	return ok
}

// addressesOf gives the addresses that packets for a node can be sent to.
func addressesOf(n *inventory.Node) []netip.Addr {
	addrs := n.Addresses
	for _, v6 := range []bool{false, true} {
		if b := backendOf(n, v6); b != nil && b.PublicIP.IsValid() {
			addrs = append(addrs[:len(addrs):len(addrs)], b.PublicIP)
		}
	}
	return addrs
}

// backendOf gives what flannel says of a node's end of an IP version, or nil.
func backendOf(n *inventory.Node, v6 bool) *inventory.FlannelBackend {
	switch {
	case n.Flannel == nil:
		return nil
	case v6:
		return n.Flannel.V6
	default:
		return n.Flannel.V4
	}
}

// podCIDR gives a node's pod network of an IP version, as flannel chooses it.
func podCIDR(n *inventory.Node, v6 bool) netip.Prefix {
	for _, cidr := range n.PodCIDRs {
		if cidr.Addr().Is6() == v6 {
			return cidr.Masked()
		}
	}
	return netip.Prefix{}
}

func macText(mac net.HardwareAddr) string { return mac.String() }

// IsNodes says whether the host has an address of the node, and so is likely to be it.
func (h *Host) IsNodes(n *inventory.Node) bool {
	for _, addr := range addressesOf(n) {
		if h.has(addr) {
			return true
		}
	}
	return false
}

func (h *Host) has(addr netip.Addr) bool {
	for _, a := range h.Addresses {
		if a.Addr == addr {
			return true
		}
	}
	return false
}
