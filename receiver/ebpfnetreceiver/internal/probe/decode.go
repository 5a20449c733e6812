// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// clock turns the kernel's monotonic times into wall time.
type clock struct {
	offset int64 // wall minus monotonic, ns
}

// sync reads both clocks. Steps of the wall clock thus show from the next
// drain on.
func (c *clock) sync() {
	c.offset = time.Now().UnixNano() - monotonic()
}

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot be: the clock exists and the pointer is good
	}
	return ts.Nano()
}

func (c *clock) wall(monoNs uint64) time.Time {
	return time.Unix(0, int64(monoNs)+c.offset)
}

// decode fills rec from a map entry, all but its Interface.
func (c *clock) decode(rec *flow.Record, key *bpf.TCFlowKey, stats *bpf.TCFlowStats) {
	first := stats.FirstMonoNs
	if first == 0 || first > stats.LastMonoNs {
		first = stats.LastMonoNs
	}
	*rec = flow.Record{
		Key:        decodeKey(key),
		Packets:    stats.Packets,
		Bytes:      stats.Bytes,
		First:      c.wall(first),
		Last:       c.wall(stats.LastMonoNs),
		TCPFlags:   decodeFlags(&stats.TcpFlagSeen),
		SYNSeen:    stats.SynSeen != 0,
		SYNACKSeen: stats.SynAckSeen != 0,
	}
}

// The bits of flow.Has and the outcomes are the kernel's. This does not compile
// when they part: an index other than 0 is out of range.
var (
	_ = "x"[flow.HasPorts-flow.Has(bpf.TCFlowHasFLOW_HAS_PORTS)]
	_ = "x"[flow.HasVLAN-flow.Has(bpf.TCFlowHasFLOW_HAS_VLAN)]
	_ = "x"[flow.HasInnerVLAN-flow.Has(bpf.TCFlowHasFLOW_HAS_INNER_VLAN)]
	_ = "x"[flow.HasMPLS-flow.Has(bpf.TCFlowHasFLOW_HAS_MPLS)]
	_ = "x"[flow.IsFragment-flow.Has(bpf.TCFlowHasFLOW_IS_FRAGMENT)]

	_ = "x"[flow.OutcomeTruncated-flow.Outcome(bpf.TCParseOutcomePARSE_TRUNCATED)]
	_ = "x"[flow.OutcomeMalformed-flow.Outcome(bpf.TCParseOutcomePARSE_MALFORMED)]
	_ = "x"[flow.OutcomeUnsupported-flow.Outcome(bpf.TCParseOutcomePARSE_UNSUPPORTED)]
	_ = "x"[flow.OutcomeNotIP-flow.Outcome(bpf.TCParseOutcomePARSE_NOT_IP)]
)

func decodeKey(key *bpf.TCFlowKey) flow.Key {
	source, destination := netip.AddrFrom16(key.Source), netip.AddrFrom16(key.Destination)
	if key.IpVersion == 4 {
		source, destination = source.Unmap(), destination.Unmap()
	}
	return flow.Key{
		Source:          source,
		Destination:     destination,
		SourcePort:      key.SourcePort,
		DestinationPort: key.DestinationPort,
		Protocol:        flow.Protocol(key.Protocol),
		Has:             flow.Has(key.Has),
		Direction:       flow.Direction(key.Direction),
		VLAN:            key.VlanId,
		InnerVLAN:       key.InnerVlanId,
		MPLSLabel:       key.MplsLabel,
		InterfaceIndex:  key.Ifindex,
	}
}

func decodeFlags(seen *[8]uint8) flow.TCPFlags {
	var flags flow.TCPFlags
	for i, s := range seen {
		if s != 0 {
			flags |= 1 << i
		}
	}
	return flags
}
