// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"

	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/conntrack"
)

// openNAT begins to follow translated connections. Without them flows are
// counted all the same, each side of a translation on its own.
func (s *session) openNAT() {
	if !s.cfg.flowsEnabled() || s.cfg.Flows.NAT == "off" || s.cfg.Flows.PerInterface {
		return
	}
	table, err := conntrack.Open(conntrack.Options{Logger: s.logger})
	s.features.add(featureNAT, err)
	if err != nil {
		s.logger.Warn("Translated connections are not joined; to do without them, set flows::nat to off", zap.Error(err))
		return
	}
	s.nat = table
	s.joiner.Translations = translations{table}
}

func (s *session) closeNAT() error {
	if s.nat == nil {
		return nil
	}
	table := s.nat
	s.nat = nil
	return table.Close()
}

// refreshNAT makes the translations fit the flows that are about to be joined.
func (s *session) refreshNAT(ctx context.Context) {
	if s.nat == nil {
		return
	}
	if err := s.nat.Refresh(); err != nil {
		s.logger.Warn("Could not read translated connections; trying again at the next interval", zap.Error(err))
	}
	s.telemetry.nat(ctx, s.nat.Stats())
}

// translations asks the table of the kernel's connection tracking.
type translations struct{ table *conntrack.Table }

// Lookup implements join.Translations.
func (t translations) Lookup(tuple flow.Tuple) (flow.NAT, bool) {
	asked, ok := conntrack.TupleOf(&flow.Key{
		Source: tuple.Source, Destination: tuple.Destination,
		SourcePort: tuple.SourcePort, DestinationPort: tuple.DestinationPort,
		Protocol: tuple.Protocol, Has: flow.HasPorts,
	})
	if !ok {
		return flow.NAT{}, false
	}
	found, ok := t.table.Lookup(asked)
	if !ok {
		return flow.NAT{}, false
	}
	return flow.NAT{Other: flow.Tuple(found.Other), Original: flow.Tuple(found.Original), Reply: found.Reply}, true
}
