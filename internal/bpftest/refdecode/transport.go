// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package refdecode

import "encoding/binary"

const (
	icmp     = 1
	ipv4InIP = 4 // RFC 2003
	tcp      = 6
	udp      = 17
	dccp     = 33
	ipv6InIP = 41 // RFC 4213, RFC 2473
	gre      = 47
	icmpv6   = 58
	sctp     = 132
	udpLite  = 136
)

// transport decodes the payload of an IP datagram; more says that it is the
// first of several fragments.
func (d *decoder) transport(v view, more bool) error {
	flow := d.result.Flow
	if flow.Fragment {
		d.headersEnd(v)
		return v.whole()
	}
	switch flow.Protocol {
	case icmp, icmpv6:
		return d.icmp(v)
	case tcp:
		return d.tcp(v)
	case udp, udpLite:
		return d.udp(v, more)
	case ipv4InIP, ipv6InIP, gre:
		d.headersEnd(v)
		return d.tunnel(tunnelOf(flow.Protocol), v.tunnelled(more), v.whole())
	case sctp, dccp:
		return d.commonHeader(v, 12)
	default:
		d.headersEnd(v)
		return v.whole()
	}
}

// ports reads the two ports that TCP, UDP, UDP-Lite, SCTP and DCCP begin with.
func (d *decoder) ports(v view) error {
	head, err := v.peek(4)
	if err != nil {
		return err
	}
	d.identify(binary.BigEndian.Uint16(head), binary.BigEndian.Uint16(head[2:]))
	return nil
}

func (d *decoder) identify(source, destination uint16) {
	flow := d.result.Flow
	flow.HasPorts, flow.SourcePort, flow.DestinationPort = true, source, destination
}

// header steps over a transport header of size bytes.
func (d *decoder) header(v view, size int) error {
	payload, err := v.after(size)
	if err != nil {
		return err
	}
	d.headersEnd(payload)
	return payload.whole()
}

// commonHeader decodes RFC 9260, section 3.1, and the part of RFC 4340,
// section 5.1, that every DCCP packet has.
func (d *decoder) commonHeader(v view, size int) error {
	if err := d.ports(v); err != nil {
		return err
	}
	return d.header(v, size)
}

// icmp decodes RFC 792 (every message has eight bytes) and RFC 4443, section 2.1 (four).
func (d *decoder) icmp(v view) error {
	head, err := v.peek(4)
	if err != nil {
		return err
	}
	d.identify(uint16(head[0]), uint16(head[1]))
	if d.result.Flow.Protocol == icmp {
		return d.header(v, 8)
	}
	return d.header(v, 4)
}

// tcp decodes RFC 9293, section 3.1.
func (d *decoder) tcp(v view) error {
	if err := d.ports(v); err != nil {
		return err
	}
	if err := v.has(20); err != nil {
		return err
	}
	head, err := v.peek(14)
	if err != nil {
		return err
	}
	d.result.TCPFlags = head[13]
	words := int(head[12] / 16)
	if words < 5 {
		return errMalformed
	}
	return d.header(v, words*4)
}

// udp decodes RFC 768, where the third field is the length of header and data,
// and RFC 3828, where it says how much of the datagram the checksum covers.
// Neither may be less than the header or, once all fragments are there, more
// than the datagram. 0 stands for all there is: for UDP-Lite by section 3.1,
// for UDP by RFC 2675, section 4, in a datagram without a length of its own.
func (d *decoder) udp(v view, more bool) error {
	if err := d.ports(v); err != nil {
		return err
	}
	if err := v.has(8); err != nil {
		return err
	}
	head, err := v.peek(6)
	if err != nil {
		return err
	}

	flow, size := d.result.Flow, int(binary.BigEndian.Uint16(head[4:]))
	switch {
	case size == 0 && (flow.Protocol == udpLite || v.limit == unlimited):
	case size < 8:
		return errMalformed
	case !more && v.limit != unlimited && size > v.limit:
		return errMalformed
	case !more && size > v.within(v.length):
		v.limit = size // the packet ends first, or the one around
	}
	payload, err := v.after(8)
	if err != nil {
		return err
	}
	d.headersEnd(payload)
	fault := payload.whole()
	kind := d.tunnels.over(flow)
	if kind == "" {
		return fault
	}
	if size != 0 {
		payload = payload.upTo(size - 8)
	}
	return d.tunnel(kind, payload.tunnelled(more), fault)
}
