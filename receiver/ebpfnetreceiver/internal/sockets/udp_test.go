// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

func hereUDP(t testing.TB) *Probe {
	p := here(t)
	need(t, p, UDP)
	return p
}

func listenUDP(t testing.TB, address string) *net.UDPConn {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func dialUDP(t testing.TB, to net.Addr) *net.UDPConn {
	c, err := net.DialUDP("udp", nil, to.(*net.UDPAddr))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// receive reads one datagram.
func receive(t testing.TB, c *net.UDPConn, size int) netip.AddrPort {
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, from, err := c.ReadFromUDPAddrPort(make([]byte, 65536))
	require.NoError(t, err)
	require.Equal(t, size, n)
	return from
}

func TestUDP(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		p := hereUDP(t)
		server := listenUDP(t, address)
		client := dialUDP(t, server.LocalAddr())
		before := time.Now()
		var up uint64
		for _, size := range []int{0, 1, 1200, 9000} {
			_, err := client.Write(make([]byte, size))
			require.NoError(t, err)
			up += uint64(size)
			from := receive(t, server, size)
			_, err = server.WriteToUDPAddrPort(make([]byte, 5), from)
			require.NoError(t, err)
			receive(t, client, 5)
		}
		c, s := byRole(t, live(t, p))
		for _, end := range []flow.Connection{c, s} {
			require.Equal(t, flow.UDP, end.Protocol)
			require.True(t, end.Established)
			require.False(t, end.Adopted || end.Vanished || end.Listens)
			require.EqualValues(t, os.Getpid(), end.Process.PID)
			require.WithinRange(t, end.EstablishedAt, before.Add(-time.Millisecond), time.Now())
			require.Zero(t, end.Closed)
			require.Zero(t, end.RTT)
		}
		require.Equal(t, client.LocalAddr().String(), c.Local.String())
		require.Equal(t, client.RemoteAddr().String(), c.Remote.String())
		require.Equal(t, server.LocalAddr().String(), s.Local.String())
		require.True(t, s.Remote.Addr().IsUnspecified())
		require.Zero(t, s.Remote.Port())
		require.Equal(t, flow.ConnectionNumbers{BytesSent: up, BytesReceived: 20}, c.Now)
		require.Equal(t, flow.ConnectionNumbers{BytesSent: 20, BytesReceived: up}, s.Now)

		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
		closedClient, closedServer := byRole(t, ends(t, p, 2))
		for _, pair := range [][2]flow.Connection{{c, closedClient}, {s, closedServer}} {
			require.Equal(t, pair[0].ID, pair[1].ID)
			require.Equal(t, pair[0].Now, pair[1].Now)
			require.Equal(t, pair[0].Local, pair[1].Local)
			require.NotZero(t, pair[1].Closed)
			require.False(t, pair[1].Vanished)
			require.Equal(t, flow.NotFailed, pair[1].Failure)
		}
		require.Equal(t, Counters{Opened: [flow.Roles]uint64{1, 1}, Closed: [flow.Roles]uint64{1, 1}}, counters(t, p, flow.UDP))
		require.Zero(t, counters(t, p, flow.TCP))
		noMore(t, p)
	}
}

// Who asks for no port and sends is a client, also without connecting. IPv4 comes to a
// socket of IPv6.
func TestUDPUnconnected(t *testing.T) {
	p := hereUDP(t)
	server := listenUDP(t, "[::]:0")
	port := server.LocalAddr().(*net.UDPAddr).Port
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	mapped := netip.MustParseAddr("::ffff:127.0.0.1").As16()
	require.NoError(t, unix.Sendto(fd, make([]byte, 10), 0, &unix.SockaddrInet6{Port: port, Addr: mapped}))
	from := receive(t, server, 10)
	c, s := byRole(t, live(t, p))
	require.Equal(t, from.Port(), c.Local.Port())
	require.EqualValues(t, port, s.Local.Port())
	require.EqualValues(t, 10, c.Now.BytesSent)
	require.EqualValues(t, 10, s.Now.BytesReceived)

	// connected later, it is shown so
	require.NoError(t, unix.Connect(fd, &unix.SockaddrInet6{Port: port, Addr: mapped}))
	c, _ = byRole(t, live(t, p))
	loopback := netip.MustParseAddr("127.0.0.1")
	require.Equal(t, netip.AddrPortFrom(loopback, uint16(port)), c.Remote)
	require.Equal(t, loopback, c.Local.Addr())
	require.NoError(t, unix.Close(fd))
	ends(t, p, 1)
}

// A look at what has come is no reading of it; an error that is asked for is not
// what has come.
func TestUDPLooks(t *testing.T) {
	p := hereUDP(t)
	server := listenUDP(t, "127.0.0.1:0")
	client := dialUDP(t, server.LocalAddr())
	_, err := client.Write(make([]byte, 100))
	require.NoError(t, err)
	for range 3 {
		control(t, server, func(fd int) error {
			_, _, err := unix.Recvfrom(fd, make([]byte, 1000), unix.MSG_PEEK)
			return err
		})
	}
	receive(t, server, 100)
	require.NoError(t, server.Close())
	control(t, client, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1) })
	_, err = client.Write(make([]byte, 100)) // which nobody reads
	require.NoError(t, err)
	netnstest.Eventually(t, func() (got bool) {
		control(t, client, func(fd int) error {
			n, _, _, _, err := unix.Recvmsg(fd, make([]byte, 1000), make([]byte, 1000), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			got = err == nil && n == 100
			return nil
		})
		return got
	}, "the error")
	all := read(t, p)
	c, s := byRole(t, append(all.Live, all.Closed...))
	require.Equal(t, flow.ConnectionNumbers{BytesSent: 200}, c.Now)
	require.Equal(t, flow.ConnectionNumbers{BytesReceived: 100}, s.Now)
}

// Several datagrams by one call, each way.
func TestUDPBatches(t *testing.T) {
	p := hereUDP(t)
	server := listenUDP(t, "127.0.0.1:0")
	client := dialUDP(t, server.LocalAddr())
	var batch, into []ipv4.Message
	for i := range 20 {
		batch = append(batch, ipv4.Message{Buffers: [][]byte{make([]byte, 10+i)}})
		into = append(into, ipv4.Message{Buffers: [][]byte{make([]byte, 1500)}})
	}
	const bytes = 20*10 + 19*20/2
	n, err := ipv4.NewPacketConn(client).WriteBatch(batch, 0) // sendmmsg
	require.NoError(t, err)
	require.Len(t, batch, n)
	require.NoError(t, server.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, err = ipv4.NewPacketConn(server).ReadBatch(into, unix.MSG_WAITFORONE) // recvmmsg
	require.NoError(t, err)
	require.Len(t, batch, n)
	c, s := byRole(t, live(t, p))
	require.Equal(t, flow.ConnectionNumbers{BytesSent: bytes}, c.Now)
	require.Equal(t, flow.ConnectionNumbers{BytesReceived: bytes}, s.Now)
}

// One call whose data the kernel cuts into datagrams, and one that gets several
// as one.
func TestUDPSegmentation(t *testing.T) {
	p := hereUDP(t)
	server := listenUDP(t, "127.0.0.1:0")
	client := dialUDP(t, server.LocalAddr())
	control(t, client, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 1000) })
	_, err := client.Write(make([]byte, 10_500))
	require.NoError(t, err)
	for range 10 {
		receive(t, server, 1000)
	}
	receive(t, server, 500)
	c, s := byRole(t, live(t, p))
	require.Equal(t, flow.ConnectionNumbers{BytesSent: 10_500}, c.Now)
	require.Equal(t, flow.ConnectionNumbers{BytesReceived: 10_500}, s.Now)
	before := snmp(t)
	require.EqualValues(t, 11, before["Udp.InDatagrams"])
}

// Sockets that come and go use the same memory: each is one, also while they are read.
func TestUDPShort(t *testing.T) {
	p := hereUDP(t)
	server := listenUDP(t, "127.0.0.1:0")
	port := server.LocalAddr().(*net.UDPAddr).Port
	const n = 2000
	seen := map[flow.ConnectionID]flow.Connection{}
	note := func(t testing.TB) {
		for _, c := range take(t, p) {
			require.NotContains(t, seen, c.ID)
			seen[c.ID] = c
		}
	}
	for i := range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, unix.Sendto(fd, make([]byte, 10), 0, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
		}
		require.NoError(t, unix.Close(fd))
		if i%100 == 0 {
			note(t)
		}
	}
	netnstest.Eventually(t, func() bool {
		note(t)
		return len(seen) >= n
	}, "all to end")
	require.Len(t, seen, n)
	for _, c := range seen {
		require.EqualValues(t, 20, c.Now.BytesSent)
		require.Equal(t, flow.Client, c.Role)
		require.False(t, c.Vanished)
	}
	require.Equal(t, Counters{Opened: [flow.Roles]uint64{n, 0}, Closed: [flow.Roles]uint64{n, 0}}, counters(t, p, flow.UDP))
	noMore(t, p)
}

// Sockets for which there is no room are counted, each once.
func TestUDPWithoutRoom(t *testing.T) {
	inNamespace(t)
	const room, n = 10, 25
	p := loadWith(t, Options{MaxEntries: room, RingBufferBytes: 4096})
	need(t, p, UDP)
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}
	control := listenUDP(t, "127.0.0.1:9") // so that nothing comes back
	_ = control
	var conns []*net.UDPConn
	for range n {
		c := dialUDP(t, to)
		conns = append(conns, c)
		for range 5 {
			_, err := c.Write([]byte("x"))
			require.NoError(t, err)
		}
	}
	require.Len(t, live(t, p), room)
	require.EqualValues(t, n-room, health(t, p).Untracked)
	require.EqualValues(t, n, counters(t, p, flow.UDP).Opened[flow.Client])
	for _, c := range conns[:room] {
		require.NoError(t, c.Close())
	}
	ends(t, p, room)
	for _, c := range conns[room:] { // now there is room for some
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
	}
	require.Len(t, live(t, p), room)
	require.EqualValues(t, n, counters(t, p, flow.UDP).Opened[flow.Client])
	require.EqualValues(t, n-room, health(t, p).Untracked)
}
