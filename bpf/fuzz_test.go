// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/captures"
	"github.com/netprobe-otel/netprobe/internal/bpftest/refdecode"
)

// The fuzz tests run any bytes through the programs and through the reference
// decoder, and want the same from both. Coverage guides them through the
// decoder; the programs have no instrumentation.

// newFuzzMeter loads the programs for one fuzz test, which may lose no packet.
func newFuzzMeter(f *testing.F) *bpftest.Meter {
	f.Helper()
	r := bpftest.New(f, bpftest.Options{FlowEntries: 16})
	f.Cleanup(func() { requireNoLoss(f, r) })
	return bpftest.NewMeter(f, r)
}

// offload is what the kernel says of a super-packet.
type offload struct{ segments, segmentSize uint16 }

func (o offload) skb() *bpftest.SKB {
	if o == (offload{}) {
		return nil
	}
	return &bpftest.SKB{GSOSegs: uint32(o.segments), GSOSize: uint32(o.segmentSize)}
}

// volume is what a packet of so many bytes is on the wire, whose headers are
// repeated in each segment.
func (o offload) volume(length int, packet refdecode.Result) bpf.TCVolume {
	headerLen := packet.HeaderLen
	segments := max(int(o.segments), 1)
	jumbo := 0 // only there in the kernel
	if o.segmentSize != 0 {
		jumbo = packet.JumboLen
	}
	if payload := length - headerLen; o.segments == 0 && o.segmentSize != 0 && payload > 0 {
		size := int(o.segmentSize)
		segments = payload / size
		if payload%size != 0 {
			segments++
		}
	}
	return bpf.TCVolume{Packets: uint64(segments), Bytes: uint64(length + (segments-1)*headerLen - segments*jumbo)}
}

// usable drops what says nothing: how much each segment repeats is known only
// of a packet whose headers are all there, or that has none.
func (o offload) usable(packet refdecode.Result) offload {
	if packet.HeaderLen == 0 && packet.Outcome != refdecode.NotIP {
		return offload{}
	}
	return o
}

func FuzzTC(f *testing.F) {
	meter := newFuzzMeter(f)
	for _, frame := range seedFrames(f) {
		f.Add(frame, uint16(0), uint16(0))
	}
	for _, c := range gsoCases(f) {
		f.Add(c.frame, uint16(c.skb.GSOSegs), uint16(c.skb.GSOSize))
	}
	f.Fuzz(func(t *testing.T, frame []byte, segments, segmentSize uint16) {
		frame = frame[:min(len(frame), bpftest.MaxFrame)]
		if !bpftest.RunnableTC(frame) {
			t.Skip("too short for a test run")
		}
		packet := refdecode.Decode(refdecode.Packet{Data: frame})
		gso := offload{segments, segmentSize}.usable(packet)

		got := meter.RunTC(t, meter.Runner.TC.TcIngress, frame, gso.skb())
		want := referenceTC(packet, len(frame), gso.volume(len(frame), packet))
		requireSame(t, want, got, frame)
	})
}

func FuzzTCL3(f *testing.F) {
	meter := newFuzzMeter(f)
	for _, frame := range seedFrames(f) {
		f.Add(binary.BigEndian.Uint16(frame[12:]), frame[14:], uint16(0), uint16(0))
	}
	f.Fuzz(func(t *testing.T, etherType uint16, data []byte, segments, segmentSize uint16) {
		// the kernel takes the type from an Ethernet header, which it also counts
		frame := append(binary.BigEndian.AppendUint16(make([]byte, 12), etherType), data...)
		frame = frame[:min(len(frame), bpftest.MaxFrame)]
		if !bpftest.RunnableTC(frame) {
			t.Skip("too short for a test run")
		}
		packet := refdecode.Decode(refdecode.Packet{
			Data: frame[14:], NoLink: true, EtherType: etherType, Length: len(frame),
		})
		gso := offload{segments, segmentSize}.usable(packet)

		got := meter.RunTC(t, meter.Runner.TC.TcIngressL3, frame, gso.skb())
		want := referenceTC(packet, len(frame), gso.volume(len(frame), packet))
		requireSame(t, want, got, frame)
	})
}

func FuzzXDP(f *testing.F) {
	meter := newFuzzMeter(f)
	for _, frame := range seedFrames(f) {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		frame = frame[:min(len(frame), bpftest.MaxFrame)]
		if !bpftest.RunnableXDP(frame) {
			t.Skip("too short for a test run")
		}
		packet := refdecode.Decode(refdecode.Packet{Data: frame, OuterOnly: true})

		got := meter.RunXDP(t, frame)
		requireSame(t, bpftest.Result{
			Return:  xdpPass,
			Outcome: referenceOutcome(packet.Outcome),
			Volume:  bpf.TCVolume{Packets: 1, Bytes: uint64(len(frame))},
		}, got, frame)
	})
}

// seedFrames are the packets of the table, and the first frame of each capture.
func seedFrames(f *testing.F) [][]byte {
	f.Helper()
	var frames [][]byte
	for _, c := range allCases(f) {
		frames = append(frames, c.frame)
	}
	found, err := captures.Find(capturesDir)
	require.NoError(f, err)
	for _, capture := range found {
		packets, err := capture.Packets()
		if err == nil && len(packets) > 0 && packets[0].Link == layers.LinkTypeEthernet && len(packets[0].Data) >= 14 {
			frames = append(frames, packets[0].Data[:min(len(packets[0].Data), bpftest.MaxFrame)])
		}
	}
	return frames
}
