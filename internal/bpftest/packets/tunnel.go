// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// Addresses of what tunnels carry: at no place a byte is that of another
// address built here.
var (
	InnerSource4      = netip.MustParseAddr("10.32.54.76")
	InnerDestination4 = netip.MustParseAddr("172.19.43.65")
	InnerSource6      = netip.MustParseAddr("2001:db8:1e2d:3c4b:5a69:7887:96a5:b4c3")
	InnerDestination6 = netip.MustParseAddr("2001:db8:d2c1:b0af:9e8d:7c6b:5f4e:3d2c")
)

// UDP ports of tunnels: what VTEPs send from and to.
const (
	TunnelSourcePort = 55555
	VXLANPort        = 4789
	VXLANLinuxPort   = 8472 // what Linux took before IANA assigned one
	VXLANGPEPort     = 4790
	GenevePort       = 6081
)

// VNI is a network identifier of which no byte is equal to another.
const VNI = 0x13897a

// Lengths of tunnel headers without options.
const (
	VXLANLen  = 8
	GeneveLen = 8
	GRELen    = 4
)

// Protocol types of ERSPAN, which gopacket has no constants for.
const (
	EtherTypeERSPAN  layers.EthernetType = 0x88be
	EtherTypeERSPAN3 layers.EthernetType = 0x22eb
)

// InnerEthernet is the link header of a frame in a tunnel.
func InnerEthernet(etherType layers.EthernetType) Layer {
	header := []byte{0x02, 0, 0x5e, 0x10, 0, 0x04, 0x02, 0, 0x5e, 0x10, 0, 0x03}
	return gopacket.Payload(binary.BigEndian.AppendUint16(header, uint16(etherType)))
}

// InnerIPv4 is the header of a packet in a tunnel.
func InnerIPv4(protocol layers.IPProtocol) *layers.IPv4 {
	ip := IPv4(protocol)
	ip.Id = 0x8765
	ip.SrcIP, ip.DstIP = net.IP(InnerSource4.AsSlice()), net.IP(InnerDestination4.AsSlice())
	return ip
}

// InnerIPv6 is the header of a packet in a tunnel.
func InnerIPv6(next layers.IPProtocol) *layers.IPv6 {
	ip := IPv6(next)
	ip.SrcIP, ip.DstIP = net.IP(InnerSource6.AsSlice()), net.IP(InnerDestination6.AsSlice())
	return ip
}

// UDPTunnel is the UDP header of a tunnel.
func UDPTunnel(port uint16) Layer {
	return &layers.UDP{SrcPort: TunnelSourcePort, DstPort: layers.UDPPort(port)}
}

// VXLAN is a header with a network identifier (RFC 7348).
func VXLAN(vni uint32) *layers.VXLAN {
	return &layers.VXLAN{ValidIDFlag: true, VNI: vni}
}

// VXLANGPE is a header that says what follows it (draft-ietf-nvo3-vxlan-gpe):
// 1 is IPv4, 2 IPv6, 3 Ethernet, 4 NSH.
func VXLANGPE(vni uint32, next uint8) Layer {
	header := []byte{0x0c, 0, 0, next}
	return gopacket.Payload(binary.BigEndian.AppendUint32(header, vni<<8))
}

// Geneve is a header with options that have sizes bytes of data, multiples of
// 4 up to 124 each; all with their headers of 4 bytes up to 252 (RFC 8926).
func Geneve(vni uint32, etherType layers.EthernetType, sizes ...int) *layers.Geneve {
	header := &layers.Geneve{VNI: vni, Protocol: etherType}
	for _, size := range sizes {
		header.Options = append(header.Options, &layers.GeneveOption{
			Class: 0x0102, Type: 3, Data: bytes.Repeat([]byte{0xdd}, size),
		})
	}
	return header
}

// GRE is a header without options (RFC 2784).
func GRE(etherType layers.EthernetType) *layers.GRE {
	return &layers.GRE{Protocol: etherType}
}

// GREKey is a header with a key (RFC 2890).
func GREKey(etherType layers.EthernetType, key uint32) *layers.GRE {
	header := GRE(etherType)
	header.KeyPresent, header.Key = true, key
	return header
}

// GREOptions is a header with a checksum, a key and a sequence number: 16 bytes.
func GREOptions(etherType layers.EthernetType, key uint32) *layers.GRE {
	header := GREKey(etherType, key)
	header.ChecksumPresent = true
	header.SeqPresent, header.Seq = true, 0x01020304
	return header
}

// ERSPAN1 is before a mirrored frame nothing but GRE.
func ERSPAN1() []Layer {
	return []Layer{GRE(EtherTypeERSPAN)}
}

// ERSPAN2 is GRE with a sequence number, and a header of 8 bytes: version 1,
// VLAN, class, session, index.
func ERSPAN2() []Layer {
	header := GRE(EtherTypeERSPAN)
	header.SeqPresent, header.Seq = true, 7
	return []Layer{header, gopacket.Payload{0x10, 0x64, 0x00, 0x05, 0, 0, 0, 1}}
}

// ERSPAN3 is GRE with a sequence number, and a header of 12 bytes: version 2,
// VLAN, class, session, time stamp, group, type of the frame.
func ERSPAN3() []Layer {
	header := GRE(EtherTypeERSPAN3)
	header.SeqPresent, header.Seq = true, 7
	return []Layer{header, gopacket.Payload{0x20, 0x64, 0x00, 0x05, 0, 0, 0, 1, 0, 0, 0, 0}}
}
