// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

// Volume is packets and bytes. The zero value is nothing.
type Volume struct {
	Packets uint64
	Bytes   uint64
}

// Add adds v.
func (a *Volume) Add(v Volume) {
	a.Packets += v.Packets
	a.Bytes += v.Bytes
}

// Sub gives what a counter gained since it stood at v.
func (a Volume) Sub(v Volume) Volume {
	return Volume{Packets: a.Packets - v.Packets, Bytes: a.Bytes - v.Bytes}
}

// Outcome is how parsing a packet ended.
type Outcome uint8

// Outcomes.
const (
	OutcomeOK Outcome = iota
	// OutcomeTruncated: the packet ends before its headers or lengths say it does.
	OutcomeTruncated
	// OutcomeMalformed: a header contradicts itself or the one around it.
	OutcomeMalformed
	// OutcomeUnsupported: more tags, labels or extension headers than are walked.
	OutcomeUnsupported
	// OutcomeNotIP: ARP, LLDP and the like.
	OutcomeNotIP
	Outcomes = int(OutcomeNotIP) + 1
)

func (o Outcome) String() string {
	return [...]string{
		OutcomeOK: "ok", OutcomeTruncated: "truncated", OutcomeMalformed: "malformed",
		OutcomeUnsupported: "unsupported", OutcomeNotIP: "not_ip",
	}[o]
}

// InterfaceCounters is what was counted on one interface.
type InterfaceCounters struct {
	Rx, Tx Volume
	// XDP is what the XDP program saw, by outcome.
	XDP [Outcomes]Volume
}

// Sub gives what the counters gained since they stood at d.
func (c InterfaceCounters) Sub(d InterfaceCounters) InterfaceCounters {
	c.Rx, c.Tx = c.Rx.Sub(d.Rx), c.Tx.Sub(d.Tx)
	for i := range c.XDP {
		c.XDP[i] = c.XDP[i].Sub(d.XDP[i])
	}
	return c
}

// Add adds d.
func (c *InterfaceCounters) Add(d InterfaceCounters) {
	c.Rx.Add(d.Rx)
	c.Tx.Add(d.Tx)
	for i := range c.XDP {
		c.XDP[i].Add(d.XDP[i])
	}
}
