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
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/drops"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadatatest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

func newTestTelemetry(t *testing.T, flows bool) (*telemetry, *componenttest.Telemetry) {
	t.Helper()
	tt := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tt.Shutdown(context.Background())) })
	own, err := newTelemetry(metadatatest.NewSettings(tt).TelemetrySettings, flows)
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
	next := func(v *flow.Volume) {
		*v = packetsOf100Bytes(n)
		n += factor
	}
	for hook := range h.Hooks {
		at := &h.Hooks[hook]
		for outcome := range at.Parsed {
			next(&at.Parsed[outcome])
		}
		for outcome := range at.NoFlow {
			next(&at.NoFlow[outcome])
		}
		for loss := range at.Lost {
			next(&at.Lost[loss])
		}
		next(&at.Filtered)
		next(&at.SampledOut)
		next(&at.InterfaceUnknown)
	}
	for refusal := range h.Refused {
		next(&h.Refused[refusal])
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

var (
	hookNames    = []string{"xdp", "tc_ingress", "tc_egress"}
	outcomeNames = []string{"ok", "truncated", "malformed", "unsupported", "not_ip"}
	refusalNames = []string{
		"vxlan_no_vni", "vxlan_reserved_bits", "vxlan_gpe", "vxlan_nsh", "geneve_version", "geneve_control",
		"gre_version", "gre_routing", "erspan",
	}
)

// perHook is how many volumes health has of a hook, and noFlow and so on is at
// which of them those of a kind begin.
const (
	noFlow, lost, filtered = 5, 10, 13
	sampledOut, unknown    = 14, 15
	perHook                = 16
)

func requireHealth(t *testing.T, tt *componenttest.Telemetry, factor int64) {
	t.Helper()
	var parsed, hooks, refused []attribute.Set
	for _, hook := range hookNames {
		hooks = append(hooks, attribute.NewSet(attribute.String("hook", hook)))
		for _, outcome := range outcomeNames {
			parsed = append(parsed, attribute.NewSet(attribute.String("hook", hook), attribute.String("outcome", outcome)))
		}
	}
	for _, reason := range refusalNames {
		refused = append(refused, attribute.NewSet(attribute.String("reason", reason)))
	}
	parsedAt := func(each int64) func(int) int64 {
		return func(i int) int64 { return int64(i/5*perHook+i%5+1) * each * factor }
	}
	ignore := metricdatatest.IgnoreTimestamp()
	metadatatest.AssertEqualReceiverEbpfnetParsedPackets(t, tt, points(parsedAt(1), parsed...), ignore)
	metadatatest.AssertEqualReceiverEbpfnetParsedBytes(t, tt, points(parsedAt(100), parsed...), ignore)
	metadatatest.AssertEqualReceiverEbpfnetInterfaceUncounted(t, tt, points(func(i int) int64 {
		return int64(i*perHook+unknown+1) * factor
	}, hooks...), ignore)
	metadatatest.AssertEqualReceiverEbpfnetTunnelRefused(t, tt, points(func(i int) int64 {
		return int64(3*perHook+1+i+1) * factor // the first is of those that are not refused
	}, refused...), ignore)
	none := attribute.NewSet()
	one := func(n int64) func(int) int64 { return func(int) int64 { return n * factor } }
	metadatatest.AssertEqualReceiverEbpfnetFlowOverflowed(t, tt, points(one(1000), none), ignore)
	metadatatest.AssertEqualReceiverEbpfnetFlowEntries(t, tt, points(one(2000), none), ignore)
}

// kernelLedger is what the ledger has of health alone. A key without value is
// there at zero.
func kernelLedger(flows bool, factor uint64) map[entry]flow.Volume {
	want := map[entry]flow.Volume{}
	for i, hook := range hookNames {
		at := func(place int) flow.Volume { return packetsOf100Bytes(uint64(i*perHook+place+1) * factor) }
		var seen flow.Volume
		for outcome := range outcomeNames {
			seen.Add(at(outcome))
		}
		want[entry{hook, "seen", ""}] = seen
		if hook == "xdp" || !flows {
			want[entry{hook, "exported", ""}] = seen
			continue
		}
		want[entry{hook, "exported", ""}] = flow.Volume{}
		want[entry{hook, "filtered", "counted_elsewhere"}] = flow.Volume{}
		for j, outcome := range outcomeNames[1:4] {
			want[entry{hook, "lost", outcome}] = at(noFlow + 1 + j)
		}
		want[entry{hook, "filtered", "not_ip"}] = at(noFlow + 4)
		for j, cause := range []string{"ring_buffer_full", "map_update", "overflow_table_full"} {
			want[entry{hook, "lost", cause}] = at(lost + j)
		}
		want[entry{hook, "filtered", "filter"}] = at(filtered)
		want[entry{hook, "sampled_out", ""}] = at(sampledOut)
	}
	return want
}

// All series are there from the beginning, so that an alert on them can tell
// nothing lost from nobody there.
func TestTelemetryRecordsWhatWasGained(t *testing.T) {
	for _, flows := range []bool{true, false} {
		own, tt := newTestTelemetry(t, flows)
		last := probe.Health{}
		for _, factor := range []uint64{0, 3, 3, 5} {
			if factor > 0 {
				last = health(factor)
			}
			own.record(context.Background(), last)
			requireHealth(t, tt, int64(factor))
			require.Equal(t, kernelLedger(flows, factor), wholeLedger(t, tt))
		}
	}
}

func TestTelemetryPrograms(t *testing.T) {
	own, tt := newTestTelemetry(t, true)
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

// The session feeds it.
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

// What the probes of drops and of netfilter's hooks miss is told, also where it is
// nothing, and a reading that fails adds nothing.
func TestSessionRecordsWhatDropsAndNetfilterMiss(t *testing.T) {
	tt := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tt.Shutdown(context.Background())) })
	s := newSession(metadatatest.NewSettings(tt), testConfig())
	s.load = func(probe.Options) (prober, error) { return newFakeProbe(), nil }
	sk := &fakeSink{}
	require.NoError(t, s.join(componenttest.NewNopHost(), sk))
	t.Cleanup(func() { require.NoError(t, s.leave(context.Background(), sk)) })
	dropped, hooks := &fakeDrops{}, &fakeNetfilter{}
	s.useDrops(dropped)
	s.netfilter = hooks

	var causes []attribute.Set
	for _, cause := range []string{"count_table_full", "flow_table_full", "netns_unknown", "program_busy"} {
		causes = append(causes, attribute.NewSet(attribute.String("cause", cause)))
	}
	for _, step := range []struct {
		factor uint64
		err    error
		want   int64
	}{{0, nil, 0}, {2, nil, 2}, {5, errTest, 2}, {5, nil, 5}, {5, nil, 5}} {
		dropped.health = drops.Health{
			CountLost: packetsOf100Bytes(step.factor), FlowLost: packetsOf100Bytes(2 * step.factor),
			NamespaceUnknown: packetsOf100Bytes(3 * step.factor), Missed: 4 * step.factor, NoFlow: packetsOf100Bytes(99),
		}
		hooks.evicted = 7 * step.factor
		dropped.healthErr, hooks.err = step.err, step.err
		s.tick(context.Background())
		metadatatest.AssertEqualReceiverEbpfnetDropsUncounted(t, tt, points(func(i int) int64 {
			return int64(i+1) * step.want
		}, causes...), metricdatatest.IgnoreTimestamp())
		metadatatest.AssertEqualReceiverEbpfnetNetfilterEvicted(t, tt, points(func(int) int64 {
			return 7 * step.want
		}, attribute.NewSet()), metricdatatest.IgnoreTimestamp())
	}
}
