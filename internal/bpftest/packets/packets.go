// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package packets builds the frames that tests run through the eBPF programs:
// gopacket's layers where it can write them, bytes where it cannot or where the
// packet is meant to be wrong. For tests only.
package packets

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"
)

// Addresses of all packets built here. Behind the prefix for documentation no
// byte is equal to its neighbour or to the other address's byte at that place,
// so that a mix-up shows.
var (
	Source4      = netip.MustParseAddr("192.0.2.1")
	Destination4 = netip.MustParseAddr("198.51.100.7")
	Source6      = netip.MustParseAddr("2001:db8:a1b2:c3d4:e5f6:718:293a:4b5c")
	Destination6 = netip.MustParseAddr("2001:db8:9f8e:7d6c:5b4a:3928:1706:f5e4")
)

// Ports of packets whose protocol has them: 0x9c41 and 0x01bb.
const (
	SourcePort      = 40001
	DestinationPort = 443
)

// Lengths of headers without options, for offsets into a frame.
const (
	EthernetLen = 14
	IPv4Len     = 20
	IPv6Len     = 40
	TCPLen      = 20
	UDPLen      = 8
)

// MinFrame is the shortest frame on an Ethernet wire, its check sequence apart.
const MinFrame = 60

// Layer is a part of a packet that can write itself.
type Layer = gopacket.SerializableLayer

// Build writes the layers one after another, with lengths filled in.
//
// Checksums stay zero: no program reads them, nor could it, as the kernel
// leaves those of packets it sends to the device.
func Build(tb testing.TB, parts ...Layer) []byte {
	tb.Helper()
	buf := gopacket.NewSerializeBuffer()
	require.NoError(tb, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, parts...))
	return slices.Clone(buf.Bytes())
}

// Ethernet is the link header. gopacket's own is not used because it pads the
// frame: tests that cut it must know which bytes belong to the packet.
func Ethernet(etherType layers.EthernetType) Layer {
	header := []byte{0x02, 0, 0x5e, 0x10, 0, 0x02, 0x02, 0, 0x5e, 0x10, 0, 0x01}
	return gopacket.Payload(binary.BigEndian.AppendUint16(header, uint16(etherType)))
}

// VLAN is one tag; etherType is that of what follows it.
func VLAN(id uint16, etherType layers.EthernetType) Layer {
	return &layers.Dot1Q{VLANIdentifier: id, Type: etherType}
}

// MPLS is a stack of labels, the outermost first.
func MPLS(labels ...uint32) []Layer {
	stack := make([]Layer, 0, len(labels))
	for i, label := range labels {
		stack = append(stack, &layers.MPLS{Label: label, TTL: 64, StackBottom: i == len(labels)-1})
	}
	return stack
}

// PPPoE is a session header with the PPP protocol that it carries.
func PPPoE(protocol layers.PPPType) []Layer {
	return []Layer{
		&layers.PPPoE{Version: 1, Type: 1, SessionId: 0x1234},
		// two bytes on Ethernet, also for those that PPP could write as one
		gopacket.Payload(binary.BigEndian.AppendUint16(nil, uint16(protocol))),
	}
}

// IPv4 is a header without options.
func IPv4(protocol layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, TTL: 64, Id: 0x4321, Protocol: protocol,
		SrcIP: net.IP(Source4.AsSlice()), DstIP: net.IP(Destination4.AsSlice()),
	}
}

// IPv4Options is a header with size bytes of options, at most 40 and a multiple of 4.
func IPv4Options(protocol layers.IPProtocol, size int) *layers.IPv4 {
	ip := IPv4(protocol)
	ip.Options = slices.Repeat([]layers.IPv4Option{{OptionType: 1}}, size)
	return ip
}

// IPv4Fragment is the header of a fragment; offset counts bytes.
func IPv4Fragment(protocol layers.IPProtocol, offset uint16, more bool) *layers.IPv4 {
	ip := IPv4(protocol)
	ip.FragOffset = offset / 8
	if more {
		ip.Flags = layers.IPv4MoreFragments
	}
	return ip
}

// IPv6 is a fixed header.
func IPv6(next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{
		Version: 6, HopLimit: 64, TrafficClass: 0xa5, FlowLabel: 0x54321, NextHeader: next,
		SrcIP: net.IP(Source6.AsSlice()), DstIP: net.IP(Destination6.AsSlice()),
	}
}

// Options is a hop-by-hop or destination options header of size bytes, a
// multiple of 8, which holds nothing but padding.
func Options(next layers.IPProtocol, size int) Layer {
	header := []byte{byte(next), byte(size/8 - 1)}
	for size -= len(header); size > 0; {
		data := min(size-2, 255)
		if size-2-data == 1 {
			data-- // a PadN is two bytes at least
		}
		header = append(header, 1, byte(data))
		header = append(header, make([]byte, data)...)
		size -= 2 + data
	}
	return gopacket.Payload(header)
}

// Routing is a segment routing header with one segment.
func Routing(next layers.IPProtocol) Layer {
	header := []byte{byte(next), 2, 4, 0, 0, 0, 0, 0}
	return gopacket.Payload(append(header, Destination6.AsSlice()...))
}

// IPv6Fragment is a fragment header; offset counts bytes.
func IPv6Fragment(next layers.IPProtocol, offset uint16, more bool) Layer {
	return &layers.IPv6Fragment{
		NextHeader: next, FragmentOffset: offset / 8, MoreFragments: more, Identification: 0x87654321,
	}
}

// AH is an authentication header with the 12 bytes of check value that most
// algorithms give: 24 bytes, of which its length field says 4.
func AH(next layers.IPProtocol) Layer {
	header := make([]byte, 24)
	header[0], header[1] = byte(next), 4
	binary.BigEndian.PutUint32(header[4:], 0x00c0ffee)
	return gopacket.Payload(header)
}

// TCP is a header with the given flags byte.
func TCP(flags byte) *layers.TCP {
	bit := func(i int) bool { return flags>>i&1 == 1 }
	return &layers.TCP{
		SrcPort: SourcePort, DstPort: DestinationPort, Seq: 0x10203040, Ack: 0x50607080, Window: 512,
		FIN: bit(0), SYN: bit(1), RST: bit(2), PSH: bit(3), ACK: bit(4), URG: bit(5), ECE: bit(6), CWR: bit(7),
	}
}

// UDP is a header.
func UDP() Layer {
	return &layers.UDP{SrcPort: SourcePort, DstPort: DestinationPort}
}

// UDPLite is a header whose checksum covers only itself.
func UDPLite() Layer {
	return withPorts([]byte{0, UDPLen, 0, 0})
}

// SCTP is a common header.
func SCTP() Layer {
	return &layers.SCTP{SrcPort: SourcePort, DstPort: DestinationPort, VerificationTag: 0xdecade}
}

// DCCP is the generic header of a data packet with a short sequence number:
// the shortest there is.
func DCCP() Layer {
	return withPorts([]byte{3, 0, 0, 0, 2 << 1, 0, 0, 1})
}

func withPorts(rest []byte) Layer {
	header := binary.BigEndian.AppendUint16(nil, SourcePort)
	header = binary.BigEndian.AppendUint16(header, DestinationPort)
	return gopacket.Payload(append(header, rest...))
}

// ICMP is a header of eight bytes.
func ICMP(typ, code uint8) Layer {
	return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Id: 0x1111, Seq: 1}
}

// ICMPv6 is a header of four bytes.
func ICMPv6(typ, code uint8) Layer {
	return &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}
}

// Payload is size bytes, all 0xee, a value that is in no header built here: a
// program that took payload for a header would say something no test expects.
func Payload(size int) Layer {
	return gopacket.Payload(bytes.Repeat([]byte{0xee}, size))
}

// Head is the first size bytes of what the layers would write.
func Head(tb testing.TB, size int, parts ...Layer) Layer {
	tb.Helper()
	return gopacket.Payload(Build(tb, parts...)[:size])
}

// Pad returns the frame as a device would send it, no shorter than MinFrame.
func Pad(frame []byte) []byte {
	return append(slices.Clone(frame), make([]byte, max(0, MinFrame-len(frame)))...)
}

// Patch returns a copy of frame with other bytes at off.
func Patch(frame []byte, off int, b ...byte) []byte {
	frame = slices.Clone(frame)
	copy(frame[off:off+len(b)], b)
	return frame
}

// Patch16 returns a copy of frame with another 16-bit field at off.
func Patch16(frame []byte, off int, v uint16) []byte {
	return Patch(frame, off, byte(v>>8), byte(v))
}
