// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package topology is the graph of who talks to whom: bounded, fed by flow records, read
// at any moment of its history. It knows nothing of pdata, of HTTP, nor of Kubernetes' API.
package topology // import "github.com/netprobe-otel/netprobe/internal/topology"

import (
	"net/netip"
	"time"
)

// Sink takes what is observed. Components find it by the ID of the extension that has it;
// it may be called by several goroutines, and does not wait for readers.
type Sink interface {
	// AddRecords takes flow records. The sink keeps them: they must not be changed.
	AddRecords([]Record)
	// AddDrops takes what the kernel dropped, of which only the ends and Drops count.
	AddDrops([]Record)
	// AddInterfaces takes what interfaces have carried since they are watched.
	AddInterfaces([]InterfaceReading)
	// AddLedger takes what became of packets.
	AddLedger([]LedgerReading)
}

// Side is an end of a flow.
type Side uint8

// Sides.
const (
	NoSide Side = iota
	SourceSide
	DestinationSide
)

// Class is how a flow lies to the cluster.
type Class uint8

// Classes.
const (
	NoClass Class = iota
	IntraNode
	InterNode
	Ingress
	Egress
	classes
)

var classNames = [classes]string{"", "intra-node", "inter-node", "ingress", "egress"}

func (c Class) String() string { return classNames[c] }

// opened gives the class of the conversation that answers are of: what comes in from where a
// pod called is of an egress.
func (c Class) opened(forward bool) Class {
	switch {
	case forward:
		return c
	case c == Ingress:
		return Egress
	case c == Egress:
		return Ingress
	default:
		return c
	}
}

// ParseClass gives the class of a name, false where there is none.
func ParseClass(name string) (Class, bool) {
	for c, have := range classNames {
		if have == name && name != "" {
			return Class(c), true
		}
	}
	return NoClass, false
}

// Record is a flow, in one direction, in one interval.
type Record struct {
	Time, Start          time.Time
	Source, Destination  End
	Transport            string
	Class                Class
	Bytes, Packets       int64
	RTT                  time.Duration // 0 where it was not measured
	Retransmits, Resets  int64
	Drops                int64
	TCPFlags             int64
	HasPorts             bool
	Initiator            Side
	CommunityID          string
	Reporter             string // source, destination, both, transit
	ReportingNode        string // "" where it is not known
	Nodes                []string
	Interface            string
	Tunnel               *Tunnel
	NAT                  *NAT
	PID                  int64
	Process              string
	seq                  uint64
	sourceID, destinedID string
}

// End is who is at an end. What is not known is empty.
type End struct {
	Addr netip.Addr
	Port uint16
	// Real is who it is, where the address on the wire is a translation's: the caller before
	// it, who answers after it. Not valid where they are one.
	Real                       netip.AddrPort
	Namespace, Pod             string
	WorkloadKind, WorkloadName string
	Service                    string
	Node, Zone                 string
	Labels                     []Label
}

// who gives the address and port of who it is.
func (e *End) who() netip.AddrPort {
	if e.Real.IsValid() {
		return e.Real
	}
	return netip.AddrPortFrom(e.Addr, e.Port)
}

// address gives the one that is its vertex'. A service's is that on the wire: behind it are
// others.
func (e *End) address(k Kind) netip.Addr {
	if k == KindService {
		return e.Addr
	}
	return e.who().Addr()
}

// Label is a label or an annotation of a pod.
type Label struct{ Key, Value string }

// Tunnel is what carried a flow.
type Tunnel struct {
	Type                string
	ID                  int64
	HasID               bool
	Source, Destination string
}

// NAT is the other side of a translation, as far as it differs.
type NAT struct {
	Source, Destination         string
	SourcePort, DestinationPort int64
}

// Counters of one direction.
type Counters struct {
	Bytes, Packets, Flows, Retransmits, Resets, Drops int64
	// RTT is the sum of RTTs that were measured, RTTs how many those were.
	RTT  time.Duration
	RTTs int64
}

// Add adds others.
func (c *Counters) Add(o *Counters) {
	c.Bytes += o.Bytes
	c.Packets += o.Packets
	c.Flows += o.Flows
	c.Retransmits += o.Retransmits
	c.Resets += o.Resets
	c.Drops += o.Drops
	c.RTT += o.RTT
	c.RTTs += o.RTTs
}

// MeanRTT is the mean of those that were measured, 0 for none.
func (c *Counters) MeanRTT() time.Duration {
	if c.RTTs == 0 {
		return 0
	}
	return c.RTT / time.Duration(c.RTTs)
}

// Kind of a vertex.
type Kind uint8

// Kinds.
const (
	KindOther Kind = iota
	KindPod
	KindWorkload
	KindService
	KindNode
	KindExternal
	// KindAddress is a vertex of level address that is not external.
	KindAddress
	kinds
)

var kindNames = [kinds]string{"other", "pod", "workload", "service", "node", "external", "address"}

func (k Kind) String() string { return kindNames[k] }

// Key tells vertices apart.
type Key struct {
	Kind Kind
	// Name is an address' text for an external one, kind/name for a workload.
	Namespace, Name string
}

// ID is the key for clients, which is stable.
func (k Key) ID() string {
	switch k.Kind {
	case KindOther:
		return "other"
	case KindNode, KindExternal, KindAddress:
		return k.Kind.String() + ":" + k.Name
	default:
		return k.Kind.String() + ":" + k.Namespace + "/" + k.Name
	}
}

// Vertex is who talks.
type Vertex struct {
	Key
	Node, Zone                 string
	WorkloadKind, WorkloadName string
	Labels                     []Label
	Addresses                  []netip.Addr
	First, Last                int64 // Unix nanoseconds
	// Folded is how many vertices other stands for.
	Folded int64
}

// Workload gives the key of what manages a pod: of one that nothing does, itself.
func (v *Vertex) Workload() Key {
	if v.WorkloadKind == "" {
		return Key{KindWorkload, v.Namespace, "Pod/" + v.Name}
	}
	return Key{KindWorkload, v.Namespace, v.WorkloadKind + "/" + v.WorkloadName}
}

// Protocol is what an edge carries.
type Protocol struct {
	Transport string
	Port      uint16 // of the end that was called, 0 for none
	Bytes     int64
}

// Edge is what one vertex and another, which it called, sent each other.
type Edge struct {
	// From and To are indices of the snapshot's vertices.
	From, To int32
	Service  string // namespace/name, "" for none
	Class    Class
	// Forward is from From to To.
	Forward, Reverse Counters
	Protocols        []Protocol
	VNIs             []int64
	First, Last      int64 // Unix nanoseconds
}

// Total is that of both directions.
func (e *Edge) Total() Counters {
	t := e.Forward
	t.Add(&e.Reverse)
	return t
}

// PortTotal is what went to a port of a transport, both directions.
type PortTotal struct {
	Transport string
	Port      uint16
	Counters
}

// Folded is what there was no room for on its own.
type Folded struct {
	Vertices, Edges, Records int64
}

func (f *Folded) add(o Folded) {
	f.Vertices += o.Vertices
	f.Edges += o.Edges
	f.Records += o.Records
}

// InterfaceReading is what an interface has carried.
type InterfaceReading struct {
	Node, Name string
	At         time.Time
	// Start is when it was at zero, as far as that is known.
	Start time.Time
	// Counter is which one it is.
	Counter InterfaceCounter
	Value   int64
	Ratio   float64 // of Utilization
}

// InterfaceCounter is a counter of an interface.
type InterfaceCounter uint8

// Counters of interfaces, and how much of its speed it uses.
const (
	RxBytes InterfaceCounter = iota
	TxBytes
	RxPackets
	TxPackets
	interfaceCounters
	RxUtilization
	TxUtilization
)

// LedgerReading is what became of packets, or of their bytes, of one reporter.
type LedgerReading struct {
	Node, Hook, Outcome, Cause string
	Bytes                      bool
	Value                      int64
}
