// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// sendEach sends one packet of each of so many flows, twice.
func (l *lab) sendEach(t *testing.T, flows int) map[flow.Key]flow.Volume {
	t.Helper()
	s := open(t, l.near)
	want := map[flow.Key]flow.Volume{}
	for range 2 {
		for port := range flows {
			frame := udp4(t, uint16(1000+port), port%100)
			s.sendAll(t, frame)
			key := l.key4(flow.UDP, flow.Egress)
			key.SourcePort = uint16(1000 + port)
			v := want[key]
			v.Add(volumeOf(frame))
			want[key] = v
		}
	}
	return want
}

// What the map has no room for comes all the same, each flow once.
func TestOverflow(t *testing.T) {
	for _, flowMap := range []FlowMap{FlowMapShared, FlowMapPerCPU} {
		t.Run(string(flowMap), func(t *testing.T) {
			l := newLab(t)
			opts := defaults()
			opts.FlowMap, opts.FlowEntries = flowMap, 4
			p := load(t, opts)
			l.attach(t, p)
			want := l.sendEach(t, 20)
			require.Equal(t, want, volumes(t, drain(t, p)))
			h, err := p.Health()
			require.NoError(t, err)
			require.Equal(t, 4, h.FlowEntries)
			require.Equal(t, uint64(2*16), h.Overflowed.Packets)
			require.Equal(t, [Losses]flow.Volume{}, h.Hooks[HookTCEgress].Lost)

			require.Empty(t, drain(t, p), "and nothing comes twice")
			h, err = p.Health()
			require.NoError(t, err)
			require.Equal(t, 0, h.FlowEntries)
			require.Equal(t, uint64(2*16), h.Overflowed.Packets, "counted since the start")
		})
	}
}

func sample(key bpf.TCFlowKey, packets uint64) []byte {
	event := bpf.TCFlowEvent{Key: key, TcpFlags: 0x02, Packets: packets, Bytes: 100 * packets, MonoNs: 1}
	return unsafe.Slice((*byte)(unsafe.Pointer(&event)), unsafe.Sizeof(event))
}

// A flow that is in the map and in the overflow, which a flip between two of
// its packets can bring about, is one record.
func TestOverflowOfAFlowInTheMap(t *testing.T) {
	l := newLab(t)
	p := load(t, defaults())
	l.attach(t, p)
	frame := udp4(t, packets.SourcePort, 10)
	l.sendAsEgress(t, frame)
	var key bpf.TCFlowKey
	require.NoError(t, p.tc.Flows0.NextKey(nil, &key))
	p.flows.overflow.add(sample(key, 3))
	p.flows.overflow.add(sample(key, 4))

	records := drain(t, p)
	require.Len(t, records, 1)
	require.Equal(t, uint64(1+3+4), records[0].Packets)
	require.Equal(t, uint64(len(frame)+300+400), records[0].Bytes)
	require.True(t, records[0].SYNSeen)
	require.True(t, records[0].First.Before(records[0].Last))
}

// The overflow table is bounded too; what it has no room for is a loss.
func TestOverflowTableFull(t *testing.T) {
	l := newLab(t)
	opts := defaults()
	opts.FlowEntries = 1
	p := load(t, opts)
	l.attach(t, p)
	sent := l.sendEach(t, 1+overflowFactor+5)
	got := volumes(t, drain(t, p))
	require.Len(t, got, 1+overflowFactor)
	for key, v := range got {
		require.Equal(t, sent[key], v)
	}
	h, err := p.Health()
	require.NoError(t, err)
	require.Equal(t, uint64(2*5), h.Hooks[HookTCEgress].Lost[LossOverflowFull].Packets)
	requireLedger(t, l, p, sent, got, false)

	// there is room again
	sent = l.sendEach(t, 1+overflowFactor)
	require.Equal(t, sent, volumes(t, drain(t, p)))
}

// While user space cannot keep up, the ring buffer fills.
func TestRingBufferFull(t *testing.T) {
	l := newLab(t)
	opts := defaults()
	opts.FlowEntries, opts.RingBufferBytes = 1, 4096
	p := load(t, opts)
	l.attach(t, p)
	p.flows.overflow.mu.Lock()
	sent := l.sendEach(t, 100)
	p.flows.overflow.mu.Unlock()
	got := volumes(t, drain(t, p))
	h, err := p.Health()
	require.NoError(t, err)
	require.NotEqual(t, flow.Volume{}, h.Hooks[HookTCEgress].Lost[LossRingBufferFull])
	requireLedger(t, l, p, sent, got, false)
}

// A sample that is cut is none.
func TestOverflowIgnoresShortSamples(t *testing.T) {
	bpftest.RequireBPF(t)
	p := load(t, defaults())
	short := sample(bpf.TCFlowKey{}, 1)
	p.flows.overflow.add(short[:len(short)-1])
	require.Empty(t, drain(t, p))
	h, err := p.Health()
	require.NoError(t, err)
	require.Equal(t, flow.Volume{}, h.Overflowed)
}
