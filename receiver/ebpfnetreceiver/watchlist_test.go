// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netdev"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

// totals gives the packets received of each interface in the newest window.
func totals(t *testing.T, sk *fakeSink) map[string]uint64 {
	t.Helper()
	got := map[string]uint64{}
	for _, p := range sk.last(t).interfaces {
		got[p.Name] = p.Total.Rx.Packets
	}
	return got
}

// flowInterfaces gives the interface of each flow in the newest window by its packets.
func flowInterfaces(t *testing.T, sk *fakeSink) map[uint64]string {
	t.Helper()
	got := map[uint64]string{}
	for _, rec := range sk.last(t).flows {
		got[rec.Packets] = rec.Interface
	}
	return got
}

func TestInterfaceAppearsAndGoes(t *testing.T) {
	s, f, sk := openTestSession(t)
	s.handle(appeared(1001, "fake0"))
	s.handle(appeared(1001, "fake0")) // such as a change of its state
	s.handle(appeared(1002, "other"))
	s.handle(appeared(1003, "fake9")) // excluded
	require.Equal(t, []string{"attach 1001"}, f.takeCalls())

	f.count(1001, 5)
	s.handle(gone(1001, "fake0"))
	s.handle(gone(1002, "other"))
	require.Equal(t, []string{"read 1001", "remove 1001"}, f.takeCalls(), "read before its counters go")

	// Its last packets come with its name.
	s.collect(context.Background(), nil)
	require.Equal(t, map[string]uint64{"fake0": 5}, totals(t, sk))
	require.Equal(t, map[uint64]string{5: "fake0"}, flowInterfaces(t, sk))
	s.collect(context.Background(), nil)
	require.Empty(t, totals(t, sk))
	require.Empty(t, s.watched.removed)
}

func TestInterfaceRenamed(t *testing.T) {
	s, f, sk := openTestSession(t)
	s.handle(appeared(1001, "fake0"))
	f.count(1001, 5)
	s.handle(appeared(1001, "fake1"))
	f.count(1001, 7)
	require.Equal(t, []string{"attach 1001", "read 1001"}, f.takeCalls(), "its programs stay")
	s.collect(context.Background(), nil)
	require.Equal(t, map[string]uint64{"fake0": 5, "fake1": 7}, totals(t, sk))
	require.Equal(t, map[uint64]string{5: "fake1", 7: "fake1"}, flowInterfaces(t, sk))
}

func TestInterfaceRenamedInAndOut(t *testing.T) {
	s, f, sk := openTestSession(t)
	s.handle(appeared(1001, "eth0"))
	require.Empty(t, f.takeCalls())
	s.handle(appeared(1001, "fake0"))
	require.Equal(t, []string{"attach 1001"}, f.takeCalls())
	f.count(1001, 5)
	s.handle(appeared(1001, "eth0"))
	require.Equal(t, []string{"read 1001", "remove 1001"}, f.takeCalls())
	s.collect(context.Background(), nil)
	require.Equal(t, map[string]uint64{"fake0": 5}, totals(t, sk))
	require.Equal(t, map[uint64]string{5: "fake0"}, flowInterfaces(t, sk))
}

// A list finds all that a missed event would have told.
func TestReconcile(t *testing.T) {
	s, f, sk := openTestSession(t)
	s.handle(appeared(1001, "fake0"))
	s.handle(appeared(1002, "fake1"))
	s.handle(appeared(1003, "fake2"))
	f.attachErr[1004] = errTest
	s.handle(appeared(1004, "fake3"))
	f.count(1001, 1)
	f.count(1002, 2)
	f.count(1003, 4)
	f.takeCalls()

	s.reconcile(map[int]netdev.Interface{
		1002: device(1002, "fake2"), // these two have swapped
		1003: device(1003, "fake1"),
		1005: device(1005, "fake5"),
		1006: device(1006, "eth0"),
	})
	require.ElementsMatch(t, []string{"read 1001", "remove 1001", "read 1002", "read 1003", "attach 1005"}, f.takeCalls())
	f.count(1002, 8)
	f.count(1003, 16)
	s.collect(context.Background(), nil)
	require.Equal(t, map[string]uint64{"fake0": 1, "fake1": 18, "fake2": 12, "fake5": 0}, totals(t, sk))
	require.Empty(t, s.watched.failed)
}

// Flows that could not be read keep the name of their interface until they are.
func TestInterfaceGoneWhileFlowsCannotBeRead(t *testing.T) {
	s, f, sk := openTestSession(t)
	s.handle(appeared(1001, "fake0"))
	f.count(1001, 5)
	s.handle(gone(1001, "fake0"))
	f.drainErr = errTest
	s.collect(context.Background(), nil)
	f.drainErr = nil
	s.collect(context.Background(), nil)
	require.Equal(t, map[uint64]string{5: "fake0"}, flowInterfaces(t, sk))
	require.Empty(t, s.watched.removed)
}

// An interface that vanishes and comes back under its name goes on counting.
func TestInterfaceReturns(t *testing.T) {
	s, f, sk := openTestSession(t)
	s.handle(appeared(1001, "fake0"))
	f.count(1001, 5)
	s.handle(gone(1001, "fake0"))
	s.handle(appeared(1007, "fake0"))
	f.count(1007, 2)
	s.collect(context.Background(), nil)
	require.Equal(t, map[string]uint64{"fake0": 7}, totals(t, sk))
	require.Equal(t, map[uint64]string{5: "fake0", 2: "fake0"}, flowInterfaces(t, sk))
}

// The kernel says that an interface is there, and when programs are to be
// attached it is not: nothing is wrong.
func TestInterfaceGoneBeforeAttach(t *testing.T) {
	s, f, _ := openTestSession(t)
	f.attachErr[1001] = fmt.Errorf("attach: %w", unix.ENODEV)
	s.handle(appeared(1001, "fake0"))
	require.Empty(t, s.watched.failed)
	require.Empty(t, s.watched.attached)
	require.Empty(t, hostOf(s).take())
}

func hostOf(s *session) *statusHost {
	return s.members[0].host.(*statusHost)
}

func TestFailedInterfaceIsRetried(t *testing.T) {
	s, f, sk := openTestSession(t)
	f.attachErr[1001] = errTest
	s.handle(appeared(1001, "fake0"))
	require.Equal(t, []string{"StatusRecoverableError: watch interface fake0: as the test says"}, hostOf(s).take())
	s.tick(context.Background())
	f.attachErr[1001] = errors.New("another reason")
	s.tick(context.Background())
	require.Equal(t, []string{"attach 1001", "attach 1001", "drain", "attach 1001", "drain"}, f.takeCalls())
	require.Empty(t, hostOf(s).take(), "said already")
	require.Empty(t, totals(t, sk))

	delete(f.attachErr, 1001)
	s.tick(context.Background())
	require.Equal(t, []string{"StatusOK"}, hostOf(s).take())
	require.Equal(t, map[string]uint64{"fake0": 0}, totals(t, sk))
	s.tick(context.Background())
	require.Empty(t, hostOf(s).take())
}

// The window says where XDP is, which not every interface can have.
func TestWindowSaysWhereXDPIs(t *testing.T) {
	s, f, sk := openTestSession(t)
	f.modes = []probe.Attachment{{Hook: probe.HookTCIngress, Mode: "tcx"}, {Hook: probe.HookXDP, Mode: "native"}}
	s.handle(appeared(1001, "fake0"))
	f.modes = []probe.Attachment{{Hook: probe.HookTCIngress, Mode: "tcx"}, {Hook: probe.HookXDP, Mode: "off", Reason: "no_ethernet", Err: errTest}}
	s.handle(appeared(1002, "fake1"))
	s.collect(context.Background(), nil)
	require.Equal(t, map[string]bool{"fake0": true}, sk.last(t).xdp)

	s.handle(appeared(1001, "fake2"))
	s.collect(context.Background(), nil)
	require.Equal(t, map[string]bool{"fake2": true}, sk.last(t).xdp)
	s.handle(gone(1001, "fake2"))
	s.collect(context.Background(), nil)
	require.Empty(t, sk.last(t).xdp)
}

// What ends the trouble is that no interface is out of reach any more.
func TestStatusOfSeveralFailures(t *testing.T) {
	s, f, _ := openTestSession(t)
	f.attachErr[1001], f.attachErr[1002], f.attachErr[1003] = errTest, errTest, errTest
	s.handle(appeared(1001, "fake0"))
	s.handle(appeared(1002, "fake1"))
	s.handle(appeared(1003, "fake2"))
	require.Len(t, hostOf(s).take(), 1)
	s.handle(gone(1001, "fake0"))
	s.handle(appeared(1002, "eth0")) // renamed so that it is not wanted
	require.Empty(t, hostOf(s).take())
	delete(f.attachErr, 1003)
	s.handle(appeared(1003, "fake2"))
	require.Equal(t, []string{"StatusOK"}, hostOf(s).take())

	// and begins anew
	s.handle(appeared(1001, "fake0"))
	require.Equal(t, []string{"StatusRecoverableError: watch interface fake0: as the test says"}, hostOf(s).take())
}

// A host hears of what was wrong before it joined, and no more once it has left.
func TestStatusOfTwoHosts(t *testing.T) {
	s, f := newTestSession(testConfig())
	f.attachErr[1001] = errTest
	first, second := newStatusHost(), newStatusHost()
	sinks := [2]*fakeSink{{}, {}}
	require.NoError(t, s.join(first, sinks[0]))
	require.Equal(t, []string{"StatusOK"}, first.take())

	locked := func(e netdev.Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.handle(e)
	}
	const failed = "StatusRecoverableError: watch interface lo: as the test says"
	locked(appeared(1001, "lo"))
	require.Equal(t, []string{failed}, first.take())
	require.NoError(t, s.join(second, sinks[1]))
	require.Equal(t, []string{failed}, second.take())
	require.Empty(t, first.take())

	locked(gone(1001, "lo"))
	require.Equal(t, []string{"StatusOK"}, first.take())
	require.Equal(t, []string{"StatusOK"}, second.take())

	require.NoError(t, s.leave(context.Background(), sinks[0]))
	locked(appeared(1001, "lo"))
	require.Empty(t, first.take())
	require.Equal(t, []string{failed}, second.take())
	require.NoError(t, s.leave(context.Background(), sinks[1]))
	require.Empty(t, second.take())
}

func TestRemoveErrorDoesNotStopTheRest(t *testing.T) {
	s, f, sk := openTestSession(t)
	s.handle(appeared(1001, "fake0"))
	f.count(1001, 3)
	f.removeErr = errTest
	s.handle(gone(1001, "fake0"))
	require.Empty(t, s.watched.attached)
	s.collect(context.Background(), nil)
	require.Equal(t, map[string]uint64{"fake0": 3}, totals(t, sk))
}

// Each reason for a lesser mode is a warning once a hook, not once an interface.
func TestLesserModesAreSaidOnce(t *testing.T) {
	s, f, _ := openTestSession(t)
	core, logs := observer.New(zapcore.WarnLevel)
	s.logger = zap.New(core)
	f.modes = []probe.Attachment{
		{Hook: probe.HookTCIngress, Mode: "clsact", Reason: "not_supported", Err: errTest},
		{Hook: probe.HookTCEgress, Mode: "clsact", Reason: "not_supported", Err: errTest},
		{Hook: probe.HookXDP, Mode: "native"},
	}
	s.handle(appeared(1001, "fake0"))
	s.handle(appeared(1002, "fake1"))
	require.Equal(t, 2, logs.Len())
	for i, hook := range []string{"tc_ingress", "tc_egress"} {
		require.Equal(t, map[string]any{
			"interface": "fake0", "hook": hook, "mode": "clsact", "reason": "not_supported", "error": "as the test says",
		}, logs.All()[i].ContextMap())
	}
}

func TestFailureIsSaidOnce(t *testing.T) {
	s, f, _ := openTestSession(t)
	core, logs := observer.New(zapcore.WarnLevel)
	s.logger = zap.New(core)
	f.attachErr[1001] = errTest
	s.handle(appeared(1001, "fake0"))
	s.tick(context.Background())
	require.Equal(t, 1, logs.Len())
	f.attachErr[1001] = errors.New("another reason")
	s.tick(context.Background())
	require.Equal(t, 2, logs.Len())
}

// The flow of an interface that was never watched has no name.
func TestFlowOfUnknownInterface(t *testing.T) {
	s, f, sk := openTestSession(t)
	f.flows = []flow.Record{testRecord(1234, 1)}
	s.collect(context.Background(), nil)
	require.Equal(t, map[uint64]string{1: ""}, flowInterfaces(t, sk))
}
