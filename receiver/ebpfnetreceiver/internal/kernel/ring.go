// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// Ring takes what programs put into a ring buffer. One goroutine reads it for as
// long as it is open.
type Ring struct {
	reader  *ringbuf.Reader
	handle  func(sample []byte)
	flushed chan struct{} // the reader has read all that was there at a Flush
	done    chan struct{}
}

// ReadRing begins to read. handle runs in the goroutine, and must not keep the sample.
func ReadRing(from *ebpf.Map, handle func(sample []byte)) (*Ring, error) {
	reader, err := ringbuf.NewReader(from)
	if err != nil {
		return nil, fmt.Errorf("open ring buffer: %w", err)
	}
	r := &Ring{reader: reader, handle: handle, flushed: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r, nil
}

func (r *Ring) run() {
	defer close(r.done)
	var rec ringbuf.Record
	for {
		switch err := r.reader.ReadInto(&rec); {
		case err == nil:
			r.handle(rec.RawSample)
		case errors.Is(err, ringbuf.ErrFlushed):
			r.flushed <- struct{}{}
		default:
			return // closed
		}
	}
}

// Flush returns when all that was in the buffer has been handled. It is for one
// goroutine at a time.
func (r *Ring) Flush() {
	if err := r.reader.Flush(); err != nil {
		return // closed
	}
	select {
	case <-r.flushed:
	case <-r.done:
	}
}

// Close ends the goroutine. No sample is handled after it.
func (r *Ring) Close() error {
	err := r.reader.Close()
	<-r.done
	return err
}
