// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	c "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/clustertest"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/metadatatest"
)

func TestRecordsGetNames(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cfg    *Config
		record attributes
		want   attributes
	}{
		{
			name: "pod to service across nodes", cfg: defaults(on("n1")),
			record: record(c.Client1, c.WebService, 40000, c.WebServicePort, attributes{
				netattr.NATDestinationAddress: c.Web2, netattr.NATDestinationPort: c.WebBackendPort, netattr.NATOriginal: true,
				netattr.TunnelType: "vxlan", netattr.TunnelID: 1, netattr.TunnelSourceAddress: c.Node1, netattr.TunnelDestinationAddress: c.Node2,
			}),
			want: attributes{
				"source.k8s.namespace.name": "shop", "source.k8s.pod.name": "client-1", "source.k8s.pod.uid": "uid-client-1",
				"source.k8s.deployment.name": "client", "source.k8s.node.name": "n1", "source.cloud.availability_zone": "a",
				"destination.k8s.namespace.name": "shop", "destination.k8s.pod.name": "web-2", "destination.k8s.pod.uid": "uid-web-2",
				"destination.k8s.deployment.name": "web", "destination.k8s.service.name": "web", "destination.k8s.node.name": "n2",
				"destination.cloud.availability_zone": "b",
				"netprobe.flow.direction":             "inter-node", "netprobe.flow.reporter": "source",
				"netprobe.tunnel.source.k8s.node.name": "n1", "netprobe.tunnel.destination.k8s.node.name": "n2",
			},
		},
		{
			name: "a pod with labels, a workload of another kind", cfg: defaults(on("n2")),
			record: record(c.Web1, c.Rollout2, 40000, 81, nil),
			want: attributes{
				"source.k8s.namespace.name": "shop", "source.k8s.pod.name": "web-1", "source.k8s.pod.uid": "uid-web-1",
				"source.k8s.deployment.name": "web", "source.k8s.node.name": "n1", "source.cloud.availability_zone": "a",
				"source.k8s.pod.label.tier": "front", "destination.k8s.namespace.name": "shop", "destination.k8s.pod.name": "canary",
				"destination.k8s.pod.uid": "uid-canary", "destination.k8s.workload.kind": "Rollout", "destination.k8s.workload.name": "canary",
				"destination.k8s.node.name": "n2", "destination.cloud.availability_zone": "b",
				"netprobe.flow.direction": "inter-node", "netprobe.flow.reporter": "destination",
			},
		},
		{
			name: "some attributes only, a pod in the host's network", cfg: defaults(on("n1"), func(cfg *Config) { cfg.Attributes = []string{"pod", "workload"} }),
			record: record(c.Node1, c.Outside, 40000, 443, attributes{netattr.SourceContainerID: c.NodeShell}),
			want: attributes{
				"source.k8s.pod.name": "agent-1", "source.k8s.pod.uid": "uid-agent-1", "source.k8s.daemonset.name": "agent",
				"netprobe.flow.direction": "egress", "netprobe.flow.reporter": "source",
			},
		},
		{
			name: "a node of which it is not said who reports", cfg: defaults(),
			record: record(c.Node2, c.Web1, 40000, 443, attributes{netattr.NetworkTransport: "udp"}),
			want: attributes{
				"source.k8s.node.name": "n2", "source.cloud.availability_zone": "b",
				"destination.k8s.namespace.name": "shop", "destination.k8s.pod.name": "web-1", "destination.k8s.pod.uid": "uid-web-1",
				"destination.k8s.deployment.name": "web", "destination.k8s.node.name": "n1", "destination.cloud.availability_zone": "a",
				"destination.k8s.pod.label.tier": "front", "netprobe.flow.direction": "inter-node",
			},
		},
		{
			name: "a tunnel", cfg: defaults(),
			record: attributes{netattr.TunnelType: "vxlan", netattr.TunnelSourceAddress: c.Node1, netattr.TunnelDestinationAddress: c.Node2},
			want:   attributes{"netprobe.tunnel.source.k8s.node.name": "n1", "netprobe.tunnel.destination.k8s.node.name": "n2"},
		},
		{
			name: "pods that nothing manages", cfg: defaults(func(cfg *Config) { cfg.Attributes = []string{"workload", "pod"} }),
			record: record(c.Bare1, c.Static1, 1, 2, nil),
			want: attributes{
				"source.k8s.pod.name": "bare", "source.k8s.pod.uid": "uid-bare", "destination.k8s.pod.name": "static", "destination.k8s.pod.uid": "uid-static",
				"netprobe.flow.direction": "intra-node",
			},
		},
		{name: "nothing of the cluster", cfg: defaults(on("n1")), record: record(c.Outside, "198.51.100.1", 1, 2, nil), want: attributes{}},
		{name: "addresses that are none", cfg: defaults(on("n1")), record: record("here", "", 1, 2, nil), want: attributes{}},
		{name: "not a flow", cfg: defaults(on("n1")), record: attributes{"message": "10.244.1.2"}, want: attributes{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var sink consumertest.LogsSink
			p := startLogs(t, tt.cfg, &sink, c.New())
			require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, "", tt.record)))
			require.NoError(t, p.Shutdown(t.Context()))
			require.Equal(t, 1, sink.LogRecordCount())
			after := sink.AllLogs()[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().AsRaw()
			require.Equal(t, tt.want, gained(tt.record, after))
			for key := range tt.record {
				require.Contains(t, after, key)
			}
		})
	}
}

// An address that passed from a pod to another is, in each record, that of the pod that
// had it then.
func TestAddressesPassOn(t *testing.T) {
	store := c.New()
	store.DeletePod("uid-web-2", at)
	next := inventory.Pod{UID: "uid-next", Name: "next", Namespace: "shop", Node: "n2", Addresses: nil, From: at.Add(10 * time.Second)}
	next.Addresses = append(next.Addresses, mustAddr(c.Web2))
	store.SetPod(&next)
	var sink consumertest.LogsSink
	p := startLogs(t, defaults(), &sink, store)
	for _, when := range []time.Duration{-time.Minute, 5 * time.Second, 20 * time.Second} {
		ld := flowLogs(t, "", record(c.Client1, c.Web2, 1, 2, attributes{netattr.FlowStart: at.Add(when).UnixNano()}))
		ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).SetTimestamp(timestamp(at.Add(when)))
		require.NoError(t, p.ConsumeLogs(t.Context(), ld))
	}
	require.NoError(t, p.Shutdown(t.Context()))
	var names []any
	for _, ld := range sink.AllLogs() {
		names = append(names, ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().AsRaw()["destination.k8s.pod.name"])
	}
	require.Equal(t, []any{"web-2", nil, "next"}, names)
}

// Until the cluster has been read, records pass, and say so.
func TestWithoutAnAPIRecordsPass(t *testing.T) {
	var sink consumertest.LogsSink
	store := inventory.NewStore(time.Minute)
	p := startLogs(t, defaults(on("n1")), &sink, store)
	r := record(c.Client1, c.Web2, 40000, 80, nil)
	require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, "", r)))
	require.Equal(t, attributes{"netprobe.k8s.inventory": "incomplete"},
		gained(r, sink.AllLogs()[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().AsRaw()))
	store.SetReady(true)
	require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, "", r)))
	require.Empty(t, gained(r, sink.AllLogs()[1].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().AsRaw()))
	require.NoError(t, p.Shutdown(t.Context()))
}

func TestStartWaitsForTheInventory(t *testing.T) {
	for name, tt := range map[string]struct {
		ready time.Duration
		want  time.Duration
	}{
		"until it is complete": {3 * time.Second, 3 * time.Second},
		"and no longer":        {time.Minute, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := inventory.NewStore(time.Minute)
				go func() {
					time.Sleep(tt.ready)
					store.SetReady(true)
				}()
				began := time.Now()
				p := startLogs(t, defaults(func(cfg *Config) { cfg.WaitTimeout = 10 * time.Second }), &consumertest.LogsSink{}, store)
				require.InDelta(t, tt.want, time.Since(began), float64(100*time.Millisecond))
				require.NoError(t, p.Shutdown(t.Context()))
				time.Sleep(time.Minute)
			})
		})
	}
}

// Pipelines start one after the other: what the first waited for, the second does not.
func TestPipelinesHaveOneWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set, _ := settings(t)
		cfg, h := defaults(func(cfg *Config) { cfg.WaitTimeout = 10 * time.Second }), hostWith(inventory.NewStore(time.Minute))
		began := time.Now()
		logs, err := NewFactory().CreateLogs(t.Context(), set, cfg, consumertest.NewNop())
		require.NoError(t, err)
		require.NoError(t, logs.Start(t.Context(), h))
		metrics, err := NewFactory().CreateMetrics(t.Context(), set, cfg, consumertest.NewNop())
		require.NoError(t, err)
		require.NoError(t, metrics.Start(t.Context(), h))
		require.InDelta(t, 10*time.Second, time.Since(began), float64(100*time.Millisecond))
		require.NoError(t, logs.Shutdown(t.Context()))
		require.NoError(t, metrics.Shutdown(t.Context()))
	})
}

func TestStartNeedsAnInventory(t *testing.T) {
	other := component.MustNewID("health_check")
	for name, tt := range map[string]struct {
		host host
		want string
	}{
		"none":            {host{}, `inventory: there is no extension "k8s_inventory"; configure one`},
		"another's":       {host{other: inventoryExtension{}}, `there is no extension "k8s_inventory"`},
		"of another type": {host{component.MustNewID("k8s_inventory"): struct{ component.Component }{}}, `"k8s_inventory" does not know who has an address`},
	} {
		t.Run(name, func(t *testing.T) {
			set, _ := settings(t)
			logs, err := NewFactory().CreateLogs(t.Context(), set, defaults(), consumertest.NewNop())
			require.NoError(t, err)
			require.ErrorContains(t, logs.Start(t.Context(), tt.host), tt.want)
			metrics, err := NewFactory().CreateMetrics(t.Context(), set, defaults(), consumertest.NewNop())
			require.NoError(t, err)
			require.ErrorContains(t, metrics.Start(t.Context(), tt.host), tt.want)
			require.NoError(t, logs.Shutdown(t.Context()))
			require.NoError(t, metrics.Shutdown(t.Context()))
		})
	}
}

func TestNodeThatTheClusterDoesNotHave(t *testing.T) {
	for node, warnings := range map[string]int{"n1": 0, "n9": 1, "": 0} {
		set, _ := settings(t)
		core, logs := observer.New(zapcore.WarnLevel)
		set.Logger = zap.New(core)
		p, err := NewFactory().CreateLogs(t.Context(), set, defaults(on(node)), consumertest.NewNop())
		require.NoError(t, err)
		store := c.New()
		store.SetReady(false)
		require.NoError(t, p.Start(t.Context(), host{component.MustNewID("k8s_inventory"): &catalogExtension{Store: store}}))
		one := func() plog.Logs { return flowLogs(t, "", record(c.Client1, c.Web2, 1, 2, nil)) }
		require.NoError(t, p.ConsumeLogs(t.Context(), one()))
		require.Zero(t, logs.Len(), "before all is known")
		store.SetReady(true)
		require.NoError(t, p.ConsumeLogs(t.Context(), one()))
		require.NoError(t, p.ConsumeLogs(t.Context(), one()))
		require.Equal(t, warnings, logs.FilterMessageSnippet("no node of the name").Len(), "%q", node)
		require.NoError(t, p.Shutdown(t.Context()))
	}
}

func TestEndsAreCounted(t *testing.T) {
	set, tel := settings(t)
	p, err := NewFactory().CreateLogs(t.Context(), set, defaults(), consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, p.Start(t.Context(), hostWith(c.New())))
	require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, "",
		record(c.Client1, c.Web2, 1, 2, nil), record(c.Client1, c.WebService, 1, 80, nil), record(c.Node1, c.Outside, 1, 2, nil))))
	point := func(result string, n int64) metricdata.DataPoint[int64] {
		return metricdata.DataPoint[int64]{Value: n, Attributes: attribute.NewSet(attribute.String("signal", "logs"), attribute.String("result", result))}
	}
	metadatatest.AssertEqualProcessorK8sFlowEnds(t, tel, []metricdata.DataPoint[int64]{
		point("pod", 3), point("service", 1), point("node", 1), point("outside", 1),
	}, metricdatatest.IgnoreTimestamp())
	require.NoError(t, p.Shutdown(t.Context()))
}

// nodesOf are the records that arrived, by the nodes that reported them.
func nodesOf(all []plog.Logs) map[string]int {
	out := map[string]int{}
	for _, ld := range all {
		for _, rl := range ld.ResourceLogs().All() {
			node, _ := rl.Resource().Attributes().Get(netattr.K8sNodeName)
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					name := node.Str()
					if nodes, ok := lr.Attributes().Get(netattr.ObservationNodes); ok {
						name += " " + nodes.AsString()
					}
					out[name]++
				}
			}
		}
	}
	return out
}

func TestTwoReportsBecomeOne(t *testing.T) {
	across := record(c.Client1, c.Web2, 40000, c.WebBackendPort, nil)
	toService := record(c.Client1, c.WebService, 40000, c.WebServicePort, attributes{
		netattr.NATDestinationAddress: c.Web2, netattr.NATDestinationPort: c.WebBackendPort, netattr.NATOriginal: true,
	})
	toNodePort := record(c.Outside, c.Node1, 50000, c.WebNodePort, attributes{
		netattr.NATSourceAddress: c.Gateway1, netattr.NATSourcePort: 50001, netattr.NATOriginal: true,
		netattr.NATDestinationAddress: c.Web2, netattr.NATDestinationPort: c.WebBackendPort,
	})
	before := merge(across, attributes{netattr.FlowStart: at.Add(-time.Minute).UnixNano()})
	for _, tt := range []struct {
		name    string
		reports nodeReports
		want    map[string]int
	}{
		{"both ends of a flow across nodes", reported("n1", across).and("n2", across), map[string]int{`n1 ["n1","n2"]`: 1}},
		{"the other one first", reported("n2", across).and("n1", across), map[string]int{`n1 ["n1","n2"]`: 1}},
		{"before and after translation", reported("n2", across).and("n1", toService), map[string]int{`n1 ["n1","n2"]`: 1}},
		{
			"a masqueraded node port", reported("n1", toNodePort).and("n2", record(c.Gateway1, c.Web2, 50001, c.WebBackendPort, nil)),
			map[string]int{`n1 ["n1","n2"]`: 1},
		},
		{"the source's node is silent", reported("n2", across, across), map[string]int{"n2": 2}},
		{"only the source's node saw it", reported("n1", across), map[string]int{"n1": 1}},
		{"on one node", reported("n1", record(c.Client1, c.Web1, 1, 2, nil)), map[string]int{"n1": 1}},
		{"another connection", reported("n1", across).and("n2", record(c.Client1, c.Web2, 40001, c.WebBackendPort, nil)), map[string]int{"n1": 1, "n2": 1}},
		{"another protocol", reported("n1", across).and("n2", merge(across, attributes{netattr.NetworkTransport: "udp"})), map[string]int{"n1": 1, "n2": 1}},
		{"another time", reported("n1", across).and("n2", before), map[string]int{"n1": 1, "n2": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sink consumertest.LogsSink
				p := startLogs(t, defaults(func(cfg *Config) { cfg.Deduplicate.Enabled = true }), &sink, c.New())
				for _, r := range tt.reports {
					require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, r.node, r.records...)))
					time.Sleep(10 * time.Second)
				}
				time.Sleep(time.Minute)
				require.Equal(t, tt.want, nodesOf(sink.AllLogs()))
				require.NoError(t, p.Shutdown(t.Context()))
				require.Equal(t, tt.want, nodesOf(sink.AllLogs()), "after the end")
			})
		})
	}
}

// The backend's node knows nothing of the service that its answers are of; the client's,
// which translated, does.
func TestAnswersKeepTheirService(t *testing.T) {
	var sink consumertest.LogsSink
	p := startLogs(t, defaults(func(cfg *Config) { cfg.Deduplicate.Enabled = true }), &sink, c.New())
	answer := attributes{netattr.FlowInitiator: "destination", netattr.FlowCommunityID: "1:of the backend"}
	require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, "n2", record(c.Web2, c.Client1, c.WebBackendPort, 40000, answer))))
	require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, "n1", record(c.WebService, c.Client1, c.WebServicePort, 40000, merge(answer, attributes{
		netattr.FlowCommunityID: "1:as opened", netattr.NATSourceAddress: c.Web2, netattr.NATSourcePort: c.WebBackendPort, netattr.NATOriginal: true,
	})))))
	require.NoError(t, p.Shutdown(t.Context()))
	require.Equal(t, map[string]int{`n2 ["n2","n1"]`: 1}, nodesOf(sink.AllLogs()))
	got := onlyRecord(sink.AllLogs()).Attributes().AsRaw()
	require.Equal(t, "web", got["source.k8s.service.name"])
	require.Equal(t, "1:as opened", got[netattr.FlowCommunityID])
	require.Equal(t, c.Web2, got[netattr.SourceAddress])
}

// A stop hands on what waits, and a full memory what there is no room for.
func TestNothingThatWaitsIsLost(t *testing.T) {
	var sink consumertest.LogsSink
	cfg := defaults(func(cfg *Config) { cfg.Deduplicate.Enabled, cfg.Deduplicate.MaxRecords = true, 2 })
	p := startLogs(t, cfg, &sink, c.New())
	var all []attributes
	for port := range int64(5) {
		all = append(all, record(c.Client1, c.Web2, 40000+port, 80, nil))
	}
	require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, "n1", all...)))
	require.Equal(t, 3, sink.LogRecordCount(), "no room")
	require.NoError(t, p.Shutdown(t.Context()))
	require.Equal(t, 5, sink.LogRecordCount())
}

// What there is no room for does not stand beside what waits and is better.
func TestNoRoomIsNoSecondRecord(t *testing.T) {
	var sink consumertest.LogsSink
	p := startLogs(t, defaults(func(cfg *Config) { cfg.Deduplicate.Enabled, cfg.Deduplicate.MaxRecords = true, 1 }), &sink, c.New())
	r := record(c.Client1, c.Web2, 40000, 80, nil)
	for _, node := range []string{"n1", "n2"} {
		require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, node, r)))
	}
	require.NoError(t, p.Shutdown(t.Context()))
	require.Equal(t, map[string]int{`n1 ["n1","n2"]`: 1}, nodesOf(sink.AllLogs()))
}

// What the pipeline refuses for now comes again.
func TestWhatIsRefusedComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := &refusing{times: 2}
		p := startLogs(t, defaults(func(cfg *Config) { cfg.Deduplicate.Enabled = true }), next, c.New())
		require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, "n1", record(c.Client1, c.Web2, 1, 2, nil))))
		time.Sleep(3 * time.Minute)
		require.Equal(t, 1, next.LogRecordCount())
		require.NoError(t, p.Shutdown(t.Context()))
		require.Equal(t, 1, next.LogRecordCount())
	})
}

// refusing refuses what comes so many times.
type refusing struct {
	consumertest.LogsSink
	times int
}

func (r *refusing) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	if r.times > 0 {
		r.times--
		return context.DeadlineExceeded
	}
	return r.LogsSink.ConsumeLogs(ctx, ld)
}
