// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// How many entries one system call reads and deletes.
const drainBatch = 8192

// flowTable empties the two flow maps in turn.
type flowTable struct {
	maps     *kernel.Pair
	overflow *overflow
	tunnels  *tunnelTable
	clock    kernel.Clock
	entries  int // at the last drain

	// reused at each drain
	keys   []bpf.TCFlowKey
	values []bpf.TCFlowStats // per CPU, a key's one after the other
	cpus   int               // values per key; 1 for a shared map
}

func newFlowTable(tc *bpf.TCObjects, perCPU bool, maxEntries int) (*flowTable, error) {
	t := &flowTable{cpus: 1}
	if perCPU {
		t.cpus = kernel.PossibleCPUs()
	}
	size := min(drainBatch, maxEntries)
	t.keys = make([]bpf.TCFlowKey, size)
	t.values = make([]bpf.TCFlowStats, size*t.cpus)

	var err error
	if t.maps, err = kernel.NewPair(tc.Flows0, tc.Flows1, tc.FlowEpoch, tc.Barrier); err != nil {
		return nil, err
	}
	t.tunnels = newTunnelTable(tc.Tunnels)
	t.overflow, err = newOverflow(tc.FlowEvents, maxEntries)
	if err != nil {
		return nil, errors.Join(err, t.maps.Close())
	}
	return t, nil
}

// Close ends the overflow reader. What it had not handed out is lost: drain before.
func (t *flowTable) Close() error {
	return errors.Join(t.overflow.Close(), t.maps.Close())
}

// DrainFlows hands out what was counted of each flow since the last drain,
// every flow once. The record is valid until yield returns; its Interface is
// left empty. After an error the flows not handed out stay for the next drain.
func (p *Probe) DrainFlows(yield func(*flow.Record)) error {
	if p.flows == nil {
		return nil
	}
	return p.flows.drain(yield)
}

func (t *flowTable) drain(yield func(*flow.Record)) error {
	idle, err := t.maps.Flip()
	if err != nil {
		return err
	}
	overflowed := t.overflow.take()
	t.clock.Sync()

	var rec flow.Record
	t.entries = 0
	err = t.empty(idle, func(key *bpf.TCFlowKey, stats *bpf.TCFlowStats) {
		t.entries++
		if len(overflowed) > 0 {
			whole := overflowKey{flow: *key}
			if extra, ok := overflowed[whole]; ok {
				mergeStats(stats, extra)
				delete(overflowed, whole)
			}
		}
		decode(&rec, key, t.tunnels.find(key.Tunnel), stats, &t.clock)
		yield(&rec)
	})
	// The overflow is out of the ring buffer and must not be lost with an error.
	for key, stats := range overflowed {
		tunnel := t.tunnels.find(key.flow.Tunnel)
		if key.tunnel.Type != 0 {
			tunnel = decodeTunnel(&key.tunnel)
		}
		decode(&rec, &key.flow, tunnel, stats, &t.clock)
		yield(&rec)
	}
	return errors.Join(err, t.tunnels.age())
}

// empty reads and deletes all entries of a map that nobody writes.
func (t *flowTable) empty(m *ebpf.Map, yield func(*bpf.TCFlowKey, *bpf.TCFlowStats)) error {
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookupAndDelete(&cursor, t.keys, t.values, nil)
		if n == 0 && errors.Is(err, ebpf.ErrNotSupported) {
			return t.emptyOneByOne(m, yield)
		}
		for i := range n {
			yield(&t.keys[i], sumStats(t.values[i*t.cpus:(i+1)*t.cpus]))
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("drain flow map: %w", err)
		}
	}
}

// emptyOneByOne is for kernels without batch operations on this type of map.
func (t *flowTable) emptyOneByOne(m *ebpf.Map, yield func(*bpf.TCFlowKey, *bpf.TCFlowStats)) error {
	var key bpf.TCFlowKey
	for {
		err := m.NextKey(nil, &key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("drain flow map: %w", err)
		}
		values := t.values[:t.cpus]
		if t.cpus > 1 {
			err = m.Lookup(&key, &values)
		} else {
			err = m.Lookup(&key, &values[0])
		}
		if err == nil {
			err = m.Delete(&key)
		}
		if err != nil {
			return fmt.Errorf("drain flow map: %w", err)
		}
		yield(&key, sumStats(values))
	}
}

// sumStats adds up what the CPUs counted, in the first CPU's place.
func sumStats(perCPU []bpf.TCFlowStats) *bpf.TCFlowStats {
	sum := &perCPU[0]
	for i := 1; i < len(perCPU); i++ {
		mergeStats(sum, &perCPU[i])
	}
	return sum
}

func mergeStats(to, from *bpf.TCFlowStats) {
	if from.Packets == 0 {
		return
	}
	if to.Packets == 0 {
		*to = *from
		return
	}
	to.Packets += from.Packets
	to.Bytes += from.Bytes
	to.TunnelBytes += from.TunnelBytes
	to.FirstMonoNs = minSet(to.FirstMonoNs, from.FirstMonoNs)
	to.LastMonoNs = max(to.LastMonoNs, from.LastMonoNs)
	for i, seen := range from.TcpFlagSeen {
		to.TcpFlagSeen[i] |= seen
	}
	to.SynSeen |= from.SynSeen
	to.SynAckSeen |= from.SynAckSeen
}

// minSet is the smaller of two times of which 0 stands for "not noted": a CPU
// that finds the entry of another adds to its own part, which has no first time.
func minSet(a, b uint64) uint64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
