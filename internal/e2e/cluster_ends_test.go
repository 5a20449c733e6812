// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// With identify_ends metrics have what names both ends: of flows through a service its
// backend too, and of connections as well, whichever side each socket knows. What began and
// was counted is in one point only, which begins with its interval.
func TestClusterMetricsByEnds(t *testing.T) {
	const connections, interval = 10, 200 * time.Millisecond
	c := newCluster(t)
	agents := c.start(t, `{interval: 200ms, flows: {identify_ends: true}}`)
	_, local := c.services()
	conv := conversation{"through a service", ipv4, c.nodes[0].pods[0], local.backend, &local}
	for range connections {
		conv.tcp(t, 100)
	}
	_, dialed := conv.targets(tcpPort+1, tcpServicePort+1) // where nobody listens
	_, err := conv.client.dial(t.Context(), "tcp", dialed)
	require.Error(t, err)

	client, service, backend := conv.client.addrs.v4.String(), local.addrs.v4.String(), local.backend.addrs.v4.String()
	asked := map[string]any{"source.address": client, "destination.address": service, "destination.port": int64(tcpServicePort)}
	flows := with(asked, map[string]any{
		"netprobe.nat.destination.address": backend, "netprobe.nat.destination.port": int64(tcpPort), "netprobe.nat.original": true,
	})
	ofClient := map[string]any{"source.address": client, "netprobe.connection.role": "client", "network.transport": "tcp", "network.type": "ipv4"}
	atClient := with(flows, ofClient)
	// which sees the node in the client's place
	atServer := map[string]any{
		"destination.address": backend, "destination.port": int64(tcpPort),
		"netprobe.nat.source.address": client, "netprobe.nat.destination.address": service, "netprobe.nat.destination.port": int64(tcpServicePort), "netprobe.nat.original": false,
		"netprobe.connection.role": "server", "network.transport": "tcp", "network.type": "ipv4",
	}
	refused := with(ofClient, map[string]any{"destination.address": service, "destination.port": int64(tcpServicePort + 1)})
	k := agents[0].sink
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		assert.EqualValues(t, connections, k.deltas("netprobe.flows", flows))
		assert.Greater(t, k.deltas("netprobe.flow.packets", flows), uint64(3*connections))
		assert.EqualValues(t, connections, k.deltas("netprobe.tcp.connect.latency", atClient))
		assert.GreaterOrEqual(t, k.deltas("netprobe.tcp.rtt", atClient), uint64(1))
		assert.GreaterOrEqual(t, k.deltas("netprobe.tcp.rtt", atServer), uint64(1))
		assert.EqualValues(t, 1, k.deltas("netprobe.tcp.failed.connections", refused))
	}, patience, glance)
	require.Zero(t, k.deltas("netprobe.tcp.connect.latency", atServer))
	k.checkDeltas(t, 10*interval)
}

func with(attrs, more map[string]any) map[string]any {
	all := maps.Clone(attrs)
	maps.Copy(all, more)
	return all
}

// deltas adds up the values, or counts, of a metric's points that have these attributes
// among others.
func (s *sink) deltas(metric string, want map[string]any) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum uint64
	s.each(metric, func(m pmetric.Metric) {
		switch m.Type() {
		case pmetric.MetricTypeSum:
			for _, dp := range m.Sum().DataPoints().All() {
				if hasAll(dp.Attributes().AsRaw(), want) {
					sum += uint64(dp.IntValue())
				}
			}
		case pmetric.MetricTypeHistogram:
			for _, dp := range m.Histogram().DataPoints().All() {
				if hasAll(dp.Attributes().AsRaw(), want) {
					sum += dp.Count()
				}
			}
		}
	})
	return sum
}

// checkDeltas checks that points are deltas of no longer than an interval takes.
func (s *sink) checkDeltas(t *testing.T, longest time.Duration) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range []string{"netprobe.flow.packets", "netprobe.flow.bytes", "netprobe.flows", "netprobe.tcp.retransmits"} {
		s.each(name, func(m pmetric.Metric) {
			assert.Equal(t, pmetric.AggregationTemporalityDelta, m.Sum().AggregationTemporality())
			for _, dp := range m.Sum().DataPoints().All() {
				assert.Less(t, dp.Timestamp().AsTime().Sub(dp.StartTimestamp().AsTime()), longest, name)
			}
		})
	}
}

// each gives all metrics of a name. The lock is held.
func (s *sink) each(name string, yield func(pmetric.Metric)) {
	for _, md := range s.metrics {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if m.Name() == name {
						yield(m)
					}
				}
			}
		}
	}
}
