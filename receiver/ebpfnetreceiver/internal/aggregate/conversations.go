// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// IdleTimeout is after how long without packets a conversation is over. What comes
// later begins another one.
const IdleTimeout = 60 * time.Second

// Conversations counts those that began, each once whatever its directions, the
// interfaces that see it and the intervals that it lasts, in the series of the packets
// from the end that opened it.
type Conversations struct {
	Series *FlowSeries
	// Evicted counts those that were forgotten before they were over, because there was
	// no room. If packets of one follow, it is counted again.
	Evicted uint64

	max   int
	known map[flow.Tuple]int32 // where in all
	// all is a ring through the conversations, from the one seen last to the one idle for
	// longest, which begins and ends at the first element: that is none. Unused elements
	// are a list of their own. Places are kept, so that nothing is allocated for a
	// conversation that takes the place of another.
	all    []conversation
	unused int32
}

// conversation is what is remembered of one. Times are in ns since the Unix epoch.
type conversation struct {
	key          flow.Tuple
	seen         int64 // its last packet
	ended        int64 // its last packet after a FIN or RST; 0 while it goes on
	newer, older int32
}

// NewConversations remembers so many conversations, and counts them in series.
func NewConversations(remember int, series *FlowSeries) *Conversations {
	return &Conversations{Series: series, max: remember, known: map[flow.Tuple]int32{}, all: make([]conversation, 1)}
}

// Len is how many conversations are remembered.
func (c *Conversations) Len() int { return len(c.known) }

// Add counts what began in an interval that ended at now. Packets from the end that
// opened a conversation come first, for they tell its series better than answers do.
func (c *Conversations) Add(records []flow.Record, now time.Time) {
	for _, answers := range []bool{false, true} {
		for i := range records {
			rec := &records[i]
			if rec.Has&flow.IsFragment == 0 && rec.Answers() == answers && c.begins(rec) {
				c.Series.addOne(rec, answers)
			}
		}
	}
	c.expire(now)
}

// begins says whether a record is the first of a conversation, and remembers it.
func (c *Conversations) begins(rec *flow.Record) bool {
	first, last := rec.First.UnixNano(), rec.Last.UnixNano()
	key := rec.Conversation()
	at, known := c.known[key]
	if !known {
		at = c.add(key)
	}
	conv := &c.all[at]
	begins := !known || first-conv.seen > int64(IdleTimeout) || conv.ended != 0 && first > conv.ended && (rec.SYNSeen || rec.SYNACKSeen)
	if begins {
		conv.seen, conv.ended = last, 0
	}
	conv.seen = max(conv.seen, last)
	if conv.ended != 0 || rec.Protocol == flow.TCP && rec.TCPFlags&(flow.FIN|flow.RST) != 0 {
		conv.ended = conv.seen
	}
	c.unlink(at)
	c.link(at)
	return begins
}

// add gives a place to a conversation: one that nobody has, or that of the one which has
// been idle for longest.
func (c *Conversations) add(key flow.Tuple) int32 {
	if len(c.known) >= c.max {
		c.Evicted++
		c.remove(c.all[0].newer)
	}
	at := c.unused
	if at != 0 {
		c.unused = c.all[at].older
	} else {
		at = int32(len(c.all))
		c.all = append(c.all, conversation{})
	}
	c.all[at] = conversation{key: key}
	c.link(at)
	c.known[key] = at
	return at
}

// expire forgets those that are over. They are at the end of the ring.
func (c *Conversations) expire(now time.Time) {
	over := now.Add(-IdleTimeout).UnixNano()
	for at := c.all[0].newer; at != 0 && c.all[at].seen < over; at = c.all[0].newer {
		c.remove(at)
	}
}

func (c *Conversations) remove(at int32) {
	delete(c.known, c.all[at].key)
	c.unlink(at)
	c.all[at] = conversation{older: c.unused}
	c.unused = at
}

// link puts a conversation at the beginning of the ring: that is older than the first
// element, and newer than all others.
func (c *Conversations) link(at int32) {
	next := c.all[0].older
	c.all[at].newer, c.all[at].older = 0, next
	c.all[0].older, c.all[next].newer = at, at
}

func (c *Conversations) unlink(at int32) {
	newer, older := c.all[at].newer, c.all[at].older
	c.all[newer].older, c.all[older].newer = older, newer
}
