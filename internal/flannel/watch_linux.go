// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flannel

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Watcher hears of changes of devices, forwarding entries, neighbours and routes.
type Watcher struct {
	links   chan netlink.LinkUpdate
	entries chan netlink.NeighUpdate
	routes  chan netlink.RouteUpdate
	stop    chan struct{}
	once    sync.Once
	running sync.WaitGroup
	changes chan struct{}
	ended   chan struct{}
	failed  sync.Once
}

// socketBuffer holds the messages of some thousand changes at once.
const socketBuffer = 1 << 20

// Watch subscribes in this network namespace. It needs no capability.
func Watch() (*Watcher, error) {
	w := &Watcher{
		links: make(chan netlink.LinkUpdate), entries: make(chan netlink.NeighUpdate), routes: make(chan netlink.RouteUpdate),
		stop: make(chan struct{}), changes: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	var errs [3]error
	if errs[0] = netlink.LinkSubscribeWithOptions(w.links, w.stop, netlink.LinkSubscribeOptions{ReceiveBufferSize: socketBuffer}); errs[0] != nil {
		close(w.links)
	}
	if errs[1] = netlink.NeighSubscribeWithOptions(w.entries, w.stop, netlink.NeighSubscribeOptions{ReceiveBufferSize: socketBuffer}); errs[1] != nil {
		close(w.entries)
	}
	if errs[2] = netlink.RouteSubscribeWithOptions(w.routes, w.stop, netlink.RouteSubscribeOptions{ReceiveBufferSize: socketBuffer}); errs[2] != nil {
		close(w.routes)
	}
	w.running.Go(func() { forward(w, w.links, isTunnel) })
	w.running.Go(func() { forward(w, w.entries, isEntry) })
	w.running.Go(func() { forward(w, w.routes, isRoute) })
	if err := errors.Join(errs[:]...); err != nil {
		w.Close()
		return nil, fmt.Errorf("subscribe to changes of the network: %w", err)
	}
	return w, nil
}

// forward says that something changed, until the subscription ends.
func forward[U any](w *Watcher, updates <-chan U, of func(*U) bool) {
	for u := range updates {
		if of(&u) {
			w.changed()
		}
	}
	w.failed.Do(func() { close(w.ended) })
}

func (w *Watcher) changed() {
	select {
	case w.changes <- struct{}{}:
	default: // it is known already
	}
}

func isTunnel(u *netlink.LinkUpdate) bool {
	t := u.Type()
	return t == typeVXLAN || t == typeWireGuard || t == typeIPIP
}

// isEntry leaves out what hosts learn of each other all the time.
func isEntry(u *netlink.NeighUpdate) bool {
	return u.State&netlink.NUD_PERMANENT != 0 || u.Type == unix.RTM_DELNEIGH && u.Family == unix.AF_BRIDGE
}

func isRoute(u *netlink.RouteUpdate) bool {
	return u.Table == unix.RT_TABLE_MAIN
}

// Changes has something in it after changes.
func (w *Watcher) Changes() <-chan struct{} { return w.changes }

// Ended is closed once a subscription has failed (too many changes at once): changes may
// have been missed, and more will be.
func (w *Watcher) Ended() <-chan struct{} { return w.ended }

// Close ends the subscriptions.
func (w *Watcher) Close() {
	w.once.Do(func() { close(w.stop) })
	w.running.Wait()
}
