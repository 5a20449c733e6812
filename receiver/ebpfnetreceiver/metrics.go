// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
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

// metricsSink makes metrics of windows.
type metricsSink struct {
	cfg     *Config
	set     receiver.Settings
	next    consumer.Metrics
	obs     *receiverhelper.ObsReport
	builder *metadata.MetricsBuilder
	own     *metadata.TelemetryBuilder

	series *aggregate.FlowSeries
	folded flow.Volume // as last reported
	points []aggregate.SeriesPoint
}

func newMetricsSink(set receiver.Settings, cfg *Config, next consumer.Metrics) (*metricsSink, error) {
	obs, own, err := newInstruments(set)
	if err != nil {
		return nil, err
	}
	return &metricsSink{cfg: cfg, set: set, next: next, obs: obs, own: own}, nil
}

func (m *metricsSink) start(began time.Time, _ uint64) {
	m.builder = metadata.NewMetricsBuilder(m.cfg.MetricsBuilderConfig, m.set,
		metadata.WithStartTime(pcommon.NewTimestampFromTime(began)))
	m.series = aggregate.NewFlowSeries(m.cfg.Flows.MaxSeries, began)
}

func (m *metricsSink) consume(ctx context.Context, w *window) {
	md := m.convert(w)
	m.own.ReceiverEbpfnetFlowSeries.Record(ctx, int64(m.series.Len()))
	m.own.ReceiverEbpfnetFlowSeriesFolded.Add(ctx, int64(m.series.Folded.Sub(m.folded).Packets))
	m.folded = m.series.Folded

	count := md.DataPointCount()
	if count == 0 {
		return
	}
	ctx = m.obs.StartMetricsOp(ctx)
	err := m.next.ConsumeMetrics(ctx, md)
	m.obs.EndMetricsOp(ctx, format, count, err)
	if err != nil {
		// Totals come again with the next interval; what the flows gained is put back.
		m.series.Restore(m.points)
		m.set.Logger.Warn("The pipeline refused metrics; trying again at the next interval", zap.Error(err))
	}
}

func (m *metricsSink) stop(context.Context) {
	m.own.Shutdown()
}

func (m *metricsSink) convert(w *window) pmetric.Metrics {
	at := pcommon.NewTimestampFromTime(w.end)
	for i := range w.interfaces {
		p := &w.interfaces[i]
		m.recordInterface(at, p)
		// also for what one that has just gone had counted
		if w.xdp[p.Name] || p.Gained.XDP != (flow.InterfaceCounters{}).XDP {
			m.recordXDP(at, p)
		}
	}
	md := m.builder.Emit()

	m.points = m.points[:0]
	packets, bytes := m.cfg.MetricsBuilderConfig.Metrics.NetprobeFlowPackets, m.cfg.MetricsBuilderConfig.Metrics.NetprobeFlowBytes
	if !packets.Enabled && !bytes.Enabled {
		return md
	}
	for i := range w.flows {
		m.series.Add(&w.flows[i])
	}
	m.series.Collect(w.end, func(p aggregate.SeriesPoint) { m.points = append(m.points, p) })
	if len(m.points) == 0 {
		return md
	}
	sm := m.scope(md)
	if bytes.Enabled {
		convert.AppendFlowMetric(sm.Metrics(), flowBytes, m.points, w.end)
	}
	if packets.Enabled {
		convert.AppendFlowMetric(sm.Metrics(), flowPackets, m.points, w.end)
	}
	return md
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

var (
	flowBytes = convert.FlowMetric{
		Name: metadata.MetricsInfo.NetprobeFlowBytes.Name, Unit: "By",
		Description: "Bytes sent from source to destination, link-layer headers included, as segments on the wire.",
		Value:       func(v flow.Volume) uint64 { return v.Bytes },
	}
	flowPackets = convert.FlowMetric{
		Name: metadata.MetricsInfo.NetprobeFlowPackets.Name, Unit: "{packet}",
		Description: "Packets sent from source to destination, as segments on the wire.",
		Value:       func(v flow.Volume) uint64 { return v.Packets },
	}
)

func (m *metricsSink) recordInterface(at pcommon.Timestamp, p *aggregate.InterfacePoint) {
	if m.cfg.TC.Mode == "off" {
		return
	}
	m.builder.RecordNetprobeInterfaceRxPacketsDataPoint(at, int64(p.Total.Rx.Packets), p.Name)
	m.builder.RecordNetprobeInterfaceRxBytesDataPoint(at, int64(p.Total.Rx.Bytes), p.Name)
	m.builder.RecordNetprobeInterfaceTxPacketsDataPoint(at, int64(p.Total.Tx.Packets), p.Name)
	m.builder.RecordNetprobeInterfaceTxBytesDataPoint(at, int64(p.Total.Tx.Bytes), p.Name)
	m.recordRates(at, p)
}

func (m *metricsSink) recordRates(at pcommon.Timestamp, p *aggregate.InterfacePoint) {
	seconds := p.Elapsed.Seconds()
	if seconds <= 0 {
		return
	}
	m.builder.RecordNetprobeInterfaceRxPacketsRateDataPoint(at, float64(p.Gained.Rx.Packets)/seconds, p.Name)
	m.builder.RecordNetprobeInterfaceRxBytesRateDataPoint(at, float64(p.Gained.Rx.Bytes)/seconds, p.Name)
	m.builder.RecordNetprobeInterfaceTxPacketsRateDataPoint(at, float64(p.Gained.Tx.Packets)/seconds, p.Name)
	m.builder.RecordNetprobeInterfaceTxBytesRateDataPoint(at, float64(p.Gained.Tx.Bytes)/seconds, p.Name)
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
