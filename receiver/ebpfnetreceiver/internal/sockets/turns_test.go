// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
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

// What the programs of one kind are missed for those of the other do, just so.
func TestOneOfTwoPrograms(t *testing.T) {
	for _, missed := range []string{"first", "second", "none"} {
		t.Run(missed, func(t *testing.T) {
			p := here(t)
			if missed != "none" {
				detach(t, p, "socket_state_"+missed, "socket_reset_sent_"+missed, "socket_reset_received_"+missed, "socket_destroyed_"+missed)
			}
			oneReset(t)
			c, s := byRole(t, ends(t, p, 2))
			require.True(t, c.ResetSent && s.ResetReceived)
			require.False(t, c.ResetReceived || s.ResetSent || c.Vanished || s.Vanished)
			require.EqualValues(t, 10, c.Now.BytesSent)
			require.EqualValues(t, 10, s.Now.BytesReceived)
			want := [flow.Roles]uint64{1, 1}
			require.Equal(t, Counters{Opened: want, Closed: want, ResetSent: [flow.Roles]uint64{1, 0}, ResetReceived: [flow.Roles]uint64{0, 1}},
				counters(t, p, flow.TCP))
		})
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

// That a connection was accepted may be missed: its end tells.
func TestBeginningMissed(t *testing.T) {
	p := here(t)
	l := listen(t, "127.0.0.1:0")
	client, server := dial(t, l)
	for _, c := range live(t, p) {
		if c.Role == flow.Server && !c.Listens {
			require.NoError(t, p.maps[bpf.SocketsMapSocketConns].Delete(c.ID.Socket)) // as if it had been
		}
	}
	send(t, server, client, 10)
	finish(t, client, server)
	_, s := byRole(t, ends(t, p, 2))
	require.True(t, s.Established)
	require.False(t, s.Adopted || s.Vanished)
	require.Zero(t, s.EstablishedAt)
	require.NotZero(t, s.Closed)
	require.Equal(t, server.LocalAddr().String(), s.Local.String())
	require.Equal(t, client.LocalAddr().String(), s.Remote.String())
	require.EqualValues(t, 10, s.Now.BytesSent)
	require.EqualValues(t, os.Getpid(), s.Process.PID)
	require.Equal(t, [flow.Roles]uint64{1, 2}, counters(t, p, flow.TCP).Opened, "the one that is not missed here too")
	require.Equal(t, [flow.Roles]uint64{1, 1}, counters(t, p, flow.TCP).Closed)
}

// If all of a connection's end is missed, reading finds out.
func TestEndMissed(t *testing.T) {
	t.Parallel()
	p := here(t)
	l := listen(t, "127.0.0.1:0")
	client, server := dial(t, l)
	send(t, client, server, 10)
	detach(t, p, "socket_state_first", "socket_state_second", "socket_destroyed_first", "socket_destroyed_second")
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
// programs do. Hardly anything is lost by that.
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
	for quiet := 0; quiet < 3; quiet++ { // nothing more has come for a while
		time.Sleep(100 * time.Millisecond)
		for _, c := range take(t, p) {
			if of[c.NetNS] {
				require.True(t, c.Established, "%v", c)
				require.Equal(t, flow.NotFailed, c.Failure)
				ended[c.Role]++
				quiet = 0
			}
		}
	}
	for role, told := range ended {
		require.LessOrEqual(t, told, n)
		// The kernel (6.18) runs none of the programs, nor counts that it did not, for some
		// few of 10,000 connections whose packets another CPU hands over; why is not known.
		require.GreaterOrEqual(t, told, n-n/50)
		// and those of other namespaces
		require.GreaterOrEqual(t, counters(t, p, flow.TCP).Opened[role], uint64(told))
		require.GreaterOrEqual(t, counters(t, p, flow.TCP).Closed[role], uint64(told))
	}
	t.Logf("%v told of %d each; %d times a program was not run in the middle of itself", ended, n, recursionMisses(t, p))
}

// recursionMisses is how often the kernel did not run one of the programs.
func recursionMisses(t testing.TB, p *Probe) (n uint64) {
	for _, name := range []string{"socket_state_first", "socket_state_second"} {
		stats, err := p.programs[name].Stats()
		require.NoError(t, err)
		n += stats.RecursionMisses
	}
	return n
}
