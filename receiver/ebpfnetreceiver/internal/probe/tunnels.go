// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// How long a tunnel without packets keeps its place in the kernel's table.
const keepTunnel = 10 * time.Minute

// tunnelTable knows which tunnel a handle in a flow's key stands for.
type tunnelTable struct {
	table *ebpf.Map
	known map[uint32]*knownTunnel
	// read: the table was read to its end in this drain, and is not again.
	read bool
	now  func() time.Time
}

type knownTunnel struct {
	key    bpf.TCTunnelKey
	tunnel *flow.Tunnel
	used   time.Time
	// deleted from the kernel's table: a program that had looked it up before may
	// still have used it.
	deleted bool
}

func newTunnelTable(table *ebpf.Map) *tunnelTable {
	return &tunnelTable{table: table, known: map[uint32]*knownTunnel{}, now: time.Now}
}

// find gives the tunnel of a handle; none for 0.
func (t *tunnelTable) find(handle uint32) *flow.Tunnel {
	if handle == 0 {
		return nil
	}
	k := t.known[handle]
	if k == nil && !t.read {
		// Programs enter a tunnel before the first flow in it.
		t.load()
		k = t.known[handle]
	}
	if k == nil {
		return nil // cannot be: only age deletes, and keeps what it deletes
	}
	k.used = t.now()
	return k.tunnel
}

// load reads the tunnels that are new.
func (t *tunnelTable) load() {
	t.read = true
	var key bpf.TCTunnelKey
	var value bpf.TCTunnelValue
	for it := t.table.Iterate(); it.Next(&key, &value); {
		if t.known[value.Handle] == nil {
			t.known[value.Handle] = &knownTunnel{key: key, tunnel: decodeTunnel(&key), used: t.now()}
		}
	}
}

// age makes room for new tunnels: after each drain it deletes those that had no
// packets for long.
func (t *tunnelTable) age() error {
	t.read = false
	var errs []error
	now := t.now()
	for handle, k := range t.known {
		idle := now.Sub(k.used)
		switch {
		case !k.deleted && idle > keepTunnel:
			if err := t.table.Delete(&k.key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, fmt.Errorf("delete an idle tunnel: %w", err))
			}
			k.deleted = true
		case k.deleted && idle > 2*keepTunnel:
			delete(t.known, handle)
		}
	}
	return errors.Join(errs...)
}
