// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"bytes"
	"cmp"
	"net/netip"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// Tuple is one direction of a connection, as conntrack tells connections apart.
type Tuple struct {
	Source, Destination netip.Addr
	// SourcePort and DestinationPort are zero where the protocol has no ports.
	// For the queries of ICMP and ICMPv6 the one that asks has port 0, the one
	// that answers has the type of the question: an echo request goes from 0 to
	// 8, its reply from 8 to 0. So a reply is the reverse of its request, and
	// pings both ways are two connections. See TupleOf.
	SourcePort, DestinationPort uint16
	Protocol                    flow.Protocol
}

// Reverse is the tuple of the packets that go the other way.
func (t Tuple) Reverse() Tuple {
	t.Source, t.Destination = t.Destination, t.Source
	t.SourcePort, t.DestinationPort = t.DestinationPort, t.SourcePort
	return t
}

// TupleOf gives the tuple of a flow. It is false for a flow that no connection
// can be found by: without ports where the protocol has them, as later
// fragments are, and for ICMP messages that are not a question or its answer.
func TupleOf(k *flow.Key) (Tuple, bool) {
	t := Tuple{Source: k.Source, Destination: k.Destination, Protocol: k.Protocol}
	ok := true
	switch {
	case k.Protocol.IsICMP():
		if k.Has&flow.HasPorts == 0 {
			return Tuple{}, false
		}
		t.SourcePort, t.DestinationPort, ok = icmpPorts(k.Protocol, k.SourcePort)
	case hasPorts(k.Protocol):
		t.SourcePort, t.DestinationPort, ok = k.SourcePort, k.DestinationPort, k.HasTransportPorts()
	}
	if !ok {
		return Tuple{}, false
	}
	return t, true
}

// hasPorts says whether conntrack tells connections of the protocol apart by
// ports. It knows the keys of GRE too, but a flow does not.
func hasPorts(p flow.Protocol) bool {
	switch p {
	case flow.TCP, flow.UDP, flow.UDPLite, flow.SCTP, flow.DCCP:
		return true
	default:
		return false
	}
}

// The questions that begin a connection, by the type of the answer
// (net/netfilter/nf_conntrack_proto_icmp.c and nf_conntrack_proto_icmpv6.c).
var (
	icmpQuestions  = map[uint16]uint16{0: 8, 14: 13, 16: 15, 18: 17}
	icmp6Questions = map[uint16]uint16{129: 128, 140: 139}
)

// icmpPorts gives what stands for ports in messages of that type.
func icmpPorts(p flow.Protocol, typ uint16) (source, destination uint16, ok bool) {
	questions := icmpQuestions
	if p == flow.ICMPv6 {
		questions = icmp6Questions
	}
	if question, isAnswer := questions[typ]; isAnswer {
		return question, 0, true
	}
	for _, question := range questions {
		if typ == question {
			return 0, question, true
		}
	}
	return 0, 0, false
}

// key is a tuple without pointers, which the garbage collector need not look
// into and the map hashes at once.
type key struct {
	source, destination         [16]byte
	sourcePort, destinationPort uint16
	protocol                    flow.Protocol
	ipv6                        bool
}

// key is false for a tuple that has not two addresses of one family.
func (t *Tuple) key() (key, bool) {
	if !t.Source.IsValid() || !t.Destination.IsValid() || t.Source.Is4() != t.Destination.Is4() {
		return key{}, false
	}
	return key{
		source:          t.Source.As16(),
		destination:     t.Destination.As16(),
		sourcePort:      t.SourcePort,
		destinationPort: t.DestinationPort,
		protocol:        t.Protocol,
		ipv6:            !t.Source.Is4(),
	}, true
}

func (k *key) tuple() Tuple {
	source, destination := netip.AddrFrom16(k.source), netip.AddrFrom16(k.destination)
	if !k.ipv6 {
		source, destination = source.Unmap(), destination.Unmap()
	}
	return Tuple{
		Source:          source,
		Destination:     destination,
		SourcePort:      k.sourcePort,
		DestinationPort: k.destinationPort,
		Protocol:        k.protocol,
	}
}

func (k *key) reverse() key {
	return key{
		source:          k.destination,
		destination:     k.source,
		sourcePort:      k.destinationPort,
		destinationPort: k.sourcePort,
		protocol:        k.protocol,
		ipv6:            k.ipv6,
	}
}

// canonical is the same for both directions.
func (k *key) canonical() key {
	order := bytes.Compare(k.source[:], k.destination[:])
	if order == 0 {
		order = cmp.Compare(k.sourcePort, k.destinationPort)
	}
	if order > 0 {
		return k.reverse()
	}
	return *k
}
