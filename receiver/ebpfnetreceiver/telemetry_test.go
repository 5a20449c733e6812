// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadatatest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

func newTestTelemetry(t *testing.T) (*telemetry, *componenttest.Telemetry) {
	t.Helper()
	tt := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tt.Shutdown(context.Background())) })
	own, err := newTelemetry(metadatatest.NewSettings(tt).TelemetrySettings)
	require.NoError(t, err)
	t.Cleanup(own.close)
	return own, tt
}

// health with another number in each place, all of them multiples of factor.
func health(factor uint64) probe.Health {
	h := probe.Health{
		Overflowed:  flow.Volume{Packets: 1000 * factor, Bytes: 1},
		FlowEntries: int(2000 * factor),
	}
	n := factor
	for hook := range h.Parsed {
		for outcome := range h.Parsed[hook] {
			h.Parsed[hook][outcome] = flow.Volume{Packets: n, Bytes: 100 * n}
			n += factor
		}
	}
	for loss := range h.Lost {
		h.Lost[loss] = flow.Volume{Packets: n, Bytes: 100 * n}
		n += factor
	}
	return h
}

func points(value func(i int) int64, sets ...attribute.Set) []metricdata.DataPoint[int64] {
	dps := make([]metricdata.DataPoint[int64], len(sets))
	for i, set := range sets {
		dps[i] = metricdata.DataPoint[int64]{Attributes: set, Value: value(i)}
	}
	return dps
}

func requireHealth(t *testing.T, tt *componenttest.Telemetry, factor int64) {
	t.Helper()
	var parsed, lost []attribute.Set
	for _, hook := range []string{"xdp", "tc_ingress", "tc_egress"} {
		for _, outcome := range []string{"ok", "truncated", "malformed", "unsupported", "not_ip"} {
			parsed = append(parsed, attribute.NewSet(attribute.String("hook", hook), attribute.String("outcome", outcome)))
		}
	}
	for _, cause := range []string{"ring_buffer_full", "map_update", "interface_unknown", "overflow_table_full"} {
		lost = append(lost, attribute.NewSet(attribute.String("cause", cause)))
	}
	from := func(n, each int64) func(int) int64 {
		return func(i int) int64 { return (n + int64(i)) * each * factor }
	}
	ignore := metricdatatest.IgnoreTimestamp()
	metadatatest.AssertEqualReceiverEbpfnetParsedPackets(t, tt, points(from(1, 1), parsed...), ignore)
	metadatatest.AssertEqualReceiverEbpfnetParsedBytes(t, tt, points(from(1, 100), parsed...), ignore)
	metadatatest.AssertEqualReceiverEbpfnetLostPackets(t, tt, points(from(16, 1), lost...), ignore)
	metadatatest.AssertEqualReceiverEbpfnetLostBytes(t, tt, points(from(16, 100), lost...), ignore)
	none := attribute.NewSet()
	metadatatest.AssertEqualReceiverEbpfnetFlowOverflowed(t, tt, points(from(1000, 1), none), ignore)
	metadatatest.AssertEqualReceiverEbpfnetFlowEntries(t, tt, points(from(2000, 1), none), ignore)
}

func TestTelemetryRecordsWhatWasGained(t *testing.T) {
	own, tt := newTestTelemetry(t)
	// All series are there from the beginning, so that an alert on them can tell
	// nothing lost from nobody there.
	own.record(context.Background(), probe.Health{})
	requireHealth(t, tt, 0)
	own.record(context.Background(), health(3))
	requireHealth(t, tt, 3)
	own.record(context.Background(), health(3))
	requireHealth(t, tt, 3)
	own.record(context.Background(), health(5))
	requireHealth(t, tt, 5)
}

func TestTelemetryPrograms(t *testing.T) {
	own, tt := newTestTelemetry(t)
	program := func(hook, mode, reason string) attribute.Set {
		return attribute.NewSet(attribute.String("hook", hook), attribute.String("mode", mode), attribute.String("reason", reason))
	}
	sets := []attribute.Set{
		program("tc_ingress", "tcx", ""), program("tc_egress", "clsact", "not_supported"), program("xdp", "off", "no_ethernet"),
	}
	require3 := func(n ...int64) {
		t.Helper()
		own.record(context.Background(), probe.Health{})
		metadatatest.AssertEqualReceiverEbpfnetPrograms(t, tt,
			points(func(i int) int64 { return n[i] }, sets...), metricdatatest.IgnoreTimestamp())
	}
	modes := []probe.Attachment{
		{Hook: probe.HookTCIngress, Mode: "tcx"},
		{Hook: probe.HookTCEgress, Mode: "clsact", Reason: "not_supported", Err: errTest},
		{Hook: probe.HookXDP, Mode: "off", Reason: "no_ethernet", Err: errTest},
	}
	own.attached(2, modes)
	require3(1, 1, 1)
	own.attached(3, modes[:1])
	require3(2, 1, 1)
	own.attached(2, modes[:2]) // again, in other modes
	require3(2, 1, 0)
	own.detached(2)
	own.detached(2)
	own.detached(99)
	require3(1, 0, 0)
}

// The session feeds it, and what is lost in its own sinks adds to the same metric.
func TestSessionRecordsItsHealth(t *testing.T) {
	tt := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tt.Shutdown(context.Background())) })
	f := newFakeProbe()
	s := newSession(metadatatest.NewSettings(tt), testConfig())
	s.load = func(probe.Options) (prober, error) { return f, nil }
	sk := &fakeSink{}
	require.NoError(t, s.join(componenttest.NewNopHost(), sk))
	f.health = health(1)
	s.tick(context.Background())
	requireHealth(t, tt, 1)
	f.health = health(2)
	require.NoError(t, s.leave(context.Background(), sk))
	requireHealth(t, tt, 2)
}
