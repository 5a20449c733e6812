// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadatatest"
)

// logsPipeline takes logs, or refuses them as the test says.
type logsPipeline struct {
	refuse func(calls int) error
	calls  int
	// delivered is "packets@observed seconds" for each record that was taken.
	delivered []string
}

func (p *logsPipeline) consumer(t *testing.T) consumer.Logs {
	t.Helper()
	c, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error {
		p.calls++
		if p.refuse != nil {
			if err := p.refuse(p.calls); err != nil {
				return err
			}
		}
		for _, lr := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			packets, _ := lr.Attributes().Get(netattr.FlowPackets)
			p.delivered = append(p.delivered, fmt.Sprintf("%d@%d", packets.Int(), lr.ObservedTimestamp().AsTime().Unix()))
		}
		return nil
	})
	require.NoError(t, err)
	return c
}

func (p *logsPipeline) take() []string {
	taken := p.delivered
	p.delivered = nil
	return taken
}

func newTestLogsSink(t *testing.T, maxEntries uint32, p *logsPipeline) (*logsSink, *componenttest.Telemetry) {
	t.Helper()
	tt := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tt.Shutdown(context.Background())) })
	cfg := testConfig()
	cfg.Flows.MaxEntries = maxEntries
	l, err := newLogsSink(metadatatest.NewSettings(tt), cfg, p.consumer(t))
	require.NoError(t, err)
	l.start(time.Unix(0, 0), 42)
	return l, tt
}

// windowAt has one flow for each number of packets.
func windowAt(seconds int64, packets ...uint64) *window {
	w := &window{start: time.Unix(seconds-1, 0), end: time.Unix(seconds, 0)}
	for _, n := range packets {
		rec := testRecord(loopback, n)
		rec.Interface = "lo"
		w.flows = append(w.flows, rec)
	}
	return w
}

func requireLost(t *testing.T, tt *componenttest.Telemetry, packets map[string]int64) {
	t.Helper()
	var wantPackets, wantBytes []metricdata.DataPoint[int64]
	for cause, n := range packets {
		attrs := attribute.NewSet(attribute.String("cause", cause))
		wantPackets = append(wantPackets, metricdata.DataPoint[int64]{Attributes: attrs, Value: n})
		wantBytes = append(wantBytes, metricdata.DataPoint[int64]{Attributes: attrs, Value: 100 * n})
	}
	metadatatest.AssertEqualReceiverEbpfnetLostPackets(t, tt, wantPackets, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
	metadatatest.AssertEqualReceiverEbpfnetLostBytes(t, tt, wantBytes, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
}

func requireNothingLost(t *testing.T, tt *componenttest.Telemetry) {
	t.Helper()
	_, err := tt.GetMetric("otelcol_receiver.ebpfnet.lost.packets")
	require.Error(t, err)
}

// requireReceived compares what the collector counts of every receiver.
func requireReceived(t *testing.T, tt *componenttest.Telemetry, name string, want int64) {
	t.Helper()
	m, err := tt.GetMetric(name)
	require.NoError(t, err)
	dps := m.Data.(metricdata.Sum[int64]).DataPoints
	require.Len(t, dps, 1)
	require.Equal(t, want, dps[0].Value, name)
}

func TestLogsSinkDelivers(t *testing.T) {
	p := &logsPipeline{}
	l, tt := newTestLogsSink(t, 1000, p)
	l.consume(context.Background(), windowAt(100, 1, 2))
	l.consume(context.Background(), windowAt(105))
	l.consume(context.Background(), windowAt(110, 3))
	require.Equal(t, []string{"1@100", "2@100", "3@110"}, p.take())
	require.Equal(t, 2, p.calls, "no call for no records")
	l.stop(context.Background())
	requireNothingLost(t, tt)
	requireReceived(t, tt, "otelcol_receiver_accepted_log_records", 3)
	requireReceived(t, tt, "otelcol_receiver_refused_log_records", 0)
}

func TestLogsSinkObserver(t *testing.T) {
	tt := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tt.Shutdown(context.Background())) })
	set := metadatatest.NewSettings(tt)
	set.BuildInfo.Version = "1.2.3"
	var got plog.Logs
	next, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error { got = ld; return nil })
	require.NoError(t, err)
	l, err := newLogsSink(set, testConfig(), next)
	require.NoError(t, err)
	l.start(time.Unix(0, 0), 42)
	l.consume(context.Background(), windowAt(100, 1))

	scope := got.ResourceLogs().At(0).ScopeLogs().At(0)
	require.Equal(t, "1.2.3", scope.Scope().Version())
	netns, ok := scope.LogRecords().At(0).Attributes().Get(netattr.ObservationNetNS)
	require.True(t, ok)
	require.Equal(t, int64(42), netns.Int())
}

func TestLogsSinkBatches(t *testing.T) {
	p := &logsPipeline{}
	l, _ := newTestLogsSink(t, 100_000, p)
	w := windowAt(100)
	w.flows = make([]flow.Record, 2*logsBatch+1)
	for i := range w.flows {
		w.flows[i] = testRecord(loopback, uint64(i))
	}
	l.consume(context.Background(), w)
	require.Equal(t, 3, p.calls)
	require.Len(t, p.delivered, 2*logsBatch+1)
	require.Equal(t, "0@100", p.delivered[0])
	require.Equal(t, fmt.Sprintf("%d@100", 2*logsBatch), p.delivered[2*logsBatch])
}

// What is refused for now comes again, once, before what is new, and as it was
// first observed.
func TestLogsSinkRefusedForNow(t *testing.T) {
	p := &logsPipeline{refuse: func(calls int) error {
		if calls <= 3 {
			return errTest
		}
		return nil
	}}
	l, tt := newTestLogsSink(t, 1000, p)
	w := windowAt(100, 1, 2)
	l.consume(context.Background(), w) // refused
	w.flows[0], w.flows[1] = testRecord(loopback, 77), testRecord(loopback, 88)
	w = windowAt(105, 3)
	l.consume(context.Background(), w) // refused, both of them
	w.flows[0] = testRecord(loopback, 99)
	require.Empty(t, p.take())

	l.consume(context.Background(), windowAt(110, 4))
	require.Equal(t, []string{"1@100", "2@100", "3@105", "4@110"}, p.take())
	l.consume(context.Background(), windowAt(115, 5))
	require.Equal(t, []string{"5@115"}, p.take())
	l.stop(context.Background())
	requireNothingLost(t, tt)
	requireReceived(t, tt, "otelcol_receiver_accepted_log_records", 5)
	requireReceived(t, tt, "otelcol_receiver_refused_log_records", 5) // 1 and 2 twice, 3 once
}

// Also without new records, what was refused comes again.
func TestLogsSinkRetriesInQuietIntervals(t *testing.T) {
	p := &logsPipeline{refuse: func(calls int) error {
		if calls == 1 {
			return errTest
		}
		return nil
	}}
	l, _ := newTestLogsSink(t, 1000, p)
	l.consume(context.Background(), windowAt(100, 1))
	l.consume(context.Background(), windowAt(105))
	require.Equal(t, []string{"1@100"}, p.take())
}

// One batch that is refused does not keep the others back.
func TestLogsSinkRefusedInPart(t *testing.T) {
	p := &logsPipeline{refuse: func(calls int) error {
		switch calls {
		case 1:
			return errTest
		case 3:
			return consumererror.NewPermanent(errTest)
		}
		return nil
	}}
	l, tt := newTestLogsSink(t, 100_000, p)
	l.consume(context.Background(), windowAt(100, 1))
	l.consume(context.Background(), windowAt(105, 2)) // 1 is taken, 2 refused for good
	l.consume(context.Background(), windowAt(110, 4))
	require.Equal(t, []string{"1@100", "4@110"}, p.take())
	requireLost(t, tt, map[string]int64{"refused_by_pipeline": 2})
}

func TestLogsSinkRefusedForGood(t *testing.T) {
	p := &logsPipeline{refuse: func(calls int) error {
		if calls == 1 {
			return consumererror.NewPermanent(errTest)
		}
		return nil
	}}
	l, tt := newTestLogsSink(t, 1000, p)
	l.consume(context.Background(), windowAt(100, 3, 4))
	requireLost(t, tt, map[string]int64{"refused_by_pipeline": 7})
	l.consume(context.Background(), windowAt(105, 1))
	require.Equal(t, []string{"1@105"}, p.take())
	l.stop(context.Background())
	requireLost(t, tt, map[string]int64{"refused_by_pipeline": 7})
}

// No more is kept than the flow map holds; what came first stays.
func TestLogsSinkRefusedTooMuch(t *testing.T) {
	refusing := true
	p := &logsPipeline{refuse: func(int) error {
		if refusing {
			return errTest
		}
		return nil
	}}
	l, tt := newTestLogsSink(t, 3, p)
	l.consume(context.Background(), windowAt(100, 1, 2))
	l.consume(context.Background(), windowAt(105, 4, 8)) // one too many
	requireLost(t, tt, map[string]int64{"too_many_refused": 12})
	l.consume(context.Background(), windowAt(110, 16)) // fits
	l.consume(context.Background(), windowAt(115, 32)) // does not
	requireLost(t, tt, map[string]int64{"too_many_refused": 44})

	refusing = false
	l.consume(context.Background(), windowAt(120, 64))
	require.Equal(t, []string{"1@100", "2@100", "16@110", "64@120"}, p.take())
	l.consume(context.Background(), windowAt(125, 3, 3, 3))
	require.Equal(t, []string{"3@125", "3@125", "3@125"}, p.take())
}

func TestLogsSinkRefusedUntilShutdown(t *testing.T) {
	p := &logsPipeline{refuse: func(int) error { return errTest }}
	l, tt := newTestLogsSink(t, 1000, p)
	l.consume(context.Background(), windowAt(100, 1, 2))
	l.consume(context.Background(), windowAt(105, 4))
	requireNothingLost(t, tt)
	l.stop(context.Background())
	requireLost(t, tt, map[string]int64{"refused_until_shutdown": 7})
	require.Empty(t, p.take())
}
