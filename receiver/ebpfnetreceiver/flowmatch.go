// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package ebpfnetreceiver

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// flowRule is a FlowMatch as the programs take it.
type flowRule struct {
	network          netip.Prefix
	portMin, portMax uint16
	protocol         flow.Protocol
	hasProtocol      bool
}

// parse reads a match, or says what is wrong with it.
func (m *FlowMatch) parse() (flowRule, error) {
	var rule flowRule
	var errs []error
	if m.CIDR == "" && m.Port == "" && m.Protocol == "" {
		return rule, errors.New("says neither cidr, port nor protocol")
	}
	var err error
	if m.CIDR != "" {
		if rule.network, err = parseNetwork(m.CIDR); err != nil {
			errs = append(errs, fmt.Errorf("cidr: %w", err))
		}
	}
	if m.Port != "" {
		if rule.portMin, rule.portMax, err = parsePorts(m.Port); err != nil {
			errs = append(errs, fmt.Errorf("port: %w", err))
		}
	}
	if m.Protocol != "" {
		rule.hasProtocol = true
		if rule.protocol, err = flow.ParseProtocol(m.Protocol); err != nil {
			errs = append(errs, fmt.Errorf("protocol: %w", err))
		}
	}
	if rule.portMax > 0 && rule.hasProtocol && !rule.protocol.HasPorts() {
		errs = append(errs, fmt.Errorf("port: packets of protocol %s have none", rule.protocol))
	}
	return rule, errors.Join(errs...)
}

// parseNetwork reads a network or an address.
func parseNetwork(text string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(text); err == nil {
		if address.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q: zones are not possible", text)
		}
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither a network, such as 10.0.0.0/8, nor an address", text)
	}
	if network.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q: write it as an IPv4 network", text)
	}
	return network.Masked(), nil
}

func parsePorts(text string) (first, last uint16, err error) {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	a, errA := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
	b, errB := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
	if errA != nil || errB != nil || a < 1 || a > b {
		return 0, 0, fmt.Errorf("%q is neither a port from 1 to 65535 nor a range of them, such as 8000-8999", text)
	}
	return uint16(a), uint16(b), nil
}
