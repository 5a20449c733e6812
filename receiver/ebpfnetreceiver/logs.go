// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
)

// logsBatch is how many records go down the pipeline at once: some 2 MB, under
// what gRPC receivers take by default.
const logsBatch = 4096

// logsSink makes a log record of each flow record. It hands them on from a
// goroutine of its own, so that a slow pipeline does not keep the kernel's maps
// from being emptied; what waits is bounded.
type logsSink struct {
	set      receiver.Settings
	next     consumer.Logs
	obs      *receiverhelper.ObsReport
	own      *metadata.TelemetryBuilder
	observer convert.Observer
	ledger   *ledger
	max      int // records that may wait
	entries  int // of the flow map

	mu      sync.Mutex // guards waiting and queued
	waiting []batch    // oldest first
	queued  int        // records in waiting
	wake    chan struct{}
	quit    context.CancelFunc
	done    chan struct{}
}

// batch is what goes down the pipeline at once.
type batch struct {
	records  []flow.Record
	events   []convert.Event // a batch has these or those
	observed time.Time
	// accounted: the ledger is to say what became of the records.
	accounted bool
}

// size is how many records the batch makes.
func (b *batch) size() int {
	return len(b.records) + len(b.events)
}

// cut leaves the first n records in the batch and gives the rest.
func (b *batch) cut(n int) batch {
	rest := batch{observed: b.observed, accounted: b.accounted}
	if at := min(max(n, 0), len(b.records)); at < len(b.records) {
		b.records, rest.records = b.records[:at], b.records[at:]
	}
	if at := min(max(n, 0), len(b.events)); at < len(b.events) {
		b.events, rest.events = b.events[:at], b.events[at:]
	}
	return rest
}

func newLogsSink(set receiver.Settings, cfg *Config, next consumer.Logs) (*logsSink, error) {
	obs, own, err := newInstruments(set)
	if err != nil {
		return nil, err
	}
	return &logsSink{
		set: set, next: next, obs: obs, own: own,
		observer: convert.Observer{Version: set.BuildInfo.Version},
		max:      cfg.Flows.QueueSize,
		entries:  cfg.Flows.MaxEntries,
	}, nil
}

func (l *logsSink) start(_ time.Time, netns uint64, ledger *ledger) {
	l.observer.NetNS, l.ledger = netns, ledger
	if l.max < l.entries {
		l.set.Logger.Warn("flows::queue_size is under flows::max_entries: one interval may bring more records than may wait",
			zap.Int("queue_size", l.max), zap.Int("max_entries", l.entries))
	}
	l.wake, l.done = make(chan struct{}, 1), make(chan struct{})
	// not the context of Start, which ends with it
	ctx, cancel := context.WithCancel(context.Background())
	l.quit = cancel
	go l.run(ctx)
}

func (l *logsSink) accounts() bool { return true }

func (l *logsSink) consume(ctx context.Context, w *window) {
	lost := 0
	for events := range slices.Chunk(w.events, logsBatch) {
		lost += l.enqueue(ctx, batch{events: events, observed: w.end})
	}
	for records := range slices.Chunk(w.flows, logsBatch) {
		// the window's records are reused
		lost += l.enqueue(ctx, batch{records: slices.Clone(records), observed: w.end, accounted: w.accountant == l})
	}
	if lost > 0 {
		l.logLost(lost, causeQueueFull, errQueueFull)
	}
	// once in an interval, also where there is nothing new: what was refused is
	// tried again
	select {
	case l.wake <- struct{}{}:
	default: // is awake
	}
}

// enqueue adds of a batch what there is room for, and loses the rest. It gives
// how many records were lost.
func (l *logsSink) enqueue(ctx context.Context, b batch) int {
	l.mu.Lock()
	rest := b.cut(l.max - l.queued)
	if b.size() > 0 {
		l.waiting = append(l.waiting, b)
		l.queued += b.size()
	}
	l.mu.Unlock()
	l.account(ctx, rest, outcomeLost, causeQueueFull)
	return rest.size()
}

func (l *logsSink) run(ctx context.Context) {
	defer close(l.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
			l.deliverAll(ctx)
		}
	}
}

// deliverAll hands on what waits, up to the first batch that is refused for now:
// that one is tried again at the next interval.
func (l *logsSink) deliverAll(ctx context.Context) {
	for ctx.Err() == nil {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			l.mu.Unlock()
			return
		}
		b := l.waiting[0]
		l.mu.Unlock()

		if !l.deliver(ctx, b) {
			return
		}
		l.mu.Lock()
		l.waiting = slices.Delete(l.waiting, 0, 1)
		l.queued -= b.size()
		l.mu.Unlock()
	}
}

// deliver hands a batch on and says whether that is the end of it: handed on, or
// refused for good and lost.
func (l *logsSink) deliver(ctx context.Context, b batch) bool {
	var ld plog.Logs
	if b.events != nil {
		ld = l.observer.EventLogs(b.events, b.observed)
	} else {
		ld = l.observer.FlowLogs(b.records, b.observed)
	}
	count := ld.LogRecordCount()
	obsCtx := l.obs.StartLogsOp(ctx)
	err := l.next.ConsumeLogs(obsCtx, ld)
	l.obs.EndLogsOp(obsCtx, format, count, err)
	switch {
	case err == nil:
		l.account(ctx, b, outcomeExported, "")
		return true
	case consumererror.IsPermanent(err):
		l.lose(ctx, b, causeRefused, err)
		return true
	default:
		l.set.Logger.Warn("The pipeline refused log records; trying again at the next interval", zap.Int("records", count), zap.Error(err))
		return false
	}
}

func (l *logsSink) lose(ctx context.Context, b batch, cause string, err error) {
	l.account(ctx, b, outcomeLost, cause)
	l.logLost(b.size(), cause, err)
}

// account tells the ledger what became of a batch.
func (l *logsSink) account(ctx context.Context, b batch, outcome, cause string) {
	if b.accounted {
		l.ledger.addTally(ctx, outcome, cause, tallyOf(b.records))
	}
}

func (l *logsSink) logLost(records int, cause string, err error) {
	l.set.Logger.Error("Log records are lost", zap.Int("records", records), zap.String("cause", cause), zap.Error(err))
}

// stop hands on what waits, and counts what the pipeline does not take as lost.
func (l *logsSink) stop(ctx context.Context) {
	l.quit()
	<-l.done
	l.deliverAll(ctx)
	for _, b := range l.waiting {
		l.lose(ctx, b, causeAtShutdown, errShutdown)
	}
	l.waiting, l.queued = nil, 0
	l.own.Shutdown()
}

var (
	errShutdown  = errors.New("the receiver is shut down")
	errQueueFull = errors.New("as many records wait as flows::queue_size allows: the pipeline is too slow, or the queue is smaller than what one interval brings")
)
