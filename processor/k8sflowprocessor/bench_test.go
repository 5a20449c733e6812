// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/netprobe-otel/netprobe/internal/netattr"
	c "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/clustertest"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/metadata"
)

// likeAReceivers is what the receiver says of a flow of TCP beside its ends.
var likeAReceivers = attributes{
	netattr.NetworkType: "ipv4", netattr.FlowCommunityID: "1:LQU9qZlK+B5F3KDmev6m5PMibrg=", netattr.FlowInitiatorEvidence: "syn",
	netattr.TCPFlags: 24, netattr.NetworkInterfaceName: "veth0123abcd", netattr.ObservationDirection: "ingress", netattr.ObservationNetNS: 4026531840,
	netattr.ProcessPID: 4711, netattr.ProcessExecutableName: "nginx", netattr.ContainerID: c.WebContainer1,
	netattr.TCPRTT: 0.000123, netattr.TCPRetransmits: 0, netattr.TCPResets: 0,
}

// BenchmarkRecords names the ends of records, 512 in a batch. One core; ns/op is for a record.
func BenchmarkRecords(b *testing.B) {
	const batch = 512
	for _, bb := range []struct {
		name   string
		groups []string
		record attributes
	}{
		{"pod_to_pod/all", createDefaultConfig().(*Config).Attributes, record(c.Client1, c.Web2, 40000, 8080, likeAReceivers)},
		{"pod_to_service/all", createDefaultConfig().(*Config).Attributes, record(c.Client1, c.WebService, 40000, 80, merge(likeAReceivers, attributes{
			netattr.NATDestinationAddress: c.Web2, netattr.NATDestinationPort: 8080, netattr.NATOriginal: true,
		}))},
		{"pod_to_pod/pod_namespace_workload", []string{"pod", "namespace", "workload"}, record(c.Client1, c.Web2, 40000, 8080, likeAReceivers)},
		{"pod_to_outside/all", createDefaultConfig().(*Config).Attributes, record(c.Client1, c.Outside, 40000, 443, likeAReceivers)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			p, err := newLogs(processortest.NewNopSettings(metadata.Type), defaults(on("n1"), func(cfg *Config) { cfg.Attributes = bb.groups }), consumertest.NewNop())
			require.NoError(b, err)
			require.NoError(b, p.start(b.Context(), hostWith(c.New())))
			records := make([]attributes, batch)
			for i := range records {
				records[i] = bb.record
			}
			like, batches := flowLogs(b, "", records...), make([]plog.Logs, 1)
			b.ReportAllocs()
			b.ResetTimer()
			for done, next := 0, len(batches); done < b.N; done += batch {
				if next == len(batches) {
					b.StopTimer()
					for i := range batches {
						batches[i] = plog.NewLogs()
						copyWithRoom(like, batches[i])
					}
					next = 0
					b.StartTimer()
				}
				_, err := p.process(context.Background(), batches[next])
				require.NoError(b, err)
				next++
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// copyWithRoom copies records with as much room for more attributes as the receiver leaves.
func copyWithRoom(from, to plog.Logs) {
	const room = 43
	rl := to.ResourceLogs().AppendEmpty()
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for _, lr := range from.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
		out := records.AppendEmpty()
		out.SetEventName(lr.EventName())
		out.SetTimestamp(lr.Timestamp())
		out.Attributes().EnsureCapacity(room)
		for key, value := range lr.Attributes().All() {
			value.CopyTo(out.Attributes().PutEmpty(key))
		}
	}
}

// BenchmarkPoints folds points, 8,192 in a batch. One core; ns/op is for a point.
func BenchmarkPoints(b *testing.B) {
	const batch = 8192
	p, err := newMetrics(processortest.NewNopSettings(metadata.Type), defaults(on("n1")), consumertest.NewNop())
	require.NoError(b, err)
	require.NoError(b, p.find(b.Context(), hostWith(c.New())))
	like := pmetric.NewMetrics()
	m := like.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("netprobe.flow.bytes")
	m.SetEmptySum().SetIsMonotonic(true)
	m.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	for i := range batch {
		dp := m.Sum().DataPoints().AppendEmpty()
		dp.SetIntValue(1)
		require.NoError(b, dp.Attributes().FromRaw(sent(0, c.Client1, fmt.Sprintf("10.244.%d.%d", 1+i%2, 3+i%3), 8080, nil).attrs))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += batch {
		b.StopTimer()
		md := pmetric.NewMetrics()
		like.CopyTo(md)
		b.StartTimer()
		_, err := p.process(context.Background(), md)
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "points/s")
}
