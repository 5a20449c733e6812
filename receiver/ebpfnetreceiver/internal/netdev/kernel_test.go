// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"bytes"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// lab is the test's namespace, as a node with pods, and another node.
type lab struct {
	*recorder
	machine
	graph                *Graph
	podA, podB, neighbor *netnstest.Namespace
	tun                  *os.File
}

func newLab(t *testing.T) *lab {
	t.Helper()
	netnstest.Enter(t)
	l := &lab{podA: netnstest.New(t), podB: netnstest.New(t), neighbor: netnstest.New(t), recorder: newRecorder(t)}
	forwards(t)
	netnstest.Up(t, "lo")
	l.uplink(t)
	bridge := l.bridge(t)
	l.pod(t, l.podA, "podA", "10.42.0.2", bridge)
	l.pod(t, l.podB, "podB", "10.42.0.3", bridge)
	l.tunnels(t)
	l.pair(t)
	macvlan := &netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE, LinkAttrs: netlink.LinkAttrs{Name: "mac0", ParentIndex: indexOf(t, "eth0")}}
	require.NoError(t, netlink.LinkAdd(macvlan))
	addAddress(t, netnstest.Up(t, "mac0"), "192.168.2.1/24")
	_, l.tun = netnstest.Tun(t, "tun0")

	all, err := List()
	require.NoError(t, err)
	l.machine = machine{}
	for _, i := range all {
		l.machine[i.Name] = i
		l.watch(t, i.Index)
	}
	l.graph = NewGraph(all, everything, Options{VXLANPorts: []uint16{4789}}, nil)
	return l
}

// forwards lets the namespace forward, from and to anything.
func forwards(t *testing.T) {
	t.Helper()
	netnstest.Sysctl(t, "ipv4/ip_forward", "1")
	for _, conf := range []string{"all", "default"} {
		netnstest.Sysctl(t, "ipv4/conf/"+conf+"/rp_filter", "0")
		netnstest.Sysctl(t, "ipv4/conf/"+conf+"/send_redirects", "0")
	}
}

func addAddress(t *testing.T, link netlink.Link, cidr string) {
	t.Helper()
	a, err := netlink.ParseAddr(cidr)
	require.NoError(t, err)
	a.Flags = unix.IFA_F_NODAD
	require.NoError(t, netlink.AddrAdd(link, a))
}

func route(t *testing.T, to, via string) {
	t.Helper()
	_, destination, err := net.ParseCIDR(to)
	require.NoError(t, err)
	require.NoError(t, netlink.RouteAdd(&netlink.Route{Dst: destination, Gw: net.ParseIP(via)}))
}

func indexOf(t *testing.T, name string) int {
	t.Helper()
	link, err := netlink.LinkByName(name)
	require.NoError(t, err)
	return link.Attrs().Index
}

// uplink connects eth0 with the other node.
func (l *lab) uplink(t *testing.T) {
	t.Helper()
	near, far := netnstest.Veth(t, "eth0", "far")
	l.neighbor.Adopt(t, far)
	configure := func(name, host string) {
		forwards(t)
		netnstest.Sysctl(t, "ipv6/conf/"+name+"/disable_ipv6", "0")
		link := netnstest.Up(t, name)
		for _, prefix := range []string{"192.168.0.", "fd00::"} {
			bits := map[string]string{"192.168.0.": "/24", "fd00::": "/64"}[prefix]
			addAddress(t, link, prefix+host+bits)
		}
	}
	configure(near.Attrs().Name, "1")
	l.neighbor.Do(t, func() {
		configure(far.Attrs().Name, "2")
		addAddress(t, netnstest.Up(t, "far"), "192.168.2.2/24")
	})
}

func (l *lab) bridge(t *testing.T) netlink.Link {
	t.Helper()
	require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}))
	bridge := netnstest.Up(t, "cni0")
	addAddress(t, bridge, "10.42.0.1/24")
	return bridge
}

func (l *lab) pod(t *testing.T, pod *netnstest.Namespace, name, ip string, bridge netlink.Link) {
	t.Helper()
	near, far := netnstest.Veth(t, name, "far")
	require.NoError(t, netlink.LinkSetMaster(near, bridge))
	pod.Adopt(t, far)
	pod.Do(t, func() {
		addAddress(t, netnstest.Up(t, "far"), ip+"/24")
		route(t, "0.0.0.0/0", "10.42.0.1")
	})
}

// tunnels makes one over IPv4, and one over IPv6.
func (l *lab) tunnels(t *testing.T) {
	t.Helper()
	vxlan := func(name string, id int, underlay, local, remote, inner string) {
		require.NoError(t, netlink.LinkAdd(&netlink.Vxlan{
			LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: 1000}, VxlanId: id, Port: 4789, VtepDevIndex: indexOf(t, underlay),
			SrcAddr: net.ParseIP(local), Group: net.ParseIP(remote),
		}))
		addAddress(t, netnstest.Up(t, name), inner)
	}
	vxlan("vxlan4", 4, "eth0", "192.168.0.1", "192.168.0.2", "10.4.0.1/24")
	vxlan("vxlan6", 6, "eth0", "fd00::1", "fd00::2", "10.6.0.1/24")
	l.neighbor.Do(t, func() {
		vxlan("vxlan4", 4, "far", "192.168.0.2", "192.168.0.1", "10.4.0.2/24")
		vxlan("vxlan6", 6, "far", "fd00::2", "fd00::1", "10.6.0.2/24")
		route(t, "10.42.0.0/24", "10.4.0.1")
	})
}

// pair makes a local one, of which one end is a bridge's port.
func (l *lab) pair(t *testing.T) {
	t.Helper()
	a, b := netnstest.Veth(t, "a", "b")
	require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	bridge := netnstest.Up(t, "br0")
	require.NoError(t, netlink.LinkSetMaster(b, bridge))
	addAddress(t, a, "10.7.0.1/24")
	require.NoError(t, netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: a.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP("10.7.0.2"), HardwareAddr: netnstest.Up(t, "br0").Attrs().HardwareAddr,
	}))
}

// send sends a packet that the recorder notices.
func send(t *testing.T, to string) {
	t.Helper()
	c, err := net.Dial("udp", net.JoinHostPort(to, "9"))
	require.NoError(t, err)
	_, err = c.Write(bytes.Repeat([]byte{1}, shortest))
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// inject has the packet come in by the tun device.
func (l *lab) inject(t *testing.T, to string) {
	t.Helper()
	const headers = 20
	p := make([]byte, shortest+headers)
	p[0], p[8], p[9] = 0x45, 64, 253 // version and length, hops, for experiments
	p[2], p[3] = byte(len(p)>>8), byte(len(p)&0xff)
	source, destination := netip.MustParseAddr("10.8.0.9").As4(), netip.MustParseAddr(to).As4()
	copy(p[12:], source[:])
	copy(p[16:], destination[:])
	sum := uint32(0)
	for i := 0; i < headers; i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	sum = sum&0xffff + sum>>16
	sum = ^(sum&0xffff + sum>>16)
	p[10], p[11] = byte(sum>>8), byte(sum)
	_, err := l.tun.Write(p)
	require.NoError(t, err)
}

func (r *recorder) forget(t *testing.T) {
	t.Helper()
	var keys [][sightingSize]byte
	var key [sightingSize]byte
	var packets uint64
	for i := r.seen.Iterate(); i.Next(&key, &packets); {
		keys = append(keys, key)
	}
	for _, key := range keys {
		require.NoError(t, r.seen.Delete(key))
	}
}

// The kernel shows packets where, and as from where, the scenarios of the other
// tests have it; and each counts once.
func TestKernelShowsPacketsAsExpected(t *testing.T) {
	l := newLab(t)
	from := func(n *netnstest.Namespace, to string) func() {
		return func() { n.Do(t, func() { send(t, to) }) }
	}
	here := func(to string) func() { return func() { send(t, to) } }
	for _, tt := range []struct {
		name  string
		send  func()
		sees  []string
		owner string
	}{
		{"pod to pod", from(l.podA, "10.42.0.3"), []string{"podA in", "podB out from podA"}, "podA in"},
		{"pod to host", from(l.podA, "10.42.0.1"), []string{"podA in", "cni0 in"}, "podA in"},
		{"host to pod", here("10.42.0.2"), []string{"cni0 out", "podA out"}, "podA out"},
		{"pod to outside", from(l.podA, "192.168.0.2"), []string{"podA in", "cni0 in", "eth0 out from cni0"}, "podA in"},
		{"outside to host", from(l.neighbor, "192.168.0.1"), []string{"eth0 in"}, "eth0 in"},
		{"host to outside", here("192.168.0.2"), []string{"eth0 out"}, "eth0 out"},
		{"pod to remote pod", from(l.podA, "10.4.0.2"),
			[]string{"podA in", "cni0 in", "vxlan4 out from cni0", "eth0 out vxlan 4"}, "podA in"},
		{"host to remote pod", here("10.4.0.2"), []string{"vxlan4 out", "eth0 out vxlan 4"}, "vxlan4 out"},
		{"remote to pod", from(l.neighbor, "10.42.0.2"),
			[]string{"eth0 in vxlan 4", "vxlan4 in", "cni0 out from vxlan4", "podA out from vxlan4"}, "eth0 in vxlan 4"},
		{"pod to remote pod over IPv6", from(l.podA, "10.6.0.2"),
			[]string{"podA in", "cni0 in", "vxlan6 out from cni0", "eth0 out vxlan 6"}, "podA in"},
		{"remote to host over IPv6", from(l.neighbor, "10.6.0.1"), []string{"eth0 in vxlan 6", "vxlan6 in"}, "eth0 in vxlan 6"},
		{"macvlan out", here("192.168.2.2"), []string{"mac0 out", "eth0 out"}, "eth0 out"},
		{"in to macvlan", from(l.neighbor, "192.168.2.1"), []string{"eth0 in", "mac0 in"}, "eth0 in"},
		{"local pair", here("10.7.0.2"), []string{"a out", "b in", "br0 in"}, "a out"},
		{"loopback", here("127.0.0.1"), []string{"lo out", "lo in"}, "lo out"},
		{"tun to pod", func() { l.inject(t, "10.42.0.3") },
			[]string{"tun0 in", "cni0 out from tun0", "podB out from tun0"}, "tun0 in"},
		{"tun to pair", func() { l.inject(t, "10.7.0.2") }, []string{"tun0 in", "a out from tun0", "b in", "br0 in",
			"a out from br0"}, "tun0 in"}, // routed back until its hops are used up
	} {
		want := map[sighting]bool{}
		for _, s := range tt.sees {
			o := l.observation(t, s)
			want[sighting{Interface: o.Interface, Direction: o.Direction, From: o.From}] = true
		}
		l.forget(t)
		tt.send()
		var got map[sighting]uint64
		netnstest.Eventually(t, func() bool {
			got = l.sightings(t)
			return len(got) >= len(want)
		}, tt.name)
		require.ElementsMatch(t, slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(got)), tt.name)
		require.Equal(t, []string{tt.owner}, l.owners(t, l.graph, nil, tt.sees), tt.name)
	}
}
