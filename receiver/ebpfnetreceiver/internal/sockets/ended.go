// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/netprobe-otel/netprobe/bpf"
)

// How many ended connections wait to be read, as a multiple of the sockets that can
// be watched at a time.
const endedFactor = 4

// ended collects what the programs tell of sockets that are no more. One goroutine
// reads the ring buffer for as long as it is open.
type ended struct {
	reader  *ringbuf.Reader
	max     int
	flushed chan struct{} // the reader has read all that was there at a Flush
	done    chan struct{}

	mu      sync.Mutex // guards what follows
	records []bpf.SocketsSocketRecord
	lost    uint64
}

func readEnded(from *ebpf.Map, entries int) (*ended, error) {
	reader, err := ringbuf.NewReader(from)
	if err != nil {
		return nil, fmt.Errorf("open ring buffer: %w", err)
	}
	e := &ended{reader: reader, max: entries * endedFactor, flushed: make(chan struct{}), done: make(chan struct{})}
	go e.run()
	return e, nil
}

func (e *ended) run() {
	defer close(e.done)
	var rec ringbuf.Record
	for {
		switch err := e.reader.ReadInto(&rec); {
		case err == nil:
			e.add(rec.RawSample)
		case errors.Is(err, ringbuf.ErrFlushed):
			e.flushed <- struct{}{}
		default:
			return // closed
		}
	}
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
	if err := e.reader.Flush(); err == nil {
		select {
		case <-e.flushed:
		case <-e.done:
		}
	}
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

// Close ends the goroutine.
func (e *ended) Close() error {
	err := e.reader.Close()
	<-e.done
	return err
}
