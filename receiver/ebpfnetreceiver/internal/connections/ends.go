// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package connections

import (
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// end is a socket at one end of a conversation.
type end struct {
	process flow.Process
	rtt     time.Duration
	netns   uint32
	// several namespaces have the same addresses, and none of them is ours
	ambiguous bool
	// its connection ended before this interval
	past bool

	// counts of this interval, and those of the last one, that no flow has been given
	now, before counts
}

// counts is what one record of a flow gets.
type counts struct {
	retransmits uint32
	// that the end sent, and that it got
	resetsSent, resetsReceived uint32
}

func (c counts) plus(d counts) counts {
	return counts{c.retransmits + d.retransmits, c.resetsSent + d.resetsSent, c.resetsReceived + d.resetsReceived}
}

// Ends has sockets by the packets that they send.
type Ends map[flow.Tuple]*end

func (e Ends) add(c *flow.Connection, gained *flow.ConnectionNumbers, own uint32) {
	if !c.Remote.Addr().IsValid() || c.Remote.Port() == 0 {
		return
	}
	fresh := &end{process: c.Process, rtt: c.RTT, netns: c.NetNS, now: counts{retransmits: gained.Retransmits}}
	ended := !c.Closed.IsZero() // before that it would be told again
	if ended && c.ResetSent {
		fresh.now.resetsSent = 1
	}
	if ended && c.ResetReceived {
		fresh.now.resetsReceived = 1
	}
	tuple := c.Tuple()
	have, ok := e[tuple]
	switch {
	case !ok:
		e[tuple] = fresh
	case have.netns == c.NetNS: // one connection after the other
		fresh.now = fresh.now.plus(have.now)
		e[tuple] = fresh
	case c.NetNS == own:
		e[tuple] = fresh
	case have.netns != own:
		have.ambiguous = true
	}
}

// addLast adds what is left of the interval before. Flows are read a moment before
// sockets are: packets of that moment are in the next interval's records, and what the
// sockets tell of them is not.
func (e Ends) addLast(last Ends) {
	for tuple, old := range last {
		have, ok := e[tuple]
		switch {
		case ok && have.netns == old.netns:
			have.before = old.now
		case !ok && !old.past:
			old.past, old.before, old.now = true, old.now, counts{}
			e[tuple] = old
		}
	}
}

// at gives the socket that sends packets with one of these tuples.
func (e Ends) at(tuples ...flow.Tuple) *end {
	for _, tuple := range tuples {
		if found, ok := e[tuple]; ok && !found.ambiguous {
			return found
		}
	}
	return nil
}

// Complete adds to a flow's record what the sockets at its ends know of it: the one
// that sends the packets, if it is of this machine, else the one that gets them. What
// is counted is given to one record only.
func (e Ends) Complete(rec *flow.Record) {
	if !rec.HasTransportPorts() || (rec.Protocol != flow.TCP && rec.Protocol != flow.UDP) {
		return
	}
	tuples := rec.Tuples()
	sender := e.at(tuples...)
	for i := range tuples {
		tuples[i] = tuples[i].Reverse()
	}
	receiver := e.at(tuples...)
	if sender != nil {
		rec.SourceContainer = sender.process.ContainerID
	}
	if receiver != nil {
		rec.DestinationContainer = receiver.process.ContainerID
	}
	local := sender
	if local == nil {
		local = receiver
	}
	if local == nil {
		return
	}
	if local.process.PID != 0 {
		rec.Process = &local.process
	}
	if rec.Protocol != flow.TCP {
		return
	}
	rec.TCP = &flow.TCPQuality{RTT: local.rtt}
	if sender != nil {
		sent := sender.now.plus(sender.before)
		rec.TCP.Retransmits, rec.TCP.HasRetransmits = sent.retransmits, true
		rec.TCP.Resets = sent.resetsSent
		for _, c := range []*counts{&sender.now, &sender.before} {
			c.retransmits, c.resetsSent = 0, 0
		}
	}
	if receiver != nil {
		// a reset that both ends know of is one
		rec.TCP.Resets = max(rec.TCP.Resets, receiver.now.resetsReceived+receiver.before.resetsReceived)
		receiver.now.resetsReceived, receiver.before.resetsReceived = 0, 0
	}
}
