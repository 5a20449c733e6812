// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package connections

import (
	"net/netip"
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// Between is the two ends of TCP connections as the one of them that is on this machine
// knows them. Without addresses it stands for those whose ends are not known.
type Between struct {
	Client, Server netip.Addr
	Port           uint16 // the server's
	// Role and Container are those of the end that is on this machine.
	Role      flow.Role
	Container string
	// OtherClient, OtherServer and OtherPort are those on the other side of a translation,
	// as far as they differ. Opened: those above are the ones that the connections were
	// opened with.
	OtherClient, OtherServer netip.Addr
	OtherPort                uint16
	Opened                   bool
}

// Translate takes the translation of packets that the end on this machine sends.
func (b *Between) Translate(sent flow.Tuple, nat *flow.NAT) {
	b.Opened = nat.Original == sent
	other := nat.Other
	if b.Role == flow.Server {
		other = other.Reverse()
	}
	if other.Source != b.Client {
		b.OtherClient = other.Source
	}
	if other.Destination != b.Server || other.DestinationPort != b.Port {
		b.OtherServer, b.OtherPort = other.Destination, other.DestinationPort
	}
}

// Counts are what is counted of TCP connections. FailedBy says where failures are.
type Counts [firstFailure + flow.Failures]uint64

// Places in Counts.
const (
	Retransmits = iota
	ResetsSent
	ResetsReceived
	firstFailure
)

// FailedBy is the place of connections that were not made for a reason.
func FailedBy(reason flow.Failure) int { return firstFailure + int(reason) }

// RoleOf is the role that a number counts for: what was not made is the client's.
func RoleOf(place int, own flow.Role) flow.Role {
	if place >= firstFailure {
		return flow.Client
	}
	return own
}

// Add adds d.
func (c *Counts) Add(d *Counts) {
	for i := range c {
		c[i] += d[i]
	}
}

// Gain is what a connection gained in an interval.
type Gain struct {
	Between
	Counts
	// RTT and Latency are samples, 0 where there is none.
	RTT, Latency time.Duration
	// Sent is the tuple of the packets that the end on this machine sends.
	Sent flow.Tuple
}

// gain notes what a connection of TCP gained.
func (t *Table) gain(in *Interval, c *flow.Connection, gained *flow.ConnectionNumbers, ended bool, rtt, latency time.Duration) {
	if !t.Identify || c.Protocol != flow.TCP {
		return
	}
	g := Gain{Between: betweenOf(c), RTT: rtt, Latency: latency, Sent: c.Tuple()}
	g.Counts[Retransmits] = uint64(gained.Retransmits)
	switch {
	case !ended:
	case !c.Established:
		if c.Failure != flow.NotFailed {
			g.Counts[FailedBy(c.Failure)] = 1
		}
	default:
		if c.ResetSent {
			g.Counts[ResetsSent] = 1
		}
		if c.ResetReceived {
			g.Counts[ResetsReceived] = 1
		}
	}
	if g.Counts != (Counts{}) || rtt > 0 || latency > 0 {
		in.Gains = append(in.Gains, g)
	}
}

func betweenOf(c *flow.Connection) Between {
	b := Between{Role: c.Role, Container: c.Process.ContainerID}
	if c.Role == flow.Server {
		b.Client, b.Server, b.Port = c.Remote.Addr(), c.Local.Addr(), c.Local.Port()
	} else {
		b.Client, b.Server, b.Port = c.Local.Addr(), c.Remote.Addr(), c.Remote.Port()
	}
	return b
}

// Remainder tells what totals have that no connection with known ends has gained: what
// there was no room to follow, and what is before any connection.
type Remainder struct {
	given [flow.Roles]Counts // by connections, and by what was taken
}

// Take gives what is left of totals, as gains without ends. The totals must be from before
// the gains of the same reading: what a connection gains in between would be taken from it,
// and then come again.
func (r *Remainder) Take(totals *[flow.Roles]Counts, gains []Gain) []Gain {
	for g := range gains {
		for i, n := range gains[g].Counts {
			r.given[RoleOf(i, gains[g].Role)][i] += n
		}
	}
	var rest []Gain
	for role := range totals {
		var left Counts
		for i, total := range totals[role] {
			if given := r.given[role][i]; total > given {
				left[i] = total - given
			}
		}
		if left == (Counts{}) {
			continue
		}
		r.given[role].Add(&left)
		rest = append(rest, Gain{Between: Between{Role: flow.Role(role)}, Counts: left})
	}
	return rest
}
