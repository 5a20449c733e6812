// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

func TestFlowRecordsOfATCPConnection(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	a := start(t, l.near, watchLink)
	k.up(t)
	frames := k.capture(t)

	for _, tt := range []struct {
		pairing
		networkType string
		toServer    string // direction at the interface
		toClient    string
	}{
		{k.pairings()[0], "ipv4", "egress", "ingress"},
		{k.pairings()[3], "ipv6", "ingress", "egress"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			began := time.Now()
			client, server := tt.connect(t)
			toServer := stream{netip.MustParseAddrPort(client.LocalAddr().String()), netip.MustParseAddrPort(client.RemoteAddr().String())}
			toClient := stream{toServer.destination, toServer.source}

			require.Eventually(t, func() bool {
				exchange(t, client, server, 4<<10)
				return len(a.sink.intervals(toServer)) >= 3 && len(a.sink.intervals(toClient)) >= 3
			}, patience, time.Millisecond, "the connection is not reported interval by interval")
			require.NoError(t, client.Close())
			require.NoError(t, server.Close())

			for _, dir := range []struct {
				stream
				direction string
				initiator string
				flags     uint8
			}{
				{toServer, tt.toServer, "source", flagSYN | flagACK | flagPSH | flagFIN},
				{toClient, tt.toClient, "destination", flagSYN | flagACK | flagPSH | flagFIN},
			} {
				// FIN is in the last frame but one at most, so all is there when they agree
				want := streamStats{flags: dir.flags}
				require.EventuallyWithT(t, func(c *assert.CollectT) {
					seen := frames.stream(dir.stream)
					want.packets, want.bytes = seen.packets, seen.bytes
					assert.Equal(c, want, seen, "as captured")
					assert.Equal(c, want, sumRecords(a.sink.stream(dir.stream)), "flow records of %v", dir.stream)
					assert.Equal(c, want, l.near.flowMetrics(c, dir.stream, want.flags), "flow metrics of %v", dir.stream)
				}, patience, glance)
				requireFlowRecords(t, a.sink.stream(dir.stream), began, dir.initiator, map[string]any{
					"source.address":                 dir.source.Addr().String(),
					"source.port":                    int64(dir.source.Port()),
					"destination.address":            dir.destination.Addr().String(),
					"destination.port":               int64(dir.destination.Port()),
					"network.transport":              "tcp",
					"network.type":                   tt.networkType,
					"network.interface.name":         "np0",
					"netprobe.observation.direction": dir.direction,
					"netprobe.observation.netns":     int64(l.near.inode),
					// both ends are this process's
					"process.pid": int64(os.Getpid()), "process.executable.name": executable(t),
					"netprobe.tcp.resets": int64(0),
				})
			}
			require.Equal(t, a.sink.stream(toServer)[0].attrs["netprobe.flow.community_id"],
				a.sink.stream(toClient)[0].attrs["netprobe.flow.community_id"])
		})
	}
	frames.requireComplete(t)
	requireNothingLost(t, a)
}

// requireFlowRecords checks the records of one direction of a connection.
func requireFlowRecords(t *testing.T, records []record, began time.Time, initiator string, want map[string]any) {
	t.Helper()
	observed := map[pcommon.Timestamp]int{}
	for i, r := range records {
		require.Equal(t, "netprobe.flow", r.EventName())
		require.Equal(t, plog.SeverityNumberInfo, r.SeverityNumber())
		require.Equal(t, pcommon.ValueTypeEmpty, r.Body().Type())
		observed[r.ObservedTimestamp()]++

		start, ok := r.attrs["netprobe.flow.start_time_unix_nano"].(int64)
		require.True(t, ok)
		require.LessOrEqual(t, start, int64(r.Timestamp()))
		// the clock that flows are timed with goes in steps of up to 10 ms
		require.GreaterOrEqual(t, start, began.Add(-20*time.Millisecond).UnixNano())
		require.LessOrEqual(t, r.Timestamp().AsTime(), time.Now())
		require.Positive(t, r.attrs["netprobe.flow.packets"])
		require.Regexp(t, `^1:[A-Za-z0-9+/]{27}=$`, r.attrs["netprobe.flow.community_id"])
		require.Equal(t, records[0].attrs["netprobe.flow.community_id"], r.attrs["netprobe.flow.community_id"])
		if i == 0 {
			require.Equal(t, initiator, r.attrs["netprobe.flow.initiator"])
			require.Equal(t, "syn", r.attrs["netprobe.flow.initiator_evidence"])
		}

		rest := maps.Clone(r.attrs)
		for _, key := range []string{
			"netprobe.flow.packets", "netprobe.flow.bytes", "netprobe.flow.start_time_unix_nano", "netprobe.tcp.flags",
			"netprobe.flow.community_id", "netprobe.flow.initiator", "netprobe.flow.initiator_evidence",
		} {
			require.Contains(t, rest, key)
			delete(rest, key)
		}
		require.Positive(t, rest["netprobe.tcp.rtt"])
		require.Contains(t, rest, "netprobe.tcp.retransmits") // the kernel also probes where nothing is lost
		delete(rest, "netprobe.tcp.rtt")
		delete(rest, "netprobe.tcp.retransmits")
		// A busy kernel drops a segment that crosses the close; what is dropped has tests of its own.
		if dropped, ok := rest["netprobe.drops"]; ok {
			require.LessOrEqual(t, dropped, r.attrs["netprobe.flow.packets"])
			delete(rest, "netprobe.drops")
		}
		require.Equal(t, want, rest)
	}
	for at, count := range observed {
		require.Equal(t, 1, count, "records of one flow and direction observed at %s", at)
	}
}

// executable is the name of the test's own.
func executable(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	require.NoError(t, err)
	return filepath.Base(path)
}

// stream gives the flow records of a stream so far.
func (s *sink) stream(want stream) []record {
	return s.records(func(attrs map[string]any) bool {
		return isFlow(attrs) && attrs["network.transport"] == "tcp" &&
			attrs["source.address"] == want.source.Addr().String() && attrs["source.port"] == int64(want.source.Port()) &&
			attrs["destination.address"] == want.destination.Addr().String() && attrs["destination.port"] == int64(want.destination.Port())
	})
}

// intervals gives when the records of a stream were observed.
func (s *sink) intervals(want stream) map[pcommon.Timestamp]bool {
	at := map[pcommon.Timestamp]bool{}
	for _, r := range s.stream(want) {
		at[r.ObservedTimestamp()] = true
	}
	return at
}

func sumRecords(records []record) streamStats {
	var sum streamStats
	for _, r := range records {
		sum.packets += uint64(r.attrs["netprobe.flow.packets"].(int64))
		sum.bytes += uint64(r.attrs["netprobe.flow.bytes"].(int64))
		sum.flags |= uint8(r.attrs["netprobe.tcp.flags"].(int64))
	}
	return sum
}

// flowMetrics adds up the series of a stream, which is the only one between
// its two addresses. Flags have no metric.
func (n *namespace) flowMetrics(t require.TestingT, s stream, flags uint8) streamStats {
	all := n.scrape(t, prometheusURL)
	want := map[string]string{
		"source_address": s.source.Addr().String(), "destination_address": s.destination.Addr().String(),
		"network_transport": "tcp",
	}
	return streamStats{
		packets: uint64(all.sum("netprobe_flow_packets_total", want)),
		bytes:   uint64(all.sum("netprobe_flow_bytes_total", want)),
		flags:   flags,
	}
}

func TestFlowRecordsHaveWhatThePacketsHave(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	a := start(t, l.near, watchLink)
	k.up(t)

	always := []string{
		"source.address", "destination.address", "network.transport", "network.type",
		"netprobe.flow.packets", "netprobe.flow.bytes", "netprobe.flow.start_time_unix_nano", "netprobe.flow.community_id",
		"network.interface.name", "netprobe.observation.direction", "netprobe.observation.netns",
	}
	ports := []string{"source.port", "destination.port", "netprobe.flow.initiator", "netprobe.flow.initiator_evidence"}
	icmp := []string{"netprobe.icmp.type", "netprobe.icmp.code"}

	for _, tt := range []struct {
		pairing
		icmp          string
		request       int64
		answer        int64
		udpBytes      int64 // of the first fragment and of the rest, of a datagram with 4000 bytes
		fragmentBytes int64
	}{
		// 14 Ethernet, 20 IP, 8 UDP; fragments carry 1480, 1480 and 1048 bytes
		{k.pairings()[0], "icmp", 8, 0, 14 + 20 + 1480, 2*(14+20) + 1480 + 1048},
		// 14 Ethernet, 40 IP, 8 fragment header, 8 UDP; fragments carry 1448, 1448 and 1112 bytes
		{k.pairings()[2], "ipv6-icmp", 128, 129, 14 + 48 + 1448, 2*(14+48) + 1448 + 1112},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.ping(t, 3, 56)
			tt.udp(t, 4000)
			between := func(direction, transport string, keys []string) func(map[string]any) bool {
				source, destination := tt.client.addr.String(), tt.server.addr.String()
				if direction == "ingress" {
					source, destination = destination, source
				}
				keys = slices.Sorted(slices.Values(slices.Concat(always, keys)))
				return func(attrs map[string]any) bool {
					return attrs["source.address"] == source && attrs["destination.address"] == destination &&
						attrs["network.transport"] == transport && attrs["netprobe.observation.direction"] == direction &&
						slices.Equal(keys, slices.Sorted(maps.Keys(withoutDrops(attrs))))
				}
			}
			for _, want := range []struct {
				direction, transport string
				keys                 []string
				packets, bytes       int64
				icmpType             any
			}{
				{"egress", tt.icmp, icmp, 3, 0, tt.request},
				{"ingress", tt.icmp, icmp, 3, 0, tt.answer},
				{"egress", "udp", ports, 1, tt.udpBytes, nil},
				{"ingress", "udp", ports, 1, tt.udpBytes, nil},
				{"egress", "udp", nil, 2, tt.fragmentBytes, nil},
				{"ingress", "udp", nil, 2, tt.fragmentBytes, nil},
			} {
				require.EventuallyWithT(t, func(c *assert.CollectT) {
					var packets, bytes int64
					for _, r := range a.sink.records(between(want.direction, want.transport, want.keys)) {
						if r.attrs["netprobe.icmp.type"] != want.icmpType {
							continue // neighbour discovery is ICMPv6 too
						}
						packets += r.attrs["netprobe.flow.packets"].(int64)
						bytes += r.attrs["netprobe.flow.bytes"].(int64)
					}
					assert.Equal(c, want.packets, packets, "packets of %v", want)
					if want.bytes != 0 {
						assert.Equal(c, want.bytes, bytes, "bytes of %v", want)
					}
				}, patience, glance)
			}
		})
	}
}

// withoutDrops leaves out what was dropped: of an answer to ping(8) the kernel says so
// although a raw socket has a copy of it (ping_rcv, net/ipv4/ping.c).
func withoutDrops(attrs map[string]any) map[string]any {
	rest := maps.Clone(attrs)
	delete(rest, "netprobe.drops")
	return rest
}

func TestFullFlowTableLosesNothing(t *testing.T) {
	for _, kind := range []string{"shared", "per_cpu"} {
		t.Run(kind, func(t *testing.T) {
			l := newLab(t)
			k := l.link(t, "np0")
			// nothing is read before the end
			a := start(t, l.near, fmt.Sprintf(`{interfaces: {include: [np0]}, interval: 1h, flows: {max_entries: 64, map: %s}}`, kind))
			k.up(t)
			// more flows than the map has room for, fewer than what takes its overflow has
			const conversations, datagrams = 100, 3
			for range conversations {
				k.pairings()[0].udp(t, slices.Repeat([]int{10}, datagrams)...)
			}
			require.True(t, a.stop(t, syscall.SIGTERM).Success())

			counted := map[string]int64{}
			for _, r := range a.sink.records(func(attrs map[string]any) bool { return isFlow(attrs) && attrs["network.transport"] == "udp" }) {
				port := r.attrs["source.port"]
				if r.attrs["source.address"] != k.near4.String() {
					port = r.attrs["destination.port"]
				}
				counted[fmt.Sprint(r.attrs["netprobe.observation.direction"], port)] += r.attrs["netprobe.flow.packets"].(int64)
			}
			require.Len(t, counted, 2*conversations)
			for flow, packets := range counted {
				require.EqualValues(t, datagrams, packets, flow)
			}
		})
	}
}
