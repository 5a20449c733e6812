// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/join"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netdev"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

var errTest = errors.New("as the test says")

func TestSessionOfTwoSignals(t *testing.T) {
	for _, tt := range []struct {
		name        string
		join, leave [2]int
	}{
		{"first in, first out", [2]int{0, 1}, [2]int{0, 1}},
		{"first in, last out", [2]int{0, 1}, [2]int{1, 0}},
		{"the other one first", [2]int{1, 0}, [2]int{0, 1}},
		{"the other one first and last", [2]int{1, 0}, [2]int{1, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, f := newTestSession(testConfig())
			sinks := [2]*fakeSink{{}, {}}
			for _, i := range tt.join {
				require.NoError(t, s.join(componenttest.NewNopHost(), sinks[i]))
			}
			require.Equal(t, []string{"attach 1"}, f.takeCalls(), "loaded and attached once")

			f.count(loopback, 1)
			s.tick(context.Background())
			f.count(loopback, 2)
			require.NoError(t, s.leave(context.Background(), sinks[tt.leave[0]]))
			require.Equal(t, []string{"read 1", "drain", "read 1", "drain"}, f.takeCalls(), "goes on for the other")
			f.count(loopback, 4)
			require.NoError(t, s.leave(context.Background(), sinks[tt.leave[1]]))
			require.Equal(t, []string{"detach", "read 1", "drain", "close"}, f.takeCalls())

			first, second := sinks[tt.leave[0]], sinks[tt.leave[1]]
			require.Equal(t, [][]uint64{{1}, {2}}, first.packets())
			require.Equal(t, [][]uint64{{1}, {2}, {4}}, second.packets())
			require.Equal(t, 1, first.stopped)
			require.Equal(t, 1, second.stopped)
		})
	}
}

func TestSessionStartTellsSinks(t *testing.T) {
	s, _ := newTestSession(testConfig())
	before := time.Now()
	first, second := &fakeSink{}, &fakeSink{}
	require.NoError(t, s.join(componenttest.NewNopHost(), first))
	after := time.Now()
	s.tick(context.Background())
	require.NoError(t, s.join(componenttest.NewNopHost(), second))

	netns, err := kernel.NetNS()
	require.NoError(t, err)
	require.Equal(t, netns, first.netns)
	require.Equal(t, netns, second.netns)
	require.False(t, first.began.Before(before))
	require.False(t, first.began.After(after))
	// What was counted before a signal joined is not its own.
	require.Equal(t, first.last(t).end, second.began)

	require.NoError(t, s.leave(context.Background(), first))
	require.NoError(t, s.leave(context.Background(), second))
}

// Windows follow one another without a gap.
func TestSessionWindows(t *testing.T) {
	s, f := newTestSession(testConfig())
	sk := &fakeSink{}
	require.NoError(t, s.join(componenttest.NewNopHost(), sk))
	f.count(loopback, 3)
	s.tick(context.Background())
	first := sk.last(t)
	require.Equal(t, sk.began, first.start)

	f.count(loopback, 5)
	s.tick(context.Background())
	second := sk.last(t)
	require.Equal(t, first.end, second.start)
	require.False(t, second.end.Before(second.start))

	rec := testRecord(loopback, 5)
	rec.Interface, rec.SampledFrom = "lo", 1
	require.Equal(t, []flow.Record{rec}, second.flows)
	require.Equal(t, []aggregate.InterfacePoint{{
		Name:    "lo",
		Total:   flow.InterfaceCounters{Rx: packetsOf100Bytes(8)},
		Gained:  flow.InterfaceCounters{Rx: packetsOf100Bytes(5)},
		Elapsed: second.interfaces[0].Elapsed,
	}}, second.interfaces)
	require.Equal(t, second.end.Sub(first.end), second.interfaces[0].Elapsed)
	require.NoError(t, s.leave(context.Background(), sk))
}

// What programs count until they are off the interfaces is still handed on.
func TestSessionEndLosesNothing(t *testing.T) {
	s, f := newTestSession(testConfig())
	sk := &fakeSink{}
	require.NoError(t, s.join(componenttest.NewNopHost(), sk))
	f.count(loopback, 3)
	f.onDetach = func() { f.countLocked(loopback, 4) }
	require.NoError(t, s.leave(context.Background(), sk))

	w := sk.last(t)
	require.Equal(t, packetsOf100Bytes(7), w.interfaces[0].Total.Rx)
	require.Equal(t, [][]uint64{{3, 4}}, sk.packets())
}

func TestSessionReadsAtEveryInterval(t *testing.T) {
	cfg := testConfig()
	cfg.Interval = time.Millisecond
	s, f := newTestSession(cfg)
	sk := &fakeSink{arrived: make(chan struct{}, 1)}
	require.NoError(t, s.join(componenttest.NewNopHost(), sk))
	f.count(loopback, 1)
	<-sk.arrived
	f.count(loopback, 2)
	<-sk.arrived
	<-sk.arrived

	// goes on reading, and finds the channel full, until it has left
	left := make(chan error)
	go func() { left <- s.leave(context.Background(), sk) }()
	for done := false; !done; {
		select {
		case <-sk.arrived:
		case err := <-left:
			require.NoError(t, err)
			done = true
		}
	}
	var all []uint64
	for _, packets := range sk.packets() {
		all = append(all, packets...)
	}
	require.Equal(t, []uint64{1, 2}, all)
}

func TestSessionStartErrorIsForAll(t *testing.T) {
	s, _ := newTestSession(testConfig())
	loads := 0
	s.load = func(probe.Options) (prober, error) { loads++; return nil, errTest }
	host := newStatusHost()
	require.ErrorIs(t, s.join(host, &fakeSink{}), errTest)
	require.ErrorIs(t, s.join(host, &fakeSink{}), errTest)
	require.Equal(t, 1, loads)
	require.Empty(t, host.take(), "the collector reports what Start returns")
	require.NoError(t, s.leave(context.Background(), &fakeSink{}))
}

func TestSessionIgnoresThatNothingWorks(t *testing.T) {
	cfg := testConfig()
	cfg.ErrorMode = ErrorModeIgnore
	s, _ := newTestSession(cfg)
	s.load = func(probe.Options) (prober, error) { return nil, errTest }
	hosts, sinks := [2]*statusHost{newStatusHost(), newStatusHost()}, [2]*fakeSink{{}, {}}
	for i := range hosts {
		require.NoError(t, s.join(hosts[i], sinks[i]))
		require.Equal(t, []string{"StatusPermanentError: as the test says"}, hosts[i].take())
	}
	for _, sk := range sinks {
		require.NoError(t, s.leave(context.Background(), sk))
		require.Empty(t, sk.windows)
		require.Equal(t, 0, sk.stopped, "it was never started")
	}
}

// Where not one interface can be watched, Start says why, and the programs go.
func TestSessionWithoutAnyInterface(t *testing.T) {
	for _, mode := range []ErrorMode{ErrorModePropagate, ErrorModeIgnore} {
		t.Run(string(mode), func(t *testing.T) {
			cfg := testConfig()
			cfg.ErrorMode = mode
			s, f := newTestSession(cfg)
			f.attachErr[loopback] = errTest
			host := newStatusHost()
			err := s.join(host, &fakeSink{})
			const text = "no interface could be watched\nwatch interface lo: as the test says"
			if mode == ErrorModePropagate {
				require.EqualError(t, err, text)
				require.Empty(t, host.take())
			} else {
				require.NoError(t, err)
				require.Equal(t, []string{"StatusPermanentError: " + text}, host.take())
			}
			require.Equal(t, []string{"attach 1", "close"}, f.takeCalls())
		})
	}
}

// That none matches yet is no error: one may come.
func TestSessionWithoutAMatch(t *testing.T) {
	cfg := testConfig()
	cfg.Interfaces.Include = []string{"nosuch*"}
	s, f := newTestSession(cfg)
	host, sk := newStatusHost(), &fakeSink{}
	require.NoError(t, s.join(host, sk))
	require.Empty(t, f.takeCalls())
	require.Equal(t, []string{"StatusOK"}, host.take())
	require.NoError(t, s.leave(context.Background(), sk))
}

func TestSessionCanStartAgain(t *testing.T) {
	s, f := newTestSession(testConfig())
	first, second := &fakeSink{}, &fakeSink{}
	require.NoError(t, s.join(componenttest.NewNopHost(), first))
	f.count(loopback, 1)
	require.NoError(t, s.leave(context.Background(), first))
	f.takeCalls()

	require.NoError(t, s.join(componenttest.NewNopHost(), second))
	f.count(loopback, 2)
	require.NoError(t, s.leave(context.Background(), second))
	require.Equal(t, []string{"attach 1", "detach", "read 1", "drain", "close"}, f.takeCalls())
	require.Equal(t, [][]uint64{{1}}, first.packets())
	require.Equal(t, [][]uint64{{2}}, second.packets())
}

func TestSessionLeaveReportsErrors(t *testing.T) {
	s, f := newTestSession(testConfig())
	sk := &fakeSink{}
	require.NoError(t, s.join(componenttest.NewNopHost(), sk))
	f.detachErr, f.closeErr = errors.New("stuck"), errTest
	err := s.leave(context.Background(), sk)
	require.EqualError(t, err, "stuck\nunload programs: as the test says")
	require.Len(t, sk.windows, 1, "what was counted is handed on all the same")
	require.Equal(t, 1, sk.stopped)
	require.NoError(t, s.leave(context.Background(), sk), "leaving twice is nothing")
}

// A reading that fails leaves what it could not read to the next one.
func TestSessionReadErrors(t *testing.T) {
	s, f := newTestSession(testConfig())
	sk := &fakeSink{}
	require.NoError(t, s.join(componenttest.NewNopHost(), sk))
	f.count(loopback, 3)
	f.countersErr, f.drainErr, f.healthErr = errTest, errTest, errTest
	s.tick(context.Background())
	w := sk.last(t)
	require.Equal(t, flow.Volume{}, w.interfaces[0].Total.Rx)
	require.Empty(t, w.flows)

	f.countersErr, f.drainErr, f.healthErr = nil, nil, nil
	s.tick(context.Background())
	require.Equal(t, packetsOf100Bytes(3), sk.last(t).interfaces[0].Total.Rx)
	require.Equal(t, [][]uint64{nil, {3}}, sk.packets())
	require.NoError(t, s.leave(context.Background(), sk))
}

func TestSessionOptions(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	require.Equal(t, probe.Options{
		TC: probe.TCAuto, XDP: probe.XDPOff, Flows: true, FlowMap: probe.FlowMapAuto,
		FlowEntries: 131072, RingBufferBytes: 4 << 20, MaxInterfaces: 4096,
		Tunnels: probe.TunnelOptions{
			VXLANPorts: []uint16{4789, 8472}, GenevePorts: []uint16{6081}, GRE: true, IPIP: true, MaxEntries: 4096,
		},
		Sampling: 1,
	}, newSession(testSettings(), cfg).options())

	cfg.TC.Mode, cfg.XDP.Mode = "off", "native"
	require.False(t, newSession(testSettings(), cfg).options().Flows, "flows need TC")
	cfg.TC.Mode, cfg.Flows.Enabled = "clsact", false
	require.False(t, newSession(testSettings(), cfg).options().Flows)
}

func TestSessionOptionsOfFlowsAndTunnels(t *testing.T) {
	cfg, err := load(t, "all")
	require.NoError(t, err)
	opts := newSession(testSettings(), cfg).options()
	require.Equal(t, probe.TunnelOptions{VXLANPorts: []uint16{4789, 250}, GenevePorts: []uint16{}, MaxEntries: 16}, opts.Tunnels)
	require.Equal(t, uint32(100), opts.Sampling)
	require.Equal(t, cfg.Flows.filter(), opts.Filter)
	require.Len(t, opts.Filter, 4)
}

// A packet that two interfaces saw is handed on once, and says where else it was.
func TestSessionCountsEachPacketOnce(t *testing.T) {
	s, f, sk := openTestSession(t)
	s.handle(appeared(owned, "fake1"))
	s.handle(appeared(noted, "fake2"))
	s.chooseOwners = func() join.Owners { return countedAt(owned) }
	f.count(noted, 3)
	f.count(owned, 3)
	s.collect(context.Background(), nil)
	w := sk.last(t)
	require.Len(t, w.flows, 1)
	require.Equal(t, "fake1", w.flows[0].Interface)
	require.Equal(t, []string{"fake2"}, w.flows[0].Others)
	require.Equal(t, map[string]uint64{"fake1": 3, "fake2": 3}, totals(t, sk), "interfaces count for themselves")

	s.chooseOwners = func() join.Owners { return nil }
	f.count(noted, 3)
	f.count(owned, 3)
	s.collect(context.Background(), nil)
	require.Len(t, sk.last(t).flows, 2)
}

// A bridge and its port that come and go between two readings are judged by what
// they were: the port counts what the bridge passes up.
func TestSessionJudgesWhatIsGoneByWhatItWas(t *testing.T) {
	s, f, sk := openTestSession(t)
	s.chooseOwners = func() join.Owners { return owners{s.owners()} }
	bridge, port := device(owned, "fake1"), device(noted, "fake2")
	bridge.Role, port.Role, port.Master = netdev.RoleBridge, netdev.RolePod, owned
	for _, iface := range []netdev.Interface{bridge, port} {
		s.handle(netdev.Event{Interface: iface})
	}
	f.count(owned, 3)
	f.count(noted, 3)
	s.handle(gone(noted, "fake2"))
	s.handle(gone(owned, "fake1"))
	s.collect(context.Background(), nil)
	w := sk.last(t)
	require.Len(t, w.flows, 1)
	require.Equal(t, "fake2", w.flows[0].Interface)
	require.Equal(t, []string{"fake1"}, w.flows[0].Others)
}

// The frames of a tunnel count once too, also where the flows in it are counted
// elsewhere, and the flows say what tunnel they were in.
func TestSessionTunnels(t *testing.T) {
	s, f, sk := openTestSession(t)
	s.handle(appeared(owned, "fake1"))
	s.handle(appeared(noted, "fake2"))
	s.chooseOwners = func() join.Owners { return outerAt{countedAt: owned, outer: noted} }
	now := time.Now()
	vxlan := &flow.Tunnel{Type: flow.VXLAN, Source: testRecord(1, 1).Source, Destination: testRecord(1, 1).Destination, ID: 7, HasID: true}
	there := func(index int, packets uint64) flow.Record {
		rec := testRecord(index, packets)
		rec.Has |= flow.InTunnel
		rec.Tunnel, rec.WireBytes = vxlan, 150*packets
		rec.First, rec.Last = now, now
		return rec
	}
	f.flows = []flow.Record{testRecord(owned, 3), there(noted, 3), there(1003, 4)}
	f.flows[0].SourcePort, f.flows[1].SourcePort = 1, 1
	s.collect(context.Background(), nil)

	w := sk.last(t)
	require.Len(t, w.flows, 1)
	require.Equal(t, vxlan, w.flows[0].Tunnel)
	require.Equal(t, []aggregate.TunnelPoint{
		{Tunnel: *vxlan, Total: flow.Volume{Packets: 3, Bytes: 450}, Start: w.tunnels[0].Start},
	}, w.tunnels)
	require.Equal(t, []aggregate.TunnelPoint{
		{Tunnel: flow.Tunnel{Type: flow.VXLAN, ID: 7, HasID: true}, Total: flow.Volume{Packets: 3, Bytes: 450}, Start: w.tunnels[0].Start},
	}, w.networks)
	require.Equal(t, 1, w.tunnelsActive)
	require.Equal(t, []convert.Event{convert.TunnelEvent{TunnelEvent: aggregate.TunnelEvent{Tunnel: *vxlan, Up: true, At: now}}}, w.events)
}

// outerAt counts frames of tunnels at another interface than flows.
type outerAt struct {
	countedAt
	outer uint32
}

func (o outerAt) OwnsOuter(key *flow.Key) bool { return key.InterfaceIndex == o.outer }

// The ledger is told of flows by one sink: that of logs, which has each flow by
// itself, else one that hands flows on.
func TestSessionAccountant(t *testing.T) {
	for _, tt := range []struct {
		name    string
		members []string
		want    int // index of the accountant, -1 for none
	}{
		{"nobody that hands on flows", []string{"other"}, -1},
		{"metrics", []string{"other", "metrics"}, 1},
		{"logs", []string{"logs", "other"}, 0},
		{"logs before metrics", []string{"logs", "metrics"}, 0},
		{"logs after metrics", []string{"metrics", "other", "logs"}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _, seen := openTestSession(t)
			metrics, err := newMetricsSink(testSettings(), testConfig(), consumertest.NewNop())
			require.NoError(t, err)
			metrics.start(time.Now(), 0, s.telemetry.ledger)
			logs, err := newLogsSink(testSettings(), testConfig(), consumertest.NewNop())
			require.NoError(t, err)
			logs.start(time.Now(), 0, s.telemetry.ledger)
			sinks := map[string]sink{"metrics": metrics, "logs": logs, "other": &fakeSink{}}
			s.members = []member{}
			for _, name := range tt.members {
				s.members = append(s.members, member{sink: sinks[name]})
			}
			s.members = append(s.members, member{sink: seen})
			s.collect(context.Background(), nil)
			if tt.want < 0 {
				require.Nil(t, seen.last(t).accountant)
			} else {
				require.Same(t, s.members[tt.want].sink, seen.last(t).accountant)
			}
			metrics.stop(context.Background())
			logs.stop(context.Background())
		})
	}
}

// The one that leaves is told with its last window, and no other.
func TestSessionTellsWhoLeaves(t *testing.T) {
	s, _ := newTestSession(testConfig())
	first, second := &fakeSink{}, &fakeSink{}
	require.NoError(t, s.join(componenttest.NewNopHost(), first))
	require.NoError(t, s.join(componenttest.NewNopHost(), second))
	s.tick(context.Background())
	require.Nil(t, first.last(t).leaving)
	require.NoError(t, s.leave(context.Background(), first))
	require.Same(t, first, first.last(t).leaving)
	require.Same(t, first, second.last(t).leaving)
	require.NoError(t, s.leave(context.Background(), second))
	require.Same(t, second, second.last(t).leaving)
	require.Len(t, first.windows, 2)
}

// After the kernel had more changes than it could tell, the session finds out
// what there is.
func TestSessionResync(t *testing.T) {
	cfg := testConfig()
	s, f := newTestSession(cfg)
	require.NoError(t, s.open())
	t.Cleanup(func() { require.NoError(t, s.close()) })
	s.handle(appeared(1001, "lo"))
	require.Equal(t, []string{"attach 1", "attach 1001"}, f.takeCalls())

	s.update(netlink.LinkUpdate{}, false)
	require.Equal(t, []string{"read 1001", "remove 1001"}, f.takeCalls(), "it is not there, so its end was missed")
	require.NotNil(t, s.watcher)

	// The same where there is no subscription.
	s.watcher.Close()
	s.watcher = nil
	s.watched.failed[1002] = failure{iface: device(1002, "lo"), err: errTest}
	s.tick(context.Background())
	require.NotNil(t, s.watcher)
	require.Empty(t, s.watched.failed)
}

// Without a subscription the session goes on, and gets one when it can.
func TestSessionResyncFails(t *testing.T) {
	s, f, sk := openTestSession(t)
	s.handle(appeared(1001, "fake0"))
	f.count(1001, 3)
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	none := unix.Rlimit{Cur: 0, Max: limit.Max}
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &none))
	s.update(netlink.LinkUpdate{}, false)
	s.tick(context.Background())
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	require.Nil(t, s.watcher)
	require.Equal(t, map[string]uint64{"fake0": 3}, totals(t, sk))

	s.tick(context.Background())
	require.NotNil(t, s.watcher)
	require.Empty(t, s.watched.attached, "it is not there, which the new list tells")
}

// A port that leaves a bridge is still an interface.
func TestSessionIgnoresBridgePorts(t *testing.T) {
	s, f, _ := openTestSession(t)
	u := netlink.LinkUpdate{Link: &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: 1001, Name: "fake0", EncapType: "ether"}}}
	u.Family = unix.AF_BRIDGE
	s.update(u, true)
	require.Empty(t, f.takeCalls())
	u.Family = unix.AF_UNSPEC
	s.update(u, true)
	require.Equal(t, []string{"attach 1001"}, f.takeCalls())
	require.Equal(t, probe.Interface{Index: 1001, Ethernet: true}, f.attached[1001])
}

// An exporter that tries again for ever does not keep the process from ending.
func TestSessionEndsInTimeWhateverThePipelineDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }
		b := newBooks(t, testConfig(), never, never)
		b.probe.flows = []flow.Record{testRecord(owned, 2)}
		b.collect(context.Background(), nil)
		b.probe.flows = []flow.Record{testRecord(owned, 3)}
		began := time.Now()
		require.NoError(t, b.leave(context.Background(), b.metrics))
		require.NoError(t, b.leave(context.Background(), b.logs))
		require.LessOrEqual(t, time.Since(began), 2*(flushTimeout+patience))
		requireLedger(t, b.own, map[string]uint64{"lost " + causeAtShutdown: 5})
	})
}
