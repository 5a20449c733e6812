// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
)

// logsBatch is how many records go down the pipeline at once: some 2 MB, under
// what gRPC receivers take by default.
const logsBatch = 4096

// logsSink makes a log record of each flow record.
type logsSink struct {
	set      receiver.Settings
	next     consumer.Logs
	obs      *receiverhelper.ObsReport
	own      *metadata.TelemetryBuilder
	observer convert.Observer

	// refused are batches that the pipeline would not take yet, oldest first.
	refused []batch
	waiting int // records in refused
	max     int // of waiting
}

// batch is what goes down the pipeline at once.
type batch struct {
	records  []flow.Record
	observed time.Time
}

func newLogsSink(set receiver.Settings, cfg *Config, next consumer.Logs) (*logsSink, error) {
	obs, own, err := newInstruments(set)
	if err != nil {
		return nil, err
	}
	return &logsSink{
		set: set, next: next, obs: obs, own: own,
		observer: convert.Observer{Version: set.BuildInfo.Version},
		max:      int(cfg.Flows.MaxEntries),
	}, nil
}

func (l *logsSink) start(_ time.Time, netns uint64) {
	l.observer.NetNS = netns
}

func (l *logsSink) consume(ctx context.Context, w *window) {
	again := l.refused
	l.refused, l.waiting = nil, 0
	for _, b := range again {
		l.deliver(ctx, b)
	}
	for records := range slices.Chunk(w.flows, logsBatch) {
		l.deliver(ctx, batch{records: records, observed: w.end})
	}
}

// deliver hands a batch on. One that is refused for now is kept for the next
// interval; one that is refused for good, or is too much to keep, is lost and
// counted.
func (l *logsSink) deliver(ctx context.Context, b batch) {
	count := len(b.records)
	ctx = l.obs.StartLogsOp(ctx)
	err := l.next.ConsumeLogs(ctx, l.observer.FlowLogs(b.records, b.observed))
	l.obs.EndLogsOp(ctx, format, count, err)
	if err == nil {
		return
	}
	cause := "refused_by_pipeline"
	if !consumererror.IsPermanent(err) {
		if l.waiting+count <= l.max {
			// the window's records are reused
			l.refused = append(l.refused, batch{records: slices.Clone(b.records), observed: b.observed})
			l.waiting += count
			l.set.Logger.Warn("The pipeline refused flow records; trying again at the next interval", zap.Int("records", count), zap.Error(err))
			return
		}
		cause = "too_many_refused"
	}
	l.lose(ctx, b, cause, err)
}

func (l *logsSink) lose(ctx context.Context, b batch, cause string, err error) {
	var volume flow.Volume
	for i := range b.records {
		volume.Add(flow.Volume{Packets: b.records[i].Packets, Bytes: b.records[i].Bytes})
	}
	attrs := metric.WithAttributes(attribute.String("cause", cause))
	l.own.ReceiverEbpfnetLostPackets.Add(ctx, int64(volume.Packets), attrs)
	l.own.ReceiverEbpfnetLostBytes.Add(ctx, int64(volume.Bytes), attrs)
	l.set.Logger.Error("Flow records are lost", zap.Int("records", len(b.records)), zap.String("cause", cause), zap.Error(err))
}

// stop counts what is still refused as lost.
func (l *logsSink) stop(ctx context.Context) {
	for _, b := range l.refused {
		l.lose(ctx, b, "refused_until_shutdown", errShutdown)
	}
	l.refused, l.waiting = nil, 0
	l.own.Shutdown()
}

var errShutdown = errors.New("the receiver is shut down")
