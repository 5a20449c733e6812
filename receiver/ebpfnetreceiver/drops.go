// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/drops"
)

// dropProber is what a session needs of the probe of drops.
type dropProber interface {
	Collect() ([]drops.Count, []drops.FlowDrop, error)
	Forget(gone func(interfaceIndex uint32) bool) ([]drops.Count, error)
	Health() (drops.Health, error)
	Close() error
}

// openDrops begins to count what the kernel drops, as far as it lets us.
func (s *session) openDrops() {
	if s.cfg.Drops.Mode == "off" {
		return
	}
	p, err := drops.Load(s.dropOptions())
	s.features.add(featureDrops, err)
	if err != nil {
		s.logger.Warn("Nothing that the kernel drops is counted; to do without it, set drops::mode to off", zap.Error(err))
		return
	}
	addFeatures(s.features, featureDrops, dropFeatures(p.Features()))
	s.useDrops(p)
}

func (s *session) dropOptions() drops.Options {
	return drops.Options{MaxEntries: uint32(s.cfg.Drops.MaxEntries), MaxFlows: uint32(s.cfg.Drops.MaxFlows)}
}

func (s *session) useDrops(p dropProber) {
	s.drops, s.dropNames, s.dropTotals = p, map[uint32]string{}, newDropTotals(s.cfg.Drops.MaxEntries)
}

func (s *session) closeDrops() error {
	if s.drops == nil {
		return nil
	}
	p := s.drops
	s.drops = nil
	return p.Close()
}

// droppedNow is what one reading of the probe gave.
type droppedNow struct {
	counts []drops.Count
	flows  []drops.FlowDrop
	err    error
}

// collectDrops reads the probe in the background. The probe must not be used before
// what it gave is taken.
func (s *session) collectDrops() <-chan droppedNow {
	p, out := s.drops, make(chan droppedNow, 1)
	if p == nil {
		out <- droppedNow{}
		return out
	}
	go func() {
		var d droppedNow
		d.counts, d.flows, d.err = p.Collect()
		out <- d
	}()
	return out
}

// readDrops gives what was dropped: by key since the beginning, and by flow since
// the last reading.
func (s *session) readDrops(w *window, d droppedNow) {
	if s.drops == nil {
		return
	}
	counts, flows, err := d.counts, d.flows, d.err
	if err != nil {
		s.logger.Error("Could not read all that was dropped; the rest stays for the next interval", zap.Error(err))
	}
	// Indexes that have the same name are one key, and those that have none.
	totals := map[convert.DropKey]uint64{}
	for i := range counts {
		totals[s.dropKey(&counts[i].Key)] += counts[i].Packets
	}
	// An error leaves none of them, and not some.
	if err == nil || len(counts) > 0 {
		w.drops = s.dropTotals.collect(totals, w.start, w.end)
	}
	for i := range flows {
		f := &flows[i]
		w.events = append(w.events, convert.DropEvent{
			DropKey: s.dropKey(&f.Key), Packets: f.Packets, First: f.First,
			Key: flow.Key{
				Source: f.Tuple.Source, Destination: f.Tuple.Destination, Has: f.Has,
				SourcePort: f.Tuple.SourcePort, DestinationPort: f.Tuple.DestinationPort, Protocol: f.Tuple.Protocol,
			},
		})
	}
}

// recordDrops records what was dropped and not counted.
func (s *session) recordDrops(ctx context.Context) {
	if s.drops == nil {
		return
	}
	health, err := s.drops.Health()
	if err != nil {
		s.logger.Error("Could not read how many drops were not counted", zap.Error(err))
		return
	}
	s.telemetry.drops(ctx, health)
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

// forgetDrops makes room in the kernel's counts, which else fill up with interfaces
// that are gone: every pod has one. What they had is kept in the totals.
func (s *session) forgetDrops(from, now time.Time) {
	if s.drops == nil {
		return
	}
	gone := func(index uint32) bool {
		_, there := s.watched.links[int(index)]
		return index != 0 && !there
	}
	var old []uint32
	for index := range s.dropNames {
		if gone(index) {
			old = append(old, index)
		}
	}
	if len(old) == 0 {
		return
	}
	last, err := s.drops.Forget(gone)
	for i := range last {
		s.dropTotals.keep(s.dropKey(&last[i].Key), last[i].Packets, from, now)
	}
	if err != nil {
		s.logger.Error("Could not forget the drops of interfaces that are gone; trying again at the next interval", zap.Error(err))
		return
	}
	for _, index := range old {
		delete(s.dropNames, index)
	}
}
