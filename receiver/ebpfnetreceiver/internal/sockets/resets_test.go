// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"net"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// unread has the other end send what is not read before the connection is closed.
func unread(t testing.TB, from, to *net.TCPConn) {
	_, err := from.Write([]byte("nobody reads this"))
	require.NoError(t, err)
	netnstest.Eventually(t, func() bool {
		var n int
		control(t, to, func(fd int) (err error) {
			n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
			return err
		})
		return n > 0
	}, "data")
}

// finSent shuts one direction down and waits until the other end has acknowledged it.
func finSent(t testing.TB, c *net.TCPConn) {
	require.NoError(t, c.CloseWrite())
	inState(t, c, finWait2)
}

// States as TCP_INFO gives them.
const (
	finWait2  = 5
	closeWait = 8
)

func inState(t testing.TB, c *net.TCPConn, state uint8) {
	netnstest.Eventually(t, func() bool { return tcpInfo(t, c).State == state }, "the state to change")
}

func linger0(t testing.TB, c *net.TCPConn) {
	require.NoError(t, c.SetLinger(0))
}

// One end breaks the connection off, by what it does to its own socket.
func TestResets(t *testing.T) {
	p := here(t)
	listeners := []*net.TCPListener{listen(t, "127.0.0.1:0"), listen(t, "[::1]:0")}
	var want Counters
	for _, test := range []struct {
		name string
		// what the end that resets does before it closes
		before func(one, other *net.TCPConn)
		// a connection that is established or half-closed by the other end: what
		// TcpEstabResets counts, for the one that resets and for the other
		established [2]bool
	}{
		{"unread data", func(one, other *net.TCPConn) { unread(t, other, one) }, [2]bool{true, true}},
		{"unread data after the other end's FIN", func(one, other *net.TCPConn) {
			unread(t, other, one)
			finSent(t, other)
			inState(t, one, closeWait)
		}, [2]bool{true, false}},
		{"unread data after its own FIN", func(one, other *net.TCPConn) {
			finSent(t, one)
			unread(t, other, one)
		}, [2]bool{false, true}},
		{"linger 0", func(one, _ *net.TCPConn) { linger0(t, one) }, [2]bool{true, true}},
		{"linger 0 after the other end's FIN", func(one, other *net.TCPConn) {
			linger0(t, one)
			finSent(t, other)
			inState(t, one, closeWait)
		}, [2]bool{true, false}},
		{"linger 0 after its own FIN", func(one, _ *net.TCPConn) {
			linger0(t, one)
			finSent(t, one)
		}, [2]bool{false, true}},
		{"disconnected", func(one, _ *net.TCPConn) { control(t, one, disconnect) }, [2]bool{true, true}},
	} {
		for _, l := range listeners {
			for _, resets := range []flow.Role{flow.Client, flow.Server} {
				before := snmp(t)
				client, server := dial(t, l)
				one, other := client, server
				if resets == flow.Server {
					one, other = server, client
				}
				send(t, one, other, 10)
				test.before(one, other)
				require.NoError(t, one.Close())
				var conns []flow.Connection
				netnstest.Eventually(t, func() bool {
					conns = append(conns, take(t, p)...)
					return len(conns) >= 2
				}, test.name+": the connection to end at both ends")
				require.Len(t, conns, 2, test.name)
				_ = other.Close()

				for _, c := range conns {
					require.Equal(t, c.Role == resets, c.ResetSent, "%s %v", test.name, c)
					require.Equal(t, c.Role != resets, c.ResetReceived, "%s %v", test.name, c)
					require.Equal(t, flow.Reset, c.Failure)
					require.True(t, c.Established)
					require.False(t, c.Vanished)
				}
				c, s := byRole(t, conns)
				sent := map[flow.Role]flow.Connection{flow.Client: c, flow.Server: s}[resets]
				require.EqualValues(t, 10, sent.Now.BytesSent, test.name)
				want.Opened[flow.Client]++
				want.Opened[flow.Server]++
				want.Closed = want.Opened
				want.ResetSent[resets]++
				want.ResetReceived[1-resets]++
				require.Equal(t, want, counters(t, p, flow.TCP), test.name)
				after := snmp(t)
				require.EqualValues(t, 1, after["Tcp.OutRsts"]-before["Tcp.OutRsts"], test.name)
				var estabResets uint64
				for _, established := range test.established {
					if established {
						estabResets++
					}
				}
				require.Equal(t, estabResets, after["Tcp.EstabResets"]-before["Tcp.EstabResets"], test.name)
				noMore(t, p)
			}
		}
	}
}

// disconnect is connect(2) to nowhere.
func disconnect(fd int) error {
	nowhere := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&nowhere)), unsafe.Sizeof(nowhere))
	if errno != 0 {
		return errno
	}
	return nil
}

// What comes for a connection that a program has closed is answered by a reset. The
// kernel tells of it as of one that was received while the FIN is on its way.
func TestResetForDataAfterClose(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		p, client, server := acrossWire(t, v6)
		before := snmp(t)
		_, err := server.Write([]byte("on its way"))
		require.NoError(t, err)
		require.NoError(t, client.Close()) // before it is here
		c := ends(t, p, 1)[0]
		require.True(t, c.ResetSent)
		require.False(t, c.ResetReceived)
		require.Equal(t, flow.Reset, c.Failure)
		require.Equal(t, Counters{Opened: [flow.Roles]uint64{1, 0}, Closed: [flow.Roles]uint64{1, 0}, ResetSent: [flow.Roles]uint64{1, 0}},
			counters(t, p, flow.TCP))
		after := snmp(t)
		// one for the data, and for each time that a busy machine sends it again
		require.Contains(t, []uint64{1, 1 + after["Tcp.RetransSegs"] - before["Tcp.RetransSegs"]}, after["Tcp.OutRsts"]-before["Tcp.OutRsts"])
		require.WithinDuration(t, time.Now(), c.Closed, time.Second, "at once")
		noMore(t, p)
	}
}

// A reset that does come then is one that was received.
func TestResetReceivedAfterClose(t *testing.T) {
	t.Parallel()
	p, client, server := acrossWire(t, false)
	linger0(t, server)
	require.NoError(t, server.Close())
	require.NoError(t, client.Close())
	c := ends(t, p, 1)[0]
	require.True(t, c.ResetReceived, "%v", c)
	require.False(t, c.ResetSent || c.Vanished)
	require.Equal(t, Counters{Opened: [flow.Roles]uint64{1, 0}, Closed: [flow.Roles]uint64{1, 0}, ResetReceived: [flow.Roles]uint64{1, 0}},
		counters(t, p, flow.TCP))
	noMore(t, p)
}

// acrossWire gives a connection whose packets take their time, and who watches its
// client.
func acrossWire(t testing.TB, v6 bool) (*Probe, *net.TCPConn, *net.TCPConn) {
	return acrossDelay(t, v6, 50*time.Millisecond)
}
