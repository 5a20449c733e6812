// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flannel

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// tables gives what of the host's tables is flannel's, and which nodes it is about.
func (c *comparison) tables() {
	r := &c.result
	names := map[int]string{}
	for i := range r.Devices {
		names[r.Devices[i].Index] = r.Devices[i].Name
	}
	starts := map[netip.Addr]*inventory.Node{}
	for cidr, n := range c.cidrs {
		starts[cidr.Addr()] = n
	}
	for i := range c.Host.FDB {
		if e := &c.Host.FDB[i]; names[e.Device] != "" {
			r.FDB = append(r.FDB, inventory.FlannelForwarding{
				Device: names[e.Device], Node: nameOf(c.macs[e.MAC]), MAC: e.MAC, Remote: e.Remote, Port: e.Port, VNI: e.VNI, Permanent: e.Permanent,
			})
		}
	}
	for i := range c.Host.Neighbours {
		if n := &c.Host.Neighbours[i]; names[n.Device] != "" {
			r.Neighbours = append(r.Neighbours, inventory.FlannelNeighbour{
				Device: names[n.Device], Node: nameOf(starts[n.Addr]), Addr: n.Addr, MAC: n.MAC, Permanent: n.Permanent,
			})
		}
	}
	for i := range c.Host.Routes {
		if to := &c.Host.Routes[i]; names[to.Device] != "" || c.cidrs[to.Dst] != nil {
			r.Routes = append(r.Routes, inventory.FlannelRoute{
				Device: to.DeviceName, Node: nameOf(c.cidrs[to.Dst]), Dst: to.Dst, Gateway: to.Gateway, Unusable: to.Unusable,
			})
		}
	}
	slices.SortFunc(r.FDB, func(a, b inventory.FlannelForwarding) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.MAC, b.MAC), a.Remote.Compare(b.Remote))
	})
	slices.SortFunc(r.Neighbours, func(a, b inventory.FlannelNeighbour) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), a.Addr.Compare(b.Addr))
	})
	slices.SortFunc(r.Routes, func(a, b inventory.FlannelRoute) int {
		return cmp.Or(a.Dst.Addr().Compare(b.Dst.Addr()), cmp.Compare(a.Dst.Bits(), b.Dst.Bits()), a.Gateway.Compare(b.Gateway))
	})
}

func nameOf(n *inventory.Node) string {
	if n == nil {
		return ""
	}
	return n.Name
}
