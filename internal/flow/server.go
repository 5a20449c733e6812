// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

// Side is one end of a flow.
type Side uint8

// Sides of a flow.
const (
	NoSide Side = iota
	SourceSide
	DestinationSide
)

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
	// EvidenceHeuristic: a guess from the ports.
	EvidenceHeuristic Evidence = "heuristic"
)

// Initiator says which end of the flow opened it, as far as this record tells.
// Without a handshake it guesses the end with the higher port, since systems
// choose a client's port from the upper range (RFC 6056, section 3.2). NoSide
// means that the flow has no ports. A record with both a SYN and a SYN with ACK
// in one direction (simultaneous open, a port used again) is left to the guess.
func (r *Record) Initiator() (Side, Evidence) {
	switch {
	case !r.HasTransportPorts():
		return NoSide, ""
	case r.SYNSeen && !r.SYNACKSeen:
		return SourceSide, EvidenceSYN
	case r.SYNACKSeen && !r.SYNSeen:
		return DestinationSide, EvidenceSYN
	case r.SourcePort < r.DestinationPort:
		return DestinationSide, EvidenceHeuristic
	default:
		return SourceSide, EvidenceHeuristic
	}
}
