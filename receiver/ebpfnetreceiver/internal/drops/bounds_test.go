// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// closes says that every drop is accounted for, among the counts and among the
// flows, and how many there were.
func closes(t *testing.T, p *Probe, counts []Count, flows []FlowDrop) flow.Volume {
	t.Helper()
	h := health(t, p)
	all := h.CountLost
	for i := range counts {
		all.Add(counts[i].Volume)
	}
	ofFlows := h.FlowLost
	ofFlows.Add(h.NoFlow)
	for i := range flows {
		ofFlows.Add(flows[i].Volume)
	}
	require.Equal(t, all, ofFlows, "%+v", h)
	return all
}

func TestFlowsBeyondTheBoundAreCountedAsLost(t *testing.T) {
	const room, senders, each = 3, 10, 4
	d := newDropper(t)
	require.NoError(t, d.probe.Close())
	d.probe = load(t, Options{MaxEntries: 16, MaxFlows: room})
	for range each {
		for port := range uint16(senders) {
			tuple := sent
			tuple.SourcePort += port
			d.far.send(t, d.far.frame(t, tuple, anyone))
		}
	}
	await(t, d.probe, d.key(t, flow.UDP), senders*each)
	counts, flows := collect(t, d.probe)
	require.Len(t, flows, room)
	for i := range flows {
		require.Equal(t, uint64(each), flows[i].Packets)
	}
	require.Equal(t, uint64(senders*each), closes(t, d.probe, counts, flows).Packets)
	h := health(t, d.probe)
	require.Equal(t, uint64((senders-room)*each), h.FlowLost.Packets)
	require.Zero(t, h.CountLost)

	// the next interval has room again
	d.far.send(t, d.far.frame(t, sent, anyone))
	await(t, d.probe, d.key(t, flow.UDP), senders*each+1)
	_, flows = collect(t, d.probe)
	require.Len(t, flows, 1)
}

func TestCountsBeyondTheBoundAreCountedAsLost(t *testing.T) {
	d := newDropper(t)
	require.NoError(t, d.probe.Close())
	d.probe = load(t, Options{MaxEntries: 1, MaxFlows: 16})
	for range 3 {
		for _, protocol := range []flow.Protocol{flow.UDP, flow.TCP, flow.ICMP} {
			d.far.send(t, d.far.frame(t, as(sent, protocol), anyone))
		}
	}
	netnstest.Eventually(t, func() bool {
		return health(t, d.probe).CountLost.Packets >= 6
	}, "two of three keys have no room")
	await(t, d.probe, d.key(t, flow.UDP), 3)
	counts, flows := collect(t, d.probe)
	require.Len(t, counts, 1)
	require.Len(t, flows, 3)
	require.Equal(t, uint64(9), closes(t, d.probe, counts, flows).Packets)

	// what another interface had is kept, what this one had makes room
	last, err := d.probe.Forget(func(i uint32) bool { return i != counts[0].InterfaceIndex })
	require.NoError(t, err)
	require.Empty(t, last)
	counts, _ = collect(t, d.probe)
	require.Len(t, counts, 1)
	last, err = d.probe.Forget(func(i uint32) bool { return i == counts[0].InterfaceIndex })
	require.NoError(t, err)
	require.Equal(t, counts, last, "what they were at last")
	d.far.send(t, d.far.frame(t, as(sent, flow.TCP), anyone))
	await(t, d.probe, d.key(t, flow.TCP), 1)
	counts, _ = collect(t, d.probe)
	require.Len(t, counts, 1)
}

// However many there are, batches give each count once, as kernels without them do.
func TestCountsInBatches(t *testing.T) {
	netnstest.Enter(t)
	for _, n := range []int{1, 100, drainBatch, drainBatch + 1, 3 * drainBatch} {
		p := load(t, Options{MaxEntries: uint32(n), MaxFlows: 1})
		fillCounts(t, p, n)
		read := func(each func(func(*bpf.DropsDropKey, []bpf.DropsVolume)) error) map[bpf.DropsDropKey]flow.Volume {
			got := map[bpf.DropsDropKey]flow.Volume{}
			require.NoError(t, each(func(key *bpf.DropsDropKey, values []bpf.DropsVolume) {
				_, twice := got[*key]
				require.False(t, twice, "%v", *key)
				got[*key] = sum(values)
			}))
			return got
		}
		batch := read(p.eachCount)
		require.Len(t, batch, n)
		require.Equal(t, batch, read(p.eachCountAlone))
		last := bpf.DropsDropKey{Reason: uint32(n - 1), Ifindex: 1}
		require.Equal(t, uint64((n-1)*kernel.PossibleCPUs()), batch[last].Packets)

		forgotten, err := p.Forget(func(uint32) bool { return true })
		require.NoError(t, err)
		require.Len(t, forgotten, n)
		require.Empty(t, read(p.eachCount))
	}
}

// Two senders on CPUs of their own, and drains all the while: every drop is in one
// interval, and in one only.
func TestDrainingLosesNothing(t *testing.T) {
	const each, senders = 20000, 2
	l := newLab(t)
	nft(t, `table inet lab { counter c {}; chain c { type filter hook input priority 0; udp dport 9 counter name c drop; }; }`)
	// else what comes before the neighbour's answer may be dropped at the client
	node := l.openRaw(t).node
	l.client.Do(t, func() { staticNeighbor(t, toClient+"-far", node4, node) })
	p := load(t, roomy())
	var sending sync.WaitGroup
	done := make(chan struct{})
	tuples := map[flow.Tuple]bool{}
	for range senders {
		conn := dial(t, l.client, node4, 9)
		tuples[tupleOf(conn)] = true
		sending.Go(func() {
			for range each {
				if _, err := conn.Write([]byte{0}); err != nil {
					t.Errorf("send: %v", err)
					return
				}
			}
		})
	}
	go func() {
		sending.Wait()
		close(done)
	}()
	byFlow := map[flow.Tuple]uint64{}
	drains := 0
	var all []FlowDrop
	drain := func() {
		drains++
		_, flows := collect(t, p)
		all = append(all, flows...)
		for i := range flows {
			byFlow[flows[i].Tuple] += flows[i].Packets
		}
	}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
			drain()
		}
	}
	// The rule drops all that comes to it, and the queue before it what is too much.
	ofUDP := func(k Key) bool { return k.Protocol == flow.UDP && k.InterfaceIndex == index(t, toClient) }
	netnstest.Eventually(t, func() bool {
		counts, err := p.counts()
		require.NoError(t, err)
		return countOf(counts, ofUDP).Packets >= each*senders
	}, "all are dropped")
	drain()
	require.Greater(t, drains, 2)
	for tuple := range tuples {
		require.Equal(t, uint64(each), byFlow[tuple], "%v", tuple)
	}
	require.Len(t, byFlow, senders)
	counts, _ := collect(t, p)
	require.Equal(t, uint64(each*senders), closes(t, p, counts, all).Packets)
	if p.features.Reasons {
		byRule := func(k Key) bool { return k.Reason == "NETFILTER_DROP" }
		require.Equal(t, nftCounter(t, "c"), countOf(counts, byRule))
	}
	t.Logf("%d drains", drains)
}

func TestLoadSaysWhatIsMissing(t *testing.T) {
	_, err := Load(Options{MaxFlows: 1})
	require.ErrorContains(t, err, "room for at least one entry")
}

// The capabilities that the README lists are needed, and no others.
func TestPrivileges(t *testing.T) {
	bpftest.RequireBPF(t)
	missing := map[int]string{
		unix.CAP_BPF:     "CAP_BPF (loads programs and maps)",
		unix.CAP_PERFMON: "CAP_PERFMON (lets programs follow the kernel and read its memory)",
	}
	netnstest.Enter(t)
	bpftest.With(t, func() {
		p := load(t, roomy())
		_, _, err := p.Collect()
		require.NoError(t, err)
		_, err = p.Forget(func(uint32) bool { return true })
		require.NoError(t, err)
		_, err = p.Health()
		require.NoError(t, err)
	}, unix.CAP_BPF, unix.CAP_PERFMON)
	for without, want := range missing {
		bpftest.With(t, func() {
			_, err := Load(roomy())
			require.ErrorIs(t, err, unix.EPERM)
			require.ErrorContains(t, err, "load drop counters: ")
			require.ErrorContains(t, err, "missing "+want+"; run as root")
		}, unix.CAP_BPF+unix.CAP_PERFMON-without)
	}
}

func TestCloseTwice(t *testing.T) {
	newDropper(t)
	p, err := Load(roomy())
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
}
