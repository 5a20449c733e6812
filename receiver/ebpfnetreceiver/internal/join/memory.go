// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package join

import (
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// A conversation is remembered for between one and two of these after it was
// last asked for.
const generation = 10 * time.Minute

// conversation is what is remembered of both directions. Its source is the end
// with the lower address, or the lower port.
type conversation struct {
	opener  flow.Side
	tunnels [2]*flow.Tunnel // towards the destination, and back
}

func (c *conversation) tunnel(forward bool) **flow.Tunnel {
	if forward {
		return &c.tunnels[0]
	}
	return &c.tunnels[1]
}

// memory keeps conversations in two generations. When the younger one is full or
// old, the older one is forgotten: it is bounded, and what is asked for stays.
type memory struct {
	max        int // of each generation
	young, old map[flow.Tuple]*conversation
	youngest   time.Time // when the younger generation began
}

func newMemory(size int) *memory {
	return &memory{max: max(size/2, 1), young: map[flow.Tuple]*conversation{}}
}

// age begins a new generation where it is time to.
func (m *memory) age(now time.Time) {
	if now.Sub(m.youngest) > generation {
		m.turn()
		m.youngest = now
	}
}

func (m *memory) turn() {
	m.old, m.young = m.young, map[flow.Tuple]*conversation{}
}

// get gives what is remembered, or nil, and whether the tuple is the
// conversation's own or reversed.
func (m *memory) get(t flow.Tuple) (*conversation, bool) {
	key, forward := t.Ordered()
	if c := m.young[key]; c != nil {
		return c, forward
	}
	c := m.old[key]
	if c != nil {
		m.add(key, c)
	}
	return c, forward
}

// put gives what is remembered, anew if nothing is.
func (m *memory) put(t flow.Tuple) (*conversation, bool) {
	c, forward := m.get(t)
	if c == nil {
		c = &conversation{}
		key, _ := t.Ordered()
		m.add(key, c)
	}
	return c, forward
}

func (m *memory) add(key flow.Tuple, c *conversation) {
	if len(m.young) >= m.max {
		m.turn()
	}
	m.young[key] = c
}
