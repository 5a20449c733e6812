// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netfilter"
)

// netfilterProber is what a session needs of the probe at netfilter's hooks.
type netfilterProber interface {
	Counters() ([]netfilter.Count, error)
	Evicted() (uint64, error)
	MapBytes() uint64
	Close() error
}

// openNetfilter begins to count at netfilter's hooks, as far as the kernel lets it.
func (s *session) openNetfilter() {
	if s.cfg.Netfilter.Mode == "off" {
		return
	}
	p, err := netfilter.Load()
	s.features.add(featureNetfilter, err)
	if err != nil {
		s.logger.Warn("Nothing is counted at netfilter's hooks; to do without it, set netfilter::mode to off", zap.Error(err))
		return
	}
	s.netfilter = p
	addFeatures(s.features, featureNetfilter, netfilterFeatures(p.Features()))
	for _, f := range p.Features() {
		if f.Err != nil {
			s.logger.Warn("A part of netfilter is not counted", zap.String("part", f.Name), zap.Error(f.Err))
		}
		if f.Name == netfilter.Drops {
			s.netfilterDrops = f.Err == nil
		}
	}
}

func (s *session) closeNetfilter() error {
	if s.netfilter == nil {
		return nil
	}
	p := s.netfilter
	s.netfilter = nil
	return p.Close()
}

// readNetfilter gives what the hooks have counted.
func (s *session) readNetfilter() []netfilter.Count {
	if s.netfilter == nil {
		return nil
	}
	counts, err := s.netfilter.Counters()
	if err != nil {
		s.logger.Error("Could not read the counters of netfilter's hooks", zap.Error(err))
	}
	return counts
}

// recordNetfilterHealth records how many packets have lost their note.
func (s *session) recordNetfilterHealth(ctx context.Context) {
	if s.netfilter == nil {
		return
	}
	evicted, err := s.netfilter.Evicted()
	if err != nil {
		s.logger.Error("Could not read how many packets at netfilter's hooks lost their note", zap.Error(err))
		return
	}
	s.telemetry.netfilter(ctx, evicted)
}

var netfilterHooks = map[netfilter.Hook]metadata.AttributeNetprobeNetfilterHook{
	netfilter.Prerouting:  metadata.AttributeNetprobeNetfilterHookPrerouting,
	netfilter.LocalIn:     metadata.AttributeNetprobeNetfilterHookLocalIn,
	netfilter.Forward:     metadata.AttributeNetprobeNetfilterHookForward,
	netfilter.LocalOut:    metadata.AttributeNetprobeNetfilterHookLocalOut,
	netfilter.Postrouting: metadata.AttributeNetprobeNetfilterHookPostrouting,
}

// recordNetfilter records what a hook counted; drops says whether it counts those.
func (m *metricsSink) recordNetfilter(at pcommon.Timestamp, c *netfilter.Count, drops bool) {
	version := metadata.AttributeNetworkTypeIpv4
	if c.IPv6 {
		version = metadata.AttributeNetworkTypeIpv6
	}
	outcomes := map[metadata.AttributeNetprobeNetfilterOutcome]flow.Volume{metadata.AttributeNetprobeNetfilterOutcomeSeen: c.Seen}
	if drops {
		outcomes[metadata.AttributeNetprobeNetfilterOutcomeDropped] = c.Dropped
	}
	for outcome, v := range outcomes {
		m.builder.RecordNetprobeNetfilterPacketsDataPoint(at, int64(v.Packets), netfilterHooks[c.Hook], version, outcome)
		m.builder.RecordNetprobeNetfilterBytesDataPoint(at, int64(v.Bytes), netfilterHooks[c.Hook], version, outcome)
	}
}
