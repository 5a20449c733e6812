// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	c "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/clustertest"
)

// keyOf is the routing key that a node's agent gives to a record.
func keyOf(t *testing.T, node string, r attributes) any {
	t.Helper()
	var sink consumertest.LogsSink
	p := startLogs(t, defaults(on(node), func(cfg *Config) { cfg.RoutingKey = true }), &sink, c.New())
	require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, "", r)))
	require.NoError(t, p.Shutdown(t.Context()))
	got := sink.AllLogs()[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().AsRaw()
	require.Contains(t, got, netattr.FlowRoutingKey)
	return got[netattr.FlowRoutingKey]
}

// answerTo is the record of the answers to those of a record.
func answerTo(r attributes) attributes {
	swapped := map[string]string{
		netattr.SourceAddress: netattr.DestinationAddress, netattr.SourcePort: netattr.DestinationPort,
		netattr.NATSourceAddress: netattr.NATDestinationAddress, netattr.NATSourcePort: netattr.NATDestinationPort,
	}
	out := merge(r, attributes{netattr.FlowInitiator: "destination"})
	for a, b := range swapped {
		delete(out, a)
		delete(out, b)
	}
	for a, b := range swapped {
		if v, ok := r[a]; ok {
			out[b] = v
		}
		if v, ok := r[b]; ok {
			out[a] = v
		}
	}
	return out
}

// A node's packets, and the same ones counted on the other side of its translation.
func bothSides(r attributes) []attributes {
	other := merge(r, attributes{netattr.NATOriginal: r[netattr.NATOriginal] != true})
	for own, translated := range map[string]string{
		netattr.SourceAddress: netattr.NATSourceAddress, netattr.SourcePort: netattr.NATSourcePort,
		netattr.DestinationAddress: netattr.NATDestinationAddress, netattr.DestinationPort: netattr.NATDestinationPort,
	} {
		if v, ok := r[translated]; ok {
			other[own], other[translated] = v, r[own]
		}
	}
	return []attributes{r, other}
}

// Both nodes' reports have one key, in both directions, whichever side of the
// translation a node counted on.
func TestReportsOfTwoNodesMeet(t *testing.T) {
	toBackend := record(c.Client1, c.Web2, 40000, c.WebBackendPort, nil)
	for _, tt := range []struct {
		name          string
		first, second attributes // of n1 and n2
	}{
		{name: "between pods", first: toBackend, second: toBackend},
		{
			name: "to a service", second: toBackend,
			first: record(c.Client1, c.WebService, 40000, c.WebServicePort, attributes{
				netattr.NATDestinationAddress: c.Web2, netattr.NATDestinationPort: int64(c.WebBackendPort), netattr.NATOriginal: true,
			}),
		},
		{
			name: "from a node to a service, masqueraded", second: record(c.Gateway1, c.Web2, 50001, c.WebBackendPort, nil),
			first: record(c.Node1, c.WebService, 40000, c.WebServicePort, attributes{
				netattr.NATSourceAddress: c.Gateway1, netattr.NATSourcePort: int64(50001), netattr.NATOriginal: true,
				netattr.NATDestinationAddress: c.Web2, netattr.NATDestinationPort: int64(c.WebBackendPort),
			}),
		},
		{
			name: "from outside to a node port, masqueraded", second: record(c.Gateway1, c.Web2, 50001, c.WebBackendPort, nil),
			first: record(c.Outside, c.Node1, 50000, c.WebNodePort, attributes{
				netattr.NATSourceAddress: c.Gateway1, netattr.NATSourcePort: int64(50001), netattr.NATOriginal: true,
				netattr.NATDestinationAddress: c.Web2, netattr.NATDestinationPort: int64(c.WebBackendPort),
			}),
		},
		{
			name: "masqueraded, to a port that the other node translates",
			first: record(c.Client1, c.Node2, 40000, 8000, attributes{
				netattr.NATSourceAddress: c.Node1, netattr.NATSourcePort: int64(50002), netattr.NATOriginal: true,
			}),
			second: record(c.Node1, c.Node2, 50002, 8000, attributes{
				netattr.NATDestinationAddress: c.Web2, netattr.NATDestinationPort: int64(c.WebBackendPort), netattr.NATOriginal: true,
			}),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := keyOf(t, "n1", tt.first)
			for _, first := range bothSides(tt.first) {
				require.Equal(t, want, keyOf(t, "n1", first))
				require.Equal(t, want, keyOf(t, "n1", answerTo(first)), "answers")
			}
			for _, second := range bothSides(tt.second) {
				require.Equal(t, want, keyOf(t, "n2", second))
				require.Equal(t, want, keyOf(t, "n2", answerTo(second)), "answers")
			}
		})
	}
}

// Keys are not to change from a version to the next one.
func TestRoutingKeysStay(t *testing.T) {
	tuple := flow.Tuple{
		Source: netip.MustParseAddr("10.244.1.2"), Destination: netip.MustParseAddr("10.244.2.3"),
		SourcePort: 40000, DestinationPort: 8080, Protocol: flow.TCP,
	}
	require.Equal(t, int64(86), routingKey(tuple))
	tuple.Source, tuple.Destination = netip.MustParseAddr("fd00:1::2"), netip.MustParseAddr("fd00:2::3")
	require.Equal(t, int64(199), routingKey(tuple.Reverse()))
	echo := flow.Tuple{Source: tuple.Source, Destination: tuple.Destination, SourcePort: 128, Protocol: flow.ICMPv6}
	answer := flow.Tuple{Source: tuple.Destination, Destination: tuple.Source, SourcePort: 129, Protocol: flow.ICMPv6}
	require.Equal(t, routingKey(echo), routingKey(answer))
}

// Keys are spread, so that gateways have the same to do.
func TestRoutingKeysAreSpread(t *testing.T) {
	const each = 100 // flows
	var counts [routes]int
	for port := range uint16(routes * each) {
		counts[routingKey(flow.Tuple{
			Source: netip.MustParseAddr(c.Client1), Destination: netip.MustParseAddr(c.Web2),
			SourcePort: 10000 + port, DestinationPort: 8080, Protocol: flow.TCP,
		})]++
	}
	for key, n := range counts {
		// five standard deviations
		require.InDelta(t, each, n, 50, "key %d", key)
	}
}

func TestRecordsGetNoRoutingKeyUnlessAsked(t *testing.T) {
	var sink consumertest.LogsSink
	p := startLogs(t, defaults(on("n1")), &sink, c.New())
	require.NoError(t, p.ConsumeLogs(t.Context(), flowLogs(t, "", record(c.Client1, c.Web2, 1, 2, nil))))
	require.NoError(t, p.Shutdown(t.Context()))
	require.NotContains(t, sink.AllLogs()[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().AsRaw(), netattr.FlowRoutingKey)
}
