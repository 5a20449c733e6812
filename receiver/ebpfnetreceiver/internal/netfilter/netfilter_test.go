// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netfilter

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// sizes of datagrams, all different so that bytes say which were counted.
var sizes = []int{0, 1, 10, 100, 1000, 1400}

// volume of datagrams of these sizes.
func volume(ipv6 bool, sizes ...int) flow.Volume {
	v := flow.Volume{Packets: uint64(len(sizes))}
	for _, size := range sizes {
		v.Bytes += uint64(20 + 8 + size)
		if ipv6 {
			v.Bytes += 20
		}
	}
	return v
}

// sender gives a socket, and where to send to so that it goes through the hook.
func (l *lab) sender(t *testing.T, place Place) (fd int, to netip.Addr) {
	t.Helper()
	switch place.Hook {
	case Prerouting, LocalIn:
		to = clientRouter.addr(place.IPv6)
	case Forward:
		to = server.addr(place.IPv6)
	case LocalOut, Postrouting:
		return udp(t, place.IPv6), client.addr(place.IPv6)
	}
	l.client.Do(t, func() { fd = udp(t, place.IPv6) })
	return fd, to
}

// through sends datagrams through the hook and returns their volume.
func (l *lab) through(t *testing.T, place Place, sizes ...int) flow.Volume {
	t.Helper()
	fd, to := l.sender(t, place)
	send(t, fd, to, sizes...)
	return volume(place.IPv6, sizes...)
}

// Whatever drops, wherever: the numbers are those of the rule.
func TestDropsAreThoseOfTheRule(t *testing.T) {
	for _, fw := range []firewall{nft, iptables("nft"), iptables("legacy")} {
		for _, place := range places() {
			t.Run(fw.name+"/"+place.String(), func(t *testing.T) {
				l := newLab(t)
				p := load(t)
				fw.drop(t, place, "drop")
				rules := fw.list(t, place)
				sent := l.through(t, place, sizes...)
				netnstest.Eventually(t, func() bool { return count(t, p, place).Dropped.Packets >= sent.Packets }, "all are dropped")

				got := count(t, p, place)
				require.Equal(t, fw.rule(t, place), got.Dropped)
				require.Equal(t, sent, got.Dropped)
				require.GreaterOrEqual(t, got.Seen.Packets, got.Dropped.Packets)
				require.GreaterOrEqual(t, got.Seen.Bytes, got.Dropped.Bytes)
				requireNoDrops(t, p, place)
				require.Equal(t, rules, fw.list(t, place))
			})
		}
	}
}

// waitDropped waits until the place has dropped so much and nothing else has dropped anything.
func waitDropped(t *testing.T, p *Probe, place Place, want flow.Volume) {
	t.Helper()
	netnstest.Eventually(t, func() bool { return count(t, p, place).Dropped.Packets >= want.Packets }, "all are dropped")
	require.Equal(t, want, count(t, p, place).Dropped)
	requireNoDrops(t, p, place)
}

// What a rule lets go on arrives, is seen once at each hook of its way, and
// changes nothing.
func TestAcceptedIsNotDropped(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		place := Place{Forward, ipv6}
		t.Run(place.String(), func(t *testing.T) {
			l := newLab(t)
			p := load(t)
			nft.drop(t, place, "accept")
			arrived := l.listen(t, ipv6)
			// the first finds neighbours, whose packets IPv6 has hooks for
			l.through(t, place, 1)
			arrived(1)
			before, err := p.Counters()
			require.NoError(t, err)
			sent := l.through(t, place, sizes...)
			arrived(len(sizes))

			require.Equal(t, sent.Packets+1, nft.rule(t, place).Packets)
			for _, was := range before {
				got := count(t, p, was.Place)
				got.Seen.Packets -= was.Seen.Packets
				got.Seen.Bytes -= was.Seen.Bytes
				want := flow.Volume{}
				if was.IPv6 == ipv6 && (was.Hook == Prerouting || was.Hook == Forward || was.Hook == Postrouting) {
					want = sent
				}
				if was.IPv6 && was.Hook != Forward {
					// IPv6 has things of its own to say between neighbours
					require.GreaterOrEqual(t, got.Seen.Packets, want.Packets, was.Place)
					continue
				}
				require.Equal(t, want, got.Seen, was.Place)
			}
			requireNoDrops(t, p)
			requireNotes(t, p, 0)
		})
	}
}

// listen has the server receive, and returns what waits for so many datagrams.
func (l *lab) listen(t *testing.T, ipv6 bool) func(n int) {
	t.Helper()
	var fd int
	l.server.Do(t, func() {
		fd = udp(t, ipv6)
		require.NoError(t, unix.Bind(fd, sockaddr(server.addr(ipv6))))
	})
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}))
	return func(n int) {
		t.Helper()
		for range n {
			_, _, err := unix.Recvfrom(fd, make([]byte, 1<<16), 0)
			require.NoError(t, err)
		}
	}
}

// A rule that answers drops what it answers.
func TestRejectedIsDropped(t *testing.T) {
	for _, fw := range []firewall{nft, iptables("legacy")} {
		for _, ipv6 := range []bool{false, true} {
			for _, hook := range []Hook{LocalIn, Forward, LocalOut} {
				place := Place{hook, ipv6}
				t.Run(fw.name+"/"+place.String(), func(t *testing.T) {
					l := newLab(t)
					p := load(t)
					fw.drop(t, place, "reject")
					sent := l.through(t, place, 1, 1400)
					waitDropped(t, p, place, sent)
					require.Equal(t, fw.rule(t, place), sent)
					require.NotZero(t, count(t, p, Place{LocalOut, ipv6}).Seen, "the answer")
				})
			}
		}
	}
}

// Connection tracking takes fragments in the hook and gives one packet. That is
// no drop, and neither are they when that packet, or a fragment of it that is
// sent on, is dropped elsewhere.
func TestReassembledIsNotDropped(t *testing.T) {
	const track = "table inet track { chain c { type filter hook prerouting priority filter; ct state new; }; }"
	const size = 5000
	for _, ipv6 := range []bool{false, true} {
		name := Place{Forward, ipv6}.String()
		t.Run(name+"/accepted", func(t *testing.T) {
			l := newLab(t)
			p := load(t)
			run(t, track, "nft", "-f", "-")
			arrived := l.listen(t, ipv6)
			l.through(t, Place{Forward, ipv6}, size, size)
			arrived(2)
			pre, forward := count(t, p, Place{Prerouting, ipv6}), count(t, p, Place{Forward, ipv6})
			require.GreaterOrEqual(t, pre.Seen.Packets, uint64(8), "fragments")
			require.Equal(t, volume(ipv6, size, size), forward.Seen)
			requireNoDrops(t, p)
			requireNotes(t, p, 2) // of first fragments, which are freed unheard
		})
		for _, hook := range []Hook{Prerouting, Forward} {
			place := Place{hook, ipv6}
			t.Run(place.String()+"/dropped", func(t *testing.T) {
				l := newLab(t)
				p := load(t)
				run(t, track, "nft", "-f", "-")
				// behind the reassembly
				run(t, fmt.Sprintf("table inet t { chain c { type filter hook %s priority 0; udp dport %d counter drop; }; }",
					[...]string{Prerouting: "prerouting", Forward: "forward"}[hook], port), "nft", "-f", "-")
				sent := l.through(t, place, size)
				if hook == Prerouting { // it went to the router
					require.Equal(t, volume(ipv6, size), sent)
				}
				waitDropped(t, p, place, sent)
				require.Equal(t, nft.rule(t, place), sent)
			})
		}
		t.Run(name+"/dropped by the next host", func(t *testing.T) {
			l := newLab(t)
			p := load(t)
			run(t, track, "nft", "-f", "-")
			l.server.Do(t, func() {
				run(t, "table inet t { chain c { type filter hook prerouting priority -500; meta l4proto { udp, ipv6-frag } counter drop; }; }", "nft", "-f", "-")
			})
			l.through(t, Place{Forward, ipv6}, size)
			l.server.Do(t, func() {
				netnstest.Eventually(t, func() bool { return nft.rule(t, Place{}).Packets == 4 }, "all fragments are dropped there")
			})
			requireNoDrops(t, p)
			requireNotes(t, p, 1)
		})
	}
}

// requireNotes says of how many packets at most it is noted that they are in a hook still.
func requireNotes(t *testing.T, p *Probe, most int) {
	t.Helper()
	require.LessOrEqual(t, countNotes(t, p), most)
}

func countNotes(t *testing.T, p *Probe) int {
	t.Helper()
	notes := 0
	var key uint32
	var bucket [4]uint64
	it := p.programs.Notes.Iterate()
	for it.Next(&key, &bucket) {
		for _, note := range bucket {
			if note != 0 {
				notes++
			}
		}
	}
	require.NoError(t, it.Err())
	return notes
}

// What is queued is dropped where nobody takes it, or when whoever took it says so,
// and not before.
func TestQueued(t *testing.T) {
	for _, place := range places() {
		t.Run(place.String()+"/by nobody", func(t *testing.T) {
			l := newLab(t)
			p := load(t)
			iptables("legacy").drop(t, place, "nfqueue")
			sent := l.through(t, place, sizes...)
			waitDropped(t, p, place, sent)
			require.Equal(t, sent, iptables("legacy").rule(t, place))
		})
		t.Run(place.String()+"/by a program", func(t *testing.T) {
			l := newLab(t)
			p := load(t)
			q := newQueue(t)
			iptables("legacy").drop(t, place, "nfqueue")
			l.through(t, place, sizes...)
			ids := q.take(t, len(sizes))
			requireNoDrops(t, p)

			q.decide(t, ids[0], verdictAccept)
			requireNoDrops(t, p)
			for _, id := range ids[1:] {
				q.decide(t, id, verdictDrop)
			}
			waitDropped(t, p, place, volume(place.IPv6, sizes[1:]...))
			requireNotes(t, p, 0)
		})
	}
}

// Of a packet that is freed at the address of another's note nothing is counted.
func TestNoteOfAnother(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		place := Place{Forward, ipv6}
		t.Run(place.String(), func(t *testing.T) {
			l := newLab(t)
			p := load(t)
			q := newQueue(t)
			iptables("legacy").drop(t, place, "nfqueue")
			l.through(t, place, 1, 2)
			ids := q.take(t, 2)
			require.Equal(t, 2, changeNotes(t, p))
			for _, id := range ids {
				q.decide(t, id, verdictDrop)
			}
			netnstest.Eventually(t, func() bool { return countNotes(t, p) == 0 }, "both are freed")
			requireNoDrops(t, p)
		})
	}
}

// changeNotes makes all notes be of other packets, and says how many these are.
func changeNotes(t *testing.T, p *Probe) int {
	t.Helper()
	notes := 0
	for key := range p.programs.Notes.MaxEntries() {
		var bucket [4]uint64
		require.NoError(t, p.programs.Notes.Lookup(key, &bucket))
		for i, note := range bucket {
			if note != 0 {
				notes++
				bucket[i] ^= 1 << 5 // a bit of what of a packet nothing changes
				require.NoError(t, p.programs.Notes.Put(key, bucket))
			}
		}
	}
	return notes
}

// What other network namespaces drop is theirs.
func TestOtherNamespace(t *testing.T) {
	l := newLab(t)
	p := load(t)
	l.server.Do(t, func() { nft.drop(t, Place{LocalIn, false}, "drop") })
	l.through(t, Place{Forward, false}, sizes...)
	l.server.Do(t, func() {
		netnstest.Eventually(t, func() bool { return nft.rule(t, Place{}).Packets == uint64(len(sizes)) }, "all are dropped there")
	})
	require.Equal(t, volume(false, sizes...), count(t, p, Place{Forward, false}).Seen)
	requireNoDrops(t, p)
}

// A super-packet counts as what the wire would carry; a rule counts it as one.
func TestSuperPacket(t *testing.T) {
	const segment, last, segments = 1000, 321, 11
	for _, place := range places() {
		t.Run(place.String(), func(t *testing.T) {
			l := newLab(t)
			p := load(t)
			nft.drop(t, place, "drop")
			want := l.through(t, place, 0) // the device knows the neighbour then
			fd, to := l.sender(t, place)
			require.NoError(t, unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, segment))
			send(t, fd, to, (segments-1)*segment+last)

			for range segments - 1 {
				want.Add(volume(place.IPv6, segment))
			}
			want.Add(volume(place.IPv6, last))
			waitDropped(t, p, place, want)
			require.Equal(t, uint64(2), nft.rule(t, place).Packets)
		})
	}
}

// Two probes do not disturb each other: at each end of a hook there is room.
func TestTwice(t *testing.T) {
	l := newLab(t)
	one, other := load(t), load(t)
	place := Place{Forward, false}
	nft.drop(t, place, "drop")
	sent := l.through(t, place, sizes...)
	waitDropped(t, one, place, sent)
	waitDropped(t, other, place, sent)
	require.Equal(t, sent, count(t, other, place).Seen)
}

// Where there is no room for a note, one that nobody needs has to go.
func TestNotesAreFull(t *testing.T) {
	l := newLab(t)
	p := load(t)
	full := [4]uint64{1 << 63, 1 << 62, 3 << 62, 1 << 61}
	for key := range p.programs.Notes.MaxEntries() {
		require.NoError(t, p.programs.Notes.Put(key, full))
	}
	place := Place{Prerouting, true}
	nft.drop(t, place, "drop")
	sent := l.through(t, place, sizes...)
	netnstest.Eventually(t, func() bool { return count(t, p, place).Dropped.Packets >= sent.Packets }, "all are dropped")
	require.Equal(t, sent, count(t, p, place).Dropped)
	evicted, err := p.Evicted()
	require.NoError(t, err)
	require.NotZero(t, evicted)
}

// Numbers only grow and are never more than what was dropped, however often and
// whenever they are read, and in the end they are those of the rule.
func TestReadingWhileTrafficFlows(t *testing.T) {
	const senders, rounds = 4, 3000
	for _, ipv6 := range []bool{false, true} {
		place := Place{LocalOut, ipv6}
		t.Run(place.String(), func(t *testing.T) {
			l := newLab(t)
			p := load(t)
			l.through(t, Place{Postrouting, ipv6}, 1)
			// every other datagram, by its length
			run(t, fmt.Sprintf("table inet t { chain c { type filter hook output priority 0; udp dport %d udp length 108 counter drop; }; }", port), "nft", "-f", "-")

			var sending, reading sync.WaitGroup
			for range senders {
				fd := udp(t, ipv6)
				sending.Go(func() {
					for range rounds {
						for _, size := range []int{100, 200} {
							if err := unix.Sendto(fd, make([]byte, size), 0, sockaddr(client.addr(ipv6))); err != nil {
								assert.ErrorIs(t, err, unix.EPERM)
							}
						}
					}
				})
			}
			done := make(chan struct{})
			var reads atomic.Int64
			for range 2 {
				reading.Go(func() {
					var before []Count
					for running := true; running; {
						select {
						case <-done:
							running = false
						default:
						}
						now, err := p.Counters()
						if !assert.NoError(t, err) {
							return
						}
						for i, c := range now {
							assert.LessOrEqual(t, c.Dropped.Packets, c.Seen.Packets)
							if before != nil {
								assert.GreaterOrEqual(t, c.Seen.Packets, before[i].Seen.Packets)
								assert.GreaterOrEqual(t, c.Seen.Bytes, before[i].Seen.Bytes)
								assert.GreaterOrEqual(t, c.Dropped.Packets, before[i].Dropped.Packets)
								assert.GreaterOrEqual(t, c.Dropped.Bytes, before[i].Dropped.Bytes)
							}
							if c.Place != place {
								assert.Zero(t, c.Dropped, c.Place)
							}
							assert.LessOrEqual(t, c.Dropped.Packets, uint64(senders*rounds))
						}
						before = now
						reads.Add(1)
					}
				})
			}
			sending.Wait()
			close(done)
			reading.Wait()
			require.Greater(t, reads.Load(), int64(10))

			want := volume(ipv6, 100)
			want.Packets *= senders * rounds
			want.Bytes *= senders * rounds
			waitDropped(t, p, place, want)
			require.Equal(t, want, nft.rule(t, place))
			requireNotes(t, p, 0)
		})
	}
}

// The segments of a connection, and the headers of each, though they cross the
// router in super-packets. TCP counts both.
func TestTCPSuperPackets(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		place := Place{Forward, ipv6}
		t.Run(place.String(), func(t *testing.T) {
			l := newLab(t)
			p := load(t)
			near, far := l.transfer(t, l.client, server.addr(ipv6))
			want := tcpVolume(near, ipv6)
			want.Add(tcpVolume(far, ipv6))
			// the answer to the SYN was sent before there was a socket to count it
			want.Add(flow.Volume{Packets: 1, Bytes: tcpHeader(ipv6)})
			require.Greater(t, want.Packets, uint64(2000))
			require.Equal(t, want, count(t, p, place).Seen)
			requireNoDrops(t, p)
			requireNotes(t, p, 0)
		})
	}
}

// The same where super-packets are longer than an IP header can say. In IPv6 they
// have an option for it that is not on the wire. Some are lost on the way, but
// not here, and TCP counts what it sends again.
func TestBigTCP(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		place := Place{LocalOut, ipv6}
		t.Run(place.String(), func(t *testing.T) {
			l := newLab(t)
			l.allowBig(t)
			p := load(t)
			run(t, "table inet t { chain c { type filter hook output priority 0; meta length > 65575 counter; }; }", "nft", "-f", "-")
			// neighbours have found each other after this
			l.through(t, place, 1)
			before := count(t, p, place).Seen
			near, _ := l.transfer(t, nil, server.addr(ipv6))
			require.NotZero(t, nft.rule(t, place))
			got := count(t, p, place).Seen
			want := tcpVolume(near, ipv6)
			if ipv6 { // neighbours' packets are of IPv6 as well
				require.Less(t, got.Packets-before.Packets-want.Packets, uint64(10))
				require.Less(t, got.Bytes-before.Bytes-want.Bytes, uint64(1000))
			} else {
				require.Equal(t, want, flow.Volume{Packets: got.Packets - before.Packets, Bytes: got.Bytes - before.Bytes})
			}
			requireNoDrops(t, p)
		})
	}
}

// allowBig lets super-packets exceed what an IP header can say (BIG TCP).
func (l *lab) allowBig(t *testing.T) {
	t.Helper()
	allow := func(name string) {
		link, err := netlink.LinkByName(name)
		require.NoError(t, err)
		for _, set := range []func(netlink.Link, int) error{
			netlink.LinkSetGSOMaxSize, netlink.LinkSetGROMaxSize, netlink.LinkSetGSOIPv4MaxSize, netlink.LinkSetGROIPv4MaxSize,
		} {
			require.NoError(t, set(link, 150_000))
		}
	}
	allow("client")
	allow("server")
	l.client.Do(t, func() { allow("uplink") })
	l.server.Do(t, func() { allow("uplink") })
}

// In a tunnel each segment has the tunnel's headers for itself, too.
func TestTunnelledSuperPackets(t *testing.T) {
	l := newLab(t)
	const overhead = 20 + 8 + 8 + 14 // IP, UDP, VXLAN, Ethernet
	inner := map[bool]string{true: "203.0.113.1/24", false: "203.0.113.2/24"}
	vxlan := func(here bool, name string, local, remote node) {
		parent, err := netlink.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkAdd(&netlink.Vxlan{
			LinkAttrs: netlink.LinkAttrs{Name: "vxlan", HardwareAddr: mac(here)},
			VxlanId:   7, Port: 4789, VtepDevIndex: parent.Attrs().Index,
			SrcAddr: local.v4.AsSlice(), Group: remote.v4.AsSlice(),
		}))
		link := netnstest.Up(t, "vxlan")
		addr, err := netlink.ParseAddr(inner[here])
		require.NoError(t, err)
		require.NoError(t, netlink.AddrAdd(link, addr))
		other, err := netlink.ParseAddr(inner[!here])
		require.NoError(t, err)
		require.NoError(t, netlink.NeighAdd(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: other.IP, HardwareAddr: mac(!here), State: netlink.NUD_PERMANENT,
		}))
	}
	vxlan(true, "server", serverRouter, server)
	l.server.Do(t, func() { vxlan(false, "uplink", server, serverRouter) })
	p := load(t)

	near, _ := l.transfer(t, nil, netip.MustParseAddr("203.0.113.2"))
	inside := tcpVolume(near, false)
	require.Greater(t, inside.Packets, uint64(2000))
	outside := flow.Volume{Packets: inside.Packets, Bytes: inside.Bytes + inside.Packets*overhead}
	want := inside
	want.Add(outside)
	require.Equal(t, want, count(t, p, Place{LocalOut, false}).Seen)
	requireNoDrops(t, p)
}

func mac(here bool) net.HardwareAddr {
	if here {
		return net.HardwareAddr{2, 0, 0, 0, 0, 1}
	}
	return net.HardwareAddr{2, 0, 0, 0, 0, 2}
}

// transfer sends some megabytes from a namespace, nil for this one, to the
// server, and returns what the two ends of the connection have counted.
func (l *lab) transfer(t *testing.T, from *netnstest.Namespace, to netip.Addr) (near, far *unix.TCPInfo) {
	t.Helper()
	var listener *net.TCPListener
	l.server.Do(t, func() {
		netnstest.Sysctl(t, "ipv4/tcp_sack", "0") // its options make some headers longer
		var err error
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
		require.NoError(t, err)
	})
	defer listener.Close()
	var client *net.TCPConn
	dial := func() {
		netnstest.Sysctl(t, "ipv4/tcp_sack", "0")
		var err error
		client, err = net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
		require.NoError(t, err)
	}
	if from == nil {
		dial()
	} else {
		from.Do(t, dial)
	}
	defer client.Close()
	server, err := listener.AcceptTCP()
	require.NoError(t, err)
	defer server.Close()

	go func() {
		_, err := client.Write(make([]byte, 4<<20))
		assert.NoError(t, errors.Join(err, client.CloseWrite()))
	}()
	_, err = io.Copy(io.Discard, server)
	require.NoError(t, err)
	require.NoError(t, server.CloseWrite())
	const closed = 7 // TCP_CLOSE
	netnstest.Eventually(t, func() bool {
		return tcpInfo(t, client).State == closed && tcpInfo(t, server).State == closed
	}, "both ends are closed")
	return tcpInfo(t, client), tcpInfo(t, server)
}

// tcpHeader is the length of IP and TCP headers, with timestamps.
func tcpHeader(ipv6 bool) uint64 {
	if ipv6 {
		return 40 + 32
	}
	return 20 + 32
}

// tcpVolume is what an end of a connection has sent. Its SYN has segment size and
// window scale beside.
func tcpVolume(info *unix.TCPInfo, ipv6 bool) flow.Volume {
	return flow.Volume{
		Packets: uint64(info.Segs_out),
		Bytes:   info.Bytes_sent + uint64(info.Segs_out)*tcpHeader(ipv6) + 8,
	}
}

// tcpInfo is what the kernel has counted of a connection.
func tcpInfo(t *testing.T, conn *net.TCPConn) *unix.TCPInfo {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	var info *unix.TCPInfo
	var infoErr error
	require.NoError(t, raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}))
	require.NoError(t, infoErr)
	return info
}

// Translated packets go on as they should, and one that is dropped after its
// addresses were changed is counted like any other.
func TestTranslated(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(Place{Forward, ipv6}.String(), func(t *testing.T) {
			l := newLab(t)
			p := load(t)
			family := "ip"
			if ipv6 {
				family = "ip6"
			}
			rules := fmt.Sprintf(`table %s nat {
				chain pre { type nat hook prerouting priority dstnat; udp dport %d dnat to %s; };
				chain post { type nat hook postrouting priority srcnat; udp dport %d masquerade; };
				chain late { type filter hook postrouting priority 200; udp length 108 counter drop; };
			}`, family, port, server.addr(ipv6), port)
			run(t, rules, "nft", "-f", "-")
			listed := run(t, "", "nft", "--stateless", "list", "ruleset")
			arrived := l.listen(t, ipv6)
			// to the router itself, which sends it on
			l.through(t, Place{Prerouting, ipv6}, 1, 100, 2, 100)
			arrived(2)

			dropped := volume(ipv6, 100, 100)
			waitDropped(t, p, Place{Postrouting, ipv6}, dropped)
			require.Equal(t, dropped, nft.rule(t, Place{}))
			require.Equal(t, volume(ipv6, 1, 100, 2, 100), count(t, p, Place{Forward, ipv6}).Seen)
			require.Equal(t, listed, run(t, "", "nft", "--stateless", "list", "ruleset"))
			requireNotes(t, p, 0)
		})
	}
}

// A bridge with br_netfilter shows its packets to the hooks too.
func TestBridged(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		place := Place{Forward, ipv6}
		t.Run(place.String(), func(t *testing.T) {
			l := newLab(t)
			if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
				t.Skip("this kernel has no br_netfilter, or it is not loaded")
			}
			bridge(t, l)
			netnstest.Sysctl(t, "bridge/bridge-nf-call-iptables", "1")
			netnstest.Sysctl(t, "bridge/bridge-nf-call-ip6tables", "1")
			p := load(t)
			nft.drop(t, place, "drop")
			sent := l.through(t, place, sizes...)
			waitDropped(t, p, place, sent)
			require.Equal(t, sent, nft.rule(t, place))
			// neighbours ask for each other in packets of IPv6
			require.GreaterOrEqual(t, count(t, p, place).Seen.Packets, sent.Packets)
		})
	}
}

// bridge makes of the router a bridge, and of client and server neighbours.
func bridge(t *testing.T, l *lab) {
	t.Helper()
	require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bridge"}}))
	master := netnstest.Up(t, "bridge")
	for _, name := range []string{"client", "server"} {
		require.NoError(t, netlink.LinkSetMaster(netnstest.Up(t, name), master))
	}
	for ns, other := range map[*netnstest.Namespace]node{l.client: server, l.server: client} {
		ns.Do(t, func() {
			link := netnstest.Up(t, "uplink")
			for addr, bits := range map[netip.Addr]int{other.v4: 32, other.v6: 128} {
				require.NoError(t, netlink.RouteAdd(&netlink.Route{
					LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
					Dst: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, bits)},
				}))
			}
		})
	}
}

// A proxy that answers a SYN itself takes it: nobody has lost it.
func TestTakenIsNotDropped(t *testing.T) {
	l := newLab(t)
	p := load(t)
	run(t, `table ip t {
		chain pre { type filter hook prerouting priority raw; tcp dport 9 tcp flags syn notrack; };
		chain proxy { type filter hook forward priority 0; tcp dport 9 ct state invalid,untracked counter synproxy mss 1460 wscale 7; };
	}`, "nft", "-f", "-")
	netnstest.Sysctl(t, "netfilter/nf_conntrack_tcp_loose", "0") // what the proxy needs
	var listener net.Listener
	l.server.Do(t, func() {
		var err error
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(server.v4, port).String())
		require.NoError(t, err)
	})
	defer listener.Close()
	l.client.Do(t, func() {
		conn, err := net.Dial("tcp4", listener.Addr().String())
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	})
	require.NotZero(t, nft.rule(t, Place{}).Packets)
	requireNoDrops(t, p)
}

// A queue whose program takes no super-packets gets their segments.
func TestQueuedSuperPacket(t *testing.T) {
	l := newLab(t)
	p := load(t)
	q := newQueue(t)
	place := Place{Forward, false}
	iptables("legacy").drop(t, place, "nfqueue")
	fd, to := l.sender(t, place)
	require.NoError(t, unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000))
	send(t, fd, to, 3000)
	for _, id := range q.take(t, 3) {
		requireNoDrops(t, p)
		q.decide(t, id, verdictAccept)
	}
	requireNoDrops(t, p)
}

// The capabilities that the README lists are needed, and no others.
func TestPrivileges(t *testing.T) {
	bpftest.RequireBPF(t)
	requireNetfilter(t)
	netnstest.Enter(t)
	needed := []int{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON}
	missing := []string{
		"CAP_BPF (loads programs and maps)", "CAP_NET_ADMIN (attaches programs to netfilter's hooks)", "CAP_PERFMON (lets programs read the kernel's memory)",
	}
	bpftest.With(t, func() {
		p := load(t)
		for _, f := range p.Features() {
			require.NoError(t, f.Err, f.Name)
		}
		_, err := p.Counters()
		require.NoError(t, err)
	}, needed...)
	for i, want := range missing {
		bpftest.With(t, func() {
			_, err := Load()
			require.ErrorContains(t, err, "missing "+want+"; run as root")
		}, slices.Delete(slices.Clone(needed), i, i+1)...)
	}
}

// A place whose ends others hold is a feature that does not work; the others do.
func TestPlaceIsTaken(t *testing.T) {
	newLab(t)
	other := load(t)
	for i := range int32(otherPrograms) {
		taken, err := link.AttachNetfilter(link.NetfilterOptions{
			Program: other.programs.Last, ProtocolFamily: link.NetfilterProtoIPv4,
			Hook: link.NetfilterInetForward, Priority: math.MinInt32 + 2 + i,
		})
		require.NoError(t, err)
		defer taken.Close()
	}
	p, err := Load()
	require.NoError(t, err)
	defer p.Close()
	for _, f := range p.Features() {
		if f.Name != (Place{Forward, false}).String() {
			require.NoError(t, f.Err, f.Name)
			continue
		}
		require.ErrorIs(t, f.Err, unix.EBUSY)
		require.ErrorContains(t, f.Err, "attach to netfilter hook ipv4 forward: at the first priority: other programs have")
	}
	counts, err := p.Counters()
	require.NoError(t, err)
	require.Len(t, counts, 2*Hooks-1)
}

// What a kernel lacks is told by what it cannot do, so that the caller can go on without.
func TestKernelWithoutNetfilterPrograms(t *testing.T) {
	err := explain(fmt.Errorf("probe: %w", ebpf.ErrNotSupported))
	require.ErrorIs(t, err, ebpf.ErrNotSupported)
	require.ErrorContains(t, err, "CONFIG_NETFILTER_BPF_LINK=y")
}

// The estimate is near to what the kernel says that the maps take.
func TestMapBytesAgainstTheKernel(t *testing.T) {
	netnstest.Enter(t)
	p := load(t)
	require.Equal(t, uint64(1<<16*8), p.MapBytes(), "a word for each of the notes")
	var taken uint64
	for _, m := range []*ebpf.Map{p.programs.Seen, p.programs.Dropped, p.programs.Notes, p.programs.Evicted} {
		info, err := m.Info()
		require.NoError(t, err)
		bytes, ok := info.Memlock()
		require.True(t, ok)
		taken += bytes
	}
	require.InEpsilon(t, taken, p.MapBytes(), 0.15)
}
