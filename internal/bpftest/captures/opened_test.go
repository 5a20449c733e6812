// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package captures

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestOpened(t *testing.T) {
	outer := FiveTuple{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), 17, 4000, 4789}
	inner := FiveTuple{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 6, 2, 80}
	for _, tt := range []struct {
		chain string
		port  uint16
		// layers is the number of IP layers, 2 unless given.
		layers int
		opened bool
		why    string
	}{
		{chain: "eth/ip/udp/vxlan/eth/ipv6/tcp", port: 4789, opened: true},
		{chain: "eth/vlan/ipv6/udp/vxlan/eth/vlan/ieee8021ad/ipv6/tcp", port: 8472, opened: true},
		{chain: "eth/ip/udp/geneve/eth/ipv6/tcp", port: 6081, opened: true},
		{chain: "eth/ip/udp/geneve/ipv6/tcp", port: 6081, opened: true},
		{chain: "raw/ip/gre/ipv6/tcp", opened: true},
		{chain: "eth/mpls/ip/gre/eth/ipv6/tcp", opened: true},
		{chain: "eth/ip/ipv6/tcp", opened: true},
		{chain: "eth/ipv6/ah/ipv6/tcp", opened: true},
		{chain: "eth/ip/udp/vxlan/eth/ipv6/tcp", port: 4790, why: OtherPort},
		{chain: "eth/ip/udp/vxlan/eth/mpls/ipv6/tcp", port: 4789, why: "udp/vxlan/eth/mpls"},
		{chain: "eth/ip/udp/vxlan/nsh/ipv6/tcp", port: 4789, why: "udp/vxlan/nsh"},
		{chain: "eth/ip/udp/vxlan/eth/vlan/vlan/vlan/vlan/vlan/ipv6/tcp", port: 4789, why: "udp/vxlan/eth/vlan/vlan/vlan/vlan/vlan"},
		{chain: "eth/ip/gre/erspan/eth/ipv6/tcp", why: "gre/erspan/eth"},
		{chain: "eth/ip/gre/ppp/ipv6/tcp", why: "gre/ppp"},
		{chain: "eth/ip/udp/gre/ipv6/tcp", port: 4789, why: "udp/gre"},
		{chain: "eth/ip/udp/gtp/ipv6/tcp", why: "udp/gtp"},
		{chain: "eth/ip/gre/erspan/eth/ip/udp/vxlan/eth/ipv6/tcp", layers: 3, why: "gre/erspan/eth"},
		{chain: "eth/ipv6/ipv6/ipv6/tcp", layers: 3, why: Nested},
	} {
		t.Run(tt.chain, func(t *testing.T) {
			frame := Frame{
				VLANs: []uint32{7}, HasFlow: true, FiveTuple: outer, Flags: "", Fragment: "first",
				Chain: strings.Split(tt.chain, "/"), IPLayers: 2, Inner: &Inner{inner, "S", "other"},
			}
			frame.DestinationPort = tt.port
			if tt.layers != 0 {
				frame.IPLayers = tt.layers
			}
			want := frame
			if tt.opened {
				want.FiveTuple, want.Flags, want.Fragment = inner, "S", "other"
			}
			got, why := frame.Opened()
			assert.Equal(t, want, got)
			assert.Equal(t, tt.why, why)
		})
	}
}

func TestOpenedWithoutInnerLayer(t *testing.T) {
	for _, chain := range []string{"eth/arp", "eth/ip/tcp", "eth/ip/udp/vxlan/eth/arp", "eth/ip/gre", "eth/ipv6/ah"} {
		frame := Frame{Chain: strings.Split(chain, "/"), IPLayers: 1}
		got, why := frame.Opened()
		assert.Equal(t, frame, got, chain)
		assert.Empty(t, why, chain)
	}
}
