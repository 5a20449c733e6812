// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/drops"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/join"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netdev"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netfilter"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

// loopback has this index and name in every network namespace.
const loopback = 1

// fakeProbe counts what tests say it did.
type fakeProbe struct {
	mu       sync.Mutex // guards all that follows
	calls    []string
	attached map[int]probe.Interface
	counters map[int]flow.InterfaceCounters
	flows    []flow.Record // for the next drain
	health   probe.Health
	// onDetach is what the programs still count before they are gone.
	onDetach func()

	modes       []probe.Attachment
	features    []probe.Feature
	attachErr   map[int]error
	removeErr   error
	detachErr   error
	countersErr error
	drainErr    error
	healthErr   error
	closeErr    error
}

func newFakeProbe() *fakeProbe {
	return &fakeProbe{
		attached:  map[int]probe.Interface{},
		counters:  map[int]flow.InterfaceCounters{},
		attachErr: map[int]error{},
		modes: []probe.Attachment{
			{Hook: probe.HookTCIngress, Mode: "tcx"},
			{Hook: probe.HookTCEgress, Mode: "tcx"},
		},
	}
}

func (f *fakeProbe) called(format string, args ...any) {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

// takeCalls gives what was called since it was last asked.
func (f *fakeProbe) takeCalls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func (f *fakeProbe) Attach(iface probe.Interface) ([]probe.Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.called("attach %d", iface.Index)
	if err := f.attachErr[iface.Index]; err != nil {
		return nil, err
	}
	f.attached[iface.Index] = iface
	f.counters[iface.Index] = flow.InterfaceCounters{}
	return f.modes, nil
}

func (f *fakeProbe) Remove(index int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.called("remove %d", index)
	delete(f.attached, index)
	delete(f.counters, index)
	return f.removeErr
}

func (f *fakeProbe) Detach() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.called("detach")
	if f.onDetach != nil {
		f.onDetach()
	}
	return f.detachErr
}

func (f *fakeProbe) InterfaceCounters(index int) (flow.InterfaceCounters, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.called("read %d", index)
	return f.counters[index], f.countersErr
}

func (f *fakeProbe) DrainFlows(yield func(*flow.Record)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.called("drain")
	if f.drainErr != nil {
		return f.drainErr
	}
	for i := range f.flows {
		rec := f.flows[i]
		yield(&rec)
	}
	f.flows = nil
	return nil
}

func (f *fakeProbe) Health() (probe.Health, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.health, f.healthErr
}

func (f *fakeProbe) Features() []probe.Feature { return f.features }

func (f *fakeProbe) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.called("close")
	return f.closeErr
}

// fakeDrops has the counts that tests say the kernel has.
type fakeDrops struct {
	counts map[drops.Key]uint64
	flows  []drops.FlowDrop
	health drops.Health

	collectErr, forgetErr, healthErr error
	forgets                          int
	// onForget is what happens between a reading and the next Forget.
	onForget func()
}

func (f *fakeDrops) all() []drops.Count {
	var counts []drops.Count
	for key, packets := range f.counts {
		counts = append(counts, drops.Count{Key: key, Volume: packetsOf100Bytes(packets)})
	}
	return counts
}

func (f *fakeDrops) Collect() ([]drops.Count, []drops.FlowDrop, error) {
	if f.collectErr != nil {
		return nil, nil, f.collectErr
	}
	flows := f.flows
	f.flows = nil
	return f.all(), flows, nil
}

func (f *fakeDrops) Forget(gone func(uint32) bool) ([]drops.Count, error) {
	f.forgets++
	if f.onForget != nil {
		f.onForget()
	}
	if f.forgetErr != nil {
		return nil, f.forgetErr
	}
	var last []drops.Count
	for _, count := range f.all() {
		if count.InterfaceIndex != 0 && gone(count.InterfaceIndex) {
			last = append(last, count)
			delete(f.counts, count.Key)
		}
	}
	return last, nil
}

func (f *fakeDrops) Health() (drops.Health, error) { return f.health, f.healthErr }

func (f *fakeDrops) Close() error { return nil }

// fakeNetfilter has evicted as many notes as tests say.
type fakeNetfilter struct {
	evicted uint64
	err     error
}

func (f *fakeNetfilter) Counters() ([]netfilter.Count, error) { return nil, nil }

func (f *fakeNetfilter) Evicted() (uint64, error) { return f.evicted, f.err }

func (f *fakeNetfilter) MapBytes() uint64 { return 1000 }

func (f *fakeNetfilter) Close() error { return nil }

// count adds packets of a flow on an interface to all that counts them.
func (f *fakeProbe) count(index int, packets uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.countLocked(index, packets)
}

func (f *fakeProbe) countLocked(index int, packets uint64) {
	c := f.counters[index]
	c.Rx.Add(packetsOf100Bytes(packets))
	f.counters[index] = c
	f.flows = append(f.flows, testRecord(index, packets))
}

func packetsOf100Bytes(n uint64) flow.Volume {
	return flow.Volume{Packets: n, Bytes: 100 * n}
}

// testRecord is a flow of so many packets of 100 bytes, told from others by the
// number of packets.
func testRecord(index int, packets uint64) flow.Record {
	return flow.Record{
		Key: flow.Key{
			Source:          netip.MustParseAddr("192.0.2.1"),
			Destination:     netip.MustParseAddr("198.51.100.7"),
			SourcePort:      40001,
			DestinationPort: 443,
			Protocol:        flow.TCP,
			Has:             flow.HasPorts,
			InterfaceIndex:  uint32(index),
		},
		Packets:   packets,
		Bytes:     100 * packets,
		WireBytes: 100 * packets,
		First:     time.Unix(1_700_000_000, 0),
		Last:      time.Unix(1_700_000_001, 0),
	}
}

// statusHost is a host that keeps what is reported to it.
type statusHost struct {
	component.Host
	mu     sync.Mutex // guards events
	events []*componentstatus.Event
}

var _ componentstatus.Reporter = (*statusHost)(nil)

func newStatusHost() *statusHost {
	return &statusHost{Host: componenttest.NewNopHost()}
}

func (h *statusHost) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// take gives the statuses reported since it was last asked, as text.
func (h *statusHost) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, e := range h.events {
		text := e.Status().String()
		if e.Err() != nil {
			text += ": " + e.Err().Error()
		}
		out = append(out, text)
	}
	h.events = nil
	return out
}

// fakeSink keeps the windows that it is given.
type fakeSink struct {
	mu      sync.Mutex // guards all that follows
	began   time.Time
	netns   uint64
	ledger  *ledger
	windows []window
	stopped int
	// arrived gets a value with each window, where it is not nil.
	arrived chan struct{}
}

func (s *fakeSink) start(began time.Time, netns uint64, ledger *ledger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began, s.netns, s.ledger = began, netns, ledger
}

func (s *fakeSink) accounts() bool { return false }

func (s *fakeSink) consume(_ context.Context, w *window) {
	s.mu.Lock()
	kept := *w
	kept.interfaces = append([]aggregate.InterfacePoint{}, w.interfaces...)
	kept.flows = append([]flow.Record{}, w.flows...)
	s.windows = append(s.windows, kept)
	s.mu.Unlock()
	if s.arrived != nil {
		s.arrived <- struct{}{}
	}
}

func (s *fakeSink) stop(context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped++
}

// packets gives the numbers of packets of the flows in each window since it was
// last asked.
func (s *fakeSink) packets() [][]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all [][]uint64
	for _, w := range s.windows {
		var one []uint64
		for _, rec := range w.flows {
			one = append(one, rec.Packets)
		}
		all = append(all, one)
	}
	s.windows = nil
	return all
}

// last gives the newest window.
func (s *fakeSink) last(t *testing.T) window {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.NotEmpty(t, s.windows)
	return s.windows[len(s.windows)-1]
}

// testConfig watches loopback, and ticks only when a test does.
func testConfig() *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.Interfaces.Include, cfg.Interfaces.Exclude = []string{"lo"}, nil
	cfg.Interval = time.Hour
	// what happens elsewhere on the machine is nothing to these tests
	cfg.Flows.NAT, cfg.Drops.Mode, cfg.Sockets.Mode = "off", "off", "off"
	return cfg
}

// everyone counts, also the loopback what comes in by it.
func everyone() join.Owners { return nil }

func testSettings() receiver.Settings {
	set := receivertest.NewNopSettings(metadata.Type)
	set.ID = component.NewID(metadata.Type) // and not one that is always new
	return set
}

// newTestSession is a session on a fake probe, not started.
func newTestSession(cfg *Config) (*session, *fakeProbe) {
	f := newFakeProbe()
	s := newSession(testSettings(), cfg)
	s.load = func(probe.Options) (prober, error) { return f, nil }
	s.chooseOwners = everyone
	return s, f
}

// openTestSession is a session that is open, so that interfaces come and go,
// and not started, so that nothing happens but what the test does. It watches
// interfaces whose names begin with "fake".
func openTestSession(t *testing.T) (*session, *fakeProbe, *fakeSink) {
	t.Helper()
	cfg := testConfig()
	cfg.Interfaces.Include, cfg.Interfaces.Exclude = []string{"fake*"}, []string{"fake9"}
	s, f := newTestSession(cfg)
	require.NoError(t, s.open())
	t.Cleanup(func() { require.NoError(t, s.close()) })
	sk := &fakeSink{}
	s.members = []member{{sink: sk, host: newStatusHost()}}
	return s, f, sk
}

func device(index int, name string) netdev.Interface {
	return netdev.Interface{Index: index, Name: name, Ethernet: true}
}

func appeared(index int, name string) netdev.Event {
	return netdev.Event{Interface: device(index, name)}
}

func gone(index int, name string) netdev.Event {
	return netdev.Event{Gone: true, Interface: device(index, name)}
}
