// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

// cluster is two nodes as Flannel and kube-proxy would set them up, the network
// between them, and a host that belongs to neither:
//
//	pod a ── vetha ┐                                      ┌ …
//	pod b ── vethb ┴ cni0 ─ flannel.1 ─ eth0 ── fabric ── ┴ node 2
//	                    node 1                    │
//	                                           outside
//
// Pods of the two nodes talk to each other through VXLAN, to all others through
// the node's own address. The fabric also knows the way to the pods.
type cluster struct {
	nodes   [2]*node
	fabric  *namespace
	outside *place
}

// node is a machine with NetProbe on it.
type node struct {
	*namespace
	number int
	host   *place
	pods   [2]*place
	// overlay are the addresses of flannel.1, which the host has towards pods of
	// the other node.
	overlay addresses
}

// place is where a conversation has an end: a pod, a node or the outside.
type place struct {
	*namespace
	name  string
	addrs addresses
	node  *node  // nil outside
	veth  string // of a pod: the node's end of its link
}

func (p *place) isPod() bool { return p.veth != "" }

// addresses are one of each IP version.
type addresses struct{ v4, v6 netip.Addr }

func (a addresses) of(v ipVersion) netip.Addr {
	if v == ipv6 {
		return a.v6
	}
	return a.v4
}

type ipVersion string

const (
	ipv4 ipVersion = "ipv4"
	ipv6 ipVersion = "ipv6"
)

func address(v4, v6 string, args ...any) addresses {
	return addresses{
		netip.MustParseAddr(fmt.Sprintf(v4, args...)),
		netip.MustParseAddr(fmt.Sprintf(v6, args...)),
	}
}

const (
	podDevice     = "eth0"
	uplink        = "eth0"
	bridge        = "cni0"
	overlay       = "flannel.1"
	overlayID     = 1
	overlayPort   = 8472
	overlayMTU    = 1450 // what VXLAN over IPv4 leaves of 1500
	overlayHeader = 50   // Ethernet, IPv4, UDP, VXLAN

	// Ports of backends, and those of services in front of them.
	tcpPort, tcpServicePort = 8080, 80
	udpPort, udpServicePort = 5353, 53
)

// service is a virtual address for the ports of one pod.
type service struct {
	addrs   addresses
	backend *place
}

// services are the same on each node.
func (c *cluster) services() (remote, local service) {
	return service{address("10.96.0.10", "fd96::10"), c.nodes[1].pods[0]},
		service{address("10.96.0.11", "fd96::11"), c.nodes[0].pods[1]}
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	bpftest.RequireBPF(t)
	if os.Getenv("NETPROBE_BIN") == "" {
		t.Skip("NETPROBE_BIN does not name the netprobe binary; `make test` builds it and sets it")
	}
	c := &cluster{fabric: newRouter(t)}
	c.outside = &place{namespace: newHost(t), name: "outside", addrs: address("198.51.100.2", "2001:db8:100::2")}
	gateway := address("198.51.100.254", "2001:db8:100::fe")
	c.outside.wire(t, podDevice, c.fabric, "out", overlayMTU)
	c.outside.address(t, podDevice, c.outside.addrs, 24, 64)
	c.fabric.address(t, "out", gateway, 24, 64)
	c.outside.defaultRoute(t, podDevice, gateway)
	for i := range c.nodes {
		c.nodes[i] = c.newNode(t, i+1)
	}
	c.nodes[0].tunnelTo(t, c.nodes[1])
	c.nodes[1].tunnelTo(t, c.nodes[0])
	for _, n := range c.nodes {
		n.translate(t, c)
	}
	return c
}

// newHost is a namespace in which addresses can be used at once, and which, once it
// is set up, sends nothing by itself.
func newHost(t *testing.T) *namespace {
	t.Helper()
	n := newNamespace(t)
	n.sysctl(t, "ipv6/conf/default/accept_dad", "0")
	n.sysctl(t, "ipv6/conf/default/router_solicitations", "0")
	n.sysctl(t, "ipv6/conf/default/mldv2_unsolicited_report_interval", "1") // ms
	n.sysctl(t, "ipv4/conf/all/rp_filter", "0")
	n.sysctl(t, "ipv4/icmp_echo_ignore_broadcasts", "0")
	return n
}

func newRouter(t *testing.T) *namespace {
	t.Helper()
	n := newHost(t)
	n.sysctl(t, "ipv4/ip_forward", "1")
	n.sysctl(t, "ipv6/conf/all/forwarding", "1")
	return n
}

func (c *cluster) newNode(t *testing.T, number int) *node {
	t.Helper()
	n := &node{namespace: newRouter(t), number: number, overlay: address("10.244.%d.0", "fd44:ffff::%d", number)}
	n.host = &place{
		namespace: n.namespace, name: fmt.Sprintf("node %d", number), node: n,
		addrs: address("192.168.5%d.1", "fd50:%d::1", number),
	}
	n.filterBridged(t, "0") // whatever the machine's default
	n.bridge(t)
	gateway := address("10.244.%d.1", "fd44:%d::1", number)
	n.address(t, bridge, gateway, 24, 64)
	for i, letter := range []string{"a", "b"} {
		pod := &place{
			namespace: newHost(t), name: fmt.Sprintf("pod %d%s", number, letter), node: n, veth: "veth" + letter,
			addrs: address("10.244.%d.%d", "fd44:%d::%d", number, 10+i),
		}
		pod.wire(t, podDevice, n.namespace, pod.veth, overlayMTU)
		n.enslave(t, pod.veth)
		pod.address(t, podDevice, pod.addrs, 24, 64)
		pod.defaultRoute(t, podDevice, gateway)
		n.pods[i] = pod
	}

	port, next := fmt.Sprintf("node%d", number), address("192.168.5%d.254", "fd50:%d::fe", number)
	n.wire(t, uplink, c.fabric, port, 1500)
	n.address(t, uplink, n.host.addrs, 24, 64)
	c.fabric.address(t, port, next, 24, 64)
	n.defaultRoute(t, uplink, next)
	for _, v := range []ipVersion{ipv4, ipv6} {
		c.fabric.route(t, port, n.podNetwork(v), n.host.addrs.of(v))
	}
	return n
}

func (n *node) podNetwork(v ipVersion) netip.Prefix {
	if v == ipv6 {
		return netip.MustParsePrefix(fmt.Sprintf("fd44:%d::/64", n.number))
	}
	return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", n.number))
}

func (n *node) bridge(t *testing.T) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = bridge, overlayMTU
	require.NoError(t, n.links.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	n.setUp(t, bridge)
}

func (n *node) enslave(t *testing.T, port string) {
	t.Helper()
	require.NoError(t, n.links.LinkSetMaster(n.byName(t, port), n.byName(t, bridge)))
}

// hardwareAddr is that of flannel.1.
func (n *node) hardwareAddr() net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, 0, byte(n.number)}
}

// tunnelTo makes flannel.1, which has one other end. All of its neighbours are
// told to it: it asks nobody.
func (n *node) tunnelTo(t *testing.T, other *node) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = overlay, overlayMTU, n.hardwareAddr()
	require.NoError(t, n.links.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: overlayID, Port: overlayPort,
		VtepDevIndex: n.byName(t, uplink).Attrs().Index, SrcAddr: n.host.addrs.v4.AsSlice(),
	}))
	n.setUp(t, overlay)
	n.address(t, overlay, n.overlay, 32, 128)
	dev := n.byName(t, overlay).Attrs().Index
	require.NoError(t, n.links.NeighAppend(&netlink.Neigh{
		LinkIndex: dev, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
		IP: other.host.addrs.v4.AsSlice(), HardwareAddr: other.hardwareAddr(),
	}))
	for _, v := range []ipVersion{ipv4, ipv6} {
		via := other.overlay.of(v)
		n.route(t, overlay, netip.PrefixFrom(via, via.BitLen()), netip.Addr{})
		require.NoError(t, n.links.NeighSet(&netlink.Neigh{
			LinkIndex: dev, State: netlink.NUD_PERMANENT, IP: via.AsSlice(), HardwareAddr: other.hardwareAddr(),
		}))
		n.route(t, overlay, other.podNetwork(v), via)
	}
}

// translate does what kube-proxy and Flannel do: service to backend, and the
// node's own address for what else would not find its way back.
func (n *node) translate(t *testing.T, c *cluster) {
	t.Helper()
	var rules strings.Builder
	for _, v := range []struct {
		ipVersion
		family, pods string
	}{{ipv4, "ip", "10.244.0.0/16"}, {ipv6, "ip6", "fd44::/16"}} {
		remote, local := c.services()
		fmt.Fprintf(&rules, "table %s proxy {\nchain services {\n", v.family)
		for _, s := range []service{remote, local} {
			for _, p := range []struct {
				protocol string
				from, to uint16
			}{{"tcp", tcpServicePort, tcpPort}, {"udp", udpServicePort, udpPort}} {
				fmt.Fprintf(&rules, "%s daddr %s %s dport %d dnat to %s\n", v.family, s.addrs.of(v.ipVersion), p.protocol, p.from,
					netip.AddrPortFrom(s.backend.addrs.of(v.ipVersion), p.to))
			}
		}
		fmt.Fprintf(&rules, `}
chain prerouting { type nat hook prerouting priority -100; jump services; }
chain output { type nat hook output priority -100; jump services; }
chain postrouting {
	type nat hook postrouting priority 100;
	%[1]s saddr %[2]s %[1]s daddr != %[2]s masquerade
	%[1]s saddr != %[2]s oifname %[3]s masquerade
	ct status dnat %[1]s saddr %[4]s %[1]s daddr %[4]s masquerade
}
}
`, v.family, v.pods, overlay, n.podNetwork(v.ipVersion))
	}
	n.execute(t, rules.String(), "nft", "-f", "-")
}

// devices are all that frames of the cluster cross.
func (c *cluster) devices() map[*namespace][]string {
	all := map[*namespace][]string{
		c.outside.namespace: {podDevice},
		c.fabric:            {"out", "node1", "node2"},
	}
	for _, n := range c.nodes {
		all[n.namespace] = []string{uplink, overlay, bridge, "vetha", "vethb"}
		for _, pod := range n.pods {
			all[pod.namespace] = []string{podDevice}
		}
	}
	return all
}

// switchOffloadsOff makes each frame what a wire would carry.
func (c *cluster) switchOffloadsOff(t *testing.T) {
	t.Helper()
	for n, devices := range c.devices() {
		for _, device := range devices {
			require.NoError(t, n.in(func() error { return switchOffloadsOff(device) }))
		}
	}
}

// start starts NetProbe on each node.
func (c *cluster) start(t *testing.T, receiver string) [2]*agent {
	t.Helper()
	var agents [2]*agent
	for i, n := range c.nodes {
		agents[i] = start(t, n.namespace, receiver)
	}
	return agents
}

func (n *namespace) sysctl(t *testing.T, name, value string) {
	t.Helper()
	require.NoError(t, n.in(func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644)
	}))
}

// bridgeFilters hand what is bridged to netfilter, which reassembles and translates
// it (br_netfilter). Kubernetes wants them on.
var bridgeFilters = []string{"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"}

// filterBridged sets bridgeFilters, where the kernel has them.
func (n *node) filterBridged(t *testing.T, value string) {
	t.Helper()
	if !hasBridgeFilters() {
		return
	}
	for _, name := range bridgeFilters {
		n.sysctl(t, name, value)
	}
}

func hasBridgeFilters() bool {
	_, err := os.Stat(filepath.Join("/proc/sys/net", bridgeFilters[0]))
	return err == nil
}

func (n *namespace) byName(t *testing.T, name string) netlink.Link {
	t.Helper()
	dev, err := n.links.LinkByName(name)
	require.NoError(t, err, name)
	return dev
}

func (n *namespace) setUp(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, n.links.LinkSetUp(n.byName(t, name)))
}

// wire makes a link to another namespace that is up.
func (n *namespace) wire(t *testing.T, name string, other *namespace, peer string, mtu int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU = peer, uint32(mtu)
	veth.PeerNamespace = netlink.NsFd(other.handle)
	require.NoError(t, n.links.LinkAdd(veth))
	n.setUp(t, name)
	other.setUp(t, peer)
}

func (n *namespace) address(t *testing.T, name string, addrs addresses, bits4, bits6 int) {
	t.Helper()
	dev := n.byName(t, name)
	require.NoError(t, n.links.AddrAdd(dev, &netlink.Addr{IPNet: prefix(addrs.v4, bits4)}))
	require.NoError(t, n.links.AddrAdd(dev, &netlink.Addr{IPNet: prefix(addrs.v6, bits6), Flags: unix.IFA_F_NODAD}))
}

func (n *namespace) defaultRoute(t *testing.T, device string, via addresses) {
	t.Helper()
	n.route(t, device, netip.PrefixFrom(netip.IPv4Unspecified(), 0), via.v4)
	n.route(t, device, netip.PrefixFrom(netip.IPv6Unspecified(), 0), via.v6)
}

// route goes through a neighbour that need not be in a network of the device,
// or straight to the device where there is none.
func (n *namespace) route(t *testing.T, device string, to netip.Prefix, via netip.Addr) {
	t.Helper()
	r := netlink.Route{LinkIndex: n.byName(t, device).Attrs().Index, Dst: prefix(to.Addr(), to.Bits())}
	if via.IsValid() {
		r.Gw, r.Flags = via.AsSlice(), int(netlink.FLAG_ONLINK)
	} else {
		r.Scope = netlink.SCOPE_LINK
	}
	require.NoError(t, n.links.RouteAdd(&r), "route %s through %s", to, device)
}
