// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"reflect"
	"testing"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/refdecode"
)

// referenceOutcome is an outcome of the reference decoder in the programs' terms.
func referenceOutcome(outcome refdecode.Outcome) bpf.TCParseOutcome {
	switch outcome {
	case refdecode.OK:
		return bpf.TCParseOutcomePARSE_OK
	case refdecode.Truncated:
		return bpf.TCParseOutcomePARSE_TRUNCATED
	case refdecode.Malformed:
		return bpf.TCParseOutcomePARSE_MALFORMED
	case refdecode.Unsupported:
		return bpf.TCParseOutcomePARSE_UNSUPPORTED
	case refdecode.NotIP:
		return bpf.TCParseOutcomePARSE_NOT_IP
	default:
		return bpf.TCParseOutcomePARSE_OUTCOMES
	}
}

// referenceKey is a flow of the reference decoder as the key of the flow table
// at ingress of the loopback.
func referenceKey(flow *refdecode.Flow) bpf.TCFlowKey {
	key := bpf.TCFlowKey{
		Source:          flow.Source.As16(),
		Destination:     flow.Destination.As16(),
		Ifindex:         bpftest.Loopback,
		SourcePort:      flow.SourcePort,
		DestinationPort: flow.DestinationPort,
		Protocol:        flow.Protocol,
		IpVersion:       6,
		Direction:       uint8(bpf.TCDirectionDIRECTION_INGRESS),
	}
	has := func(what bpf.TCFlowHas) { key.Has |= uint8(what) }
	if flow.Source.Is4() {
		key.IpVersion = 4
	}
	if flow.HasPorts {
		has(bpf.TCFlowHasFLOW_HAS_PORTS)
	}
	if flow.Fragment {
		has(bpf.TCFlowHasFLOW_IS_FRAGMENT)
	}
	if len(flow.VLANs) > 0 {
		key.VlanId = flow.VLANs[0]
		has(bpf.TCFlowHasFLOW_HAS_VLAN)
	}
	if len(flow.VLANs) > 1 {
		key.InnerVlanId = flow.VLANs[1]
		has(bpf.TCFlowHasFLOW_HAS_INNER_VLAN)
	}
	if len(flow.Labels) > 0 {
		key.MplsLabel = flow.Labels[0]
		has(bpf.TCFlowHasFLOW_HAS_MPLS)
	}
	return key
}

// referenceTC is what a TC program has to do with a packet of that volume.
func referenceTC(packet refdecode.Result, volume bpf.TCVolume) bpftest.Result {
	want := bpftest.Result{
		Return:    tcUnspec,
		Outcome:   referenceOutcome(packet.Outcome),
		Volume:    volume,
		Interface: volume,
	}
	if packet.Flow != nil {
		want.Flows = []bpftest.Flow{{
			Key:   referenceKey(packet.Flow),
			Stats: referenceStats(volume, packet.TCPFlags),
		}}
	}
	return want
}

func referenceStats(volume bpf.TCVolume, flags uint8) bpf.TCFlowStats {
	stats := bpf.TCFlowStats{Packets: volume.Packets, Bytes: volume.Bytes, TcpFlagsHint: flags}
	for bit := range stats.TcpFlagSeen {
		stats.TcpFlagSeen[bit] = flags >> bit & 1
	}
	const syn, ack = 0x02, 0x10
	switch flags & (syn | ack) {
	case syn:
		stats.SynSeen = 1
	case syn | ack:
		stats.SynAckSeen = 1
	}
	return stats
}

// requireSame compares what a program did with what it had to do.
func requireSame(t *testing.T, want, got bpftest.Result, frame []byte) {
	got.Flows = withoutTimes(got.Flows)
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("programs and reference differ\nreference %+v\nprogram   %+v\nframe     %x", want, got, frame)
	}
}
