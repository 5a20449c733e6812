// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

var (
	client = netip.MustParseAddr("192.0.2.1")
	server = netip.MustParseAddr("198.51.100.7")
)

// record has so many packets of ten bytes.
func record(source, destination netip.Addr, sourcePort, destinationPort uint16, packets uint64) flow.Record {
	return flow.Record{
		Key: flow.Key{
			Source: source, Destination: destination,
			SourcePort: sourcePort, DestinationPort: destinationPort,
			Protocol: flow.TCP, Has: flow.HasPorts,
		},
		Interface: "eth0",
		Packets:   packets,
		Bytes:     10 * packets,
	}
}

func add(f *FlowSeries, records ...flow.Record) {
	for i := range records {
		f.Add(&records[i])
	}
}

func collect(f *FlowSeries, now time.Time) []SeriesPoint {
	var points []SeriesPoint
	f.Collect(now, func(p SeriesPoint) { points = append(points, p) })
	return points
}

func TestSeriesKey(t *testing.T) {
	client6, server6 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	with := func(rec flow.Record, change func(*flow.Record)) flow.Record {
		change(&rec)
		return rec
	}
	asks := SeriesKey{Source: client, Destination: server, Protocol: flow.TCP, Server: flow.DestinationSide, Port: 443}
	answers := SeriesKey{Source: server, Destination: client, Protocol: flow.TCP, Server: flow.SourceSide, Port: 443}
	for _, tt := range []struct {
		name string
		rec  flow.Record
		want SeriesKey
	}{
		{"to the server", record(client, server, 40001, 443, 1), asks},
		{"from another client port", record(client, server, 65535, 443, 1), asks},
		{"from the server", record(server, client, 443, 40001, 1), answers},
		{
			"syn to a high port",
			with(record(client, server, 1024, 50051, 1), func(r *flow.Record) { r.SYNSeen = true }),
			SeriesKey{Source: client, Destination: server, Protocol: flow.TCP, Server: flow.DestinationSide, Port: 50051},
		},
		{
			"syn and ack from a high port",
			with(record(server, client, 50051, 1024, 1), func(r *flow.Record) { r.SYNACKSeen = true }),
			SeriesKey{Source: server, Destination: client, Protocol: flow.TCP, Server: flow.SourceSide, Port: 50051},
		},
		{
			"icmp has none",
			with(record(client, server, 8, 0, 1), func(r *flow.Record) { r.Protocol = flow.ICMP }),
			SeriesKey{Source: client, Destination: server, Protocol: flow.ICMP},
		},
		{
			"a later fragment has none",
			with(record(client, server, 0, 0, 1), func(r *flow.Record) { r.Has = flow.IsFragment }),
			SeriesKey{Source: client, Destination: server, Protocol: flow.TCP},
		},
		{
			"ipv6",
			with(record(client6, server6, 40001, 53, 1), func(r *flow.Record) { r.Protocol = flow.UDP }),
			SeriesKey{Source: client6, Destination: server6, Protocol: flow.UDP, Server: flow.DestinationSide, Port: 53, IPv6: true},
		},
		{
			"tags, labels, interface, direction and index make no series of their own",
			with(record(client, server, 40001, 443, 1), func(r *flow.Record) {
				r.Has |= flow.HasVLAN | flow.HasInnerVLAN | flow.HasMPLS
				r.VLAN, r.InnerVLAN, r.MPLSLabel, r.Direction, r.InterfaceIndex, r.From = 1, 2, 3, flow.Egress, 4, 5
				r.Interface, r.Others = "eth1", []string{"eth0"}
			}),
			asks,
		},
		{
			"what is known of the opener goes before ports",
			with(record(client, server, 1024, 50051, 1), func(r *flow.Record) { r.Opener = flow.SourceSide }),
			SeriesKey{Source: client, Destination: server, Protocol: flow.TCP, Server: flow.DestinationSide, Port: 50051},
		},
		{
			"each network in tunnels has its own",
			with(record(client, server, 40001, 443, 1), func(r *flow.Record) {
				r.Tunnel = &flow.Tunnel{Type: flow.VXLAN, Source: server, Destination: client, HasID: true}
			}),
			SeriesKey{Source: client, Destination: server, Protocol: flow.TCP, Server: flow.DestinationSide, Port: 443, HasTunnelID: true},
		},
		{
			"a tunnel without identifier makes none",
			with(record(client, server, 40001, 443, 1), func(r *flow.Record) {
				r.Tunnel = &flow.Tunnel{Type: flow.IPIP, Source: server, Destination: client}
			}),
			asks,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := NewFlowSeries(1, false, at(0))
			require.Equal(t, tt.want, f.seriesKey(&tt.rec))
		})
	}
}

// Where every interface counts for itself, so do its two directions.
func TestSeriesKeyPerInterface(t *testing.T) {
	f := NewFlowSeries(10, true, at(0))
	rec := record(client, server, 40001, 443, 1)
	sent := rec
	sent.Direction = flow.Egress
	elsewhere := rec
	elsewhere.Interface = "eth1"
	add(f, rec, sent, elsewhere)
	key := func(name string, direction flow.Direction) SeriesKey {
		k := seriesKeyOf(client, server)
		k.Interface, k.Direction = name, direction
		return k
	}
	require.ElementsMatch(t, []SeriesPoint{
		{SeriesKey: key("eth0", flow.Ingress), Volume: volume(1), Start: at(0)},
		{SeriesKey: key("eth0", flow.Egress), Volume: volume(1), Start: at(0)},
		{SeriesKey: key("eth1", flow.Ingress), Volume: volume(1), Start: at(0)},
	}, collect(f, at(5)))
}

// A counted packet stands for others that were not.
func TestFlowSeriesOfSamples(t *testing.T) {
	f := NewFlowSeries(1, false, at(0))
	rec, over := record(client, server, 40001, 443, 3), record(server, client, 443, 40001, 4)
	rec.SampledFrom, over.SampledFrom = 100, 10
	add(f, rec, over)
	require.ElementsMatch(t, []SeriesPoint{
		{SeriesKey: seriesKeyOf(client, server), Volume: volume(300), Start: at(0)},
		{SeriesKey: SeriesKey{Protocol: flow.TCP}, Volume: volume(40), Start: at(0)},
	}, collect(f, at(5)))
	require.Equal(t, volume(40), f.Folded)
}

func TestFlowSeriesFoldsClientPorts(t *testing.T) {
	f := NewFlowSeries(10, false, at(0))
	add(f, record(client, server, 40001, 443, 1), record(client, server, 40002, 443, 2), record(server, client, 443, 40001, 4))
	asks, answers := seriesKeyOf(client, server), seriesKeyOf(server, client)
	answers.Server = flow.SourceSide
	require.ElementsMatch(t, []SeriesPoint{
		{SeriesKey: asks, Volume: volume(3), Start: at(0)},
		{SeriesKey: answers, Volume: volume(4), Start: at(0)},
	}, collect(f, at(5)))
	require.Equal(t, 2, f.Len())
	require.Equal(t, flow.Volume{}, f.Folded)
}

func seriesKeyOf(source, destination netip.Addr) SeriesKey {
	return SeriesKey{Source: source, Destination: destination, Protocol: flow.TCP, Server: flow.DestinationSide, Port: 443}
}

// Each point starts where the one before ended, also over idle intervals.
func TestFlowSeriesAreContiguous(t *testing.T) {
	f := NewFlowSeries(10, false, at(0))
	rec, key := record(client, server, 40001, 443, 1), seriesKeyOf(client, server)
	require.Empty(t, collect(f, at(5)))

	add(f, rec)
	require.Equal(t, []SeriesPoint{{SeriesKey: key, Volume: volume(1), Start: at(5)}}, collect(f, at(10)))
	require.Empty(t, collect(f, at(15)))
	require.Empty(t, collect(f, at(20)))
	add(f, rec, rec)
	require.Equal(t, []SeriesPoint{{SeriesKey: key, Volume: volume(2), Start: at(10)}}, collect(f, at(25)))
	add(f, rec)
	require.Equal(t, []SeriesPoint{{SeriesKey: key, Volume: volume(1), Start: at(25)}}, collect(f, at(30)))
}

func TestFlowSeriesExpire(t *testing.T) {
	f := NewFlowSeries(1, false, at(0))
	rec, key := record(client, server, 40001, 443, 1), seriesKeyOf(client, server)
	other := record(server, client, 40001, 443, 2)
	add(f, rec)
	require.Len(t, collect(f, at(5)), 1)

	// idle for just as long as it is kept
	require.Empty(t, collect(f, at(5).Add(keepIdle)))
	require.Equal(t, 1, f.Len())
	require.Empty(t, collect(f, at(6).Add(keepIdle)))
	require.Equal(t, 0, f.Len())

	// The place is free, and the series that took it begins with its interval.
	add(f, other, rec)
	require.ElementsMatch(t, []SeriesPoint{
		{SeriesKey: seriesKeyOf(server, client), Volume: volume(2), Start: at(6).Add(keepIdle)},
		{SeriesKey: SeriesKey{Protocol: flow.TCP}, Volume: volume(1), Start: at(6).Add(keepIdle)},
	}, collect(f, at(7).Add(keepIdle)))
	require.Equal(t, volume(1), f.Folded)

	// Both expire, the one without addresses too.
	require.Empty(t, collect(f, at(8).Add(2*keepIdle)))
	require.Equal(t, 0, f.Len())
	add(f, rec)
	require.Equal(t, []SeriesPoint{{SeriesKey: key, Volume: volume(1), Start: at(8).Add(2 * keepIdle)}}, collect(f, at(9).Add(2*keepIdle)))
}

// What is over the budget goes to a series without addresses of its protocol
// and, where each counts for itself, its interface and direction.
func TestFlowSeriesBudget(t *testing.T) {
	third := netip.MustParseAddr("203.0.113.9")
	udp := record(third, client, 40001, 443, 16)
	udp.Protocol = flow.UDP
	onEth1 := record(third, client, 40001, 443, 32)
	onEth1.Interface = "eth1"
	tunnelled := record(third, client, 40001, 443, 128)
	tunnelled.Tunnel = &flow.Tunnel{Type: flow.VXLAN, ID: 7, HasID: true}
	for _, perInterface := range []bool{false, true} {
		f := NewFlowSeries(2, perInterface, at(0))
		add(f,
			record(client, server, 40001, 443, 1),
			record(server, client, 443, 40001, 2),
			record(third, server, 40001, 443, 4), // over it from here on
			record(server, third, 443, 40001, 8),
			udp,
			onEth1,
			tunnelled,
			record(client, server, 40009, 443, 64), // has its place
		)
		on := func(name string, key SeriesKey) SeriesKey {
			if perInterface {
				key.Interface = name
			}
			return key
		}
		answers, tcp := seriesKeyOf(server, client), SeriesKey{Protocol: flow.TCP}
		answers.Server = flow.SourceSide
		want := map[SeriesKey]flow.Volume{
			on("eth0", seriesKeyOf(client, server)):   volume(65),
			on("eth0", answers):                       volume(2),
			on("eth0", SeriesKey{Protocol: flow.UDP}): volume(16),
			on("eth0", tcp):                           volume(12 + 128),
		}
		sum := want[on("eth1", tcp)]
		sum.Add(volume(32))
		want[on("eth1", tcp)] = sum

		got := map[SeriesKey]flow.Volume{}
		for _, p := range collect(f, at(5)) {
			got[p.SeriesKey] = p.Volume
			require.Equal(t, at(0), p.Start)
		}
		require.Equal(t, want, got)
		require.Equal(t, len(want), f.Len())
		require.Equal(t, volume(4+8+16+32+128), f.Folded)
	}
}

func TestFlowSeriesRestore(t *testing.T) {
	f := NewFlowSeries(1, false, at(0))
	rec, over := record(client, server, 40001, 443, 1), record(server, client, 443, 40001, 1)
	add(f, rec, over)
	f.Restore(collect(f, at(5)))

	// again, and with what was gained meanwhile
	add(f, rec, rec)
	want := []SeriesPoint{
		{SeriesKey: seriesKeyOf(client, server), Volume: volume(3), Start: at(0)},
		{SeriesKey: SeriesKey{Protocol: flow.TCP}, Volume: volume(1), Start: at(0)},
	}
	points := collect(f, at(10))
	require.ElementsMatch(t, want, points)
	f.Restore(points)
	require.ElementsMatch(t, want, collect(f, at(15)))
	require.Empty(t, collect(f, at(20)))

	add(f, rec)
	require.Equal(t, []SeriesPoint{{SeriesKey: seriesKeyOf(client, server), Volume: volume(1), Start: at(15)}}, collect(f, at(25)))
	require.Equal(t, volume(1), f.Folded, "what comes again is not folded again")
}

func TestFlowSeriesRestoreOfAnUnknownSeries(t *testing.T) {
	f := NewFlowSeries(1, false, at(0))
	f.Restore([]SeriesPoint{{SeriesKey: seriesKeyOf(client, server), Volume: volume(1)}})
	require.Equal(t, 0, f.Len())
	require.Empty(t, collect(f, at(5)))
}

func identified(rec flow.Record) SeriesKey {
	f := NewFlowSeries(1, false, at(0))
	f.Identify = true
	return f.seriesKey(&rec)
}

// translated gives a record with other ports and addresses on the other side.
func translated(rec flow.Record, other flow.Tuple, original bool) flow.Record {
	other.Protocol = rec.Protocol
	rec.NAT = &flow.NAT{Other: other, Original: other}
	if original {
		rec.NAT.Original = rec.Tuple()
	}
	return rec
}

func TestSeriesKeyOfIdentifiedEnds(t *testing.T) {
	service, backend := server, netip.MustParseAddr("10.244.0.7")
	asks, back := record(client, service, 40001, 443, 1), record(service, client, 443, 40001, 1)
	contained := asks
	contained.SourceContainer, contained.DestinationContainer = "of the client", "of the server"
	ping := record(client, service, 8, 0, 1)
	ping.Protocol = flow.ICMP
	for _, tt := range []struct {
		name string
		rec  flow.Record
		want Ends
	}{
		{"nothing", asks, Ends{}},
		{"containers", contained, Ends{SourceContainer: "of the client", DestinationContainer: "of the server"}},
		{
			"a service's port and address",
			translated(asks, flow.Tuple{Source: client, SourcePort: 40001, Destination: backend, DestinationPort: 8443}, true),
			Ends{NATDestination: backend, NATPort: 8443, HasNATPort: true, Translated: true, Original: true},
		},
		{
			"a service's port",
			translated(asks, flow.Tuple{Source: client, SourcePort: 40001, Destination: service, DestinationPort: 8443}, true),
			Ends{NATDestination: service, NATPort: 8443, HasNATPort: true, Translated: true, Original: true},
		},
		{
			"answer of a service",
			translated(back, flow.Tuple{Source: backend, SourcePort: 443, Destination: client, DestinationPort: 40001}, false),
			Ends{NATSource: backend, NATPort: 443, HasNATPort: true, Translated: true},
		},
		{
			"a client's address",
			translated(asks, flow.Tuple{Source: backend, SourcePort: 1024, Destination: service, DestinationPort: 443}, false),
			Ends{NATSource: backend, Translated: true},
		},
		{
			"a client's port, which is folded",
			translated(asks, flow.Tuple{Source: client, SourcePort: 1024, Destination: service, DestinationPort: 443}, false),
			Ends{Translated: true},
		},
		{
			"both",
			translated(asks, flow.Tuple{Source: backend, SourcePort: 1024, Destination: client, DestinationPort: 80}, true),
			Ends{NATSource: backend, NATDestination: client, NATPort: 80, HasNATPort: true, Translated: true, Original: true},
		},
		{
			"without ports",
			translated(ping, flow.Tuple{Source: backend, SourcePort: 8, Destination: service}, false),
			Ends{NATSource: backend, Translated: true},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := identified(tt.rec)
			require.Equal(t, tt.want, key.Known())
			require.Equal(t, key, identified(tt.rec), "equal ones are one key")
			require.Equal(t, key, key.reverse().reverse())
			key.Ends = noEnds
			f := NewFlowSeries(1, false, at(0))
			require.Equal(t, f.seriesKey(&tt.rec), key, "the rest is as without")
		})
	}
}

// The other direction has the ends the other way around.
func TestSeriesKeyReverseOfIdentifiedEnds(t *testing.T) {
	backend := netip.MustParseAddr("10.244.0.7")
	there := translated(record(client, server, 40001, 443, 1), flow.Tuple{Source: client, SourcePort: 40001, Destination: backend, DestinationPort: 8443}, true)
	there.SourceContainer, there.DestinationContainer = "of the client", "of the server"
	back := translated(record(server, client, 443, 40001, 1), flow.Tuple{Source: backend, SourcePort: 8443, Destination: client, DestinationPort: 40001}, true)
	back.SourceContainer, back.DestinationContainer = "of the server", "of the client"
	require.Equal(t, identified(back), identified(there).reverse())
	require.Equal(t, identified(there), identified(back).reverse())
}

// Points with identified ends begin with the interval that they are of, or the one that
// was refused.
func TestFlowSeriesOfIdentifiedEndsBeginWithTheirInterval(t *testing.T) {
	f := NewFlowSeries(10, false, at(0))
	f.Identify = true
	rec, key := record(client, server, 40001, 443, 1), seriesKeyOf(client, server)
	point := func(packets uint64, start int) []SeriesPoint {
		return []SeriesPoint{{SeriesKey: key, Volume: volume(packets), Start: at(start)}}
	}
	add(f, rec)
	require.Equal(t, point(1, 0), collect(f, at(5)))
	require.Empty(t, collect(f, at(10)))
	add(f, rec, rec)
	points := collect(f, at(15))
	require.Equal(t, point(2, 10), points)
	f.Restore(points)
	add(f, rec)
	points = collect(f, at(20))
	require.Equal(t, point(3, 10), points)
	add(f, rec) // while they are on their way
	f.Restore(points)
	require.Equal(t, point(4, 10), collect(f, at(25)))
	add(f, rec)
	require.Equal(t, point(1, 25), collect(f, at(30)))
}

// Whatever comes in goes out, once: over budgets, idle times that let series
// expire, and refusals. Points of a series never overlap.
func TestFlowSeriesLoseNothing(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		f := NewFlowSeries(1+rnd.IntN(40), seed%2 == 0, at(0))
		var in, out flow.Volume
		ended := map[SeriesKey]time.Time{}
		now := at(0)
		for range 200 {
			for range rnd.IntN(30) {
				rec := randomRecord(rnd)
				in.Add(flow.Volume{Packets: rec.Packets, Bytes: rec.Bytes})
				f.Add(&rec)
			}
			now = now.Add(time.Duration(1+rnd.IntN(400)) * time.Second)
			points := collect(f, now)
			if rnd.IntN(4) == 0 {
				f.Restore(points)
				continue
			}
			for _, p := range points {
				out.Add(p.Volume)
				require.False(t, p.Start.Before(ended[p.SeriesKey]), "seed %d", seed)
				require.True(t, p.Start.Before(now), "seed %d", seed)
				ended[p.SeriesKey] = now
			}
		}
		for _, p := range collect(f, now.Add(time.Second)) {
			out.Add(p.Volume)
		}
		require.Equal(t, in, out, "seed %d", seed)
	}
}

func randomRecord(rnd *rand.Rand) flow.Record {
	addr := func() netip.Addr {
		if rnd.IntN(4) == 0 {
			return netip.AddrFrom16([16]byte{0x20, 0x01, 15: byte(rnd.IntN(4))})
		}
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(rnd.IntN(4))})
	}
	source, destination := addr(), addr()
	rec := record(source, destination, uint16(rnd.IntN(5)), uint16(rnd.IntN(5)), 1+rnd.Uint64N(1000))
	rec.Bytes = rnd.Uint64N(100000)
	rec.Protocol = []flow.Protocol{flow.TCP, flow.UDP, flow.ICMP, 47}[rnd.IntN(4)]
	if rnd.IntN(5) == 0 {
		rec.Has = flow.IsFragment
	}
	rec.SYNSeen, rec.SYNACKSeen = rnd.IntN(2) == 0, rnd.IntN(2) == 0
	rec.Interface = []string{"eth0", "eth1"}[rnd.IntN(2)]
	rec.Direction = flow.Direction(rnd.IntN(2))
	if rnd.IntN(3) == 0 {
		rec.Tunnel = &flow.Tunnel{Type: flow.VXLAN, ID: rnd.Uint32N(3), HasID: rnd.IntN(2) == 0}
	}
	return rec
}

// benchRecords are flows of as many clients, of which each has ten ports.
func benchRecords(n int) []flow.Record {
	records := make([]flow.Record, n)
	for i := range records {
		from := netip.AddrFrom4([4]byte{10, byte(i / 10 >> 16), byte(i / 10 >> 8), byte(i / 10)})
		records[i] = record(from, server, uint16(40000+i%10), 443, 10)
	}
	return records
}

func BenchmarkFlowSeries(b *testing.B) {
	records := benchRecords(80_000) // of 8,000 series, which the default budget holds
	f := NewFlowSeries(9000, false, at(0))
	add(f, records...)
	collect(f, at(1))

	addAll := func(f *FlowSeries, records []flow.Record) func(*testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				f.Add(&records[i])
				if i++; i == len(records) {
					i = 0
				}
			}
		}
	}
	b.Run("add", addAll(f, records))
	identifying := NewFlowSeries(9000, false, at(0))
	identifying.Identify = true
	b.Run("add with ends, of which nothing more is known", addAll(identifying, records))
	known := slices.Clone(records)
	for i := range known {
		known[i].SourceContainer = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
		other := known[i].Tuple()
		other.Destination = client
		known[i].NAT = &flow.NAT{Other: other, Original: other}
	}
	add(identifying, known...)
	b.Run("add with ends", addAll(identifying, known))
	b.Run("collect 8000", func(b *testing.B) {
		b.ReportAllocs()
		now := at(2)
		for b.Loop() {
			add(f, records...)
			now = now.Add(time.Second)
			f.Collect(now, func(SeriesPoint) {})
		}
	})
}
