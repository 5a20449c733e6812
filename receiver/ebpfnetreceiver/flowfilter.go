// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"

// filter gives the matches as the programs take them. They were validated.
func (cfg *FlowsConfig) filter() []probe.FilterRule {
	var rules []probe.FilterRule
	add := func(matches []FlowMatch, exclude bool) {
		for i := range matches {
			rule, err := matches[i].parse()
			if err != nil {
				continue // cannot be: validate refuses it
			}
			rules = append(rules, probe.FilterRule{
				Network: rule.network, PortMin: rule.portMin, PortMax: rule.portMax,
				Protocol: rule.protocol, HasProtocol: rule.hasProtocol, Exclude: exclude,
			})
		}
	}
	add(cfg.Include, false)
	add(cfg.Exclude, true)
	return rules
}
