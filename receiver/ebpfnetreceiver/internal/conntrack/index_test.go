// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

func tuple(protocol flow.Protocol, source, destination string) Tuple {
	from, to := netip.MustParseAddrPort(source), netip.MustParseAddrPort(destination)
	return Tuple{
		Source: from.Addr(), Destination: to.Addr(),
		SourcePort: from.Port(), DestinationPort: to.Port(),
		Protocol: protocol,
	}
}

func tcp(source, destination string) Tuple { return tuple(flow.TCP, source, destination) }

// ping is the tuple of an echo request.
func ping(source, destination string) Tuple {
	return Tuple{
		Source: netip.MustParseAddr(source), Destination: netip.MustParseAddr(destination),
		DestinationPort: 8, Protocol: flow.ICMP,
	}
}

// conn is a connection with these tuples of its first packet, before and after
// translation.
func conn(id uint32, before, after Tuple) *connection {
	original, ok1 := before.key()
	translated, ok2 := after.key()
	if !ok1 || !ok2 {
		panic("bad tuple")
	}
	return &connection{id: id, original: original, reply: translated.reverse()}
}

func lookup(x *index, t Tuple) (Translation, bool) {
	k, ok := t.key()
	if !ok {
		return Translation{}, false
	}
	return x.lookup(&k)
}

func requireTranslated(t *testing.T, x *index, before, after Tuple) {
	t.Helper()
	requireFourTuples(t, func(t Tuple) (Translation, bool) { return lookup(x, t) }, before, after)
}

// requireFourTuples asks for all the tuples that packets of a connection have.
func requireFourTuples(t *testing.T, lookup func(Tuple) (Translation, bool), before, after Tuple) {
	t.Helper()
	for _, tt := range []struct {
		name   string
		packet Tuple
		want   Translation
	}{
		{"original", before, Translation{Other: after, Original: before}},
		{"original, translated", after, Translation{Other: before, Original: before}},
		{"reply", after.Reverse(), Translation{Other: before.Reverse(), Original: before.Reverse(), Reply: true}},
		{"reply, translated", before.Reverse(), Translation{Other: after.Reverse(), Original: before.Reverse(), Reply: true}},
	} {
		got, ok := lookup(tt.packet)
		require.True(t, ok, "%s: %v", tt.name, tt.packet)
		require.Equal(t, tt.want, got, tt.name)
	}
}

func requireUnknown(t *testing.T, x *index, tuples ...Tuple) {
	t.Helper()
	for _, one := range tuples {
		for _, packet := range []Tuple{one, one.Reverse()} {
			got, ok := lookup(x, packet)
			require.False(t, ok, "%v: %v", packet, got)
		}
	}
}

const (
	client  = "10.1.0.2:40000"
	service = "10.96.0.1:80"
	backend = "10.2.0.2:8080"
	another = "10.2.0.3:8080"
)

func TestIndexFindsAllFourTuples(t *testing.T) {
	for _, tt := range []struct {
		name          string
		before, after Tuple
	}{
		{"destination", tcp(client, service), tcp(client, backend)},
		{"destination, port only", tcp(client, "10.2.0.2:80"), tcp(client, "10.2.0.2:8080")},
		{"source", tcp(client, "198.51.100.7:443"), tcp("192.0.2.1:40000", "198.51.100.7:443")},
		{"source, port only", tcp(client, "198.51.100.7:443"), tcp("10.1.0.2:1024", "198.51.100.7:443")},
		{"both", tcp(client, service), tcp("10.2.0.1:1024", backend)},
		{"hairpin", tcp("10.2.0.2:40000", service), tcp("10.2.0.1:40000", backend)},
		{"own service", tcp(client, "127.0.0.1:80"), tcp(client, "10.1.0.2:8080")},
		{"ipv6", tcp("[fd00:1::2]:40000", "[fd00:96::1]:80"), tcp("[fd00:1::2]:40000", "[fd00:2::2]:8080")},
		{"udp", tuple(flow.UDP, client, service), tuple(flow.UDP, client, backend)},
		{"echo", ping("10.1.0.2", "10.96.0.1"), ping("10.1.0.2", "10.2.0.2")},
		{"no ports", tuple(47, "10.1.0.2:0", "10.96.0.1:0"), tuple(47, "10.1.0.2:0", "10.2.0.2:0")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := newIndex(10, time.Minute)
			x.add(conn(1, tt.before, tt.after), 0)
			requireTranslated(t, x, tt.before, tt.after)

			// neighbours are not
			stranger := tt.before
			stranger.SourcePort += 7
			requireUnknown(t, x, stranger)
			stranger = tt.before
			stranger.Protocol = flow.SCTP
			requireUnknown(t, x, stranger)

			x.remove(conn(1, tt.before, tt.after), 0)
			requireTranslated(t, x, tt.before, tt.after)
			x.expire(time.Minute)
			requireUnknown(t, x, tt.before, tt.after)
			require.Empty(t, x.heads)
		})
	}
}

func TestIndexKeepsNoUntranslatedConnection(t *testing.T) {
	x := newIndex(10, time.Minute)
	x.add(conn(1, tcp(client, backend), tcp(client, backend)), 0)
	require.Zero(t, x.live)
	requireUnknown(t, x, tcp(client, backend))
}

func TestIndexKeepsNothingWithoutDirection(t *testing.T) {
	for name, c := range map[string]*connection{
		"with itself":               conn(1, tcp(client, client), tcp(client, backend)),
		"translated to itself":      conn(1, tcp(client, backend), tcp(client, client)),
		"translated to its reverse": conn(1, tcp(client, backend), tcp(backend, client)),
	} {
		t.Run(name, func(t *testing.T) {
			x := newIndex(10, time.Minute)
			x.add(c, 0)
			require.Zero(t, x.live)
			require.Empty(t, x.heads)
		})
	}
}

func TestIndexForgetsWhatIsGoneAfterAWhile(t *testing.T) {
	x := newIndex(10, time.Minute)
	first := conn(1, tcp("10.1.0.2:1", service), tcp("10.1.0.2:1", backend))
	second := conn(2, tcp("10.1.0.2:2", service), tcp("10.1.0.2:2", backend))
	x.add(first, 0)
	x.add(second, 0)
	x.remove(first, 10*time.Second)
	x.remove(second, 20*time.Second)
	x.remove(first, 30*time.Second) // a second time does not count
	require.Equal(t, [2]int{0, 2}, [2]int{x.live, x.gone})

	x.expire(70*time.Second - 1)
	require.Equal(t, 2, x.gone)
	x.expire(70 * time.Second)
	require.Equal(t, 1, x.gone)
	requireUnknown(t, x, tcp("10.1.0.2:1", service))
	requireTranslated(t, x, tcp("10.1.0.2:2", service), tcp("10.1.0.2:2", backend))
	x.expire(80 * time.Second)
	require.Zero(t, x.gone)
	require.Empty(t, x.heads)
	require.Len(t, x.free, len(x.records))
}

// The client's port is used again: for the service, for another service, and
// for the backend itself.
func TestIndexTheNewestOwnsATuple(t *testing.T) {
	old := conn(1, tcp(client, service), tcp(client, backend))
	for _, endTold := range []bool{true, false} {
		t.Run(fmt.Sprintf("end told %t", endTold), func(t *testing.T) {
			x := newIndex(10, time.Minute)
			x.add(old, 0)
			if endTold {
				x.remove(old, time.Second)
			}
			x.add(conn(2, tcp(client, service), tcp(client, another)), 2*time.Second)
			require.Equal(t, [2]int{1, 1}, [2]int{x.live, x.gone})
			requireTranslated(t, x, tcp(client, service), tcp(client, another))

			// the end of the old one, told late or forgotten, takes nothing of the new
			x.remove(old, 3*time.Second)
			x.expire(3 * time.Minute)
			require.Equal(t, [2]int{1, 0}, [2]int{x.live, x.gone})
			requireTranslated(t, x, tcp(client, service), tcp(client, another))
			requireUnknown(t, x, tcp(client, backend))
		})
	}
	t.Run("same identity again", func(t *testing.T) {
		x := newIndex(10, time.Minute)
		x.add(old, 0)
		x.remove(old, time.Second)
		x.add(old, 2*time.Second)
		requireTranslated(t, x, tcp(client, service), tcp(client, backend))
		x.expire(3 * time.Minute)
		require.Equal(t, [2]int{1, 0}, [2]int{x.live, x.gone})
		requireTranslated(t, x, tcp(client, service), tcp(client, backend))
	})
	t.Run("same identity, other translation", func(t *testing.T) {
		x := newIndex(10, time.Minute)
		x.add(old, 0)
		x.add(conn(1, tcp(client, service), tcp(client, another)), time.Second)
		require.Equal(t, [2]int{1, 1}, [2]int{x.live, x.gone})
		requireTranslated(t, x, tcp(client, service), tcp(client, another))
	})
	t.Run("the reply's tuple", func(t *testing.T) {
		x := newIndex(10, time.Minute)
		x.add(conn(1, tcp("10.1.0.2:1", service), tcp("10.2.0.1:1024", backend)), 0)
		x.add(conn(2, tcp("10.1.0.3:1", service), tcp("10.2.0.1:1024", backend)), time.Second)
		require.Equal(t, 1, x.live)
		requireTranslated(t, x, tcp("10.1.0.3:1", service), tcp("10.2.0.1:1024", backend))
	})
	t.Run("untranslated", func(t *testing.T) {
		x := newIndex(10, time.Minute)
		x.add(old, 0)
		x.add(conn(2, tcp(client, backend), tcp(client, backend)), time.Second)
		require.Equal(t, [2]int{0, 1}, [2]int{x.live, x.gone})
		requireUnknown(t, x, tcp(client, backend), tcp(client, service))
		x.expire(3 * time.Minute)
		require.Empty(t, x.heads)
	})
}

// One socket sends to the service and to its backend's own address, which is
// translated too: what goes to the backend may be of either.
func TestIndexTwoLiveConnectionsMakeATupleAmbiguous(t *testing.T) {
	x := newIndex(10, time.Minute)
	x.add(conn(1, tcp(client, service), tcp(client, backend)), 0)
	x.add(conn(2, tcp(client, backend), tcp(client, another)), 0)
	require.Equal(t, 2, x.live)
	requireUnknown(t, x, tcp(client, backend))
	got, ok := lookup(x, tcp(client, service))
	require.True(t, ok)
	require.Equal(t, tcp(client, backend), got.Other)

	x.remove(conn(2, tcp(client, backend), tcp(client, another)), 0)
	requireTranslated(t, x, tcp(client, service), tcp(client, backend))
}

func TestIndexZones(t *testing.T) {
	in := func(zone uint16, c *connection) *connection {
		c.zone = zone
		return c
	}
	one := in(1, conn(1, tcp(client, service), tcp(client, backend)))
	x := newIndex(10, time.Minute)
	x.add(one, 0)
	requireTranslated(t, x, tcp(client, service), tcp(client, backend))

	// another zone translates it alike
	x.add(in(2, conn(2, tcp(client, service), tcp(client, backend))), 0)
	requireTranslated(t, x, tcp(client, service), tcp(client, backend))
	// and another does not
	differs := in(3, conn(3, tcp(client, service), tcp(client, another)))
	x.add(differs, 0)
	require.Equal(t, 3, x.live)
	requireUnknown(t, x, tcp(client, service))
	x.remove(differs, 0)
	requireTranslated(t, x, tcp(client, service), tcp(client, backend))
	x.remove(one, 0)
	x.expire(time.Hour)
	requireTranslated(t, x, tcp(client, service), tcp(client, backend))
}

func TestIndexAmbiguousPings(t *testing.T) {
	toService := ping("10.1.0.2", "10.96.0.1")
	toBackend, toAnother := ping("10.1.0.2", "10.2.0.2"), ping("10.1.0.2", "10.2.0.3")
	t.Run("alike", func(t *testing.T) {
		x := newIndex(10, time.Minute)
		x.add(conn(1, toService, toBackend), 0)
		x.add(conn(2, toService, toBackend), 0)
		requireTranslated(t, x, toService, toBackend)
		x.remove(conn(1, toService, toBackend), 0)
		x.expire(time.Hour)
		requireTranslated(t, x, toService, toBackend)
	})
	t.Run("to different backends", func(t *testing.T) {
		x := newIndex(10, time.Minute)
		x.add(conn(1, toService, toBackend), 0)
		x.add(conn(2, toService, toAnother), 0)
		requireUnknown(t, x, toService)
		for _, packet := range []Tuple{toBackend, toAnother} {
			got, ok := lookup(x, packet)
			require.True(t, ok)
			require.Equal(t, toService, got.Other)
		}
		// flows of one that is gone may still be read
		x.remove(conn(1, toService, toBackend), 0)
		requireUnknown(t, x, toService)
		x.expire(time.Hour)
		requireTranslated(t, x, toService, toAnother)
	})
	t.Run("masqueraded sources", func(t *testing.T) {
		x := newIndex(10, time.Minute)
		outside := ping("192.0.2.1", "198.51.100.7")
		for id, source := range []string{"10.1.0.2", "10.1.0.3"} {
			x.add(conn(uint32(id), ping(source, "198.51.100.7"), outside), 0)
		}
		requireUnknown(t, x, outside)
		got, ok := lookup(x, ping("10.1.0.3", "198.51.100.7"))
		require.True(t, ok)
		require.Equal(t, outside, got.Other)
	})
	t.Run("with one that is not translated", func(t *testing.T) {
		x := newIndex(10, time.Minute)
		x.add(conn(1, toBackend, toBackend), 0)
		requireUnknown(t, x, toBackend)
		x.add(conn(2, toService, toBackend), 0)
		requireUnknown(t, x, toBackend)
		got, ok := lookup(x, toService)
		require.True(t, ok)
		require.Equal(t, toBackend, got.Other)
	})
	t.Run("the other way is another connection", func(t *testing.T) {
		x := newIndex(10, time.Minute)
		x.add(conn(1, toService, toBackend), 0)
		requireUnknown(t, x, ping("10.2.0.2", "10.1.0.2"), ping("10.96.0.1", "10.1.0.2"))
	})
}

// One ping a second, each told and gone, must not fill the pair's list.
func TestIndexPingsOneAfterTheOther(t *testing.T) {
	x := newIndex(10*maxClaims, time.Hour)
	before, after := ping("10.1.0.2", "10.96.0.1"), ping("10.1.0.2", "10.2.0.2")
	for id := range uint32(3 * maxClaims) {
		x.add(conn(id, before, after), 0)
		requireTranslated(t, x, before, after)
		x.remove(conn(id, before, after), 0)
	}
	requireTranslated(t, x, before, after)
	canonical := x.records[0].original.canonical()
	require.Equal(t, 1, x.claims(&canonical))
	require.Zero(t, x.crowded)
}

func TestIndexBoundsThePingsOfAPair(t *testing.T) {
	x := newIndex(10*maxClaims, time.Minute)
	before, after := ping("10.1.0.2", "10.96.0.1"), ping("10.1.0.2", "10.2.0.2")
	for id := range uint32(maxClaims - 1) {
		x.add(conn(id, before, after), 0)
	}
	requireTranslated(t, x, before, after)
	x.add(conn(maxClaims, before, after), 0)
	requireUnknown(t, x, before, after)
	x.add(conn(maxClaims+1, before, after), 0)
	require.EqualValues(t, 1, x.crowded)
	// sources behind one address share the reply's ends only
	x = newIndex(10*maxClaims, time.Minute)
	for id := range uint32(maxClaims + 5) {
		source := netip.AddrFrom4([4]byte{10, 1, byte(id >> 8), byte(id)}).String()
		x.add(conn(id, ping(source, "10.96.0.1"), after), 0)
	}
	require.EqualValues(t, 5, x.crowded)
}

func TestIndexMakesRoomByForgettingWhatIsGone(t *testing.T) {
	x := newIndex(2, time.Hour)
	numbered := func(n uint32) (c *connection, before, after Tuple) {
		from := fmt.Sprintf("10.1.0.2:%d", n)
		before, after = tcp(from, service), tcp(from, backend)
		return conn(n, before, after), before, after
	}
	first, _, _ := numbered(1)
	second, _, _ := numbered(2)
	third, before, after := numbered(3)
	fourth, before4, _ := numbered(4)
	x.add(first, 0)
	x.add(second, 0)
	x.remove(second, 0)
	x.add(third, 0)
	requireTranslated(t, x, before, after)
	require.EqualValues(t, 1, x.evicted)
	x.add(fourth, 0)
	requireUnknown(t, x, before4)
	require.EqualValues(t, 1, x.dropped)
	require.Equal(t, [2]int{2, 0}, [2]int{x.live, x.gone})
	x.remove(fourth, 0)
	require.Equal(t, [2]int{2, 0}, [2]int{x.live, x.gone})
}

func TestIndexDumpEndsWhatIsNotInIt(t *testing.T) {
	x := newIndex(10, time.Minute)
	kept := conn(1, tcp("10.1.0.2:1", service), tcp("10.1.0.2:1", backend))
	lost := conn(2, tcp("10.1.0.2:2", service), tcp("10.1.0.2:2", backend))
	x.add(kept, 0)
	x.add(lost, 0)
	x.beginDump()
	x.add(kept, 0)
	x.add(conn(3, tcp("10.1.0.2:3", service), tcp("10.1.0.2:3", backend)), 0)
	x.endDump(time.Second)
	require.Equal(t, [2]int{2, 1}, [2]int{x.live, x.gone})
	x.expire(2 * time.Minute)
	requireUnknown(t, x, tcp("10.1.0.2:2", service))
	requireTranslated(t, x, tcp("10.1.0.2:1", service), tcp("10.1.0.2:1", backend))
}

// check holds the index against what must be true of it at any time.
func check(t *testing.T, x *index) {
	t.Helper()
	live, gone, links := 0, 0, 0
	free := map[int32]bool{}
	for _, slot := range x.free {
		require.False(t, free[slot])
		free[slot] = true
	}
	for i := range x.records {
		r := &x.records[i]
		switch {
		case free[int32(i)]:
			require.False(t, r.alive)
			require.Equal(t, [2]bool{}, r.linked)
			continue
		case r.alive:
			live++
			require.True(t, r.linked[0])
			require.Equal(t, r.translated(), r.linked[1])
		default:
			gone++
		}
		for _, linked := range r.linked {
			if linked {
				links++
			}
		}
	}
	require.Equal(t, [2]int{live, gone}, [2]int{x.live, x.gone})
	require.LessOrEqual(t, live+gone, x.max)
	queued := 0
	for slot := x.firstGone; slot != none; slot = x.records[slot].nextGone {
		queued++
	}
	require.Equal(t, gone, queued)
	listed := 0
	for canonical := range x.heads {
		listed += x.claims(&canonical)
	}
	require.Equal(t, links, listed)
}

// Whatever comes in whatever order, the lists stay whole, and no lookup gives
// what no connection said.
func TestIndexStaysWhole(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	address := func() string { return fmt.Sprintf("10.0.0.%d", 1+r.IntN(4)) }
	for range 50 {
		x := newIndex(1+r.IntN(40), 20*time.Second)
		said := map[[2]Tuple]bool{}
		for now := time.Duration(0); now < 200*time.Second; now += time.Second {
			protocol := []flow.Protocol{flow.TCP, flow.ICMP}[r.IntN(2)]
			end := func() string {
				if protocol == flow.ICMP {
					return address() + ":0"
				}
				return fmt.Sprintf("%s:%d", address(), 1+r.IntN(2))
			}
			before, after := tuple(protocol, end(), end()), tuple(protocol, end(), end())
			if protocol == flow.ICMP {
				before.DestinationPort, after.DestinationPort = 8, 8
			}
			c := conn(r.Uint32N(3), before, after)
			c.zone = uint16(r.IntN(2))
			switch r.IntN(8) {
			case 0, 1, 2, 3:
				x.add(c, now)
				said[[2]Tuple{before, after}] = true
			case 4, 5:
				if n := len(x.records); n > 0 {
					old := x.records[r.IntN(n)].connection
					x.remove(&old, now)
				}
			case 6:
				x.expire(now)
			case 7:
				x.beginDump()
				x.add(c, now)
				said[[2]Tuple{before, after}] = true
				x.endDump(now)
			}
			check(t, x)
			for _, packet := range []Tuple{before, after, before.Reverse(), after.Reverse()} {
				got, ok := lookup(x, packet)
				if !ok {
					continue
				}
				ours, theirs := packet, got.Other
				if got.Reply {
					ours, theirs = ours.Reverse(), theirs.Reverse()
				}
				require.True(t, said[[2]Tuple{ours, theirs}] || said[[2]Tuple{theirs, ours}], "%v: %v", packet, got)
				require.Contains(t, []Tuple{packet, got.Other}, got.Original)
			}
		}
	}
}
