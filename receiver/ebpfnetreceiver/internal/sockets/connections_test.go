// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

func TestConnection(t *testing.T) {
	for _, test := range []struct{ name, listens, local string }{
		{"IPv4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "[::1]:0", "::1"},
		{"any IPv4", "0.0.0.0:0", "127.0.0.1"},
		{"any", "[::]:0", "::1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			testConnection(t, test.listens, netip.MustParseAddr(test.local))
		})
	}
}

func testConnection(t *testing.T, listens string, at netip.Addr) {
	p := here(t)
	l := listen(t, listens)
	before := time.Now()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	client, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, port)))
	require.NoError(t, err)
	server := accept(t, l)
	const up, down = 100_000, 7
	send(t, client, server, up)
	send(t, server, client, down)
	finish(t, client, server)

	conns := ends(t, p, 2)
	for _, c := range conns {
		require.Equal(t, flow.TCP, c.Protocol)
		require.True(t, c.Established)
		require.False(t, c.Adopted || c.Vanished || c.ResetSent || c.ResetReceived || c.Listens)
		require.Equal(t, flow.NotFailed, c.Failure)
		require.EqualValues(t, os.Getpid(), c.Process.PID)
		require.Contains(t, c.Process.Name, ".test")
		require.Equal(t, netNS(t), c.NetNS)
		require.WithinDuration(t, before, c.EstablishedAt, 5*time.Second)
		require.True(t, c.Closed.After(c.EstablishedAt))
		require.Positive(t, c.RTT)
		require.Zero(t, c.Begin)
	}
	c, s := byRole(t, conns)
	require.Equal(t, client.LocalAddr().String(), c.Local.String())
	require.Equal(t, at, c.Local.Addr())
	require.Equal(t, c.Local, s.Remote)
	require.Equal(t, c.Remote, s.Local)
	require.EqualValues(t, up, c.Now.BytesSent)
	require.EqualValues(t, up, s.Now.BytesReceived)
	require.EqualValues(t, down, s.Now.BytesSent)
	require.EqualValues(t, down, c.Now.BytesReceived)
	require.Equal(t, c.Now.SegmentsSent, s.Now.SegmentsReceived)
	require.Equal(t, snmp(t)["Tcp.RetransSegs"], uint64(c.Now.Retransmits+s.Now.Retransmits)) // a busy machine has some
	require.Positive(t, c.Latency)
	require.Equal(t, c.EstablishedAt.Sub(c.Started), c.Latency)
	require.Zero(t, s.Started)
	require.Zero(t, s.Latency)
	require.Equal(t, Counters{Opened: [flow.Roles]uint64{1, 1}, Closed: [flow.Roles]uint64{1, 1}}, counters(t, p, flow.TCP))
	noMore(t, p)
}

// A socket of IPv6 may speak IPv4, at each end.
func TestMappedAddresses(t *testing.T) {
	p := here(t)
	l := listen(t, "[::]:0")
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Connect(fd, &unix.SockaddrInet6{Port: int(port), Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()}))
	server := accept(t, l)

	c, s := byRole(t, live(t, p))
	require.Equal(t, netip.MustParseAddr("127.0.0.1"), c.Local.Addr())
	require.Equal(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), c.Remote)
	require.Equal(t, c.Remote, s.Local)
	require.Equal(t, c.Local, s.Remote)
	require.EqualValues(t, os.Getpid(), s.Process.PID)

	require.NoError(t, unix.Close(fd))
	readEnd(t, server)
	require.NoError(t, server.Close())
	ends(t, p, 2)
	noMore(t, p)
}

// What is read of connections that go on is what the kernel tells their programs.
func TestLiveNumbers(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		p := here(t)
		client, server := dial(t, listen(t, address))
		send(t, client, server, 1_000_000)
		send(t, server, client, 1000)
		for _, n := range []int{0, 1, 5000} { // again, and more
			if n > 0 {
				send(t, client, server, n)
			}
			eventuallyAcked(t, client, server)
			c, s := byRole(t, live(t, p))
			sameNumbers(t, tcpInfo(t, client), &c)
			sameNumbers(t, tcpInfo(t, server), &s)
			require.Zero(t, c.Closed)
		}
	}
}

// eventuallyAcked waits until nothing is on the way.
func eventuallyAcked(t testing.TB, ends ...*net.TCPConn) {
	netnstest.Eventually(t, func() bool {
		for _, c := range ends {
			if info := tcpInfo(t, c); info.Unacked != 0 || info.Notsent_bytes != 0 {
				return false
			}
		}
		return true
	}, "all to be acknowledged")
}

func sameNumbers(t testing.TB, want *unix.TCPInfo, got *flow.Connection) {
	require.Equal(t, flow.ConnectionNumbers{
		BytesSent: want.Bytes_sent - want.Bytes_retrans, BytesReceived: want.Bytes_received,
		SegmentsSent: want.Segs_out, SegmentsReceived: want.Segs_in, Retransmits: want.Total_retrans,
	}, got.Now)
	require.Equal(t, time.Duration(want.Rtt)*time.Microsecond, got.RTT)
}

// ss shows the same connections, and whose they are.
func TestAsSS(t *testing.T) {
	ss, err := exec.LookPath("ss")
	if err != nil {
		t.Skip("no ss here")
	}
	p := here(t)
	want := map[string]uint32{}
	for range 3 {
		for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
			dial(t, listen(t, address))
		}
	}
	out, err := exec.Command(ss, "-tnpOH").Output() // started by this thread: in its namespace
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		local, remote := netip.MustParseAddrPort(fields[3]), netip.MustParseAddrPort(fields[4])
		want[local.String()+" "+remote.String()] = uint32(os.Getpid())
		require.Contains(t, line, fmt.Sprintf("pid=%d,", os.Getpid()))
	}
	got := map[string]uint32{}
	for _, c := range live(t, p) {
		got[c.Local.String()+" "+c.Remote.String()] = c.Process.PID
	}
	require.Len(t, got, 12)
	require.Equal(t, want, got)
}

// Both ends connect to each other: neither has a listener.
func TestSimultaneousOpen(t *testing.T) {
	p := here(t)
	w := newWire(t, 30*time.Millisecond)
	connect := func(local, remote netip.Addr) int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Port: 7000, Addr: local.As4()}))
		require.ErrorIs(t, unix.Connect(fd, &unix.SockaddrInet4{Port: 7000, Addr: remote.As4()}), unix.EINPROGRESS)
		return fd
	}
	near := connect(near4, far4)
	var far int
	w.far.Do(t, func() { far = connect(far4, near4) })
	netnstest.Eventually(t, func() bool { return counters(t, p, flow.TCP).Opened != [flow.Roles]uint64{} }, "the connection")
	require.Equal(t, [flow.Roles]uint64{1, 0}, counters(t, p, flow.TCP).Opened)
	require.NoError(t, unix.Close(near))
	require.NoError(t, unix.Close(far))
	c := ends(t, p, 1)[0]
	require.True(t, c.Established)
	require.Equal(t, flow.Client, c.Role)
	require.Positive(t, c.Latency)
	noMore(t, p)
}

// The times are those of the handshake and of the end.
func TestTimes(t *testing.T) {
	t.Parallel()
	p := here(t)
	const delay = 50 * time.Millisecond
	w := newWire(t, delay)
	var l *net.TCPListener
	w.far.Do(t, func() { l = listen(t, netip.AddrPortFrom(far4, 0).String()) })
	before := time.Now()
	client, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	require.NoError(t, err)
	connected := time.Now()
	server := accept(t, l)
	require.NoError(t, client.Close())
	require.NoError(t, server.Close())
	c := ends(t, p, 1)[0]
	const clocks = time.Millisecond // apart
	require.WithinRange(t, c.Started, before.Add(-clocks), connected)
	require.WithinRange(t, c.EstablishedAt, c.Started.Add(2*delay), connected.Add(clocks))
	require.Equal(t, c.EstablishedAt.Sub(c.Started), c.Latency)
	// both FINs, and what answers this end's
	require.WithinRange(t, c.Closed, connected.Add(2*delay-clocks), time.Now())
}
