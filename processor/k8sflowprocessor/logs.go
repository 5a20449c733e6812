// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"

	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/ends"
)

// logs names the ends of log records.
type logs struct {
	*naming
	asked   group
	waiting *waiting // nil where nothing is left out
}

func newLogs(set processor.Settings, cfg *Config, next consumer.Logs) (*logs, error) {
	n, err := newNaming(set.TelemetrySettings, cfg, "logs")
	if err != nil {
		return nil, err
	}
	p := &logs{naming: n, asked: groupsOf(cfg.Attributes, logGroups)}
	if cfg.Deduplicate.Enabled {
		p.waiting = newWaiting(n, next, p.asked)
	}
	return p, nil
}

func (p *logs) start(ctx context.Context, host component.Host) error {
	if err := p.find(ctx, host); err != nil {
		return err
	}
	if p.waiting != nil {
		p.waiting.start()
	}
	return nil
}

func (p *logs) shutdown(ctx context.Context) error {
	defer p.own.Shutdown()
	if p.waiting != nil && p.resolver != nil { // it has been started
		return p.waiting.stop(ctx)
	}
	return nil
}

// process names the ends of all records, and holds back those that another node may
// report as well.
func (p *logs) process(ctx context.Context, ld plog.Logs) (plog.Logs, error) {
	w := p.begin()
	h := &held{logs: plog.NewLogs()}
	for i, rl := range ld.ResourceLogs().All() {
		node := p.nodeOf(rl.Resource())
		for j, sl := range rl.ScopeLogs().All() {
			if p.waiting != nil {
				h.under(i, j, rl, sl)
			}
			sl.LogRecords().RemoveIf(func(lr plog.LogRecord) bool {
				return p.record(w, lr, node) && p.waiting != nil && p.hold(ctx, w, h, lr, node)
			})
		}
	}
	p.end(ctx, w)
	if p.waiting == nil {
		return ld, nil
	}
	p.waiting.enqueue(h)
	if ld.LogRecordCount() == 0 {
		return ld, processorhelper.ErrSkipProcessingData
	}
	return ld, nil
}

// hold lets a record wait for those of other nodes.
func (p *logs) hold(ctx context.Context, w *worker, h *held, lr plog.LogRecord, node string) bool {
	r := w.reportOf(lr, node)
	return r != nil && p.waiting.hold(ctx, h, lr, r, w.mayWait(r))
}

// most attributes that a record gets here, so that its map grows once at most
const moreAttributes = 18

// record names the ends of one. False if it has none.
func (p *logs) record(w *worker, lr plog.LogRecord, node string) bool {
	at := lr.Timestamp().AsTime()
	attrs := lr.Attributes()
	if !w.name(attrs, at, at) {
		p.tunnelNodes(w, attrs)
		return false
	}
	attrs.EnsureCapacity(attrs.Len() + moreAttributes)
	p.put(attrs, sourceKeys, &w.names.Source)
	p.put(attrs, destinationKeys, &w.names.Destination)
	if w.names.Class != ends.NoClass {
		attrs.PutStr(netattr.FlowDirection, w.names.Class.String())
	}
	if reporter := w.names.ReportedBy(node); reporter != ends.NoReporter {
		attrs.PutStr(netattr.FlowReporter, reporter.String())
	}
	putTunnelNodes(attrs, &w.names)
	if p.cfg.RoutingKey {
		attrs.PutInt(netattr.FlowRoutingKey, routingKey(w.onWire(node)))
	}
	if w.Incomplete {
		attrs.PutStr(netattr.Inventory, incomplete)
	}
	return true
}

const incomplete = "incomplete"

func (p *logs) put(attrs pcommon.Map, keys *endKeys, end *inventory.End) {
	keys.put(attrs, end, p.asked)
	if p.asked&groupWorkload != 0 {
		keys.putKind(attrs, end)
	}
}

// tunnelNodes names the ends of a record that is of a tunnel, and of no flow.
func (p *logs) tunnelNodes(w *worker, attrs pcommon.Map) {
	if w.seen.TunnelSource.IsValid() || w.seen.TunnelDestination.IsValid() {
		w.Name(&w.seen.Flow, &w.names)
		putTunnelNodes(attrs, &w.names)
	}
}

const (
	tunnelSourceNode      = netattr.TunnelSourcePrefix + netattr.K8sNodeName
	tunnelDestinationNode = netattr.TunnelDestinationPrefix + netattr.K8sNodeName
)

func putTunnelNodes(attrs pcommon.Map, names *ends.Names) {
	if names.TunnelSource != nil {
		attrs.PutStr(tunnelSourceNode, names.TunnelSource.Name)
	}
	if names.TunnelDestination != nil {
		attrs.PutStr(tunnelDestinationNode, names.TunnelDestination.Name)
	}
}
