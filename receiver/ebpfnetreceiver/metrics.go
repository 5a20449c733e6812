// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
)

// metricsSink makes metrics of windows. It hands them on from a goroutine of its
// own. While the pipeline is busy with the last ones, totals and series go on
// adding up, and the next ones have all of it.
type metricsSink struct {
	cfg     *Config
	set     receiver.Settings
	next    consumer.Metrics
	obs     *receiverhelper.ObsReport
	builder *metadata.MetricsBuilder
	own     *metadata.TelemetryBuilder
	ledger  *ledger
	began   time.Time

	idle chan struct{} // has a token while nothing is on its way
	// ctx is of what is on its way; quit ends it.
	ctx  context.Context
	quit context.CancelFunc

	mu sync.Mutex // guards what follows
	// interfaces has by name what is not handed on yet: one that has gone is in no
	// later window.
	interfaces map[string]aggregate.InterfacePoint
	series     *aggregate.FlowSeries
	folded     flow.Volume // as last reported
	// conversations is nil where they are not counted.
	conversations *aggregate.Conversations
	evicted       uint64 // of them, as last reported
	// connections is nil unless what they gained is handed on by their ends.
	connections       *aggregate.ConnectionSeries
	connectionsFolded uint64 // as last reported
	pending           tally  // in series and not handed on, as far as it is accounted for
	stopped           bool   // what is refused from now on never comes again
}

// patience is how long a pipeline may take to notice that it is to give up.
const patience = time.Second

// delivery is what is on its way.
type delivery struct {
	metrics    pmetric.Metrics
	interfaces map[string]aggregate.InterfacePoint
	points     []aggregate.SeriesPoint
	begun      []aggregate.SeriesPoint // conversations
	ends       []*aggregate.ConnectionPoint
	tally      tally
}

func newMetricsSink(set receiver.Settings, cfg *Config, next consumer.Metrics) (*metricsSink, error) {
	obs, own, err := newInstruments(set)
	if err != nil {
		return nil, err
	}
	return &metricsSink{cfg: cfg, set: set, next: next, obs: obs, own: own, idle: make(chan struct{}, 1)}, nil
}

func (m *metricsSink) start(began time.Time, _ uint64, ledger *ledger) {
	m.builder = metadata.NewMetricsBuilder(m.cfg.MetricsBuilderConfig, m.set,
		metadata.WithStartTime(pcommon.NewTimestampFromTime(began)))
	m.series = aggregate.NewFlowSeries(m.cfg.Flows.MaxSeries, m.cfg.Flows.PerInterface, began)
	m.series.Identify = m.cfg.Flows.IdentifyEnds
	if m.cfg.flowsEnabled() && m.cfg.MetricsBuilderConfig.Metrics.NetprobeFlows.Enabled {
		series := aggregate.NewFlowSeries(m.cfg.Flows.MaxSeries, m.cfg.Flows.PerInterface, began)
		series.Identify = m.cfg.Flows.IdentifyEnds
		m.conversations = aggregate.NewConversations(m.cfg.Flows.MaxEntries, series)
	}
	if m.cfg.Flows.IdentifyEnds {
		m.connections = newConnectionSeries(m.cfg, began)
	}
	m.interfaces = map[string]aggregate.InterfacePoint{}
	m.ledger, m.stopped, m.began = ledger, false, began
	m.ctx, m.quit = context.WithCancel(context.Background())
	m.idle <- struct{}{}
}

func newConnectionSeries(cfg *Config, began time.Time) *aggregate.ConnectionSeries {
	var buckets *aggregate.Buckets
	if cfg.Sockets.Histograms.Type != "off" {
		configured := cfg.Sockets.Histograms.buckets()
		buckets = &configured
	}
	return aggregate.NewConnectionSeries(cfg.Flows.MaxSeries, buckets, began)
}

func (m *metricsSink) accounts() bool {
	packets, bytes := m.flowMetrics()
	return packets || bytes
}

func (m *metricsSink) flowMetrics() (packets, bytes bool) {
	metrics := &m.cfg.MetricsBuilderConfig.Metrics
	return metrics.NetprobeFlowPackets.Enabled, metrics.NetprobeFlowBytes.Enabled
}

func (m *metricsSink) consume(ctx context.Context, w *window) {
	m.hold(w.interfaces)
	m.add(ctx, w)
	if w.leaving == m {
		select {
		case <-m.idle:
			m.deliver(ctx, m.convert(w))
		case <-ctx.Done():
		}
		return
	}
	select {
	case <-m.idle:
		d := m.convert(w)
		// not ctx, which may end before the pipeline is done
		go m.deliver(m.ctx, d)
	default: // the next ones will say it all
	}
}

// hold notes what is to be handed on of interfaces, with what they gained since
// they last were.
func (m *metricsSink) hold(points []aggregate.InterfacePoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range points {
		if before, ok := m.interfaces[p.Name]; ok {
			p = since(before, p)
		}
		m.interfaces[p.Name] = p
	}
}

// since is a point with what was gained up to the one before.
func since(before, p aggregate.InterfacePoint) aggregate.InterfacePoint {
	p.Gained.Add(before.Gained)
	p.Elapsed += before.Elapsed
	return p
}

// add adds the window's flows, and what connections gained, to their series.
func (m *metricsSink) add(ctx context.Context, w *window) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.connections != nil && w.sockets != nil {
		for i := range w.sockets.gains {
			m.connections.Add(&w.sockets.gains[i])
		}
		m.own.ReceiverEbpfnetConnectionsFolded.Add(ctx, int64(m.connections.Folded-m.connectionsFolded))
		m.connectionsFolded = m.connections.Folded
	}
	if m.conversations != nil {
		m.conversations.Add(w.flows, w.end)
		m.own.ReceiverEbpfnetConversations.Record(ctx, int64(m.conversations.Len()))
		m.own.ReceiverEbpfnetConversationsEvicted.Add(ctx, int64(m.conversations.Evicted-m.evicted))
		m.evicted = m.conversations.Evicted
	}
	if !m.accounts() {
		return
	}
	for i := range w.flows {
		m.series.Add(&w.flows[i])
	}
	if w.accountant == m {
		m.pending.add(tallyOf(w.flows))
	}
	m.own.ReceiverEbpfnetFlowSeries.Record(ctx, int64(m.series.Len()))
	m.own.ReceiverEbpfnetFlowSeriesFolded.Add(ctx, int64(m.series.Folded.Sub(m.folded).Packets))
	m.folded = m.series.Folded
}

// deliver hands metrics on. Where they are refused, totals come again with the
// next ones, and what the flows gained is put back.
func (m *metricsSink) deliver(ctx context.Context, d delivery) {
	defer func() { m.idle <- struct{}{} }()
	count := d.metrics.DataPointCount()
	if count == 0 {
		return
	}
	obsCtx := m.obs.StartMetricsOp(ctx)
	err := m.next.ConsumeMetrics(obsCtx, d.metrics)
	m.obs.EndMetricsOp(obsCtx, format, count, err)
	if err == nil {
		m.ledger.addTally(ctx, outcomeExported, "", d.tally)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		m.ledger.addTally(ctx, outcomeLost, causeAtShutdown, d.tally)
		return
	}
	for name, before := range d.interfaces {
		if p, ok := m.interfaces[name]; ok {
			before = since(before, p)
		}
		m.interfaces[name] = before
	}
	m.series.Restore(d.points)
	if m.conversations != nil {
		m.conversations.Series.Restore(d.begun)
	}
	if m.connections != nil {
		m.connections.Restore(d.ends)
	}
	m.pending.add(d.tally)
	m.set.Logger.Warn("The pipeline refused metrics; trying again at the next interval", zap.Error(err))
}

// stop waits for what is on its way, and counts what the pipeline has not taken as lost.
func (m *metricsSink) stop(ctx context.Context) {
	defer m.quit()
	select {
	case <-m.idle:
	case <-ctx.Done():
		m.quit()
		select {
		case <-m.idle:
		case <-time.After(patience): // it does not mind that nobody waits any more
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ledger.addTally(ctx, outcomeLost, causeAtShutdown, m.pending)
	m.pending, m.stopped = tally{}, true
	m.own.Shutdown()
}

func (m *metricsSink) convert(w *window) delivery {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := delivery{interfaces: m.interfaces}
	m.interfaces = map[string]aggregate.InterfacePoint{}
	at := pcommon.NewTimestampFromTime(w.end)
	for _, p := range d.interfaces {
		m.recordInterface(at, &p, w.speeds[p.Name])
		// also for what one that has just gone had counted
		if w.xdp[p.Name] || p.Gained.XDP != (flow.InterfaceCounters{}).XDP {
			m.recordXDP(at, &p)
		}
	}
	for i := range w.netfilter {
		m.recordNetfilter(at, &w.netfilter[i], w.netfilterDrops)
	}
	if m.cfg.flowsEnabled() && !w.noPackets {
		m.builder.RecordNetprobeVxlanTunnelsActiveDataPoint(at, int64(w.tunnelsActive))
	}
	if w.sockets != nil {
		m.recordSockets(at, w.sockets)
	}
	d.metrics = m.builder.Emit()
	if w.sockets != nil {
		m.appendSockets(m.scope(d.metrics).Metrics(), w)
	}
	if m.connections != nil {
		if d.ends = m.connections.Collect(w.end); len(d.ends) > 0 {
			m.appendConnections(m.scope(d.metrics).Metrics(), d.ends, w.end)
		}
	}
	m.convertTunnels(&d, w)
	if len(w.drops) > 0 && m.cfg.MetricsBuilderConfig.Metrics.NetprobeDrops.Enabled {
		convert.AppendDropMetric(m.scope(d.metrics).Metrics(), droppedPackets, w.drops, w.end)
	}

	packets, bytes := m.flowMetrics()
	m.series.Collect(w.end, func(p aggregate.SeriesPoint) { d.points = append(d.points, p) })
	d.tally, m.pending = m.pending, tally{}
	if m.conversations != nil {
		m.conversations.Series.Collect(w.end, func(p aggregate.SeriesPoint) { d.begun = append(d.begun, p) })
	}
	if len(d.points)+len(d.begun) == 0 {
		return d
	}
	sm := m.scope(d.metrics)
	if bytes {
		convert.AppendFlowMetric(sm.Metrics(), flowBytes, d.points, uint32(m.cfg.Flows.Sampling), w.end)
	}
	if packets {
		convert.AppendFlowMetric(sm.Metrics(), flowPackets, d.points, uint32(m.cfg.Flows.Sampling), w.end)
	}
	// of samples too it is what was seen: nothing says how many were not
	convert.AppendFlowMetric(sm.Metrics(), flowsBegun, d.begun, 1, w.end)
	return d
}

func (m *metricsSink) convertTunnels(d *delivery, w *window) {
	if len(w.tunnels) == 0 {
		return
	}
	enabled := &m.cfg.MetricsBuilderConfig.Metrics
	to := m.scope(d.metrics).Metrics()
	if enabled.NetprobeVxlanBytes.Enabled {
		convert.AppendTunnelMetric(to, vxlanBytes, flow.VXLAN, w.tunnels, w.end)
	}
	if enabled.NetprobeVxlanPackets.Enabled {
		convert.AppendTunnelMetric(to, vxlanPackets, flow.VXLAN, w.tunnels, w.end)
	}
	if enabled.NetprobeVxlanVniStats.Enabled {
		convert.AppendTunnelMetric(to, vxlanNetworks, flow.VXLAN, w.networks, w.end)
	}
}

// scope gives the scope that the builder filled, or one like it.
func (m *metricsSink) scope(md pmetric.Metrics) pmetric.ScopeMetrics {
	if md.ResourceMetrics().Len() > 0 {
		return md.ResourceMetrics().At(0).ScopeMetrics().At(0)
	}
	sm := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
	sm.Scope().SetName(metadata.ScopeName)
	sm.Scope().SetVersion(m.set.BuildInfo.Version)
	return sm
}

func bytesOf(v flow.Volume) uint64   { return v.Bytes }
func packetsOf(v flow.Volume) uint64 { return v.Packets }

// Metrics that are made by hand; documentation.md says the same of them.
var (
	flowBytes = convert.Metric{
		Name: metadata.MetricsInfo.NetprobeFlowBytes.Name, Unit: "By", Value: bytesOf,
		Description: "Bytes sent from source to destination, link-layer headers included, as segments on the wire.",
	}
	flowPackets = convert.Metric{
		Name: metadata.MetricsInfo.NetprobeFlowPackets.Name, Unit: "{packet}", Value: packetsOf,
		Description: "Packets sent from source to destination, as segments on the wire.",
	}
	flowsBegun = convert.Metric{
		Name: metadata.MetricsInfo.NetprobeFlows.Name, Unit: "{flow}", Value: packetsOf,
		Description: "Conversations that began, from the end that opened them.",
	}
	vxlanBytes = convert.Metric{
		Name: metadata.MetricsInfo.NetprobeVxlanBytes.Name, Unit: "By", Value: bytesOf,
		Description: "Bytes of VXLAN frames on the underlay, outer headers included.",
	}
	vxlanPackets = convert.Metric{
		Name: metadata.MetricsInfo.NetprobeVxlanPackets.Name, Unit: "{packet}", Value: packetsOf,
		Description: "VXLAN frames on the underlay.",
	}
	droppedPackets = convert.Metric{
		Name: metadata.MetricsInfo.NetprobeDrops.Name, Unit: "{packet}", Value: packetsOf,
		Description: "Packets of this network namespace that the kernel dropped, as buffers; a super-packet is one.",
	}
	// Its unit is an annotation: exporters to Prometheus would else add it to the name.
	vxlanNetworks = convert.Metric{
		Name: metadata.MetricsInfo.NetprobeVxlanVniStats.Name, Unit: "{By}", Value: bytesOf,
		Description: "Bytes of VXLAN frames on the underlay, outer headers included, by network.",
	}
)

// recordInterface records what was counted on an interface, whose speed is in
// bits per second, or 0 where it is not known.
func (m *metricsSink) recordInterface(at pcommon.Timestamp, p *aggregate.InterfacePoint, speed float64) {
	if m.cfg.TC.Mode == "off" {
		return
	}
	m.builder.RecordNetprobeInterfaceRxPacketsDataPoint(at, int64(p.Total.Rx.Packets), p.Name)
	m.builder.RecordNetprobeInterfaceRxBytesDataPoint(at, int64(p.Total.Rx.Bytes), p.Name)
	m.builder.RecordNetprobeInterfaceTxPacketsDataPoint(at, int64(p.Total.Tx.Packets), p.Name)
	m.builder.RecordNetprobeInterfaceTxBytesDataPoint(at, int64(p.Total.Tx.Bytes), p.Name)
	m.recordRates(at, p, speed)
}

func (m *metricsSink) recordRates(at pcommon.Timestamp, p *aggregate.InterfacePoint, speed float64) {
	seconds := p.Elapsed.Seconds()
	if seconds <= 0 {
		return
	}
	m.builder.RecordNetprobeInterfaceRxPacketsRateDataPoint(at, float64(p.Gained.Rx.Packets)/seconds, p.Name)
	m.builder.RecordNetprobeInterfaceRxBytesRateDataPoint(at, float64(p.Gained.Rx.Bytes)/seconds, p.Name)
	m.builder.RecordNetprobeInterfaceTxPacketsRateDataPoint(at, float64(p.Gained.Tx.Packets)/seconds, p.Name)
	m.builder.RecordNetprobeInterfaceTxBytesRateDataPoint(at, float64(p.Gained.Tx.Bytes)/seconds, p.Name)
	if speed <= 0 {
		return
	}
	full := speed / 8 * seconds // bytes
	m.builder.RecordNetprobeInterfaceUtilizationDataPoint(at, float64(p.Gained.Rx.Bytes)/full, p.Name, metadata.AttributeNetworkIoDirectionReceive)
	m.builder.RecordNetprobeInterfaceUtilizationDataPoint(at, float64(p.Gained.Tx.Bytes)/full, p.Name, metadata.AttributeNetworkIoDirectionTransmit)
}

// recordXDP folds the outcomes: what is well-formed and not IP, or more deeply
// nested than is walked, is nothing wrong with the frame.
func (m *metricsSink) recordXDP(at pcommon.Timestamp, p *aggregate.InterfacePoint) {
	var ok flow.Volume
	for _, outcome := range []flow.Outcome{flow.OutcomeOK, flow.OutcomeUnsupported, flow.OutcomeNotIP} {
		ok.Add(p.Total.XDP[outcome])
	}
	for _, o := range []struct {
		volume  flow.Volume
		outcome metadata.AttributeNetprobeXdpOutcome
	}{
		{ok, metadata.AttributeNetprobeXdpOutcomeOk},
		{p.Total.XDP[flow.OutcomeMalformed], metadata.AttributeNetprobeXdpOutcomeMalformed},
		{p.Total.XDP[flow.OutcomeTruncated], metadata.AttributeNetprobeXdpOutcomeTruncated},
	} {
		m.builder.RecordNetprobeXdpPacketsDataPoint(at, int64(o.volume.Packets), p.Name, o.outcome)
		m.builder.RecordNetprobeXdpBytesDataPoint(at, int64(o.volume.Bytes), p.Name, o.outcome)
	}
}
