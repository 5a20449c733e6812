// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyexporter

import (
	"context"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/netprobe-otel/netprobe/exporter/topologyexporter/internal/metadata"
	"github.com/netprobe-otel/netprobe/exporter/topologyexporter/internal/metadatatest"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/internal/topology"
)

// graph is an extension that keeps what it is given.
type graph struct {
	component.StartFunc
	component.ShutdownFunc
	records, drops []topology.Record
	faces          []topology.InterfaceReading
	ledger         []topology.LedgerReading
}

func (g *graph) AddRecords(r []topology.Record)              { g.records = append(g.records, r...) }
func (g *graph) AddDrops(r []topology.Record)                { g.drops = append(g.drops, r...) }
func (g *graph) AddInterfaces(r []topology.InterfaceReading) { g.faces = append(g.faces, r...) }
func (g *graph) AddLedger(r []topology.LedgerReading)        { g.ledger = append(g.ledger, r...) }

type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

var at = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func logsOf(t *testing.T, event string, resource, attrs map[string]any) plog.Logs {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	require.NoError(t, rl.Resource().Attributes().FromRaw(resource))
	lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.SetEventName(event)
	lr.SetTimestamp(pcommon.NewTimestampFromTime(at))
	require.NoError(t, lr.Attributes().FromRaw(attrs))
	ld.MarkReadOnly()
	return ld
}

func TestLogs(t *testing.T) {
	g := &graph{}
	e, err := NewFactory().CreateLogs(t.Context(), exportertest.NewNopSettings(metadata.Type), createDefaultConfig())
	require.NoError(t, err)
	require.NoError(t, e.Start(t.Context(), host{component.MustNewID("topology"): g}))
	all := map[string]any{
		netattr.SourceAddress: "10.1.0.1", netattr.SourcePort: 40000, netattr.DestinationAddress: "::ffff:10.1.1.1", netattr.DestinationPort: 80,
		netattr.NetworkTransport: "tcp", netattr.FlowPackets: 3, netattr.FlowBytes: 300, netattr.FlowStart: at.Add(-time.Second).UnixNano(),
		netattr.FlowCommunityID: "1:x", netattr.FlowInitiator: "source", netattr.FlowDirection: "inter-node", netattr.FlowReporter: "source",
		netattr.TCPRTT: 0.002, netattr.TCPRetransmits: 4, netattr.TCPResets: 1, netattr.Drops: 2, netattr.TCPFlags: 27, netattr.NetworkInterfaceName: "eth0",
		netattr.TunnelType: "vxlan", netattr.TunnelID: 7, netattr.TunnelSourceAddress: "192.0.2.1", netattr.TunnelDestinationAddress: "192.0.2.2",
		netattr.NATDestinationAddress: "10.96.0.1", netattr.NATDestinationPort: 8080, netattr.ProcessPID: 5, netattr.ProcessExecutableName: "curl",
		"source.k8s.pod.name": "web-1", "source.k8s.namespace.name": "shop", "source.k8s.deployment.name": "web", "source.k8s.node.name": "a",
		"source.cloud.availability_zone": "z1", "source.k8s.pod.label.app": "web",
		"destination.k8s.pod.name": "db-0", "destination.k8s.namespace.name": "shop", "destination.k8s.workload.kind": "Rollout",
		"destination.k8s.workload.name": "db", "destination.k8s.service.name": "db", "destination.k8s.node.name": "b",
	}
	require.NoError(t, e.ConsumeLogs(t.Context(), logsOf(t, netattr.EventFlow, nil, all)))
	require.Equal(t, []topology.Record{{
		Time: at, Start: at.Add(-time.Second), Transport: "tcp", HasPorts: true, Bytes: 300, Packets: 3, CommunityID: "1:x", Initiator: topology.SourceSide,
		Class: topology.InterNode, Reporter: "source", ReportingNode: "a", RTT: 2 * time.Millisecond, Retransmits: 4, Resets: 1, Drops: 2, TCPFlags: 27,
		Interface: "eth0", Tunnel: &topology.Tunnel{Type: "vxlan", ID: 7, HasID: true, Source: "192.0.2.1", Destination: "192.0.2.2"},
		NAT: &topology.NAT{Destination: "10.96.0.1", DestinationPort: 8080}, PID: 5, Process: "curl",
		Source: topology.End{
			Addr: netip.MustParseAddr("10.1.0.1"), Port: 40000, Namespace: "shop", Pod: "web-1", WorkloadKind: "Deployment", WorkloadName: "web",
			Node: "a", Zone: "z1", Labels: []topology.Label{{Key: "app", Value: "web"}},
		},
		Destination: topology.End{
			Addr: netip.MustParseAddr("10.1.1.1"), Port: 80, Namespace: "shop", Pod: "db-0", WorkloadKind: "Rollout", WorkloadName: "db", Service: "db", Node: "b",
		},
	}}, g.records)

	require.NoError(t, e.ConsumeLogs(t.Context(), logsOf(t, netattr.EventDrop, map[string]any{"k8s.node.name": "n"}, map[string]any{
		netattr.SourceAddress: "10.1.0.1", netattr.DestinationAddress: "10.1.1.1", netattr.Drops: 9,
	})))
	require.Len(t, g.drops, 1)
	require.Equal(t, int64(9), g.drops[0].Drops)
	require.Equal(t, "n", g.drops[0].ReportingNode)

	// what cannot be read is left out, and what does not fit is cut
	for _, bad := range []map[string]any{{}, {netattr.SourceAddress: "x", netattr.DestinationAddress: "10.0.0.1"}, {netattr.SourceAddress: 5, netattr.DestinationAddress: "10.0.0.1"}} {
		require.NoError(t, e.ConsumeLogs(t.Context(), logsOf(t, netattr.EventFlow, nil, bad)))
	}
	require.Len(t, g.records, 1)
	require.NoError(t, e.ConsumeLogs(t.Context(), logsOf(t, netattr.EventFlow, nil, map[string]any{
		netattr.SourceAddress: "10.0.0.1", netattr.DestinationAddress: "10.0.0.2", netattr.SourcePort: 70000, netattr.FlowBytes: int64(math.MaxInt64),
		netattr.TCPRTT: math.NaN(), netattr.FlowPackets: -5, "source.k8s.pod.name": string(make([]byte, 5000)) + "\xff",
	})))
	r := g.records[1]
	require.Zero(t, r.Source.Port)
	require.Zero(t, r.RTT)
	require.Zero(t, r.Packets)
	require.Equal(t, int64(maxCount), r.Bytes)
	require.Len(t, r.Source.Pod, maxText)
	require.NoError(t, e.Shutdown(t.Context()))
}

// Who the ends are where a translation hides them: of a masqueraded call through a service
// before it for the caller, and after it for who answers, from both sides of it and both ways.
func TestTranslated(t *testing.T) {
	g := &graph{}
	e, err := NewFactory().CreateLogs(t.Context(), exportertest.NewNopSettings(metadata.Type), createDefaultConfig())
	require.NoError(t, err)
	require.NoError(t, e.Start(t.Context(), host{component.MustNewID("topology"): g}))
	type side struct{ client, server netip.AddrPort }
	before := side{netip.MustParseAddrPort("203.0.113.9:5000"), netip.MustParseAddrPort("192.0.2.1:30080")}
	after := side{netip.MustParseAddrPort("10.1.0.1:6000"), netip.MustParseAddrPort("10.1.0.7:8080")}
	for _, original := range []bool{true, false} {
		for _, reply := range []bool{false, true} {
			wire, other := before, after
			if !original {
				wire, other = after, before
			}
			source, destination, natSource, natDestination, opener := wire.client, wire.server, other.client, other.server, "source"
			if reply {
				source, destination, natSource, natDestination, opener = destination, source, natDestination, natSource, "destination"
			}
			attrs := map[string]any{
				netattr.SourceAddress: source.Addr().String(), netattr.SourcePort: int64(source.Port()),
				netattr.DestinationAddress: destination.Addr().String(), netattr.DestinationPort: int64(destination.Port()),
				netattr.NATSourceAddress: natSource.Addr().String(), netattr.NATSourcePort: int64(natSource.Port()),
				netattr.NATDestinationAddress: natDestination.Addr().String(), netattr.NATDestinationPort: int64(natDestination.Port()),
				netattr.NATOriginal: original, netattr.FlowInitiator: opener,
			}
			g.records = nil
			require.NoError(t, e.ConsumeLogs(t.Context(), logsOf(t, netattr.EventFlow, nil, attrs)))
			client, server := g.records[0].Source, g.records[0].Destination
			if reply {
				client, server = server, client
			}
			require.Equal(t, wire.client.Addr(), client.Addr)
			if original {
				require.False(t, client.Real.IsValid())
				require.Equal(t, after.server, server.Real)
			} else {
				require.Equal(t, before.client, client.Real)
				require.False(t, server.Real.IsValid())
			}
			delete(attrs, netattr.FlowInitiator)
			require.NoError(t, e.ConsumeLogs(t.Context(), logsOf(t, netattr.EventFlow, nil, attrs)))
			require.False(t, g.records[1].Source.Real.IsValid() || g.records[1].Destination.Real.IsValid(), "who opened it is not known")
		}
	}
	require.NoError(t, e.Shutdown(t.Context()))
}

func TestMetrics(t *testing.T) {
	g := &graph{}
	e, err := NewFactory().CreateMetrics(t.Context(), exportertest.NewNopSettings(metadata.Type), createDefaultConfig())
	require.NoError(t, err)
	require.NoError(t, e.Start(t.Context(), host{component.MustNewID("topology"): g}))
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("k8s.node.name", "a")
	metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
	sum := func(name string, value int64, attrs map[string]any, temporality pmetric.AggregationTemporality) {
		m := metrics.AppendEmpty()
		m.SetName(name)
		m.SetEmptySum().SetAggregationTemporality(temporality)
		dp := m.Sum().DataPoints().AppendEmpty()
		dp.SetIntValue(value)
		dp.SetTimestamp(pcommon.NewTimestampFromTime(at))
		dp.SetStartTimestamp(pcommon.NewTimestampFromTime(at.Add(-time.Minute)))
		require.NoError(t, dp.Attributes().FromRaw(attrs))
	}
	eth0 := map[string]any{"network.interface.name": "eth0"}
	sum("netprobe.interface.rx.bytes", 100, eth0, pmetric.AggregationTemporalityCumulative)
	sum("netprobe.interface.tx.bytes", 100, eth0, pmetric.AggregationTemporalityDelta) // has no use here
	sum("netprobe.flow.bytes", 100, eth0, pmetric.AggregationTemporalityCumulative)
	sum("otelcol_receiver_ebpfnet_packets_total", 7, map[string]any{"outcome": "lost", "cause": "queue_full"}, pmetric.AggregationTemporalityCumulative)
	use := metrics.AppendEmpty()
	use.SetName("netprobe.interface.utilization")
	dp := use.SetEmptyGauge().DataPoints().AppendEmpty()
	dp.SetDoubleValue(0.5)
	dp.SetTimestamp(pcommon.NewTimestampFromTime(at))
	dp.Attributes().PutStr("network.interface.name", "eth0")
	dp.Attributes().PutStr("network.io.direction", "transmit")
	md.MarkReadOnly()
	require.NoError(t, e.ConsumeMetrics(t.Context(), md))
	require.Equal(t, []topology.InterfaceReading{
		{Node: "a", Name: "eth0", At: at, Start: at.Add(-time.Minute), Counter: topology.RxBytes, Value: 100},
		{Node: "a", Name: "eth0", At: at, Start: time.Unix(0, 0).UTC(), Counter: topology.TxUtilization, Ratio: 0.5},
	}, g.faces)
	require.Equal(t, []topology.LedgerReading{{Node: "a", Outcome: "lost", Cause: "queue_full", Value: 7}}, g.ledger)
	require.NoError(t, e.Shutdown(t.Context()))
}

func TestStartFindsTheGraph(t *testing.T) {
	for _, test := range []struct {
		name string
		host host
		want string
	}{
		{"none", host{}, `topology: there is no extension "topology"; configure one of type topology and name it under service::extensions`},
		{"another", host{component.MustNewID("topology"): struct {
			component.StartFunc
			component.ShutdownFunc
		}{}}, `topology: the extension "topology" has no graph; name one of type topology`},
	} {
		e, err := NewFactory().CreateLogs(t.Context(), exportertest.NewNopSettings(metadata.Type), createDefaultConfig())
		require.NoError(t, err)
		require.EqualError(t, e.Start(t.Context(), test.host), test.want, test.name)
		require.NoError(t, e.Shutdown(context.Background()))
	}
}

func TestOwnTelemetry(t *testing.T) {
	tel := componenttest.NewTelemetry()
	defer func() { require.NoError(t, tel.Shutdown(context.Background())) }()
	set := exportertest.NewNopSettings(metadata.Type)
	set.TelemetrySettings = tel.NewTelemetrySettings()
	e, err := NewFactory().CreateLogs(t.Context(), set, createDefaultConfig())
	require.NoError(t, err)
	require.NoError(t, e.Start(t.Context(), host{component.MustNewID("topology"): &graph{}}))
	require.NoError(t, e.ConsumeLogs(t.Context(), logsOf(t, netattr.EventFlow, nil, map[string]any{})))
	metadatatest.AssertEqualExporterTopologyRecords(t, tel, []metricdata.DataPoint[int64]{
		{Value: 1, Attributes: attribute.NewSet(attribute.String("outcome", "invalid"))},
	}, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
	require.NoError(t, e.Shutdown(t.Context()))
}

func TestConfig(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	require.NoError(t, confmap.Validate(cfg))
	require.Equal(t, component.MustNewID("topology"), cfg.Topology)
	require.False(t, cfg.Queue.HasValue())
	conf := confmap.NewFromStringMap(map[string]any{"topology": "topology/2", "sending_queue": map[string]any{"queue_size": 10}})
	require.NoError(t, conf.Unmarshal(cfg))
	require.Equal(t, component.MustNewIDWithName("topology", "2"), cfg.Topology)
	require.True(t, cfg.Queue.HasValue())
	cfg.Topology = component.ID{}
	require.EqualError(t, confmap.Validate(cfg), "topology: is the ID of an extension, as topology, and is empty")
}
