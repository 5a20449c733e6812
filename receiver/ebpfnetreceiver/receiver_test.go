// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"

	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

// signals are both receivers of one component ID on a fake probe.
type signals struct {
	metrics, logs *signalReceiver
	metricsSink   *consumertest.MetricsSink
	logsSink      *consumertest.LogsSink
	// metricsTaken and logsTaken get a value with each call of the consumers.
	metricsTaken, logsTaken chan struct{}
	probe                   *fakeProbe
	shared                  *sharedReceivers
}

func newSignals(t *testing.T, cfg *Config) *signals {
	t.Helper()
	s := &signals{
		metricsSink: &consumertest.MetricsSink{}, logsSink: &consumertest.LogsSink{},
		metricsTaken: make(chan struct{}, 10), logsTaken: make(chan struct{}, 10), // more than any test has
		probe: newFakeProbe(), shared: newSharedReceivers(),
	}
	metrics, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
		defer func() { s.metricsTaken <- struct{}{} }()
		return s.metricsSink.ConsumeMetrics(ctx, md)
	})
	require.NoError(t, err)
	logs, err := consumer.NewLogs(func(ctx context.Context, ld plog.Logs) error {
		defer func() { s.logsTaken <- struct{}{} }()
		return s.logsSink.ConsumeLogs(ctx, ld)
	})
	require.NoError(t, err)
	m, err := s.shared.metrics(testSettings(), cfg, metrics)
	require.NoError(t, err)
	l, err := s.shared.logs(testSettings(), cfg, logs)
	require.NoError(t, err)
	s.metrics, s.logs = m.(*signalReceiver), l.(*signalReceiver)
	require.Same(t, s.metrics.session, s.logs.session)
	s.metrics.session.load = func(probe.Options) (prober, error) { return s.probe, nil }
	s.metrics.session.chooseOwners = everyone
	return s
}

// A window goes to both signals, and both speak of the same packets.
func TestReceiversShareOneReading(t *testing.T) {
	ctx, host := context.Background(), componenttest.NewNopHost()
	s := newSignals(t, testConfig())
	require.NoError(t, s.metrics.Start(ctx, host))
	require.NoError(t, s.logs.Start(ctx, host))
	require.Equal(t, []string{"attach 1"}, s.probe.takeCalls())

	s.probe.count(loopback, 3)
	s.metrics.session.tick(ctx)
	require.Equal(t, []string{"read 1", "drain"}, s.probe.takeCalls())
	<-s.metricsTaken
	<-s.logsTaken
	require.Equal(t, 1, s.logsSink.LogRecordCount())
	require.Len(t, s.metricsSink.AllMetrics(), 1)
	sum := sums(s.metricsSink.AllMetrics()[0], "netprobe.flow.packets")
	require.Len(t, sum, 1)
	require.Contains(t, sum, int64(3))

	s.probe.onDetach = func() { s.probe.countLocked(loopback, 5) }
	require.NoError(t, s.metrics.Shutdown(ctx))
	require.NoError(t, s.logs.Shutdown(ctx))
	require.Equal(t, []string{"read 1", "drain", "detach", "read 1", "drain", "close"}, s.probe.takeCalls())
	require.Equal(t, 2, s.logsSink.LogRecordCount(), "also what was counted to the end")
	require.Len(t, s.metricsSink.AllMetrics(), 2, "also the last window, before it left")
	require.Empty(t, s.shared.sessions)
}

func TestReceiverShutdownTwice(t *testing.T) {
	ctx := context.Background()
	s := newSignals(t, testConfig())
	require.NoError(t, s.logs.Start(ctx, componenttest.NewNopHost()))
	require.NoError(t, s.logs.Shutdown(ctx))
	require.NoError(t, s.logs.Shutdown(ctx))
	require.Equal(t, []string{"attach 1", "detach", "read 1", "drain", "close"}, s.probe.takeCalls())
}

func TestReceiverShutdownWithoutStart(t *testing.T) {
	ctx := context.Background()
	s := newSignals(t, testConfig())
	require.NoError(t, s.metrics.Shutdown(ctx))
	require.NoError(t, s.logs.Shutdown(ctx))
	require.Empty(t, s.probe.takeCalls())
	require.Empty(t, s.shared.sessions)
}

func TestReceiversOfAStartError(t *testing.T) {
	ctx, host := context.Background(), componenttest.NewNopHost()
	s := newSignals(t, testConfig())
	s.metrics.session.load = func(probe.Options) (prober, error) { return nil, errTest }
	require.ErrorIs(t, s.logs.Start(ctx, host), errTest)
	require.ErrorIs(t, s.metrics.Start(ctx, host), errTest)
	require.NoError(t, s.logs.Shutdown(ctx))
	require.NoError(t, s.metrics.Shutdown(ctx))
	require.Empty(t, s.probe.takeCalls())
}

func TestReceiversIgnoreErrors(t *testing.T) {
	ctx := context.Background()
	cfg := testConfig()
	cfg.ErrorMode = ErrorModeIgnore
	s := newSignals(t, cfg)
	s.metrics.session.load = func(probe.Options) (prober, error) { return nil, errTest }
	for _, r := range []*signalReceiver{s.metrics, s.logs} {
		host := newStatusHost()
		require.NoError(t, r.Start(ctx, host))
		require.Equal(t, []string{"StatusPermanentError: as the test says"}, host.take())
	}
	require.NoError(t, s.metrics.Shutdown(ctx))
	require.NoError(t, s.logs.Shutdown(ctx))
	require.Empty(t, s.metricsSink.AllMetrics())
	require.Empty(t, s.logsSink.AllLogs())
}

// Receivers share by ID and configuration: another ID is another session, and
// so is the same one once its configuration was loaded anew.
func TestSharedReceivers(t *testing.T) {
	shared, cfg := newSharedReceivers(), testConfig()
	create := func(set receiver.Settings, cfg *Config) *signalReceiver {
		r, err := shared.logs(set, cfg, consumertest.NewNop())
		require.NoError(t, err)
		return r.(*signalReceiver)
	}
	set, other := testSettings(), testSettings()
	other.ID = component.NewIDWithName(metadata.Type, "other")

	first := create(set, cfg)
	require.Same(t, first.session, create(set, cfg).session)
	require.NotSame(t, first.session, create(other, cfg).session)
	renewed := create(set, testConfig())
	require.NotSame(t, first.session, renewed.session)

	// The end of the old one does not forget the new one.
	require.NoError(t, first.Shutdown(context.Background()))
	require.Same(t, renewed.session, shared.sessions[set.ID])
	require.NoError(t, renewed.Shutdown(context.Background()))
	require.NotContains(t, shared.sessions, set.ID)
	require.Contains(t, shared.sessions, other.ID)
}

func TestFactorySharesSessions(t *testing.T) {
	factory, cfg, set := NewFactory(), testConfig(), testSettings()
	m, err := factory.CreateMetrics(context.Background(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	l, err := factory.CreateLogs(context.Background(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	require.Same(t, m.(*signalReceiver).session, l.(*signalReceiver).session)
	require.Equal(t, metadata.MetricsStability, factory.MetricsStability())
	require.Equal(t, metadata.LogsStability, factory.LogsStability())
}
