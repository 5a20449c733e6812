// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// How many ended connections wait to be read, as a multiple of the sockets that can
// be watched at a time.
const endedFactor = 4

// ended collects what the programs tell of sockets that are no more.
type ended struct {
	ring *kernel.Ring
	max  int

	mu      sync.Mutex // guards what follows
	records []bpf.SocketsSocketRecord
	lost    uint64
}

func readEnded(from *ebpf.Map, entries int) (*ended, error) {
	e := &ended{max: entries * endedFactor}
	ring, err := kernel.ReadRing(from, e.add)
	if err != nil {
		return nil, err
	}
	e.ring = ring
	return e, nil
}

func (e *ended) add(sample []byte) {
	record, ok := recordOf(sample)
	if !ok {
		return // cannot be: the programs reserve just this size
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.records) >= e.max {
		e.lost++
		return
	}
	e.records = append(e.records, record)
}

// recordOf reads a record in host order, which may lie at any address.
func recordOf(sample []byte) (record bpf.SocketsSocketRecord, ok bool) {
	if len(sample) < int(unsafe.Sizeof(record)) {
		return record, false
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&record)), unsafe.Sizeof(record)), sample)
	return record, true
}

// take returns what has ended until now, and starts anew.
func (e *ended) take() []bpf.SocketsSocketRecord {
	e.ring.Flush()
	e.mu.Lock()
	defer e.mu.Unlock()
	records := e.records
	e.records = nil
	return records
}

// lostRecords is how many found no room here.
func (e *ended) lostRecords() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lost
}

// Close ends the reading.
func (e *ended) Close() error {
	return e.ring.Close()
}
