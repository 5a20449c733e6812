// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/join"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadatatest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netdev"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

func newTestLedger(t *testing.T, tt *componenttest.Telemetry) *ledger {
	t.Helper()
	builder, err := metadata.NewTelemetryBuilder(metadatatest.NewSettings(tt).TelemetrySettings)
	require.NoError(t, err)
	return &ledger{builder: builder}
}

// entry is a series of the ledger.
type entry struct{ hook, outcome, cause string }

// readLedger gives what is in the ledger, without what is zero.
func readLedger(t *testing.T, tt *componenttest.Telemetry) map[entry]flow.Volume {
	t.Helper()
	got := wholeLedger(t, tt)
	for e, v := range got {
		if v == (flow.Volume{}) {
			delete(got, e)
		}
	}
	return got
}

// wholeLedger gives all that is in the ledger.
func wholeLedger(t *testing.T, tt *componenttest.Telemetry) map[entry]flow.Volume {
	t.Helper()
	got := map[entry]flow.Volume{}
	each := func(name string, yield func(*flow.Volume, uint64)) {
		m, err := tt.GetMetric(name)
		if err != nil {
			return // nothing was counted yet
		}
		for _, dp := range m.Data.(metricdata.Sum[int64]).DataPoints {
			require.GreaterOrEqual(t, dp.Value, int64(0), "%s never goes back", name)
			e := entry{hook: attributeOf(dp, "hook"), outcome: attributeOf(dp, "outcome"), cause: attributeOf(dp, "cause")}
			v := got[e]
			yield(&v, uint64(dp.Value))
			got[e] = v
		}
	}
	each("otelcol_receiver.ebpfnet.packets", func(v *flow.Volume, n uint64) { v.Packets = n })
	each("otelcol_receiver.ebpfnet.bytes", func(v *flow.Volume, n uint64) { v.Bytes = n })
	return got
}

func attributeOf(dp metricdata.DataPoint[int64], key string) string {
	for _, kv := range dp.Attributes.ToSlice() {
		if string(kv.Key) == key {
			return kv.Value.AsString()
		}
	}
	return ""
}

// requireLedger compares what became of the packets at the TC ingress, which are
// of 100 bytes each, with "outcome" or "outcome cause".
func requireLedger(t *testing.T, tt *componenttest.Telemetry, packets map[string]uint64) {
	t.Helper()
	want, got := map[string]flow.Volume{}, map[string]flow.Volume{}
	for what, n := range packets {
		want[what] = packetsOf100Bytes(n)
	}
	for e, v := range readLedger(t, tt) {
		require.Equal(t, "tc_ingress", e.hook)
		what := e.outcome
		if e.cause != "" {
			what += " " + e.cause
		}
		got[what] = v
	}
	require.Equal(t, want, got)
}

// pipeline takes what it is given, or refuses it. It may take its time.
type pipeline func(ctx context.Context, call int) error

func takesAll(context.Context, int) error { return nil }

func refuses(context.Context, int) error { return errTest }

func refusesForGood(context.Context, int) error { return consumererror.NewPermanent(errTest) }

// refusesInTurn takes every third, refuses every third for good.
func refusesInTurn(_ context.Context, call int) error {
	switch call % 3 {
	case 0:
		return errTest
	case 1:
		return consumererror.NewPermanent(errTest)
	}
	return nil
}

// slow takes seven intervals for each.
func slow(ctx context.Context, _ int) error {
	select {
	case <-time.After(35 * time.Second): // of the bubble's time
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// books are a session with real sinks on a fake probe, whose ledger is looked at.
type books struct {
	*session
	probe         *fakeProbe
	own           *componenttest.Telemetry
	logs, metrics sink // nil for none
}

// owned and noted are interfaces of which one counts.
const owned, noted = 1001, 1002

type countedAt uint32

func (c countedAt) Owns(key *flow.Key) bool      { return key.InterfaceIndex == uint32(c) }
func (c countedAt) OwnsOuter(key *flow.Key) bool { return c.Owns(key) }

// newBooks is for a bubble of synctest: the session watches nothing, and no more
// happens than the test does.
func newBooks(t *testing.T, cfg *Config, logs, metrics pipeline) *books {
	t.Helper()
	b := &books{probe: newFakeProbe(), own: componenttest.NewTelemetry()}
	t.Cleanup(func() { require.NoError(t, b.own.Shutdown(context.Background())) })
	set := metadatatest.NewSettings(b.own)
	b.session = newSession(set, cfg)
	b.session.probe, b.cancel, b.done = b.probe, func() {}, make(chan struct{})
	close(b.done)
	b.started, b.lastRead = true, time.Now()
	var err error
	b.telemetry, err = newTelemetry(set.TelemetrySettings, cfg.flowsEnabled())
	require.NoError(t, err)
	b.features = newFeatures(cfg, b.telemetry.builder)
	b.totals, b.watched = aggregate.NewInterfaces(), newWatchList(netdev.Filter{})
	b.watched.attached[owned], b.watched.attached[noted] = device(owned, "fake1"), device(noted, "fake2")
	b.tunnels = aggregate.NewTunnels(100, time.Hour, b.lastRead)
	b.joiner = join.New(1000)
	b.chooseOwners = func() join.Owners { return countedAt(owned) }

	if logs != nil {
		calls := 0
		next, err := consumer.NewLogs(func(ctx context.Context, _ plog.Logs) error { calls++; return logs(ctx, calls) })
		require.NoError(t, err)
		b.logs, err = newLogsSink(set, cfg, next)
		require.NoError(t, err)
		require.NoError(t, b.join(componenttest.NewNopHost(), b.logs))
	}
	if metrics != nil {
		calls := 0
		next, err := consumer.NewMetrics(func(ctx context.Context, _ pmetric.Metrics) error { calls++; return metrics(ctx, calls) })
		require.NoError(t, err)
		b.metrics, err = newMetricsSink(set, cfg, next)
		require.NoError(t, err)
		require.NoError(t, b.join(componenttest.NewNopHost(), b.metrics))
	}
	return b
}

// intervals are as many of them with random traffic.
func (b *books) intervals(rnd *rand.Rand, n int) {
	for range n {
		b.probe.see(rnd)
		time.Sleep(5 * time.Second) // of the bubble's time
		b.mu.Lock()
		b.collect(context.Background(), nil)
		b.mu.Unlock()
	}
}

// see makes the programs see packets, each of which is in one place.
func (f *fakeProbe) see(rnd *rand.Rand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	volume := func() flow.Volume {
		packets := rnd.Uint64N(5)
		return flow.Volume{Packets: packets, Bytes: packets * (60 + rnd.Uint64N(1400))}
	}
	xdp := &f.health.Hooks[probe.HookXDP]
	for outcome := range xdp.Parsed {
		xdp.Parsed[outcome].Add(volume())
	}
	for direction, hook := range []probe.Hook{flow.Ingress: probe.HookTCIngress, flow.Egress: probe.HookTCEgress} {
		h := &f.health.Hooks[hook]
		seen := func(to *flow.Volume, outcome flow.Outcome) {
			v := volume()
			to.Add(v)
			h.Parsed[outcome].Add(v)
		}
		for outcome := flow.OutcomeTruncated; outcome <= flow.OutcomeNotIP; outcome++ {
			seen(&h.NoFlow[outcome], outcome)
		}
		for loss := range h.Lost {
			seen(&h.Lost[loss], flow.OutcomeOK)
		}
		seen(&h.Filtered, flow.OutcomeOK)
		seen(&h.SampledOut, flow.OutcomeOK)
		h.InterfaceUnknown.Add(volume()) // these are in their places too
		for i := range rnd.IntN(20) {
			rec := testRecord(owned+rnd.IntN(2), 1+rnd.Uint64N(5))
			rec.Direction, rec.SourcePort = flow.Direction(direction), uint16(i)
			if rnd.IntN(3) == 0 {
				rec.Has |= flow.InTunnel
				rec.Tunnel = &flow.Tunnel{Type: flow.VXLAN, Source: rec.Source, Destination: rec.Destination, HasID: true}
				rec.WireBytes += 50 * rec.Packets
			}
			f.flows = append(f.flows, rec)
			// of one that ends too early the addresses can be read as well
			h.Parsed[flow.Outcome(rnd.IntN(2))].Add(rec.WireVolume())
		}
	}
}

// requireClosed: at rest, for every hook, what was seen is the sum of all else.
func (b *books) requireClosed(t *testing.T) map[entry]flow.Volume {
	t.Helper()
	all := readLedger(t, b.own)
	seen, rest := map[string]flow.Volume{}, map[string]flow.Volume{}
	for e, v := range all {
		into := rest
		if e.outcome == outcomeSeen {
			into = seen
		}
		sum := into[e.hook]
		sum.Add(v)
		into[e.hook] = sum
	}
	require.Len(t, seen, 3)
	require.Equal(t, seen, rest, "%v", all)
	for hook := range probe.Hooks {
		require.Equal(t, b.probe.health.Hooks[hook].Seen(), seen[probe.Hook(hook).String()])
	}
	return all
}

// Whatever becomes of the packets, the ledger says it of each of them once.
func TestLedgerCloses(t *testing.T) {
	for _, tt := range []struct {
		name          string
		logs, metrics pipeline
		config        func(*Config)
		metricsFirst  bool // leave
		// want and never are what becomes of flows, beside those counted elsewhere
		want, never []string
	}{
		{
			name: "logs only", logs: takesAll,
			want: []string{"exported"}, never: []string{"lost refused_by_pipeline", "lost queue_full", "lost refused_until_shutdown", "filtered no_consumer"},
		},
		{
			name: "metrics only", metrics: takesAll,
			want: []string{"exported"}, never: []string{"lost refused_until_shutdown", "filtered no_consumer"},
		},
		{name: "both", logs: takesAll, metrics: takesAll, want: []string{"exported"}},
		{name: "both, metrics leave first", logs: takesAll, metrics: takesAll, metricsFirst: true, want: []string{"exported"}},
		{
			name: "neither", metrics: takesAll,
			config: func(cfg *Config) {
				cfg.MetricsBuilderConfig.Metrics.NetprobeFlowBytes.Enabled = false
				cfg.MetricsBuilderConfig.Metrics.NetprobeFlowPackets.Enabled = false
			},
			want: []string{"filtered no_consumer"}, never: []string{"exported"},
		},
		{name: "logs are refused for good", logs: refusesForGood, want: []string{"lost refused_by_pipeline"}, never: []string{"exported"}},
		{name: "logs are refused", logs: refuses, want: []string{"lost refused_until_shutdown"}, never: []string{"exported", "lost queue_full"}},
		{
			name: "logs are refused, and the queue is small", logs: refuses,
			config: func(cfg *Config) { cfg.Flows.QueueSize = 30 },
			want:   []string{"lost refused_until_shutdown", "lost queue_full"}, never: []string{"exported"},
		},
		{name: "logs are refused in turn", logs: refusesInTurn, want: []string{"exported", "lost refused_by_pipeline"}},
		{
			name: "logs are slow", logs: slow,
			config: func(cfg *Config) { cfg.Flows.QueueSize = 30 },
			want:   []string{"exported", "lost queue_full"},
		},
		{name: "metrics are refused", metrics: refuses, want: []string{"lost refused_until_shutdown"}, never: []string{"exported"}},
		{name: "metrics are refused in turn", metrics: refusesInTurn, want: []string{"exported"}},
		{name: "metrics are slow", metrics: slow, want: []string{"exported"}},
		{
			name: "metrics are refused, and account once logs have left", logs: takesAll, metrics: refuses,
			want: []string{"exported", "lost refused_until_shutdown"},
		},
		{name: "only metrics are refused", logs: takesAll, metrics: refuses, metricsFirst: true, want: []string{"exported"}, never: []string{"lost refused_until_shutdown"}},
		{name: "only logs are refused", logs: refusesForGood, metrics: takesAll, metricsFirst: true, want: []string{"lost refused_by_pipeline"}, never: []string{"exported"}},
		{
			name: "each packet is counted at every interface", logs: takesAll,
			config: func(cfg *Config) { cfg.Flows.PerInterface = true },
			want:   []string{"exported"},
		},
		{
			name: "samples", logs: takesAll, metrics: takesAll,
			config: func(cfg *Config) { cfg.Flows.Sampling = 1000 },
			want:   []string{"exported", "sampled_out"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(5) {
				synctest.Test(t, func(t *testing.T) {
					cfg := testConfig()
					if tt.config != nil {
						tt.config(cfg)
					}
					b := newBooks(t, cfg, tt.logs, tt.metrics)
					if cfg.Flows.PerInterface {
						b.chooseOwners = func() join.Owners { return nil }
					}
					b.live(t, rand.New(rand.NewPCG(seed, 1)), tt.metricsFirst)
					all := b.requireClosed(t)
					ingress := func(what string) flow.Volume {
						for e, v := range all {
							if e.hook == "tc_ingress" && (e.outcome == what || e.outcome+" "+e.cause == what) {
								return v
							}
						}
						return flow.Volume{}
					}
					for _, what := range tt.want {
						require.NotZero(t, ingress(what), what)
					}
					for _, what := range tt.never {
						require.Zero(t, ingress(what), what)
					}
					require.Equal(t, cfg.Flows.PerInterface, ingress("filtered counted_elsewhere") == flow.Volume{})
				})
			}
		})
	}
}

// live goes through intervals, of which one cannot be read, and to the end of
// one sink after the other; programs count until they are gone.
func (b *books) live(t *testing.T, rnd *rand.Rand, metricsFirst bool) {
	t.Helper()
	b.intervals(rnd, 10)
	b.probe.drainErr = errTest
	b.intervals(rnd, 1)
	b.probe.drainErr = nil
	b.intervals(rnd, 10)
	leave := []sink{b.logs, b.metrics}
	if metricsFirst {
		leave = []sink{b.metrics, b.logs}
	}
	for _, sk := range leave {
		if sk == nil {
			continue
		}
		b.probe.see(rnd)
		if len(b.members) == 1 {
			b.probe.onDetach = func() { b.probe.flows = append(b.probe.flows, b.probe.seeOne()) }
		}
		require.NoError(t, b.leave(context.Background(), sk))
		if len(b.members) > 0 {
			b.intervals(rnd, 3)
		}
	}
	synctest.Wait()
}

// seeOne makes the programs see one packet of a flow.
func (f *fakeProbe) seeOne() flow.Record {
	rec := testRecord(owned, 1)
	f.health.Hooks[probe.HookTCIngress].Parsed[flow.OutcomeOK].Add(rec.WireVolume())
	return rec
}

// Without flows all that a hook sees is in the counters of its interface.
func TestLedgerWithoutFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Flows.Enabled = false
		b := newBooks(t, cfg, nil, takesAll)
		for hook := range b.probe.health.Hooks {
			b.probe.health.Hooks[hook].Parsed = [flow.Outcomes]flow.Volume{packetsOf100Bytes(1), flow.OutcomeNotIP: packetsOf100Bytes(2)}
		}
		require.NoError(t, b.leave(context.Background(), b.metrics))
		all := b.requireClosed(t)
		require.Len(t, all, 6)
		for _, hook := range hookNames {
			require.Equal(t, packetsOf100Bytes(3), all[entry{hook, "exported", ""}])
		}
	})
}

// What a record has beyond its own frame counts in the ledger, and what is
// exported is what the pipeline took.
func TestLedgerCountsWholeFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBooks(t, testConfig(), takesAll, nil)
		rec := testRecord(owned, 2)
		rec.Direction, rec.WireBytes = flow.Egress, 300
		elsewhere := rec
		elsewhere.InterfaceIndex, elsewhere.Packets, elsewhere.WireBytes = noted, 3, 450
		b.probe.flows = []flow.Record{rec, elsewhere}
		require.NoError(t, b.leave(context.Background(), b.logs))
		require.Equal(t, map[entry]flow.Volume{
			{"tc_egress", "exported", ""}:                  {Packets: 2, Bytes: 300},
			{"tc_egress", "filtered", "counted_elsewhere"}: {Packets: 3, Bytes: 450},
		}, readLedger(t, b.own))
	})
}
