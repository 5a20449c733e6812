// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// MaxFilterRules is how many rules a filter may have.
const MaxFilterRules = 32

// MaxTunnelPorts is how many ports a kind of tunnel may have.
const MaxTunnelPorts = 8

// FilterRule matches flows of which all that it says is true.
type FilterRule struct {
	// Network has either address; the zero value matches all.
	Network netip.Prefix
	// PortMin and PortMax are the range that either port is in, both ends
	// included; 0 and 0 match all, also flows without ports.
	PortMin, PortMax uint16
	// Protocol matches where HasProtocol is set.
	Protocol    flow.Protocol
	HasProtocol bool
	// Exclude: flows that match are not counted.
	Exclude bool
}

func (r *FilterRule) encode() bpf.TCFilterRule {
	out := bpf.TCFilterRule{
		PortMin: r.PortMin, PortMax: r.PortMax, Protocol: uint8(r.Protocol),
		HasProtocol: boolByte(r.HasProtocol), Exclude: boolByte(r.Exclude),
	}
	if !r.Network.IsValid() {
		return out
	}
	address, bits := r.Network.Masked().Addr(), r.Network.Bits()
	out.IpVersion = 6
	if address.Is4() {
		out.IpVersion = 4
		bits += 128 - 32 // keys have IPv4 as ::ffff:a.b.c.d
	}
	bytes := address.As16()
	for i := range out.Mask {
		var mask [4]byte
		for bit := range 32 {
			if i*32+bit < bits {
				mask[bit/8] |= 0x80 >> (bit % 8)
			}
		}
		// words as the program reads them from the bytes of an address
		out.Mask[i] = binary.NativeEndian.Uint32(mask[:])
		out.Network[i] = binary.NativeEndian.Uint32(bytes[i*4:]) & out.Mask[i]
	}
	return out
}

func boolByte(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// setFlowOptions sets what the programs take as constants of which flows they
// count and which tunnels they open.
func setFlowOptions(spec *ebpf.CollectionSpec, opts *Options) error {
	var rules [MaxFilterRules]bpf.TCFilterRule
	if len(opts.Filter) > len(rules) {
		return fmt.Errorf("a filter of %d rules: %d are possible", len(opts.Filter), len(rules))
	}
	includes := false
	for i := range opts.Filter {
		rules[i] = opts.Filter[i].encode()
		includes = includes || !opts.Filter[i].Exclude
	}
	vxlan, err := tunnelPorts(opts.Tunnels.VXLANPorts)
	if err != nil {
		return err
	}
	geneve, err := tunnelPorts(opts.Tunnels.GenevePorts)
	if err != nil {
		return err
	}
	for _, v := range []struct {
		name  string
		value any
	}{
		{bpf.TCVarCfgFilter, rules},
		{bpf.TCVarCfgFilterLen, uint32(len(opts.Filter))},
		{bpf.TCVarCfgFilterIncludes, includes},
		{bpf.TCVarCfgSampling, max(opts.Sampling, 1)},
		{bpf.TCVarCfgVxlanPorts, vxlan},
		{bpf.TCVarCfgGenevePorts, geneve},
		{bpf.TCVarCfgGre, opts.Tunnels.GRE},
		{bpf.TCVarCfgIpip, opts.Tunnels.IPIP},
	} {
		if err := spec.Variables[v.name].Set(v.value); err != nil {
			return fmt.Errorf("set %s: %w", v.name, err)
		}
	}
	return nil
}

func tunnelPorts(list []uint16) (ports [MaxTunnelPorts]uint16, err error) {
	if len(list) > len(ports) {
		return ports, fmt.Errorf("%d ports of a tunnel: %d are possible", len(list), len(ports))
	}
	copy(ports[:], list)
	return ports, nil
}
