// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/ends"
)

// routes is how many routing keys there are: enough to spread over gateways evenly, and
// few, since exporters part batches by them.
const routes = 256

// tuples are the packets' own, and that on the other side of a translation, or the same
// one twice.
func (s *seen) tuples() (own, other flow.Tuple) {
	own = flow.Tuple{
		Source: s.Source.Addr, SourcePort: s.Source.Port, Destination: s.Destination.Addr, DestinationPort: s.Destination.Port, Protocol: s.Protocol,
	}
	other = own
	if s.Source.Other.IsValid() {
		other.Source, other.SourcePort = s.Source.Other, s.Source.OtherPort
	}
	if s.Destination.Other.IsValid() {
		other.Destination, other.DestinationPort = s.Destination.Other, s.Destination.OtherPort
	}
	return own, other
}

// onWire gives the packets' tuple between this node and the other one that reports them,
// which has the same. It is the one after translation, that both nodes know: the node of
// the end that opened the conversation translates before packets leave, and so does a
// node that forwards for an end outside. But what is translated at the node of the
// other end (a host port), came with the tuple before it.
func (w *worker) onWire(node string) flow.Tuple {
	own, other := w.seen.tuples()
	original, translated := own, other
	if !w.seen.Original {
		original, translated = other, own
	}
	if w.answeredBy(node) {
		return original
	}
	return translated
}

// answeredBy says whether a node has the end that did not open the conversation, and
// not the one that did.
func (w *worker) answeredBy(node string) bool {
	switch w.names.ReportedBy(node) {
	case ends.BySource:
		return w.seen.Initiator == flow.DestinationSide
	case ends.ByDestination:
		return w.seen.Initiator == flow.SourceSide
	default:
		return false
	}
}

// routingKey is the same for both directions, and for as long as it is the same on all
// nodes: changing it parts reports while agents of two versions run.
func routingKey(t flow.Tuple) int64 {
	if t.Protocol.IsICMP() { // type and code, which an answer has not
		t.SourcePort, t.DestinationPort = 0, 0
	}
	t, _ = t.Ordered()
	var buf [16 + 16 + 2 + 2 + 1]byte
	source, destination := t.Source.As16(), t.Destination.As16()
	msg := append(append(buf[:0], source[:]...), destination[:]...)
	msg = binary.BigEndian.AppendUint16(msg, t.SourcePort)
	msg = binary.BigEndian.AppendUint16(msg, t.DestinationPort)
	return int64(xxhash.Sum64(append(msg, byte(t.Protocol))) % routes)
}
