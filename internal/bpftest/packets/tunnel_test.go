// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest/refdecode"
)

// What is built here has to be what a decoder takes it for.
func TestTunnels(t *testing.T) {
	const ip4, ip6, teb = layers.EthernetTypeIPv4, layers.EthernetTypeIPv6, layers.EthernetTypeTransparentEthernetBridging
	in4 := []Layer{InnerIPv4(layers.IPProtocolTCP), TCP(0x12), Payload(4)}
	in6 := []Layer{InnerIPv6(layers.IPProtocolTCP), TCP(0x12), Payload(4)}
	framed := func(etherType layers.EthernetType, packet []Layer) []Layer {
		return append([]Layer{InnerEthernet(etherType)}, packet...)
	}
	over4 := func(protocol layers.IPProtocol) []Layer { return []Layer{Ethernet(ip4), IPv4(protocol)} }
	over6 := func(protocol layers.IPProtocol) []Layer { return []Layer{Ethernet(ip6), IPv6(protocol)} }
	const udp, gre = layers.IPProtocolUDP, layers.IPProtocolGRE

	for _, tt := range []struct {
		name  string
		parts [][]Layer
		// kind and offset of the tunnel and what it carries, or why it is closed
		kind    string
		id      uint32
		offset  int
		refused string
	}{
		{"VXLAN", [][]Layer{over4(udp), {UDPTunnel(VXLANPort), VXLAN(VNI)}, framed(ip4, in4)}, refdecode.VXLAN, VNI, 42 + VXLANLen, ""},
		{"VXLAN over IPv6", [][]Layer{over6(udp), {UDPTunnel(VXLANLinuxPort), VXLAN(VNI)}, framed(ip6, in6)}, refdecode.VXLAN, VNI, 62 + VXLANLen, ""},
		{"GPE", [][]Layer{over4(udp), {UDPTunnel(VXLANPort), VXLANGPE(VNI, 1)}, in4}, "", 0, 0, refdecode.VXLANGPE},
		{"NSH", [][]Layer{over4(udp), {UDPTunnel(VXLANPort), VXLANGPE(VNI, 4)}, in4}, "", 0, 0, refdecode.VXLANNSH},
		{"Geneve", [][]Layer{over4(udp), {UDPTunnel(GenevePort), Geneve(VNI, teb)}, framed(ip6, in6)}, refdecode.Geneve, VNI, 42 + GeneveLen, ""},
		{"Geneve options", [][]Layer{over4(udp), {UDPTunnel(GenevePort), Geneve(VNI, ip4, 4, 0, 124)}, in4}, refdecode.Geneve, VNI, 42 + GeneveLen + 8 + 4 + 128, ""},
		{"GRE", [][]Layer{over4(gre), {GRE(ip4)}, in4}, refdecode.GRE, 0, 34 + GRELen, ""},
		{"GRE key", [][]Layer{over6(gre), {GREKey(teb, 0x0a0b0c0d)}, framed(ip4, in4)}, refdecode.GRE, 0x0a0b0c0d, 54 + GRELen + 4, ""},
		{"GRE options", [][]Layer{over4(gre), {GREOptions(ip6, 0x0a0b0c0d)}, in6}, refdecode.GRE, 0x0a0b0c0d, 34 + 16, ""},
		{"ERSPAN I", [][]Layer{over4(gre), ERSPAN1(), framed(ip4, in4)}, "", 0, 0, refdecode.ERSPAN},
		{"ERSPAN II", [][]Layer{over4(gre), ERSPAN2(), framed(ip4, in4)}, "", 0, 0, refdecode.ERSPAN},
		{"ERSPAN III", [][]Layer{over4(gre), ERSPAN3(), framed(ip4, in4)}, "", 0, 0, refdecode.ERSPAN},
		{"4 in 4", [][]Layer{over4(layers.IPProtocolIPv4), in4}, refdecode.IPIP, 0, 34, ""},
		{"6 in 4", [][]Layer{over4(layers.IPProtocolIPv6), in6}, refdecode.IPIP, 0, 34, ""},
		{"4 in 6", [][]Layer{over6(layers.IPProtocolIPv4), in4}, refdecode.IPIP, 0, 54, ""},
		{"6 in 6", [][]Layer{over6(layers.IPProtocolIPv6), in6}, refdecode.IPIP, 0, 54, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frame := Build(t, slices.Concat(tt.parts...)...)
			got := refdecode.Decode(refdecode.Packet{Data: frame})
			assert.Equal(t, refdecode.OK, got.Outcome)
			assert.Equal(t, tt.refused, got.Refused)
			if tt.refused != "" {
				assert.Nil(t, got.Tunnel)
				return
			}
			require.NotNil(t, got.Tunnel)
			assert.Equal(t, tt.kind, got.Tunnel.Type)
			assert.Equal(t, tt.id, got.Tunnel.ID)
			assert.Equal(t, tt.offset, got.InnerOffset)
			assert.Contains(t, []netip.Addr{InnerSource4, InnerSource6}, got.Flow.Source)
			assert.Contains(t, []netip.Addr{InnerDestination4, InnerDestination6}, got.Flow.Destination)
			assert.EqualValues(t, DestinationPort, got.Flow.DestinationPort)
			assert.Equal(t, len(frame)-4, got.HeaderLen)
		})
	}
}
