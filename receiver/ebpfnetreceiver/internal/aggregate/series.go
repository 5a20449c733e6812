// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"net/netip"
	"time"
	"unique"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// keepIdle is how long a series without packets keeps its place in the budget.
// It is over the five minutes after which the Prometheus exporter forgets a
// series, so that no exporter still holds one that starts anew.
const keepIdle = 10 * time.Minute

// SeriesKey identifies a series of the flow metrics: a flow without the
// client's port. The zero addresses stand for all flows that the budget had no
// room for.
type SeriesKey struct {
	Source      netip.Addr
	Destination netip.Addr
	// Interface and Direction are empty unless every interface counts for itself.
	Interface string
	Direction flow.Direction
	// TunnelID is VNI or key of the tunnel, where HasTunnelID.
	TunnelID    uint32
	HasTunnelID bool
	// Port is the server's, which is at Server; none where Server is flow.NoSide.
	Port     uint16
	Server   flow.Side
	Protocol flow.Protocol
	IPv6     bool
	// Ends is what else tells who the ends are; the zero value where nothing does, or
	// FlowSeries.Identify does not ask for it. Equal ones are told apart by a pointer: the
	// key stays small, and costs no more where it is not asked for.
	Ends unique.Handle[Ends]
}

// Ends is what tells, beside the addresses on the wire, who the ends of a series are.
type Ends struct {
	// NATSource and NATDestination are the addresses on the other side of a translation,
	// and NATPort is the server's port there; each only where address or port differ.
	NATSource, NATDestination netip.Addr
	NATPort                   uint16
	HasNATPort                bool
	// Translated: there is such a side. Original: the addresses on the wire are those that
	// the conversation was opened with.
	Translated, Original bool
	// SourceContainer and DestinationContainer are those of sockets on this machine.
	SourceContainer, DestinationContainer string
}

// noEnds is the handle of nothing known.
var noEnds unique.Handle[Ends]

// Known gives what is known of the ends.
func (k *SeriesKey) Known() Ends {
	if k.Ends == noEnds {
		return Ends{}
	}
	return k.Ends.Value()
}

// SeriesPoint is what a series gained from Start to the time of the Collect.
type SeriesPoint struct {
	SeriesKey
	flow.Volume
	Start time.Time
}

// FlowSeries folds flow records to series, of which there are at most as many
// as the budget says, and a few for what is over it.
type FlowSeries struct {
	// Identify has series tell who their ends are, also where that is more than addresses
	// say. Points then begin with their interval: who had an address is asked for the time
	// of the point.
	Identify bool

	budget       int
	perInterface bool
	series       map[SeriesKey]*series
	other        map[SeriesKey]*series
	// Folded counts what went to the series without addresses.
	Folded flow.Volume

	start time.Time // of the current interval
}

type series struct {
	pending flow.Volume
	start   time.Time // of the next point: the time of the one before
}

// NewFlowSeries begins the first interval at now. With perInterface each
// interface has series of its own.
func NewFlowSeries(budget int, perInterface bool, now time.Time) *FlowSeries {
	return &FlowSeries{budget: budget, perInterface: perInterface, series: map[SeriesKey]*series{}, other: map[SeriesKey]*series{}, start: now}
}

// Len is how many series there are.
func (f *FlowSeries) Len() int {
	return len(f.series) + len(f.other)
}

// Add adds a record to its series.
func (f *FlowSeries) Add(rec *flow.Record) {
	f.add(f.seriesKey(rec), rec.Estimate())
}

// addOne adds 1, in packets, to the series of a record, or to that of the other direction.
func (f *FlowSeries) addOne(rec *flow.Record, reverse bool) {
	key := f.seriesKey(rec)
	if reverse {
		key = key.reverse()
	}
	f.add(key, flow.Volume{Packets: 1})
}

// reverse gives the series of the packets in the other direction.
func (k SeriesKey) reverse() SeriesKey {
	k.Source, k.Destination = k.Destination, k.Source
	k.Server = k.Server.Opposite()
	if k.Ends != noEnds {
		ends := k.Ends.Value()
		ends.NATSource, ends.NATDestination = ends.NATDestination, ends.NATSource
		ends.SourceContainer, ends.DestinationContainer = ends.DestinationContainer, ends.SourceContainer
		k.Ends = unique.Make(ends)
	}
	return k
}

// endsOf gives what tells who the ends of a record are, whose server is at a side.
func endsOf(rec *flow.Record, server flow.Side) unique.Handle[Ends] {
	ends := Ends{SourceContainer: rec.SourceContainer, DestinationContainer: rec.DestinationContainer}
	if rec.NAT != nil {
		ends.translate(rec, server)
	}
	if ends == (Ends{}) {
		return noEnds
	}
	return unique.Make(ends)
}

// translate notes what differs on the other side of a record's translation. Ports are
// only the server's, as in the series.
func (e *Ends) translate(rec *flow.Record, server flow.Side) {
	other := &rec.NAT.Other
	e.Translated, e.Original = true, rec.NAT.Original == rec.Tuple()
	atSource := server == flow.SourceSide && other.SourcePort != rec.SourcePort
	if atSource || other.Source != rec.Source {
		e.NATSource = other.Source
	}
	atDestination := server == flow.DestinationSide && other.DestinationPort != rec.DestinationPort
	if atDestination || other.Destination != rec.Destination {
		e.NATDestination = other.Destination
	}
	switch {
	case server == flow.SourceSide && e.NATSource.IsValid():
		e.NATPort, e.HasNATPort = other.SourcePort, true
	case server == flow.DestinationSide && e.NATDestination.IsValid():
		e.NATPort, e.HasNATPort = other.DestinationPort, true
	}
}

func (f *FlowSeries) add(key SeriesKey, volume flow.Volume) {
	into := f.series
	if _, ok := into[key]; !ok && len(into) >= f.budget {
		into = f.other
		key = SeriesKey{Interface: key.Interface, Direction: key.Direction, Protocol: key.Protocol, IPv6: key.IPv6}
		f.Folded.Add(volume)
	}
	s := into[key]
	if s == nil {
		s = &series{start: f.start}
		into[key] = s
	}
	if f.Identify && s.pending == (flow.Volume{}) {
		s.start = f.start
	}
	s.pending.Add(volume)
}

func (f *FlowSeries) seriesKey(rec *flow.Record) SeriesKey {
	key := SeriesKey{
		Source:      rec.Source,
		Destination: rec.Destination,
		Protocol:    rec.Protocol,
		IPv6:        rec.Source.Is6(),
	}
	if f.perInterface {
		key.Interface, key.Direction = rec.Interface, rec.Direction
	}
	if t := rec.Tunnel; t != nil && t.HasID {
		key.TunnelID, key.HasTunnelID = t.ID, true
	}
	switch initiator, _ := rec.Initiator(); initiator {
	case flow.SourceSide:
		key.Server, key.Port = flow.DestinationSide, rec.DestinationPort
	case flow.DestinationSide:
		key.Server, key.Port = flow.SourceSide, rec.SourcePort
	case flow.NoSide:
	}
	if f.Identify {
		key.Ends = endsOf(rec, key.Server)
	}
	return key
}

// Collect ends the interval at now and hands out what each series gained. A
// point starts where the series' last one ended, also over intervals without
// packets: receivers of deltas take a gap for a restart. With Identify it starts with the
// interval of its first packets.
func (f *FlowSeries) Collect(now time.Time, yield func(SeriesPoint)) {
	for _, all := range []map[SeriesKey]*series{f.series, f.other} {
		for key, s := range all {
			if s.pending == (flow.Volume{}) {
				if now.Sub(s.start) > keepIdle {
					delete(all, key)
				}
				continue
			}
			yield(SeriesPoint{SeriesKey: key, Volume: s.pending, Start: s.start})
			s.pending, s.start = flow.Volume{}, now
		}
	}
	f.start = now
}

// Restore puts back points of the last Collect that could not be handed on; the
// next one hands them out again, with what was gained since.
func (f *FlowSeries) Restore(points []SeriesPoint) {
	for _, p := range points {
		all := f.series
		if !p.Source.IsValid() {
			all = f.other
		}
		s := all[p.SeriesKey]
		if s == nil {
			continue // cannot be: Collect keeps the series that it hands out
		}
		s.pending.Add(p.Volume)
		s.start = p.Start
	}
}
