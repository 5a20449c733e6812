// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package refdecode

import "encoding/binary"

const (
	etherTypeIPv4    = 0x0800
	etherTypeERSPAN3 = 0x22eb // mirrored frames, type III; in GRE only
	etherTypeTEB     = 0x6558 // transparent Ethernet bridging; in tunnels only
	etherTypeVLAN    = 0x8100 // IEEE 802.1Q, C-tag
	etherTypeIPv6    = 0x86dd
	etherTypeMPLS    = 0x8847
	etherTypeMPLSM   = 0x8848 // RFC 5332: upstream-assigned labels
	etherTypePPPoE   = 0x8864 // session stage
	etherTypeQinQ    = 0x88a8 // IEEE 802.1ad, S-tag
	etherTypeERSPAN  = 0x88be // mirrored frames, types I and II; in GRE only
	etherTypeQinQ1   = 0x9100 // the same as 0x88a8, before the standard
)

func (d *decoder) ethernet(v view) error {
	header, rest, err := v.split(14)
	if err != nil {
		return err
	}
	return d.typeOrLength(binary.BigEndian.Uint16(header[12:]), rest, 0)
}

// typeOrLength decodes what the field behind addresses or a tag announces: up
// to 1500 it is a length, and LLC follows (IEEE 802.3, section 3.2.6).
func (d *decoder) typeOrLength(field uint16, v view, tags int) error {
	if field > 1500 {
		return d.etherType(field, v, tags)
	}
	llc, rest, err := v.split(3)
	if err != nil {
		return err
	}
	if string(llc) != "\xaa\xaa\x03" {
		return errNotIP
	}
	snap, rest, err := rest.split(5)
	if err != nil {
		return err
	}
	kind := binary.BigEndian.Uint16(snap[3:])
	// RFC 1042: organization code 0, then an EtherType, behind which tags are not looked for
	if string(snap[:3]) != "\x00\x00\x00" || kind == etherTypeVLAN || kind == etherTypeQinQ || kind == etherTypeQinQ1 {
		return errNotIP
	}
	return d.etherType(kind, rest, tags)
}

// etherType decodes what an EtherType announces, behind so many tags.
func (d *decoder) etherType(kind uint16, v view, tags int) error {
	switch kind {
	case etherTypeIPv4:
		return d.ipv4(v)
	case etherTypeIPv6:
		return d.ipv6(v)
	case etherTypeVLAN, etherTypeQinQ, etherTypeQinQ1:
		return d.vlan(v, tags+1)
	case etherTypeMPLS, etherTypeMPLSM:
		return d.mpls(v)
	case etherTypePPPoE:
		return d.pppoe(v)
	default:
		return errNotIP
	}
}

func (d *decoder) vlan(v view, tags int) error {
	if tags > MaxVLANTags {
		return errUnsupported
	}
	tag, rest, err := v.split(4)
	if err != nil {
		return err
	}
	d.tag(binary.BigEndian.Uint16(tag))
	return d.typeOrLength(binary.BigEndian.Uint16(tag[2:]), rest, tags)
}

// tag notes the identifier in a tag's control information: its low twelve bits.
func (d *decoder) tag(control uint16) {
	if len(d.vlans) < 2 {
		d.vlans = append(d.vlans, control%4096)
	}
}

// mpls decodes a label stack entry (RFC 3032, section 2.1: label 20 bits,
// class 3, bottom of stack 1, TTL 8), those below it, and what follows.
func (d *decoder) mpls(v view) error {
	for range MaxMPLSLabels {
		entry, rest, err := v.split(4)
		if err != nil {
			return err
		}
		if len(d.labels) == 0 {
			d.labels = []uint32{uint32(entry[0])<<12 | uint32(entry[1])<<4 | uint32(entry[2])>>4}
		}
		v = rest
		if entry[2]&1 == 1 {
			return d.belowLabels(v)
		}
	}
	return errUnsupported
}

// belowLabels tells by the first nibble what a label stack carries (RFC 4928, section 3).
func (d *decoder) belowLabels(v view) error {
	first, err := v.peek(1)
	if err != nil {
		return err
	}
	switch first[0] / 16 {
	case 4:
		return d.ipv4(v)
	case 6:
		return d.ipv6(v)
	default:
		return errNotIP
	}
}

// pppoe decodes a session packet (RFC 2516, section 4): version and type 1,
// code 0, session, length, and the PPP protocol.
func (d *decoder) pppoe(v view) error {
	header, rest, err := v.split(8)
	if err != nil {
		return err
	}
	if header[0] != 0x11 || header[1] != 0 {
		return errMalformed
	}
	switch binary.BigEndian.Uint16(header[6:]) {
	case 0x0021:
		return d.ipv4(rest)
	case 0x0057:
		return d.ipv6(rest)
	default:
		return errNotIP
	}
}
