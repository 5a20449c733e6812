// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	ctnetlink "github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// numbered is the nth of many connections to one service.
func numbered(n int) (c *connection, before, after Tuple) {
	var source [4]byte
	binary.BigEndian.PutUint32(source[:], 10<<24+uint32(n>>10))
	before = Tuple{
		Source: netip.AddrFrom4(source), Destination: netip.MustParseAddr("10.96.0.1"),
		SourcePort: 40000 + uint16(n&1023), DestinationPort: 80, Protocol: flow.TCP,
	}
	after = before
	after.Destination, after.DestinationPort = netip.MustParseAddr("10.2.0.2"), 8080
	return conn(uint32(n), before, after), before, after
}

func filled(entries int) (*Table, []Tuple) {
	table := newTable(nil, Options{MaxEntries: entries})
	tuples := make([]Tuple, entries)
	for i := range tuples {
		var c *connection
		c, _, tuples[i] = numbered(i)
		table.index.add(c, 0)
	}
	return table, tuples
}

func BenchmarkLookup(b *testing.B) {
	table, tuples := filled(100_000)
	for _, bb := range []struct {
		name string
		want bool
	}{{"hit", true}, {"miss", false}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				t := tuples[i*7919%len(tuples)]
				if !bb.want {
					t.DestinationPort++
				}
				if _, ok := table.Lookup(t); ok != bb.want {
					b.Fatal("wrong answer")
				}
			}
		})
	}
}

// Events as the kernel sends them for TCP, decoded and taken in: each loop is
// the two of one connection's life.
func BenchmarkEvents(b *testing.B) {
	const connections = 50_000
	var begin, end []netlink.Message
	tcpInfo := netfilter.Attribute{Type: 4, Nested: true, Children: []netfilter.Attribute{ // CTA_PROTOINFO, _TCP
		{Type: 1, Nested: true, Children: []netfilter.Attribute{
			{Type: 1, Data: []byte{1}}, {Type: 2, Data: []byte{0}}, {Type: 3, Data: []byte{0}},
			{Type: 4, Data: []byte{3, 0}}, {Type: 5, Data: []byte{0, 0}},
		}},
	}}
	for i := range connections {
		c, _, _ := numbered(i)
		begin = append(begin, message(b, created, c, status(ctnetlink.StatusConfirmed), tcpInfo))
		end = append(end, message(b, destroyed, c, status(ctnetlink.StatusConfirmed), tcpInfo))
	}
	table := newTable(nil, Options{MaxEntries: 2 * connections})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		first, last := begin[i%connections], end[(i+connections-1000)%connections]
		table.apply(first.Header.Type, first.Data)
		table.apply(last.Header.Type, last.Data)
	}
	require.Zero(b, table.Stats().Undecoded)
	b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// What a full table of the default size takes.
func BenchmarkMemory(b *testing.B) {
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		x := newIndex(DefaultMaxEntries, time.Minute)
		for i := range DefaultMaxEntries {
			c, _, _ := numbered(i)
			x.add(c, 0)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(x)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/DefaultMaxEntries, "B/entry")
}

// A dump of a table with 50,000 connections, of which one in ten is translated.
func BenchmarkDump(b *testing.B) {
	netnstest.Enter(b)
	netnstest.Sysctl(b, "netfilter/nf_conntrack_events", "0")
	fillKernel(b, 50_000, 10)
	table := open(b, Options{})
	require.Equal(b, 5_000, table.Stats().Entries)
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, table.Refresh())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/50_000, "ns/connection")
}

// Events that wait in the socket, received, decoded and taken in.
func BenchmarkReceive(b *testing.B) {
	netnstest.Enter(b)
	table := open(b, Options{})
	const connections = 5_000
	for b.Loop() {
		b.StopTimer()
		already := table.Stats().Events
		table.feed.Lock() // the reader stands still, but for one event that it has
		fillKernel(b, connections, 1)
		tool(b, "--flush")
		b.StartTimer()
		table.feed.Unlock()
		netnstest.Eventually(b, func() bool { return table.Stats().Events >= already+2*connections }, "all events")
	}
	require.Zero(b, table.Stats().Overflows)
	b.ReportMetric(2*connections*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// fillKernel makes connections, one in every some of them translated.
func fillKernel(tb testing.TB, connections, every int) {
	tb.Helper()
	kernel, err := ctnetlink.Dial(nil)
	require.NoError(tb, err)
	defer func() { require.NoError(tb, kernel.Close()) }()
	for i := range connections {
		_, before, after := numbered(i)
		f := ctnetlink.NewFlow(uint8(before.Protocol), 0, before.Source, before.Destination,
			before.SourcePort, before.DestinationPort, 300, 0)
		if i%every == 0 {
			f.TupleReply.IP.SourceAddress, f.TupleReply.Proto.SourcePort = after.Destination, after.DestinationPort
		}
		require.NoError(tb, kernel.Create(f))
	}
}
