// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/captures"
)

// frameOf is what the programs found in a frame, in the terms of the truth.
func frameOf(res bpftest.Result, length int) captures.Frame {
	f := captures.Frame{CapLen: length, WireLen: length}
	if len(res.Flows) == 0 {
		return f
	}
	flow := res.Flows[0]
	has := func(what bpf.TCFlowHas) bool { return flow.Key.Has&uint8(what) != 0 }
	f.HasFlow = true
	f.FiveTuple = fiveTuple(&flow.Key)
	if has(bpf.TCFlowHasFLOW_HAS_VLAN) {
		f.VLANs = append(f.VLANs, uint32(flow.Key.VlanId))
	}
	if has(bpf.TCFlowHasFLOW_HAS_INNER_VLAN) {
		f.VLANs = append(f.VLANs, uint32(flow.Key.InnerVlanId))
	}
	if has(bpf.TCFlowHasFLOW_HAS_MPLS) {
		f.Labels = append(f.Labels, flow.Key.MplsLabel)
	}
	if has(bpf.TCFlowHasFLOW_IS_FRAGMENT) {
		f.Fragment = "other"
	}
	if has(bpf.TCFlowHasFLOW_IN_TUNNEL) {
		f.Tunnels = []string{tunnelName(&flow.Tunnel)}
	}
	for bit, name := range "FSRPAUEC" {
		if flow.Stats.TcpFlagSeen[bit] != 0 {
			f.Flags += string(name)
		}
	}
	return f
}

// tunnelName names a tunnel as the truth does.
func tunnelName(t *bpf.TCTunnelKey) string {
	switch bpf.TCTunnelType(t.Type) {
	case bpf.TCTunnelTypeTUNNEL_VXLAN:
		return fmt.Sprintf("vxlan:%d", t.Id)
	case bpf.TCTunnelTypeTUNNEL_GENEVE:
		return fmt.Sprintf("geneve:%d", t.Id)
	case bpf.TCTunnelTypeTUNNEL_GRE:
		return "gre"
	default:
		return "ipip"
	}
}

func fiveTuple(key *bpf.TCFlowKey) captures.FiveTuple {
	tuple := captures.FiveTuple{
		Source: netip.AddrFrom16(key.Source), Destination: netip.AddrFrom16(key.Destination), Protocol: key.Protocol,
		SourcePort: key.SourcePort, DestinationPort: key.DestinationPort,
	}
	if key.IpVersion == 4 {
		tuple.Source, tuple.Destination = tuple.Source.Unmap(), tuple.Destination.Unmap()
	}
	return tuple
}

// difference is a frame of which truth and programs say different things.
type difference struct{ truth, programs string }

// wholeCapture stands in the list in place of a frame for a file that cannot be
// read as the truth was.
const wholeCapture = 0

func compareFiles(truth, read int, err error) difference {
	d := difference{truth: fmt.Sprintf("%d frames", truth), programs: fmt.Sprintf("%d frames", read)}
	if err != nil {
		d.programs += ": " + err.Error()
	}
	return d
}

// compare tells whether the programs found something else in a frame than is
// true. wireLen is what the capture says, whose frames the truth describes.
func compare(truth, found captures.Frame, wireLen int) (difference, bool) {
	d := difference{describe(truth), describe(found)}
	if truth.WireLen != wireLen {
		d.truth += fmt.Sprintf(" length %d", truth.WireLen)
		d.programs += fmt.Sprintf(" length %d", wireLen)
	}
	return d, d.truth != d.programs
}

// describe writes what can be compared: two tags, one label, and of the first
// fragment not that it is one.
func describe(f captures.Frame) string {
	if !f.HasFlow {
		return "no flow"
	}
	text := []string{f.FiveTuple.String()}
	if f.Flags != "" {
		text = append(text, "flags "+f.Flags)
	}
	if f.Fragment == "other" {
		text = append(text, "fragment")
	}
	if n := min(len(f.VLANs), 2); n > 0 {
		text = append(text, "vlan "+numbers(f.VLANs[:n]))
	}
	if len(f.Labels) > 0 {
		text = append(text, "label "+numbers(f.Labels[:1]))
	}
	if len(f.Tunnels) > 0 {
		text = append(text, "in "+strings.Replace(f.Tunnels[0], "6in4", "ipip", 1))
	}
	return strings.Join(text, " ")
}

func numbers(list []uint32) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(list)), "."), "[]")
}

// ledger is the flows that a capture must have made: those of its truth,
// corrected for the frames that were not run, were cut, or are listed as
// different, all of which the comparison of frames has looked at.
type ledger struct {
	flows map[captures.FiveTuple]captures.Flow
	// complete says that the truth names all flows, not only the largest.
	complete bool
}

func newLedger(truth captures.Flows) *ledger {
	return &ledger{flows: truth.Flows, complete: len(truth.Flows) == truth.Count}
}

func (l *ledger) add(tuple captures.FiveTuple, packets int, bytes uint64) {
	flow, known := l.flows[tuple]
	if !known && !l.complete {
		return
	}
	flow.Packets += uint64(packets)
	flow.WireBytes += bytes
	if flow == (captures.Flow{}) {
		delete(l.flows, tuple)
		return
	}
	l.flows[tuple] = flow
}

// leftOut takes a frame out of the truth.
func (l *ledger) leftOut(truth captures.Frame) {
	if truth.HasFlow {
		l.add(truth.FiveTuple, -1, -uint64(truth.WireLen))
	}
}

// counted puts a frame where the programs have it.
func (l *ledger) counted(truth, found captures.Frame) {
	if truth.HasFlow == found.HasFlow && truth.FiveTuple == found.FiveTuple && truth.WireLen == found.WireLen {
		return
	}
	l.leftOut(truth)
	if found.HasFlow {
		l.add(found.FiveTuple, 1, uint64(found.WireLen))
	}
}

// compare compares with the flow table, whose packets have one of the prefixes,
// and answers how many flows there are.
func (l *ledger) compare(t *testing.T, table []bpftest.Flow, prefixes map[int]bool) int {
	prefix := 0
	for n := range prefixes {
		prefix = n
	}
	got := make(map[captures.FiveTuple]captures.Flow)
	for _, flow := range table {
		tuple := fiveTuple(&flow.Key)
		if _, known := l.flows[tuple]; !known && !l.complete {
			continue
		}
		sum := got[tuple]
		sum.Packets += flow.Stats.Packets
		sum.WireBytes += flow.Stats.Bytes - flow.Stats.Packets*uint64(prefix)
		got[tuple] = sum
	}
	assert.Equal(t, l.flows, got, "flows of the capture")
	return len(got)
}
