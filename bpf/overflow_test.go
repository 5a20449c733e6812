// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
)

const (
	fewEntries = 4
	// what the kernel puts before every record of a ring buffer, BPF_RINGBUF_HDR_SZ
	ringRecordHeader = 8
)

// readEvents takes all events out of the ring buffer, with the times that
// cannot be foreseen set to zero.
func readEvents(tb testing.TB, rd *ringbuf.Reader) []bpf.TCFlowEvent {
	tb.Helper()
	require.NoError(tb, rd.Flush())
	var events []bpf.TCFlowEvent
	last := uint64(1)
	for {
		record, err := rd.Read()
		if err != nil {
			require.ErrorIs(tb, err, ringbuf.ErrFlushed)
			return events
		}
		var event bpf.TCFlowEvent
		require.Len(tb, record.RawSample, int(unsafe.Sizeof(event)))
		_, err = binary.Decode(record.RawSample, binary.NativeEndian, &event)
		require.NoError(tb, err)
		require.GreaterOrEqual(tb, event.MonoNs, last)
		last, event.MonoNs = event.MonoNs, 0
		events = append(events, event)
	}
}

func newEventReader(tb testing.TB, r *bpftest.Runner) *ringbuf.Reader {
	tb.Helper()
	rd, err := ringbuf.NewReader(r.TC.FlowEvents)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, rd.Close()) })
	return rd
}

// A flow that finds the map full goes through the ring buffer, packet by packet;
// the flows that are in the map stay there.
func TestFullFlowMap(t *testing.T) {
	const flows = 40
	forBothMaps(t, bpftest.Options{FlowEntries: fewEntries}, func(t *testing.T, r *bpftest.Runner) {
		rd := newEventReader(t, r)
		inMap := make(map[bpf.TCFlowKey]bpf.TCVolume)
		var spilled []bpf.TCFlowEvent
		for round, flags := range []byte{tcpSYN, tcpACK, tcpPSH | tcpACK, tcpFIN | tcpACK} {
			for i := range flows {
				c := conversation{uint16(30000 + i)}
				frame := c.frame(t, flags, 10*round+i)
				send(t, r.TC.TcIngress, frame)
				if i < fewEntries {
					v := inMap[c.key()]
					inMap[c.key()] = bpf.TCVolume{Packets: v.Packets + 1, Bytes: v.Bytes + uint64(len(frame))}
					continue
				}
				spilled = append(spilled, bpf.TCFlowEvent{
					Key: c.key(), TcpFlags: flags, Packets: 1, Bytes: uint64(len(frame)),
				})
			}
		}

		var want []bpftest.Flow
		for k, v := range inMap {
			want = append(want, wantFlows(&k, v, tcpSYN|tcpACK|tcpPSH|tcpFIN)...)
		}
		for i := range want { // no packet had both
			want[i].Stats.SynSeen, want[i].Stats.SynAckSeen = 1, 0
		}
		require.ElementsMatch(t, want, withoutTimes(r.Flows(t)))
		require.Equal(t, spilled, readEvents(t, rd))
		requireNoLoss(t, r)
	})
}

// A super-packet that finds the map full counts as what it is on the wire.
func TestFullFlowMapWithSegments(t *testing.T) {
	r := bpftest.New(t, bpftest.Options{FlowEntries: 1})
	rd := newEventReader(t, r)
	send(t, r.TC.TcIngress, conversation{30000}.frame(t, tcpACK, 0))
	var want []bpf.TCFlowEvent
	for _, c := range gsoCases(t) {
		sendSegments(t, r.TC.TcIngress, c.frame, c.skb)
		if c.flow != nil {
			volume := c.volume(packets.EthernetLen)
			want = append(want, bpf.TCFlowEvent{
				Key: *c.flow, TcpFlags: c.flags, Packets: volume.Packets, Bytes: volume.Bytes,
			})
		}
	}
	require.Equal(t, want, readEvents(t, rd))
	require.Len(t, r.Flows(t), 1)
	requireNoLoss(t, r)
}

// What even the ring buffer has no room for is counted as lost, to the packet:
// every packet is in the map, in the ring buffer or among the losses.
func TestFullRingBuffer(t *testing.T) {
	forBothMaps(t, bpftest.Options{FlowEntries: fewEntries}, func(t *testing.T, r *bpftest.Runner) {
		const lost = 25
		record := ringRecordHeader + (int(unsafe.Sizeof(bpf.TCFlowEvent{}))+7)/8*8
		room := (int(r.TC.FlowEvents.MaxEntries()) - 1) / record
		for i := range fewEntries {
			send(t, r.TC.TcIngress, conversation{uint16(30000 + i)}.frame(t, tcpACK, 0))
		}
		spill := conversation{31000}
		frame := spill.frame(t, tcpACK, 50)
		for range room + lost {
			send(t, r.TC.TcIngress, frame)
		}
		// there is still room for those that have an entry
		send(t, r.TC.TcIngress, conversation{30000}.frame(t, tcpACK, 0))

		event := bpf.TCFlowEvent{Key: spill.key(), TcpFlags: tcpACK, Packets: 1, Bytes: uint64(len(frame))}
		rd := newEventReader(t, r)
		events := readEvents(t, rd)
		require.Len(t, events, room)
		for _, got := range events {
			require.Equal(t, event, got)
		}
		require.Equal(t, bpf.TCVolume{Packets: lost, Bytes: lost * uint64(len(frame))},
			r.Loss(t, bpf.TCLossLOSS_RINGBUF_FULL))
		require.Zero(t, r.Loss(t, bpf.TCLossLOSS_MAP_UPDATE))

		sum := bpf.TCVolume{
			Packets: uint64(room + lost), Bytes: uint64(room+lost) * uint64(len(frame)),
		}
		flows := r.Flows(t)
		require.Len(t, flows, fewEntries)
		for _, flow := range flows {
			sum.Packets += flow.Stats.Packets
			sum.Bytes += flow.Stats.Bytes
		}
		require.Equal(t, uint64(fewEntries+1+room+lost), sum.Packets)
		require.Equal(t, r.Interface(t, bpf.TCDirectionDIRECTION_INGRESS), sum)

		// once it is read there is room again
		send(t, r.TC.TcIngress, frame)
		require.Equal(t, []bpf.TCFlowEvent{event}, readEvents(t, rd))
		require.Equal(t, uint64(lost), r.Loss(t, bpf.TCLossLOSS_RINGBUF_FULL).Packets)
	})
}
