// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// raw sends frames on the client's side of its pair of devices as they are.
type raw struct {
	fd   int
	addr unix.SockaddrLinklayer
	node net.HardwareAddr // the node's side
	self net.HardwareAddr

	client *netnstest.Namespace
}

func (l *lab) openRaw(tb testing.TB) *raw {
	tb.Helper()
	near, err := netlink.LinkByName(toClient)
	require.NoError(tb, err)
	r := &raw{node: near.Attrs().HardwareAddr, client: l.client}
	l.client.Do(tb, func() {
		far, err := netlink.LinkByName(toClient + "-far")
		require.NoError(tb, err)
		r.self = far.Attrs().HardwareAddr
		r.addr.Ifindex = far.Attrs().Index
		r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		require.NoError(tb, err)
	})
	tb.Cleanup(func() { require.NoError(tb, unix.Close(r.fd)) })
	return r
}

func (r *raw) send(tb testing.TB, frame []byte) {
	tb.Helper()
	require.NoError(tb, unix.Sendto(r.fd, frame, 0, &r.addr))
}

// The datagram that frames hold, if nothing else is said.
var sent = flow.Tuple{
	Source: netip.MustParseAddr(client4), Destination: netip.MustParseAddr(node4),
	SourcePort: 40001, DestinationPort: 9, Protocol: flow.UDP,
}

// anyone is a link-layer address that nobody here has.
var anyone = net.HardwareAddr{2, 0, 0, 0, 0, 9}

// frame builds one with right lengths and checksums.
func (r *raw) frame(tb testing.TB, t flow.Tuple, to net.HardwareAddr) []byte {
	tb.Helper()
	ip := &layers.IPv4{
		Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocol(t.Protocol),
		SrcIP: t.Source.AsSlice(), DstIP: t.Destination.AsSlice(),
	}
	all := []gopacket.SerializableLayer{
		&layers.Ethernet{SrcMAC: r.self, DstMAC: to, EthernetType: layers.EthernetTypeIPv4}, ip,
	}
	switch t.Protocol {
	case flow.TCP:
		tcp := &layers.TCP{SrcPort: layers.TCPPort(t.SourcePort), DstPort: layers.TCPPort(t.DestinationPort), SYN: true, Window: 1000}
		require.NoError(tb, tcp.SetNetworkLayerForChecksum(ip))
		all = append(all, tcp)
	case flow.UDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(t.SourcePort), DstPort: layers.UDPPort(t.DestinationPort)}
		require.NoError(tb, udp.SetNetworkLayerForChecksum(ip))
		all = append(all, udp)
	case flow.ICMP:
		all = append(all, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(uint8(t.SourcePort), uint8(t.DestinationPort))})
	}
	all = append(all, gopacket.Payload(make([]byte, 32)))
	buf := gopacket.NewSerializeBuffer()
	require.NoError(tb, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...))
	return buf.Bytes()
}

const (
	ethernetLen = 14
	ipv4Len     = 20
)

// damaged changes a byte, and with it a checksum.
func damaged(frame []byte, at int) []byte {
	frame = bytes.Clone(frame)
	frame[at] ^= 0x5a
	return frame
}

// snmp reads a counter of this thread's namespace: one of /proc/net/snmp or netstat
// as "Udp InErrors", or one of snmp6.
func snmp(tb testing.TB, name string) uint64 {
	tb.Helper()
	for _, file := range []string{"snmp", "netstat", "snmp6"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + file)
		require.NoError(tb, err)
		var titles []string
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if fields[0] == name { // snmp6 has one a line
				n, err := strconv.ParseUint(fields[1], 10, 64)
				require.NoError(tb, err)
				return n
			}
			group, counter, _ := strings.Cut(name, " ")
			if fields[0] != group+":" {
				continue
			}
			if titles == nil {
				titles = fields // the line of numbers follows
				continue
			}
			for i, title := range titles {
				if title == counter {
					n, err := strconv.ParseUint(fields[i], 10, 64)
					require.NoError(tb, err)
					return n
				}
			}
			titles = nil
		}
	}
	require.FailNow(tb, "no such counter", name)
	return 0
}

// tcDrop drops all that comes in, or goes out, of an interface, as a filter of TC.
func tcDrop(tb testing.TB, name string, parent uint32) {
	tb.Helper()
	link, err := netlink.LinkByName(name)
	require.NoError(tb, err)
	prog := program(tb, ebpf.SchedCLS, 2) // TC_ACT_SHOT
	attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	require.NoError(tb, netlink.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "clsact"}))
	require.NoError(tb, netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:          prog.FD(), Name: "drop", DirectAction: true,
	}))
}

// program is one that answers the same to every packet.
func program(tb testing.TB, typ ebpf.ProgramType, answer int32) *ebpf.Program {
	tb.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: typ, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, answer), asm.Return()},
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, prog.Close()) })
	return prog
}

// cause is a way to have packets dropped, and what is to be counted of it.
type cause struct {
	name string
	// drop has n packets dropped and gives their tuple, nil where none can be believed.
	drop func(t *testing.T, r *raw, n int) *flow.Tuple
	// The kernel may say any of these: reasons have become more over time.
	reasons   []string
	interfac  string
	direction Direction
	counter   string // the kernel's own, where there is one
	// Kernels without reasons do not say of this drop.
	sinceReasons bool
}

func (r *raw) sendAll(t *testing.T, n int, tuple flow.Tuple) *flow.Tuple {
	t.Helper()
	for range n {
		r.send(t, r.frame(t, tuple, r.node))
	}
	return &tuple
}

func (r *raw) sendDamaged(t *testing.T, n int, tuple flow.Tuple, at int) *flow.Tuple {
	t.Helper()
	for range n {
		r.send(t, damaged(r.frame(t, tuple, r.node), at))
	}
	return &tuple
}

var causes = []cause{
	{
		"UDP to a closed port",
		func(t *testing.T, r *raw, n int) *flow.Tuple { return r.sendAll(t, n, sent) },
		[]string{"NO_SOCKET"}, toClient, Ingress, "Udp NoPorts", false,
	},
	{
		"TCP to a closed port",
		func(t *testing.T, r *raw, n int) *flow.Tuple { return r.sendAll(t, n, as(sent, flow.TCP)) },
		[]string{"NO_SOCKET"}, toClient, Ingress, "Tcp OutRsts", false,
	},
	{
		"UDP checksum",
		func(t *testing.T, r *raw, n int) *flow.Tuple {
			bound(t, node4, sent.DestinationPort)
			return r.sendDamaged(t, n, sent, ethernetLen+ipv4Len+8)
		},
		[]string{"UDP_CSUM"}, toClient, Ingress, "Udp InCsumErrors", false,
	},
	{
		"TCP checksum",
		func(t *testing.T, r *raw, n int) *flow.Tuple {
			return r.sendDamaged(t, n, as(sent, flow.TCP), ethernetLen+ipv4Len+20)
		},
		[]string{"TCP_CSUM"}, toClient, Ingress, "Tcp InCsumErrors", false,
	},
	{
		"IPv4 checksum, so that no address can be believed",
		func(t *testing.T, r *raw, n int) *flow.Tuple {
			r.sendDamaged(t, n, sent, ethernetLen+12)
			return nil
		},
		[]string{"IP_CSUM"}, toClient, Ingress, "IpExt InCsumErrors", false,
	},
	{
		"reverse path filter",
		func(t *testing.T, r *raw, n int) *flow.Tuple {
			netnstest.Sysctl(t, "ipv4/conf/"+toClient+"/rp_filter", "1")
			tuple := sent
			tuple.Source = netip.MustParseAddr(server4)
			return r.sendAll(t, n, tuple)
		},
		[]string{"IP_RPFILTER"}, toClient, Ingress, "TcpExt IPReversePathFilter", false,
	},
	{
		"no route",
		func(t *testing.T, r *raw, n int) *flow.Tuple { return r.sendAll(t, n, to(sent, "203.0.113.1")) },
		[]string{"IP_INNOROUTES", "NOT_SPECIFIED"}, toClient, Ingress, "IpExt InNoRoutes", false,
	},
	{
		"another host's",
		func(t *testing.T, r *raw, n int) *flow.Tuple {
			r.node = anyone
			return r.sendAll(t, n, sent)
		},
		[]string{"OTHERHOST", "NOT_SPECIFIED"}, toClient, Ingress, "", false,
	},
	{
		"classifier at ingress",
		func(t *testing.T, r *raw, n int) *flow.Tuple {
			tcDrop(t, toClient, netlink.HANDLE_MIN_INGRESS)
			echo := as(sent, flow.ICMP)
			echo.SourcePort, echo.DestinationPort = 8, 0
			return r.sendAll(t, n, echo)
		},
		[]string{"TC_INGRESS"}, toClient, Ingress, "", false,
	},
	{
		"classifier at egress",
		func(t *testing.T, r *raw, n int) *flow.Tuple {
			tcDrop(t, toServer, netlink.HANDLE_MIN_EGRESS)
			staticNeighbor(t, toServer, server4, anyone)
			return r.sendAll(t, n, to(sent, server4))
		},
		[]string{"TC_EGRESS"}, toServer, Egress, "", false,
	},
	{
		"generic XDP",
		func(t *testing.T, r *raw, n int) *flow.Tuple {
			link, err := netlink.LinkByName(toClient)
			require.NoError(t, err)
			prog := program(t, ebpf.XDP, 1) // XDP_DROP
			require.NoError(t, netlink.LinkSetXdpFdWithFlags(link, prog.FD(), unix.XDP_FLAGS_SKB_MODE))
			return r.sendAll(t, n, sent)
		},
		[]string{"XDP", "NOT_SPECIFIED"}, toClient, Ingress, "", false,
	},
	{
		"full socket buffer",
		func(t *testing.T, r *raw, n int) *flow.Tuple {
			require.NoError(t, bound(t, node4, sent.DestinationPort).SetReadBuffer(1))
			const counter = "Udp RcvbufErrors"
			for full := snmp(t, counter) + uint64(n); snmp(t, counter) < full; {
				r.sendAll(t, 1, sent)
			}
			return &sent
		},
		[]string{"SOCKET_RCVBUFF"}, toClient, Ingress, "Udp RcvbufErrors", false,
	},
	{
		// TCP has cleared the packet's device by then.
		"SYN to a connection that is there",
		func(t *testing.T, r *raw, n int) *flow.Tuple {
			return r.sendAll(t, n, connected(t, r.client))
		},
		[]string{"TCP_INVALID_SYN", "NOT_SPECIFIED"}, toClient, Ingress, "TcpExt TCPSYNChallenge", true,
	},
	{
		"neighbour that does not answer",
		func(t *testing.T, _ *raw, n int) *flow.Tuple {
			netnstest.Sysctl(t, "ipv4/neigh/"+toServer+"/retrans_time_ms", "50")
			conn := dial(t, nil, "10.2.0.99", sent.DestinationPort)
			send(t, conn, n, 32)
			tuple := tupleOf(conn)
			return &tuple
		},
		[]string{"NEIGH_FAILED", "NOT_SPECIFIED"}, toServer, Egress, "", false,
	},
}

// Each cause is counted under the kernel's reason, as often as the kernel's own
// counter says, at its interface and for its flow; and nothing else is.
func TestCausesOfDrops(t *testing.T) {
	const n = 8
	const ipLen = ipv4Len + 8 + 32
	for _, tt := range causes {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			r := l.openRaw(t)
			p := load(t, roomy())
			if tt.sinceReasons && !p.features.Reasons {
				t.Skip("this kernel has no tracepoint where such packets are freed")
			}
			before := uint64(0)
			if tt.counter != "" {
				before = snmp(t, tt.counter)
			}
			tuple := tt.drop(t, r, n)

			key := Key{InterfaceIndex: index(t, tt.interfac), Direction: tt.direction}
			if tuple != nil {
				key.IPVersion, key.Protocol = 4, tuple.Protocol
			}
			var drops flow.Volume
			netnstest.Eventually(t, func() bool {
				counts, err := p.counts()
				require.NoError(t, err)
				for _, reason := range tt.reasons {
					key.Reason = p.named(reason)
					drops = countOf(counts, func(k Key) bool { return k == key })
					if drops.Packets >= n {
						return true
					}
				}
				return false
			}, tt.name)
			require.Equal(t, uint64(n), drops.Packets)
			if tt.counter != "" {
				require.Equal(t, snmp(t, tt.counter)-before, drops.Packets, tt.counter)
			}
			counts, flows := collect(t, p)
			require.Equal(t, []Count{{Key: key, Volume: drops}}, counts)
			if tuple == nil {
				require.Empty(t, flows)
				require.Equal(t, Health{NoFlow: drops}, health(t, p))
				return
			}
			require.Zero(t, health(t, p))
			require.Len(t, flows, 1)
			flows[0].First = time.Time{}
			require.Equal(t, FlowDrop{Key: key, Tuple: *tuple, Has: flow.HasPorts, Volume: drops}, flows[0])
			if tuple.Protocol == flow.UDP {
				require.Equal(t, uint64(n*ipLen), drops.Bytes)
			}
		})
	}
}

func as(t flow.Tuple, p flow.Protocol) flow.Tuple {
	t.Protocol = p
	return t
}

func to(t flow.Tuple, destination string) flow.Tuple {
	t.Destination = netip.MustParseAddr(destination)
	return t
}

// bound is a socket that nobody reads.
func bound(tb testing.TB, address string, port uint16) *net.UDPConn {
	tb.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), port)))
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, conn.Close()) })
	return conn
}

// connected opens a connection from the client to the node, and gives the tuple of
// what the client sends.
func connected(tb testing.TB, client *netnstest.Namespace) flow.Tuple {
	tb.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(node4, "9"))
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, listener.Close()) })
	tuple := as(sent, flow.TCP)
	client.Do(tb, func() {
		conn, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(tb, err)
		tb.Cleanup(func() { require.NoError(tb, conn.Close()) })
		tuple.SourcePort = conn.LocalAddr().(*net.TCPAddr).AddrPort().Port()
	})
	accepted, err := listener.Accept() // so that the handshake is over
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, accepted.Close()) })
	return tuple
}

func staticNeighbor(tb testing.TB, name, address string, at net.HardwareAddr) {
	tb.Helper()
	require.NoError(tb, netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: int(index(tb, name)), State: netlink.NUD_PERMANENT, IP: netip.MustParseAddr(address).AsSlice(),
		HardwareAddr: at,
	}))
}

// A connection that ends well has dropped nothing, whichever end closes it first, and
// what a program has not read is not confused with that.
func TestConnectionsThatEndDropNothing(t *testing.T) {
	l := newLab(t)
	p := load(t, roomy())
	connect := func(to string) (here, there *net.TCPConn) {
		var listener net.Listener
		l.client.Do(t, func() {
			var err error
			listener, err = net.Listen("tcp", net.JoinHostPort(to, "0"))
			require.NoError(t, err)
		})
		defer listener.Close()
		conn, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		accepted, err := listener.Accept()
		require.NoError(t, err)
		return conn.(*net.TCPConn), accepted.(*net.TCPConn)
	}
	for _, to := range []string{client4, client6} {
		for _, first := range []int{0, 1} {
			here, there := connect(to)
			ends := []*net.TCPConn{here, there}
			_, err := there.Write(make([]byte, 1000))
			require.NoError(t, err)
			_, err = here.Read(make([]byte, 1000))
			require.NoError(t, err)
			require.NoError(t, ends[first].Close())
			_, err = ends[1-first].Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			require.NoError(t, ends[1-first].Close())
		}
	}
	// closed while there is more to read, which comes to nothing: the kernel tells nobody
	here, there := connect(client4)
	_, err := there.Write(make([]byte, 1000))
	require.NoError(t, err)
	_, err = here.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, here.Close())
	_, err = there.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, there.Close())

	// the last one to be freed
	probe := dial(t, l.client, node4, 9)
	send(t, probe, 3, 10)
	await(t, p, Key{p.named("NO_SOCKET"), index(t, toClient), 4, flow.UDP, Ingress}, 3)
	counts, flows := collect(t, p)
	for _, c := range counts {
		require.NotEqual(t, flow.TCP, c.Protocol, "%+v", counts)
	}
	for _, f := range flows {
		require.NotEqual(t, flow.TCP, f.Protocol, "%+v", flows)
	}
}
