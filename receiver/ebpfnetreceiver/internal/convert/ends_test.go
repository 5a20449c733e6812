// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"net/netip"
	"testing"
	"time"
	"unique"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/connections"
)

var router4, outside4 = netip.MustParseAddr("192.0.2.254"), netip.MustParseAddr("203.0.113.9")

const container = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// gains are all kinds: of either end, with and without what is known of it.
func gains() []connections.Gain {
	atClient := connections.Between{Client: source4, Server: destination4, Port: 443, Role: flow.Client, Container: container}
	atServer := connections.Between{Client: source6, Server: destination6, Port: 80, Role: flow.Server, Container: container}
	elsewhere := connections.Between{Client: source4, Server: destination4, Port: 443, Role: flow.Server}
	nobody := connections.Between{Role: flow.Server}
	// through a service, and behind one
	toService, ofService := atClient, connections.Between{Client: source4, Server: destination4, Port: 8080, Role: flow.Server}
	toService.Translate(flow.Tuple{Source: source4, SourcePort: 1, Destination: destination4, DestinationPort: 443, Protocol: flow.TCP}, &flow.NAT{
		Original: flow.Tuple{Source: source4, SourcePort: 1, Destination: destination4, DestinationPort: 443, Protocol: flow.TCP},
		Other:    flow.Tuple{Source: source4, SourcePort: 1, Destination: router4, DestinationPort: 8443, Protocol: flow.TCP},
	})
	ofService.Translate(flow.Tuple{Source: destination4, SourcePort: 8080, Destination: source4, DestinationPort: 1, Protocol: flow.TCP}, &flow.NAT{
		Original: flow.Tuple{Source: router4, SourcePort: 80, Destination: outside4, DestinationPort: 2, Protocol: flow.TCP},
		Other:    flow.Tuple{Source: router4, SourcePort: 80, Destination: outside4, DestinationPort: 2, Protocol: flow.TCP}, Reply: true,
	})
	all := []connections.Gain{
		{Between: atClient, RTT: 2 * time.Millisecond, Latency: 3 * time.Millisecond},
		{Between: atClient, RTT: 4 * time.Millisecond},
		{Between: atServer, RTT: time.Second},
		{Between: elsewhere},
		{Between: nobody},
		{Between: toService},
		{Between: ofService, RTT: time.Millisecond},
	}
	for i := range all {
		c := &all[i].Counts
		c[connections.Retransmits] = uint64(1 + i)
		c[connections.ResetsSent], c[connections.ResetsReceived] = uint64(10*i), uint64(100*i)
	}
	all[0].Counts[connections.FailedBy(flow.Refused)] = 7
	// an end that has yet to be a client's is one where nothing came of it
	all[2].Counts[connections.FailedBy(flow.TimedOut)] = 8
	return all
}

func connectionPoints(buckets aggregate.Buckets) []*aggregate.ConnectionPoint {
	series := aggregate.NewConnectionSeries(10, &buckets, first)
	for _, g := range gains() {
		series.Add(&g)
	}
	return series.Collect(last)
}

func TestAppendConnectionMetric(t *testing.T) {
	md, to := emptyMetrics()
	points := connectionPoints(aggregate.Buckets{MaxSize: 20})
	metric := func(name string) Metric {
		return Metric{Name: name, Unit: "{thing}", Description: "As a test says.", Value: func(v flow.Volume) uint64 { return v.Packets }}
	}
	AppendConnectionMetric(to, metric("test.retransmits"), []ConnectionCount{{Place: connections.Retransmits}}, points, last)
	AppendConnectionMetric(to, metric("test.resets"), []ConnectionCount{
		{connections.ResetsSent, "netprobe.tcp.reset.by", "local"}, {connections.ResetsReceived, "netprobe.tcp.reset.by", "remote"},
	}, points, last)
	AppendConnectionMetric(to, metric("test.failed"), []ConnectionCount{
		{connections.FailedBy(flow.Refused), "error.type", "refused"}, {connections.FailedBy(flow.TimedOut), "error.type", "timeout"},
	}, points, last)
	AppendConnectionMetric(to, metric("test.none"), []ConnectionCount{{connections.FailedBy(flow.Canceled), "error.type", "canceled"}}, points, last)
	requireGoldenMetrics(t, "connections_by_ends", md)
	for _, m := range to.All() {
		require.Equal(t, pmetric.AggregationTemporalityDelta, m.Sum().AggregationTemporality())
		require.True(t, m.Sum().IsMonotonic())
	}
}

func TestAppendDistributions(t *testing.T) {
	for name, buckets := range map[string]aggregate.Buckets{
		"durations_by_ends":             {Boundaries: []time.Duration{2 * time.Millisecond, 10 * time.Millisecond}},
		"exponential_durations_by_ends": {MaxSize: 20},
	} {
		t.Run(name, func(t *testing.T) {
			md, to := emptyMetrics()
			points := connectionPoints(buckets)
			const description = "As a test says."
			AppendDistributions(to, "test.rtt", description, points, func(p *aggregate.ConnectionPoint) *aggregate.Distribution { return p.RTTs }, last)
			AppendDistributions(to, "test.latency", description, points, func(p *aggregate.ConnectionPoint) *aggregate.Distribution { return p.Latencies }, last)
			AppendDistributions(to, "test.none", description, points, func(*aggregate.ConnectionPoint) *aggregate.Distribution { return nil }, last)
			require.Equal(t, 2, to.Len())
			requireGoldenMetrics(t, name, md)
		})
	}
}

// Series tell what else is known of their ends, each thing where it is known.
func TestAppendFlowMetricOfIdentifiedEnds(t *testing.T) {
	there := aggregate.SeriesKey{Source: source4, Destination: destination4, Protocol: flow.TCP, Server: flow.DestinationSide, Port: 443}
	back := aggregate.SeriesKey{Source: destination4, Destination: source4, Protocol: flow.TCP, Server: flow.SourceSide, Port: 443}
	ping := aggregate.SeriesKey{Source: source4, Destination: destination4, Protocol: flow.ICMP}
	var all []aggregate.SeriesPoint
	for i, of := range []struct {
		key  aggregate.SeriesKey
		ends aggregate.Ends
	}{
		{there, aggregate.Ends{SourceContainer: container}},
		{there, aggregate.Ends{DestinationContainer: container}},
		{there, aggregate.Ends{NATDestination: backend4, NATPort: 8443, HasNATPort: true, Translated: true, Original: true}},
		{there, aggregate.Ends{NATSource: backend4, Translated: true}},
		{there, aggregate.Ends{Translated: true}},
		{back, aggregate.Ends{NATSource: backend4, NATDestination: backend4, NATPort: 8443, HasNATPort: true, Translated: true, SourceContainer: container, DestinationContainer: container}},
		{ping, aggregate.Ends{NATSource: backend4, Translated: true}},
	} {
		of.key.Ends = unique.Make(of.ends)
		all = append(all, aggregate.SeriesPoint{SeriesKey: of.key, Volume: flow.Volume{Packets: uint64(1 + i)}, Start: first})
	}
	md, to := emptyMetrics()
	AppendFlowMetric(to, packetsMetric, all, 1, last)
	requireGoldenMetrics(t, "flows_by_ends", md)
}
