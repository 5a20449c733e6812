// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

// Outcomes of the ledger. What was seen is the sum of the others, but for what
// is still on its way.
const (
	outcomeSeen       = "seen"
	outcomeExported   = "exported"
	outcomeFiltered   = "filtered"
	outcomeSampledOut = "sampled_out"
	outcomeLost       = "lost"
)

// Causes of outcomes that this package gives; others are probe.Loss and flow.Outcome.
const (
	causeFilter     = "filter"
	causeElsewhere  = "counted_elsewhere"
	causeNoConsumer = "no_consumer"
	causeQueueFull  = "queue_full"
	causeRefused    = "refused_by_pipeline"
	causeAtShutdown = "refused_until_shutdown"
)

// tally is a volume of whole frames by the direction that they were seen in.
type tally [2]flow.Volume

func tallyOf(records []flow.Record) tally {
	var t tally
	for i := range records {
		t[records[i].Direction&1].Add(records[i].WireVolume())
	}
	return t
}

func (t *tally) add(other tally) {
	for d := range t {
		t[d].Add(other[d])
	}
}

// ledger says what became of every packet that a hook saw.
type ledger struct {
	builder *metadata.TelemetryBuilder
}

// add counts a volume of a hook.
func (l *ledger) add(ctx context.Context, hook probe.Hook, outcome, cause string, v flow.Volume) {
	attrs := []attribute.KeyValue{attribute.String("hook", hook.String()), attribute.String("outcome", outcome)}
	if cause != "" {
		attrs = append(attrs, attribute.String("cause", cause))
	}
	set := metric.WithAttributeSet(attribute.NewSet(attrs...))
	l.builder.ReceiverEbpfnetPackets.Add(ctx, int64(v.Packets), set)
	l.builder.ReceiverEbpfnetBytes.Add(ctx, int64(v.Bytes), set)
}

// addTally counts what is in flow records, which come from the TC hooks.
func (l *ledger) addTally(ctx context.Context, outcome, cause string, t tally) {
	for d, v := range t {
		if v == (flow.Volume{}) {
			continue
		}
		hook := probe.HookTCIngress
		if flow.Direction(d) == flow.Egress {
			hook = probe.HookTCEgress
		}
		l.add(ctx, hook, outcome, cause, v)
	}
}

// kernel counts what the kernel's counters gained: what was seen, and what is in
// no record. Without flows all that a hook sees is exported with the counters of
// its interface. All series are there from the first time on, at zero.
func (l *ledger) kernel(ctx context.Context, hook probe.Hook, now, last *probe.HookHealth, flows bool) {
	seen, before := now.Seen(), last.Seen()
	seen = seen.Sub(before)
	l.add(ctx, hook, outcomeSeen, "", seen)
	if hook == probe.HookXDP || !flows {
		l.add(ctx, hook, outcomeExported, "", seen)
		return
	}
	l.add(ctx, hook, outcomeExported, "", flow.Volume{})
	for i := range flow.Outcomes {
		v := now.NoFlow[i].Sub(last.NoFlow[i])
		switch outcome := flow.Outcome(i); outcome {
		case flow.OutcomeOK: // has a flow
		case flow.OutcomeNotIP:
			l.add(ctx, hook, outcomeFiltered, outcome.String(), v)
		default:
			l.add(ctx, hook, outcomeLost, outcome.String(), v)
		}
	}
	for i := range probe.Losses {
		l.add(ctx, hook, outcomeLost, probe.Loss(i).String(), now.Lost[i].Sub(last.Lost[i]))
	}
	l.add(ctx, hook, outcomeFiltered, causeFilter, now.Filtered.Sub(last.Filtered))
	l.add(ctx, hook, outcomeFiltered, causeElsewhere, flow.Volume{})
	l.add(ctx, hook, outcomeSampledOut, "", now.SampledOut.Sub(last.SampledOut))
}
