// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package join puts together what several interfaces, and the tables of the
// kernel, know of one flow: of the interfaces that a packet crosses one counts
// it, the tuples before and after a translation are one conversation, and who
// opened that is remembered. It knows nothing of eBPF or pdata.
package join // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/join"

import (
	"slices"
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// Owners says which of the interfaces that see a packet counts it.
type Owners interface {
	// Owns says whether the packets of a flow are counted where the key says.
	Owns(key *flow.Key) bool
	// OwnsOuter says whether the frames of a tunnel are.
	OwnsOuter(key *flow.Key) bool
}

// Translations knows the translated conversations of this machine.
type Translations interface {
	// Lookup gives the translation of packets with this tuple. Of ICMP, whose
	// ports are type and code, only the addresses of the answer count.
	Lookup(flow.Tuple) (flow.NAT, bool)
}

// Listeners knows the sockets of this machine that wait for others to begin.
type Listeners interface {
	Listening(flow.Tuple) bool // at the destination
}

// Joiner joins the records of one interval after the other.
type Joiner struct {
	// Owners is nil where every interface counts for itself.
	Owners Owners
	// Translations and Listeners may be nil.
	Translations Translations
	Listeners    Listeners

	memory *memory

	// reused
	owned []bool
	noted map[flight]int32 // the first record of a flight that is not owned
	next  []int32          // by record, the next one of the same flight, or -1
	keys  []flight
}

// flight is the same packets wherever they are seen.
type flight struct {
	tuple    flow.Tuple // as the conversation was opened
	fragment bool
}

// New gives a Joiner that remembers so many conversations.
func New(remember int) *Joiner {
	return &Joiner{memory: newMemory(remember), noted: map[flight]int32{}}
}

// Join completes the records that are counted, and moves them to the front. The
// others are what their interfaces noted of packets that another one counts.
func (j *Joiner) Join(records []flow.Record, now time.Time) (counted, noted []flow.Record) {
	j.begin(len(records))
	for i := range records {
		rec := &records[i]
		j.translate(rec)
		j.keys[i] = flightOf(rec)
		j.owned[i] = j.Owners == nil || j.Owners.Owns(&rec.Key)
		if !j.owned[i] {
			j.note(i)
		}
	}
	j.memory.age(now)
	for i := range records {
		j.learn(&records[i], &j.keys[i])
	}
	for i := range records {
		if j.owned[i] {
			j.complete(records, i)
		}
	}
	return j.partition(records)
}

func (j *Joiner) begin(n int) {
	clear(j.noted)
	j.owned = slices.Grow(j.owned[:0], n)[:n]
	j.next = slices.Grow(j.next[:0], n)[:n]
	j.keys = slices.Grow(j.keys[:0], n)[:n]
}

func flightOf(rec *flow.Record) flight {
	f := flight{tuple: rec.Tuple(), fragment: rec.Has&flow.IsFragment != 0}
	if rec.NAT != nil {
		f.tuple = rec.NAT.Original
	}
	return f
}

// note remembers that a record that is not counted belongs to a flight.
func (j *Joiner) note(i int) {
	j.next[i] = -1
	if first, ok := j.noted[j.keys[i]]; ok {
		j.next[i] = first
	}
	j.noted[j.keys[i]] = int32(i)
}

// translate looks up the other side of a translation. Later fragments have no
// ports to look up.
func (j *Joiner) translate(rec *flow.Record) {
	if j.Translations == nil || rec.Has&flow.IsTunnel != 0 {
		return
	}
	tuple := rec.Tuple()
	if rec.Has&flow.HasPorts == 0 && rec.Has&flow.IsFragment != 0 {
		return
	}
	nat, ok := j.Translations.Lookup(tuple)
	if !ok {
		return
	}
	if rec.Protocol.IsICMP() {
		for _, t := range []*flow.Tuple{&nat.Other, &nat.Original} {
			t.SourcePort, t.DestinationPort = rec.SourcePort, rec.DestinationPort
		}
	}
	rec.NAT = &nat
}

// learn remembers what a record tells of its conversation beyond this interval.
func (j *Joiner) learn(rec *flow.Record, key *flight) {
	if !rec.HasTransportPorts() {
		return
	}
	handshake := rec.Handshake()
	tunnelled := rec.Has&flow.InTunnel != 0
	if handshake == flow.NoSide && !tunnelled {
		return
	}
	c, forward := j.memory.put(key.tuple)
	if handshake != flow.NoSide {
		c.opener = side(handshake, forward)
	}
	if tunnelled {
		*c.tunnel(forward) = rec.Tunnel
	}
}

// complete adds to a counted record what others know of it.
func (j *Joiner) complete(records []flow.Record, i int) {
	rec := &records[i]
	if at, ok := j.noted[j.keys[i]]; ok {
		for ; at >= 0; at = j.next[at] {
			other := &records[at]
			if other.Interface != "" && other.Interface != rec.Interface && !slices.Contains(rec.Others, other.Interface) {
				rec.Others = append(rec.Others, other.Interface)
			}
			if rec.Tunnel == nil && other.Has&flow.InTunnel != 0 {
				rec.Tunnel = other.Tunnel
				rec.Has |= other.Has & flow.IsNested
			}
		}
		slices.Sort(rec.Others)
	}
	if !rec.HasTransportPorts() {
		return
	}
	j.recall(rec, &j.keys[i])
}

// recall adds what is remembered of a record's conversation.
func (j *Joiner) recall(rec *flow.Record, key *flight) {
	c, forward := j.memory.get(key.tuple)
	if c != nil && rec.Tunnel == nil && j.Owners != nil {
		rec.Tunnel = *c.tunnel(forward)
	}
	if handshake := rec.Handshake(); handshake != flow.NoSide {
		rec.Opener, rec.OpenerEvidence = handshake, flow.EvidenceSYN
		return
	}
	if c != nil && c.opener != flow.NoSide {
		rec.Opener, rec.OpenerEvidence = side(c.opener, forward), flow.EvidenceSYN
		return
	}
	if listener := j.listener(rec); listener != flow.NoSide {
		rec.Opener, rec.OpenerEvidence = listener.Opposite(), flow.EvidenceListener
		return
	}
	if rec.NAT != nil {
		// The kernel knows; that it saw the first packet, it does not say.
		rec.Opener, rec.OpenerEvidence = flow.SourceSide, flow.EvidenceHeuristic
		if rec.NAT.Reply {
			rec.Opener = flow.DestinationSide
		}
	}
}

// listener gives the end that waits for the other to begin. Where both do, as
// peers do, that tells nothing, and each direction would have the other open it.
func (j *Joiner) listener(rec *flow.Record) flow.Side {
	destination := j.listening(rec.Tuple(), rec.NAT)
	source := j.listening(rec.Tuple().Reverse(), rec.NAT.Reverse())
	switch {
	case destination == source:
		return flow.NoSide
	case destination:
		return flow.DestinationSide
	default:
		return flow.SourceSide
	}
}

// listening says whether the destination of packets waits for others to begin,
// on either side of a translation.
func (j *Joiner) listening(tuple flow.Tuple, nat *flow.NAT) bool {
	if j.Listeners == nil {
		return false
	}
	return j.Listeners.Listening(tuple) || nat != nil && j.Listeners.Listening(nat.Other)
}

// side turns a side of a tuple into that of a conversation and back.
func side(s flow.Side, forward bool) flow.Side {
	if forward {
		return s
	}
	return s.Opposite()
}

// partition moves the records that are counted to the front.
func (j *Joiner) partition(records []flow.Record) (counted, noted []flow.Record) {
	n := 0
	for i := range records {
		if j.owned[i] {
			records[n], records[i] = records[i], records[n]
			n++
		}
	}
	return records[:n], records[n:]
}
