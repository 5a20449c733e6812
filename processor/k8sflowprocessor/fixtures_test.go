// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"context"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	c "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/clustertest"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/metadata"
)

// at is a moment at which all pods have been there for a while.
var at = c.Start.Add(time.Hour)

// inventoryExtension is an inventory where a component finds it.
type inventoryExtension struct {
	component.StartFunc
	component.ShutdownFunc
	inventory.Resolver
}

// catalogExtension also lists what there is.
type catalogExtension struct {
	component.StartFunc
	component.ShutdownFunc
	*inventory.Store
}

// host has extensions.
type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

func hostWith(r inventory.Resolver) host {
	return host{component.MustNewID("k8s_inventory"): &inventoryExtension{Resolver: r}}
}

func settings(t *testing.T) (processor.Settings, *componenttest.Telemetry) {
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	set := processortest.NewNopSettings(metadata.Type)
	set.TelemetrySettings = tel.NewTelemetrySettings()
	return set, tel
}

func defaults(change ...func(*Config)) *Config {
	cfg := createDefaultConfig().(*Config)
	for _, f := range change {
		f(cfg)
	}
	return cfg
}

func on(node string) func(*Config) { return func(cfg *Config) { cfg.Node = node } }

func startLogs(t *testing.T, cfg *Config, next consumer.Logs, r inventory.Resolver) processor.Logs {
	set, _ := settings(t)
	p, err := NewFactory().CreateLogs(t.Context(), set, cfg, next)
	require.NoError(t, err)
	require.NoError(t, p.Start(t.Context(), hostWith(r)))
	return p
}

type attributes = map[string]any

// record is a flow's, from one address to another over TCP.
func record(source, destination string, sourcePort, destinationPort int64, more attributes) attributes {
	attrs := attributes{
		netattr.SourceAddress: source, netattr.DestinationAddress: destination,
		netattr.SourcePort: sourcePort, netattr.DestinationPort: destinationPort,
		netattr.NetworkTransport: "tcp", netattr.FlowInitiator: "source",
		netattr.FlowStart: at.Add(-time.Second).UnixNano(), netattr.FlowPackets: 3, netattr.FlowBytes: 300,
	}
	for key, value := range more {
		attrs[key] = value
	}
	return attrs
}

// flowLogs are the records of a node; "" does not say which.
func flowLogs(t testing.TB, node string, records ...attributes) plog.Logs {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	if node != "" {
		rl.Resource().Attributes().PutStr(netattr.K8sNodeName, node)
	}
	out := rl.ScopeLogs().AppendEmpty().LogRecords()
	for _, attrs := range records {
		lr := out.AppendEmpty()
		lr.SetEventName(netattr.EventFlow)
		lr.SetTimestamp(timestamp(at))
		if start, ok := attrs[netattr.FlowStart].(int64); ok {
			lr.SetTimestamp(timestamp(time.Unix(0, start).Add(time.Second)))
		}
		require.NoError(t, lr.Attributes().FromRaw(attrs))
	}
	return ld
}

// gained are the attributes that a record has beyond those that it had.
func gained(before, after attributes) attributes {
	out := attributes{}
	for key, value := range after {
		if _, ok := before[key]; !ok {
			out[key] = value
		}
	}
	return out
}

func mustAddr(text string) netip.Addr { return netip.MustParseAddr(text) }

func timestamp(t time.Time) pcommon.Timestamp { return pcommon.NewTimestampFromTime(t) }

func merge(r, more attributes) attributes {
	out := maps.Clone(r)
	maps.Copy(out, more)
	return out
}

// nodeReports are what nodes report, one after the other.
type nodeReports []struct {
	node    string
	records []attributes
}

func reported(node string, records ...attributes) nodeReports {
	return nodeReports(nil).and(node, records...)
}

func (n nodeReports) and(node string, records ...attributes) nodeReports {
	return append(n, struct {
		node    string
		records []attributes
	}{node, records})
}
