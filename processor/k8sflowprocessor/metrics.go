// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/ends"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/series"
)

// metrics folds the points of flow metrics, which have addresses, to series by who is at
// the ends. Points that come are deltas; what goes on is cumulative, so that nothing is
// lost where the pipeline refuses some of it.
type metrics struct {
	processor.Metrics // the helper, which calls process
	*naming
	asked    group
	outcomes [outcomes]metric.MeasurementOption

	mu    sync.Mutex // guards what follows
	table *series.Table
	point series.Point // reused
}

// outcome is what became of a point: what its series says, or that it has none here.
type outcome = series.Added

const (
	leftToAnother = series.Refused + 1
	outcomes      = leftToAnother + 1
)

func newMetrics(set processor.Settings, cfg *Config, next consumer.Metrics) (*metrics, error) {
	n, err := newNaming(set.TelemetrySettings, cfg, "metrics")
	if err != nil {
		return nil, err
	}
	p := &metrics{
		naming: n, asked: groupsOf(cfg.Metrics.Dimensions, metricGroups),
		table: series.New(cfg.Metrics.MaxSeries, cfg.Metrics.IdleTimeout), point: series.Point{Attributes: pcommon.NewMap()},
	}
	for o, name := range [outcomes]string{series.ToSeries: "folded", series.ToOverflow: "overflow", series.Refused: "refused", leftToAnother: "other_reporter"} {
		p.outcomes[o] = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", name)))
	}
	next, err = consumer.NewMetrics(p.handOn(next), consumer.WithCapabilities(next.Capabilities()))
	if err != nil {
		return nil, err
	}
	p.Metrics, err = processorhelper.NewMetrics(context.Background(), set, cfg, next, p.process,
		processorhelper.WithStart(p.find), processorhelper.WithShutdown(p.shutdown), processorhelper.WithCapabilities(mutates))
	return p, err
}

func (p *metrics) shutdown(context.Context) error {
	p.own.Shutdown()
	return nil
}

// handOn gives what goes between the processor and the next one. Where that refuses
// points that were folded the one before must not send them again: they are in the
// totals, which come again.
func (p *metrics) handOn(next consumer.Metrics) consumer.ConsumeMetricsFunc {
	return func(ctx context.Context, md pmetric.Metrics) error {
		count := foldedPoints(md)
		err := next.ConsumeMetrics(ctx, md)
		if err == nil || count == 0 {
			return err
		}
		p.mu.Lock()
		p.table.Again()
		p.mu.Unlock()
		p.own.ProcessorK8sFlowSeriesRefused.Add(ctx, int64(count))
		p.logger.Warn("The pipeline refused metrics; the totals of flows come again with the next ones", zap.Error(err))
		return nil
	}
}

// foldedPoints is how many points are of this processor's making.
func foldedPoints(md pmetric.Metrics) int {
	count := 0
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			if sm.Scope().Name() == scopeName {
				count += pointsOf(sm)
			}
		}
	}
	return count
}

func pointsOf(sm pmetric.ScopeMetrics) int {
	count := 0
	for _, m := range sm.Metrics().All() {
		switch m.Type() {
		case pmetric.MetricTypeSum:
			count += m.Sum().DataPoints().Len()
		case pmetric.MetricTypeHistogram:
			count += m.Histogram().DataPoints().Len()
		case pmetric.MetricTypeExponentialHistogram:
			count += m.ExponentialHistogram().DataPoints().Len()
		}
	}
	return count
}

// process folds.
func (p *metrics) process(ctx context.Context, md pmetric.Metrics) (pmetric.Metrics, error) {
	w := p.begin()
	defer p.end(ctx, w)
	p.mu.Lock()
	defer p.mu.Unlock()
	f := folding{metrics: p, worker: w}
	for _, rm := range md.ResourceMetrics().All() {
		f.resource(rm)
	}
	for o, count := range f.counts {
		if count > 0 {
			p.own.ProcessorK8sFlowPoints.Add(ctx, count, p.outcomes[o])
		}
	}
	for name, n := range p.table.Len() {
		p.own.ProcessorK8sFlowSeries.Record(ctx, int64(n), metric.WithAttributeSet(attribute.NewSet(attribute.String("metric", name))))
	}
	p.table.Expire(time.Now())
	md.ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool { return rm.ScopeMetrics().Len() == 0 })
	if md.ResourceMetrics().Len() == 0 {
		return md, processorhelper.ErrSkipProcessingData
	}
	return md, nil
}

// folding is one batch on its way through.
type folding struct {
	*metrics
	*worker
	node   string // that reported
	of     *series.Resource
	counts [outcomes]int64
	// reused
	raw, rest []keyValue
}

func (f *folding) resource(rm pmetric.ResourceMetrics) {
	f.node = f.nodeOf(rm.Resource())
	f.of = f.table.Resource(rm.Resource())
	rm.ScopeMetrics().RemoveIf(func(sm pmetric.ScopeMetrics) bool {
		sm.Metrics().RemoveIf(f.take)
		return sm.Metrics().Len() == 0
	})
	if !f.of.Changed() {
		return
	}
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName(scopeName)
	f.of.AppendTo(sm.Metrics())
}

// scopeName is that of what this processor makes.
const scopeName = "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor"

// ours is what the metrics' names begin with that are folded or named.
const ours = "netprobe."

// take folds a metric, and says that it did. Of others the ends of tunnels are named.
func (f *folding) take(m pmetric.Metric) bool {
	if !strings.HasPrefix(m.Name(), ours) {
		return false
	}
	switch m.Type() {
	case pmetric.MetricTypeSum:
		if m.Sum().AggregationTemporality() != pmetric.AggregationTemporalityDelta || !m.Sum().IsMonotonic() {
			f.nameTunnels(m.Sum().DataPoints())
			return false
		}
		for _, dp := range m.Sum().DataPoints().All() {
			f.sum(m, dp)
		}
		return true
	case pmetric.MetricTypeHistogram:
		if m.Histogram().AggregationTemporality() != pmetric.AggregationTemporalityDelta {
			return false
		}
		for _, dp := range m.Histogram().DataPoints().All() {
			if f.fold(dp.Attributes(), dp.StartTimestamp(), dp.Timestamp()) {
				f.count(f.of.AddHistogram(m, &f.point, dp))
			}
		}
		return true
	case pmetric.MetricTypeExponentialHistogram:
		if m.ExponentialHistogram().AggregationTemporality() != pmetric.AggregationTemporalityDelta {
			return false
		}
		for _, dp := range m.ExponentialHistogram().DataPoints().All() {
			if f.fold(dp.Attributes(), dp.StartTimestamp(), dp.Timestamp()) {
				f.count(f.of.AddExponential(m, &f.point, dp))
			}
		}
		return true
	default:
		return false
	}
}

func (f *folding) count(o outcome) { f.counts[o]++ }

func (f *folding) sum(m pmetric.Metric, dp pmetric.NumberDataPoint) {
	if !f.fold(dp.Attributes(), dp.StartTimestamp(), dp.Timestamp()) {
		return
	}
	f.count(f.of.AddSum(m, &f.point, dp))
	if m.Name() == flowsMetric && f.seen.hasEnds {
		f.flows(dp)
	}
}

// Metrics of flows by how they lie to the cluster. SPEC: names as scraped are
// netprobe_k8s_pod_flows_total and so on.
const flowsMetric = "netprobe.flows"

var (
	podFlows       = flowMetric("netprobe.k8s.pod.flows", "Flows from a pod to a pod.")
	serviceFlows   = flowMetric("netprobe.k8s.service.flows", "Flows to a service.")
	interNodeFlows = flowMetric("netprobe.k8s.inter_node.flows", "Flows from a node of the cluster to another.")
	intraNodeFlows = flowMetric("netprobe.k8s.intra_node.flows", "Flows within a node of the cluster.")
)

func flowMetric(name, description string) pmetric.Metric {
	m := pmetric.NewMetric()
	m.SetName(name)
	m.SetUnit("{flow}")
	m.SetDescription(description)
	m.SetEmptySum().SetIsMonotonic(true)
	return m
}

// flows counts flows that began.
func (f *folding) flows(dp pmetric.NumberDataPoint) {
	names := &f.names
	if names.Source.Pod != nil && names.Destination.Pod != nil {
		f.of.AddSum(podFlows, &f.point, dp)
	}
	if names.Destination.Service != nil {
		f.of.AddSum(serviceFlows, &f.point, dp)
	}
	switch names.Class {
	case ends.InterNode:
		f.of.AddSum(interNodeFlows, &f.point, dp)
	case ends.IntraNode:
		f.of.AddSum(intraNodeFlows, &f.point, dp)
	}
}

// fold makes the point of a series of one that has addresses. False if it is
// left to another node.
func (f *folding) fold(attrs pcommon.Map, start, at pcommon.Timestamp) bool {
	named := f.name(attrs, start.AsTime(), at.AsTime())
	if !named {
		f.names = ends.Names{}
	}
	f.point.Start, f.point.At = start, at
	out := f.point.Attributes
	out.Clear()
	f.put(out)
	ofConnection := f.sort(attrs)
	for _, kv := range f.raw {
		kv.value.CopyTo(out.PutEmpty(kv.key))
	}
	f.point.Ends = out.Len()
	if f.Incomplete {
		out.PutStr(netattr.Inventory, incomplete)
	}
	if class := f.names.Class; class != ends.NoClass {
		out.PutStr(netattr.FlowDirection, class.String())
	}
	for _, kv := range f.rest {
		kv.value.CopyTo(out.PutEmpty(kv.key))
	}
	if ofConnection || !named {
		return true
	}
	if f.cfg.Metrics.Reporters == reportersAll {
		if reporter := f.names.ReportedBy(f.node); reporter != ends.NoReporter {
			out.PutStr(netattr.FlowReporter, reporter.String())
		}
		return true
	}
	if f.names.AnothersToReport(f.node) {
		f.counts[leftToAnother]++
		return false
	}
	return true
}

// put puts what is known of the ends.
func (f *folding) put(to pcommon.Map) {
	f.putEnd(to, sourceKeys, &f.names.Source)
	f.putEnd(to, destinationKeys, &f.names.Destination)
}

func (f *folding) putEnd(to pcommon.Map, keys *endKeys, end *inventory.End) {
	keys.put(to, end, f.asked)
	if f.asked&groupWorkload == 0 {
		return
	}
	keys.putWorkload(to, end)
	if end.Pod == nil && end.Service == nil && end.Node != nil && f.asked&groupNode == 0 {
		to.PutStr(keys.node, end.Node.Name) // the node itself talks
	}
}

// keyValue is an attribute of a point.
type keyValue struct {
	key   string
	value pcommon.Value
}

// sort finds the attributes that a series keeps, in an order of their own: those that
// tell of the ends, in raw, and the rest. It says whether the point is of a connection,
// which each end measures for itself.
func (f *folding) sort(attrs pcommon.Map) (ofConnection bool) {
	f.raw, f.rest = f.raw[:0], f.rest[:0]
	for key, value := range attrs.All() {
		kv := keyValue{key, value}
		if asked, ok := ofEnds[key]; !ok {
			f.rest = append(f.rest, kv)
		} else if f.asked&asked != 0 {
			f.raw = append(f.raw, kv)
		}
		ofConnection = ofConnection || key == netattr.ConnectionRole
	}
	for _, all := range [][]keyValue{f.raw, f.rest} {
		slices.SortFunc(all, func(a, b keyValue) int { return strings.Compare(a.key, b.key) })
	}
	return ofConnection
}

// ofEnds are the attributes that are folded, unless a group has them: 0 for none.
var ofEnds = map[string]group{
	netattr.SourceAddress: groupAddress, netattr.DestinationAddress: groupAddress,
	netattr.SourcePort: groupPort, netattr.DestinationPort: groupPort,
	netattr.TunnelID:         groupTunnel,
	netattr.NATSourceAddress: 0, netattr.NATSourcePort: 0, netattr.NATDestinationAddress: 0, netattr.NATDestinationPort: 0,
	netattr.NATOriginal: 0, netattr.SourceContainerID: 0, netattr.DestinationContainerID: 0,
}

// nameTunnels names the nodes that tunnels end at.
func (f *folding) nameTunnels(points pmetric.NumberDataPointSlice) {
	for _, dp := range points.All() {
		attrs := dp.Attributes()
		if _, ok := attrs.Get(netattr.TunnelSourceAddress); !ok {
			continue
		}
		f.seen.read(attrs)
		f.Name(&f.seen.Flow, &f.names)
		putTunnelNodes(attrs, &f.names)
	}
}
