// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/ends"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/reports"
)

// waiting makes one record of those in which several nodes report the same packets.
// Records that others may have as well wait for them.
type waiting struct {
	*naming
	next     consumer.Logs
	asked    group // of each end
	outcomes map[string]metric.MeasurementOption

	quit    chan struct{}
	running sync.WaitGroup

	mu     sync.Mutex // guards what follows
	memory *reports.Memory
	queue  []*held // in the order of time
	count  int     // records in queue
}

// held are records of one batch that wait, in the order of the reports.
type held struct {
	logs    plog.Logs
	reports []*reports.Report
	due     time.Time
	// where the next record goes
	resource, scope int
	records         plog.LogRecordSlice
}

// Outcomes of records that several nodes may report.
const (
	passedOn  = "passed"
	leftOut   = "left_out"
	noRoom    = "no_room"
	refusedBy = "refused"
)

func newWaiting(n *naming, next consumer.Logs, asked group) *waiting {
	w := &waiting{
		naming: n, next: next, asked: asked, quit: make(chan struct{}), outcomes: map[string]metric.MeasurementOption{},
		// the other node's record may come this much later, or have come this much earlier
		memory: reports.New(2 * n.cfg.Deduplicate.Wait),
	}
	for _, name := range []string{passedOn, leftOut, noRoom, refusedBy} {
		w.outcomes[name] = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", name)))
	}
	return w
}

// releases is how often in the time of waiting it is looked for records whose time is over.
const releases = 20

func (w *waiting) start() {
	w.running.Go(func() {
		ticker := time.NewTicker(w.cfg.Deduplicate.Wait / releases)
		defer ticker.Stop()
		for {
			select {
			case <-w.quit:
				return
			case now := <-ticker.C:
				w.release(context.Background(), now)
			}
		}
	})
}

// stop hands on all that waits.
func (w *waiting) stop(ctx context.Context) error {
	close(w.quit)
	w.running.Wait()
	var errs []error
	for _, h := range w.take(time.Time{}) {
		errs = append(errs, w.judge(ctx, h))
	}
	return errors.Join(errs...)
}

// reportOf says what a flow's record reports; nil if no other node can have it.
func (w *worker) reportOf(lr plog.LogRecord, node string) *reports.Report {
	if node == "" || lr.EventName() != netattr.EventFlow {
		return nil
	}
	switch w.names.ReportedBy(node) {
	case ends.NoReporter, ends.ByBoth: // of one node, if it is known at all
		return nil
	}
	s := &w.seen
	r := &reports.Report{First: s.First, Last: s.Last, Node: node}
	r.Tuples[0], r.Tuples[1] = s.tuples()
	r.Known = reports.Known{Translated: s.Translated, SourceService: serviceOf(&w.names.Source), DestinationService: serviceOf(&w.names.Destination)}
	if id, ok := lr.Attributes().Get(netattr.FlowCommunityID); ok && s.Translated {
		r.Known.CommunityID = id.Str()
	}
	if w.names.AnothersToReport(node) {
		r.Rank = reports.Transit
		if w.names.ReportedBy(node) == ends.ByDestination {
			r.Rank = reports.Destination
		}
	}
	return r
}

// mayWait says whether a report is to wait: another node's may be better, or is to be named.
func (w *worker) mayWait(r *reports.Report) bool {
	return r.Rank != reports.Preferred || w.names.Class == ends.InterNode || r.Tuples[0] != r.Tuples[1]
}

// hold takes a record, unless there is no room.
func (w *waiting) hold(ctx context.Context, h *held, lr plog.LogRecord, r *reports.Report, wait bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.memory.Len() >= 2*w.cfg.Deduplicate.MaxRecords {
		w.own.ProcessorK8sFlowRecords.Add(ctx, 1, w.outcomes[noRoom])
		return false
	}
	w.memory.Add(r, time.Now())
	if !wait {
		return false
	}
	if w.count >= w.cfg.Deduplicate.MaxRecords {
		// it cannot wait, but what does may be better already
		if stands, _, _ := w.memory.Judge(r); !stands {
			w.own.ProcessorK8sFlowRecords.Add(ctx, 1, w.outcomes[leftOut])
			return true
		}
		w.own.ProcessorK8sFlowRecords.Add(ctx, 1, w.outcomes[noRoom])
		return false
	}
	w.count++
	h.reports = append(h.reports, r)
	lr.MoveTo(h.records.AppendEmpty())
	return true
}

// under says what resource and scope the next records are of, the how many-th.
func (h *held) under(resource, scope int, rl plog.ResourceLogs, sl plog.ScopeLogs) {
	if h.logs.ResourceLogs().Len() == 0 || h.resource != resource {
		to := h.logs.ResourceLogs().AppendEmpty()
		rl.Resource().CopyTo(to.Resource())
		to.SetSchemaUrl(rl.SchemaUrl())
	} else if h.scope == scope {
		return
	}
	h.resource, h.scope = resource, scope
	all := h.logs.ResourceLogs()
	to := all.At(all.Len() - 1).ScopeLogs().AppendEmpty()
	sl.Scope().CopyTo(to.Scope())
	to.SetSchemaUrl(sl.SchemaUrl())
	h.records = to.LogRecords()
}

// enqueue lets records wait.
func (w *waiting) enqueue(h *held) {
	if len(h.reports) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h.due = time.Now().Add(w.cfg.Deduplicate.Wait)
	w.queue = append(w.queue, h)
}

// release hands on what has waited for long enough.
func (w *waiting) release(ctx context.Context, now time.Time) {
	for _, h := range w.take(now) {
		// said and counted there
		_ = w.judge(ctx, h)
	}
	w.mu.Lock()
	w.memory.Forget(now)
	count := w.count
	w.mu.Unlock()
	w.own.ProcessorK8sFlowRecordsHeld.Record(ctx, int64(count))
}

// take gives what is due, or all without a time.
func (w *waiting) take(now time.Time) []*held {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.queue) && (now.IsZero() || !w.queue[n].due.After(now)) {
		n++
	}
	due := w.queue[:n:n]
	w.queue = w.queue[n:]
	return due
}

// judge leaves out the records that another node's stand for, and hands on the others.
// What the pipeline refuses for now comes again.
func (w *waiting) judge(ctx context.Context, h *held) error {
	before := len(h.reports)
	w.leaveOut(h)
	w.own.ProcessorK8sFlowRecords.Add(ctx, int64(before-len(h.reports)), w.outcomes[leftOut])
	count := len(h.reports)
	if count == 0 {
		return nil
	}
	// it may be changed on its way, and may have to go again
	sent := plog.NewLogs()
	h.logs.CopyTo(sent)
	err := w.next.ConsumeLogs(ctx, sent)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.own.ProcessorK8sFlowRecords.Add(ctx, int64(count), w.outcomes[passedOn])
	case consumererror.IsPermanent(err) || w.stopping():
		w.own.ProcessorK8sFlowRecords.Add(ctx, int64(count), w.outcomes[refusedBy])
		w.logger.Error("The pipeline refused flow records, which are lost", zap.Int("records", count), zap.Error(err))
	default:
		w.logger.Warn("The pipeline refused flow records; trying again", zap.Int("records", count), zap.Error(err))
		h.due = time.Now().Add(w.cfg.Deduplicate.Wait)
		w.queue = append(w.queue, h)
		return err
	}
	w.count -= count
	return err
}

func (w *waiting) stopping() bool {
	select {
	case <-w.quit:
		return true
	default:
		return false
	}
}

func (w *waiting) leaveOut(h *held) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := 0
	var kept []*reports.Report
	h.logs.ResourceLogs().RemoveIf(func(rl plog.ResourceLogs) bool {
		rl.ScopeLogs().RemoveIf(func(sl plog.ScopeLogs) bool {
			sl.LogRecords().RemoveIf(func(lr plog.LogRecord) bool {
				r := h.reports[i]
				i++
				stands, others, known := w.memory.Judge(r)
				if !stands {
					w.count--
					return true
				}
				kept = append(kept, r)
				if len(others) > 0 {
					putNodes(lr.Attributes(), r.Node, others)
					w.putKnown(lr.Attributes(), &known)
				}
				return false
			})
			return sl.LogRecords().Len() == 0
		})
		return rl.ScopeLogs().Len() == 0
	})
	h.reports = kept
}

func serviceOf(end *inventory.End) string {
	if end.Service == nil {
		return ""
	}
	return end.Service.Name
}

// putKnown puts what the node that translated a flow knows of it.
func (w *waiting) putKnown(attrs pcommon.Map, known *reports.Known) {
	if !known.Translated {
		return
	}
	put := func(key, value string) {
		if value != "" {
			attrs.PutStr(key, value)
		}
	}
	put(netattr.FlowCommunityID, known.CommunityID)
	if w.asked&groupService != 0 {
		put(sourceKeys.service, known.SourceService)
		put(destinationKeys.service, known.DestinationService)
	}
}

// putNodes names the node whose report it is, and those that reported the same.
func putNodes(attrs pcommon.Map, node string, others []string) {
	nodes := attrs.PutEmptySlice(netattr.ObservationNodes)
	nodes.EnsureCapacity(1 + len(others))
	nodes.AppendEmpty().SetStr(node)
	for _, other := range others {
		nodes.AppendEmpty().SetStr(other)
	}
}
