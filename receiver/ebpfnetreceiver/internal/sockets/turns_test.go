// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netnstest"
)

// detach ends the attachments of programs, as if the kernel missed them each time.
func detach(t testing.TB, p *Probe, programs ...string) {
	ids := map[ebpf.ProgramID]bool{}
	for _, name := range programs {
		info, err := p.programs[name].Info()
		require.NoError(t, err)
		id, ok := info.ID()
		require.True(t, ok)
		ids[id] = true
	}
	for _, c := range p.closers {
		l, ok := c.(link.Link)
		if !ok {
			continue
		}
		info, err := l.Info()
		require.NoError(t, err)
		if ids[info.Program] {
			require.NoError(t, l.Close())
			delete(ids, info.Program)
		}
	}
	require.Empty(t, ids)
}

// atWork says on all CPUs that the first programs are at work below what comes.
func atWork(t testing.TB, p *Probe, n uint32) {
	cpus, err := ebpf.PossibleCPU()
	require.NoError(t, err)
	perCPU := make([]uint32, cpus)
	for i := range perCPU {
		perCPU[i] = n
	}
	for turn := range uint32(len(firstTurns)) {
		require.NoError(t, p.maps[bpf.SocketsMapSocketTurns].Put(turn, perCPU))
	}
}

var firstTurns = []string{"socket_state_first", "socket_reset_sent_first", "socket_reset_received_first"}

// oneReset has a connection that its client resets.
func oneReset(t testing.TB) {
	l := listen(t, "127.0.0.1:0")
	client, server := dial(t, l)
	send(t, client, server, 10)
	linger0(t, client)
	require.NoError(t, client.Close())
	netnstest.Eventually(t, func() bool { return tcpInfo(t, server).State == 7 }, "the reset")
	require.NoError(t, server.Close())
	require.NoError(t, l.Close())
}

// What the first programs are missed for the second ones do, just so.
func TestSecondTurn(t *testing.T) {
	p := here(t)
	detach(t, p, firstTurns...)
	atWork(t, p, 1)
	oneReset(t)
	c, s := byRole(t, ends(t, p, 2))
	require.True(t, c.ResetSent && s.ResetReceived)
	require.False(t, c.ResetReceived || s.ResetSent || c.Vanished || s.Vanished)
	require.EqualValues(t, 10, c.Now.BytesSent)
	require.EqualValues(t, 10, s.Now.BytesReceived)
	want := [flow.Roles]uint64{1, 1}
	require.Equal(t, Counters{Opened: want, Closed: want, ResetSent: [flow.Roles]uint64{1, 0}, ResetReceived: [flow.Roles]uint64{0, 1}},
		counters(t, p, flow.TCP))
	// LISTEN, SYN_SENT, SYN_RECV, twice ESTABLISHED, thrice CLOSE; two resets
	// in this namespace, and whatever happens in others
	require.GreaterOrEqual(t, ledger(t, p, bpf.SocketsSocketLedgerSOCKET_SECOND_TURNS), uint64(10))
}

// While the first are not at work, or where they run within each other, the second do
// nothing.
func TestNoSecondTurn(t *testing.T) {
	p := here(t)
	for i, atWorkBelow := range []uint32{0, 1} { // the first programs see that they are: they nest
		atWork(t, p, atWorkBelow)
		oneReset(t)
		ends(t, p, 2)
		want := [flow.Roles]uint64{uint64(i) + 1, uint64(i) + 1}
		require.Equal(t, want, counters(t, p, flow.TCP).Opened)
		require.Equal(t, want, counters(t, p, flow.TCP).Closed)
	}
}

// That a socket was closed may be missed: what tells of its destruction is as good.
func TestCloseMissed(t *testing.T) {
	p := here(t)
	l := listen(t, "127.0.0.1:0")
	client, server := dial(t, l)
	send(t, client, server, 10)
	detach(t, p, "socket_state_first", "socket_state_second")
	require.NoError(t, client.Close())
	require.NoError(t, server.Close())
	require.NoError(t, l.Close())
	var closed []flow.Connection
	netnstest.Eventually(t, func() bool {
		closed = append(closed, read(t, p).Closed...)
		return len(closed) >= 3
	}, "the connection and the listener to end")
	require.Len(t, closed, 3)
	for _, c := range closed {
		require.False(t, c.Vanished)
		require.NotZero(t, c.Closed)
	}
	require.Equal(t, [flow.Roles]uint64{1, 1}, counters(t, p, flow.TCP).Closed)
}

// If all of a connection's end is missed, reading finds out.
func TestEndMissed(t *testing.T) {
	t.Parallel()
	p := here(t)
	l := listen(t, "127.0.0.1:0")
	client, server := dial(t, l)
	send(t, client, server, 10)
	detach(t, p, "socket_state_first", "socket_state_second", "socket_destroyed")
	require.NoError(t, client.Close())
	require.NoError(t, server.Close())
	c, _ := byRole(t, ends(t, p, 2))
	require.True(t, c.Vanished)
	require.True(t, c.Established)
	require.Equal(t, flow.NotFailed, c.Failure)
	require.NotZero(t, c.Closed)
	require.Equal(t, [flow.Roles]uint64{1, 1}, counters(t, p, flow.TCP).Closed)
	require.Empty(t, live(t, p))
}

// Packets that another CPU hands over come in an interrupt, in the middle of what
// programs do: little is lost by that, and it shows.
func TestInterrupts(t *testing.T) {
	bpftest.RequireBPF(t)
	here := netnstest.Enter(t)
	loopback(t)
	if _, err := os.Stat("/proc/sys/net/core/rps_default_mask"); err != nil {
		t.Skip("the kernel is too old for a namespace to say which CPUs get packets")
	}
	netnstest.Sysctl(t, "core/rps_default_mask", fmt.Sprintf("%x", 1<<min(runtime.NumCPU(), 8)-1))
	pr := newPair(t)
	p := loadAs(t, Options{MaxEntries: 65536, RingBufferBytes: 1 << 20}) // of both ends
	of := map[uint32]bool{netNS(t): true}
	pr.far.Do(t, func() { of[netNS(t)] = true })
	const workers = 4
	n := times(t, 2000)
	pr.load(t, here, workers, n/workers)

	var ended [flow.Roles]int
	netnstest.Eventually(t, func() bool {
		for _, c := range take(t, p) {
			if of[c.NetNS] {
				require.True(t, c.Established, "%v", c)
				require.Equal(t, flow.NotFailed, c.Failure)
				ended[c.Role]++
			}
		}
		return ended[flow.Client] >= n && ended[flow.Server] >= n-n/50
	}, "all clients to end, and nearly all servers")
	missed := health(t, p).Missed
	t.Logf("%d second turns, %d missed of some %d events, %v ended",
		ledger(t, p, bpf.SocketsSocketLedgerSOCKET_SECOND_TURNS), missed, 10*n, ended)
	require.Equal(t, n, ended[flow.Client])
	require.LessOrEqual(t, ended[flow.Server], n)
	if ended[flow.Server] < n {
		require.NotZero(t, missed)
	}
}
