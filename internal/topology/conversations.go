// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"time"
)

// conversations remembers those that were seen lately, so that each counts once and both
// its directions find the same edge. It has two generations: when the younger is full or
// old, it becomes the older, and what was in that only is forgotten.
type conversations struct {
	seed   maphash.Seed
	shards [shardCount]conversationShard
	aged   time.Time // by one goroutine
	// max of each generation of a shard
	max int
}

type conversationShard struct {
	mu         sync.Mutex // guards what follows
	young, old map[uint64]orientation
}

// orientation is which end opened: the one whose address and port are lower, or the other.
type orientation uint8

const (
	lowerOpened orientation = iota
	higherOpened
	// guessed: nobody said who opened, it was who was seen first.
	guessed orientation = 2
)

func newConversations(limit int) *conversations {
	c := &conversations{seed: maphash.MakeSeed(), max: max(limit/shardCount/2, 1)}
	for i := range c.shards {
		c.shards[i].young = map[uint64]orientation{}
	}
	return c
}

// key hashes what both directions of a conversation have alike. Two in a billion billion
// are taken for one.
func (c *conversations) key(r *Record) uint64 {
	var h maphash.Hash
	h.SetSeed(c.seed)
	if r.CommunityID != "" {
		_, _ = h.WriteString(r.CommunityID)
		return h.Sum64()
	}
	a, b := &r.Source, &r.Destination
	if higher(a, b) {
		a, b = b, a
	}
	for _, e := range [...]*End{a, b} {
		addr := e.Addr.As16()
		_, _ = h.Write(addr[:])
		var port [2]byte
		binary.BigEndian.PutUint16(port[:], e.Port)
		_, _ = h.Write(port[:])
	}
	_, _ = h.WriteString(r.Transport)
	return h.Sum64()
}

func higher(a, b *End) bool {
	if order := a.Addr.Compare(b.Addr); order != 0 {
		return order > 0
	}
	return a.Port > b.Port
}

// see says whether the record's source is the end that opened its conversation, and
// whether that had not been seen.
func (c *conversations) see(r *Record) (forward, first bool) {
	key := c.key(r)
	sourceHigher := higher(&r.Source, &r.Destination)
	shard := &c.shards[key%shardCount]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	have, known := shard.young[key]
	if !known {
		if have, known = shard.old[key]; known {
			shard.put(key, have, c.max)
		}
	}
	if r.Initiator != NoSide {
		now := lowerOpened
		if (r.Initiator == SourceSide) == sourceHigher {
			now = higherOpened
		}
		if !known || have != now {
			shard.put(key, now, c.max)
		}
		return r.Initiator == SourceSide, !known
	}
	// Translation changes which address is the lower, so that only a guess needs it.
	if !known {
		have = guessed
		if sourceHigher {
			have |= higherOpened
		}
		shard.put(key, have, c.max)
		return true, true
	}
	return (have&higherOpened != 0) == sourceHigher, false
}

func (s *conversationShard) put(key uint64, o orientation, limit int) {
	if len(s.young) >= limit {
		s.old, s.young = s.young, make(map[uint64]orientation, limit/4)
	}
	s.young[key] = o
}

// age forgets those that have not been seen since the last time.
func (c *conversations) age() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.old, s.young = s.young, map[uint64]orientation{}
		s.mu.Unlock()
	}
}

// count is how many are remembered, some of them in both generations.
func (c *conversations) count() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.young) + len(s.old)
		s.mu.Unlock()
	}
	return n
}

// generation is for how long the younger one is it, at most.
const generation = 5 * time.Minute

// ageAfter ages when it is time.
func (c *conversations) ageAfter(now time.Time) {
	if now.Sub(c.aged) < generation {
		return
	}
	if !c.aged.IsZero() {
		c.age()
	}
	c.aged = now
}
