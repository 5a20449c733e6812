// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/sockets"
)

// connectionsToo is a configuration in which connections of this namespace are
// watched too.
func connectionsToo(t *testing.T) *Config {
	bpftest.RequireBPF(t)
	netnstest.Enter(t)
	cfg := testConfig()
	cfg.Sockets.Mode, cfg.Sockets.Namespaces = "auto", "own"
	return cfg
}

var errNoPackets = errors.New("as a test wants")

func failToLoad(probe.Options) (prober, error) { return nil, errNoPackets }

// requireOnlyConnections ticks and looks at what there is.
func requireOnlyConnections(t *testing.T, s *session, host *statusHost, sk *fakeSink) {
	t.Helper()
	require.NoError(t, s.join(host, sk))
	s.tick(context.Background())
	w := sk.last(t)
	require.NotNil(t, w.sockets)
	require.Contains(t, w.sockets.counters, flow.TCP)
	require.True(t, w.noPackets)
	require.Empty(t, w.interfaces)
	require.Empty(t, w.flows)
	require.NoError(t, s.leave(context.Background(), sk))
}

func TestConnectionsWithoutPackets(t *testing.T) {
	cfg := connectionsToo(t)
	cfg.ErrorMode = ErrorModeIgnore
	core, logs := observer.New(zapcore.WarnLevel)
	s, _ := newTestSession(cfg)
	s.load, s.logger = failToLoad, zap.New(core)
	host := newStatusHost()
	requireOnlyConnections(t, s, host, &fakeSink{})
	require.Len(t, logs.FilterMessageSnippet("No packets are seen at interfaces").All(), 1)
	require.Len(t, host.events, 1)
	require.Equal(t, componentstatus.StatusOK, host.events[0].Status())
	attributes := host.events[0].Attributes().AsRaw()
	require.Equal(t, "missing: other", attributes["feature.packets"])
	require.Equal(t, "on", attributes["feature.sockets"])
}

// Who asks for no packets gets no warning for it.
func TestConnectionsOnly(t *testing.T) {
	cfg := connectionsToo(t)
	cfg.TC.Mode = "off"
	require.NoError(t, cfg.Validate())
	core, logs := observer.New(zapcore.WarnLevel)
	s, _ := newTestSession(cfg)
	s.load, s.logger = failToLoad, zap.New(core)
	host := newStatusHost()
	requireOnlyConnections(t, s, host, &fakeSink{})
	require.Empty(t, logs.FilterMessageSnippet("packets").All())
	require.Equal(t, "off: tc::mode", host.events[0].Attributes().AsRaw()["feature.packets"])
}

// By default what cannot be loaded is an error, also where something else could.
func TestPacketsAreRequiredByDefault(t *testing.T) {
	s, _ := newTestSession(connectionsToo(t))
	s.load = failToLoad
	require.ErrorIs(t, s.join(newStatusHost(), &fakeSink{}), errNoPackets)
}

func TestNothingWorks(t *testing.T) {
	cfg := testConfig()
	cfg.ErrorMode = ErrorModeIgnore
	s, _ := newTestSession(cfg)
	s.load = failToLoad
	host := newStatusHost()
	require.NoError(t, s.join(host, &fakeSink{}))
	require.Len(t, host.events, 1)
	require.Equal(t, componentstatus.StatusPermanentError, host.events[0].Status())
	require.ErrorIs(t, host.events[0].Err(), errNoPackets)
}

// The others go on also where every interface refuses the programs.
func TestConnectionsWhereNoInterfaceCanBeWatched(t *testing.T) {
	cfg := connectionsToo(t)
	cfg.ErrorMode = ErrorModeIgnore
	s, f := newTestSession(cfg)
	f.attachErr[loopback] = errNoPackets
	sk := &fakeSink{}
	require.NoError(t, s.join(newStatusHost(), sk))
	s.tick(context.Background())
	require.NotNil(t, sk.last(t).sockets)
	require.False(t, sk.last(t).noPackets, "one may take them later")
	require.NoError(t, s.leave(context.Background(), sk))
}

func TestMetricsWithoutPackets(t *testing.T) {
	m, p, _ := newTestMetricsSink(t, testConfig())
	w := windowAt(100)
	w.noPackets = true
	w.sockets = &socketWindow{counters: map[flow.Protocol]sockets.Counters{flow.TCP: {}}}
	m.consume(context.Background(), w)
	m.stop(context.Background())
	require.Contains(t, names(p.taken), "netprobe.tcp.resets")
	require.NotContains(t, names(p.taken), "netprobe.vxlan.tunnels.active")
}

func names(md pmetric.Metrics) []string {
	var all []string
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				all = append(all, m.Name())
			}
		}
	}
	return all
}
