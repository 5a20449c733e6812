// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package flannel

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// node is the test's namespace as flannel makes it on node a of three, with its own calls.
type node struct {
	in     *Input
	uplink netlink.Link
	vxlan  [2]*netlink.Vxlan // of IPv4 and IPv6
}

func newNode(t *testing.T) *node {
	t.Helper()
	netnstest.Enter(t)
	n := &node{in: testInput(backendVXLAN)}
	netnstest.Sysctl(t, "ipv6/conf/default/disable_ipv6", "0")
	netnstest.Sysctl(t, "ipv6/conf/default/accept_dad", "0")
	netnstest.Up(t, "lo")
	n.uplink, _ = netnstest.Veth(t, "eth0", "link")
	for i, v6 := range []bool{false, true} {
		own := backendOf(n.in.Own, v6)
		addAddress(t, n.uplink, netip.PrefixFrom(own.PublicIP, []int{24, 64}[i]))
		n.vxlan[i] = &netlink.Vxlan{
			LinkAttrs: netlink.LinkAttrs{Name: []string{"flannel.1", "flannel-v6.1"}[i], HardwareAddr: own.VTEPMAC, MTU: 1450},
			VxlanId:   1, VtepDevIndex: n.uplink.Attrs().Index, SrcAddr: own.PublicIP.AsSlice(), Port: 8472,
		}
		require.NoError(t, netlink.LinkAdd(n.vxlan[i]))
		netnstest.Up(t, n.vxlan[i].Name)
		subnet := podCIDR(n.in.Own, v6)
		addAddress(t, n.vxlan[i], netip.PrefixFrom(subnet.Addr(), subnet.Addr().BitLen()))
		for _, peer := range n.in.Nodes[1:] {
			n.addPeer(t, peer, v6)
		}
	}
	return n
}

func addAddress(t *testing.T, l netlink.Link, p netip.Prefix) {
	t.Helper()
	require.NoError(t, netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p)}))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// device gives that of an IP version.
func (n *node) device(v6 bool) *netlink.Vxlan {
	if v6 {
		return n.vxlan[1]
	}
	return n.vxlan[0]
}

func (n *node) fdb(end *inventory.FlannelBackend, v6 bool) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: n.device(v6).Index, State: netlink.NUD_PERMANENT, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF,
		IP: end.PublicIP.AsSlice(), HardwareAddr: end.VTEPMAC,
	}
}

func (n *node) neighbour(peer *inventory.Node, v6 bool) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: n.device(v6).Index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST,
		IP: podCIDR(peer, v6).Addr().AsSlice(), HardwareAddr: backendOf(peer, v6).VTEPMAC,
	}
}

func (n *node) route(peer *inventory.Node, v6 bool) *netlink.Route {
	subnet := podCIDR(peer, v6)
	r := &netlink.Route{LinkIndex: n.device(v6).Index, Scope: netlink.SCOPE_UNIVERSE, Dst: ipNet(subnet), Gw: subnet.Addr().AsSlice()}
	r.SetFlag(unix.RTNH_F_ONLINK)
	return r
}

func (n *node) direct(peer *inventory.Node, v6 bool) *netlink.Route {
	return &netlink.Route{LinkIndex: n.uplink.Attrs().Index, Dst: ipNet(podCIDR(peer, v6)), Gw: backendOf(peer, v6).PublicIP.AsSlice()}
}

func (n *node) addPeer(t *testing.T, peer *inventory.Node, v6 bool) {
	t.Helper()
	require.NoError(t, netlink.NeighSet(n.neighbour(peer, v6)))
	require.NoError(t, netlink.NeighSet(n.fdb(backendOf(peer, v6), v6)))
	require.NoError(t, netlink.RouteReplace(n.route(peer, v6)))
}

// compare reads the host and gives the differences, without what is said of them.
func (n *node) compare(t *testing.T) []inventory.FlannelDifference {
	t.Helper()
	host, err := Read(KeepFor(n.in.Nodes))
	require.NoError(t, err)
	n.in.Host = host
	var got []inventory.FlannelDifference
	for _, d := range Reconcile(*n.in).Differences {
		got = append(got, difference(d.Kind, d.Node, d.Subject))
	}
	return got
}

func TestKernelAgrees(t *testing.T) {
	n := newNode(t)
	require.Empty(t, n.compare(t))
	require.True(t, n.in.Host.IsNodes(n.in.Own))
	require.False(t, n.in.Host.IsNodes(n.in.Nodes[1]))
	got := Reconcile(*n.in).Devices
	require.Len(t, got, 2)
	for i, want := range testInput(backendVXLAN).Host.Devices {
		want.Index, want.MTU = n.vxlan[i].Index, []int{1450, 1430}[i] // as much as fits into the uplink's
		require.Equal(t, want, got[i])
	}
	require.Len(t, n.in.Host.FDB, 4)
	// Each is there once, and what the kernel has by itself is not of interest.
	for _, v6 := range []bool{false, true} {
		for _, peer := range n.in.Nodes[1:] {
			end, subnet := backendOf(peer, v6), podCIDR(peer, v6)
			require.Contains(t, n.in.Host.FDB, Entry{Device: n.device(v6).Index, MAC: macText(end.VTEPMAC), Remote: end.PublicIP, Permanent: true})
			require.Contains(t, n.in.Host.Neighbours, Neighbour{Device: n.device(v6).Index, Addr: subnet.Addr(), MAC: macText(end.VTEPMAC), Permanent: true})
			routes := slices.DeleteFunc(slices.Clone(n.in.Host.Routes), func(r Route) bool { return r.Dst != subnet })
			require.Len(t, routes, 1)
			require.Equal(t, subnet.String()+" via "+subnet.Addr().String()+" dev "+n.device(v6).Name, routes[0].String())
		}
	}
}

// What is flannel's in the host's tables is said with the nodes that it is about.
func TestKernelTables(t *testing.T) {
	n := newNode(t)
	stray := netlink.Neigh{LinkIndex: n.device(false).Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, HardwareAddr: []byte{2, 0, 0, 0, 0, 9}, IP: net.IPv4(192, 168, 0, 99), VNI: 7}
	require.NoError(t, netlink.NeighAppend(&stray))
	n.compare(t)
	got := Reconcile(*n.in)
	require.Len(t, got.FDB, 5)
	require.Equal(t, inventory.FlannelForwarding{Device: "flannel.1", MAC: "02:00:00:00:00:09", Remote: addr("192.168.0.99"), VNI: 7, Permanent: true}, got.FDB[slices.IndexFunc(got.FDB, func(e inventory.FlannelForwarding) bool { return e.Node == "" })])
	for _, v6 := range []bool{false, true} {
		device := n.device(v6).Name
		for _, peer := range n.in.Nodes[1:] {
			end, subnet := backendOf(peer, v6), podCIDR(peer, v6)
			require.Contains(t, got.FDB, inventory.FlannelForwarding{Device: device, Node: peer.Name, MAC: macText(end.VTEPMAC), Remote: end.PublicIP, Permanent: true})
			require.Contains(t, got.Neighbours, inventory.FlannelNeighbour{Device: device, Node: peer.Name, Addr: subnet.Addr(), MAC: macText(end.VTEPMAC), Permanent: true})
			require.Contains(t, got.Routes, inventory.FlannelRoute{Device: device, Node: peer.Name, Dst: subnet, Gateway: subnet.Addr()})
		}
	}
}

func TestKernelOfOthers(t *testing.T) {
	netnstest.Enter(t)
	in := testInput(backendVXLAN)
	host, err := Read(KeepFor(in.Nodes))
	require.NoError(t, err)
	require.Equal(t, &Host{}, host)
	require.False(t, host.IsNodes(in.Own), "not the node's namespace")
}

// Each thing that is changed shows, and is no difference any more when it is as before.
func TestKernelDiffers(t *testing.T) {
	n := newNode(t)
	b, c := n.in.Nodes[1], n.in.Nodes[2]
	wrong := func(end *inventory.FlannelBackend, change func(*inventory.FlannelBackend)) *inventory.FlannelBackend {
		other := *end
		change(&other)
		return &other
	}
	otherMAC := func(e *inventory.FlannelBackend) { e.VTEPMAC = mac(0x99) }
	otherIP := func(e *inventory.FlannelBackend) { e.PublicIP = addr("192.168.0.99") }
	steps := []struct {
		name   string
		change func() error
		back   func() error
		want   []inventory.FlannelDifference
	}{
		{
			"FDB entry missing",
			func() error { return netlink.NeighDel(n.fdb(b.Flannel.V4, false)) },
			func() error { return netlink.NeighSet(n.fdb(b.Flannel.V4, false)) },
			[]inventory.FlannelDifference{difference(KindFDBMissing, "b", "5a:00:00:00:00:02")},
		},
		{
			"FDB entry missing, IPv6",
			func() error { return netlink.NeighDel(n.fdb(b.Flannel.V6, true)) },
			func() error { return netlink.NeighSet(n.fdb(b.Flannel.V6, true)) },
			[]inventory.FlannelDifference{difference(KindFDBMissing, "b", "5a:00:00:00:00:12")},
		},
		{
			"FDB entry to another address",
			func() error { return netlink.NeighSet(n.fdb(wrong(c.Flannel.V4, otherIP), false)) },
			func() error { return netlink.NeighSet(n.fdb(c.Flannel.V4, false)) },
			[]inventory.FlannelDifference{difference(KindPublicIP, "c", "5a:00:00:00:00:03")},
		},
		{
			"FDB entry of nobody",
			func() error { return netlink.NeighSet(n.fdb(wrong(c.Flannel.V4, otherMAC), false)) },
			func() error { return netlink.NeighDel(n.fdb(wrong(c.Flannel.V4, otherMAC), false)) },
			[]inventory.FlannelDifference{difference(KindFDBStale, "c", "5a:00:00:00:00:99")},
		},
		{
			"FDB entry with another MAC address",
			func() error {
				return errors.Join(netlink.NeighDel(n.fdb(b.Flannel.V6, true)), netlink.NeighSet(n.fdb(wrong(b.Flannel.V6, otherMAC), true)))
			},
			func() error {
				return errors.Join(netlink.NeighDel(n.fdb(wrong(b.Flannel.V6, otherMAC), true)), netlink.NeighSet(n.fdb(b.Flannel.V6, true)))
			},
			[]inventory.FlannelDifference{difference(KindVTEPMAC, "b", "fdb fd00::2")},
		},
		{
			"neighbour missing",
			func() error { return netlink.NeighDel(n.neighbour(b, true)) },
			func() error { return netlink.NeighSet(n.neighbour(b, true)) },
			[]inventory.FlannelDifference{difference(KindNeighbourMissing, "b", "fd00:10:244:2::")},
		},
		{
			"neighbour with another MAC address",
			func() error {
				other := n.neighbour(b, false)
				other.HardwareAddr = mac(0x99)
				return netlink.NeighSet(other)
			},
			func() error { return netlink.NeighSet(n.neighbour(b, false)) },
			[]inventory.FlannelDifference{difference(KindVTEPMAC, "b", "neighbour 10.244.2.0")},
		},
		{
			"neighbour of nobody",
			func() error { return netlink.NeighSet(n.neighbour(testNode(9, backendVXLAN), false)) },
			func() error { return netlink.NeighDel(n.neighbour(testNode(9, backendVXLAN), false)) },
			[]inventory.FlannelDifference{difference(KindNeighbourStale, "", "10.244.9.0")},
		},
		{
			"route missing",
			func() error { return netlink.RouteDel(n.route(c, true)) },
			func() error { return netlink.RouteReplace(n.route(c, true)) },
			[]inventory.FlannelDifference{difference(KindRouteMissing, "c", "fd00:10:244:3::/64")},
		},
		{
			"route of nobody",
			func() error { return netlink.RouteReplace(n.route(testNode(9, backendVXLAN), false)) },
			func() error { return netlink.RouteDel(n.route(testNode(9, backendVXLAN), false)) },
			[]inventory.FlannelDifference{difference(KindRouteStale, "", "10.244.9.0/24")},
		},
		{
			"route to nowhere",
			func() error {
				return errors.Join(netlink.RouteDel(n.route(c, false)), netlink.RouteReplace(&netlink.Route{Dst: ipNet(podCIDR(c, false)), Type: unix.RTN_BLACKHOLE}))
			},
			func() error {
				return errors.Join(netlink.RouteDel(&netlink.Route{Dst: ipNet(podCIDR(c, false)), Type: unix.RTN_BLACKHOLE}), netlink.RouteReplace(n.route(c, false)))
			},
			[]inventory.FlannelDifference{difference(KindRoute, "c", "10.244.3.0/24")},
		},
		{
			"DirectRouting",
			func() error {
				return errors.Join(netlink.RouteReplace(n.direct(c, false)), netlink.NeighDel(n.neighbour(c, false)), netlink.NeighDel(n.fdb(c.Flannel.V4, false)))
			},
			func() error {
				return errors.Join(netlink.RouteReplace(n.route(c, false)), netlink.NeighSet(n.neighbour(c, false)), netlink.NeighSet(n.fdb(c.Flannel.V4, false)))
			},
			nil,
		},
		{
			"own MAC address",
			func() error { return netlink.LinkSetHardwareAddr(n.vxlan[0], mac(0x99)) },
			func() error {
				return errors.Join(netlink.LinkSetHardwareAddr(n.vxlan[0], n.in.Own.Flannel.V4.VTEPMAC), netlink.NeighSet(n.neighbour(b, false)), netlink.NeighSet(n.neighbour(c, false)))
			},
			[]inventory.FlannelDifference{
				difference(KindVTEPMAC, "a", "flannel.1"),
				// the kernel forgets them with the device's old address, permanent or not
				difference(KindNeighbourMissing, "b", "10.244.2.0"), difference(KindNeighbourMissing, "c", "10.244.3.0"),
			},
		},
	}
	for _, s := range steps {
		require.NoError(t, s.change(), s.name)
		require.ElementsMatch(t, s.want, n.compare(t), s.name)
		require.NoError(t, s.back(), s.name)
		require.Empty(t, n.compare(t), "after: %s", s.name)
	}
}

// remake makes the IPv4 device and what is of it anew, or something like it.
func (n *node) remake(t *testing.T, change func(*netlink.Vxlan)) {
	t.Helper()
	require.NoError(t, netlink.LinkDel(n.vxlan[0]))
	d := *n.vxlan[0]
	d.Index, d.HardwareAddr = 0, n.in.Own.Flannel.V4.VTEPMAC
	change(&d)
	n.vxlan[0] = &d
	require.NoError(t, netlink.LinkAdd(&d))
	netnstest.Up(t, d.Name)
	for _, peer := range n.in.Nodes[1:] {
		n.addPeer(t, peer, false)
	}
}

func TestKernelDevice(t *testing.T) {
	n := newNode(t)
	n.remake(t, func(d *netlink.Vxlan) { d.VxlanId = 2 })
	require.Equal(t, []inventory.FlannelDifference{difference(KindVNI, "a", "flannel.1")}, n.compare(t))
	n.remake(t, func(d *netlink.Vxlan) { d.VxlanId, d.Port = 1, 4789 })
	require.Empty(t, n.compare(t))
	n.in.Port = 8472
	require.Equal(t, []inventory.FlannelDifference{difference(KindPort, "a", "flannel.1")}, n.compare(t))
	n.remake(t, func(d *netlink.Vxlan) { d.Port, d.Name = 8472, "vtep" })
	require.Empty(t, n.compare(t), "by the VNI and the address")
	addAddress(t, n.uplink, netip.MustParsePrefix("192.168.0.77/24"))
	n.remake(t, func(d *netlink.Vxlan) { d.SrcAddr = net.IP{192, 168, 0, 77} })
	require.Equal(t, []inventory.FlannelDifference{difference(KindPublicIP, "a", "vtep")}, n.compare(t))
	require.NoError(t, netlink.LinkSetDown(n.vxlan[1]))
	require.Contains(t, n.compare(t), difference(KindDeviceDown, "a", "flannel-v6.1"))
	require.NoError(t, netlink.LinkDel(n.vxlan[1]))
	require.Equal(t, []inventory.FlannelDifference{difference(KindDeviceMissing, "a", "ipv6"), difference(KindPublicIP, "a", "vtep")}, n.compare(t))
}

func TestKernelHostGateway(t *testing.T) {
	n := newNode(t)
	for i, v6 := range []bool{false, true} {
		require.NoError(t, netlink.LinkDel(n.vxlan[i]))
		for _, peer := range n.in.Nodes[1:] {
			require.NoError(t, netlink.RouteReplace(n.direct(peer, v6)))
		}
	}
	require.Equal(t, []inventory.FlannelDifference{difference(KindBackend, "a", "ipv4 host-gw"), difference(KindBackend, "a", "ipv6 host-gw")}, n.compare(t), "annotations say VXLAN")
	for _, other := range append([]*inventory.Node{n.in.Own}, n.in.Nodes...) {
		other.Flannel.Backend = backendHostGW
	}
	require.Empty(t, n.compare(t))
	// One of two next hops is enough for the route to be there.
	r := n.direct(n.in.Nodes[1], false)
	require.NoError(t, netlink.RouteReplace(&netlink.Route{Dst: r.Dst, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: r.LinkIndex, Gw: r.Gw}, {LinkIndex: r.LinkIndex, Gw: net.IP{192, 168, 0, 254}},
	}}))
	require.Empty(t, n.compare(t))
}

// Devices of kinds that not every kernel has.
func TestKernelTunnels(t *testing.T) {
	for backend, link := range map[string]netlink.Link{
		backendWireGuard: &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "flannel-wg"}},
		backendIPIP:      &netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "flannel.ipip"}, Local: net.IP{192, 168, 0, 1}},
	} {
		func() {
			netnstest.Enter(t)
			in := testInput(backend)
			for _, n := range append([]*inventory.Node{in.Own}, in.Nodes...) {
				n.Flannel.V6 = nil
			}
			err := netlink.LinkAdd(link)
			if errors.Is(err, unix.EOPNOTSUPP) {
				t.Logf("this kernel has no %s", link.Type())
				return
			}
			require.NoError(t, err)
			netnstest.Up(t, "lo")
			up := netnstest.Up(t, link.Attrs().Name)
			uplink, _ := netnstest.Veth(t, "eth0", "link")
			addAddress(t, uplink, netip.MustParsePrefix("192.168.0.1/24"))
			addAddress(t, up, netip.MustParsePrefix("10.244.1.0/32"))
			if backend == backendWireGuard {
				require.NoError(t, netlink.RouteReplace(&netlink.Route{LinkIndex: up.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(netip.MustParsePrefix("10.244.0.0/16"))}))
			} else {
				for _, peer := range in.Nodes[1:] {
					require.NoError(t, netlink.RouteReplace(&netlink.Route{
						LinkIndex: up.Attrs().Index, Dst: ipNet(peer.PodCIDRs[0]), Gw: peer.Flannel.V4.PublicIP.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
					}))
				}
			}
			n := &node{in: in}
			require.Empty(t, n.compare(t), backend)
			got := Reconcile(*in).Devices
			require.Len(t, got, 1)
			require.Equal(t, link.Attrs().Name, got[0].Name)
			require.Equal(t, link.Type(), got[0].Type)
			require.NoError(t, netlink.LinkDel(up))
			require.Equal(t, []inventory.FlannelDifference{difference(KindDeviceMissing, "a", "ipv4")}, n.compare(t), backend)
		}()
	}
}

// run gives what a program says of this namespace.
func run(t *testing.T, into any, program string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		path = "/usr/sbin/" + program
	}
	out, err := exec.Command(path, args...).Output()
	require.NoError(t, err, "%s %v", program, args)
	require.NoError(t, json.Unmarshal(out, into))
}

// What is read is what ip and bridge show.
func TestReadAsProgramsDo(t *testing.T) {
	n := newNode(t)
	other := n.fdb(testNode(9, backendVXLAN).Flannel.V4, false)
	other.VNI = 77
	require.NoError(t, netlink.NeighSet(other))
	require.NoError(t, exec.Command("bridge", "fdb", "add", "5a:00:00:00:00:0a", "dev", "flannel.1", "dst", "192.168.0.10", "port", "4789").Run())
	n.compare(t)
	h := n.in.Host

	var links []struct {
		Ifname, Address string
		Mtu             int
		Linkinfo        struct {
			Data struct {
				ID            uint32
				Local, Local6 string
				Link          string
				Port          uint16
			} `json:"info_data"`
		}
	}
	run(t, &links, "ip", "-d", "-j", "link", "show", "type", "vxlan")
	require.Len(t, links, 2)
	require.Len(t, h.Devices, 2)
	for i, l := range links {
		d := h.Devices[i]
		data := l.Linkinfo.Data
		require.Equal(t, []any{l.Ifname, l.Address, l.Mtu, data.ID, data.Port, data.Link, data.Local + data.Local6},
			[]any{d.Name, macText(d.MAC), d.MTU, d.VNI, d.Port, d.Underlay, d.Local.String()})
	}
	var fdb []struct {
		Mac, Ifname, Dst, State string
		Port                    uint16
		Vni                     uint32
	}
	run(t, &fdb, "bridge", "-j", "fdb", "show")
	var want []Entry
	for _, e := range fdb {
		if strings.HasPrefix(e.Ifname, "flannel") {
			index := n.device(strings.Contains(e.Ifname, "v6")).Index
			want = append(want, Entry{index, e.Mac, addr(e.Dst), e.Port, e.Vni, e.State == "permanent"})
		}
	}
	require.Len(t, want, 6)
	require.ElementsMatch(t, want, h.FDB)
}

func TestWatch(t *testing.T) {
	n := newNode(t)
	w, err := Watch()
	require.NoError(t, err)
	defer w.Close()
	hears := func(what string) {
		t.Helper()
		select {
		case <-w.Changes():
		case <-time.After(20 * time.Second):
			require.FailNow(t, "waited in vain for "+what)
		}
	}
	b := n.in.Nodes[1]
	require.NoError(t, netlink.NeighDel(n.fdb(b.Flannel.V4, false)))
	hears("an FDB entry that goes")
	require.NoError(t, netlink.NeighSet(n.fdb(b.Flannel.V4, false)))
	hears("one that comes")
	require.NoError(t, netlink.RouteDel(n.route(b, true)))
	hears("a route that goes")
	require.NoError(t, netlink.LinkSetHardwareAddr(n.vxlan[0], mac(0x99)))
	hears("a device's MAC address")
	w.Close()
	w.Close()
}

func FuzzParseNeighbour(f *testing.F) {
	f.Add([]byte{unix.AF_BRIDGE, 0, 0, 0, 3, 0, 0, 0, 0x80, 0, 2, 0, 8, 0, 1, 0, 192, 168, 0, 2, 10, 0, 2, 0, 0x5a, 0, 0, 0, 0, 2, 0, 0, 6, 0, 6, 0, 0x12, 0xb5, 0, 0, 8, 0, 7, 0, 1, 0, 0, 0})
	f.Add([]byte{unix.AF_INET6})
	f.Fuzz(func(t *testing.T, message []byte) {
		n, ok := parseNeighbour(message)
		require.Equal(t, ok, ok && len(message) >= unix.SizeofNdMsg)
		if ok {
			require.Equal(t, message[0], n.family)
			require.False(t, n.addr.IsValid() && n.addr.IsUnspecified())
		}
	})
}
