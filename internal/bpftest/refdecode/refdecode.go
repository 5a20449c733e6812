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
	// Flow is nil where no addresses could be read.
	Flow     *Flow
	TCPFlags uint8
	// HeaderLen counts the bytes up to the payload of the transport protocol,
	// or of IP where there is none; 0 if the headers are not all there.
	HeaderLen int
}

// Decode reads a packet.
func Decode(p Packet) Result {
	d := decoder{length: p.Length}
	if d.length == 0 {
		d.length = len(p.Data)
	}
	if p.Tag != nil {
		d.tag(*p.Tag)
	}
	frame := view{data: p.Data, length: d.length, limit: unlimited}

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
	length int
	vlans  []uint16
	labels []uint32
	result Result
}

// headersEnd notes that all headers are there and that v is what follows them.
func (d *decoder) headersEnd(v view) {
	d.result.HeaderLen = d.length - v.length
}
