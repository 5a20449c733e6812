// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import "cmp"

// Side is one end of a flow.
type Side uint8

// Sides of a flow.
const (
	NoSide Side = iota
	SourceSide
	DestinationSide
)

// Opposite is the other end.
func (s Side) Opposite() Side {
	switch s {
	case SourceSide:
		return DestinationSide
	case DestinationSide:
		return SourceSide
	default:
		return NoSide
	}
}

// String gives the value of the initiator attribute.
func (s Side) String() string {
	switch s {
	case SourceSide:
		return "source"
	case DestinationSide:
		return "destination"
	default:
		return ""
	}
}

// Evidence says how an initiator is known.
type Evidence string

// Evidence for an initiator.
const (
	// EvidenceSYN: the opening SYN, or the SYN with ACK that answers it, was seen.
	EvidenceSYN Evidence = "syn"
	// EvidenceListener: a socket of this machine waits at the other end.
	EvidenceListener Evidence = "listener"
	// EvidenceHeuristic: a guess from the ports.
	EvidenceHeuristic Evidence = "heuristic"
)

// Initiator says which end of the flow opened it, and how that is known: from
// Opener, else from a handshake in this record. Without either it guesses the
// end with the higher port, since systems choose a client's port from the upper
// range (RFC 6056, section 3.2), or, of equal ports, the one with the higher
// address, so that both directions guess the same. NoSide means that the flow
// has no ports.
func (r *Record) Initiator() (Side, Evidence) {
	if !r.HasTransportPorts() {
		return NoSide, ""
	}
	if r.Opener != NoSide {
		return r.Opener, r.OpenerEvidence
	}
	if side := r.Handshake(); side != NoSide {
		return side, EvidenceSYN
	}
	order := cmp.Compare(r.SourcePort, r.DestinationPort)
	if order == 0 {
		order = r.Source.Compare(r.Destination)
	}
	if order < 0 {
		return DestinationSide, EvidenceHeuristic
	}
	return SourceSide, EvidenceHeuristic
}

// Handshake says which end opened the conversation where the record has one
// side's part of the handshake. One with both parts in one direction
// (simultaneous open, a port used again) says nothing.
func (r *Record) Handshake() Side {
	switch {
	case r.SYNSeen && !r.SYNACKSeen:
		return SourceSide
	case r.SYNACKSeen && !r.SYNSeen:
		return DestinationSide
	default:
		return NoSide
	}
}
