// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"context"
	"net"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// in gives those of a namespace.
func in(netns uint32, conns []flow.Connection) []flow.Connection {
	var of []flow.Connection
	for _, c := range conns {
		if c.NetNS == netns {
			of = append(of, c)
		}
	}
	return of
}

// at gives the connection whose own end is there.
func at(t testing.TB, local net.Addr, conns []flow.Connection) *flow.Connection {
	for i := range conns {
		if !conns[i].Listens && conns[i].Local.String() == local.String() {
			return &conns[i]
		}
	}
	require.FailNow(t, "no connection at "+local.String(), "%v", conns)
	return nil
}

// Connections that are there before the probe, in the namespace of who loads it and in
// another one.
func TestExisting(t *testing.T) {
	for _, test := range []struct {
		name      string
		elsewhere bool
		listens   string
	}{
		{"here", false, "127.0.0.1:0"},
		{"here, IPv6", false, "[::1]:0"},
		{"elsewhere", true, "127.0.0.1:0"},
		{"elsewhere, IPv6", true, "[::]:0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inNamespace(t)
			var l *net.TCPListener
			var client, server *net.TCPConn
			var of uint32
			open := func() {
				of = netNS(t)
				l = listen(t, test.listens)
				client, server = dial(t, l)
			}
			if test.elsewhere {
				elsewhere := netnstest.New(t)
				elsewhere.Do(t, func() {
					loopback(t)
					open()
				})
			} else {
				open()
			}
			const before, after, again = 12345, 1000, 77
			send(t, client, server, before)
			eventuallyAcked(t, client)
			p := loadAs(t, Options{MaxEntries: 65536, RingBufferBytes: 1 << 20})
			need(t, p, Existing)
			testExisting(t, p, of, l, client, server, before)

			send(t, client, server, after)
			send(t, server, client, again)
			finish(t, client, server)
			var closed []flow.Connection
			netnstest.Eventually(t, func() bool {
				closed = append(closed, in(of, take(t, p))...)
				return len(closed) >= 2
			}, "both ends")
			c, s := byRole(t, closed)
			require.True(t, c.Adopted && s.Adopted)
			require.Equal(t, flow.NotFailed, c.Failure)
			gain := c.Now.Since(c.Begin)
			require.EqualValues(t, after, gain.BytesSent)
			require.EqualValues(t, again, gain.BytesReceived)
			gain = s.Now.Since(s.Begin)
			require.EqualValues(t, again, gain.BytesSent)
			require.EqualValues(t, after, gain.BytesReceived)
		})
	}
}

func testExisting(t *testing.T, p *Probe, of uint32, l *net.TCPListener, client, server *net.TCPConn, sent uint64) {
	found := in(of, read(t, p).Live)
	require.Len(t, found, 3)
	for _, c := range found {
		require.EqualValues(t, os.Getpid(), c.Process.PID)
		require.Contains(t, c.Process.Name, ".test")
		require.False(t, c.Vanished)
		require.Zero(t, c.Started)
		require.Zero(t, c.EstablishedAt)
		require.Zero(t, c.Latency)
		require.Equal(t, c.Remote.Port() == 0, c.Listens)
	}
	c, s := at(t, client.LocalAddr(), found), at(t, server.LocalAddr(), found)
	require.Equal(t, flow.Client, c.Role)
	require.Equal(t, flow.Server, s.Role)
	require.True(t, c.Adopted && s.Adopted && c.Established && s.Established)
	require.Equal(t, sent, c.Begin.BytesSent)
	require.Equal(t, sent, s.Begin.BytesReceived)
	require.Zero(t, c.Now.Since(c.Begin).BytesSent)
	sameNumbers(t, tcpInfo(t, client), c)
	sameNumbers(t, tcpInfo(t, server), s)
}

// Sockets that no program has open, or that have more to come.
func TestExistingStates(t *testing.T) {
	inNamespace(t)
	l := listen(t, "127.0.0.1:0")
	to := l.Addr().(*net.TCPAddr)
	dialOnly := func() *net.TCPConn {
		c, err := net.DialTCP("tcp", nil, to)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	halfClosed, halfClosedServer := dial(t, l)
	finSent(t, halfClosed)
	inState(t, halfClosedServer, closeWait)
	orphan, orphanServer := dial(t, l)
	unread(t, orphan, orphanServer) // so that the server sends a FIN, below
	waiting := dialOnly()           // in the accept queue
	answering(t, silence)
	connecting, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	require.ErrorIs(t, unix.Connect(connecting, &unix.SockaddrInet4{Port: 5, Addr: far4.As4()}), unix.EINPROGRESS)

	p := load(t)
	need(t, p, ExistingHere)
	conns := live(t, p)
	require.Len(t, conns, 7)
	for _, c := range conns {
		require.True(t, c.Adopted)
		require.EqualValues(t, os.Getpid(), c.Process.PID, "%v", c)
		require.Equal(t, c.Remote.Port() != 5, c.Established)
		server := c.Local.String() == to.String()
		require.Equal(t, server, c.Role == flow.Server)
	}
	require.NoError(t, unix.Close(connecting))
	c := ends(t, p, 1)[0]
	want := flow.Canceled
	if c.Now.Retransmits > 0 { // it took a second to load
		want = flow.TimedOut
	}
	require.Equal(t, want, c.Failure)
	require.Equal(t, failedOnce(want), counters(t, p, flow.TCP).Failed)

	accepted := accept(t, l)
	finish(t, waiting, accepted)
	require.NoError(t, halfClosedServer.Close())
	readEnd(t, halfClosed)
	require.NoError(t, halfClosed.Close())
	require.NoError(t, orphanServer.Close()) // with data unread
	for _, c := range ends(t, p, 6) {
		require.Equal(t, orphan.LocalAddr().String() == c.Local.String() || orphan.LocalAddr().String() == c.Remote.String(),
			c.Failure == flow.Reset)
		require.False(t, c.Vanished)
	}
	require.Equal(t, [flow.Roles]uint64{3, 3}, counters(t, p, flow.TCP).Closed)
	require.Zero(t, counters(t, p, flow.TCP).Opened)
	noMore(t, p)
}

func failedOnce(f flow.Failure) (failed [flow.Failures]uint64) {
	failed[f] = 1
	return failed
}

// listenMPTCP listens as Go does by default.
func listenMPTCP(t testing.TB, address string) *net.TCPListener {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	if err != nil {
		t.Skipf("no MPTCP here: %v", err)
	}
	require.NoError(t, unix.Close(fd))
	var config net.ListenConfig
	config.SetMultipathTCP(true)
	l, err := config.Listen(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}

func dialMPTCP(t testing.TB, l *net.TCPListener) (client, server *net.TCPConn) {
	var dialer net.Dialer
	dialer.SetMultipathTCP(true)
	c, err := dialer.DialContext(context.Background(), "tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	server = accept(t, l)
	for _, end := range []*net.TCPConn{c.(*net.TCPConn), server} {
		multipath, err := end.MultipathTCP()
		require.NoError(t, err)
		require.True(t, multipath)
	}
	return c.(*net.TCPConn), server
}

// Listeners of MPTCP, to which TCP connects, and connections that are MPTCP at
// both ends; new ones, and such that were there before in this namespace and another.
func TestMPTCP(t *testing.T) {
	inNamespace(t)
	elsewhere := netnstest.New(t)
	var of uint32
	var l *net.TCPListener
	var plain, mptcp [2]*net.TCPConn
	open := func() {
		of = netNS(t)
		l = listenMPTCP(t, "127.0.0.1:0")
		plain[0], plain[1] = dial(t, l)
		mptcp[0], mptcp[1] = dialMPTCP(t, l)
	}
	check := func(p *Probe, adopted bool) {
		found := in(of, read(t, p).Live)
		require.Len(t, found, 5)
		for _, c := range found {
			require.EqualValues(t, os.Getpid(), c.Process.PID, "%v", c)
			if c.Listens {
				require.Equal(t, l.Addr().String(), c.Local.String())
				continue
			}
			require.Equal(t, adopted, c.Adopted)
			require.True(t, c.Established)
			require.Equal(t, c.Local.String() == l.Addr().String(), c.Role == flow.Server)
		}
		for _, pair := range [][2]*net.TCPConn{plain, mptcp} {
			send(t, pair[0], pair[1], 4000)
			require.NoError(t, pair[0].Close())
			readEnd(t, pair[1])
			require.NoError(t, pair[1].Close())
		}
		require.NoError(t, l.Close())
		var closed []flow.Connection
		netnstest.Eventually(t, func() bool {
			closed = append(closed, in(of, read(t, p).Closed)...)
			return len(closed) >= 5
		}, "all to end")
		require.Len(t, closed, 5)
		for _, c := range closed {
			require.False(t, c.Vanished)
			if !c.Listens && c.Role == flow.Client {
				require.EqualValues(t, 4000, c.Now.Since(c.Begin).BytesSent)
			}
		}
		key := bpf.SocketsSocketListenerKey{Netns: of, Port: l.Addr().(*net.TCPAddr).AddrPort().Port(), Address: l.Addr().(*net.TCPAddr).AddrPort().Addr().As16()}
		require.ErrorIs(t, p.maps[bpf.SocketsMapSocketListeners].Lookup(&key, new(bpf.SocketsSocketListener)), ebpf.ErrKeyNotExist, "forgotten")
	}
	for _, place := range []func(func()){func(fn func()) { fn() }, func(fn func()) { elsewhere.Do(t, fn) }} {
		place(func() { loopback(t) })
		place(open)
		before := loadAs(t, Options{MaxEntries: 65536, RingBufferBytes: 1 << 20})
		need(t, before, Existing)
		check(before, true)
		place(open)
		check(before, false)
		require.NoError(t, before.Close())
	}
}
