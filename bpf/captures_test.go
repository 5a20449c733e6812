// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"cmp"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/captures"
	"github.com/netprobe-otel/netprobe/internal/bpftest/refdecode"
)

const capturesDir = "testdata/captures"

// TestCaptures runs every frame of real captures through the programs and
// compares what they find with what tshark and an independent decoder found,
// frame by frame and flow by flow. NETPROBE_CAPTURES names another directory of
// captures than the small one beside this test.
//
// Where the two differ, the difference has to be in the list that is kept with
// the captures, and each one listed has to be there.
func TestCaptures(t *testing.T) {
	dir := cmp.Or(os.Getenv("NETPROBE_CAPTURES"), capturesDir)
	found, err := captures.Find(dir)
	require.NoError(t, err)
	require.NotEmpty(t, found, "captures in %s", dir)
	listed := readDifferences(t)

	replay := newReplay(t)
	total := make(tally)
	for _, capture := range found {
		t.Run(capture.Name, func(t *testing.T) {
			count := replay.run(t, capture, listed[capture.Name])
			for what, n := range count {
				total[what] += n
			}
		})
	}
	total["captures"] = len(found)
	for _, what := range slices.Sorted(maps.Keys(total)) {
		t.Logf("%8d %s", total[what], what)
	}
	requireNoLoss(t, replay.single.Runner)
	requireNoLoss(t, replay.whole)
}

// tally counts what was done, and what was left out and why.
type tally map[string]int

// replay runs captures through the programs.
type replay struct {
	// single tells what each frame does, whole keeps the flows of a capture.
	single *bpftest.Meter
	whole  *bpftest.Runner
}

func newReplay(t *testing.T) *replay {
	t.Helper()
	return &replay{
		single: bpftest.NewMeter(t, bpftest.New(t, bpftest.Options{FlowEntries: 16})),
		whole:  bpftest.New(t, bpftest.Options{FlowEntries: 1 << 16}),
	}
}

// testPacket is a frame of a capture as a test run takes it.
type testPacket struct {
	data []byte
	// prefix is how many bytes of data are only there for the test run.
	prefix int
	packet refdecode.Packet
}

func (p *testPacket) program(r *bpftest.Runner) *ebpf.Program {
	if p.prefix != 0 {
		return r.TC.TcIngressL3
	}
	return r.TC.TcIngress
}

// prepare makes a frame ready for a test run, or says why it cannot be run.
func prepare(frame captures.Packet) (*testPacket, string) {
	data, prefix := frame.Data, 0
	switch frame.Link {
	case layers.LinkTypeEthernet:
	case layers.LinkTypeRaw, layers.LinkTypeIPv4, layers.LinkTypeIPv6, linkTypeRawBSD, linkTypeRawOpenBSD:
		prefix = 14
		data = append(ethernetBefore(frame.Data), frame.Data...)
	default:
		return nil, "frames left out: link type " + strconv.Itoa(int(frame.Link)) + ", " + frame.Link.String()
	}
	if len(data) > bpftest.MaxFrame {
		data = data[:bpftest.MaxFrame]
	}
	if !bpftest.RunnableTC(data) {
		return nil, "frames left out: too short for a test run"
	}
	packet := refdecode.Packet{Data: data}
	if prefix != 0 {
		packet = refdecode.Packet{
			Data: data[prefix:], NoLink: true, EtherType: uint16(data[12])<<8 | uint16(data[13]), Length: len(data),
		}
	}
	return &testPacket{data: data, prefix: prefix, packet: packet}, ""
}

// Numbers that some systems write for raw IP.
const (
	linkTypeRawBSD     layers.LinkType = 12
	linkTypeRawOpenBSD layers.LinkType = 14
)

// ethernetBefore is an Ethernet header for a packet that has none.
func ethernetBefore(packet []byte) []byte {
	header := make([]byte, 14, 14+len(packet))
	switch {
	case len(packet) > 0 && packet[0]>>4 == 4:
		header[12], header[13] = 0x08, 0x00
	case len(packet) > 0 && packet[0]>>4 == 6:
		header[12], header[13] = 0x86, 0xdd
	}
	return header
}

// run replays a capture and compares.
func (r *replay) run(t *testing.T, capture captures.Capture, listed map[int]difference) tally {
	r.whole.Clear(t)
	packets, readErr := capture.Packets()
	frames, err := capture.Frames()
	require.NoError(t, err)
	flows, err := capture.Flows()
	require.NoError(t, err)

	count := tally{"frames": len(frames)}
	found := make(map[int]difference)
	if readErr != nil || len(packets) != len(frames) {
		found[wholeCapture] = compareFiles(len(frames), len(packets), readErr)
	}
	if readErr == nil && len(packets) != len(frames) {
		// which frames are missing is not known
		packets = nil
	}
	ledger := newLedger(flows)
	prefixes := make(map[int]bool)
	for i, frame := range frames {
		packet, why := (*testPacket)(nil), "frames left out: not read from the file"
		if i < len(packets) {
			packet, why = prepare(packets[i])
		}
		if packet == nil {
			count[why]++
			ledger.leftOut(frame)
			continue
		}
		require.Equal(t, frame.CapLen, len(packets[i].Data), "length of frame %d", i+1)
		count.noteFrame(frame, packet)
		prefixes[packet.prefix] = true
		result, outcome := r.frame(t, packet)
		count["frames run: "+outcome.String()]++
		ledger.counted(frame, result)
		opened, closed := frame.Opened()
		if closed != "" || frame.Inner == nil {
			opened.Tunnels = nil
		}
		if closed != "" {
			count["frames with a tunnel that is not opened: "+closed]++
		}
		if d, differs := compare(opened, result, packets[i].WireLen); differs {
			found[i+1] = d
		}
	}
	count["differences"] = len(found)
	if len(listed) > 0 || len(found) > 0 {
		assert.Equal(t, listed, found, "differences from the truth")
	}
	require.LessOrEqual(t, len(prefixes), 1, "frames with and without link header")
	count["flows compared"] = ledger.compare(t, r.wholeFlows(t), prefixes)
	return count
}

func (n tally) noteFrame(frame captures.Frame, packet *testPacket) {
	n["frames run"]++
	switch {
	case packet.prefix != 0:
		n["frames run without link header"]++
	default:
		n["frames run at XDP too"]++
	}
	if frame.CapLen < frame.WireLen {
		n["frames run as far as captured"]++
	}
	if len(packet.data) < packet.prefix+frame.CapLen {
		n["frames run as far as a test run takes them"]++
	}
	if !frame.Agreed {
		n["frames run on which tshark and the other decoder differ"]++
	}
}

// frame runs one frame through the programs, each of which must find what the
// reference decoder finds.
func (r *replay) frame(t *testing.T, p *testPacket) (captures.Frame, refdecode.Outcome) {
	want := refdecode.Decode(p.packet)
	volume := bpf.TCVolume{Packets: 1, Bytes: uint64(len(p.data))}
	got := r.single.RunTC(t, p.program(r.single.Runner), p.data, nil)
	requireSame(t, referenceTC(want, len(p.data), volume), got, p.data)

	if p.prefix == 0 {
		outer := p.packet
		outer.OuterOnly = true
		got := r.single.RunXDP(t, p.data)
		requireSame(t, bpftest.Result{Return: xdpPass, Outcome: referenceOutcome(refdecode.Decode(outer).Outcome), Volume: volume}, got, p.data)
	}
	_, err := p.program(r.whole).Run(&ebpf.RunOptions{Data: p.data})
	require.NoError(t, err)
	return frameOf(got, len(p.data)-p.prefix), want.Outcome
}

// wholeFlows takes the flows of a capture out of the flow table.
func (r *replay) wholeFlows(t *testing.T) []bpftest.Flow {
	flows := r.whole.Flows(t)
	r.whole.Clear(t)
	return flows
}
