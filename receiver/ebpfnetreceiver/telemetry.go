// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/conntrack"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/drops"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/sockets"
)

// format names in the collector's own telemetry how the data came in.
const format = "ebpf"

// newInstruments makes what a sink reports on its work with.
func newInstruments(set receiver.Settings) (*receiverhelper.ObsReport, *metadata.TelemetryBuilder, error) {
	obs, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{
		ReceiverID: set.ID, Transport: format, ReceiverCreateSettings: set,
	})
	if err != nil {
		return nil, nil, err
	}
	own, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	return obs, own, err
}

// telemetry reports on the receiver's own work through the collector's meter.
type telemetry struct {
	builder *metadata.TelemetryBuilder
	ledger  *ledger
	flows   bool // are counted
	last    probe.Health
	// natMissed and the next are as last recorded
	natMissed, evicted uint64
	lastDrops          drops.Health
	lostConnections    lostConnections

	parsed  [probe.Hooks][flow.Outcomes]metric.MeasurementOption
	hooks   [probe.Hooks]metric.MeasurementOption
	refused [flow.Refusals]metric.MeasurementOption

	countLost, flowLost, namespaceUnknown, missed metric.MeasurementOption // causes

	modes    map[int][]probe.Attachment // by interface index
	programs map[programKey]int64
}

// programKey is a series of the programs gauge.
type programKey struct {
	hook         probe.Hook
	mode, reason string
}

func newTelemetry(set component.TelemetrySettings, flows bool) (*telemetry, error) {
	builder, err := metadata.NewTelemetryBuilder(set)
	if err != nil {
		return nil, err
	}
	t := &telemetry{builder: builder, ledger: &ledger{builder: builder}, flows: flows, modes: map[int][]probe.Attachment{}, programs: map[programKey]int64{}}
	for hook := range t.parsed {
		t.hooks[hook] = metric.WithAttributeSet(attribute.NewSet(attribute.String("hook", probe.Hook(hook).String())))
		for outcome := range t.parsed[hook] {
			t.parsed[hook][outcome] = metric.WithAttributeSet(attribute.NewSet(
				attribute.String("hook", probe.Hook(hook).String()),
				attribute.String("outcome", flow.Outcome(outcome).String())))
		}
	}
	for refusal := range t.refused {
		t.refused[refusal] = metric.WithAttributeSet(attribute.NewSet(attribute.String("reason", flow.Refusal(refusal).String())))
	}
	for cause, option := range map[string]*metric.MeasurementOption{
		"count_table_full": &t.countLost, "flow_table_full": &t.flowLost,
		"netns_unknown": &t.namespaceUnknown, "program_busy": &t.missed,
	} {
		*option = metric.WithAttributeSet(attribute.NewSet(attribute.String("cause", cause)))
	}
	return t, nil
}

func (t *telemetry) close() {
	t.builder.Shutdown()
}

// nat records how many translated connections are known, and what was missed.
func (t *telemetry) nat(ctx context.Context, s conntrack.Stats) {
	t.builder.ReceiverEbpfnetNatEntries.Record(ctx, int64(s.Entries))
	missed := s.Dropped + s.Overflows
	t.builder.ReceiverEbpfnetNatMissed.Add(ctx, int64(missed-t.natMissed))
	t.natMissed = missed
}

// drops records what is dropped and not counted. What had no IP header (NoFlow) is
// counted, and cannot have a record.
func (t *telemetry) drops(ctx context.Context, h drops.Health) {
	uncounted := t.builder.ReceiverEbpfnetDropsUncounted
	uncounted.Add(ctx, int64(h.CountLost.Sub(t.lastDrops.CountLost).Packets), t.countLost)
	uncounted.Add(ctx, int64(h.FlowLost.Sub(t.lastDrops.FlowLost).Packets), t.flowLost)
	uncounted.Add(ctx, int64(h.NamespaceUnknown.Sub(t.lastDrops.NamespaceUnknown).Packets), t.namespaceUnknown)
	uncounted.Add(ctx, int64(h.Missed-t.lastDrops.Missed), t.missed)
	t.lastDrops = h
}

// netfilter records how many packets have lost their note.
func (t *telemetry) netfilter(ctx context.Context, evicted uint64) {
	t.builder.ReceiverEbpfnetNetfilterEvicted.Add(ctx, int64(evicted-t.evicted))
	t.evicted = evicted
}

// sockets records how many are watched, and of which more is missing than that they
// were counted.
func (t *telemetry) sockets(ctx context.Context, watched int, forgotten uint64, h sockets.Health) {
	t.builder.ReceiverEbpfnetSockets.Record(ctx, int64(watched))
	now := lostConnections{"table_full": h.Untracked, "record_lost": h.RecordsLost, "end_unseen": forgotten}
	for cause, n := range now {
		t.builder.ReceiverEbpfnetConnectionsLost.Add(ctx, int64(n-t.lostConnections[cause]),
			metric.WithAttributes(attribute.String("cause", cause)))
	}
	t.lostConnections = now
}

// lostConnections is by cause.
type lostConnections map[string]uint64

func (t *telemetry) attached(index int, modes []probe.Attachment) {
	t.detached(index)
	t.modes[index] = modes
	for _, m := range modes {
		t.programs[programKey{m.Hook, m.Mode, m.Reason}]++
	}
}

func (t *telemetry) detached(index int) {
	for _, m := range t.modes[index] {
		t.programs[programKey{m.Hook, m.Mode, m.Reason}]--
	}
	delete(t.modes, index)
}

// record adds what the counters gained since it was last called. All series
// are there from the first time on, at zero.
func (t *telemetry) record(ctx context.Context, h probe.Health) {
	for hook := range h.Hooks {
		now, last := &h.Hooks[hook], &t.last.Hooks[hook]
		t.ledger.kernel(ctx, probe.Hook(hook), now, last, t.flows)
		t.builder.ReceiverEbpfnetInterfaceUncounted.Add(ctx,
			int64(now.InterfaceUnknown.Sub(last.InterfaceUnknown).Packets), t.hooks[hook])
		for outcome := range now.Parsed {
			gained := now.Parsed[outcome].Sub(last.Parsed[outcome])
			t.builder.ReceiverEbpfnetParsedPackets.Add(ctx, int64(gained.Packets), t.parsed[hook][outcome])
			t.builder.ReceiverEbpfnetParsedBytes.Add(ctx, int64(gained.Bytes), t.parsed[hook][outcome])
		}
	}
	for refusal := range h.Refused {
		if flow.Refusal(refusal) != flow.NotRefused {
			gained := h.Refused[refusal].Sub(t.last.Refused[refusal])
			t.builder.ReceiverEbpfnetTunnelRefused.Add(ctx, int64(gained.Packets), t.refused[refusal])
		}
	}
	t.builder.ReceiverEbpfnetFlowOverflowed.Add(ctx, int64(h.Overflowed.Sub(t.last.Overflowed).Packets))
	t.builder.ReceiverEbpfnetFlowEntries.Record(ctx, int64(h.FlowEntries))
	for key, n := range t.programs {
		t.builder.ReceiverEbpfnetPrograms.Record(ctx, n, metric.WithAttributes(
			attribute.String("hook", key.hook.String()),
			attribute.String("mode", key.mode),
			attribute.String("reason", key.reason)))
	}
	t.last = h
}
