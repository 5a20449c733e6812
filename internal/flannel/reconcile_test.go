// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flannel

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/inventory"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func mac(last byte) net.HardwareAddr { return net.HardwareAddr{0x5a, 0, 0, 0, 0, last} }

// testNode gives the node of a number, which is in its addresses, of both IP versions.
func testNode(number byte, backend string) *inventory.Node {
	v4, v6 := netip.AddrFrom4([4]byte{192, 168, 0, number}), addr("fd00::").As16()
	v6[15] = number
	pods6 := addr("fd00:10:244::").As16()
	pods6[7] = number
	n := &inventory.Node{
		Name:      string('a' + rune(number) - 1),
		Addresses: []netip.Addr{v4, netip.AddrFrom16(v6)},
		PodCIDRs: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, number, 0}), 24),
			netip.PrefixFrom(netip.AddrFrom16(pods6), 64),
		},
		Flannel: &inventory.Flannel{
			Backend: backend,
			V4:      &inventory.FlannelBackend{PublicIP: v4},
			V6:      &inventory.FlannelBackend{PublicIP: netip.AddrFrom16(v6)},
		},
	}
	if backend == backendVXLAN {
		for i, b := range []*inventory.FlannelBackend{n.Flannel.V4, n.Flannel.V6} {
			b.VNI, b.HasVNI, b.VTEPMAC = 1, true, mac(number+byte(i)*0x10)
		}
	}
	return n
}

// Indexes of devices.
const (
	uplink  = 2
	tunnel  = 3
	tunnel6 = 4
)

// testInput is a host as flannel makes it: node a of three.
func testInput(backend string) *Input {
	in := &Input{Own: testNode(1, backend), Host: &Host{}}
	for number := byte(1); number <= 3; number++ {
		in.Nodes = append(in.Nodes, testNode(number, backend))
	}
	h := in.Host
	for i, v6 := range []bool{false, true} {
		own := backendOf(in.Own, v6)
		subnet := podCIDR(in.Own, v6)
		h.Addresses = append(h.Addresses, Address{uplink, own.PublicIP}, Address{tunnel + i, subnet.Addr()})
		h.Routes = append(h.Routes, Route{Dst: subnet, Device: 9, DeviceName: "cni0"})
		d := inventory.FlannelDevice{Index: tunnel + i, Up: true, MTU: 1450}
		switch backend {
		case backendVXLAN:
			d.Type, d.Name, d.VNI, d.Port = typeVXLAN, []string{"flannel.1", "flannel-v6.1"}[i], 1, 8472
			d.Local, d.Underlay, d.MAC = own.PublicIP, "eth0", own.VTEPMAC
		case backendWireGuard:
			d.Type, d.Name = typeWireGuard, []string{"flannel-wg", "flannel-wg-v6"}[i]
			// one to all pods
			bits := []int{16, 48}[i]
			h.Routes = append(h.Routes, Route{Dst: netip.PrefixFrom(subnet.Addr(), bits).Masked(), Device: d.Index, DeviceName: d.Name})
		case backendIPIP:
			d.Type, d.Name, d.Local = typeIPIP, "flannel.ipip", own.PublicIP
		}
		if d.Type != "" && !(backend == backendIPIP && v6) {
			h.Devices = append(h.Devices, d)
		}
		for _, n := range in.Nodes[1:] {
			in.addPeer(n, v6, &d)
		}
	}
	return in
}

func (in *Input) addPeer(n *inventory.Node, v6 bool, d *inventory.FlannelDevice) {
	h, end, subnet := in.Host, backendOf(n, v6), podCIDR(n, v6)
	r := Route{Dst: subnet, Gateway: end.PublicIP, Device: uplink, DeviceName: "eth0"}
	switch in.Own.Flannel.Backend {
	case backendVXLAN:
		r.Gateway, r.Device, r.DeviceName = subnet.Addr(), d.Index, d.Name
		h.FDB = append(h.FDB, Entry{Device: d.Index, MAC: macText(end.VTEPMAC), Remote: end.PublicIP, Permanent: true})
		h.Neighbours = append(h.Neighbours, Neighbour{Device: d.Index, Addr: subnet.Addr(), MAC: macText(end.VTEPMAC), Permanent: true})
	case backendWireGuard:
		return
	case backendIPIP:
		if v6 {
			return
		}
		r.Device, r.DeviceName = d.Index, d.Name
	}
	h.Routes = append(h.Routes, r)
}

func TestNoDifference(t *testing.T) {
	for backend, devices := range map[string][]string{
		backendVXLAN: {"flannel.1", "flannel-v6.1"}, backendHostGW: nil,
		backendWireGuard: {"flannel-wg", "flannel-wg-v6"}, backendIPIP: {"flannel.ipip"},
	} {
		t.Run(backend, func(t *testing.T) {
			in := testInput(backend)
			require.NotEmpty(t, in.Host.Routes)
			got := Reconcile(*in)
			require.Empty(t, got.Differences)
			var names []string
			for _, d := range got.Devices {
				names = append(names, d.Name)
			}
			require.Equal(t, devices, names)
		})
	}
}

// difference is one without what is said of it.
func difference(kind, node, subject string) inventory.FlannelDifference {
	return inventory.FlannelDifference{Kind: kind, Node: node, Subject: subject}
}

func (in *Input) route(dst string) *Route {
	for i := range in.Host.Routes {
		if in.Host.Routes[i].Dst.String() == dst {
			return &in.Host.Routes[i]
		}
	}
	return nil
}

func (in *Input) dropRoute(dst string) {
	in.Host.Routes = slices.DeleteFunc(in.Host.Routes, func(r Route) bool { return r.Dst.String() == dst })
}

// direct makes a route as DirectRouting and host-gw do.
func (in *Input) direct(dst, gateway string) {
	r := in.route(dst)
	r.Gateway, r.Device, r.DeviceName = addr(gateway), uplink, "eth0"
}

// forget leaves a node out of those that there are.
func (in *Input) forget(name string) *inventory.Node {
	for i, n := range in.Nodes {
		if n.Name == name {
			in.Nodes = slices.Delete(in.Nodes, i, i+1)
			return n
		}
	}
	return nil
}

// Entries of testInput(vxlan): those of b and c of IPv4, then of IPv6.
const (
	b4 = iota
	c4
	b6
	c6
)

func TestDifferences(t *testing.T) {
	const (
		pods2, pods3 = "10.244.2.0/24", "10.244.3.0/24"
		mac2, mac3   = "5a:00:00:00:00:02", "5a:00:00:00:00:03"
	)
	for name, tt := range map[string]struct {
		backend string
		change  func(*Input)
		want    []inventory.FlannelDifference
	}{
		"device missing": {backendVXLAN, func(in *Input) { in.Host.Devices = in.Host.Devices[1:] }, []inventory.FlannelDifference{
			difference(KindDeviceMissing, "a", "ipv4"),
		}},
		"device missing, and what was made of it": {backendVXLAN, func(in *Input) { *in.Host = Host{} }, []inventory.FlannelDifference{
			difference(KindDeviceMissing, "a", "ipv4"), difference(KindDeviceMissing, "a", "ipv6"),
		}},
		"WireGuard's device missing": {backendWireGuard, func(in *Input) { in.Host.Devices = in.Host.Devices[:1] }, []inventory.FlannelDifference{
			difference(KindDeviceMissing, "a", "ipv6"),
		}},
		"IPIP's device missing": {backendIPIP, func(in *Input) { in.Host.Devices = nil; in.Host.Routes = nil }, []inventory.FlannelDifference{
			difference(KindDeviceMissing, "a", "ipv4"),
		}},
		"device down": {backendVXLAN, func(in *Input) { in.Host.Devices[0].Up = false }, []inventory.FlannelDifference{
			difference(KindDeviceDown, "a", "flannel.1"),
		}},
		"another name": {backendVXLAN, func(in *Input) { in.Host.Devices[0].Name = "vtep"; in.Host.Devices[1].Name = "vtep6" }, nil},
		"another's VXLAN device": {backendVXLAN, func(in *Input) {
			in.Host.Devices = slices.Insert(in.Host.Devices, 0, inventory.FlannelDevice{
				Index: 7, Name: "vxlan.calico", Type: typeVXLAN, VNI: 4096, Local: addr("192.168.0.1"), MAC: mac(9), Up: true,
			})
			in.Host.FDB = append(in.Host.FDB, Entry{Device: 7, MAC: mac2, Remote: addr("192.168.0.99"), Permanent: true})
		}, nil},
		"only another's VXLAN device": {backendVXLAN, func(in *Input) {
			in.Host.Devices[0].Name, in.Host.Devices[0].VNI, in.Host.Devices[0].MAC = "vxlan.calico", 4096, mac(9)
		}, []inventory.FlannelDifference{difference(KindDeviceMissing, "a", "ipv4")}},
		"VNI": {backendVXLAN, func(in *Input) { in.Host.Devices[0].VNI = 2 }, []inventory.FlannelDifference{
			difference(KindVNI, "a", "flannel.1"),
		}},
		"VNI of another node": {backendVXLAN, func(in *Input) { in.Nodes[1].Flannel.V4.VNI = 4096 }, []inventory.FlannelDifference{
			difference(KindVNI, "b", "b"),
		}},
		"VNI of an entry": {backendVXLAN, func(in *Input) { in.Host.FDB[b4].VNI = 7 }, []inventory.FlannelDifference{
			difference(KindVNI, "b", mac2),
		}},
		"port": {backendVXLAN, func(in *Input) { in.Port = 4789 }, []inventory.FlannelDifference{
			difference(KindPort, "a", "flannel-v6.1"), difference(KindPort, "a", "flannel.1"),
		}},
		"port as configured": {backendVXLAN, func(in *Input) { in.Port = 8472 }, nil},
		"port of an entry": {backendVXLAN, func(in *Input) { in.Host.FDB[c4].Port = 4789 }, []inventory.FlannelDifference{
			difference(KindPort, "c", mac3),
		}},
		"own MAC address": {backendVXLAN, func(in *Input) { in.Host.Devices[1].MAC = mac(0x77) }, []inventory.FlannelDifference{
			difference(KindVTEPMAC, "a", "flannel-v6.1"),
		}},
		"MAC address of an entry": {backendVXLAN, func(in *Input) { in.Host.FDB[b4].MAC = "5a:00:00:00:00:99" }, []inventory.FlannelDifference{
			difference(KindVTEPMAC, "b", "fdb 192.168.0.2"),
		}},
		"MAC address of a neighbour": {backendVXLAN, func(in *Input) { in.Host.Neighbours[b6].MAC = "5a:00:00:00:00:99" }, []inventory.FlannelDifference{
			difference(KindVTEPMAC, "b", "neighbour fd00:10:244:2::"),
		}},
		"a node came anew": {backendVXLAN, func(in *Input) { in.Nodes[1].Flannel.V4.VTEPMAC = mac(0x99) }, []inventory.FlannelDifference{
			difference(KindVTEPMAC, "b", "fdb 192.168.0.2"), difference(KindVTEPMAC, "b", "neighbour 10.244.2.0"),
		}},
		"public address of an entry": {backendVXLAN, func(in *Input) { in.Host.FDB[c6].Remote = addr("fd00::99") }, []inventory.FlannelDifference{
			difference(KindPublicIP, "c", "5a:00:00:00:00:13"),
		}},
		"own public address": {backendVXLAN, func(in *Input) { in.Host.Devices[0].Local = addr("192.168.0.77") }, []inventory.FlannelDifference{
			difference(KindPublicIP, "a", "flannel.1"),
		}},
		"own public address is a router's": {backendVXLAN, func(in *Input) {
			in.Own.Flannel.V4.PublicIP, in.Nodes[0].Flannel.V4.PublicIP = addr("203.0.113.1"), addr("203.0.113.1")
		}, nil},
		"FDB entry missing": {backendVXLAN, func(in *Input) { in.Host.FDB = slices.Delete(in.Host.FDB, b4, b4+1) }, []inventory.FlannelDifference{
			difference(KindFDBMissing, "b", mac2),
		}},
		"FDB entry of nobody": {backendVXLAN, func(in *Input) {
			in.Host.FDB = append(in.Host.FDB, Entry{Device: tunnel, MAC: "5a:00:00:00:00:99", Remote: addr("192.168.0.99"), Permanent: true})
		}, []inventory.FlannelDifference{difference(KindFDBStale, "", "5a:00:00:00:00:99")}},
		"FDB entry that was learned": {backendVXLAN, func(in *Input) {
			in.Host.FDB = append(in.Host.FDB, Entry{Device: tunnel, MAC: "5a:00:00:00:00:99", Remote: addr("192.168.0.99")})
		}, nil},
		"a node that went": {backendVXLAN, func(in *Input) { in.Former = append(in.Former, in.forget("c")) }, []inventory.FlannelDifference{
			difference(KindFDBStale, "c", mac3), difference(KindFDBStale, "c", "5a:00:00:00:00:13"),
			difference(KindNeighbourStale, "", "10.244.3.0"), difference(KindNeighbourStale, "", "fd00:10:244:3::"),
			difference(KindRouteStale, "", pods3), difference(KindRouteStale, "", "fd00:10:244:3::/64"),
		}},
		"a node that flannel has said nothing of yet": {backendVXLAN, func(in *Input) { in.Nodes = append(in.Nodes, &inventory.Node{Name: "d"}) }, nil},
		"neighbour missing": {backendVXLAN, func(in *Input) { in.Host.Neighbours = slices.Delete(in.Host.Neighbours, c4, c4+1) }, []inventory.FlannelDifference{
			difference(KindNeighbourMissing, "c", "10.244.3.0"),
		}},
		"neighbour unknown": {backendVXLAN, func(in *Input) { in.Host.Neighbours[c4].MAC, in.Host.Neighbours[c4].Permanent = "", false }, []inventory.FlannelDifference{
			difference(KindNeighbourMissing, "c", "10.244.3.0"),
		}},
		"route missing": {backendVXLAN, func(in *Input) {
			in.dropRoute(pods2)
			in.Host.Routes = append(in.Host.Routes, Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: addr("192.168.0.254"), Device: uplink})
		}, []inventory.FlannelDifference{difference(KindRouteMissing, "b", pods2)}},
		"route of host-gw missing":   {backendHostGW, func(in *Input) { in.dropRoute(pods2) }, []inventory.FlannelDifference{difference(KindRouteMissing, "b", pods2)}},
		"route of IPIP missing":      {backendIPIP, func(in *Input) { in.dropRoute(pods2) }, []inventory.FlannelDifference{difference(KindRouteMissing, "b", pods2)}},
		"route of WireGuard missing": {backendWireGuard, func(in *Input) { in.dropRoute("fd00:10:244::/48") }, []inventory.FlannelDifference{difference(KindRouteMissing, "b", "fd00:10:244:2::/64"), difference(KindRouteMissing, "c", "fd00:10:244:3::/64")}},
		"route of nobody": {backendVXLAN, func(in *Input) {
			in.Host.Routes = append(in.Host.Routes, Route{Dst: netip.MustParsePrefix("10.244.9.0/24"), Gateway: addr("10.244.9.0"), Device: tunnel})
		}, []inventory.FlannelDifference{difference(KindRouteStale, "", "10.244.9.0/24")}},
		"route of host-gw by way of a node": {backendHostGW, func(in *Input) {
			in.Host.Routes = append(in.Host.Routes, Route{Dst: netip.MustParsePrefix("10.244.9.0/24"), Gateway: addr("192.168.0.2"), Device: uplink})
		}, []inventory.FlannelDifference{difference(KindRouteStale, "", "10.244.9.0/24")}},
		"route of host-gw to a node that went": {backendHostGW, func(in *Input) { in.Former = append(in.Former, in.forget("c")) }, []inventory.FlannelDifference{
			difference(KindRouteStale, "c", pods3), difference(KindRouteStale, "c", "fd00:10:244:3::/64"),
		}},
		"routes of others": {backendHostGW, func(in *Input) {
			in.Host.Routes = append(in.Host.Routes,
				Route{Dst: netip.MustParsePrefix("172.20.0.0/24"), Gateway: addr("192.168.0.254"), Device: uplink},
				Route{Dst: netip.MustParsePrefix("fe80::/64"), Device: tunnel6})
		}, nil},
		"route by way of another node": {backendVXLAN, func(in *Input) { in.route(pods2).Gateway = addr("10.244.3.0") }, []inventory.FlannelDifference{
			difference(KindRoute, "b", pods2),
		}},
		"route to nowhere": {backendHostGW, func(in *Input) { in.route(pods2).Unusable = "blackhole" }, []inventory.FlannelDifference{
			difference(KindRoute, "b", pods2),
		}},
		"route of host-gw elsewhere": {backendHostGW, func(in *Input) { in.direct(pods2, "192.168.0.254") }, []inventory.FlannelDifference{
			difference(KindRoute, "b", pods2),
		}},
		"route of IPIP elsewhere": {backendIPIP, func(in *Input) { in.route(pods2).Gateway = addr("192.168.0.3") }, []inventory.FlannelDifference{
			difference(KindRoute, "b", pods2),
		}},
		"a route that another goes before": {backendVXLAN, func(in *Input) {
			in.Host.Routes = append(in.Host.Routes, Route{Dst: netip.MustParsePrefix(pods2), Gateway: addr("192.168.0.254"), Device: uplink, Metric: 100})
		}, nil},
		"DirectRouting, all nodes": {backendVXLAN, func(in *Input) {
			in.direct(pods2, "192.168.0.2")
			in.direct(pods3, "192.168.0.3")
			in.Host.FDB, in.Host.Neighbours = in.Host.FDB[b6:], in.Host.Neighbours[b6:]
		}, nil},
		"DirectRouting of IPIP": {backendIPIP, func(in *Input) { in.direct(pods2, "192.168.0.2") }, nil},
		"host-gw in place of VXLAN": {backendVXLAN, func(in *Input) {
			in.direct(pods2, "192.168.0.2")
			in.direct(pods3, "192.168.0.3")
			in.Host.Devices = in.Host.Devices[1:]
		}, []inventory.FlannelDifference{difference(KindBackend, "a", "ipv4 host-gw")}},
		"VXLAN in place of host-gw": {backendHostGW, func(in *Input) {
			in.Host.Devices = testInput(backendVXLAN).Host.Devices
			in.Host.Routes = testInput(backendVXLAN).Host.Routes
		}, []inventory.FlannelDifference{difference(KindBackend, "a", "ipv4 vxlan"), difference(KindBackend, "a", "ipv6 vxlan")}},
		"WireGuard in place of VXLAN": {backendVXLAN, func(in *Input) {
			other := testInput(backendWireGuard).Host
			in.Host.Devices = other.Devices
			for _, dst := range []string{pods2, pods3} {
				*in.route(dst) = Route{Dst: netip.MustParsePrefix(dst), Device: tunnel, DeviceName: "wg0"}
			}
			in.dropRoute("fd00:10:244:2::/64")
			in.dropRoute("fd00:10:244:3::/64")
		}, []inventory.FlannelDifference{difference(KindBackend, "a", "ipv4 wireguard"), difference(KindDeviceMissing, "a", "ipv6")}},
		"a node with another backend": {backendVXLAN, func(in *Input) { in.Nodes[1] = testNode(2, backendHostGW) }, []inventory.FlannelDifference{
			difference(KindBackend, "b", "b"), difference(KindFDBStale, "b", mac2), difference(KindFDBStale, "b", "5a:00:00:00:00:12"),
		}},
		"IPv4 alone": {backendVXLAN, func(in *Input) {
			for _, n := range append([]*inventory.Node{in.Own}, in.Nodes...) {
				n.Flannel.V6, n.PodCIDRs = nil, n.PodCIDRs[:1]
			}
			in.Host.Devices, in.Host.FDB, in.Host.Neighbours = in.Host.Devices[:1], in.Host.FDB[:b6], in.Host.Neighbours[:b6]
			in.Host.Routes = slices.DeleteFunc(in.Host.Routes, func(r Route) bool { return r.Dst.Addr().Is6() })
		}, nil},
		"a backend that is not known": {backendVXLAN, func(in *Input) {
			for _, n := range append([]*inventory.Node{in.Own}, in.Nodes...) {
				n.Flannel.Backend = "udp"
			}
			*in.Host = Host{}
		}, nil},
		"no annotations": {backendVXLAN, func(in *Input) { in.Own.Flannel = nil; *in.Host = Host{} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			in := testInput(tt.backend)
			tt.change(in)
			var got []inventory.FlannelDifference
			for _, d := range Reconcile(*in).Differences {
				require.NotEmpty(t, Kinds[d.Kind], "what to do about %s", d.Kind)
				require.NotEmpty(t, d.Annotation)
				require.NotEmpty(t, d.Host)
				got = append(got, difference(d.Kind, d.Node, d.Subject))
			}
			require.ElementsMatch(t, tt.want, got)
		})
	}
}

func TestWhatIsSaid(t *testing.T) {
	in := testInput(backendVXLAN)
	in.Host.FDB[b4].Remote, in.Host.FDB[b4].Port = addr("192.168.0.99"), 4789
	in.dropRoute("10.244.3.0/24")
	in.Host.Devices[0].VNI = 2
	require.Equal(t, []inventory.FlannelDifference{
		{
			Kind: KindPort, Node: "b", Subject: "5a:00:00:00:00:02", Annotation: "10.244.2.0/24 at 192.168.0.2, VTEP 5a:00:00:00:00:02",
			Host: "5a:00:00:00:00:02 dev flannel.1 dst 192.168.0.99 port 4789; the device has port 8472",
		},
		{
			Kind: KindPublicIP, Node: "b", Subject: "5a:00:00:00:00:02", Annotation: "10.244.2.0/24 at 192.168.0.2, VTEP 5a:00:00:00:00:02",
			Host: "5a:00:00:00:00:02 dev flannel.1 dst 192.168.0.99 port 4789",
		},
		{
			Kind: KindRouteMissing, Node: "c", Subject: "10.244.3.0/24", Annotation: "10.244.3.0/24 at 192.168.0.3, VTEP 5a:00:00:00:00:03",
			Host: "no route to 10.244.3.0/24",
		},
		{Kind: KindVNI, Node: "a", Subject: "flannel.1", Annotation: "VNI 1", Host: "flannel.1 has VNI 2"},
	}, Reconcile(*in).Differences)
}

func TestOneRunsOutOfManyNodes(t *testing.T) {
	in := testInput(backendHostGW)
	in.Nodes, in.Host.Devices = nil, testInput(backendVXLAN).Host.Devices
	for number := byte(1); number <= 9; number++ {
		n := testNode(number, backendHostGW)
		in.Nodes = append(in.Nodes, n)
		in.Host.Routes = append(in.Host.Routes, Route{Dst: n.PodCIDRs[0], Gateway: n.PodCIDRs[0].Addr(), Device: tunnel}, Route{Dst: n.PodCIDRs[1], Gateway: n.Addresses[1], Device: uplink})
	}
	in.Host.Routes = in.Host.Routes[6:] // those of testInput
	got := Reconcile(*in).Differences
	require.Len(t, got, 1)
	require.Equal(t, "routes to 8 nodes (b, c, d, …) are those of vxlan", got[0].Host)
}

func TestTracker(t *testing.T) {
	const settle = 10 * time.Second
	start := time.Unix(1000, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	d := difference(KindFDBStale, "b", "x")
	other := difference(KindRoute, "b", "x")
	tr := NewTracker(settle)
	require.Equal(t, Changes{Pending: true}, tr.Update(at(0), []inventory.FlannelDifference{d}))
	require.Equal(t, Changes{Pending: true}, tr.Update(at(9), []inventory.FlannelDifference{d}), "not for long enough")
	d.Since = at(0)
	require.Equal(t, Changes{Appeared: []inventory.FlannelDifference{d}, Lasting: []inventory.FlannelDifference{d}}, tr.Update(at(10), []inventory.FlannelDifference{d}))
	got := tr.Update(at(11), []inventory.FlannelDifference{d, other})
	require.Empty(t, got.Appeared, "once")
	require.True(t, got.Pending)
	require.Equal(t, Changes{Lasting: []inventory.FlannelDifference{d}}, tr.Update(at(12), []inventory.FlannelDifference{d}), "the other was there while flannel worked")
	require.Equal(t, Changes{Gone: []inventory.FlannelDifference{d}}, tr.Update(at(13), nil))
	require.Equal(t, Changes{}, tr.Update(at(14), nil))
	require.Equal(t, Changes{Pending: true}, tr.Update(at(99), []inventory.FlannelDifference{d}), "it begins anew")
	require.NotEmpty(t, tr.Update(at(200), []inventory.FlannelDifference{d, d}).Appeared)
}

func TestKeep(t *testing.T) {
	k := KeepFor(testInput(backendVXLAN).Nodes)
	for dst, want := range map[string]bool{
		"10.244.2.0/24": true, "10.244.0.0/16": true, "0.0.0.0/0": true, "10.244.9.0/24": false, "10.244.2.0/25": false,
		"fd00:10:244:2::/64": true, "fd00:10:244::/48": true, "::/0": true, "fd00:10:245::/48": false,
	} {
		r := Route{Dst: netip.MustParsePrefix(dst), Gateway: addr("192.168.0.254")}
		require.Equal(t, want, k.route(&r, false), dst)
		require.True(t, k.route(&r, true), dst)
		r.Gateway = addr("192.168.0.2")
		require.True(t, k.route(&r, false), "by way of a node")
	}
}
