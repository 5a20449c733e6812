// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyexporter

import (
	"context"
	"fmt"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/netprobe-otel/netprobe/exporter/topologyexporter/internal/metadata"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/internal/topology"
)

// topologyExporter writes into the graph that an extension has.
type topologyExporter struct {
	cfg  *Config
	own  *metadata.TelemetryBuilder
	sink topology.Sink // nil before the start
}

func newExporter(set exporter.Settings, cfg *Config) (*topologyExporter, error) {
	own, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	return &topologyExporter{cfg: cfg, own: own}, nil
}

// start finds the graph.
func (e *topologyExporter) start(_ context.Context, host component.Host) error {
	ext, ok := host.GetExtensions()[e.cfg.Topology]
	if !ok {
		return fmt.Errorf("topology: there is no extension %q; configure one of type topology and name it under service::extensions", e.cfg.Topology)
	}
	if e.sink, ok = ext.(topology.Sink); !ok {
		return fmt.Errorf("topology: the extension %q has no graph; name one of type topology", e.cfg.Topology)
	}
	return nil
}

func (e *topologyExporter) shutdown(context.Context) error {
	e.own.Shutdown()
	return nil
}

// outcomes of records, as telemetry tells them.
var (
	outcomeFlow    = outcome("flow")
	outcomeDrop    = outcome("drop")
	outcomeOther   = outcome("other")
	outcomeInvalid = outcome("invalid")
)

func outcome(name string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", name)))
}

// logs takes the records of flows and of drops. The graph has no use for others, and
// never refuses any: it is bounded by folding.
func (e *topologyExporter) logs(ctx context.Context, ld plog.Logs) error {
	flows := make([]topology.Record, 0, ld.LogRecordCount())
	var drops []topology.Record
	var other, invalid int64
	for _, rl := range ld.ResourceLogs().All() {
		node := nodeOf(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				var to *[]topology.Record
				switch lr.EventName() {
				case netattr.EventFlow:
					to = &flows
				case netattr.EventDrop:
					to = &drops
				default:
					other++
					continue
				}
				*to = append(*to, topology.Record{})
				if !read(lr, node, &(*to)[len(*to)-1]) {
					*to = (*to)[:len(*to)-1]
					invalid++
				}
			}
		}
	}
	for _, count := range []struct {
		n  int64
		of metric.MeasurementOption
	}{{int64(len(flows)), outcomeFlow}, {int64(len(drops)), outcomeDrop}, {other, outcomeOther}, {invalid, outcomeInvalid}} {
		if count.n > 0 {
			e.own.ExporterTopologyRecords.Add(ctx, count.n, count.of)
		}
	}
	if len(flows) > 0 {
		e.sink.AddRecords(flows)
	}
	if len(drops) > 0 {
		e.sink.AddDrops(drops)
	}
	return nil
}

// nodeOf is the node whose packets these are, "" where that is not said.
func nodeOf(resource pcommon.Resource) string {
	for _, key := range []string{netattr.K8sNodeName, "host.name"} {
		if v, ok := resource.Attributes().Get(key); ok {
			return v.AsString()
		}
	}
	return ""
}
