// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// How many flows the overflow table takes, as a multiple of the flow map's size.
const overflowFactor = 4

// overflow collects the packets whose flows found the flow map full.
type overflow struct {
	ring *kernel.Ring
	max  int

	mu         sync.Mutex // guards what follows
	flows      map[overflowKey]*bpf.TCFlowStats
	overflowed flow.Volume
	lost       [2]flow.Volume // by flow.Direction
}

// overflowKey is a flow's key with the tunnel where the key has no handle of it,
// because the table of tunnels was full.
type overflowKey struct {
	flow   bpf.TCFlowKey
	tunnel bpf.TCTunnelKey
}

func newOverflow(events *ebpf.Map, flowEntries int) (*overflow, error) {
	o := &overflow{max: flowEntries * overflowFactor, flows: map[overflowKey]*bpf.TCFlowStats{}}
	ring, err := kernel.ReadRing(events, o.add)
	if err != nil {
		return nil, err
	}
	o.ring = ring
	return o, nil
}

func (o *overflow) add(sample []byte) {
	var event bpf.TCFlowEvent
	if len(sample) < int(unsafe.Sizeof(event)) {
		return // cannot be: the programs reserve just this size
	}
	// The sample is this struct in host order; it may lie at any address.
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&event)), unsafe.Sizeof(event)), sample)
	v := flow.Volume{Packets: event.Packets, Bytes: event.Bytes}
	stats := eventStats(&event)
	key := overflowKey{flow: event.Key}
	if event.Key.Tunnel == 0 {
		key.tunnel = event.Tunnel
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	o.overflowed.Add(v)
	if have, ok := o.flows[key]; ok {
		mergeStats(have, stats)
	} else if len(o.flows) < o.max {
		o.flows[key] = stats
	} else {
		o.lost[event.Key.Direction&1].Add(v)
	}
}

func eventStats(event *bpf.TCFlowEvent) *bpf.TCFlowStats {
	stats := &bpf.TCFlowStats{
		Packets:     event.Packets,
		Bytes:       event.Bytes,
		TunnelBytes: event.TunnelBytes,
		FirstMonoNs: event.MonoNs,
		LastMonoNs:  event.MonoNs,
	}
	for i := range stats.TcpFlagSeen {
		stats.TcpFlagSeen[i] = event.TcpFlags >> i & 1
	}
	switch flow.TCPFlags(event.TcpFlags) & (flow.SYN | flow.ACK) {
	case flow.SYN:
		stats.SynSeen = 1
	case flow.SYN | flow.ACK:
		stats.SynAckSeen = 1
	}
	return stats
}

// take returns all that overflowed until now and starts anew.
func (o *overflow) take() map[overflowKey]*bpf.TCFlowStats {
	o.ring.Flush()
	o.mu.Lock()
	defer o.mu.Unlock()
	flows := o.flows
	o.flows = map[overflowKey]*bpf.TCFlowStats{}
	return flows
}

func (o *overflow) health() (overflowed flow.Volume, lost [2]flow.Volume) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.overflowed, o.lost
}

// Close ends the reading.
func (o *overflow) Close() error {
	return o.ring.Close()
}
