// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/connections"
)

// between gives ends of which the server has a port of its own.
func between(port uint16) connections.Between {
	return connections.Between{Client: client, Server: server, Port: port, Role: flow.Client}
}

// gained gives so many segments sent again.
func gained(b connections.Between, retransmits uint64) *connections.Gain {
	g := &connections.Gain{Between: b}
	g.Counts[connections.Retransmits] = retransmits
	return g
}

func addGains(c *ConnectionSeries, gains ...*connections.Gain) {
	for _, g := range gains {
		c.Add(g)
	}
}

// retransmits gives those of points, and when each begins.
func retransmits(points []*ConnectionPoint) (counts map[connections.Between]uint64, starts map[connections.Between]time.Time) {
	counts, starts = map[connections.Between]uint64{}, map[connections.Between]time.Time{}
	for _, p := range points {
		counts[p.Between], starts[p.Between] = p.Counts[connections.Retransmits], p.Start
	}
	return counts, starts
}

var nobody = connections.Between{Role: flow.Client}

// Points are of their interval only: what gained nothing has none.
func TestConnectionSeries(t *testing.T) {
	c := NewConnectionSeries(10, nil, at(0))
	addGains(c, gained(between(1), 2), gained(between(2), 3), gained(between(1), 4), gained(nobody, 5), gained(between(3), 0))
	counts, starts := retransmits(c.Collect(at(5)))
	require.Equal(t, map[connections.Between]uint64{between(1): 6, between(2): 3, nobody: 5}, counts)
	require.Equal(t, map[connections.Between]time.Time{between(1): at(0), between(2): at(0), nobody: at(0)}, starts)
	require.Empty(t, c.Collect(at(10)))
	addGains(c, gained(between(1), 1))
	_, starts = retransmits(c.Collect(at(15)))
	require.Equal(t, map[connections.Between]time.Time{between(1): at(10)}, starts)
	require.Zero(t, c.Folded)
}

func TestConnectionSeriesBudget(t *testing.T) {
	c := NewConnectionSeries(2, nil, at(0))
	ofServer := between(9)
	ofServer.Role, ofServer.Container = flow.Server, "0123"
	addGains(c, gained(between(1), 1), gained(between(2), 2), gained(between(3), 4), gained(ofServer, 8), gained(between(1), 16))
	counts, _ := retransmits(c.Collect(at(5)))
	require.Equal(t, map[connections.Between]uint64{between(1): 17, between(2): 2, nobody: 4, {Role: flow.Server}: 8}, counts)
	require.EqualValues(t, 2, c.Folded)
	addGains(c, gained(between(3), 1)) // places are of an interval
	counts, _ = retransmits(c.Collect(at(10)))
	require.Equal(t, map[connections.Between]uint64{between(3): 1}, counts)
}

// What was refused comes again with what was gained meanwhile. It stays bounded however
// often that happens.
func TestConnectionSeriesRestore(t *testing.T) {
	c := NewConnectionSeries(2, &Buckets{Boundaries: []time.Duration{time.Millisecond}}, at(0))
	g := gained(between(1), 1)
	g.RTT = 2 * time.Millisecond
	addGains(c, g)
	c.Restore(c.Collect(at(5)))
	g.RTT, g.Latency = time.Millisecond, 3*time.Millisecond
	addGains(c, g)
	points := c.Collect(at(10))
	require.Len(t, points, 1)
	require.Equal(t, at(0), points[0].Start)
	require.EqualValues(t, 2, points[0].Counts[connections.Retransmits])
	require.Equal(t, []uint64{1, 1}, points[0].RTTs.Counts)
	require.Equal(t, []uint64{0, 1}, points[0].Latencies.Counts)

	want := uint64(2)
	for n := range uint16(20) { // the pipeline is busy, and then refuses
		addGains(c, gained(between(100+n), 1), gained(between(200+n), 1))
		want += 2
		c.Restore(points)
		points = c.Collect(at(15 + int(n)))
		require.LessOrEqual(t, len(points), 2+1)
	}
	var got uint64
	for _, p := range points {
		got += p.Counts[connections.Retransmits]
	}
	require.Equal(t, want, got)
	require.NotZero(t, c.Folded)
}

func TestConnectionSeriesWithoutHistograms(t *testing.T) {
	c := NewConnectionSeries(2, nil, at(0))
	addGains(c, &connections.Gain{Between: between(1), RTT: time.Second, Latency: time.Second})
	require.Empty(t, c.Collect(at(5)))
}

// Buckets are those of the SDK, whether samples come one by one or are put together.
func TestDistributionsAreThoseOfTheSDK(t *testing.T) {
	for name, buckets := range map[string]Buckets{
		"explicit":    {Boundaries: []time.Duration{time.Millisecond, 10 * time.Millisecond, time.Second}},
		"exponential": {MaxSize: 20},
	} {
		t.Run(name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 4))
			sdk, err := NewDurations(buckets, "test")
			require.NoError(t, err)
			role := AttributeOption("role", "client")
			c := NewConnectionSeries(10, &buckets, at(0))
			for range 30 {
				for range rnd.IntN(20) {
					sample := time.Duration(1 + rnd.Uint64N(uint64(time.Millisecond)<<rnd.IntN(12)))
					if rnd.IntN(10) == 0 {
						sample = 10 * time.Millisecond // a boundary
					}
					sdk.Record("test", sample, role)
					addGains(c, &connections.Gain{Between: between(1), RTT: sample})
				}
				points := c.Collect(at(5))
				addGains(c, &connections.Gain{Between: between(1), RTT: 3 * time.Millisecond})
				sdk.Record("test", 3*time.Millisecond, role)
				c.Restore(points)
			}
			all, err := sdk.Collect()
			require.NoError(t, err)
			got := c.Collect(at(10))[0].RTTs
			switch want := all["test"].(type) {
			case metricdata.Histogram[float64]:
				dp := want.DataPoints[0]
				require.Equal(t, dp.BucketCounts, got.Counts)
				require.Equal(t, dp.Bounds, got.Bounds)
				requireSummary(t, dp.Count, dp.Sum, dp.Min, dp.Max, got)
			case metricdata.ExponentialHistogram[float64]:
				dp := want.DataPoints[0]
				require.Equal(t, dp.Scale, got.Exponential.Scale())
				var counts []uint64
				for i := range got.Exponential.Positive().Len() {
					counts = append(counts, got.Exponential.Positive().At(i))
				}
				require.Equal(t, dp.PositiveBucket.Offset, got.Exponential.Positive().Offset())
				require.Equal(t, dp.PositiveBucket.Counts, counts)
				requireSummary(t, dp.Count, dp.Sum, dp.Min, dp.Max, got)
			default:
				require.Fail(t, "no histogram")
			}
			require.NoError(t, sdk.Close())
		})
	}
}

func requireSummary(t *testing.T, count uint64, sum float64, least, most metricdata.Extrema[float64], got *Distribution) {
	t.Helper()
	require.Equal(t, count, got.Count)
	require.InEpsilon(t, sum, got.Sum, 1e-9)
	value, _ := least.Value()
	require.Equal(t, value, got.Min) //nolint:testifylint // the same sample
	value, _ = most.Value()
	require.Equal(t, value, got.Max) //nolint:testifylint // the same sample
}

func BenchmarkConnectionSeries(b *testing.B) {
	c := NewConnectionSeries(6600, &Buckets{MaxSize: 160}, at(0))
	gains := make([]connections.Gain, 20_000)
	for i := range gains {
		gains[i] = connections.Gain{Between: between(uint16(i % 6000)), RTT: time.Duration(1+i) * time.Microsecond}
	}
	b.ReportAllocs()
	for b.Loop() {
		for i := range gains {
			c.Add(&gains[i])
		}
		c.Collect(at(5))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(gains)), "ns/gain")
}
