// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// What package nl does not have of
// include/uapi/linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
const (
	ctaTupleZone       = 3
	ctaProtoICMPType   = 5
	ctaProtoICMPv6Type = 8
	// statusDying: the end has been told, or is about to be.
	statusDying = 1 << 9
)

// Messages about connections, in the kernel's own numbers.
const (
	messageNew     netlink.HeaderType = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_NEW
	messageGet     netlink.HeaderType = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_GET
	messageDestroy netlink.HeaderType = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_DELETE
)

// kind of an event.
type kind uint8

const (
	// other tells nothing of a translation: a connection on its way out that a
	// dump still found, or one that no flow can be of.
	other kind = iota
	begins
	ends
)

type event struct {
	kind       kind
	connection connection
}

var (
	errMalformed = errors.New("malformed connection tracking message")
	errNoTuples  = errors.New("connection tracking message without tuples")
)

// decode reads a message of an event or of a dump. It looks only at what it
// needs, and skips what it does not know: every connection of the host comes by
// twice, and later kernels say more.
func decode(typ netlink.HeaderType, data []byte) (event, error) {
	e := event{kind: begins}
	switch typ {
	case messageNew:
	case messageDestroy:
		e.kind = ends
	default:
		return event{}, fmt.Errorf("%w: type %#x", errMalformed, uint16(typ))
	}
	if len(data) < nl.SizeofNfgenmsg {
		return event{}, fmt.Errorf("%w: %d bytes", errMalformed, len(data))
	}
	var r rawConnection
	if err := r.decode(data[nl.SizeofNfgenmsg:]); err != nil {
		return event{}, err
	}
	if e.kind == begins && r.status&statusDying != 0 {
		return event{}, nil
	}
	var ok bool
	var err error
	if e.connection, ok, err = r.connection(); err != nil || !ok {
		return event{}, err
	}
	return e, nil
}

// rawConnection is what a message says.
type rawConnection struct {
	original, reply rawTuple
	id, status      uint32
	zone            uint16
}

type rawTuple struct {
	Tuple
	icmpType uint8
	zone     uint16
}

// connection is false for a message of ICMP that is no question. A zone may be
// of one direction only; one number tells what the kernel keeps apart all the same.
func (r *rawConnection) connection() (c connection, ok bool, err error) {
	c = connection{id: r.id, zone: r.zone}
	if c.zone == 0 {
		c.zone = r.original.zone
	}
	if !r.original.settlePorts() || !r.reply.settlePorts() {
		return connection{}, false, nil
	}
	var ok1, ok2 bool
	c.original, ok1 = r.original.key()
	c.reply, ok2 = r.reply.key()
	if !ok1 || !ok2 || c.original.ipv6 != c.reply.ipv6 || c.original.protocol != c.reply.protocol {
		return connection{}, false, errNoTuples
	}
	return c, true, nil
}

// settlePorts puts what a Tuple has in place of ports.
func (t *rawTuple) settlePorts() (ok bool) {
	switch {
	case t.Protocol.IsICMP():
		t.SourcePort, t.DestinationPort, ok = icmpPorts(t.Protocol, uint16(t.icmpType))
		return ok
	case !hasPorts(t.Protocol):
		t.SourcePort, t.DestinationPort = 0, 0 // keys of GRE
	}
	return true
}

func (r *rawConnection) decode(data []byte) error {
	return eachAttribute(data, func(typ uint16, payload []byte) (err error) {
		switch typ {
		case nl.CTA_TUPLE_ORIG:
			err = r.original.decode(payload)
		case nl.CTA_TUPLE_REPLY:
			err = r.reply.decode(payload)
		case nl.CTA_STATUS:
			r.status, err = number32(payload)
		case nl.CTA_ID:
			r.id, err = number32(payload)
		case nl.CTA_ZONE:
			r.zone, err = number16(payload)
		}
		return err
	})
}

func (t *rawTuple) decode(data []byte) error {
	return eachAttribute(data, func(typ uint16, payload []byte) (err error) {
		switch typ {
		case nl.CTA_TUPLE_IP:
			err = eachAttribute(payload, t.decodeIP)
		case nl.CTA_TUPLE_PROTO:
			err = eachAttribute(payload, t.decodeProtocol)
		case ctaTupleZone:
			t.zone, err = number16(payload)
		}
		return err
	})
}

func (t *rawTuple) decodeIP(typ uint16, payload []byte) (err error) {
	switch typ {
	case nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC:
		t.Source, err = address(payload)
	case nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST:
		t.Destination, err = address(payload)
	}
	return err
}

func (t *rawTuple) decodeProtocol(typ uint16, payload []byte) (err error) {
	switch typ {
	case nl.CTA_PROTO_NUM:
		var n uint8
		n, err = number8(payload)
		t.Protocol = flow.Protocol(n)
	case nl.CTA_PROTO_SRC_PORT:
		t.SourcePort, err = number16(payload)
	case nl.CTA_PROTO_DST_PORT:
		t.DestinationPort, err = number16(payload)
	case ctaProtoICMPType, ctaProtoICMPv6Type:
		t.icmpType, err = number8(payload)
	}
	return err
}

// eachAttribute calls f with what is in data: each a length, which counts its own
// four bytes and not the padding to four, and a type, in host order
// (include/uapi/linux/netlink.h).
func eachAttribute(data []byte, f func(typ uint16, payload []byte) error) error {
	for len(data) > 0 {
		if len(data) < unix.NLA_HDRLEN {
			return fmt.Errorf("%w: %d bytes after the last attribute", errMalformed, len(data))
		}
		length := int(binary.NativeEndian.Uint16(data))
		typ := binary.NativeEndian.Uint16(data[2:])
		if length < unix.NLA_HDRLEN || length > len(data) {
			return fmt.Errorf("%w: attribute of %d bytes where there are %d", errMalformed, length, len(data))
		}
		if err := f(typ&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), data[unix.NLA_HDRLEN:length]); err != nil {
			return err
		}
		padded := (length + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1)
		data = data[min(padded, len(data)):]
	}
	return nil
}

func address(payload []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(payload)
	if !ok {
		return netip.Addr{}, fmt.Errorf("%w: address of %d bytes", errMalformed, len(payload))
	}
	return a, nil
}

// Numbers are in network order.

func number8(payload []byte) (uint8, error) {
	if len(payload) != 1 {
		return 0, wrongSize(payload)
	}
	return payload[0], nil
}

func number16(payload []byte) (uint16, error) {
	if len(payload) != 2 {
		return 0, wrongSize(payload)
	}
	return binary.BigEndian.Uint16(payload), nil
}

func number32(payload []byte) (uint32, error) {
	if len(payload) != 4 {
		return 0, wrongSize(payload)
	}
	return binary.BigEndian.Uint32(payload), nil
}

func wrongSize(payload []byte) error {
	return fmt.Errorf("%w: number of %d bytes", errMalformed, len(payload))
}
