// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package flow has the plain types that describe what was seen on the network.
// It must not know where they come from (eBPF) or go to (pdata).
package flow // import "github.com/netprobe-otel/netprobe/internal/flow"

import (
	"net/netip"
	"time"
)

// Direction of a packet at the interface where it was counted.
type Direction uint8

// The two directions.
const (
	Ingress Direction = iota
	Egress
)

func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// Has says which parts of a Key the packets had.
type Has uint8

// Parts of a Key.
const (
	// Ports, or for ICMP and ICMPv6 type and code in their place.
	HasPorts Has = 1 << iota
	HasVLAN
	HasInnerVLAN
	HasMPLS
	// IsFragment: not the first fragment of its datagram.
	IsFragment
	// InTunnel: the packets were in a tunnel; addresses and ports are those inside.
	InTunnel
	// IsTunnel: the packets were a tunnel's, with no IP packet in it that could be
	// read; addresses and ports are the tunnel's.
	IsTunnel
	// IsNested: what was in the tunnel is a tunnel's packet too, and was not opened.
	IsNested
)

// Key identifies one direction of a conversation as one interface sees it.
type Key struct {
	// IPv4 addresses are 4-byte addresses, not mapped ones.
	Source      netip.Addr
	Destination netip.Addr
	// SourcePort and DestinationPort are type and code for ICMP and ICMPv6.
	SourcePort      uint16
	DestinationPort uint16
	Protocol        Protocol
	Has             Has
	Direction       Direction
	VLAN            uint16
	InnerVLAN       uint16
	// MPLSLabel is the outermost label.
	MPLSLabel uint32
	// InterfaceIndex is unique within the network namespace, and reused by the
	// kernel only after all others have been.
	InterfaceIndex uint32
	// From is, at egress, the index of the interface that the packets last came in
	// on; 0 if they were made here, or came out of a tunnel device that put them
	// into packets of its own; FromForgotten if they came in somewhere.
	From uint32
	// Tunnel is the one that the packets were in, or are of; nil for none.
	Tunnel *Tunnel
}

// FromForgotten stands in Key.From for an interface that the kernel has forgotten.
const FromForgotten = 1<<32 - 1

// HasTransportPorts says whether the ports are ports: present, and not the
// type and code of ICMP.
func (k *Key) HasTransportPorts() bool {
	return k.Has&HasPorts != 0 && !k.Protocol.IsICMP()
}

// Record is what was counted of a flow in one interval.
type Record struct {
	Key
	// Interface is the interface's name when the record was read.
	Interface string
	// Packets on the wire: a super-packet counts as its segments.
	Packets uint64
	// Bytes on the wire with link-layer headers, without frame check sequence. Of
	// packets in a tunnel, those of the frame inside, or of the IP packet inside
	// where there is no frame.
	Bytes uint64
	// WireBytes are those of whole frames, the tunnel's headers included.
	WireBytes uint64
	First     time.Time
	Last      time.Time
	// TCPFlags is the OR of all flag bytes.
	TCPFlags TCPFlags
	// SYNSeen: a SYN without ACK was among the packets.
	SYNSeen bool
	// SYNACKSeen: a SYN with ACK was.
	SYNACKSeen bool
	// SampledFrom: one packet in so many was counted. 0 and 1 mean all.
	SampledFrom uint32
	// Others are the interfaces that saw the same packets and did not count them.
	Others []string
	// NAT is nil where addresses and ports were not translated.
	NAT *NAT
	// Opener is the side that opened the conversation, where that is known from
	// more than this record. See Initiator.
	Opener         Side
	OpenerEvidence Evidence
	// Process is who uses the socket at the packets' end that is of this machine: the
	// one that sends them, if both are. Nil where it is not known.
	Process *Process
	// SourceContainer and DestinationContainer are the containers of the sockets at the
	// ends that are of this machine; "" where there is none, or none is known.
	SourceContainer, DestinationContainer string
	// TCP is how well it went, nil where no socket is known.
	TCP *TCPQuality
	// Dropped is how many of the packets the kernel dropped, on their way in or out.
	Dropped uint64
}

// TCPQuality is what a socket of this machine knows of one direction of a
// conversation in one interval.
type TCPQuality struct {
	// RTT is the smoothed round trip time, 0 where nothing was measured.
	RTT time.Duration
	// Retransmits is how many segments were sent again, which only the sending end knows.
	Retransmits    uint32
	HasRetransmits bool
	// Resets is how often the sending end broke off.
	Resets uint32
}

// Volume is what was counted.
func (r *Record) Volume() Volume {
	return Volume{Packets: r.Packets, Bytes: r.Bytes}
}

// WireVolume is what was counted in whole frames.
func (r *Record) WireVolume() Volume {
	return Volume{Packets: r.Packets, Bytes: r.WireBytes}
}

// Estimate is how much there was: what was counted, times how many packets
// each counted one stands for.
func (r *Record) Estimate() Volume {
	n := uint64(max(r.SampledFrom, 1))
	return Volume{Packets: r.Packets * n, Bytes: r.Bytes * n}
}

// WireEstimate is the same for whole frames.
func (r *Record) WireEstimate() Volume {
	n := uint64(max(r.SampledFrom, 1))
	return Volume{Packets: r.Packets * n, Bytes: r.WireBytes * n}
}

// TCPFlags is the flag byte of a TCP header (RFC 9293, section 3.1).
type TCPFlags uint8

// Some flags.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
)
