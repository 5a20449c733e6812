// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// seen is a record with packets from one second to another.
func seen(rec flow.Record, first, last int) flow.Record {
	rec.First, rec.Last = at(first), at(last)
	return rec
}

func flagged(rec flow.Record, flags flow.TCPFlags) flow.Record {
	rec.TCPFlags = flags
	rec.SYNSeen, rec.SYNACKSeen = flags&flow.SYN != 0 && flags&flow.PSH == 0, flags&flow.SYN != 0 && flags&flow.PSH != 0
	return rec
}

// Flags of records that begin and end connections; that of PSH stands for an answer.
const (
	synOnly   = flow.SYN
	synAnswer = flow.SYN | flow.PSH | flow.ACK
)

func newConversations(remember int) *Conversations {
	return NewConversations(remember, NewFlowSeries(100, false, at(0)))
}

// begun gives how many conversations began, by series.
func begun(c *Conversations, now time.Time) map[SeriesKey]uint64 {
	got := map[SeriesKey]uint64{}
	c.Series.Collect(now, func(p SeriesPoint) { got[p.SeriesKey] = p.Packets })
	return got
}

var (
	asks    = record(client, server, 40001, 443, 1)
	answers = record(server, client, 443, 40001, 1)
)

func TestConversationsCountOnce(t *testing.T) {
	want := map[SeriesKey]uint64{seriesKeyOf(client, server): 1}
	for name, records := range map[string][]flow.Record{
		"one way":      {asks},
		"both ways":    {asks, answers},
		"answer first": {answers, asks},
		"answers only": {answers},
		"many records": {asks, asks, answers, answers, asks},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConversations(10)
			for i := range records {
				records[i] = seen(records[i], 1, 4)
			}
			c.Add(records, at(5))
			require.Equal(t, want, begun(c, at(5)))
			for second := 5; second < 500; second += 50 { // it goes on
				records[0] = seen(records[0], second, second+1)
				c.Add(records[:1], at(second+5))
				require.Empty(t, begun(c, at(second+5)))
			}
			require.Equal(t, 1, c.Len())
		})
	}
}

// Conversations of one series add up, those of other clients have their own.
func TestConversationsAreTold(t *testing.T) {
	c := newConversations(100)
	other := netip.MustParseAddr("192.0.2.2")
	records := []flow.Record{seen(record(other, server, 40001, 443, 1), 1, 2)}
	for port := range uint16(7) {
		records = append(records,
			seen(record(client, server, 40001+port, 443, 1), 1, 2), seen(record(server, client, 443, 40001+port, 1), 1, 2))
	}
	c.Add(records, at(5))
	require.Equal(t, map[SeriesKey]uint64{seriesKeyOf(client, server): 7, seriesKeyOf(other, server): 1}, begun(c, at(5)))
	require.Equal(t, 8, c.Len())
}

func TestConversationsBeginAnew(t *testing.T) {
	closing := flagged(asks, flow.FIN|flow.ACK)
	for _, tt := range []struct {
		name    string
		records []flow.Record // one an interval
		want    uint64
	}{
		{"idle for just as long", []flow.Record{seen(asks, 0, 1), seen(asks, 61, 61)}, 1},
		{"idle for longer", []flow.Record{seen(asks, 0, 1), seen(asks, 62, 62)}, 2},
		{"the other direction is not idle", []flow.Record{seen(asks, 0, 1), seen(answers, 50, 51), seen(asks, 100, 100)}, 1},
		{"handshake after FIN", []flow.Record{seen(closing, 0, 1), seen(flagged(asks, synOnly), 2, 3)}, 2},
		{"handshake after RST of the other end", []flow.Record{seen(asks, 0, 1), seen(flagged(answers, flow.RST), 1, 1), seen(flagged(asks, synOnly), 2, 3)}, 2},
		{"answer to a handshake after FIN", []flow.Record{seen(closing, 0, 1), seen(flagged(answers, synAnswer), 2, 3)}, 2},
		{"SYN again without an end", []flow.Record{seen(flagged(asks, synOnly), 0, 1), seen(flagged(asks, synOnly), 2, 3)}, 1},
		{"no handshake after FIN", []flow.Record{seen(closing, 0, 1), seen(answers, 2, 3)}, 1},
		{"handshake from before the end", []flow.Record{seen(closing, 1, 3), seen(flagged(answers, synAnswer), 2, 3)}, 1},
		{"last packets after FIN, then a handshake", []flow.Record{seen(closing, 0, 1), seen(asks, 2, 4), seen(flagged(asks, synOnly), 5, 6)}, 2},
		{"begins and ends in one record, twice", []flow.Record{
			seen(flagged(asks, synOnly|flow.FIN), 0, 1), seen(flagged(answers, synAnswer|flow.FIN), 0, 1),
			seen(flagged(asks, synOnly|flow.FIN), 2, 3), seen(flagged(answers, synAnswer|flow.FIN), 2, 3),
		}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newConversations(10)
			for _, rec := range tt.records {
				c.Add([]flow.Record{rec}, rec.Last)
			}
			require.Equal(t, map[SeriesKey]uint64{seriesKeyOf(client, server): tt.want}, begun(c, at(200)))
		})
	}
}

// Both directions of a refused connect are in one interval, in any order.
func TestConversationsThatAreRefused(t *testing.T) {
	for _, order := range [][2]int{{0, 1}, {1, 0}} {
		c := newConversations(10)
		for attempt := range 5 {
			both := [2]flow.Record{
				seen(flagged(asks, synOnly), 2*attempt, 2*attempt), seen(flagged(answers, flow.RST|flow.ACK), 2*attempt, 2*attempt),
			}
			c.Add([]flow.Record{both[order[0]], both[order[1]]}, at(2*attempt+1))
		}
		require.Equal(t, map[SeriesKey]uint64{seriesKeyOf(client, server): 5}, begun(c, at(20)))
	}
}

// A service's address and that of what is behind it are one conversation. Its series is
// that of the end that opened it.
func TestConversationsThatAreTranslated(t *testing.T) {
	service, backend := netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("10.244.0.7")
	before, after := record(client, service, 40001, 443, 1), record(client, backend, 40001, 8443, 1)
	back := record(backend, client, 8443, 40001, 1)
	before.NAT = &flow.NAT{Other: after.Tuple(), Original: before.Tuple()}
	after.NAT = &flow.NAT{Other: before.Tuple(), Original: before.Tuple()}
	back.NAT = &flow.NAT{Other: before.Tuple().Reverse(), Original: before.Tuple().Reverse(), Reply: true}
	c := newConversations(10)
	records := []flow.Record{seen(back, 1, 2), seen(before, 1, 2), seen(after, 1, 2)}
	c.Add(records, at(5))
	require.Equal(t, map[SeriesKey]uint64{seriesKeyOf(client, service): 1}, begun(c, at(5)))
}

// Of ICMP a question and its answers are one, the end that asks has opened it, and all
// else is one way.
func TestConversationsOfICMP(t *testing.T) {
	icmp := func(source, destination netip.Addr, kind uint16) flow.Record {
		rec := seen(record(source, destination, kind, 0, 1), 1, 2)
		rec.Protocol = flow.ICMP
		return rec
	}
	c := newConversations(10)
	c.Add([]flow.Record{
		icmp(server, client, 0), icmp(client, server, 8), // an answer first
		icmp(server, client, 8), icmp(client, server, 0), // and the other way around
		icmp(server, client, 3),
	}, at(5))
	there := SeriesKey{Source: client, Destination: server, Protocol: flow.ICMP}
	require.Equal(t, map[SeriesKey]uint64{there: 1, there.reverse(): 2}, begun(c, at(5)))
}

func TestConversationsWithoutPorts(t *testing.T) {
	fragment := seen(record(client, server, 0, 0, 1), 1, 2)
	fragment.Has = flow.IsFragment
	other := seen(record(server, client, 0, 0, 1), 1, 2)
	other.Protocol, other.Has = 47, 0
	back := other
	back.Source, back.Destination = other.Destination, other.Source
	c := newConversations(10)
	c.Add([]flow.Record{fragment, other, back}, at(5))
	require.Equal(t, map[SeriesKey]uint64{{Source: server, Destination: client, Protocol: 47}: 1}, begun(c, at(5)), "the first record's source")
}

// Where there is no room the ones that have been idle for longest go, which is counted.
func TestConversationsAreBounded(t *testing.T) {
	c := newConversations(2)
	nth := func(n uint16, second int) flow.Record {
		return seen(record(client, server, 40000+n, 443, 1), second, second)
	}
	for _, step := range []struct {
		n       uint16
		begins  bool
		evicted uint64
	}{
		{1, true, 0}, {2, true, 0}, {1, false, 0}, // 2 is idle for longer
		{3, true, 1}, {1, false, 1}, {2, true, 2}, {3, true, 3},
	} {
		c.Add([]flow.Record{nth(step.n, 1)}, at(1))
		want := map[SeriesKey]uint64{}
		if step.begins {
			want[seriesKeyOf(client, server)] = 1
		}
		require.Equal(t, want, begun(c, at(1)), "conversation %d", step.n)
		require.Equal(t, step.evicted, c.Evicted)
		require.LessOrEqual(t, c.Len(), 2)
	}
	// what is over leaves its place by itself
	c.Add(nil, at(62))
	require.Zero(t, c.Len())
	c.Add([]flow.Record{nth(4, 62), nth(5, 62)}, at(62))
	require.Equal(t, uint64(3), c.Evicted)
	require.Len(t, c.all, 1+2, "places are used again")
}

// With any records, as many begin as a plain list of what was seen says.
func TestConversationsAgainstAList(t *testing.T) {
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		c := newConversations(1000)
		last := map[flow.Tuple]time.Time{}
		var want, got uint64
		for now := 0; now < 3000; now += 20 {
			var records []flow.Record
			for range rnd.IntN(6) {
				rec := seen(randomRecord(rnd), now, now+rnd.IntN(20))
				rec.SYNSeen, rec.SYNACKSeen, rec.Has = false, false, flow.HasPorts
				records = append(records, rec)
				key := rec.Conversation()
				if before, ok := last[key]; !ok || rec.First.Sub(before) > IdleTimeout {
					want++
				}
				if last[key].Before(rec.Last) {
					last[key] = rec.Last
				}
			}
			c.Add(records, at(now+20))
			for _, n := range begun(c, at(now+20)) {
				got += n
			}
		}
		require.Equal(t, want, got, "seed %d", seed)
		require.Zero(t, c.Evicted)
	}
}

func BenchmarkConversations(b *testing.B) {
	for name, remember := range map[string]int{"known": 100_000, "all new": 40_000} {
		records := benchRecords(80_000)
		for i := range records {
			records[i] = seen(records[i], 1, 2)
		}
		c := NewConversations(remember, NewFlowSeries(9000, false, at(0)))
		c.Add(records, at(5))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				c.Add(records[i:i+1], at(5))
				if i++; i == len(records) {
					i = 0
				}
			}
		})
	}
}
