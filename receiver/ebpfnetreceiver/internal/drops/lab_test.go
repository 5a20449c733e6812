// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// lab is a node that the test is on, between a client and a server.
type lab struct {
	client, server *netnstest.Namespace
}

// The node's interfaces, and who is where.
const (
	toClient, toServer = "client", "server"

	node4, client4, server4 = "10.1.0.1", "10.1.0.2", "10.2.0.2"
	node6, client6, server6 = "fd00:1::1", "fd00:1::2", "fd00:2::2"
)

func newLab(tb testing.TB) *lab {
	tb.Helper()
	bpftest.RequireBPF(tb)
	netnstest.Enter(tb)
	l := &lab{client: netnstest.New(tb), server: netnstest.New(tb)}
	netnstest.Up(tb, "lo")
	l.join(tb, l.client, toClient, node4+"/24", node6+"/64", client4+"/24", client6+"/64")
	l.join(tb, l.server, toServer, "10.2.0.1/24", "fd00:2::1/64", server4+"/24", server6+"/64")
	netnstest.Sysctl(tb, "ipv4/ip_forward", "1")
	netnstest.Sysctl(tb, "ipv6/conf/all/forwarding", "1")
	return l
}

// join connects a namespace to the node's, which is its way to everywhere.
func (l *lab) join(tb testing.TB, ns *netnstest.Namespace, name, near4, near6, far4, far6 string) {
	tb.Helper()
	_, far := netnstest.Veth(tb, name, name+"-far")
	quietIPv6(tb, name)
	addAddress(tb, name, near4)
	addAddress(tb, name, near6)
	ns.Adopt(tb, far)
	ns.Do(tb, func() {
		netnstest.Up(tb, "lo")
		link := netnstest.Up(tb, name+"-far")
		quietIPv6(tb, name+"-far")
		addAddress(tb, name+"-far", far4)
		addAddress(tb, name+"-far", far6)
		for _, near := range []string{near4, near6} {
			gateway := netip.MustParsePrefix(near).Addr().AsSlice()
			require.NoError(tb, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway}))
		}
	})
}

// quietIPv6 lets an interface have addresses of IPv6, and ask for nothing by itself.
func quietIPv6(tb testing.TB, name string) {
	tb.Helper()
	conf := "ipv6/conf/" + name + "/"
	netnstest.Sysctl(tb, conf+"addr_gen_mode", "1") // no link-local address
	netnstest.Sysctl(tb, conf+"accept_dad", "0")
	netnstest.Sysctl(tb, conf+"router_solicitations", "0")
	netnstest.Sysctl(tb, conf+"disable_ipv6", "0")
}

func addAddress(tb testing.TB, name, prefix string) {
	tb.Helper()
	link, err := netlink.LinkByName(name)
	require.NoError(tb, err)
	address, err := netlink.ParseAddr(prefix)
	require.NoError(tb, err)
	if address.IP.To4() == nil {
		address.Flags = unix.IFA_F_NODAD
	}
	require.NoError(tb, netlink.AddrAdd(link, address))
}

func index(tb testing.TB, name string) uint32 {
	tb.Helper()
	link, err := netlink.LinkByName(name)
	require.NoError(tb, err)
	return uint32(link.Attrs().Index)
}

// load counts the drops of the namespace that the test is in.
func load(tb testing.TB, opts Options) *Probe {
	tb.Helper()
	p, err := Load(opts)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, p.Close()) })
	return p
}

func roomy() Options {
	return Options{MaxEntries: 256, MaxFlows: 4096}
}

// named is the reason where the kernel has reasons.
func (p *Probe) named(reason string) string {
	if p.features.Reasons {
		return reason
	}
	return ""
}

// collect gives what there is but for ICMPv6: hosts report by themselves which
// groups they have joined, and a router that routes no multicast drops it.
func collect(tb testing.TB, p *Probe) ([]Count, []FlowDrop) {
	tb.Helper()
	counts, flows, err := p.Collect()
	require.NoError(tb, err)
	counts = slices.DeleteFunc(counts, func(c Count) bool { return c.Protocol == flow.ICMPv6 })
	flows = slices.DeleteFunc(flows, func(f FlowDrop) bool { return f.Protocol == flow.ICMPv6 })
	return counts, flows
}

// health gives the ledger without what drops of any namespace on this machine can change.
func health(tb testing.TB, p *Probe) Health {
	tb.Helper()
	h, err := p.Health()
	require.NoError(tb, err)
	h.NamespaceUnknown, h.Missed = flow.Volume{}, 0
	return h
}

// countOf is the sum of what match takes.
func countOf(counts []Count, match func(Key) bool) flow.Volume {
	var v flow.Volume
	for i := range counts {
		if match(counts[i].Key) {
			v.Add(counts[i].Volume)
		}
	}
	return v
}

// await waits until so many packets of a key are counted, and gives all that is.
func await(tb testing.TB, p *Probe, key Key, packets uint64) flow.Volume {
	tb.Helper()
	var counts []Count
	counted := func() flow.Volume {
		var err error
		counts, err = p.counts()
		require.NoError(tb, err)
		return countOf(counts, func(k Key) bool { return k == key })
	}
	defer func() {
		if tb.Failed() {
			tb.Logf("counted are %+v", counts)
		}
	}()
	netnstest.Eventually(tb, func() bool { return counted().Packets >= packets }, fmt.Sprintf("%d drops of %+v", packets, key))
	require.NoError(tb, p.maps.Wait())
	return counted()
}

// dial gives a UDP socket of a namespace, which can be used in any.
func dial(tb testing.TB, ns *netnstest.Namespace, to string, port uint16) *net.UDPConn {
	tb.Helper()
	var conn *net.UDPConn
	connect := func() {
		var err error
		address := netip.AddrPortFrom(netip.MustParseAddr(to), port)
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(address))
		require.NoError(tb, err)
	}
	if ns == nil {
		connect()
	} else {
		ns.Do(tb, connect)
	}
	tb.Cleanup(func() { require.NoError(tb, conn.Close()) })
	return conn
}

// send sends so many datagrams. That the kernel dropped one is no failure here.
func send(tb testing.TB, conn *net.UDPConn, n, size int) {
	tb.Helper()
	for n > 0 {
		_, err := conn.Write(make([]byte, size))
		if errors.Is(err, unix.ECONNREFUSED) {
			continue // said of an earlier one, instead of sending this one
		}
		if !errors.Is(err, unix.EPERM) {
			require.NoError(tb, err)
		}
		n--
	}
}

// tupleOf is what the packets that conn sends have.
func tupleOf(conn *net.UDPConn) flow.Tuple {
	from, to := conn.LocalAddr().(*net.UDPAddr).AddrPort(), conn.RemoteAddr().(*net.UDPAddr).AddrPort()
	return flow.Tuple{
		Source: from.Addr().Unmap(), Destination: to.Addr().Unmap(),
		SourcePort: from.Port(), DestinationPort: to.Port(), Protocol: flow.UDP,
	}
}

func nft(tb testing.TB, script string) {
	tb.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	require.NoError(tb, err, "%s (is the package nftables there?)", out)
}

// nftCounter reads a named counter of the table inet lab.
func nftCounter(tb testing.TB, name string) flow.Volume {
	tb.Helper()
	var answer struct {
		Nftables []struct {
			Counter *struct{ Packets, Bytes uint64 }
		}
	}
	out, err := exec.Command("nft", "-j", "list", "counter", "inet", "lab", name).Output()
	require.NoError(tb, err)
	require.NoError(tb, json.Unmarshal(out, &answer))
	for _, object := range answer.Nftables {
		if c := object.Counter; c != nil {
			return flow.Volume{Packets: c.Packets, Bytes: c.Bytes}
		}
	}
	require.FailNow(tb, "no such counter", "%s: %s", name, out)
	return flow.Volume{}
}
