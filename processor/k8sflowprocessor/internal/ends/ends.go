// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package ends finds out who is at the two ends of a flow, how it lies to the
// cluster, and whose node is to report it. It knows nothing of pdata.
package ends // import "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/ends"

import (
	"net/netip"
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// Endpoint is what was seen of an end.
type Endpoint struct {
	Addr netip.Addr
	Port uint16 // 0 for none
	// Other and OtherPort are those on the other side of a translation; not valid where
	// this end was not translated.
	Other     netip.Addr
	OtherPort uint16
	// ContainerID is that of the socket at this end, "" where it is not known.
	ContainerID string
}

// Flow is what was seen.
type Flow struct {
	Source, Destination Endpoint
	Protocol            flow.Protocol
	// First and Last are when packets were seen.
	First, Last time.Time
	// Initiator is the end that opened the conversation.
	Initiator flow.Side
	// Translated: the flow has been on both sides of a translation, and Original says
	// whether Addr and Port are of the side where the conversation was opened.
	Translated, Original bool
	// TunnelSource and TunnelDestination are a tunnel's ends; not valid without one.
	TunnelSource, TunnelDestination netip.Addr
}

// Class is how a flow lies to the cluster.
type Class uint8

// Classes.
const (
	// NoClass: neither end is known to be in the cluster, or the node of one is not
	// known, or the packets are for all on a link.
	NoClass Class = iota
	IntraNode
	InterNode
	Ingress
	Egress
)

func (c Class) String() string {
	return [...]string{NoClass: "", IntraNode: "intra-node", InterNode: "inter-node", Ingress: "ingress", Egress: "egress"}[c]
}

// Names is who is at the ends.
type Names struct {
	Source, Destination inventory.End
	Class               Class
	// TunnelSource and TunnelDestination are the nodes that a tunnel ends at.
	TunnelSource, TunnelDestination *inventory.Node
	// SourceOnWire is the node that other nodes take for the source: its own, or that
	// which translated it.
	SourceOnWire *inventory.Node
}

// Namer finds names. It is for one goroutine at a time.
type Namer struct {
	Resolver inventory.Resolver
	// Incomplete: what nobody is known to have may be of the cluster nevertheless.
	Incomplete bool

	// reused, for what an interface's method gets is on the heap
	query inventory.Query
	front inventory.End
}

// Name finds who is at the ends of a flow.
func (n *Namer) Name(f *Flow, names *Names) {
	n.query = inventory.Query{Protocol: f.Protocol, First: f.First, Last: f.Last}
	n.end(f, &f.Source, f.Initiator == flow.SourceSide, &names.Source)
	n.end(f, &f.Destination, f.Initiator == flow.DestinationSide, &names.Destination)
	names.TunnelSource, names.TunnelDestination = n.tunnelEnd(f.TunnelSource), n.tunnelEnd(f.TunnelDestination)
	names.Class = classify(f, names)
	if n.Incomplete && (names.Class == Ingress || names.Class == Egress) {
		names.Class = NoClass
	}
	names.SourceOnWire = n.sourceOnWire(f, names)
}

// end finds who is at one. Of a translated end two addresses are known. The end that
// opened the conversation is who it was before: after it is but the node that
// hides it. The other end is who it is afterwards, a backend, and before a service.
func (n *Namer) end(f *Flow, e *Endpoint, opener bool, end *inventory.End) {
	if !e.Other.IsValid() {
		n.resolve(e.Addr, e.Port, e.ContainerID, end)
		return
	}
	before, after := netip.AddrPortFrom(e.Addr, e.Port), netip.AddrPortFrom(e.Other, e.OtherPort)
	if !f.Original {
		before, after = after, before
	}
	if opener {
		n.resolve(before.Addr(), before.Port(), e.ContainerID, end)
		return
	}
	n.resolve(before.Addr(), before.Port(), "", &n.front)
	if known := n.resolve(after.Addr(), after.Port(), e.ContainerID, end); !known && f.Initiator == flow.NoSide {
		*end = n.front // which end it is is not known either
	}
	if n.front.Service != nil {
		end.Service = n.front.Service
	}
}

func (n *Namer) resolve(addr netip.Addr, port uint16, container string, end *inventory.End) bool {
	n.query.Addr, n.query.Port, n.query.ContainerID = addr, port, container
	return n.Resolver.Resolve(&n.query, end)
}

func (n *Namer) tunnelEnd(addr netip.Addr) *inventory.Node {
	if !addr.IsValid() {
		return nil
	}
	return n.Resolver.NodeByTunnelEnd(addr)
}

func (n *Namer) sourceOnWire(f *Flow, names *Names) *inventory.Node {
	if f.Initiator != flow.SourceSide || !f.Source.Other.IsValid() {
		return names.Source.Node
	}
	after, port := f.Source.Other, f.Source.OtherPort
	if !f.Original {
		after, port = f.Source.Addr, f.Source.Port
	}
	n.resolve(after, port, "", &n.front)
	return n.front.Node
}

// classify tells how the flow lies to the cluster.
func classify(f *Flow, names *Names) Class {
	if f.Source.Addr.IsLoopback() || f.Destination.Addr.IsLoopback() {
		return IntraNode
	}
	source, destination := inCluster(&names.Source), inCluster(&names.Destination)
	switch {
	case source && destination:
		return between(nodeOr(names.Source.Node, names.TunnelSource), nodeOr(names.Destination.Node, names.TunnelDestination))
	case source && !onLink(f.Destination.Addr):
		return Egress
	case destination && !onLink(f.Source.Addr):
		return Ingress
	default:
		return NoClass
	}
}

func between(source, destination *inventory.Node) Class {
	switch {
	case source == nil || destination == nil:
		return NoClass
	case source.Name == destination.Name:
		return IntraNode
	default:
		return InterNode
	}
}

func inCluster(end *inventory.End) bool { return end.InCluster || end.Pod != nil || end.Node != nil }

func nodeOr(node, other *inventory.Node) *inventory.Node {
	if node != nil {
		return node
	}
	return other
}

// onLink says that packets with such an address stay on a link: who is there is
// nobody in particular. IPv4 link-local addresses are not among them: services of
// clouds have such.
func onLink(addr netip.Addr) bool {
	return !addr.IsValid() || addr.IsMulticast() || addr == broadcast || addr.IsUnspecified() || addr.Is6() && addr.IsLinkLocalUnicast()
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// Reporter is the end whose node counted a flow.
type Reporter uint8

// Reporters.
const (
	NoReporter Reporter = iota // the counting node, or the ends' are not known
	BySource
	ByDestination
	ByBoth
	ByTransit // a node between
)

func (r Reporter) String() string {
	return [...]string{NoReporter: "", BySource: "source", ByDestination: "destination", ByBoth: "both", ByTransit: "transit"}[r]
}

// ReportedBy says which end a node counted for.
func (n *Names) ReportedBy(node string) Reporter {
	if node == "" || n.Class == NoClass {
		return NoReporter
	}
	source, destination := isNode(n.Source.Node, node), isNode(n.Destination.Node, node)
	switch {
	case source && destination:
		return ByBoth
	case source:
		return BySource
	case destination:
		return ByDestination
	default:
		return ByTransit
	}
}

// AnothersToReport says whether a node leaves a flow to another one, which sees the same
// packets: that of the source, if it is one of the cluster's, else that which hides the
// source behind its own address, else that of the destination.
func (n *Names) AnothersToReport(node string) bool {
	switch {
	case node == "" || n.Class == NoClass || isNode(n.Source.Node, node):
		return false
	case n.Source.Node != nil:
		return true
	case inCluster(&n.Source): // where it is is not known, nor whether anybody reports it
		return false
	case n.SourceOnWire != nil:
		return !isNode(n.SourceOnWire, node)
	default:
		return n.Destination.Node != nil && !isNode(n.Destination.Node, node)
	}
}

func isNode(node *inventory.Node, name string) bool { return node != nil && node.Name == name }
