// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"encoding/binary"
	"runtime"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// packet is one packet of the flow from a source port.
type packet struct {
	port    uint16
	payload int
}

// sender sends frames one after another, of ports in turn, and knows what it sent.
type sender struct {
	socket *socket
	frames []packet
	sent   map[uint16]flow.Volume
}

// drains counts how often the flows were drained.
type drains struct {
	more *sync.Cond
	n    int // guarded by more.L
}

func (d *drains) count() {
	d.more.L.Lock()
	defer d.more.L.Unlock()
	d.n++
	d.more.Broadcast()
}

// await waits until there were more than n, and says how many.
func (d *drains) await(n int) int {
	d.more.L.Lock()
	defer d.more.L.Unlock()
	for d.n <= n {
		d.more.Wait()
	}
	return d.n
}

// run sends so many frames on a thread, and so a CPU, of its own. Now and then
// it waits for a drain, so that many drains come between its packets.
func (s *sender) run(tb testing.TB, n int, drained *drains) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	built := make([][]byte, len(s.frames))
	for i, f := range s.frames {
		built[i] = udp4(tb, f.port, f.payload)
	}
	seen := 0
	for i := range n {
		if i%500 == 499 {
			seen = drained.await(seen)
		}
		at := i % len(built)
		if err := s.socket.send(built[at]); err != nil {
			return err
		}
		v := s.sent[s.frames[at].port]
		v.Add(volumeOf(built[at]))
		s.sent[s.frames[at].port] = v
	}
	return nil
}

// Programs write while user space flips and empties: each packet is handed out
// once, in whichever drain, or is in a named loss.
func TestDrainWhileTrafficRuns(t *testing.T) {
	for _, tt := range []struct {
		name    string
		flowMap FlowMap
		entries uint32
		ring    uint32
	}{
		// the ring buffer has room for all packets, should nobody read it
		{"shared", FlowMapShared, 1024, 4 << 20},
		{"per CPU", FlowMapPerCPU, 1024, 4 << 20},
		{"shared and overflowing", FlowMapShared, 16, 4 << 20},
		{"per CPU and overflowing", FlowMapPerCPU, 16, 4 << 20},
		{"overflowing more than fits", FlowMapShared, 4, 4096},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			opts := defaults()
			opts.FlowMap, opts.FlowEntries, opts.RingBufferBytes = tt.flowMap, tt.entries, tt.ring
			p := load(t, opts)
			l.attach(t, p)
			sent, got := sendAndDrain(t, l, p)
			requireLedger(t, l, p, sent, got, tt.ring > 4096)
			h, err := p.Health()
			require.NoError(t, err)
			if tt.entries == 1024 {
				require.Equal(t, flow.Volume{}, h.Overflowed)
			} else {
				require.NotEqual(t, flow.Volume{}, h.Overflowed, "this is to go through the ring buffer too")
			}
		})
	}
}

// how many packets each of two threads sends
const each = 20_000

// sendAndDrain has two threads send while this one drains until they are done.
func sendAndDrain(t *testing.T, l *lab, p *Probe) (sent, got map[flow.Key]flow.Volume) {
	t.Helper()
	drained := &drains{more: sync.NewCond(&sync.Mutex{})}
	// some flows are of both threads
	senders := []*sender{{}, {}}
	var group sync.WaitGroup
	errs := make(chan error, len(senders))
	for i, s := range senders {
		s.socket, s.sent = open(t, l.near), map[uint16]flow.Volume{}
		for port := range 40 {
			s.frames = append(s.frames, packet{port: uint16(1000 + 20*i + port), payload: port})
		}
		group.Go(func() { errs <- s.run(t, each, drained) })
	}
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()

	got = map[flow.Key]flow.Volume{}
	for running := true; running; drained.count() {
		select {
		case <-done:
			running = false // once more, for what came after the last drain
		default:
		}
		for key, v := range volumes(t, drain(t, p)) {
			sum := got[key]
			sum.Add(v)
			got[key] = sum
		}
	}
	for range senders {
		require.NoError(t, <-errs)
	}
	sent = map[flow.Key]flow.Volume{}
	for _, s := range senders {
		for port, v := range s.sent {
			key := l.key4(flow.UDP, flow.Egress)
			key.SourcePort = port
			sum := sent[key]
			sum.Add(v)
			sent[key] = sum
		}
	}
	return sent, got
}

// requireLedger: what was sent is what was handed out and what is in the losses.
func requireLedger(t *testing.T, l *lab, p *Probe, sent, got map[flow.Key]flow.Volume, lossless bool) {
	t.Helper()
	total := func(flows map[flow.Key]flow.Volume) flow.Volume {
		var sum flow.Volume
		for _, v := range flows {
			sum.Add(v)
		}
		return sum
	}
	h, err := p.Health()
	require.NoError(t, err)
	counters, err := p.InterfaceCounters(l.index())
	require.NoError(t, err)
	require.Equal(t, total(sent), counters.Tx)
	require.Equal(t, total(sent), h.Hooks[HookTCEgress].Parsed[flow.OutcomeOK])

	recorded := total(got)
	if lossless {
		require.Equal(t, [Losses]flow.Volume{}, h.Hooks[HookTCEgress].Lost)
		require.Equal(t, sent, got)
	}
	for _, lost := range h.Hooks[HookTCEgress].Lost {
		recorded.Add(lost)
	}
	require.Equal(t, total(sent), recorded)
}

// More flows than one system call reads come complete.
func TestDrainInBatches(t *testing.T) {
	for _, flowMap := range []FlowMap{FlowMapShared, FlowMapPerCPU} {
		t.Run(string(flowMap), func(t *testing.T) {
			bpftest.RequireBPF(t)
			opts := defaults()
			opts.FlowMap, opts.FlowEntries = flowMap, 3*drainBatch
			p := load(t, opts)
			for range 2 { // one map after the other
				fill(t, p, 2*drainBatch+1)
				records := drain(t, p)
				require.Len(t, volumes(t, records), 2*drainBatch+1)
				for _, rec := range records {
					require.Equal(t, uint64(possibleCPUsIf(flowMap)), rec.Packets)
				}
				require.Empty(t, drain(t, p))
			}
		})
	}
}

func possibleCPUsIf(flowMap FlowMap) int {
	if flowMap == FlowMapPerCPU {
		return kernel.PossibleCPUs()
	}
	return 1
}

// fill puts so many flows into the map that programs write, with one packet on
// each CPU.
func fill(tb testing.TB, p *Probe, n int) {
	tb.Helper()
	keys := make([]bpf.TCFlowKey, n)
	values := make([]bpf.TCFlowStats, n*p.flows.cpus)
	for i := range keys {
		keys[i] = kernelKey(4, "192.0.2.1", "198.51.100.7")
		binary.BigEndian.PutUint32(keys[i].Destination[12:], uint32(i))
	}
	for i := range values {
		values[i] = bpf.TCFlowStats{Packets: 1, Bytes: 100, FirstMonoNs: 1, LastMonoNs: 2}
	}
	written, err := p.flows.maps.Active().BatchUpdate(keys, values, nil)
	require.NoError(tb, err)
	require.Equal(tb, n, written)
}

// Kernels without batch operations give the same.
func TestEmptyOneByOne(t *testing.T) {
	for _, flowMap := range []FlowMap{FlowMapShared, FlowMapPerCPU} {
		t.Run(string(flowMap), func(t *testing.T) {
			bpftest.RequireBPF(t)
			opts := defaults()
			opts.FlowMap, opts.FlowEntries = flowMap, 1000
			p := load(t, opts)
			read := func(empty func(*ebpf.Map, func(*bpf.TCFlowKey, *bpf.TCFlowStats)) error) map[bpf.TCFlowKey]bpf.TCFlowStats {
				fill(t, p, 700)
				idle, err := p.flows.maps.Flip()
				require.NoError(t, err)
				got := map[bpf.TCFlowKey]bpf.TCFlowStats{}
				require.NoError(t, empty(idle, func(key *bpf.TCFlowKey, stats *bpf.TCFlowStats) {
					if _, twice := got[*key]; twice {
						require.FailNow(t, "a flow came twice", "%v", *key)
					}
					got[*key] = *stats
				}))
				var key bpf.TCFlowKey
				require.ErrorIs(t, idle.NextKey(nil, &key), ebpf.ErrKeyNotExist, "it is empty")
				return got
			}
			batch := read(p.flows.empty)
			require.Len(t, batch, 700)
			require.Equal(t, batch, read(p.flows.emptyOneByOne))
		})
	}
}

// What had overflowed is out of the ring buffer, and must not go with an error
// of the map.
func TestDrainError(t *testing.T) {
	l := newLab(t)
	opts := defaults()
	opts.FlowEntries = 1
	p := load(t, opts)
	l.attach(t, p)
	l.sendEach(t, 2)
	require.NoError(t, p.tc.Flows0.Close())
	var records []flow.Record
	err := p.DrainFlows(func(rec *flow.Record) { records = append(records, *rec) })
	require.ErrorContains(t, err, "drain flow map: ")
	require.Len(t, records, 1)
	require.Equal(t, uint64(2), records[0].Packets)
}

func BenchmarkDrain(b *testing.B) {
	const flows = 100_000
	for _, flowMap := range []FlowMap{FlowMapShared, FlowMapPerCPU} {
		b.Run(string(flowMap), func(b *testing.B) {
			bpftest.RequireBPF(b)
			opts := defaults()
			opts.FlowMap, opts.FlowEntries = flowMap, 131072
			p := load(b, opts)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				fill(b, p, flows)
				b.StartTimer()
				n := 0
				require.NoError(b, p.DrainFlows(func(*flow.Record) { n++ }))
				require.Equal(b, flows, n)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*flows), "ns/flow")
		})
	}
}
