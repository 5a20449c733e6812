// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package connections

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

func identifying() *Table {
	table := New(here, 1)
	table.Identify = true
	return table
}

func counted(places ...int) Counts {
	var c Counts
	for _, place := range places {
		c[place]++
	}
	return c
}

func TestGains(t *testing.T) {
	c, s := opened(1), accepted(2)
	c.Process.ContainerID, s.Process.ContainerID = "of the client", "of the server"
	atClient := Between{Client: client.Addr(), Server: server.Addr(), Port: server.Port(), Role: flow.Client, Container: "of the client"}
	atServer := atClient
	atServer.Role, atServer.Container = flow.Server, "of the server"
	with := func(c flow.Connection, change func(*flow.Connection)) flow.Connection {
		change(&c)
		return c
	}
	failed := closed(with(c, func(c *flow.Connection) {
		c.Established, c.EstablishedAt, c.Latency, c.Failure = false, time.Time{}, 0, flow.Refused
		c.Now.Retransmits = 2
	}))
	again := counted(Retransmits, Retransmits, FailedBy(flow.Refused))
	for name, tt := range map[string]struct {
		live, closed []flow.Connection
		want         []Gain
	}{
		"opened":          {[]flow.Connection{c}, nil, []Gain{{Between: atClient, Latency: c.Latency}}},
		"accepted":        {[]flow.Connection{s}, nil, nil},
		"not made":        {nil, []flow.Connection{failed}, []Gain{{Between: atClient, Counts: again}}},
		"closed":          {nil, []flow.Connection{closed(s)}, nil},
		"broken off":      {nil, []flow.Connection{closed(with(s, func(c *flow.Connection) { c.ResetSent = true }))}, []Gain{{Between: atServer, Counts: counted(ResetsSent)}}},
		"by the other":    {nil, []flow.Connection{closed(with(s, func(c *flow.Connection) { c.ResetReceived = true }))}, []Gain{{Between: atServer, Counts: counted(ResetsReceived)}}},
		"not yet closed":  {[]flow.Connection{with(s, func(c *flow.Connection) { c.ResetReceived = true })}, nil, nil},
		"got something":   {[]flow.Connection{with(s, func(c *flow.Connection) { c.RTT, c.Now.SegmentsReceived = 3, 1 })}, nil, []Gain{{Between: atServer, RTT: 3}}},
		"sent again":      {[]flow.Connection{with(s, func(c *flow.Connection) { c.Now.Retransmits = 1 })}, nil, []Gain{{Between: atServer, Counts: counted(Retransmits)}}},
		"udp has nothing": {[]flow.Connection{with(c, func(c *flow.Connection) { c.Protocol = flow.UDP })}, nil, nil},
		"listens":         {[]flow.Connection{listening(3, server, 4)}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range tt.want {
				tt.want[i].Sent = c.Tuple()
				if tt.want[i].Role == flow.Server {
					tt.want[i].Sent = s.Tuple()
				}
			}
			table := identifying()
			require.Equal(t, tt.want, table.Update(tt.live, tt.closed).Gains)
			require.Empty(t, table.Update(tt.live, nil).Gains, "once")
			require.Empty(t, New(here, 1).Update(tt.live, tt.closed).Gains, "nobody wants them")
		})
	}
}

// What connections gained since the last reading is what is added to totals.
func TestGainsAreTheTotals(t *testing.T) {
	table := identifying()
	var sum uint64
	for _, n := range []uint32{2, 2, 5, 9} {
		for _, g := range table.Update([]flow.Connection{quality(opened(1), time.Millisecond, n)}, []flow.Connection{closed(quality(accepted(uint64(n+2)), 0, 1))}).Gains {
			sum += g.Counts[Retransmits]
		}
	}
	var want uint64
	for _, total := range table.Totals() {
		want += total.Retransmits
	}
	require.EqualValues(t, 9+4, want)
	require.Equal(t, want, sum)
}

func TestRemainder(t *testing.T) {
	var r Remainder
	var totals [flow.Roles]Counts
	gain := Gain{Between: Between{Client: client.Addr(), Role: flow.Server}, Counts: counted(ResetsSent)}
	totals[flow.Server] = counted(ResetsSent)
	require.Empty(t, r.Take(&totals, []Gain{gain}))
	require.Empty(t, r.Take(&totals, []Gain{gain}), "totals have yet to have it")
	totals[flow.Server][ResetsSent] = 2
	require.Empty(t, r.Take(&totals, nil))

	// nobody's
	totals[flow.Server][ResetsSent], totals[flow.Client][FailedBy(flow.Refused)] = 4, 1
	require.ElementsMatch(t, []Gain{
		{Between: Between{Role: flow.Server}, Counts: counted(ResetsSent, ResetsSent)},
		{Between: Between{Role: flow.Client}, Counts: counted(FailedBy(flow.Refused))},
	}, r.Take(&totals, nil))
	require.Empty(t, r.Take(&totals, nil), "once")
}

// A connect that came to nothing is the client's, whatever its socket was.
func TestRemainderOfFailures(t *testing.T) {
	var r Remainder
	var totals [flow.Roles]Counts
	totals[flow.Client] = counted(FailedBy(flow.Reset))
	gain := Gain{Between: Between{Client: client.Addr(), Role: flow.Server}, Counts: counted(FailedBy(flow.Reset))}
	require.Empty(t, r.Take(&totals, []Gain{gain}))
}

// Gains and remainders add up to the totals, also where connections end between the reading
// of totals and that of connections.
func TestRemainderAddsUp(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var r Remainder
		var totals, before, got [flow.Roles]Counts
		add := func(gains []Gain) {
			for _, g := range gains {
				for i, n := range g.Counts {
					got[RoleOf(i, g.Role)][i] += n
				}
			}
		}
		for reading := range 40 {
			var gains []Gain
			before = totals
			for range rnd.IntN(20) {
				g := Gain{Between: Between{Client: client.Addr(), Role: flow.Role(rnd.IntN(2))}}
				place := rnd.IntN(len(g.Counts))
				g.Counts[place] = 1 + rnd.Uint64N(3)
				owner := &totals[RoleOf(place, g.Role)]
				owner[place] += g.Counts[place]
				if rnd.IntN(4) > 0 {
					gains = append(gains, g) // else it is of one that is not followed
				}
				if rnd.IntN(2) == 0 {
					before = totals // it was before
				}
			}
			if reading == 39 {
				before = totals
			}
			add(gains)
			add(r.Take(&before, gains))
			for role := range got {
				for i := range got[role] {
					require.LessOrEqual(t, got[role][i], totals[role][i], "seed %d", seed)
				}
			}
		}
		require.Equal(t, totals, got, "seed %d", seed)
	}
}

// Whichever end tells, the client is the client, and what is the same on both sides is not
// told twice.
func TestTranslate(t *testing.T) {
	front := netip.MustParseAddrPort("10.96.0.1:80")
	back := netip.MustParseAddrPort("10.244.2.3:8080")
	masked := netip.MustParseAddrPort("10.244.1.0:61000")
	from := netip.MustParseAddrPort("10.244.1.2:40000")
	tuple := func(source, destination netip.AddrPort) flow.Tuple {
		return flow.Tuple{Source: source.Addr(), SourcePort: source.Port(), Destination: destination.Addr(), DestinationPort: destination.Port(), Protocol: flow.TCP}
	}
	for name, tt := range map[string]struct {
		socket flow.Connection
		other  flow.Tuple // of what it sends, on the other side
		opened bool
		want   Between
	}{
		"client of a service": {
			flow.Connection{Local: from, Remote: front}, tuple(from, back), true,
			Between{OtherServer: back.Addr(), OtherPort: 8080, Opened: true},
		},
		"client that is masqueraded": {
			flow.Connection{Local: from, Remote: back}, tuple(masked, back), true, Between{OtherClient: masked.Addr(), Opened: true},
		},
		"backend": {
			flow.Connection{Role: flow.Server, Local: back, Remote: masked}, tuple(front, from), false,
			Between{OtherClient: from.Addr(), OtherServer: front.Addr(), OtherPort: 80},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt.socket.Protocol = flow.TCP
			sent := tt.socket.Tuple()
			nat := flow.NAT{Other: tt.other, Original: tt.other}
			if tt.opened {
				nat.Original = sent
			}
			b := betweenOf(&tt.socket)
			tt.want.Client, tt.want.Server, tt.want.Port, tt.want.Role = b.Client, b.Server, b.Port, b.Role
			b.Translate(sent, &nat)
			require.Equal(t, tt.want, b)
		})
	}
}
