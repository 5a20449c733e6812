// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Event says that something happened to one interface, or, where it is a
// Resync, that anything may have happened to any.
type Event struct {
	Resync bool
	// Gone says that the interface is no more; else it is new, renamed or
	// otherwise changed.
	Gone      bool
	Interface Interface
}

// socketBuffer holds the messages of some ten thousand changes at once.
const socketBuffer = 4 << 20

// Watcher gives the events of one subscription to the kernel.
type Watcher struct {
	updates chan netlink.LinkUpdate
	stop    chan struct{}
	once    sync.Once
}

// Watch subscribes. Whoever lists the interfaces after it misses no change.
func Watch() (*Watcher, error) {
	w := &Watcher{updates: make(chan netlink.LinkUpdate), stop: make(chan struct{})}
	err := netlink.LinkSubscribeWithOptions(w.updates, w.stop, netlink.LinkSubscribeOptions{
		ReceiveBufferSize: socketBuffer,
		// without: errors end the subscription, which closes updates
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to interface changes: %w", err)
	}
	return w, nil
}

// Updates is what to receive from and to give to ReadEvent; nil for a nil Watcher.
func (w *Watcher) Updates() <-chan netlink.LinkUpdate {
	if w == nil {
		return nil
	}
	return w.updates
}

// ReadEvent reads one update. ok is what the channel said: false once the
// subscription has failed (too many changes at once), after which the caller
// watches and lists anew. A false have means that the update is of no interest.
func ReadEvent(u netlink.LinkUpdate, ok bool) (e Event, have bool) {
	if !ok {
		return Event{Resync: true}, true
	}
	// Bridges announce their ports under their own family: a port that leaves
	// the bridge is "deleted" there and lives on.
	if u.Family != unix.AF_UNSPEC {
		return Event{}, false
	}
	return Event{Gone: u.Header.Type == unix.RTM_DELLINK, Interface: fromLink(u.Link)}, true
}

// Close ends the subscription and its goroutines. A nil Watcher is closed.
func (w *Watcher) Close() {
	if w == nil {
		return
	}
	w.once.Do(func() {
		close(w.stop)
		for range w.updates { //nolint:revive // lets the sender see the end
		}
	})
}
