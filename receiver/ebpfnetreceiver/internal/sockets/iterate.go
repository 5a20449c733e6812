// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"unsafe"

	"github.com/cilium/ebpf/link"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// what one system call reads of a dump: a seq_file has no more at a time
const dumpBytes = 32 << 10

// readDump asks for all sockets.
func (p *Probe) readDump() (Reading, error) {
	var r Reading
	from, err := p.dump.Open()
	if err != nil {
		return r, fmt.Errorf("read the table of sockets: %w", err)
	}
	defer from.Close()
	in := bufio.NewReaderSize(from, dumpBytes)
	sample := make([]byte, unsafe.Sizeof(bpf.SocketsSocketRecord{}))
	for {
		if _, err := io.ReadFull(in, sample); err != nil {
			if errors.Is(err, io.EOF) {
				return r, nil
			}
			return r, fmt.Errorf("read the table of sockets: %w", err)
		}
		record, _ := recordOf(sample)
		c := p.decoder.connection(&record)
		if record.Conn.Flags&uint32(bpf.SocketsSocketFlagSOCKET_CLOSED) != 0 {
			r.Closed = append(r.Closed, c)
		} else {
			r.Live = append(r.Live, c)
		}
	}
}

// findAll makes entries of the sockets that are there already: first of those that
// listen, because the others are asked who listens at their end.
func (p *Probe) findAll() error {
	for _, listening := range []uint32{1, 0} {
		if err := p.finding.Set(listening); err != nil {
			return fmt.Errorf("choose which sockets to look for: %w", err)
		}
		p.find(Existing, "socket_find")
		p.find(ExistingHere, "socket_find_rest")
	}
	return nil
}

// find runs an iterator whose output is entries. That it cannot be run is noted as a
// feature that is missing.
func (p *Probe) find(part, program string) {
	at := p.feature(part)
	if at.Err == nil || errors.Is(at.Err, ErrPIDNamespace) {
		at.Err = p.runIterator(program)
	}
	if at.Err == nil && part == Existing {
		at.Err = allProcesses()
	}
}

// ErrPIDNamespace says that of the connections that were there before those of processes
// outside of this one's PID namespace are not found: an iterator shows its own.
var ErrPIDNamespace = errors.New("the connections of processes outside of NetProbe's own PID namespace are not found; run it in the machine's (in Kubernetes hostPID: true)")

// allProcesses says whether an iterator shows all processes.
func allProcesses() error {
	own, err := kernel.PIDNS()
	if err != nil {
		return err
	}
	if own != kernel.FirstPIDNS {
		return ErrPIDNamespace
	}
	return nil
}

func (p *Probe) feature(name string) *Feature {
	for i := range p.features {
		if p.features[i].Name == name {
			return &p.features[i]
		}
	}
	panic("no such feature: " + name) // cannot be: there is one of every part
}

func (p *Probe) runIterator(program string) error {
	iter, err := link.AttachIter(link.IterOptions{Program: p.programs[program]})
	if err != nil {
		return fmt.Errorf("attach the iterator: %w", err)
	}
	defer iter.Close()
	from, err := iter.Open()
	if err != nil {
		return fmt.Errorf("open the iterator: %w", err)
	}
	defer from.Close()
	if _, err := io.Copy(io.Discard, from); err != nil {
		return fmt.Errorf("run the iterator: %w", err)
	}
	return nil
}
