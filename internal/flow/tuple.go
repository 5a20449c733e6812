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

// Ordered gives the same for both directions: the one whose source has the lower
// address, or the lower port. forward says that it is t itself.
func (t Tuple) Ordered() (ordered Tuple, forward bool) {
	c := t.Source.Compare(t.Destination)
	if c < 0 || c == 0 && t.SourcePort <= t.DestinationPort {
		return t, true
	}
	return t.Reverse(), false
}

// Types of ICMP and ICMPv6 messages that answer one end's question, by those of the
// questions. What goes to groups, as neighbour discovery does, is not among them: the
// addresses of its answers are others.
var (
	icmpQuestions  = map[uint16]uint16{0: 8, 14: 13, 16: 15, 18: 17} // echo, timestamp, information, address mask
	icmp6Questions = map[uint16]uint16{129: 128, 140: 139}           // echo, node information
)

// question gives the packets that an ICMP or ICMPv6 message answers, or its own, if it
// is no answer.
func (t Tuple) question() (asked Tuple, answers bool) {
	questions := icmpQuestions
	if t.Protocol == ICMPv6 {
		questions = icmp6Questions
	}
	asked = t
	asked.SourcePort, answers = questions[t.SourcePort]
	if !answers {
		return t, false
	}
	asked.Source, asked.Destination = t.Destination, t.Source
	return asked, true
}

// Conversation gives the same for all records of a conversation: both directions, on both
// sides of a translation. Of ICMP and ICMPv6 it is a question with its answers, else each
// type and code of messages between two ends, in one direction.
func (r *Record) Conversation() Tuple {
	t := r.Tuple()
	if r.NAT != nil {
		t = r.NAT.Original
	}
	if t.Protocol.IsICMP() {
		t, _ = t.question()
		return t
	}
	t, _ = t.Ordered()
	return t
}

// Answers says that the packets go to the end that opened the conversation. Where
// nothing tells who that was, they do not.
func (r *Record) Answers() bool {
	if r.Protocol.IsICMP() {
		_, answers := r.Tuple().question()
		return answers
	}
	opener, _ := r.Initiator()
	return opener == DestinationSide
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

// Reverse gives the translation of the other direction's packets; nil of nil.
func (n *NAT) Reverse() *NAT {
	if n == nil {
		return nil
	}
	return &NAT{Other: n.Other.Reverse(), Original: n.Original.Reverse(), Reply: !n.Reply}
}
