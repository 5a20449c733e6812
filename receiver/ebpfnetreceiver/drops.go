// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/drops"
)

// openDrops begins to count what the kernel drops, as far as it lets us.
func (s *session) openDrops() {
	if s.cfg.Drops.Mode == "off" {
		return
	}
	p, err := drops.Load(drops.Options{MaxEntries: uint32(s.cfg.Drops.MaxEntries), MaxFlows: uint32(s.cfg.Drops.MaxFlows)})
	if err != nil {
		s.logger.Warn("Nothing that the kernel drops is counted; to do without it, set drops::mode to off", zap.Error(err))
		return
	}
	s.drops, s.dropNames = p, map[uint32]string{}
}

func (s *session) closeDrops() error {
	if s.drops == nil {
		return nil
	}
	p := s.drops
	s.drops = nil
	return p.Close()
}

// readDrops gives what was dropped: by key since the beginning, and by flow since
// the last reading.
func (s *session) readDrops() (points []convert.DropPoint, events []convert.DropEvent) {
	if s.drops == nil {
		return nil, nil
	}
	counts, flows, err := s.drops.Collect()
	if err != nil {
		s.logger.Error("Could not read all that was dropped; the rest stays for the next interval", zap.Error(err))
	}
	// Indexes that have no name are one key.
	totals := map[convert.DropKey]uint64{}
	for i := range counts {
		totals[s.dropKey(&counts[i].Key)] += counts[i].Packets
	}
	for key, packets := range totals {
		points = append(points, convert.DropPoint{DropKey: key, Packets: packets})
	}
	for i := range flows {
		f := &flows[i]
		events = append(events, convert.DropEvent{
			DropKey: s.dropKey(&f.Key), Packets: f.Packets, First: f.First,
			Key: flow.Key{
				Source: f.Tuple.Source, Destination: f.Tuple.Destination, Has: f.Has,
				SourcePort: f.Tuple.SourcePort, DestinationPort: f.Tuple.DestinationPort, Protocol: f.Tuple.Protocol,
			},
		})
	}
	return points, events
}

// dropKey names what a key has by number. The name that an interface had first
// stays its drops' when it is renamed or gone, so that no series goes back.
func (s *session) dropKey(k *drops.Key) convert.DropKey {
	key := convert.DropKey{Reason: k.Reason, Direction: k.Direction.String()}
	if k.IPVersion != 0 {
		key.Transport = k.Protocol.String()
	}
	name, known := s.dropNames[k.InterfaceIndex]
	if !known {
		name = s.watched.links[int(k.InterfaceIndex)].Name
		s.dropNames[k.InterfaceIndex] = name
	}
	key.Interface = name
	return key
}
