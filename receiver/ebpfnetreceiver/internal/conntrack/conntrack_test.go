// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const (
	clientAddress4, clientAddress6   = "10.1.0.2", "fd00:1::2"
	serviceAddress4, serviceAddress6 = "10.96.0.1", "fd00:96::1"
	backendAddress4, backendAddress6 = "10.2.0.2", "fd00:2::2"
	nodeAddress4, nodeAddress6       = "10.2.0.1", "fd00:2::1" // towards the backend
	servicePort, backendPort         = 80, 8080
)

// rules translate the service to the backend, and port 81 of it with the
// client's address hidden too.
const rules = `
table inet nat {
	chain prerouting {
		type nat hook prerouting priority dstnat
		meta l4proto { tcp, udp } th dport 81 meta mark set 1
		ip daddr 10.96.0.1 meta l4proto { tcp, udp } th dport { 80, 81 } dnat ip to 10.2.0.2:8080
		ip6 daddr fd00:96::1 meta l4proto { tcp, udp } th dport { 80, 81 } dnat ip6 to [fd00:2::2]:8080
		ip daddr 10.96.0.1 ip protocol icmp dnat ip to 10.2.0.2
		ip6 daddr fd00:96::1 icmpv6 type echo-request dnat ip6 to fd00:2::2
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname "backend" meta mark 1 masquerade
	}
}
`

// lab is a node that the test is on, between a client and a backend.
type lab struct {
	client, backend *netnstest.Namespace
}

func newLab(tb testing.TB) *lab {
	tb.Helper()
	netnstest.Enter(tb)
	l := &lab{client: netnstest.New(tb), backend: netnstest.New(tb)}
	netnstest.Up(tb, "lo")
	netnstest.Sysctl(tb, "ipv6/conf/default/disable_ipv6", "0")
	netnstest.Sysctl(tb, "ipv6/conf/default/accept_dad", "0")
	l.join(tb, l.client, "client", "10.1.0.1/24", "fd00:1::1/64", clientAddress4+"/24", clientAddress6+"/64")
	l.join(tb, l.backend, "backend", nodeAddress4+"/24", nodeAddress6+"/64", backendAddress4+"/24", backendAddress6+"/64")
	netnstest.Sysctl(tb, "ipv4/ip_forward", "1")
	netnstest.Sysctl(tb, "ipv6/conf/all/forwarding", "1")
	nft(tb, rules)
	return l
}

// join connects a namespace to the node's, which is its way to everywhere.
func (l *lab) join(tb testing.TB, ns *netnstest.Namespace, name, near4, near6, far4, far6 string) {
	tb.Helper()
	_, far := netnstest.Veth(tb, name, name+"-far")
	addAddress(tb, name, near4)
	addAddress(tb, name, near6)
	ns.Adopt(tb, far)
	ns.Do(tb, func() {
		netnstest.Sysctl(tb, "ipv6/conf/"+name+"-far/disable_ipv6", "0")
		netnstest.Sysctl(tb, "ipv6/conf/"+name+"-far/accept_dad", "0")
		link := netnstest.Up(tb, name+"-far")
		addAddress(tb, name+"-far", far4)
		addAddress(tb, name+"-far", far6)
		for _, near := range []string{near4, near6} {
			gateway := netip.MustParsePrefix(near).Addr().AsSlice()
			require.NoError(tb, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway}))
		}
	})
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

func nft(tb testing.TB, script string) {
	tb.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	require.NoError(tb, err, "%s (is the package nftables there?)", out)
}

// tool runs conntrack(8) in this namespace.
func tool(tb testing.TB, args ...string) string {
	tb.Helper()
	out, err := exec.Command("conntrack", args...).CombinedOutput()
	require.NoError(tb, err, "conntrack %v: %s (is the package conntrack there?)", args, out)
	return string(out)
}

func open(tb testing.TB, opts Options) *Table {
	tb.Helper()
	table, err := Open(opts)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, table.Close()) })
	return table
}

// session is a connection, or the socket of a UDP exchange, and its tuples as
// its two ends see them: before translation at the client, after it at the
// backend.
type session struct {
	before, after Tuple
	close         func()
}

// connect lets the client talk to an address and the backend answer.
func (l *lab) connect(tb testing.TB, protocol flow.Protocol, to netip.AddrPort) session {
	tb.Helper()
	var s session
	if protocol == flow.TCP {
		s = l.connectTCP(tb, to)
	} else {
		s = l.exchangeUDP(tb, to)
	}
	tb.Cleanup(s.close)
	return s
}

func (l *lab) connectTCP(tb testing.TB, to netip.AddrPort) session {
	tb.Helper()
	var listener net.Listener
	var near, far net.Conn
	var err error
	address := net.JoinHostPort(backendFor(to.Addr()), strconv.Itoa(backendPort))
	l.backend.Do(tb, func() { listener, err = net.Listen("tcp", address) })
	require.NoError(tb, err)
	defer func() { require.NoError(tb, listener.Close()) }()
	l.client.Do(tb, func() { near, err = net.DialTimeout("tcp", to.String(), 10*time.Second) })
	require.NoError(tb, err)
	far, err = listener.Accept()
	require.NoError(tb, err)
	return session{
		before: tupleBetween(flow.TCP, near.LocalAddr(), near.RemoteAddr()),
		after:  tupleBetween(flow.TCP, far.RemoteAddr(), far.LocalAddr()),
		close: func() {
			_ = near.Close()
			_ = far.Close()
		},
	}
}

func (l *lab) exchangeUDP(tb testing.TB, to netip.AddrPort) session {
	tb.Helper()
	var far net.PacketConn
	var near net.Conn
	var err error
	l.backend.Do(tb, func() {
		address := net.JoinHostPort(backendFor(to.Addr()), strconv.Itoa(backendPort))
		far, err = net.ListenPacket("udp", address)
	})
	require.NoError(tb, err)
	defer func() { require.NoError(tb, far.Close()) }()
	l.client.Do(tb, func() { near, err = net.Dial("udp", to.String()) })
	require.NoError(tb, err)
	deadline := time.Now().Add(10 * time.Second)
	require.NoError(tb, far.SetDeadline(deadline))
	require.NoError(tb, near.SetDeadline(deadline))

	var buf [8]byte
	_, err = near.Write([]byte("question"))
	require.NoError(tb, err)
	_, from, err := far.ReadFrom(buf[:])
	require.NoError(tb, err)
	_, err = far.WriteTo([]byte("answer"), from)
	require.NoError(tb, err)
	_, err = near.Read(buf[:])
	require.NoError(tb, err)
	return session{
		before: tupleBetween(flow.UDP, near.LocalAddr(), near.RemoteAddr()),
		after:  tupleBetween(flow.UDP, from, far.LocalAddr()),
		close:  func() { _ = near.Close() },
	}
}

func backendFor(service netip.Addr) string {
	if service.Is4() {
		return backendAddress4
	}
	return backendAddress6
}

func tupleBetween(protocol flow.Protocol, source, destination net.Addr) Tuple {
	unmapped := func(a net.Addr) netip.AddrPort {
		parsed := netip.MustParseAddrPort(a.String())
		return netip.AddrPortFrom(parsed.Addr().Unmap(), parsed.Port())
	}
	return tuple(protocol, unmapped(source).String(), unmapped(destination).String())
}

func at(address string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(address), port)
}

// requireKnown waits until the kernel has told of the session.
func requireKnown(tb testing.TB, table *Table, s session) {
	tb.Helper()
	netnstest.Eventually(tb, func() bool { _, ok := table.Lookup(s.before); return ok },
		fmt.Sprintf("translation of %v", s.before))
}

// cases are the services, and what they hide.
var cases = []struct {
	name     string
	protocol flow.Protocol
	service  netip.AddrPort
	source   string // as the backend sees it
}{
	{"tcp", flow.TCP, at(serviceAddress4, servicePort), clientAddress4},
	{"udp", flow.UDP, at(serviceAddress4, servicePort), clientAddress4},
	{"tcp over ipv6", flow.TCP, at(serviceAddress6, servicePort), clientAddress6},
	{"udp over ipv6", flow.UDP, at(serviceAddress6, servicePort), clientAddress6},
	{"tcp, masqueraded", flow.TCP, at(serviceAddress4, servicePort+1), nodeAddress4},
	{"udp, masqueraded", flow.UDP, at(serviceAddress4, servicePort+1), nodeAddress4},
	{"tcp over ipv6, masqueraded", flow.TCP, at(serviceAddress6, servicePort+1), nodeAddress6},
	{"udp over ipv6, masqueraded", flow.UDP, at(serviceAddress6, servicePort+1), nodeAddress6},
}

// What the two ends see of each other is what the table says.
func TestTheTwoEndsOfATranslation(t *testing.T) {
	l := newLab(t)
	// before is in the kernel's table when ours is opened
	var before []session
	for _, tt := range cases {
		before = append(before, l.connect(t, tt.protocol, tt.service))
	}
	table := open(t, Options{})
	var after []session
	for _, tt := range cases {
		after = append(after, l.connect(t, tt.protocol, tt.service))
	}
	for i, tt := range cases {
		require.Equal(t, tt.service.Addr(), after[i].before.Destination, tt.name)
		require.Equal(t, tt.source, after[i].after.Source.String(), tt.name)
		require.Equal(t, backendFor(tt.service.Addr()), after[i].after.Destination.String(), tt.name)
		requireFourTuples(t, table.Lookup, before[i].before, before[i].after)
		requireKnown(t, table, after[i])
		requireFourTuples(t, table.Lookup, after[i].before, after[i].after)
	}
	direct := l.connect(t, flow.TCP, at(backendAddress4, backendPort))
	requireSettled(t, table)
	_, ok := table.Lookup(direct.before)
	require.False(t, ok)
	requireAgreesWithTool(t, table)
	require.Equal(t, 2*len(cases), table.Stats().Entries)
}

// requireSettled waits until the events so far are read.
func requireSettled(tb testing.TB, table *Table) {
	tb.Helper()
	// An entry of our own comes after them.
	marker := tuple(flow.UDP, "203.0.113.1:1", "203.0.113.2:"+strconv.Itoa(1+int(markers)%60000))
	markers++
	tool(tb, "--create", "--protonum", "udp", "--timeout", "60",
		"--orig-src", marker.Source.String(), "--orig-dst", marker.Destination.String(),
		"--orig-port-src", "1", "--orig-port-dst", strconv.Itoa(int(marker.DestinationPort)),
		"--reply-src", "203.0.113.3", "--reply-dst", marker.Source.String(),
		"--reply-port-src", strconv.Itoa(int(marker.DestinationPort)), "--reply-port-dst", "1")
	requireKnown(tb, table, session{before: marker})
	tool(tb, "--delete", "--protonum", "udp", "--orig-src", marker.Source.String())
	netnstest.Eventually(tb, func() bool {
		table.mu.RLock()
		defer table.mu.RUnlock()
		k, _ := marker.key()
		canonical := k.canonical()
		slot := table.index.head(&canonical)
		return slot == none || !table.index.records[slot].alive
	}, "end of the marker")
}

var markers uint32

var (
	fields = regexp.MustCompile(`(src|dst|sport|dport|type)=(\S+)`)
	number = regexp.MustCompile(`^\S+\s+(\d+)\s`)
)

// requireAgreesWithTool asks for every connection that conntrack(8) lists.
func requireAgreesWithTool(tb testing.TB, table *Table) {
	tb.Helper()
	translated := 0
	for _, family := range []string{"ipv4", "ipv6"} {
		for line := range strings.Lines(tool(tb, "--dump", "--family", family)) {
			protocol := number.FindStringSubmatch(line)
			if protocol == nil {
				continue // how many there are
			}
			tuples := tuplesOf(tb, protocol[1], line)
			original, reply := tuples[0], tuples[1]
			got, ok := table.Lookup(original)
			if original.Protocol.IsICMP() && original.Reverse() == reply {
				continue
			}
			require.Equal(tb, original.Reverse() != reply, ok, line)
			if ok {
				require.Equal(tb, Translation{Other: reply.Reverse(), Original: original}, got, line)
				translated++
			}
		}
	}
	require.NotZero(tb, translated)
}

func tuplesOf(tb testing.TB, protocol, line string) [2]Tuple {
	tb.Helper()
	n, err := strconv.ParseUint(protocol, 10, 8)
	require.NoError(tb, err)
	var tuples [2]Tuple
	which := -1
	for _, field := range fields.FindAllStringSubmatch(line, -1) {
		if field[1] == "src" {
			which++
			tuples[which].Protocol = flow.Protocol(n)
		}
		t := &tuples[which]
		switch field[1] {
		case "src":
			t.Source = netip.MustParseAddr(field[2])
		case "dst":
			t.Destination = netip.MustParseAddr(field[2])
		default:
			value, err := strconv.ParseUint(field[2], 10, 16)
			require.NoError(tb, err)
			switch field[1] {
			case "sport":
				t.SourcePort = uint16(value)
			case "dport":
				t.DestinationPort = uint16(value)
			case "type":
				var ok bool
				t.SourcePort, t.DestinationPort, ok = icmpPorts(t.Protocol, uint16(value))
				require.True(tb, ok, line)
			}
		}
	}
	return tuples
}

func TestPings(t *testing.T) {
	l := newLab(t)
	table := open(t, Options{})
	for _, tt := range []struct {
		protocol         flow.Protocol
		client, service  string
		backend          string
		question, answer uint16
	}{
		{flow.ICMP, clientAddress4, serviceAddress4, backendAddress4, 8, 0},
		{flow.ICMPv6, clientAddress6, serviceAddress6, backendAddress6, 128, 129},
	} {
		for range 2 { // two pings are two connections
			l.client.Do(t, func() {
				out, err := exec.Command("ping", "-n", "-c", "1", "-W", "10", tt.service).CombinedOutput()
				require.NoError(t, err, string(out))
			})
		}
		packet := func(source, destination string, typ uint16) Tuple {
			got, ok := TupleOf(&flow.Key{
				Source: netip.MustParseAddr(source), Destination: netip.MustParseAddr(destination),
				SourcePort: typ, Protocol: tt.protocol, Has: flow.HasPorts,
			})
			require.True(t, ok)
			return got
		}
		before := packet(tt.client, tt.service, tt.question)
		requireKnown(t, table, session{before: before})
		requireFourTuples(t, table.Lookup, before, packet(tt.client, tt.backend, tt.question))
		got, ok := table.Lookup(packet(tt.service, tt.client, tt.answer))
		require.True(t, ok)
		require.Equal(t, packet(tt.backend, tt.client, tt.answer), got.Other)

		// a ping of the backend's own address is not told from one of the service
		l.client.Do(t, func() {
			out, err := exec.Command("ping", "-n", "-c", "1", "-W", "10", tt.backend).CombinedOutput()
			require.NoError(t, err, string(out))
		})
		netnstest.Eventually(t, func() bool {
			_, ok := table.Lookup(packet(tt.client, tt.backend, tt.question))
			return !ok
		}, "the ping that is not translated")
		_, ok = table.Lookup(before)
		require.True(t, ok)
	}
	requireSettled(t, table)
	requireAgreesWithTool(t, table)
}

func TestWhatEndedIsFoundForAWhile(t *testing.T) {
	l := newLab(t)
	table := open(t, Options{KeepGone: time.Hour})
	s := l.connect(t, flow.TCP, at(serviceAddress4, servicePort))
	requireKnown(t, table, s)
	require.Equal(t, Stats{Entries: 1, Events: 1, Dumps: 1}, table.Stats())

	tool(t, "--flush")
	netnstest.Eventually(t, func() bool { return table.Stats().Gone == 1 }, "end of the connection")
	require.Equal(t, Stats{Gone: 1, Events: 2, Dumps: 1}, table.Stats())
	requireFourTuples(t, table.Lookup, s.before, s.after)

	table.tick(time.Now().Add(time.Hour - time.Minute))
	requireFourTuples(t, table.Lookup, s.before, s.after)
	table.tick(time.Now().Add(time.Hour))
	_, ok := table.Lookup(s.before)
	require.False(t, ok)
	require.Zero(t, table.Stats().Gone)
}

// The kernel may not tell the end of what began before (nf_conntrack_events=2).
func TestADumpFindsTheEndsThatWereNotTold(t *testing.T) {
	l := newLab(t)
	s := l.connect(t, flow.TCP, at(serviceAddress4, servicePort))
	table := open(t, Options{DumpInterval: 50 * time.Millisecond})
	require.Equal(t, 1, table.Stats().Entries)
	tool(t, "--flush")
	netnstest.Eventually(t, func() bool { return table.Stats().Gone == 1 }, "end of the connection")
	requireFourTuples(t, table.Lookup, s.before, s.after)
}

func TestAnEmptyTable(t *testing.T) {
	netnstest.Enter(t)
	table := open(t, Options{})
	require.Equal(t, Stats{Dumps: 1}, table.Stats())
	_, ok := table.Lookup(tcp(client, service))
	require.False(t, ok)
	_, ok = table.Lookup(Tuple{})
	require.False(t, ok)
}

func TestAfterClose(t *testing.T) {
	l := newLab(t)
	s := l.connect(t, flow.TCP, at(serviceAddress4, servicePort))
	table, err := Open(Options{})
	require.NoError(t, err)
	require.NoError(t, table.Close())
	require.NoError(t, table.Close())
	requireFourTuples(t, table.Lookup, s.before, s.after)
	require.NoError(t, table.Refresh())
	table.polling.Store(true)
	require.ErrorIs(t, table.Refresh(), errClosed)
}

// More events than the socket holds: some are lost, and the table is right again.
func TestOverflow(t *testing.T) {
	l := newLab(t)
	core, logs := observer.New(zap.DebugLevel)
	table := open(t, Options{ReceiveBuffer: 1, Logger: zap.New(core)}) // the kernel makes it its minimum, 2304 bytes or so
	const connections = 300
	ended := l.connect(t, flow.UDP, at(serviceAddress4, servicePort))
	requireKnown(t, table, ended)
	table.feed.Lock() // the reader stands still
	tool(t, "--delete", "--orig-src", clientAddress4)
	var kept []session
	for range connections {
		kept = append(kept, l.connect(t, flow.UDP, at(serviceAddress4, servicePort)))
	}
	table.feed.Unlock()
	netnstest.Eventually(t, func() bool { return table.Stats().Overflows > 0 }, "overflow")
	netnstest.Eventually(t, func() bool { return table.Stats().Dumps > 1 }, "dump after the overflow")
	require.Equal(t, connections, table.Stats().Entries)
	for _, s := range kept {
		requireFourTuples(t, table.Lookup, s.before, s.after)
	}
	require.NotZero(t, table.Stats().Gone)
	require.NotZero(t, logs.FilterMessageSnippet("faster than they were read").Len())
	requireFourTuples(t, table.Lookup, ended.before, ended.after)

	// and it still follows
	requireSettled(t, table)
	requireAgreesWithTool(t, table)
}

// Without events the table is as new as its last Refresh.
func TestRefreshWhereThereAreNoEvents(t *testing.T) {
	l := newLab(t)
	netnstest.Sysctl(t, "netfilter/nf_conntrack_events", "0")
	core, logs := observer.New(zap.WarnLevel)
	table := open(t, Options{Logger: zap.New(core)})
	require.True(t, table.Stats().Polling)
	require.Equal(t, 1, logs.FilterMessageSnippet("nf_conntrack_events").Len())

	s := l.connect(t, flow.TCP, at(serviceAddress4, servicePort))
	_, ok := table.Lookup(s.before)
	require.False(t, ok)
	require.NoError(t, table.Refresh())
	requireFourTuples(t, table.Lookup, s.before, s.after)

	tool(t, "--flush")
	require.NoError(t, table.Refresh())
	require.Equal(t, Stats{Gone: 1, Dumps: 3, Polling: true}, table.Stats())
	require.Equal(t, 1, logs.Len())

	netnstest.Sysctl(t, "netfilter/nf_conntrack_events", "1")
	require.NoError(t, table.Refresh())
	require.False(t, table.Stats().Polling)
	s = l.connect(t, flow.TCP, at(serviceAddress4, servicePort))
	requireKnown(t, table, s)
}

// Some set-ups translate in zones of their own only.
func TestZone(t *testing.T) {
	l := newLab(t)
	nft(t, `table inet zones { chain c { type filter hook prerouting priority raw; ct zone set 7; }; }`)
	before := l.connect(t, flow.TCP, at(serviceAddress4, servicePort))
	table := open(t, Options{})
	after := l.connect(t, flow.TCP, at(serviceAddress6, servicePort))
	requireKnown(t, table, after)
	require.Contains(t, tool(t, "--dump", "--zone", "7"), "src="+clientAddress4)
	for _, s := range []session{before, after} {
		requireFourTuples(t, table.Lookup, s.before, s.after)
	}
	tool(t, "--delete", "--zone", "7", "--family", "ipv6")
	netnstest.Eventually(t, func() bool { return table.Stats().Gone == 1 }, "end of the connection")
	require.Equal(t, 1, table.Stats().Entries)
}

// The reading and the looking up go on at the same time.
func TestLookupsDuringEvents(t *testing.T) {
	l := newLab(t)
	table := open(t, Options{})
	s := l.connect(t, flow.TCP, at(serviceAddress4, servicePort))
	requireKnown(t, table, s)
	stop, found := make(chan struct{}), make(chan bool)
	go func() {
		all := true
		for {
			select {
			case <-stop:
				found <- all
				return
			default:
				_, ok := table.Lookup(s.before)
				all = all && ok
			}
		}
	}()
	fillKernel(t, 2000, 1)
	require.NoError(t, table.dump())
	netnstest.Eventually(t, func() bool { return table.Stats().Events >= 2001 }, "all events")
	close(stop)
	require.True(t, <-found)
	require.Equal(t, 2001, table.Stats().Entries)
}
