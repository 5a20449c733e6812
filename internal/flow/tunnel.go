// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import "net/netip"

// TunnelType is what kind of tunnel packets were in.
type TunnelType uint8

// Tunnels that are opened.
const (
	NoTunnel TunnelType = iota
	VXLAN
	Geneve
	GRE
	IPIP        // all four mixes of IPv4 and IPv6
	TunnelTypes = int(IPIP) + 1
)

// String gives the value of netprobe.tunnel.type.
func (t TunnelType) String() string {
	return [...]string{NoTunnel: "", VXLAN: "vxlan", Geneve: "geneve", GRE: "gre", IPIP: "ipip"}[t]
}

// Tunnel is one direction of a tunnel. The zero value is none.
type Tunnel struct {
	// Source and Destination are the end points.
	Source, Destination netip.Addr
	// ID is the network identifier of VXLAN and Geneve and the key of GRE; only
	// where HasID is set is there one.
	ID    uint32
	HasID bool
	Type  TunnelType
}

// Refusal is why packets that look like a tunnel's were not opened.
type Refusal uint8

// Refusals.
const (
	NotRefused Refusal = iota
	RefusedVXLANNoVNI
	RefusedVXLANReservedBits
	RefusedVXLANGPE
	RefusedVXLANNSH
	RefusedGeneveVersion
	RefusedGeneveControl
	RefusedGREVersion
	RefusedGRERouting
	RefusedERSPAN
	Refusals = int(RefusedERSPAN) + 1
)

func (r Refusal) String() string {
	return [...]string{
		NotRefused: "", RefusedVXLANNoVNI: "vxlan_no_vni", RefusedVXLANReservedBits: "vxlan_reserved_bits",
		RefusedVXLANGPE: "vxlan_gpe", RefusedVXLANNSH: "vxlan_nsh", RefusedGeneveVersion: "geneve_version",
		RefusedGeneveControl: "geneve_control", RefusedGREVersion: "gre_version", RefusedGRERouting: "gre_routing",
		RefusedERSPAN: "erspan",
	}[r]
}
