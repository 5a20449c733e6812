// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadatatest"
)

// logsPipeline takes logs, or refuses them as the test says. Tests look into it
// while the sink rests.
type logsPipeline struct {
	// refuse may take its time.
	refuse func(ctx context.Context, calls int) error
	calls  int
	// delivered is "packets@observed seconds" for each flow that was taken, and
	// "state id@observed seconds" for each tunnel's event.
	delivered []string
}

func (p *logsPipeline) consumer(t *testing.T) consumer.Logs {
	t.Helper()
	c, err := consumer.NewLogs(func(ctx context.Context, ld plog.Logs) error {
		p.calls++
		if p.refuse != nil {
			if err := p.refuse(ctx, p.calls); err != nil {
				return err
			}
		}
		for _, lr := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			what := lr.Attributes().AsRaw()
			text := fmt.Sprint(what[netattr.FlowPackets])
			if lr.EventName() == netattr.EventTunnel {
				text = fmt.Sprint(what[netattr.TunnelState], " ", what[netattr.TunnelID])
			}
			p.delivered = append(p.delivered, fmt.Sprintf("%s@%d", text, lr.ObservedTimestamp().AsTime().Unix()))
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

// refuseFirst refuses so many calls with an error.
func refuseFirst(n int, err error) func(context.Context, int) error {
	return func(_ context.Context, calls int) error {
		if calls <= n {
			return err
		}
		return nil
	}
}

// newTestLogsSink is a sink that was started. It is for a bubble of synctest, in
// which a test can wait until the sink rests.
func newTestLogsSink(t *testing.T, queueSize int, p *logsPipeline) (*logsSink, *componenttest.Telemetry) {
	t.Helper()
	tt := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tt.Shutdown(context.Background())) })
	cfg := testConfig()
	cfg.Flows.QueueSize = queueSize
	l, err := newLogsSink(metadatatest.NewSettings(tt), cfg, p.consumer(t))
	require.NoError(t, err)
	l.start(time.Unix(0, 0), 42, newTestLedger(t, tt))
	t.Cleanup(func() { l.stop(context.Background()) })
	return l, tt
}

// give gives the sink a window that it accounts for, and waits until it rests.
func (l *logsSink) give(w *window) {
	w.accountant = l
	l.consume(context.Background(), w)
	synctest.Wait()
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
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{}
		l, tt := newTestLogsSink(t, 1000, p)
		l.give(windowAt(100, 1, 2))
		l.give(windowAt(105))
		l.give(windowAt(110, 3))
		require.Equal(t, []string{"1@100", "2@100", "3@110"}, p.take())
		require.Equal(t, 2, p.calls, "no call for no records")
		l.stop(context.Background())
		requireLedger(t, tt, map[string]uint64{"exported": 6})
		requireReceived(t, tt, "otelcol_receiver_accepted_log_records", 3)
		requireReceived(t, tt, "otelcol_receiver_refused_log_records", 0)
	})
}

func TestLogsSinkObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tt := componenttest.NewTelemetry()
		t.Cleanup(func() { require.NoError(t, tt.Shutdown(context.Background())) })
		set := metadatatest.NewSettings(tt)
		set.BuildInfo.Version = "1.2.3"
		var got plog.Logs
		next, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error { got = ld; return nil })
		require.NoError(t, err)
		l, err := newLogsSink(set, testConfig(), next)
		require.NoError(t, err)
		l.start(time.Unix(0, 0), 42, newTestLedger(t, tt))
		l.give(windowAt(100, 1))
		l.stop(context.Background())

		scope := got.ResourceLogs().At(0).ScopeLogs().At(0)
		require.Equal(t, "1.2.3", scope.Scope().Version())
		netns, ok := scope.LogRecords().At(0).Attributes().Get(netattr.ObservationNetNS)
		require.True(t, ok)
		require.Equal(t, int64(42), netns.Int())
	})
}

func TestLogsSinkBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{}
		l, _ := newTestLogsSink(t, 100_000, p)
		w := windowAt(100)
		w.flows = make([]flow.Record, 2*logsBatch+1)
		for i := range w.flows {
			w.flows[i] = testRecord(loopback, uint64(i))
		}
		l.give(w)
		require.Equal(t, 3, p.calls)
		require.Len(t, p.delivered, 2*logsBatch+1)
		require.Equal(t, "0@100", p.delivered[0])
		require.Equal(t, fmt.Sprintf("%d@100", 2*logsBatch), p.delivered[2*logsBatch])
	})
}

// A sink that does not account leaves the ledger to the one that does.
func TestLogsSinkThatDoesNotAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{refuse: func(_ context.Context, calls int) error {
			if calls == 2 {
				return consumererror.NewPermanent(errTest)
			}
			return nil
		}}
		l, tt := newTestLogsSink(t, 1000, p)
		require.True(t, l.accounts())
		l.consume(context.Background(), windowAt(100, 1))
		synctest.Wait()
		l.consume(context.Background(), windowAt(105, 2))
		l.stop(context.Background())
		require.Equal(t, []string{"1@100"}, p.take())
		requireLedger(t, tt, map[string]uint64{})
	})
}

// What is refused for now comes again, once, before what is new, and as it was
// first observed.
func TestLogsSinkRefusedForNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{refuse: refuseFirst(2, errTest)}
		l, tt := newTestLogsSink(t, 1000, p)
		w := windowAt(100, 1, 2)
		l.give(w) // refused
		w.flows[0], w.flows[1] = testRecord(loopback, 77), testRecord(loopback, 88)
		w = windowAt(105, 3)
		l.give(w) // the first one refused again, so that the second waits for its turn
		w.flows[0] = testRecord(loopback, 99)
		require.Empty(t, p.take())
		require.Equal(t, 2, p.calls, "once in an interval")

		l.give(windowAt(110, 4))
		require.Equal(t, []string{"1@100", "2@100", "3@105", "4@110"}, p.take())
		l.give(windowAt(115, 5))
		require.Equal(t, []string{"5@115"}, p.take())
		l.stop(context.Background())
		requireLedger(t, tt, map[string]uint64{"exported": 15})
		requireReceived(t, tt, "otelcol_receiver_accepted_log_records", 5)
		requireReceived(t, tt, "otelcol_receiver_refused_log_records", 4) // 1 and 2 twice
	})
}

// Also without new records, what was refused comes again.
func TestLogsSinkRetriesInQuietIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{refuse: refuseFirst(1, errTest)}
		l, _ := newTestLogsSink(t, 1000, p)
		l.give(windowAt(100, 1))
		require.Empty(t, p.take())
		l.give(windowAt(105))
		require.Equal(t, []string{"1@100"}, p.take())
	})
}

// What is refused for good is lost, and keeps nothing else back.
func TestLogsSinkRefusedForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{refuse: func(_ context.Context, calls int) error {
			switch calls {
			case 1:
				return errTest
			case 3:
				return consumererror.NewPermanent(errTest)
			}
			return nil
		}}
		l, tt := newTestLogsSink(t, 100_000, p)
		l.give(windowAt(100, 1))
		l.give(windowAt(105, 2)) // 1 is taken, 2 refused for good
		requireLedger(t, tt, map[string]uint64{"exported": 1, "lost refused_by_pipeline": 2})
		l.give(windowAt(110, 4))
		require.Equal(t, []string{"1@100", "4@110"}, p.take())
		l.stop(context.Background())
		requireLedger(t, tt, map[string]uint64{"exported": 5, "lost refused_by_pipeline": 2})
	})
}

// A slow pipeline keeps nobody waiting: what is counted meanwhile waits in the
// queue, in its order, as far as there is room.
func TestLogsSinkOfASlowPipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan struct{})
		p := &logsPipeline{refuse: func(context.Context, int) error { <-proceed; return nil }}
		l, tt := newTestLogsSink(t, 4, p)
		l.give(windowAt(100, 1, 2)) // on its way
		l.give(windowAt(105, 4))
		l.give(windowAt(110, 8, 16)) // one too many
		requireLedger(t, tt, map[string]uint64{"lost queue_full": 16})
		l.give(windowAt(115, 32)) // does not fit
		l.give(windowAt(120, 64))
		require.Equal(t, 1, p.calls)
		require.Equal(t, 4, l.queued)
		close(proceed)
		synctest.Wait()
		require.Equal(t, []string{"1@100", "2@100", "4@105", "8@110"}, p.take())
		requireLedger(t, tt, map[string]uint64{"exported": 15, "lost queue_full": 112})

		l.give(windowAt(125, 3, 3, 3, 3))
		require.Len(t, p.take(), 4, "there is room again")
		require.Equal(t, 0, l.queued)
	})
}

// Of a batch that is larger than the queue what there is room for is taken.
func TestLogsSinkQueueSmallerThanABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{refuse: refuseFirst(1, errTest)}
		l, tt := newTestLogsSink(t, 1, p)
		l.give(windowAt(100, 1, 2)) // refused
		l.give(windowAt(105, 4))    // finds no room
		require.Equal(t, []string{"1@100"}, p.take())
		l.give(windowAt(110, 8, 16))
		require.Equal(t, []string{"8@110"}, p.take())
		requireLedger(t, tt, map[string]uint64{"exported": 9, "lost queue_full": 22})
	})
}

func TestLogsSinkRefusedUntilShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{refuse: refuseFirst(1000, errTest)}
		l, tt := newTestLogsSink(t, 1000, p)
		l.give(windowAt(100, 1, 2))
		l.give(windowAt(105, 4))
		requireLedger(t, tt, map[string]uint64{})
		l.stop(context.Background())
		require.Equal(t, 3, p.calls, "it is tried once more")
		requireLedger(t, tt, map[string]uint64{"lost refused_until_shutdown": 7})
		require.Empty(t, p.take())
	})
}

// What waits at the end is handed on before stop returns, and so is what was on
// its way and is called off.
func TestLogsSinkStopHandsOnWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{refuse: func(ctx context.Context, calls int) error {
			if calls > 1 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		l, tt := newTestLogsSink(t, 1000, p)
		l.give(windowAt(100, 1))
		l.give(windowAt(105, 2))
		require.Equal(t, 1, p.calls)
		l.stop(context.Background())
		require.Equal(t, []string{"1@100", "2@105"}, p.take())
		requireLedger(t, tt, map[string]uint64{"exported": 3})
	})
}

// Where there is no time left, what waits is lost and said to be.
func TestLogsSinkStopOutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{refuse: refuseFirst(1, errTest)}
		l, tt := newTestLogsSink(t, 1000, p)
		l.give(windowAt(100, 1))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		l.stop(ctx)
		require.Equal(t, 1, p.calls)
		requireLedger(t, tt, map[string]uint64{"lost refused_until_shutdown": 1})
	})
}

func tunnelEvent(id uint32, up bool) convert.Event {
	return convert.TunnelEvent{TunnelEvent: aggregate.TunnelEvent{Tunnel: flow.Tunnel{Type: flow.VXLAN, ID: id, HasID: true}, Up: up, At: time.Unix(99, 0)}}
}

// Events of tunnels go the way of flows, before those that were in them.
func TestLogsSinkTunnelEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{refuse: refuseFirst(1, errTest)}
		l, tt := newTestLogsSink(t, 1000, p)
		w := windowAt(100, 1)
		w.events = []convert.Event{tunnelEvent(7, true), tunnelEvent(8, true)}
		l.give(w) // refused
		w = windowAt(105)
		w.events = []convert.Event{tunnelEvent(7, false)}
		l.give(w)
		require.Equal(t, []string{"up 7@100", "up 8@100", "1@100", "down 7@105"}, p.take())
		l.stop(context.Background())
		requireLedger(t, tt, map[string]uint64{"exported": 1})
		requireReceived(t, tt, "otelcol_receiver_accepted_log_records", 4)
	})
}

// They take room in the queue too.
func TestLogsSinkTunnelEventsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &logsPipeline{refuse: refuseFirst(4, errTest)}
		l, tt := newTestLogsSink(t, 3, p)
		for at := range int64(4) {
			w := windowAt(100 + at)
			w.events = []convert.Event{tunnelEvent(uint32(at), true), tunnelEvent(uint32(at), false)}
			l.give(w)
		}
		require.Equal(t, 3, l.queued)
		l.give(windowAt(104, 1)) // does not fit
		require.Equal(t, []string{"up 0@100", "down 0@100", "up 1@101"}, p.take())
		require.Equal(t, 0, l.queued)
		requireLedger(t, tt, map[string]uint64{"lost queue_full": 1})
	})
}

// Whatever the pipeline does, and however slow it is, each record is handed on
// once or in the ledger's losses, and those handed on keep their order.
func TestLogsSinkLosesNothingUnsaid(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rnd, pipeline := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
			p := &logsPipeline{refuse: func(context.Context, int) error {
				time.Sleep(time.Duration(pipeline.IntN(8)) * time.Second) // of the bubble's time
				switch pipeline.IntN(4) {
				case 0:
					return errTest
				case 1:
					return consumererror.NewPermanent(errTest)
				}
				return nil
			}}
			l, tt := newTestLogsSink(t, 1+rnd.IntN(60), p)
			var given uint64
			var order []string
			for at := range int64(100) {
				var packets []uint64
				for range rnd.IntN(10) {
					packets = append(packets, 1+rnd.Uint64N(1000))
				}
				w := windowAt(at, packets...)
				w.accountant = l
				for _, n := range packets {
					given += n
					order = append(order, fmt.Sprintf("%d@%d", n, at))
				}
				l.consume(context.Background(), w)
				time.Sleep(5 * time.Second)
			}
			l.stop(context.Background())
			requireSubsequence(t, order, p.delivered)

			var sum flow.Volume
			ledger := readLedger(t, tt)
			for _, v := range ledger {
				sum.Add(v)
			}
			require.Equal(t, packetsOf100Bytes(given), sum, "%v", ledger)
			var delivered uint64
			for _, text := range p.delivered {
				var n uint64
				_, err := fmt.Sscanf(text, "%d@", &n)
				require.NoError(t, err)
				delivered += n
			}
			require.Equal(t, packetsOf100Bytes(delivered), ledger[entry{"tc_ingress", "exported", ""}])
		})
	}
}

func requireSubsequence(t *testing.T, all, part []string) {
	t.Helper()
	at := 0
	for _, want := range part {
		for at < len(all) && all[at] != want {
			at++
		}
		require.Less(t, at, len(all), "%s is out of order or came twice", want)
		at++
	}
}
