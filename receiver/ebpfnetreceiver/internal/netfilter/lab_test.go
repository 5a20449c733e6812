// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// lab is a router between a client and a server. The test is on the router.
type lab struct {
	client, server *netnstest.Namespace
}

// node is one of the three and its address of either version.
type node struct{ v4, v6 netip.Addr }

func (n node) addr(ipv6 bool) netip.Addr {
	if ipv6 {
		return n.v6
	}
	return n.v4
}

func newNode(v4, v6 string) node { return node{netip.MustParseAddr(v4), netip.MustParseAddr(v6)} }

var (
	client       = newNode("192.0.2.1", "2001:db8:1::1")
	clientRouter = newNode("192.0.2.254", "2001:db8:1::fe")
	serverRouter = newNode("198.51.100.254", "2001:db8:2::fe")
	server       = newNode("198.51.100.1", "2001:db8:2::1")
)

const port = 9

func newLab(tb testing.TB) *lab {
	tb.Helper()
	bpftest.RequireBPF(tb)
	requireNetfilter(tb)
	netnstest.Enter(tb)
	l := &lab{client: netnstest.New(tb), server: netnstest.New(tb)}
	netnstest.Sysctl(tb, "ipv4/ip_forward", "1")
	netnstest.Sysctl(tb, "ipv6/conf/all/forwarding", "1")
	for _, side := range []struct {
		ns        *netnstest.Namespace
		name      string
		near, far node
	}{{l.client, "client", clientRouter, client}, {l.server, "server", serverRouter, server}} {
		near, far := netnstest.Veth(tb, side.name, "uplink")
		side.ns.Adopt(tb, far)
		configure(tb, near.Attrs().Name, side.near)
		side.ns.Do(tb, func() {
			configure(tb, "uplink", side.far)
			route(tb, "uplink", side.near)
		})
	}
	return l
}

func configure(tb testing.TB, name string, n node) {
	tb.Helper()
	netnstest.Up(tb, "lo")
	netnstest.Sysctl(tb, "ipv6/conf/"+name+"/accept_dad", "0") // of link-local addresses too
	netnstest.Sysctl(tb, "ipv6/conf/"+name+"/disable_ipv6", "0")
	link := netnstest.Up(tb, name)
	for addr, bits := range map[netip.Addr]int{n.v4: 24, n.v6: 64} {
		at, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", addr, bits))
		require.NoError(tb, err)
		at.Flags = unix.IFA_F_NODAD // there is nobody who could have it
		require.NoError(tb, netlink.AddrAdd(link, at))
	}
}

func route(tb testing.TB, name string, via node) {
	tb.Helper()
	link, err := netlink.LinkByName(name)
	require.NoError(tb, err)
	for _, gateway := range []netip.Addr{via.v4, via.v6} {
		require.NoError(tb, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}))
	}
}

// requireNetfilter skips the test on kernels before 6.4, which have no such programs.
func requireNetfilter(tb testing.TB) {
	tb.Helper()
	err := features.HaveProgramType(ebpf.Netfilter)
	if errors.Is(err, ebpf.ErrNotSupported) {
		tb.Skip(err)
	}
	require.NoError(tb, err)
}

// load loads the probe on the router, with everything working.
func load(tb testing.TB) *Probe {
	tb.Helper()
	p, err := Load()
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, p.Close()) })
	for _, f := range p.Features() {
		require.NoError(tb, f.Err, f.Name)
	}
	return p
}

// udp gives a socket that may send to anywhere.
func udp(tb testing.TB, ipv6 bool) int {
	tb.Helper()
	family := unix.AF_INET
	if ipv6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, unix.Close(fd)) })
	return fd
}

func sockaddr(addr netip.Addr) unix.Sockaddr {
	if addr.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: addr.As16()}
}

// send sends a datagram of each of these sizes. That a rule refuses one is no error.
func send(tb testing.TB, fd int, to netip.Addr, sizes ...int) {
	tb.Helper()
	for _, size := range sizes {
		err := unix.Sendto(fd, make([]byte, size), 0, sockaddr(to))
		if !errors.Is(err, unix.EPERM) {
			require.NoError(tb, err)
		}
	}
}

// run runs a command on the router and returns what it says.
func run(tb testing.TB, input, name string, args ...string) string {
	tb.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	require.NoError(tb, err, "%s %v: %s", name, args, out)
	return string(out)
}

// count is what the place has counted.
func count(tb testing.TB, p *Probe, place Place) Count {
	tb.Helper()
	counts, err := p.Counters()
	require.NoError(tb, err)
	i := slices.IndexFunc(counts, func(c Count) bool { return c.Place == place })
	require.GreaterOrEqual(tb, i, 0, place)
	return counts[i]
}

// requireNoDrops says that no place but some has dropped anything.
func requireNoDrops(tb testing.TB, p *Probe, but ...Place) {
	tb.Helper()
	counts, err := p.Counters()
	require.NoError(tb, err)
	require.Len(tb, counts, 2*Hooks)
	for _, c := range counts {
		if !slices.Contains(but, c.Place) {
			require.Zero(tb, c.Dropped, c.Place)
		}
	}
	evicted, err := p.Evicted()
	require.NoError(tb, err)
	require.Zero(tb, evicted)
}

// firewall is one of the tools that make rules.
type firewall struct {
	name string
	// drop makes a rule for datagrams to the port with a counter and a target:
	// drop, accept or reject.
	drop func(tb testing.TB, place Place, target string)
	// rule reads the counter.
	rule func(tb testing.TB, place Place) flow.Volume
	// list shows all rules, without counters.
	list func(tb testing.TB, place Place) string
}

var nftChains = [...]string{
	Prerouting: "prerouting priority raw", LocalIn: "input priority filter", Forward: "forward priority filter",
	LocalOut: "output priority filter", Postrouting: "postrouting priority srcnat",
}

var nft = firewall{
	name: "nft",
	drop: func(tb testing.TB, place Place, target string) {
		run(tb, fmt.Sprintf("table inet t { chain c { type filter hook %s; udp dport %d counter %s; }; }",
			nftChains[place.Hook], port, target), "nft", "-f", "-")
	},
	rule: func(tb testing.TB, _ Place) flow.Volume {
		return volumeIn(tb, nftCounter, run(tb, "", "nft", "list", "ruleset"))
	},
	list: func(tb testing.TB, _ Place) string { return run(tb, "", "nft", "--stateless", "list", "ruleset") },
}

var nftCounter = regexp.MustCompile(`counter packets (\d+) bytes (\d+)`)

var iptablesChains = [...]struct{ table, chain string }{
	Prerouting: {"raw", "PREROUTING"}, LocalIn: {"filter", "INPUT"}, Forward: {"filter", "FORWARD"},
	LocalOut: {"filter", "OUTPUT"}, Postrouting: {"mangle", "POSTROUTING"},
}

// iptables is the tool of the kernel's older tables, or of nftables in their guise.
func iptables(variant string) firewall {
	tool := func(place Place, suffix string) string {
		if place.IPv6 {
			return "ip6tables-" + variant + suffix
		}
		return "iptables-" + variant + suffix
	}
	return firewall{
		name: "iptables-" + variant,
		drop: func(tb testing.TB, place Place, target string) {
			where := iptablesChains[place.Hook]
			run(tb, "", tool(place, ""), "-t", where.table, "-A", where.chain, "-p", "udp",
				"--dport", strconv.Itoa(port), "-j", strings.ToUpper(target))
		},
		rule: func(tb testing.TB, place Place) flow.Volume {
			return volumeIn(tb, iptablesCounter, run(tb, "", tool(place, "-save"), "-c", "-t", iptablesChains[place.Hook].table))
		},
		list: func(tb testing.TB, place Place) string {
			return run(tb, "", tool(place, ""), "-t", iptablesChains[place.Hook].table, "-S")
		},
	}
}

var iptablesCounter = regexp.MustCompile(`\[(\d+):(\d+)\] -A`)

// volumeIn finds the one counter in a listing.
func volumeIn(tb testing.TB, counter *regexp.Regexp, listing string) flow.Volume {
	tb.Helper()
	found := counter.FindAllStringSubmatch(listing, -1)
	require.Len(tb, found, 1, listing)
	packets, err := strconv.ParseUint(found[0][1], 10, 64)
	require.NoError(tb, err)
	bytes, err := strconv.ParseUint(found[0][2], 10, 64)
	require.NoError(tb, err)
	return flow.Volume{Packets: packets, Bytes: bytes}
}
