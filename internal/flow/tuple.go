// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import "net/netip"

// Tuple is who sends to whom: what tells one direction of a conversation from
// others, wherever it is seen. Ports are 0 where there are none; for ICMP and
// ICMPv6 they are type and code.
type Tuple struct {
	Source, Destination         netip.Addr
	SourcePort, DestinationPort uint16
	Protocol                    Protocol
}

// Reverse gives the other direction. Of ICMP and ICMPv6 it is not the answer's,
// whose type is another.
func (t Tuple) Reverse() Tuple {
	t.Source, t.Destination = t.Destination, t.Source
	t.SourcePort, t.DestinationPort = t.DestinationPort, t.SourcePort
	return t
}

// Tuple gives the key's.
func (k *Key) Tuple() Tuple {
	return Tuple{
		Source: k.Source, Destination: k.Destination,
		SourcePort: k.SourcePort, DestinationPort: k.DestinationPort, Protocol: k.Protocol,
	}
}

// Tuples gives the record's, and the one on the other side of a translation.
func (r *Record) Tuples() []Tuple {
	if r.NAT == nil {
		return []Tuple{r.Tuple()}
	}
	return []Tuple{r.Tuple(), r.NAT.Other}
}

// NAT is the translation that packets underwent on this machine.
type NAT struct {
	// Other is the packets' tuple on the other side of the translation.
	Other Tuple
	// Original is the packets' tuple on the side where the conversation was opened:
	// the record's own, or Other.
	Original Tuple
	// Reply: the packets go to the end that opened the conversation.
	Reply bool
}
