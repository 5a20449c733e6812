// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package connections

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

const here, there, elsewhere = 1, 2, 3

var (
	client = netip.MustParseAddrPort("10.0.0.1:40000")
	server = netip.MustParseAddrPort("10.0.0.2:80")
	began  = time.Unix(100, 0)
	ended  = time.Unix(110, 0)
)

// opened gives a connection of the client, established at began.
func opened(socket uint64) flow.Connection {
	return flow.Connection{
		ID: flow.ConnectionID{Socket: socket, Made: 1}, Protocol: flow.TCP, Role: flow.Client,
		Local: client, Remote: server, NetNS: here, Process: flow.Process{PID: 7, Name: "curl"},
		Established: true, Started: began.Add(-time.Millisecond), EstablishedAt: began, Latency: time.Millisecond,
	}
}

func accepted(socket uint64) flow.Connection {
	c := opened(socket)
	c.Role, c.Local, c.Remote, c.Started, c.Latency = flow.Server, server, client, time.Time{}, 0
	c.Process = flow.Process{PID: 8, Name: "nginx"}
	return c
}

func closed(c flow.Connection) flow.Connection {
	c.Closed = ended
	return c
}

func did(c flow.Connection, n flow.ConnectionNumbers) flow.Connection {
	c.Now = n
	return c
}

func phases(in Interval) []Phase {
	var all []Phase
	for _, e := range in.Events {
		all = append(all, e.Phase)
	}
	return all
}

func TestConnectionIsToldOfOnce(t *testing.T) {
	table := New(here, 1)
	waiting := opened(1)
	waiting.Established, waiting.EstablishedAt, waiting.Latency = false, time.Time{}, 0
	require.Empty(t, table.Update([]flow.Connection{waiting}, nil).Events)

	in := table.Update([]flow.Connection{opened(1)}, nil)
	require.Equal(t, []Event{{Connection: opened(1), Phase: Connect, At: began}}, in.Events)
	require.Equal(t, []Sample{{flow.Client, time.Millisecond}}, in.Latencies)

	in = table.Update([]flow.Connection{opened(1)}, nil)
	require.Empty(t, in.Events)
	require.Empty(t, in.Latencies)
	require.Equal(t, 1, table.Len())

	// what ends while a reading goes on is in both lists
	in = table.Update([]flow.Connection{opened(1)}, []flow.Connection{closed(opened(1))})
	require.Equal(t, []Event{{Connection: closed(opened(1)), Phase: Close, At: ended}}, in.Events)
	require.Zero(t, table.Len())
	require.Zero(t, table.Forgotten())
}

func TestShortConnectionHasBothEvents(t *testing.T) {
	table := New(here, 1)
	require.Equal(t, []Phase{Connect, Close}, phases(table.Update(nil, []flow.Connection{closed(opened(1))})))
	require.Equal(t, []Phase{Accept, Close}, phases(table.Update(nil, []flow.Connection{closed(accepted(1))})))
}

// The kernel may miss to tell of the beginning, and tells of the end.
func TestConnectionWhoseBeginningWasMissed(t *testing.T) {
	c := closed(accepted(1))
	c.EstablishedAt = time.Time{}
	in := New(here, 1).Update(nil, []flow.Connection{c})
	require.Equal(t, []Event{{Connection: c, Phase: Accept, At: ended}, {Connection: c, Phase: Close, At: ended}}, in.Events)
}

func TestFailedConnection(t *testing.T) {
	c := closed(opened(1))
	c.Established, c.EstablishedAt, c.Latency, c.Failure = false, time.Time{}, 0, flow.Refused
	in := New(here, 1).Update(nil, []flow.Connection{c})
	require.Equal(t, []Event{{Connection: c, Phase: Failed, At: ended}}, in.Events)
	require.Empty(t, in.Latencies)
}

func TestConnectionFromBefore(t *testing.T) {
	table := New(here, 1)
	c := opened(1)
	c.Adopted, c.EstablishedAt, c.Latency = true, time.Time{}, 0
	c.Begin = flow.ConnectionNumbers{BytesSent: 1000, Retransmits: 3}
	require.Empty(t, table.Update([]flow.Connection{did(c, flow.ConnectionNumbers{BytesSent: 1200, Retransmits: 3})}, nil).Events)
	require.Equal(t, map[Kind]Totals{{flow.TCP, flow.Client}: {BytesSent: 200}}, table.Totals())
	require.Equal(t, []Phase{Close}, phases(table.Update(nil, []flow.Connection{closed(did(c, flow.ConnectionNumbers{BytesSent: 1201, Retransmits: 4}))})))
	require.Equal(t, map[Kind]Totals{{flow.TCP, flow.Client}: {BytesSent: 201, Retransmits: 1}}, table.Totals())
}

func TestTotals(t *testing.T) {
	table := New(here, 1)
	n := flow.ConnectionNumbers{BytesSent: 10, BytesReceived: 100, Retransmits: 1}
	table.Update([]flow.Connection{did(opened(1), n)}, []flow.Connection{closed(did(accepted(2), n))})
	before := table.Totals()
	more := flow.ConnectionNumbers{BytesSent: 15, BytesReceived: 300, Retransmits: 1}
	// live and closed in one reading: each byte once
	table.Update([]flow.Connection{did(opened(1), more)}, []flow.Connection{closed(did(opened(1), more))})
	require.Equal(t, map[Kind]Totals{
		{flow.TCP, flow.Client}: {BytesSent: 15, BytesReceived: 300, Retransmits: 1},
		{flow.TCP, flow.Server}: {BytesSent: 10, BytesReceived: 100, Retransmits: 1},
	}, table.Totals())
	require.EqualValues(t, 10, before[Kind{flow.TCP, flow.Client}].BytesSent, "a copy")
	// a number that goes back, as of memory that is another socket's, takes nothing away
	table.Update(nil, []flow.Connection{closed(did(opened(3), flow.ConnectionNumbers{}))})
	require.EqualValues(t, 15, table.Totals()[Kind{flow.TCP, flow.Client}].BytesSent)
}

// A segment counter of 32 bits wraps around.
func TestSegmentsWrapAround(t *testing.T) {
	n := flow.ConnectionNumbers{SegmentsReceived: 5}.Since(flow.ConnectionNumbers{SegmentsReceived: 1<<32 - 5})
	require.EqualValues(t, 10, n.SegmentsReceived)
}

func TestRTTIsSampledWhereSomethingCame(t *testing.T) {
	table := New(here, 1)
	c := opened(1)
	c.RTT = 20 * time.Millisecond
	require.Empty(t, table.Update([]flow.Connection{c}, nil).RTTs)
	require.Equal(t, []Sample{{flow.Client, c.RTT}}, table.Update([]flow.Connection{did(c, flow.ConnectionNumbers{SegmentsReceived: 1})}, nil).RTTs)
	require.Empty(t, table.Update([]flow.Connection{did(c, flow.ConnectionNumbers{SegmentsReceived: 1, SegmentsSent: 9})}, nil).RTTs)
	c.RTT = 0
	require.Empty(t, table.Update([]flow.Connection{did(c, flow.ConnectionNumbers{SegmentsReceived: 2})}, nil).RTTs)
}

// The kernel's table is read while it changes: a connection may be missing.
func TestMissingConnection(t *testing.T) {
	table := New(here, 1)
	table.Update([]flow.Connection{opened(1)}, nil)
	for range patience - 1 {
		table.Update(nil, nil)
	}
	require.Empty(t, table.Update([]flow.Connection{opened(1)}, nil).Events, "still known")
	for range patience {
		require.Equal(t, 1, table.Len())
		table.Update(nil, nil)
	}
	require.Zero(t, table.Len())
	require.EqualValues(t, 1, table.Forgotten())
}

func listening(socket uint64, at netip.AddrPort, drops uint32) flow.Connection {
	return flow.Connection{
		ID: flow.ConnectionID{Socket: socket}, Protocol: flow.TCP, Role: flow.Server, Listens: true, Local: at,
		Now: flow.ConnectionNumbers{ListenDrops: drops},
	}
}

func TestListeners(t *testing.T) {
	table := New(here, 2)
	a, b, c := netip.MustParseAddrPort("[::]:1"), netip.MustParseAddrPort("[::]:2"), netip.MustParseAddrPort("[::]:3")
	in := table.Update([]flow.Connection{listening(1, a, 0), listening(2, b, 5), listening(3, c, 7)}, nil)
	require.Empty(t, in.Events)
	require.ElementsMatch(t, []Listener{{b, 5}, {netip.AddrPort{}, 7}}, table.Listeners())
	// another socket at the same address goes on with its series
	table.Update([]flow.Connection{listening(4, b, 1)}, []flow.Connection{listening(2, b, 6)})
	require.ElementsMatch(t, []Listener{{b, 7}, {netip.AddrPort{}, 7}}, table.Listeners())
	require.Empty(t, table.Totals())
}

// A UDP socket that its program connects after the first datagram, as servers do that
// have one for each client.
func TestUDPThatIsConnectedLater(t *testing.T) {
	table := New(here, 1)
	connected := accepted(1)
	connected.Protocol = flow.UDP
	first := connected
	first.Remote = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	table.Update([]flow.Connection{first}, nil)
	table.Update([]flow.Connection{connected}, nil)
	in := table.Update(nil, []flow.Connection{closed(first)}) // as when it was first seen
	require.Equal(t, []Event{{Connection: closed(connected), Phase: Close, At: ended}}, in.Events)
	require.NotNil(t, completed(in.Ends, sent(connected)).Process)

	// and one that never was
	table.Update([]flow.Connection{first}, nil)
	in = table.Update(nil, []flow.Connection{closed(first)})
	require.Equal(t, []Event{{Connection: closed(first), Phase: Close, At: ended}}, in.Events)
}
