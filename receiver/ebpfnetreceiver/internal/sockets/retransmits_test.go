// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// The round trip time is what the packets take, as soon as the kernel has found out.
func TestRTT(t *testing.T) {
	t.Parallel()
	const delay = 50 * time.Millisecond
	for _, v6 := range []bool{false, true} {
		p, client, server := acrossDelay(t, v6, delay)
		var last time.Duration
		netnstest.Eventually(t, func() bool {
			send(t, client, server, 10_000) // of which no acknowledgement is delayed
			eventuallyAcked(t, client)
			c := live(t, p)[0]
			last = time.Duration(tcpInfo(t, client).Rtt) * time.Microsecond
			require.Equal(t, last, c.RTT)
			return c.RTT > 2*delay-delay/5 && c.RTT < 2*delay+delay/5
		}, "the round trip time")
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
		c := ends(t, p, 1)[0]
		require.InEpsilon(t, last, c.RTT, 0.5) // one more sample
	}
}

func acrossDelay(t testing.TB, v6 bool, delay time.Duration) (*Probe, *net.TCPConn, *net.TCPConn) {
	p := here(t)
	w := newWire(t, delay)
	client, server := dial(t, w.listen(t, v6))
	return p, client, server
}

// listen listens at the far end.
func (w *wire) listen(t testing.TB, v6 bool) (l *net.TCPListener) {
	at := far4
	if v6 {
		at = far6
	}
	w.far.Do(t, func() { l = listen(t, netip.AddrPortFrom(at, 0).String()) })
	return l
}

// Segments that are lost are sent again by either end: the namespaces count the same,
// and bytes count once.
func TestRetransmits(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		near := here(t)
		w := newWire(t, time.Millisecond)
		var far *Probe
		w.far.Do(t, func() { far = load(t) })
		var seen [2]atomic.Uint64
		w.losing(func(packet []byte, toFar bool) bool {
			if payloadOf(packet) == 0 {
				return false
			}
			i := map[bool]int{true: 0, false: 1}[toFar]
			return seen[i].Add(1)%10 == 3
		})
		client, server := dial(t, w.listen(t, v6))
		const up, down = 300_000, 100_000
		send(t, client, server, up)
		send(t, server, client, down)
		require.NoError(t, client.CloseWrite())
		readEnd(t, server)
		require.NoError(t, server.Close())
		readEnd(t, client)
		require.NoError(t, client.Close())

		c, s := ends(t, near, 1)[0], ends(t, far, 1)[0]
		require.EqualValues(t, snmp(t)["Tcp.RetransSegs"], c.Now.Retransmits)
		w.far.Do(t, func() { require.EqualValues(t, snmp(t)["Tcp.RetransSegs"], s.Now.Retransmits) })
		require.Greater(t, c.Now.Retransmits, uint32(5))
		require.NotZero(t, s.Now.Retransmits)
		require.EqualValues(t, up, c.Now.BytesSent)
		require.EqualValues(t, up, s.Now.BytesReceived)
		require.EqualValues(t, down, s.Now.BytesSent)
		require.EqualValues(t, down, c.Now.BytesReceived)
		require.Equal(t, flow.NotFailed, c.Failure)
		noMore(t, near)
		noMore(t, far)
	}
}

// Segments of the handshake that are lost: of the SYN the client tells, of its answer
// the server, which has no connection yet.
func TestHandshakeRetransmits(t *testing.T) {
	t.Parallel()
	near := here(t)
	w := newWire(t, time.Millisecond)
	var far *Probe
	w.far.Do(t, func() { far = load(t) })
	var syns, answers [2]atomic.Uint64
	w.losing(func(packet []byte, toFar bool) bool {
		header := tcpOf(packet)
		if header == nil || header[tcpFlags]&syn == 0 {
			return false
		}
		family := packet[0] >> 4 / 6
		if toFar {
			return syns[family].Add(1) == 1
		}
		return answers[family].Add(1) == 1
	})
	four, six := w.listen(t, false), w.listen(t, true)
	fds := []int{
		connectAtOnce(t, &unix.SockaddrInet4{Addr: far4.As4(), Port: four.Addr().(*net.TCPAddr).Port}, unix.AF_INET),
		connectAtOnce(t, &unix.SockaddrInet6{Addr: far6.As16(), Port: six.Addr().(*net.TCPAddr).Port}, unix.AF_INET6),
	}
	for i, l := range []*net.TCPListener{four, six} {
		server := accept(t, l)
		require.NoError(t, unix.Shutdown(fds[i], unix.SHUT_WR))
		readEnd(t, server)
		require.NoError(t, server.Close())
	}
	var again uint64
	for _, c := range ends(t, near, 2) {
		require.NotZero(t, c.Now.Retransmits)
		require.Zero(t, c.Begin.Retransmits)
		require.GreaterOrEqual(t, c.Latency, time.Second)
		again += uint64(c.Now.Retransmits)
	}
	require.Equal(t, snmp(t)["Tcp.RetransSegs"], again)
	again = 0
	for _, s := range ends(t, far, 2) {
		require.NotZero(t, s.Begin.Retransmits)
		require.Zero(t, s.Now.Since(s.Begin).Retransmits)
		again += uint64(s.Begin.Retransmits)
	}
	require.Equal(t, again, health(t, far).SYNACKRetransmits)
	w.far.Do(t, func() { require.Equal(t, snmp(t)["Tcp.RetransSegs"], again) })
}
