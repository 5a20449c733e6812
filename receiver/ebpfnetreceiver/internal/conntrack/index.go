// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"time"
)

// maxClaims bounds how many connections one pair of ends can have in the index,
// and so how long an event or a lookup takes. Only pings and protocols without
// ports come near it; a pair that reaches it is not found.
const maxClaims = 256

// none is the slot of no record.
const none int32 = -1

// connection is what the kernel says of one.
type connection struct {
	original key // as its first packet came
	reply    key // as the answers to it come
	// id is unique among the connections that are there. The kernel gives the
	// same again to a later connection.
	id   uint32
	zone uint16
}

func (c *connection) translated() bool { return c.reply != c.original.reverse() }

// twisted says that a packet's tuple does not tell its direction: one end talks
// to itself, or both ends were swapped by the translation.
func (c *connection) twisted() bool {
	return c.original == c.original.reverse() || c.reply == c.reply.reverse() || c.original == c.reply
}

// record is a connection in the index. It has no pointers: slots take their place.
type record struct {
	connection
	// older is the next claimant of the two ends of the original tuple, and of
	// those of the reply.
	older [2]int32
	// linked says which of the two lists the record is in.
	linked [2]bool
	// alive: the kernel has it, as far as is known.
	alive bool
	// generation of the last dump that it was in.
	generation uint32
	nextGone   int32
	goneAt     time.Duration
}

// index finds connections by any of the four tuples that their packets have:
// original and reply, each before and after translation. Two of these are the
// reverse of the other two, so two entries in heads find all four.
//
// Times are since any moment, the same for all calls. It is not safe for
// concurrent use.
type index struct {
	max      int
	keepGone time.Duration

	heads   map[key]int32 // by canonical tuple, the newest claimant
	records []record
	free    []int32
	// the records that are gone, oldest first
	firstGone, lastGone int32

	live, gone int
	generation uint32

	dropped uint64 // connections for which there was no room
	crowded uint64 // connections of a pair that has maxClaims already
	evicted uint64 // connections forgotten sooner than keepGone for want of room
}

func newIndex(maxEntries int, keepGone time.Duration) *index {
	return &index{
		max:       maxEntries,
		keepGone:  keepGone,
		heads:     make(map[key]int32),
		firstGone: none,
		lastGone:  none,
	}
}

// add takes a connection that is there now.
func (x *index) add(c *connection, now time.Duration) {
	if hasPorts(c.original.protocol) {
		x.displace(c, now)
	}
	if !x.worthKeeping(c) {
		return
	}
	same, claims := x.findOrSupersede(c)
	switch {
	case same != none && x.records[same].alive && x.records[same].reply == c.reply:
		x.records[same].generation = x.generation
		return
	case same != none:
		x.end(same, now)
		x.unlink(same)
	}
	if claims >= maxClaims {
		x.crowded++
		return
	}
	slot, ok := x.alloc()
	if !ok {
		x.dropped++
		return
	}
	x.records[slot] = record{connection: *c, alive: true, generation: x.generation, nextGone: none}
	x.live++
	x.link(slot, 0)
	if c.translated() {
		x.link(slot, 1)
	}
}

// worthKeeping is true for what is translated. Without ports, what is not has
// to be known too: its packets look like those of another that is.
func (x *index) worthKeeping(c *connection) bool {
	return (c.translated() || !hasPorts(c.original.protocol)) && !c.twisted()
}

// remove takes a connection that is no more. It is found until keepGone later.
func (x *index) remove(c *connection, now time.Duration) {
	slot := x.find(c)
	if slot != none && x.records[slot].alive {
		x.end(slot, now)
	}
}

// beginDump announces that every connection that is there is about to be added.
func (x *index) beginDump() { x.generation++ }

// endDump ends those that were not.
func (x *index) endDump(now time.Duration) {
	for i := range x.records {
		if r := &x.records[i]; r.alive && r.generation != x.generation {
			x.end(int32(i), now)
		}
	}
}

// expire forgets what is gone for keepGone.
func (x *index) expire(now time.Duration) {
	for x.firstGone != none && now-x.records[x.firstGone].goneAt >= x.keepGone {
		x.release()
	}
}

// lookup finds the translation of a packet with that tuple.
func (x *index) lookup(k *key) (Translation, bool) {
	canonical := k.canonical()
	slot, ok := x.heads[canonical]
	if !ok {
		return Translation{}, false
	}
	best := &x.records[slot]
	other, reply := best.otherSide(k)
	slot = best.older[best.side(&canonical)]
	claims := 1
	for ; slot != none; claims++ {
		r := &x.records[slot]
		slot = r.older[r.side(&canonical)]
		rOther, rReply := r.otherSide(k)
		agree := rOther == other && rReply == reply
		switch {
		case agree:
		case !hasPorts(k.protocol):
			return Translation{}, false
		case best.alive && r.alive:
			return Translation{}, false
		case r.alive:
			best, other, reply = r, rOther, rReply
		}
	}
	// A full list may lack the one that differs.
	if other == *k || claims >= maxClaims {
		return Translation{}, false
	}
	return best.translation(k, &other, reply), true
}

func (r *record) translation(k, other *key, reply bool) Translation {
	t := Translation{Other: other.tuple(), Reply: reply}
	t.Original = t.Other
	if *k == r.original || reply && k.reverse() == r.original {
		t.Original = k.tuple()
	}
	return t
}

// otherSide gives the tuple that the packet has on the other side: the same one
// where the connection is not translated.
func (r *record) otherSide(k *key) (other key, reply bool) {
	switch *k {
	case r.original:
		return r.reply.reverse(), false
	case r.reply:
		return r.original.reverse(), true
	}
	if k.reverse() == r.original {
		return r.reply, true
	}
	return r.original, false
}

// side says in which of its two lists a record was met.
func (r *record) side(canonical *key) int {
	if r.original.canonical() == *canonical {
		return 0
	}
	return 1
}

// find gives the slot of the record of this very connection.
func (x *index) find(c *connection) int32 {
	canonical := c.original.canonical()
	for slot := x.head(&canonical); slot != none; {
		r := &x.records[slot]
		if r.id == c.id && r.zone == c.zone && r.original == c.original {
			return slot
		}
		slot = r.older[r.side(&canonical)]
	}
	return none
}

// findOrSupersede is find, counts the claimants met, and takes those out that
// are gone and say the same as c: or else every ping would leave one.
func (x *index) findOrSupersede(c *connection) (same int32, claims int) {
	same = none
	canonical := c.original.canonical()
	for slot := x.head(&canonical); slot != none; {
		r := &x.records[slot]
		next := r.older[r.side(&canonical)]
		switch {
		case r.id == c.id && r.zone == c.zone && r.original == c.original:
			same = slot
		case !r.alive && r.original == c.original && r.reply == c.reply:
			x.unlink(slot)
		default:
			claims++
		}
		slot = next
	}
	canonical = c.reply.canonical()
	return same, max(claims, x.claims(&canonical))
}

func (x *index) claims(canonical *key) int {
	n := 0
	for slot := x.head(canonical); slot != none; n++ {
		r := &x.records[slot]
		slot = r.older[r.side(canonical)]
	}
	return n
}

// displace takes out those who cannot be there any more since c is: the kernel
// has a tuple once, so who claims one of c's in the same zone has ended unseen.
func (x *index) displace(c *connection, now time.Duration) {
	for _, canonical := range [2]key{c.original.canonical(), c.reply.canonical()} {
		for slot := x.head(&canonical); slot != none; {
			r := &x.records[slot]
			next := r.older[r.side(&canonical)]
			self := r.id == c.id && r.original == c.original && r.reply == c.reply
			if r.zone == c.zone && !self && r.shares(c) {
				if r.alive {
					x.end(slot, now)
				}
				x.unlink(slot)
			}
			slot = next
		}
	}
}

func (r *record) shares(c *connection) bool {
	return r.original == c.original || r.original == c.reply || r.reply == c.original || r.reply == c.reply
}

func (x *index) head(canonical *key) int32 {
	if slot, ok := x.heads[*canonical]; ok {
		return slot
	}
	return none
}

// end marks a record as gone.
func (x *index) end(slot int32, now time.Duration) {
	r := &x.records[slot]
	if !r.alive {
		return
	}
	r.alive, r.goneAt, r.nextGone = false, now, none
	if x.lastGone == none {
		x.firstGone = slot
	} else {
		x.records[x.lastGone].nextGone = slot
	}
	x.lastGone = slot
	x.live--
	x.gone++
}

// release forgets the record that is gone for longest.
func (x *index) release() {
	slot := x.firstGone
	x.firstGone = x.records[slot].nextGone
	if x.firstGone == none {
		x.lastGone = none
	}
	x.unlink(slot)
	x.free = append(x.free, slot)
	x.gone--
}

// alloc gives an unused slot. What is gone makes room for what is there.
func (x *index) alloc() (int32, bool) {
	if x.live+x.gone >= x.max {
		if x.firstGone == none {
			return none, false
		}
		x.release()
		x.evicted++
	}
	if n := len(x.free); n > 0 {
		slot := x.free[n-1]
		x.free = x.free[:n-1]
		return slot, true
	}
	x.records = append(x.records, record{})
	return int32(len(x.records) - 1), true
}

func (x *index) link(slot int32, side int) {
	r := &x.records[slot]
	canonical := r.claimed(side)
	r.older[side] = x.head(&canonical)
	r.linked[side] = true
	if side == 0 && !r.translated() {
		r.older[1] = none
	}
	x.heads[canonical] = slot
}

func (x *index) unlink(slot int32) {
	for side, linked := range x.records[slot].linked {
		if linked {
			x.unlinkSide(slot, side)
		}
	}
}

func (x *index) unlinkSide(slot int32, side int) {
	r := &x.records[slot]
	r.linked[side] = false
	canonical, next := r.claimed(side), r.older[side]
	at := x.heads[canonical]
	switch {
	case at == slot && next == none:
		delete(x.heads, canonical)
		return
	case at == slot:
		x.heads[canonical] = next
		return
	}
	for {
		before := &x.records[at]
		link := &before.older[before.side(&canonical)]
		if *link == slot {
			*link = next
			return
		}
		at = *link
	}
}

func (r *record) claimed(side int) key {
	if side == 0 {
		return r.original.canonical()
	}
	return r.reply.canonical()
}
