// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flannel

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// Backends that are compared, by what annotations call them. Of others nothing is known.
const (
	backendVXLAN     = "vxlan"
	backendHostGW    = "host-gw"
	backendWireGuard = "wireguard"
	backendIPIP      = "ipip"
)

// Kinds of differences.
const (
	// KindBackend: routes are not those of the backend, or two nodes have not the same.
	KindBackend = "backend"
	// KindDeviceMissing and KindDeviceDown: the tunnel's device.
	KindDeviceMissing = "device_missing"
	KindDeviceDown    = "device_down"
	// KindVNI and KindPort: a device's or an entry's, or two nodes have not the same.
	KindVNI  = "vni"
	KindPort = "port"
	// KindVTEPMAC: this node's own, or another's in an FDB entry or as a neighbour.
	KindVTEPMAC = "vtep_mac"
	// KindPublicIP: this node's device has another, or an FDB entry leads to another.
	KindPublicIP = "public_ip"
	// Entries that are not there, or are of no node.
	KindFDBMissing       = "fdb_missing"
	KindFDBStale         = "fdb_stale"
	KindNeighbourMissing = "neighbour_missing"
	KindNeighbourStale   = "neighbour_stale"
	KindRouteMissing     = "route_missing"
	KindRouteStale       = "route_stale"
	// KindRoute: a route to a node's pods leads elsewhere.
	KindRoute = "route"
)

// Kinds are all kinds, each with what to do about it.
var Kinds = map[string]string{
	KindBackend:          "see which backend each node's flannel is configured with, and restart flannel where it is not that one",
	KindDeviceMissing:    "see whether flannel runs on this node, and restart it: it makes the device at its start",
	KindDeviceDown:       "bring the device up, and look for what took it down",
	KindVNI:              "give flannel one VNI on all nodes, and restart it where the device has another",
	KindPort:             "give flannel one VXLAN port on all nodes, and restart it where the device has another",
	KindVTEPMAC:          "restart flannel on this node: packets with another MAC address than the receiving VTEP's are dropped",
	KindPublicIP:         "restart flannel on this node: packets for the node's pods go to another address than the node's",
	KindFDBMissing:       "restart flannel on this node: packets for the node's pods are dropped",
	KindFDBStale:         "find out who made the entry, and remove it if nobody needs it",
	KindNeighbourMissing: "restart flannel on this node: packets for the node's pods are dropped",
	KindNeighbourStale:   "find out who made the entry, and remove it if nobody needs it",
	KindRouteMissing:     "restart flannel on this node: packets for the node's pods go where the default route leads, or nowhere",
	KindRouteStale:       "find out who made the route, and remove it if nobody needs it",
	KindRoute:            "find out who changed the route, and restart flannel on this node",
}

// Input is what is compared.
type Input struct {
	// Own is the node that the host is, with flannel's annotations.
	Own *inventory.Node
	// Nodes are all that there are, and Former some that were.
	Nodes, Former []*inventory.Node
	Host          *Host
	// Port that VXLAN is to use, 0 for any: annotations do not say it.
	Port uint16
}

// Result is what is flannel's on the host, and what does not fit.
type Result struct {
	Devices []inventory.FlannelDevice
	// FDB and Neighbours are those of Devices. Routes are those by Devices, and to the
	// pods of nodes.
	FDB         []inventory.FlannelForwarding
	Neighbours  []inventory.FlannelNeighbour
	Routes      []inventory.FlannelRoute
	Differences []inventory.FlannelDifference
}

// Reconcile compares. Differences are in the order of kind, node and subject.
func Reconcile(in Input) Result {
	c := newComparison(in)
	if in.Own.Flannel == nil {
		return c.result
	}
	c.backends()
	for _, v6 := range []bool{false, true} {
		if backendOf(in.Own, v6) != nil {
			c.family(v6)
		}
	}
	c.tables()
	slices.SortFunc(c.result.Differences, func(a, b inventory.FlannelDifference) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Subject, b.Subject))
	})
	return c.result
}

// comparison is one run.
type comparison struct {
	Input
	types map[int]string // of the host's devices
	// routes has the host's by destination, those that are used before others.
	routes map[netip.Prefix][]*Route
	// cidrs has the nodes by their pod networks, and macs by their VTEPs' MAC addresses.
	cidrs  map[netip.Prefix]*inventory.Node
	macs   map[string]*inventory.Node
	result Result
}

func newComparison(in Input) *comparison {
	c := &comparison{
		Input: in, types: map[int]string{}, routes: map[netip.Prefix][]*Route{},
		cidrs: map[netip.Prefix]*inventory.Node{}, macs: map[string]*inventory.Node{},
	}
	for i := range in.Host.Devices {
		c.types[in.Host.Devices[i].Index] = in.Host.Devices[i].Type
	}
	for i := range in.Host.Routes {
		r := &in.Host.Routes[i]
		c.routes[r.Dst] = append(c.routes[r.Dst], r)
	}
	for _, to := range c.routes {
		slices.SortStableFunc(to, func(a, b *Route) int { return cmp.Compare(a.Metric, b.Metric) })
	}
	for _, n := range in.Nodes {
		for _, cidr := range n.PodCIDRs {
			c.cidrs[cidr.Masked()] = n
		}
		for _, v6 := range []bool{false, true} {
			if b := backendOf(n, v6); b != nil && b.VTEPMAC != nil {
				c.macs[macText(b.VTEPMAC)] = n
			}
		}
	}
	return c
}

func (c *comparison) differ(kind string, n *inventory.Node, subject, annotation, host string) {
	d := inventory.FlannelDifference{Kind: kind, Subject: subject, Annotation: annotation, Host: host}
	if n != nil {
		d.Node = n.Name
	}
	c.result.Differences = append(c.result.Differences, d)
}

// backends finds the nodes whose flannel has not the same as this one's. Each leaves
// the other out.
func (c *comparison) backends() {
	for _, n := range c.Nodes {
		if n.Flannel != nil && n.Flannel.Backend != c.Own.Flannel.Backend {
			c.differ(KindBackend, n, n.Name, n.Flannel.Backend, "this node has "+c.Own.Flannel.Backend)
		}
	}
}

// peer is another node's end of flannel's network, of one IP version.
type peer struct {
	node   *inventory.Node
	end    *inventory.FlannelBackend
	subnet netip.Prefix
	// way is the backend whose route leads to the node, "" for none.
	way string
}

// family is the comparison of one IP version.
type family struct {
	*comparison
	v6    bool
	own   *inventory.FlannelBackend
	peers []peer
	// device is flannel's, nil for none.
	device *inventory.FlannelDevice
}

func (c *comparison) family(v6 bool) {
	f := &family{comparison: c, v6: v6, own: backendOf(c.Own, v6)}
	for _, n := range c.Nodes {
		end, subnet := backendOf(n, v6), podCIDR(n, v6)
		if n.Name != c.Own.Name && end != nil && n.Flannel.Backend == c.Own.Flannel.Backend && subnet.IsValid() && end.PublicIP.IsValid() {
			f.peers = append(f.peers, peer{node: n, end: end, subnet: subnet})
		}
	}
	switch backend := c.Own.Flannel.Backend; backend {
	case backendVXLAN:
		f.device = f.vxlanDevice()
	case backendWireGuard:
		f.device = f.tunnelDevice(typeWireGuard, "flannel-wg", "flannel-wg-v6")
	case backendIPIP:
		if v6 {
			return // it has no IPv6
		}
		f.device = f.tunnelDevice(typeIPIP, "flannel.ipip", "")
	case backendHostGW:
	default:
		return
	}
	if f.device != nil && !slices.ContainsFunc(c.result.Devices, func(d inventory.FlannelDevice) bool { return d.Index == f.device.Index }) {
		c.result.Devices = append(c.result.Devices, *f.device)
	}
	f.compare()
}

func (f *family) compare() {
	backend := f.Own.Flannel.Backend
	var routing []inventory.FlannelDifference
	for i := range f.peers {
		p := &f.peers[i]
		var d *inventory.FlannelDifference
		if p.way, d = f.wayTo(p); d != nil {
			routing = append(routing, *d)
		}
	}
	others := f.otherWays()
	if f.device == nil && backend != backendHostGW {
		if !others {
			f.differ(KindDeviceMissing, f.Own, f.version(), f.ownText(), "no such device")
		}
		return // nor can there be what is made of it
	}
	f.result.Differences = append(f.result.Differences, routing...)
	f.routesStale()
	if f.device == nil {
		return
	}
	if !f.device.Up {
		f.differ(KindDeviceDown, f.Own, f.device.Name, f.ownText(), f.device.Name+" is down")
	}
	if backend == backendVXLAN {
		f.vxlan()
	}
}

// version names the IP version.
func (f *family) version() string {
	if f.v6 {
		return "ipv6"
	}
	return "ipv4"
}

// ownText says what this node's annotations are, in short.
func (f *family) ownText() string {
	text := f.Own.Flannel.Backend
	if f.own.HasVNI {
		text += " VNI " + strconv.FormatUint(uint64(f.own.VNI), 10)
	}
	if f.own.PublicIP.IsValid() {
		text += " at " + f.own.PublicIP.String()
	}
	return text
}

// vxlanDevice finds flannel's device, whatever its name: by the VNI and the local
// address. Where no device has both, it is the one that has flannel's name or MAC address.
func (f *family) vxlanDevice() *inventory.FlannelDevice {
	var best *inventory.FlannelDevice
	bestScore := 0
	for i := range f.Host.Devices {
		d := &f.Host.Devices[i]
		if d.Type != typeVXLAN || !f.sameVersion(d) {
			continue
		}
		vni := f.own.HasVNI && d.VNI == f.own.VNI
		local := f.own.PublicIP.IsValid() && d.Local == f.own.PublicIP
		mac := f.own.VTEPMAC != nil && macText(d.MAC) == macText(f.own.VTEPMAC)
		named := strings.HasPrefix(d.Name, "flannel")
		score := 0
		switch {
		case vni && local:
			score = 4
		case vni && (named || mac):
			score = 3 // its address has changed, or the public one is not the host's
		case mac:
			score = 2
		case named && local:
			score = 1
		}
		if score > bestScore {
			best, bestScore = d, score
		}
	}
	return best
}

// sameVersion says whether a VXLAN device is for this IP version: by its local address,
// or by what flannel would have named it.
func (f *family) sameVersion(d *inventory.FlannelDevice) bool {
	if d.Local.IsValid() {
		return d.Local.Is6() == f.v6
	}
	return strings.HasPrefix(d.Name, "flannel-v6.") == f.v6
}

// tunnelDevice finds a device that has the first address of this node's pods, as flannel
// gives it, or else one of the names.
func (f *family) tunnelDevice(typ, name, name6 string) *inventory.FlannelDevice {
	var named *inventory.FlannelDevice
	subnet := podCIDR(f.Own, f.v6)
	for i := range f.Host.Devices {
		d := &f.Host.Devices[i]
		if d.Type != typ {
			continue
		}
		if subnet.IsValid() && slices.Contains(f.Host.Addresses, Address{d.Index, subnet.Addr()}) {
			return d
		}
		if d.Name == name && !f.v6 || d.Name == name6 && f.v6 {
			named = d
		}
	}
	return named
}

// wayTo finds how packets get to a node's pods, and what is wrong with that.
func (f *family) wayTo(p *peer) (way string, wrong *inventory.FlannelDifference) {
	differ := func(kind, annotation, host string) *inventory.FlannelDifference {
		return &inventory.FlannelDifference{Kind: kind, Node: p.node.Name, Subject: p.subnet.String(), Annotation: annotation, Host: host}
	}
	r := f.routeTo(p.subnet)
	if r == nil {
		return "", differ(KindRouteMissing, p.text(), "no route to "+p.subnet.String())
	}
	elsewhere := differ(KindRoute, p.text(), r.String())
	if r.Unusable != "" {
		return "", elsewhere
	}
	switch typ := f.types[r.Device]; typ {
	case typeVXLAN:
		if f.Own.Flannel.Backend == backendVXLAN && (f.device == nil || r.Device != f.device.Index || r.Gateway != p.subnet.Addr()) {
			return backendVXLAN, elsewhere
		}
		return backendVXLAN, nil
	case typeWireGuard:
		return backendWireGuard, nil
	case typeIPIP:
		if f.Own.Flannel.Backend == backendIPIP && r.Gateway != p.end.PublicIP {
			return backendIPIP, elsewhere
		}
		return backendIPIP, nil
	}
	if slices.Contains(addressesOf(p.node), r.Gateway) {
		return backendHostGW, nil
	}
	return "", elsewhere
}

// routeTo gives the route to a network itself. A device of flannel's may also have one
// to all pods' networks, as that of WireGuard does.
func (f *family) routeTo(subnet netip.Prefix) *Route {
	for bits := subnet.Bits(); bits > 0; bits-- {
		to := f.routes[netip.PrefixFrom(subnet.Addr(), bits).Masked()]
		if len(to) == 0 {
			continue
		}
		if bits == subnet.Bits() || f.device != nil && to[0].Device == f.device.Index {
			return to[0]
		}
	}
	return nil
}

// otherWays finds routes that are another backend's, and says whether there are any.
// VXLAN and IPIP may leave nodes of the same link to their addresses (DirectRouting).
func (f *family) otherWays() bool {
	own := f.Own.Flannel.Backend
	direct := f.device != nil && (own == backendVXLAN || own == backendIPIP)
	byWay := map[string][]string{}
	for i := range f.peers {
		p := &f.peers[i]
		if p.way != "" && p.way != own && !(direct && p.way == backendHostGW) {
			byWay[p.way] = append(byWay[p.way], p.node.Name)
		}
	}
	for way, nodes := range byWay {
		const shown = 3
		slices.Sort(nodes)
		names := strings.Join(nodes[:min(shown, len(nodes))], ", ")
		if len(nodes) > shown {
			names += ", …"
		}
		f.differ(KindBackend, f.Own, f.version()+" "+way, f.ownText(), fmt.Sprintf("routes to %d nodes (%s) are those of %s", len(nodes), names, way))
	}
	return len(byWay) > 0
}

// routesStale finds routes that flannel made, or seems to have made, to networks that no
// node has: those by its device through a gateway, and those by way of a node.
func (f *family) routesStale() {
	subnet := podCIDR(f.Own, f.v6)
	for dst, to := range f.routes {
		if dst.Addr().Is6() != f.v6 || f.cidrs[dst] != nil || dst.Bits() == 0 {
			continue
		}
		for _, r := range to {
			if !r.Gateway.IsValid() {
				continue
			}
			byDevice := f.device != nil && r.Device == f.device.Index
			n := f.formerly(dst, r.Gateway)
			byNode := f.Own.Flannel.Backend == backendHostGW && dst.Bits() == subnet.Bits() && f.isPeers(r.Gateway)
			if byDevice || n != nil || byNode {
				f.differ(KindRouteStale, n, dst.String(), "no node has "+dst.String(), r.String())
				break
			}
		}
	}
}

// formerly gives the node that is gone and had a pod network by way of its address.
func (f *family) formerly(dst netip.Prefix, gateway netip.Addr) *inventory.Node {
	for _, n := range f.Former {
		if podCIDR(n, f.v6) == dst && slices.Contains(addressesOf(n), gateway) {
			return n
		}
	}
	return nil
}

func (f *family) isPeers(addr netip.Addr) bool {
	return slices.ContainsFunc(f.peers, func(p peer) bool { return p.end.PublicIP == addr })
}

// text says what a node's annotations are, in short.
func (p *peer) text() string {
	text := p.subnet.String() + " at " + p.end.PublicIP.String()
	if p.end.VTEPMAC != nil {
		text += ", VTEP " + macText(p.end.VTEPMAC)
	}
	return text
}

// String gives a route as ip(8) does.
func (r *Route) String() string {
	var b strings.Builder
	if r.Unusable != "" {
		b.WriteString(r.Unusable + " ")
	}
	b.WriteString(r.Dst.String())
	if r.Gateway.IsValid() {
		b.WriteString(" via " + r.Gateway.String())
	}
	if r.DeviceName != "" {
		b.WriteString(" dev " + r.DeviceName)
	}
	return b.String()
}
