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

// The bits of flow.Has are the kernel's; this does not compile when they part.
const (
	_ = uint8(flow.HasPorts) - uint8(bpf.TCFlowHasFLOW_HAS_PORTS)
	_ = uint8(flow.HasVLAN) - uint8(bpf.TCFlowHasFLOW_HAS_VLAN)
	_ = uint8(flow.HasInnerVLAN) - uint8(bpf.TCFlowHasFLOW_HAS_INNER_VLAN)
	_ = uint8(flow.HasMPLS) - uint8(bpf.TCFlowHasFLOW_HAS_MPLS)
	_ = uint8(flow.IsFragment) - uint8(bpf.TCFlowHasFLOW_IS_FRAGMENT)
	_ = uint8(bpf.TCFlowHasFLOW_HAS_PORTS) - uint8(flow.HasPorts)
	_ = uint8(bpf.TCFlowHasFLOW_HAS_VLAN) - uint8(flow.HasVLAN)
	_ = uint8(bpf.TCFlowHasFLOW_HAS_INNER_VLAN) - uint8(flow.HasInnerVLAN)
	_ = uint8(bpf.TCFlowHasFLOW_HAS_MPLS) - uint8(flow.HasMPLS)
	_ = uint8(bpf.TCFlowHasFLOW_IS_FRAGMENT) - uint8(flow.IsFragment)
)

// The outcomes are the kernel's too.
const (
	_ = uint8(flow.OutcomeTruncated) - uint8(bpf.TCParseOutcomePARSE_TRUNCATED)
	_ = uint8(flow.OutcomeMalformed) - uint8(bpf.TCParseOutcomePARSE_MALFORMED)
	_ = uint8(flow.OutcomeUnsupported) - uint8(bpf.TCParseOutcomePARSE_UNSUPPORTED)
	_ = uint8(flow.OutcomeNotIP) - uint8(bpf.TCParseOutcomePARSE_NOT_IP)
	_ = uint8(bpf.TCParseOutcomePARSE_TRUNCATED) - uint8(flow.OutcomeTruncated)
	_ = uint8(bpf.TCParseOutcomePARSE_MALFORMED) - uint8(flow.OutcomeMalformed)
	_ = uint8(bpf.TCParseOutcomePARSE_UNSUPPORTED) - uint8(flow.OutcomeUnsupported)
	_ = uint8(bpf.TCParseOutcomePARSE_NOT_IP) - uint8(flow.OutcomeNotIP)
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
