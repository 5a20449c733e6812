// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// ledger reads what is not in Health.
func ledger(t testing.TB, p *Probe, of bpf.SocketsSocketLedger) (n uint64) {
	var perCPU []uint64
	require.NoError(t, p.maps[bpf.SocketsMapSocketLedgers].Lookup(uint32(of), &perCPU))
	return sum(perCPU)
}

// Connections for which there is no room are counted, as they open, close and fail.
func TestFullTable(t *testing.T) {
	inNamespace(t)
	const room, n = 7, 20
	p := loadWith(t, Options{MaxEntries: room, RingBufferBytes: 1 << 16})
	l := listen(t, "127.0.0.1:0") // takes the first place
	var ends2 []*net.TCPConn
	for range n {
		client, server := dial(t, l)
		ends2 = append(ends2, client, server)
	}
	require.Len(t, live(t, p), room-1)
	require.EqualValues(t, 2*n-(room-1), health(t, p).Untracked)
	require.Equal(t, [flow.Roles]uint64{n, n}, counters(t, p, flow.TCP).Opened)
	_, err := net.Dial("tcp", "127.0.0.1:1")
	require.Error(t, err)
	require.Equal(t, failedOnce(flow.Refused), counters(t, p, flow.TCP).Failed)
	require.EqualValues(t, 2*n-(room-1)+1, health(t, p).Untracked)

	for i := 0; i < len(ends2); i += 2 {
		finish(t, ends2[i], ends2[i+1])
	}
	ends(t, p, room-1)
	require.Equal(t, [flow.Roles]uint64{n, n}, counters(t, p, flow.TCP).Closed)
	require.Zero(t, health(t, p).RecordsLost)
}

// A connection that was reset is counted once, though its socket stays until the program
// closes it, after as many others have ended as there is room for.
func TestFullTableOfResets(t *testing.T) {
	inNamespace(t)
	const room, n = 10, 100
	p := loadWith(t, Options{MaxEntries: room, RingBufferBytes: 1 << 16})
	l := listen(t, "127.0.0.1:0")
	var clients, servers []*net.TCPConn
	for range n {
		client, server := dial(t, l)
		clients, servers = append(clients, client), append(servers, server)
	}
	for _, c := range clients {
		require.NoError(t, c.SetLinger(0)) // closes with a reset
		require.NoError(t, c.Close())
	}
	for _, c := range servers {
		require.NoError(t, c.Close())
	}
	all := [flow.Roles]uint64{n, n}
	require.Eventually(t, func() bool { return counters(t, p, flow.TCP).Closed == all }, 5*time.Second, 10*time.Millisecond)
	require.Equal(t, all, counters(t, p, flow.TCP).Opened)
}

// So is each of those that are many more than there is room for.
func TestManyWithoutRoom(t *testing.T) {
	inNamespace(t)
	const room, n = 1000, 5000
	p := loadWith(t, Options{MaxEntries: room, RingBufferBytes: 1 << 20})
	l := listen(t, "127.0.0.1:0")
	var conns []*net.TCPConn
	for range n {
		client, server := dial(t, l)
		conns = append(conns, client, server)
	}
	for i := 0; i < len(conns); i += 2 {
		finish(t, conns[i], conns[i+1])
	}
	all := [flow.Roles]uint64{n, n}
	require.Eventually(t, func() bool { return counters(t, p, flow.TCP).Closed == all }, 5*time.Second, 10*time.Millisecond)
	require.Equal(t, all, counters(t, p, flow.TCP).Opened)
}

// With nobody reading, records wait in the ring buffer, then in the table; what finds
// no room there either is counted as lost, and what is lost is just the difference.
func TestFullRingAndTable(t *testing.T) {
	inNamespace(t)
	const room = 30
	p := loadWith(t, Options{MaxEntries: room, RingBufferBytes: 4096})
	p.ended.mu.Lock() // which stops the reading at the first record
	l := listen(t, "127.0.0.1:0")
	const n = 40
	for range n {
		client, server := dial(t, l)
		finish(t, client, server)
	}
	p.ended.mu.Unlock()
	h := health(t, p)
	require.Equal(t, Counters{Opened: [flow.Roles]uint64{n, n}, Closed: [flow.Roles]uint64{n, n}}, counters(t, p, flow.TCP))
	require.NotZero(t, h.Untracked+h.RecordsLost)
	require.NotZero(t, ledger(t, p, bpf.SocketsSocketLedgerSOCKET_PARKED))
	got := uint64(len(take(t, p)))
	got += uint64(len(take(t, p)))
	require.Equal(t, uint64(2*n), got+h.Untracked+h.RecordsLost)

	// and it goes on as if nothing had been
	client, server := dial(t, l)
	finish(t, client, server)
	ends(t, p, 2)
}

// The program itself keeps only so many until it is asked.
func TestUnreadRecords(t *testing.T) {
	inNamespace(t)
	const room = 8
	p := loadWith(t, Options{MaxEntries: room, RingBufferBytes: 4096}) // wakes the reader with each few
	l := listen(t, "127.0.0.1:0")
	const n = 3 * room
	for range n {
		client, server := dial(t, l)
		finish(t, client, server)
	}
	got := uint64(len(take(t, p)))
	require.LessOrEqual(t, got, uint64(room*endedFactor)+room)
	h := health(t, p)
	require.NotZero(t, h.RecordsLost)
	require.Equal(t, uint64(2*n), got+h.RecordsLost+h.Untracked)
}
