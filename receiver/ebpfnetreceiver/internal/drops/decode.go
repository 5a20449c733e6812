// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"net/netip"
	"time"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// Direction is which way a packet went at the interface.
type Direction uint8

// Directions.
const (
	DirectionUnknown = Direction(bpf.DropsDropDirectionDROP_DIRECTION_UNKNOWN)
	// Ingress: it came in by the interface and was not on its way out of another yet.
	Ingress = Direction(bpf.DropsDropDirectionDROP_DIRECTION_INGRESS)
	// Egress: it was on its way out of the interface.
	Egress = Direction(bpf.DropsDropDirectionDROP_DIRECTION_EGRESS)
)

// String is "" where the direction is unknown.
func (d Direction) String() string {
	return [...]string{DirectionUnknown: "", Ingress: flow.Ingress.String(), Egress: flow.Egress.String()}[d]
}

// Key is what drops are counted by.
type Key struct {
	// Reason is the kernel's name, or its number (0x…) where the kernel core has no
	// name for it; "" where the kernel has no reasons. NOT_SPECIFIED stands for all
	// that nobody has named.
	Reason string
	// InterfaceIndex is 0 where the interface is not known.
	InterfaceIndex uint32
	// IPVersion is 4 or 6; 0 where no IP header could be read.
	IPVersion uint8
	// Protocol is valid where IPVersion is.
	Protocol  flow.Protocol
	Direction Direction
}

// Count is the drops of a key since the probe was loaded.
type Count struct {
	Key
	// Volume counts buffers, as the kernel's own counters do: a super-packet is one.
	// Bytes are those of IP packets, or of what the buffer held of others.
	flow.Volume
}

// FlowDrop is the drops of a flow for one reason in one interval.
type FlowDrop struct {
	Key
	Tuple flow.Tuple
	// Has is of flow.HasPorts and flow.IsFragment.
	Has flow.Has
	flow.Volume
	// First is when the first of them was dropped.
	First time.Time
}

func (r reasons) decodeKey(key *bpf.DropsDropKey) Key {
	return Key{
		Reason:         r.name(key.Reason),
		InterfaceIndex: key.Ifindex,
		IPVersion:      key.IpVersion,
		Protocol:       flow.Protocol(key.Protocol),
		Direction:      Direction(key.Direction),
	}
}

func (r reasons) decodeFlow(key *bpf.DropsDropFlowKey, value *bpf.DropsDropFlow, c *kernel.Clock) FlowDrop {
	return FlowDrop{
		Key: r.decodeKey(&key.Drop),
		Tuple: flow.Tuple{
			Source:          address(&key.Source, key.Drop.IpVersion),
			Destination:     address(&key.Destination, key.Drop.IpVersion),
			SourcePort:      key.SourcePort,
			DestinationPort: key.DestinationPort,
			Protocol:        flow.Protocol(key.Drop.Protocol),
		},
		Has:    flow.Has(key.Has),
		Volume: flow.Volume{Packets: value.Packets, Bytes: value.Bytes},
		First:  c.Wall(value.FirstMonoNs),
	}
}

// address leaves a mapped address of an IPv6 packet as it was on the wire.
func address(b *[16]byte, version uint8) netip.Addr {
	a := netip.AddrFrom16(*b)
	if version == 4 {
		return a.Unmap()
	}
	return a
}
