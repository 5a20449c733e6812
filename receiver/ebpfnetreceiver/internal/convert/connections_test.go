// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/connections"
)

var connection = flow.Connection{
	Protocol: flow.TCP, Role: flow.Client,
	Local: netip.AddrPortFrom(source4, 40001), Remote: netip.AddrPortFrom(destination4, 443), NetNS: 4026532317,
	Process:     flow.Process{PID: 4711, Name: "curl", ContainerID: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
	Established: true, Started: first, EstablishedAt: first.Add(20 * time.Millisecond), Latency: 20 * time.Millisecond,
	RTT: 21500 * time.Microsecond,
	Now: flow.ConnectionNumbers{BytesSent: 100, BytesReceived: 2000, SegmentsSent: 5, SegmentsReceived: 6, Retransmits: 1},
}

func changed(change func(*flow.Connection)) flow.Connection {
	c := connection
	change(&c)
	return c
}

func TestConnectionLogs(t *testing.T) {
	at := func(phase connections.Phase, c flow.Connection) Event {
		when := c.EstablishedAt
		if phase == connections.Close || phase == connections.Failed {
			when = last
			c.Closed = last
		}
		return ConnectionEvent{connections.Event{Connection: c, Phase: phase, At: when}}
	}
	translated := func(e Event, nat flow.NAT) Event {
		c := e.(ConnectionEvent)
		c.NAT = &nat
		return c
	}
	sent := connection.Tuple()
	backend := sent
	backend.Destination, backend.DestinationPort = router4, 8443
	server := changed(func(c *flow.Connection) {
		c.Role, c.Local, c.Remote = flow.Server, netip.AddrPortFrom(destination6, 443), netip.AddrPortFrom(source6, 40001)
		c.Started, c.Latency, c.Process = time.Time{}, 0, flow.Process{PID: 1, Name: "nginx"}
	})
	failed := changed(func(c *flow.Connection) {
		c.Established, c.EstablishedAt, c.Latency, c.Failure = false, time.Time{}, 0, flow.TimedOut
		c.Now = flow.ConnectionNumbers{SegmentsSent: 3, Retransmits: 2}
	})
	for name, e := range map[string]Event{
		"connect": at(connections.Connect, connection),
		// the one that opened it knows the service, and the other end whoever hides that one
		"connect_to_service": translated(at(connections.Connect, connection), flow.NAT{Original: sent, Other: backend}),
		"accept_behind_service": translated(at(connections.Accept, changed(func(c *flow.Connection) {
			c.Role, c.Local, c.Remote = flow.Server, netip.AddrPortFrom(router4, 8443), netip.AddrPortFrom(source4, 40001)
		})), flow.NAT{Original: sent.Reverse(), Other: sent.Reverse(), Reply: true}),
		"accept": at(connections.Accept, server),
		"close":  at(connections.Close, connection),
		"failed": at(connections.Failed, failed),
		"reset_by_local": at(connections.Close, changed(func(c *flow.Connection) {
			c.ResetSent, c.Failure, c.RTT = true, flow.Reset, 0
		})),
		"reset_by_remote": at(connections.Close, changed(func(c *flow.Connection) {
			c.ResetReceived, c.Failure = true, flow.Reset
		})),
		// how it began, and who has it, is not known
		"from_before": at(connections.Close, changed(func(c *flow.Connection) {
			c.Adopted, c.EstablishedAt, c.Started, c.Latency, c.Process = true, time.Time{}, time.Time{}, 0, flow.Process{}
		})),
		"udp": at(connections.Close, changed(func(c *flow.Connection) {
			c.Protocol, c.Latency, c.RTT, c.Now = flow.UDP, 0, 0, flow.ConnectionNumbers{BytesSent: 30, BytesReceived: 90}
		})),
		// it takes from anyone, at any address
		"udp_server": at(connections.Accept, changed(func(c *flow.Connection) {
			c.Protocol, c.Role, c.Latency = flow.UDP, flow.Server, 0
			c.Local, c.Remote = netip.AddrPortFrom(netip.IPv6Unspecified(), 53), netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		})),
	} {
		t.Run(name, func(t *testing.T) {
			requireGoldenLogs(t, "../connections/"+name, observer.EventLogs([]Event{e}, observed))
		})
	}
}

func TestListenMetric(t *testing.T) {
	md, metrics := emptyMetrics()
	metric := Metric{Name: "test.overflows", Unit: "{connection}", Description: "As a test says.", Value: func(v flow.Volume) uint64 { return v.Packets }}
	AppendListenMetric(metrics, metric, nil, first, last)
	require.Zero(t, metrics.Len())
	AppendListenMetric(metrics, metric, []connections.Listener{
		{Address: netip.MustParseAddrPort("0.0.0.0:80"), Drops: 3},
		{Address: netip.MustParseAddrPort("[2001:db8::1]:443"), Drops: 4},
		{Drops: 5}, // all that there was no room for
	}, first, last)
	requireGoldenMetrics(t, "listen_overflows", md)
}

func emptyMetrics() (pmetric.Metrics, pmetric.MetricSlice) {
	md := pmetric.NewMetrics()
	return md, md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
}

func histogram(t *testing.T, buckets aggregate.Buckets) pmetric.Metric {
	d, err := aggregate.NewDurations(buckets, "test.duration", "test.empty")
	require.NoError(t, err)
	began := time.Now()
	client, server := aggregate.AttributeOption("role", "client"), aggregate.AttributeOption("role", "server")
	for _, ms := range []time.Duration{1, 2, 3, 100} {
		d.Record("test.duration", ms*time.Millisecond, client)
	}
	d.Record("test.duration", time.Second, server)
	data, err := d.Collect()
	require.NoError(t, err)
	require.NotContains(t, data, "test.empty")
	_, metrics := emptyMetrics()
	AppendHistogram(metrics, "test.duration", "As a test says.", data["test.duration"])
	require.NoError(t, d.Close())
	require.Equal(t, 1, metrics.Len())
	m := metrics.At(0)
	require.Equal(t, "test.duration", m.Name())
	require.Equal(t, "s", m.Unit())
	require.Equal(t, "As a test says.", m.Description())
	require.WithinDuration(t, began, time.Now(), time.Minute)
	return m
}

func TestExplicitHistogram(t *testing.T) {
	m := histogram(t, aggregate.Buckets{Boundaries: []time.Duration{time.Millisecond, 2500 * time.Microsecond, time.Second}, MaxSize: 160})
	require.Equal(t, pmetric.AggregationTemporalityCumulative, m.Histogram().AggregationTemporality())
	require.Equal(t, 2, m.Histogram().DataPoints().Len())
	for _, dp := range m.Histogram().DataPoints().All() {
		require.Equal(t, []float64{0.001, 0.0025, 1}, dp.ExplicitBounds().AsRaw())
		require.False(t, dp.StartTimestamp().AsTime().After(dp.Timestamp().AsTime()))
		require.Positive(t, dp.StartTimestamp())
		role, _ := dp.Attributes().Get("role")
		if role.Str() == "server" {
			require.Equal(t, []uint64{0, 0, 1, 0}, dp.BucketCounts().AsRaw(), "a boundary is in the bucket below it")
			continue
		}
		require.Equal(t, []uint64{1, 1, 2, 0}, dp.BucketCounts().AsRaw())
		require.EqualValues(t, 4, dp.Count())
		require.InDelta(t, 0.106, dp.Sum(), 1e-9)
		require.InDelta(t, 0.001, dp.Min(), 1e-9)
		require.InDelta(t, 0.1, dp.Max(), 1e-9)
	}
}

func TestExponentialHistogram(t *testing.T) {
	m := histogram(t, aggregate.Buckets{MaxSize: 20})
	require.Equal(t, pmetric.AggregationTemporalityCumulative, m.ExponentialHistogram().AggregationTemporality())
	require.Equal(t, 2, m.ExponentialHistogram().DataPoints().Len())
	for _, dp := range m.ExponentialHistogram().DataPoints().All() {
		role, _ := dp.Attributes().Get("role")
		var sum uint64
		for _, n := range dp.Positive().BucketCounts().AsRaw() {
			sum += n
		}
		require.Equal(t, dp.Count(), sum+dp.ZeroCount())
		require.LessOrEqual(t, dp.Positive().BucketCounts().Len(), 20)
		if role.Str() == "client" {
			require.EqualValues(t, 4, dp.Count())
			require.InDelta(t, 0.106, dp.Sum(), 1e-9)
			// 1 ms … 100 ms are in no more than 20 buckets of this width
			require.EqualValues(t, 1, dp.Scale())
			require.EqualValues(t, -20, dp.Positive().Offset(), "floor(log2(0.001) * 2)")
		}
	}
}
