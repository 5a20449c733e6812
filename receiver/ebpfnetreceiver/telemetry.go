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
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
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
	last    probe.Health

	parsed [probe.Hooks][flow.Outcomes]metric.MeasurementOption
	lost   [probe.Losses]metric.MeasurementOption

	modes    map[int][]probe.Attachment // by interface index
	programs map[programKey]int64
}

// programKey is a series of the programs gauge.
type programKey struct {
	hook         probe.Hook
	mode, reason string
}

func newTelemetry(set component.TelemetrySettings) (*telemetry, error) {
	builder, err := metadata.NewTelemetryBuilder(set)
	if err != nil {
		return nil, err
	}
	t := &telemetry{builder: builder, modes: map[int][]probe.Attachment{}, programs: map[programKey]int64{}}
	for hook := range t.parsed {
		for outcome := range t.parsed[hook] {
			t.parsed[hook][outcome] = metric.WithAttributeSet(attribute.NewSet(
				attribute.String("hook", probe.Hook(hook).String()),
				attribute.String("outcome", flow.Outcome(outcome).String())))
		}
	}
	for loss := range t.lost {
		t.lost[loss] = metric.WithAttributeSet(attribute.NewSet(attribute.String("cause", probe.Loss(loss).String())))
	}
	return t, nil
}

func (t *telemetry) close() {
	t.builder.Shutdown()
}

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
	for hook := range h.Parsed {
		for outcome := range h.Parsed[hook] {
			gained := h.Parsed[hook][outcome].Sub(t.last.Parsed[hook][outcome])
			t.builder.ReceiverEbpfnetParsedPackets.Add(ctx, int64(gained.Packets), t.parsed[hook][outcome])
			t.builder.ReceiverEbpfnetParsedBytes.Add(ctx, int64(gained.Bytes), t.parsed[hook][outcome])
		}
	}
	for loss := range h.Lost {
		gained := h.Lost[loss].Sub(t.last.Lost[loss])
		t.builder.ReceiverEbpfnetLostPackets.Add(ctx, int64(gained.Packets), t.lost[loss])
		t.builder.ReceiverEbpfnetLostBytes.Add(ctx, int64(gained.Bytes), t.lost[loss])
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
