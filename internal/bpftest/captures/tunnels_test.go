// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package captures

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest/refdecode"
)

const committedDir = "../../../bpf/testdata/captures"

// Why truth and reference differ.
const (
	// differsReserved is a VXLAN header with a reserved bit: RFC 7348, section 5,
	// wants it ignored, Linux drops the packet, and the reference leaves it closed.
	differsReserved = "refused: " + refdecode.VXLANReservedBits
	// differsNested is a flow between two layers of tunnels: the truth does not have it.
	differsNested = "nested"
	// differsLength is a super-packet with an IP length of 0, which tshark takes for empty.
	differsLength = "IP length 0"
)

// tunnelDifferences are the frames of each capture of which truth and reference
// say different things.
var tunnelDifferences = map[string]map[string]int{
	"tunnel/tcpdump__bigtcp-ipv6-geneve-ipv4.pcap":  {differsLength: 1},
	"tunnel/tcpdump__bigtcp-ipv6-geneve-ipv6.pcap":  {differsLength: 1},
	"tunnel/zeek__tunnels__6in6in6.pcap":            {differsNested: 1},
	"vxlan/sv__vxlan-non-zero-reserved-fields.pcap": {differsReserved: 10},
	"vxlan/tcpdump__bigtcp-ipv4-vxlan-ipv4.pcap":    {differsLength: 1},
	"vxlan/tcpdump__bigtcp-ipv4-vxlan-ipv6.pcap":    {differsLength: 1},
}

// TestTunnels compares the reference decoder with the truth, frame by frame, in
// all captures of tunnels: first around the tunnel, then inside.
// NETPROBE_CAPTURES names another directory of captures than the committed one.
func TestTunnels(t *testing.T) {
	dir := cmp.Or(os.Getenv("NETPROBE_CAPTURES"), committedDir)
	found, err := Find(dir)
	require.NoError(t, err)
	total := make(map[string]int)
	for _, capture := range found {
		if kind, _, _ := strings.Cut(capture.Name, "/"); kind != "tunnel" && kind != "vxlan" && kind != "vxlan-lab" {
			continue
		}
		t.Run(capture.Name, func(t *testing.T) {
			same, differ := compareTunnels(t, capture)
			for what, n := range same {
				t.Logf("%6d %s", n, what)
				total[what] += n
			}
			want := tunnelDifferences[capture.Name]
			require.Len(t, differ, len(want), "differences: %v", differ)
			for why, n := range want {
				require.Equal(t, n, differ[why], "frames that differ: %s", why)
				total["differ: "+why] += n
			}
		})
	}
	for _, what := range slices.Sorted(maps.Keys(total)) {
		t.Logf("%6d %s", total[what], what)
	}
	assert.Positive(t, total[sameInside])
	assert.Positive(t, total[sameTunnel])
}

// What is counted of frames that the two agree on.
const (
	sameOne    = "same, no tunnel"
	sameInside = "same flow inside a tunnel"
	sameTunnel = "same flow of a tunnel itself"
	sameClosed = "same flow around what is not opened: "
)

// compareTunnels counts by what it is in which the frames of a capture are the
// same for truth and reference, and by the reason in which they differ.
func compareTunnels(t *testing.T, capture Capture) (same, differ map[string]int) {
	packets, err := capture.Packets()
	require.NoError(t, err)
	frames, err := capture.Frames()
	require.NoError(t, err)
	require.Len(t, packets, len(frames))
	requireInnerFlows(t, capture, frames)

	same, differ = make(map[string]int), make(map[string]int)
	for i, frame := range frames {
		packet, ok := prepare(packets[i])
		require.True(t, ok, "link type %s", packets[i].Link)
		outer := packet
		outer.OuterOnly = true
		found := refdecode.Decode(packet)
		if compare(frame, refdecode.Decode(outer), found) {
			same[agreement(frame, found)]++
			continue
		}
		why := explain(frame, found)
		differ[why]++
		t.Logf("frame %d differs, %s: truth %s, chain %s, tunnels %s; reference %s, tunnel %+v, refused %q",
			i+1, cmp.Or(why, "not explained"), describe(frame), frame.Chain, frame.Tunnels,
			describeFlow(found), found.Tunnel, found.Refused)
	}
	return same, differ
}

// prepare is a frame for the reference decoder, if it has a link header that
// this knows, or none.
func prepare(p Packet) (refdecode.Packet, bool) {
	switch p.Link {
	case layers.LinkTypeEthernet:
		return refdecode.Packet{Data: p.Data}, true
	case layers.LinkTypeRaw, layers.LinkTypeIPv4, layers.LinkTypeIPv6:
		etherType := uint16(layers.EthernetTypeIPv4)
		if len(p.Data) > 0 && p.Data[0]>>4 == 6 {
			etherType = uint16(layers.EthernetTypeIPv6)
		}
		return refdecode.Packet{Data: p.Data, NoLink: true, EtherType: etherType}, true
	default:
		return refdecode.Packet{}, false
	}
}

// compare tells whether the reference finds what is true, with all tunnels
// closed and with one opened.
func compare(truth Frame, outer, found refdecode.Result) bool {
	want, closed := truth.Opened()
	return closed != Nested &&
		describe(truth) == describeFlow(outer) &&
		describe(want) == describeFlow(found) &&
		rightTunnel(truth, found)
}

// rightTunnel tells whether the outermost tunnel is the one that was opened,
// and if none was, that there is none or not one to open.
func rightTunnel(truth Frame, found refdecode.Result) bool {
	if found.Tunnel == nil {
		_, closed := truth.Opened()
		return closed != "" || len(truth.Tunnels) == 0 || found.Refused != "" || slices.Contains(neverOpened, truth.Tunnels[0])
	}
	if len(truth.Tunnels) == 0 || found.Tunnel.Source != truth.Source || found.Tunnel.Destination != truth.Destination {
		return false
	}
	kind, id, hasID := strings.Cut(truth.Tunnels[0], ":")
	if kind == "6in4" {
		kind = refdecode.IPIP
	}
	return kind == found.Tunnel.Type && (!hasID || found.Tunnel.HasID && id == fmt.Sprint(found.Tunnel.ID))
}

// neverOpened are tunnels of the truth that have no name in the reference.
var neverOpened = []string{"gtp", "l2tp", "teredo"}

// agreement says what a frame is that truth and reference find the same in.
func agreement(truth Frame, found refdecode.Result) string {
	_, closed := truth.Opened()
	if closed == "" && found.Tunnel == nil && len(truth.Tunnels) > 0 {
		closed = truth.Tunnels[0]
	}
	switch {
	case closed != "" && found.Refused != "":
		return sameClosed + closed + ", refused: " + found.Refused
	case closed != "":
		return sameClosed + closed
	case found.Tunnel == nil && found.Refused != "":
		return sameClosed + "refused: " + found.Refused
	case found.Tunnel == nil:
		return sameOne
	case found.IsTunnel:
		return sameTunnel
	default:
		return sameInside
	}
}

// explain says why the reference finds something else than the truth, and
// nothing where that is not known.
func explain(truth Frame, found refdecode.Result) string {
	_, closed := truth.Opened()
	switch {
	case closed == Nested && found.Tunnel != nil && found.Tunnel.Nested:
		return differsNested
	case found.Refused != "":
		return "refused: " + found.Refused
	case found.Tunnel != nil && !found.IsTunnel && found.InnerLen == 0:
		return differsLength
	default:
		return ""
	}
}

// describe writes what of a frame's flow can be compared.
func describe(f Frame) string {
	if !f.HasFlow {
		return "no flow"
	}
	return describeLayer(f.FiveTuple, f.Flags, f.Fragment == "other")
}

func describeFlow(found refdecode.Result) string {
	f := found.Flow
	if f == nil {
		return "no flow"
	}
	var flags strings.Builder
	for bit, name := range "FSRPAUEC" {
		if found.TCPFlags>>bit&1 == 1 {
			flags.WriteRune(name)
		}
	}
	return describeLayer(FiveTuple{f.Source, f.Destination, f.Protocol, f.SourcePort, f.DestinationPort}, flags.String(), f.Fragment)
}

func describeLayer(tuple FiveTuple, flags string, laterFragment bool) string {
	return fmt.Sprintf("%s flags %q later fragment %t", tuple, flags, laterFragment)
}

// requireInnerFlows adds up the inner layers of all frames: they are the inner
// flows of the truth.
func requireInnerFlows(t *testing.T, capture Capture, frames []Frame) {
	flows, err := capture.Flows()
	require.NoError(t, err)
	require.Len(t, flows.Inner, flows.InnerCount)
	sum := make(map[InnerTuple]Flow)
	for _, frame := range frames {
		if frame.Inner == nil {
			continue
		}
		key := InnerTuple{strings.Join(frame.Tunnels, tunnelSeparator), frame.Inner.FiveTuple}
		flow := sum[key]
		flow.Packets++
		flow.WireBytes += uint64(frame.WireLen)
		sum[key] = flow
	}
	require.Equal(t, flows.Inner, sum)
}
