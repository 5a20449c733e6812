// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package refdecode says what NetProbe's eBPF programs have to find in a
// packet. It is written from the RFCs and from the documented meaning of the
// counters, in another form than the programs, so that the two can disagree.
// For tests only.
//
// Where the standards leave room, these are the choices:
//   - An IPv4 total length or IPv6 payload length of 0 is a jumbogram (RFC
//     2675) or a super-packet of the kernel: the datagram ends with the frame.
//   - A UDP length of 0 is a jumbogram's, whatever the length of the datagram.
//   - A transport header that the first fragment does not hold whole is
//     malformed, for IPv6 by RFC 7112, for IPv4 after RFC 1858.
//   - IPv6 extension headers are the five that RFC 8200 section 4 walks, with
//     AH. IPv4 AH and ESP hide what they protect.
//   - Lengths are judged where a flow depends on them: IP, its extension
//     headers, TCP, UDP, UDP-Lite. The length fields of 802.3 and PPPoE, and
//     SCTP chunks and DCCP options, are not read.
//   - A tunnel is opened once. What is in it ends with the datagram around it:
//     a header that goes on behind that is malformed, and a packet that by its
//     own length does was cut before it was sent, so it is truncated. The first
//     fragment of a datagram is opened as far as it goes; that the packet in it
//     is longer is no fault.
package refdecode

import "net/netip"

// Outcome is how decoding ended.
type Outcome uint8

const (
	// OK is a packet without fault.
	OK Outcome = iota
	// Truncated is a packet that ends before its headers or lengths say it does.
	Truncated
	// Malformed is a packet with a header that contradicts itself or the one around it.
	Malformed
	// Unsupported is a packet beyond one of the bounds below.
	Unsupported
	// NotIP is a packet without an IP header where one is looked for.
	NotIP
)

func (o Outcome) String() string {
	switch o {
	case OK:
		return "ok"
	case Truncated:
		return "truncated"
	case Malformed:
		return "malformed"
	case Unsupported:
		return "unsupported"
	case NotIP:
		return "not-ip"
	default:
		return "invalid"
	}
}

// What is beyond these is Unsupported.
const (
	MaxVLANTags         = 4 // in the frame
	MaxMPLSLabels       = 8
	MaxExtensionHeaders = 12
)

// Packet is a packet as a hook sees it.
type Packet struct {
	// Data begins with the Ethernet header or, with NoLink, with the network header.
	Data   []byte
	NoLink bool
	// EtherType says what Data is where there is no link header to say it.
	EtherType uint16
	// Tag is the control information of a VLAN tag beside the frame.
	Tag *uint16
	// Length is how long the packet is said to be where that is not len(Data).
	Length int
	// Ports are those of tunnels; nil stands for DefaultPorts.
	Ports *Ports
	// OuterOnly leaves all tunnels closed.
	OuterOnly bool
}

// Flow is what tells a packet's flow from others.
type Flow struct {
	Source, Destination netip.Addr
	// Protocol is what the last header that could be read names as the next.
	Protocol uint8
	// Fragment is set for all but the first fragment of a datagram.
	Fragment bool
	// HasPorts says whether SourcePort and DestinationPort were there to read;
	// they are type and code for ICMP and ICMPv6.
	HasPorts                    bool
	SourcePort, DestinationPort uint16
	// VLANs are the identifiers of the outermost tags, at most two.
	VLANs []uint16
	// Labels holds the outermost MPLS label, if there is one.
	Labels []uint32
}

// Result is what a packet holds.
type Result struct {
	Outcome Outcome
	// Flow is nil where no addresses could be read. In a tunnel it is that of
	// the packet inside, with the tags and labels of the frame around.
	Flow     *Flow
	TCPFlags uint8
	// HeaderLen counts the bytes up to the payload of the flow's transport
	// protocol, or of its IP where there is none; 0 if the headers are not all there.
	HeaderLen int
	// JumboLen is how long a hop-by-hop options header of the flow is that has
	// nothing but a jumbo payload option: what the kernel puts into super-packets,
	// and no segment of them has on the wire.
	JumboLen int

	// Tunnel is the tunnel that was opened, if one was.
	Tunnel *Tunnel
	// IsTunnel says that Flow is that of the tunnel itself, because no addresses
	// could be read inside.
	IsTunnel bool
	// Refused names why a tunnel was left closed: one of the constants.
	Refused string
	// InnerOffset is where in the packet that begins which the tunnel carries.
	InnerOffset int
	// InnerLen is how long that is by the lengths around it and, if it is an IP
	// packet, its own; 0 where they do not say.
	InnerLen int
}

// FlowBytes says how many bytes count for the flow in a packet of that length:
// those of the frame or IP packet in a tunnel, and else all.
func (r *Result) FlowBytes(length int) int {
	if r.Tunnel == nil || r.IsTunnel {
		return length
	}
	inner := max(length-r.InnerOffset, 0)
	if r.InnerLen != 0 {
		inner = min(inner, r.InnerLen)
	}
	return inner
}

// Decode reads a packet.
func Decode(p Packet) Result {
	d := decoder{length: p.Length, tunnels: p.Ports, closed: p.OuterOnly}
	if d.length == 0 {
		d.length = len(p.Data)
	}
	if d.tunnels == nil {
		d.tunnels = DefaultPorts()
	}
	if p.Tag != nil {
		d.tag(*p.Tag)
	}
	frame := view{data: p.Data, length: d.length, limit: unlimited, outer: unlimited}

	var err error
	if p.NoLink {
		err = d.typeOrLength(p.EtherType, frame, 0)
	} else {
		err = d.ethernet(frame)
	}
	d.result.Outcome = outcomeOf(err)
	if flow := d.result.Flow; flow != nil {
		flow.VLANs, flow.Labels = d.vlans, d.labels
	}
	return d.result
}

// decoder collects what the layers find.
type decoder struct {
	length  int
	tunnels *Ports
	// closed says that tunnels are not opened, or no more.
	closed bool
	vlans  []uint16
	labels []uint32
	// stated is the length of the last IP packet by its header; 0 if that does not say.
	stated int
	result Result
}

// headersEnd notes that all headers are there and that v is what follows them.
func (d *decoder) headersEnd(v view) {
	d.result.HeaderLen = d.length - v.length
}
