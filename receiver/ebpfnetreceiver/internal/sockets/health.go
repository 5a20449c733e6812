// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"fmt"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// Counters is what the programs counted of one protocol since they were loaded,
// whether there was room for an entry or not.
type Counters struct {
	// Opened and Closed are connections that were established, by flow.Role. Those that
	// were there before are only among the closed ones.
	Opened, Closed [flow.Roles]uint64
	// Failed is connections that were not, by flow.Failure.
	Failed [flow.Failures]uint64
	// ResetSent and ResetReceived are closed connections that this end broke off, or
	// the other one, by flow.Role.
	ResetSent, ResetReceived [flow.Roles]uint64
}

// Counters gives those of TCP and UDP.
func (p *Probe) Counters() (map[flow.Protocol]Counters, error) {
	all := map[flow.Protocol]Counters{}
	for protocol, key := range map[flow.Protocol]bpf.SocketsSocketProtocol{
		flow.TCP: bpf.SocketsSocketProtocolSOCKET_TCP,
		flow.UDP: bpf.SocketsSocketProtocolSOCKET_UDP,
	} {
		var perCPU []bpf.SocketsSocketCounters
		if err := p.maps[bpf.SocketsMapSocketCounts].Lookup(uint32(key), &perCPU); err != nil {
			return nil, fmt.Errorf("read counts of connections: %w", err)
		}
		var c Counters
		for i := range perCPU {
			add(c.Opened[:], perCPU[i].Opened[:])
			add(c.Closed[:], perCPU[i].Closed[:])
			add(c.Failed[:], perCPU[i].Failed[:])
			add(c.ResetSent[:], perCPU[i].ResetSent[:])
			add(c.ResetReceived[:], perCPU[i].ResetReceived[:])
		}
		all[protocol] = c
	}
	return all, nil
}

func add(to, what []uint64) {
	for i := range to {
		to[i] += what[i]
	}
}

// Health is what the probe knows of its own work, since it was loaded.
type Health struct {
	// Untracked is connections for which there was no room: they are in the
	// counters, and nothing else is known of them.
	Untracked uint64
	// RecordsLost is connections of which the end, and what they had done since they
	// were last read, found no room.
	RecordsLost uint64
	// SYNACKRetransmits is how many segments were sent again to answer connects, also
	// to such that then came to nothing.
	SYNACKRetransmits uint64
}

// Health reads the ledger.
func (p *Probe) Health() (Health, error) {
	var h Health
	for ledger, to := range map[bpf.SocketsSocketLedger]*uint64{
		bpf.SocketsSocketLedgerSOCKET_UNTRACKED:          &h.Untracked,
		bpf.SocketsSocketLedgerSOCKET_RECORD_LOST:        &h.RecordsLost,
		bpf.SocketsSocketLedgerSOCKET_SYNACK_RETRANSMITS: &h.SYNACKRetransmits,
	} {
		var perCPU []uint64
		if err := p.maps[bpf.SocketsMapSocketLedgers].Lookup(uint32(ledger), &perCPU); err != nil {
			return h, fmt.Errorf("read ledger of connections: %w", err)
		}
		for _, n := range perCPU {
			*to += n
		}
	}
	h.RecordsLost += p.ended.lostRecords()
	return h, nil
}
