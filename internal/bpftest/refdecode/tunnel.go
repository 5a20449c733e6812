// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package refdecode

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
)

// Types of tunnels.
const (
	VXLAN  = "vxlan"
	Geneve = "geneve"
	GRE    = "gre"
	IPIP   = "ipip" // IPv4 or IPv6, in either
)

// Why a tunnel is left closed.
const (
	VXLANNoVNI        = "vxlan_no_vni"
	VXLANNSH          = "vxlan_nsh"
	VXLANGPE          = "vxlan_gpe"
	VXLANReservedBits = "vxlan_reserved_bits"
	GeneveVersion     = "geneve_version"
	GeneveControl     = "geneve_control"
	GREVersion        = "gre_version" // 1 is PPTP's, RFC 2637
	GRERouting        = "gre_routing"
	ERSPAN            = "erspan"
)

// Tunnel is what is around the packet of a flow.
type Tunnel struct {
	Type string
	// HasID says whether ID was there to read: the VNI, or the key of GRE.
	HasID               bool
	ID                  uint32
	Source, Destination netip.Addr
	// Nested says that the packet inside is again one that would be opened or refused.
	Nested bool
}

// Ports are the UDP destination ports of tunnels.
type Ports struct {
	VXLAN, Geneve []uint16
}

// DefaultPorts are those that IANA assigned, and the one that Linux gave VXLAN before.
func DefaultPorts() *Ports {
	return &Ports{VXLAN: []uint16{4789, 8472}, Geneve: []uint16{6081}}
}

// over answers the type of tunnel that a flow of UDP is by its port, or nothing.
func (p *Ports) over(flow *Flow) string {
	switch {
	case flow.Protocol != udp || !flow.HasPorts:
		return ""
	case slices.Contains(p.VXLAN, flow.DestinationPort):
		return VXLAN
	case slices.Contains(p.Geneve, flow.DestinationPort):
		return Geneve
	default:
		return ""
	}
}

// tunnelOf answers the type of tunnel that an IP protocol is, or nothing.
func tunnelOf(protocol uint8) string {
	switch protocol {
	case ipv4InIP, ipv6InIP:
		return IPIP
	case gre:
		return GRE
	default:
		return ""
	}
}

// refusal is the error of a tunnel that is left closed.
type refusal string

func (r refusal) Error() string { return string(r) }

// carried is what stands behind the header of a tunnel.
type carried struct {
	view
	decode func(view) error
	// framed says that it begins with an Ethernet header.
	framed bool
}

// tunnel decodes what a datagram carries that is a tunnel's; fault is that of
// the datagram, which counts where the packet inside has none.
func (d *decoder) tunnel(kind string, v view, fault error) error {
	if d.closed {
		return fault
	}
	d.closed = true

	outer := d.result
	tunnel := &Tunnel{Type: kind, Source: outer.Flow.Source, Destination: outer.Flow.Destination}
	inner, err := d.tunnelHeader(tunnel, v)
	var why refusal
	if errors.As(err, &why) {
		d.result.Refused = string(why)
		return fault
	}
	if err != nil {
		return err
	}

	d.result = Result{Tunnel: tunnel, InnerOffset: d.length - inner.length}
	err = inner.decode(inner.view)
	if flow := d.result.Flow; flow != nil {
		tunnel.Nested = !flow.Fragment && (tunnelOf(flow.Protocol) != "" || d.tunnels.over(flow) != "")
		d.result.InnerLen = d.lengthOf(inner)
	} else {
		d.result.Flow, d.result.HeaderLen, d.result.IsTunnel = outer.Flow, outer.HeaderLen, true
		d.result.JumboLen = outer.JumboLen
	}
	if err == nil || errors.Is(err, errNotIP) {
		return fault
	}
	return err
}

// lengthOf answers how long is what a tunnel carries; 0 if no length says it.
// A frame ends with the datagram around it: that it has padding cannot be told.
func (d *decoder) lengthOf(inner carried) int {
	if !inner.framed && d.stated != 0 && d.stated == inner.within(d.stated) {
		return d.stated
	}
	return max(inner.outer, 0)
}

// tunnelHeader reads the header that a type of tunnel has.
func (d *decoder) tunnelHeader(tunnel *Tunnel, v view) (carried, error) {
	switch tunnel.Type {
	case VXLAN:
		return d.vxlan(tunnel, v)
	case Geneve:
		return d.geneve(tunnel, v)
	case GRE:
		return d.gre(tunnel, v)
	default:
		if d.result.Flow.Protocol == ipv4InIP {
			return d.byEtherType(etherTypeIPv4, v), nil
		}
		return d.byEtherType(etherTypeIPv6, v), nil
	}
}

// vxlan decodes RFC 7348, section 5: flags of which I says that there is a
// network identifier, 24 reserved bits, the identifier, 8 reserved bits.
func (d *decoder) vxlan(tunnel *Tunnel, v view) (carried, error) {
	header, rest, err := v.split(8)
	if err != nil {
		return carried{}, err
	}
	if why := refusedVXLAN([8]byte(header)); why != "" {
		return carried{}, why
	}
	tunnel.identify(binary.BigEndian.Uint32(header[4:]) >> 8)
	return carried{view: rest, decode: d.innerFrame, framed: true}, nil
}

// refusedVXLAN tells what else a header is than RFC 7348's or, with the G bit,
// that of draft-smith-vxlan-group-policy, section 2.1: then two bits of the
// second byte have a meaning, and the third and fourth are a group.
func refusedVXLAN(header [8]byte) refusal {
	const gbp, id, gpe = 0x80, 0x08, 0x04
	flags := header[0]
	if flags&id == 0 {
		return VXLANNoVNI
	}
	if flags&gpe != 0 && isGPE(header) {
		if header[3] == 4 {
			return VXLANNSH
		}
		return VXLANGPE
	}
	reserved := [8]byte{0: ^byte(gbp | id), 1: 0xff, 2: 0xff, 3: 0xff, 7: 0xff}
	if flags&gbp != 0 {
		reserved[1], reserved[2], reserved[3] = ^byte(0x40|0x08), 0, 0 // D: do not learn, A: applied
	}
	for i, mask := range reserved {
		if header[i]&mask != 0 {
			return VXLANReservedBits
		}
	}
	return ""
}

// isGPE tells whether all that draft-ietf-nvo3-vxlan-gpe, section 3, reserves
// or has for a version is 0.
func isGPE(header [8]byte) bool {
	return header[0]&0xf0 == 0 && header[1] == 0 && header[2] == 0 && header[7] == 0
}

// geneve decodes RFC 8926, section 3.4: version 2 bits, length of the options
// in words 6, O 1, C 1, reserved 6, EtherType 16, network identifier 24, reserved 8.
func (d *decoder) geneve(tunnel *Tunnel, v view) (carried, error) {
	header, rest, err := v.split(8)
	if err != nil {
		return carried{}, err
	}
	if header[0]>>6 != 0 {
		return carried{}, refusal(GeneveVersion)
	}
	if header[1]&0x80 != 0 {
		return carried{}, refusal(GeneveControl)
	}
	options, rest, err := rest.split(int(header[0]%64) * 4)
	if err != nil {
		return carried{}, err
	}
	if !wholeOptions(options) {
		return carried{}, errMalformed
	}
	tunnel.identify(binary.BigEndian.Uint32(header[4:]) >> 8)
	return d.byEtherType(binary.BigEndian.Uint16(header[2:]), rest), nil
}

// wholeOptions tells whether options, some words, end with the last of them
// (RFC 8926, section 3.5): each has a header of one word, whose last five bits
// count the words behind it.
func wholeOptions(options []byte) bool {
	for len(options) != 0 {
		size := 4 + int(options[3]%32)*4
		if size > len(options) {
			return false
		}
		options = options[size:]
	}
	return true
}

// gre decodes RFC 2784, section 2, with the key and the sequence number of RFC
// 2890 and the routing field of RFC 1701, which is not stepped over. Other bits
// than these are reserved, and ignored as section 2.3 wants.
func (d *decoder) gre(tunnel *Tunnel, v view) (carried, error) {
	const checksum, routing, key, sequence, version = 0x8000, 0x4000, 0x2000, 0x1000, 0x0007
	header, rest, err := v.split(4)
	if err != nil {
		return carried{}, err
	}
	flags, kind := binary.BigEndian.Uint16(header), binary.BigEndian.Uint16(header[2:])
	switch {
	case flags&version != 0:
		return carried{}, refusal(GREVersion)
	case flags&routing != 0:
		return carried{}, refusal(GRERouting)
	case kind == etherTypeERSPAN || kind == etherTypeERSPAN3:
		return carried{}, refusal(ERSPAN)
	}
	for _, field := range []uint16{checksum, key, sequence} {
		if flags&field == 0 {
			continue
		}
		var word []byte
		if word, rest, err = rest.split(4); err != nil {
			return carried{}, err
		}
		if field == key {
			tunnel.identify(binary.BigEndian.Uint32(word))
		}
	}
	return d.byEtherType(kind, rest), nil
}

func (t *Tunnel) identify(id uint32) {
	t.HasID, t.ID = true, id
}

// byEtherType is what an EtherType in the header of a tunnel announces.
func (d *decoder) byEtherType(kind uint16, v view) carried {
	switch kind {
	case etherTypeIPv4:
		return carried{view: v, decode: d.ipv4}
	case etherTypeIPv6:
		return carried{view: v, decode: d.ipv6}
	case etherTypeTEB:
		return carried{view: v, decode: d.innerFrame, framed: true}
	default:
		return carried{view: v, decode: func(view) error { return errNotIP }}
	}
}

// innerFrame decodes an Ethernet frame in a tunnel: IP behind no more than
// tags, which do not count for the flow.
func (d *decoder) innerFrame(v view) error {
	header, rest, err := v.split(14)
	if err != nil {
		return err
	}
	kind := binary.BigEndian.Uint16(header[12:])
	for range MaxVLANTags {
		if kind != etherTypeVLAN && kind != etherTypeQinQ && kind != etherTypeQinQ1 {
			break
		}
		var tag []byte
		if tag, rest, err = rest.split(4); err != nil {
			return err
		}
		kind = binary.BigEndian.Uint16(tag[2:])
	}
	switch kind {
	case etherTypeIPv4:
		return d.ipv4(rest)
	case etherTypeIPv6:
		return d.ipv6(rest)
	case etherTypeVLAN, etherTypeQinQ, etherTypeQinQ1:
		return errUnsupported
	default:
		return errNotIP
	}
}
