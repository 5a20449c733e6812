// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package connections

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// sent gives the record of what the connection's own end sends.
func sent(c flow.Connection) flow.Record {
	t := c.Tuple()
	return flow.Record{Key: flow.Key{
		Source: t.Source, Destination: t.Destination, SourcePort: t.SourcePort, DestinationPort: t.DestinationPort,
		Protocol: t.Protocol, Has: flow.HasPorts,
	}}
}

func completed(e Ends, rec flow.Record) flow.Record {
	e.Complete(&rec)
	return rec
}

func quality(c flow.Connection, rtt time.Duration, retransmits uint32) flow.Connection {
	c.RTT, c.Now.Retransmits = rtt, retransmits
	return c
}

func TestFlowOfOneLocalEnd(t *testing.T) {
	c := quality(opened(1), 5*time.Millisecond, 2)
	ends := New(here, 1).Update([]flow.Connection{c}, nil).Ends

	rec := completed(ends, sent(c))
	require.Equal(t, &c.Process, rec.Process)
	require.Equal(t, &flow.TCPQuality{RTT: c.RTT, Retransmits: 2, HasRetransmits: true}, rec.TCP)
	// what comes back is sent again by an end that is not known here
	rec = completed(ends, sent(accepted(9)))
	require.Equal(t, &c.Process, rec.Process)
	require.Equal(t, &flow.TCPQuality{RTT: c.RTT}, rec.TCP)
	// another record of the same packets does not count them again
	require.Zero(t, completed(ends, sent(c)).TCP.Retransmits)

	other := c
	other.Local = server
	require.Nil(t, completed(ends, sent(other)).TCP)
}

func TestFlowOfTwoLocalEnds(t *testing.T) {
	c, s := quality(opened(1), 5*time.Millisecond, 2), quality(accepted(2), 3*time.Millisecond, 1)
	s.NetNS = there
	c.ResetSent, s.ResetReceived = true, true
	ends := New(here, 1).Update(nil, []flow.Connection{closed(c), closed(s)}).Ends

	rec := completed(ends, sent(c))
	require.Equal(t, &c.Process, rec.Process, "the sender's")
	require.Equal(t, &flow.TCPQuality{RTT: c.RTT, Retransmits: 2, HasRetransmits: true, Resets: 1}, rec.TCP, "a reset that both know of is one")
	rec = completed(ends, sent(s))
	require.Equal(t, &s.Process, rec.Process)
	require.Equal(t, &flow.TCPQuality{RTT: s.RTT, Retransmits: 1, HasRetransmits: true}, rec.TCP)
}

// Each end that is of this machine has its container, on the records of both directions.
func TestFlowHasTheContainersOfItsEnds(t *testing.T) {
	c, s := opened(1), accepted(2)
	c.Process.ContainerID, s.Process.ContainerID = "of the client", "of the server"
	for name, tt := range map[string]struct {
		local          []flow.Connection
		client, server string
	}{
		"client":  {[]flow.Connection{c}, "of the client", ""},
		"server":  {[]flow.Connection{s}, "", "of the server"},
		"both":    {[]flow.Connection{c, s}, "of the client", "of the server"},
		"neither": {nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			ends := New(here, 1).Update(tt.local, nil).Ends
			asks, answers := completed(ends, sent(c)), completed(ends, sent(s))
			require.Equal(t, [2]string{tt.client, tt.server}, [2]string{asks.SourceContainer, asks.DestinationContainer})
			require.Equal(t, [2]string{tt.server, tt.client}, [2]string{answers.SourceContainer, answers.DestinationContainer})
		})
	}
}

// Only what is new in the interval is on its records.
func TestFlowHasItsIntervalOnly(t *testing.T) {
	table := New(here, 1)
	table.Update([]flow.Connection{quality(opened(1), time.Millisecond, 2)}, nil)
	ends := table.Update([]flow.Connection{quality(opened(1), time.Millisecond, 2)}, nil).Ends
	require.EqualValues(t, 2, completed(ends, sent(opened(1))).TCP.Retransmits)
	ends = table.Update([]flow.Connection{quality(opened(1), time.Millisecond, 5)}, nil).Ends
	require.EqualValues(t, 3, completed(ends, sent(opened(1))).TCP.Retransmits)

	reset := quality(opened(1), time.Millisecond, 5)
	reset.ResetReceived = true
	ends = table.Update([]flow.Connection{reset}, nil).Ends
	require.Zero(t, completed(ends, sent(accepted(0))).TCP.Resets, "it has not ended yet")
	ends = table.Update(nil, []flow.Connection{closed(reset)}).Ends
	require.EqualValues(t, 1, completed(ends, sent(accepted(0))).TCP.Resets)
}

// Flows are read before sockets: a packet that comes in between is in the records of
// the next interval, when its connection may have ended.
func TestFlowThatIsReadLater(t *testing.T) {
	table := New(here, 1)
	c := quality(opened(1), 5*time.Millisecond, 2)
	c.ResetSent = true
	table.Update(nil, []flow.Connection{closed(c)})
	ends := table.Update(nil, nil).Ends
	rec := completed(ends, sent(c))
	require.Equal(t, &c.Process, rec.Process)
	require.Equal(t, &flow.TCPQuality{RTT: c.RTT, Retransmits: 2, HasRetransmits: true, Resets: 1}, rec.TCP)
	require.Equal(t, &flow.TCPQuality{RTT: c.RTT, HasRetransmits: true}, completed(ends, sent(c)).TCP, "once")
	require.Nil(t, completed(table.Update(nil, nil).Ends, sent(c)).Process, "for no longer than that")

	// of one that goes on
	table.Update([]flow.Connection{quality(opened(2), time.Millisecond, 2)}, nil)
	ends = table.Update([]flow.Connection{quality(opened(2), time.Millisecond, 5)}, nil).Ends
	require.EqualValues(t, 5, completed(ends, sent(opened(2))).TCP.Retransmits)
	ends = table.Update([]flow.Connection{quality(opened(2), time.Millisecond, 5)}, nil).Ends
	require.Zero(t, completed(ends, sent(opened(2))).TCP.Retransmits, "they were given to a record")

	// of one that has another's ports
	table.Update(nil, []flow.Connection{closed(quality(opened(2), time.Millisecond, 6))})
	next := quality(opened(3), time.Millisecond, 1)
	next.Process.PID = 9
	rec = completed(table.Update([]flow.Connection{next}, nil).Ends, sent(next))
	require.EqualValues(t, 9, rec.Process.PID)
	require.EqualValues(t, 2, rec.TCP.Retransmits)

	// and of one in another namespace
	other := closed(quality(opened(4), time.Millisecond, 7))
	other.NetNS = there
	table = New(here, 1)
	table.Update(nil, []flow.Connection{other})
	require.EqualValues(t, 1, completed(table.Update([]flow.Connection{next}, nil).Ends, sent(next)).TCP.Retransmits)
}

func TestFlowOfSeveralNamespaces(t *testing.T) {
	in := func(netns uint32, socket uint64) flow.Connection {
		c := opened(socket)
		c.NetNS, c.Process.PID = netns, netns
		return c
	}
	for name, tt := range map[string]struct {
		connections []flow.Connection
		want        uint32 // PID
	}{
		"own is first":        {[]flow.Connection{in(here, 1), in(there, 2)}, here},
		"own is last":         {[]flow.Connection{in(there, 1), in(here, 2)}, here},
		"own is in between":   {[]flow.Connection{in(there, 1), in(here, 2), in(elsewhere, 3)}, here},
		"one that is not own": {[]flow.Connection{in(there, 1)}, there},
		"several, none own":   {[]flow.Connection{in(there, 1), in(elsewhere, 2)}, 0},
		"own after several":   {[]flow.Connection{in(there, 1), in(elsewhere, 2), in(here, 3)}, here},
	} {
		t.Run(name, func(t *testing.T) {
			rec := completed(New(here, 1).Update(tt.connections, nil).Ends, sent(opened(0)))
			if tt.want == 0 {
				require.Nil(t, rec.Process)
				return
			}
			require.Equal(t, tt.want, rec.Process.PID)
		})
	}
}

// One connection after the other, with the same ports.
func TestFlowOfConnectionsInTurn(t *testing.T) {
	first, second := quality(opened(1), 9*time.Millisecond, 2), quality(opened(2), 5*time.Millisecond, 1)
	ends := New(here, 1).Update([]flow.Connection{second}, []flow.Connection{closed(first)}).Ends
	require.EqualValues(t, 3, completed(ends, sent(first)).TCP.Retransmits)
}

func TestFlowThatIsTranslated(t *testing.T) {
	c := quality(opened(1), time.Millisecond, 4)
	ends := New(here, 1).Update([]flow.Connection{c}, nil).Ends
	rec := sent(c)
	socket := rec.Tuple()
	rec.DestinationPort = 8080 // as the interface sees it
	rec.NAT = &flow.NAT{Other: socket}
	rec = completed(ends, rec)
	require.Equal(t, &c.Process, rec.Process)
	require.EqualValues(t, 4, rec.TCP.Retransmits)
}

func TestFlowOfUDP(t *testing.T) {
	c := opened(1)
	c.Protocol = flow.UDP
	ends := New(here, 1).Update([]flow.Connection{c}, nil).Ends
	rec := completed(ends, sent(c))
	require.Equal(t, &c.Process, rec.Process)
	require.Nil(t, rec.TCP)
	rec.Has, rec.Process = flow.IsFragment, nil
	require.Nil(t, completed(ends, rec).Process, "it has no ports to tell by")
	nobody := c
	nobody.Process = flow.Process{}
	ends = New(here, 1).Update([]flow.Connection{nobody}, nil).Ends
	require.Nil(t, completed(ends, sent(c)).Process)
}

// A socket that has no other end sends packets that its table cannot tell apart.
func TestSocketsWithoutOtherEnd(t *testing.T) {
	c := opened(1)
	c.Protocol, c.Remote = flow.UDP, flow.Connection{}.Remote
	require.Empty(t, New(here, 1).Update([]flow.Connection{c, listening(2, server, 0)}, nil).Ends)
}
