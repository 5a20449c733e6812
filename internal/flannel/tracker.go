// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flannel

import (
	"time"

	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// Tracker tells differences that last from those that are there while flannel follows a
// node that came, changed or went. It is for one goroutine.
type Tracker struct {
	settle time.Duration
	seen   map[identity]*tracked
}

type identity struct{ kind, node, subject string }

type tracked struct {
	inventory.FlannelDifference
	lasts bool
}

// NewTracker gives one to which a difference lasts when it has been there in all readings
// of the settle time, at its beginning and at its end.
func NewTracker(settle time.Duration) *Tracker {
	return &Tracker{settle: settle, seen: map[identity]*tracked{}}
}

// Changes are what a reading brought.
type Changes struct {
	// Appeared last now, and Gone did so before.
	Appeared, Gone []inventory.FlannelDifference
	// Lasting are all that last.
	Lasting []inventory.FlannelDifference
	// Pending: there are some of which it is not known yet.
	Pending bool
}

// Update takes the differences of a reading.
func (t *Tracker) Update(now time.Time, found []inventory.FlannelDifference) Changes {
	var c Changes
	fresh := make(map[identity]*tracked, len(found))
	for _, d := range found {
		id := identity{d.Kind, d.Node, d.Subject}
		if _, twice := fresh[id]; twice {
			continue
		}
		d.Since = now
		entry := &tracked{FlannelDifference: d}
		if before, ok := t.seen[id]; ok {
			entry.Since, entry.lasts = before.Since, before.lasts
		}
		if !entry.lasts && now.Sub(entry.Since) >= t.settle && entry.Since != now {
			entry.lasts = true
			c.Appeared = append(c.Appeared, entry.FlannelDifference)
		}
		if entry.lasts {
			c.Lasting = append(c.Lasting, entry.FlannelDifference)
		}
		c.Pending = c.Pending || !entry.lasts
		fresh[id] = entry
	}
	for id, before := range t.seen {
		if _, still := fresh[id]; !still && before.lasts {
			c.Gone = append(c.Gone, before.FlannelDifference)
		}
	}
	t.seen = fresh
	return c
}
