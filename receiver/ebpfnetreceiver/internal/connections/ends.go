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
	// in this interval, and not given to a flow yet
	retransmits uint32
	// that it sent, and that it got
	resetsSent, resetsReceived uint32
	netns                      uint32
	// several namespaces have the same addresses, and none of them is ours
	ambiguous bool
}

// Ends has sockets by the packets that they send.
type Ends map[flow.Tuple]*end

func (e Ends) add(c *flow.Connection, gained *flow.ConnectionNumbers, own uint32) {
	if !c.Remote.Addr().IsValid() || c.Remote.Port() == 0 {
		return
	}
	fresh := &end{process: c.Process, rtt: c.RTT, retransmits: gained.Retransmits, netns: c.NetNS}
	ended := !c.Closed.IsZero() // before that it would be told again
	if ended && c.ResetSent {
		fresh.resetsSent = 1
	}
	if ended && c.ResetReceived {
		fresh.resetsReceived = 1
	}
	tuple := c.Tuple()
	have, ok := e[tuple]
	switch {
	case !ok:
		e[tuple] = fresh
	case have.netns == c.NetNS: // one connection after the other
		fresh.retransmits += have.retransmits
		fresh.resetsSent += have.resetsSent
		fresh.resetsReceived += have.resetsReceived
		e[tuple] = fresh
	case c.NetNS == own:
		e[tuple] = fresh
	case have.netns != own:
		have.ambiguous = true
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
	tuples := []flow.Tuple{rec.Tuple()}
	if rec.NAT != nil {
		tuples = append(tuples, rec.NAT.Other)
	}
	sender := e.at(tuples...)
	for i := range tuples {
		tuples[i] = tuples[i].Reverse()
	}
	receiver := e.at(tuples...)
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
		rec.TCP.Retransmits, rec.TCP.HasRetransmits = sender.retransmits, true
		rec.TCP.Resets = sender.resetsSent
		sender.retransmits, sender.resetsSent = 0, 0
	}
	if receiver != nil {
		// a reset that both ends know of is one
		rec.TCP.Resets = max(rec.TCP.Resets, receiver.resetsReceived)
		receiver.resetsReceived = 0
	}
}
