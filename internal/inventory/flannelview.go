// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"net"
	"net/netip"
	"time"
)

// FlannelSource tells what is known of flannel's network. It may be called by several
// goroutines. What it gives must not be changed.
type FlannelSource interface {
	Flannel() FlannelView
}

// FlannelView is what flannel says of nodes, and what one node's host shows of it.
type FlannelView struct {
	// Nodes are those that flannel has annotations on, by name.
	Nodes []*Node
	// Host is the node whose host is read, "" where none is.
	Host string
	// Read is when it was read last, zero for never: what follows is of then.
	Read time.Time
	// Devices are flannel's on that host: one of an IP version, or one of both.
	Devices []FlannelDevice
	// FDB, Neighbours and Routes are how packets for other nodes' pods find their way by
	// those devices.
	FDB        []FlannelForwarding
	Neighbours []FlannelNeighbour
	Routes     []FlannelRoute
	// Differences are those between the annotations and the host that last.
	Differences []FlannelDifference
}

// FlannelDevice is a device that packets for other nodes' pods leave by.
type FlannelDevice struct {
	Index int
	Name  string
	Type  string // vxlan, wireguard, ipip
	Up    bool
	MTU   int
	// MAC is nil for a device without one.
	MAC net.HardwareAddr
	// VNI and Port are VXLAN's; Local is where its packets come from, and Underlay the
	// device that they leave by, where those are set.
	VNI      uint32
	Port     uint16
	Local    netip.Addr
	Underlay string
}

// FlannelForwarding says to which VTEP a device sends frames for a MAC address.
type FlannelForwarding struct {
	// Node is whose VTEP has the MAC address, "" for nobody's.
	Device, Node string
	MAC          string
	Remote       netip.Addr
	// Port and VNI are this entry's own, where it has them; 0 for the device's.
	Port uint16
	VNI  uint32
	// Permanent entries are someone's; others were learned, and age.
	Permanent bool
}

// FlannelNeighbour says which MAC address a device sends packets for an address to.
type FlannelNeighbour struct {
	// Node is whose pod network begins with the address, "" for nobody's.
	Device, Node string
	Addr         netip.Addr
	MAC          string // "" while it is not known
	Permanent    bool
}

// FlannelRoute is a way to a network.
type FlannelRoute struct {
	// Node is whose pod network it is, "" for nobody's or several nodes'.
	Device, Node string
	Dst          netip.Prefix
	Gateway      netip.Addr // invalid for none
	// Unusable is what the kernel calls a route that leads nowhere: blackhole,
	// unreachable, prohibit.
	Unusable string
}

// FlannelDifference is something that a node's annotations and the host do not agree on.
type FlannelDifference struct {
	// Kind is one of those that package flannel has.
	Kind string
	// Node is whose annotations are meant, "" where it is nobody's.
	Node string
	// Subject is the device, address, MAC address or network that it is about.
	Subject string
	// Annotation is what annotations say, and Host what the host shows.
	Annotation, Host string
	// Since is when it was seen first.
	Since time.Time
}
