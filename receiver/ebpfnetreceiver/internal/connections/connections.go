// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package connections follows connections from one reading of them to the next:
// what began and ended, what each did meanwhile, and whose flows are whose. It knows
// nothing of eBPF or pdata.
package connections // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/connections"

import (
	"maps"
	"net/netip"
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// Phase is what happened to a connection.
type Phase string

// Phases.
const (
	Connect Phase = "connect" // this end opened it
	Accept  Phase = "accept"  // the other end did
	Close   Phase = "close"
	Failed  Phase = "failed" // it was never established
)

// Event is something that happened to a connection.
type Event struct {
	flow.Connection
	Phase Phase
	At    time.Time
	// NAT is the translation of the packets that the socket sends, nil without one.
	NAT *flow.NAT
}

// Kind is what connections are added up by.
type Kind struct {
	Protocol flow.Protocol
	Role     flow.Role
}

// Totals is what connections of a kind have done since the table was made.
type Totals struct {
	BytesSent, BytesReceived uint64
	Retransmits              uint64
}

// Listener is where somebody listens.
type Listener struct {
	Address netip.AddrPort
	Drops   uint64 // since the table was made
}

// Sample is a measurement of a connection.
type Sample struct {
	Role  flow.Role
	Value time.Duration
}

// Interval is what was new at a reading.
type Interval struct {
	Events []Event
	// RTTs has one sample of each TCP connection that got something.
	RTTs []Sample
	// Latencies has one of each that was opened.
	Latencies []Sample
	// Gains has what connections of TCP gained, with their ends, where Table.Identify says so.
	Gains []Gain
	// Ends tells of flows.
	Ends Ends
}

// patience is for how many readings a connection may be missing from them: the
// kernel's table is read while it changes.
const patience = 3

// Table has all connections. It is for one goroutine at a time.
type Table struct {
	// NetNS is the namespace whose connections come first where several have the same
	// addresses.
	NetNS uint32
	// MaxListeners bounds the addresses that are told apart.
	MaxListeners int
	// Identify says that gains are wanted by connection.
	Identify bool

	known     map[flow.ConnectionID]*known
	totals    map[Kind]Totals
	listeners map[netip.AddrPort]uint64
	forgotten uint64
	ends      Ends // of the last reading
}

// known is what was seen of a connection.
type known struct {
	numbers flow.ConnectionNumbers
	// as last read
	local, remote netip.AddrPort
	opened        bool // was told of
	missing       int  // readings
}

// New gives a table.
func New(netns uint32, maxListeners int) *Table {
	return &Table{
		NetNS: netns, MaxListeners: maxListeners,
		known: map[flow.ConnectionID]*known{}, totals: map[Kind]Totals{}, listeners: map[netip.AddrPort]uint64{},
	}
}

// Update takes a reading: the connections that are there, and those that have
// ended since the last one.
func (t *Table) Update(live, closed []flow.Connection) Interval {
	in := Interval{Ends: Ends{}}
	for _, k := range t.known {
		k.missing++
	}
	for i := range live {
		t.update(&in, &live[i], false)
	}
	for i := range closed {
		t.update(&in, &closed[i], true)
	}
	for id, k := range t.known {
		if k.missing >= patience {
			delete(t.known, id)
			t.forgotten++
		}
	}
	in.Ends.addLast(t.ends)
	t.ends = in.Ends
	return in
}

func (t *Table) update(in *Interval, c *flow.Connection, ended bool) {
	k, ok := t.known[c.ID]
	if !ok {
		k = &known{numbers: c.Begin}
		if !ended {
			t.known[c.ID] = k
		}
	}
	gained := c.Now.Since(k.numbers)
	k.numbers, k.missing = c.Now, 0
	if ended {
		delete(t.known, c.ID)
		k.complete(c)
	}
	k.local, k.remote = c.Local, c.Remote
	if c.Listens {
		t.addListener(c.Local, uint64(gained.ListenDrops))
		return
	}
	t.add(c, &gained)
	latency := t.tell(in, c, k, ended)
	rtt := time.Duration(0)
	if c.Established && gained.SegmentsReceived > 0 {
		rtt = c.RTT
	}
	if rtt > 0 {
		in.RTTs = append(in.RTTs, Sample{c.Role, rtt})
	}
	if latency > 0 {
		in.Latencies = append(in.Latencies, Sample{c.Role, latency})
	}
	t.gain(in, c, &gained, ended, rtt, latency)
	in.Ends.add(c, &gained, t.NetNS)
}

// complete adds to the last of a UDP socket the end that it was connected to after its
// first datagram: only readings of sockets that are there have that.
func (k *known) complete(c *flow.Connection) {
	if c.Protocol == flow.UDP && c.Remote.Port() == 0 && k.remote.Port() != 0 {
		c.Local, c.Remote = k.local, k.remote
	}
}

// tell notes what happened to a connection since the last reading, and gives how long its
// handshake took, if that was completed since.
func (t *Table) tell(in *Interval, c *flow.Connection, k *known, ended bool) (latency time.Duration) {
	if c.Established && !c.Adopted && !k.opened {
		k.opened = true
		phase := Connect
		if c.Role == flow.Server {
			phase = Accept
		}
		at := c.EstablishedAt
		if at.IsZero() {
			at = c.Closed // its beginning was missed
		}
		in.Events = append(in.Events, Event{Connection: *c, Phase: phase, At: at})
		latency = c.Latency
	}
	switch {
	case !ended:
	case c.Established:
		in.Events = append(in.Events, Event{Connection: *c, Phase: Close, At: c.Closed})
	default:
		in.Events = append(in.Events, Event{Connection: *c, Phase: Failed, At: c.Closed})
	}
	return latency
}

func (t *Table) add(c *flow.Connection, gained *flow.ConnectionNumbers) {
	kind := Kind{c.Protocol, c.Role}
	sum := t.totals[kind]
	sum.BytesSent += gained.BytesSent
	sum.BytesReceived += gained.BytesReceived
	sum.Retransmits += uint64(gained.Retransmits)
	t.totals[kind] = sum
}

// addListener adds to an address, or to that of all which there is no room for.
func (t *Table) addListener(at netip.AddrPort, drops uint64) {
	if _, ok := t.listeners[at]; !ok && len(t.listeners) >= t.MaxListeners {
		at = netip.AddrPort{}
	}
	t.listeners[at] += drops
}

// Totals are by kind, as of now.
func (t *Table) Totals() map[Kind]Totals { return maps.Clone(t.totals) }

// Listeners gives those that have dropped something. The address is not valid of the
// one that stands for those which there was no room for.
func (t *Table) Listeners() []Listener {
	var all []Listener
	for at, drops := range t.listeners {
		if drops > 0 {
			all = append(all, Listener{at, drops})
		}
	}
	return all
}

// Len is how many sockets are known.
func (t *Table) Len() int { return len(t.known) }

// Forgotten is how many were not seen again, nor to end.
func (t *Table) Forgotten() uint64 { return t.forgotten }
