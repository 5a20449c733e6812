// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package refdecode

import (
	"encoding/binary"
	"net/netip"
)

// ipv4 decodes RFC 791, section 3.1.
func (d *decoder) ipv4(v view) error {
	header, err := v.peek(20)
	if err != nil {
		return err
	}
	headerLen := int(header[0]%16) * 4
	if header[0]/16 != 4 || headerLen < 20 {
		return errMalformed
	}
	fragment := binary.BigEndian.Uint16(header[6:])
	more, offset := fragment&0x2000 != 0, fragment&0x1fff
	d.result.Flow = &Flow{
		Source:      netip.AddrFrom4([4]byte(header[12:16])),
		Destination: netip.AddrFrom4([4]byte(header[16:20])),
		Protocol:    header[9],
		Fragment:    offset != 0,
	}

	d.stated = int(binary.BigEndian.Uint16(header[2:]))
	if d.stated != 0 {
		v.limit = d.stated
	}
	payload, err := v.after(headerLen)
	if err != nil {
		return err
	}
	return d.transport(payload, more)
}

// IPv6 extension headers, by the number that announces them.
const (
	hopByHop           = 0
	routing            = 43
	fragmentHeader     = 44
	authentication     = 51
	destinationOptions = 60
)

// ipv6 decodes RFC 8200, section 3, and the headers of section 4.
func (d *decoder) ipv6(v view) error {
	header, rest, err := v.split(40)
	if err != nil {
		return err
	}
	if header[0]/16 != 6 {
		return errMalformed
	}
	d.result.Flow = &Flow{
		Source:      netip.AddrFrom16([16]byte(header[8:24])),
		Destination: netip.AddrFrom16([16]byte(header[24:40])),
		Protocol:    header[6],
	}
	d.stated, d.result.JumboLen = 0, 0
	if payload := int(binary.BigEndian.Uint16(header[4:])); payload != 0 {
		rest.limit, d.stated = payload, 40+payload
	}
	return d.extensions(rest)
}

// extensions steps over extension headers up to the transport header or to
// the payload of a fragment other than the first.
func (d *decoder) extensions(v view) error {
	flow := d.result.Flow
	more := false
	for n := 0; ; n++ {
		kind := flow.Protocol
		switch kind {
		case hopByHop, routing, fragmentHeader, authentication, destinationOptions:
		default:
			return d.transport(v, more)
		}
		if n == MaxExtensionHeaders {
			return errUnsupported
		}

		header, err := v.peek(8) // the shortest there is
		if err != nil {
			return err
		}
		flow.Protocol = header[0]
		if kind == hopByHop && string(header[1:4]) == "\x00\xc2\x04" {
			d.result.JumboLen = 8
		}
		if kind == fragmentHeader {
			offset := binary.BigEndian.Uint16(header[2:]) / 8
			flow.Fragment = flow.Fragment || offset != 0
			more = more || header[3]%2 == 1
		}
		size, err := extensionLen(kind, header)
		if err != nil {
			return err
		}
		if v, err = v.after(size); err != nil {
			return err
		}
		if flow.Fragment {
			return d.transport(v, more)
		}
	}
}

func extensionLen(kind uint8, header []byte) (int, error) {
	switch kind {
	case fragmentHeader:
		return 8, nil
	case authentication:
		// RFC 4302, section 2: three words before the check value, and the
		// length counts words less two
		words := int(header[1]) + 2
		if words < 3 {
			return 0, errMalformed
		}
		return words * 4, nil
	default:
		return (int(header[1]) + 1) * 8, nil
	}
}
