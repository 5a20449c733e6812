// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

func TestFlowsFilter(t *testing.T) {
	cfg := FlowsConfig{
		Include: []FlowMatch{{CIDR: "10.0.0.0/8", Port: "8000-8999"}, {Protocol: "udp"}},
		Exclude: []FlowMatch{{CIDR: "2001:db8::1", Port: "53", Protocol: "17"}},
	}
	require.Equal(t, []probe.FilterRule{
		{Network: netip.MustParsePrefix("10.0.0.0/8"), PortMin: 8000, PortMax: 8999},
		{Protocol: flow.UDP, HasProtocol: true},
		{Network: netip.MustParsePrefix("2001:db8::1/128"), PortMin: 53, PortMax: 53, Protocol: flow.UDP, HasProtocol: true, Exclude: true},
	}, cfg.filter())
	require.Empty(t, (&FlowsConfig{}).filter())
}

// What a configuration may have, the programs have room for.
func TestLimitsAreTheProbes(t *testing.T) {
	require.Equal(t, probe.MaxFilterRules, maxFlowMatches)
	require.Equal(t, probe.MaxTunnelPorts, maxTunnelPorts)
}
