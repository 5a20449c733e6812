// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Barrier waits for programs. Updating an array of maps makes the kernel wait
// until every program that runs has ended (maybe_wait_bpf_programs,
// kernel/bpf/syscall.c).
type Barrier struct {
	outer *ebpf.Map
	inner *ebpf.Map // what its only slot is set to
}

// NewBarrier makes one of an array of maps, which it leaves open at its end. The
// maps in it are arrays of one entry of 4 bytes.
func NewBarrier(outer *ebpf.Map) (*Barrier, error) {
	inner, err := ebpf.NewMap(&ebpf.MapSpec{Name: "barrier", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("create barrier map: %w", err)
	}
	return &Barrier{outer: outer, inner: inner}, nil
}

// Wait returns when the programs that ran as it was called have ended.
func (b *Barrier) Wait() error {
	if err := b.outer.Put(uint32(0), b.inner); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}

// Close ends it.
func (b *Barrier) Close() error {
	return b.inner.Close()
}

// Pair is two maps that programs write in turn, so that what one of them has can
// be taken out while nobody writes it.
type Pair struct {
	maps    [2]*ebpf.Map
	active  uint32
	epoch   *ebpf.Variable // tells programs which is active
	barrier *Barrier
}

// NewPair begins with the first map. All that is given stays open at its end;
// barrier is as for NewBarrier.
func NewPair(first, second *ebpf.Map, epoch *ebpf.Variable, barrier *ebpf.Map) (*Pair, error) {
	b, err := NewBarrier(barrier)
	if err != nil {
		return nil, err
	}
	return &Pair{maps: [2]*ebpf.Map{first, second}, epoch: epoch, barrier: b}, nil
}

// Active is the map that programs write.
func (p *Pair) Active() *ebpf.Map {
	return p.maps[p.active]
}

// Flip makes programs write the other map, waits until none can still be writing
// this one, and returns this one. After an error it is not to be read: the
// second Flip from then gives it.
func (p *Pair) Flip() (*ebpf.Map, error) {
	idle := p.Active()
	next := p.active ^ 1
	if err := p.epoch.Set(next); err != nil {
		return nil, fmt.Errorf("flip maps: %w", err)
	}
	p.active = next
	if err := p.Wait(); err != nil {
		return nil, err
	}
	return idle, nil
}

// Wait returns when the programs that ran as it was called have ended.
func (p *Pair) Wait() error {
	return p.barrier.Wait()
}

// Close ends it.
func (p *Pair) Close() error {
	return p.barrier.Close()
}
