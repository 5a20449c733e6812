// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"time"
)

// Role is what a socket's own end of a connection is.
type Role uint8

// Roles.
const (
	Client Role = iota
	Server
	Roles = int(Server) + 1
)

func (r Role) String() string {
	if r == Server {
		return "server"
	}
	return "client"
}

// Failure is why a connection was not made, or how one ended that did not end well.
type Failure uint8

// Failures. In these words they are error.type.
const (
	NotFailed Failure = iota
	// Refused: the other end, or one on the way, answered that nobody is there.
	Refused
	// TimedOut: no answer came; the kernel gave up, or the program did after the
	// kernel had begun to send again.
	TimedOut
	// Reset: the other end, or this one, broke it off.
	Reset
	// Unreachable: a router, or the own host, said that there is no way.
	Unreachable
	// Canceled: the program gave up before anything had been sent again.
	Canceled
	// OtherFailure is anything else. See error.type in the semantic conventions.
	OtherFailure
	Failures = int(OtherFailure) + 1
)

func (f Failure) String() string {
	return [...]string{
		NotFailed: "", Refused: "refused", TimedOut: "timeout", Reset: "reset",
		Unreachable: "unreachable", Canceled: "canceled", OtherFailure: "_OTHER",
	}[f]
}

// Process is who uses a socket.
type Process struct {
	// PID is that of the PID namespace which has all processes; 0 where nobody is known.
	PID uint32
	// Name is the executable's, cut to 47 bytes.
	Name string
	// ContainerID is "" outside of containers.
	ContainerID string
}

// ConnectionID tells connections apart for as long as the machine runs.
type ConnectionID struct {
	Socket uint64 // where it is in the kernel's memory
	Made   uint64 // when the connection was first seen there
}

// ConnectionNumbers is what the kernel counted of a connection at its own end.
type ConnectionNumbers struct {
	// BytesSent and BytesReceived are payload; what is sent again counts once.
	BytesSent, BytesReceived uint64
	// SegmentsSent and SegmentsReceived are those of TCP, empty ones included.
	SegmentsSent, SegmentsReceived uint32
	// Retransmits is how many segments were sent again, also of the handshake.
	Retransmits uint32
	// ListenDrops is what a listening socket did not take.
	ListenDrops uint32
}

// Connection is a socket of TCP or UDP as its own end knows it. UDP has no
// connections: a socket that has sent or received is one.
type Connection struct {
	ID       ConnectionID
	Protocol Protocol
	Role     Role
	// Local and Remote are the ends; the remote one's address is unspecified where
	// the socket has no other end: it listens, or is one of UDP that is not connected.
	Local, Remote netip.AddrPort
	// NetNS is the inode number of the socket's network namespace.
	NetNS   uint32
	Process Process

	// Listens: it waits for connections, and is none.
	Listens bool
	// Established: the handshake has been completed; of UDP always.
	Established bool
	// Adopted: it was there before it was watched. How it began is not known, and
	// Begin is what it had done until then.
	Adopted bool
	// Vanished: its end was not seen, and the numbers are as of the last reading.
	Vanished bool
	// ResetSent and ResetReceived say who broke it off.
	ResetSent, ResetReceived bool

	// Started is when the first SYN was sent, EstablishedAt when the handshake was
	// completed, Closed when it ended. Zero where that is not known, or not yet.
	Started, EstablishedAt, Closed time.Time
	// Latency is how long the handshake took; 0 where it did not start here.
	Latency time.Duration
	// Failure is why it was not established, or what ended it.
	Failure Failure
	// RTT is the smoothed round trip time, 0 where nothing was measured.
	RTT time.Duration

	// Begin is what had been counted when the connection was first seen.
	Begin ConnectionNumbers
	Now   ConnectionNumbers
}

// Tuple is that of the packets that the socket sends.
func (c *Connection) Tuple() Tuple {
	return Tuple{
		Source: c.Local.Addr(), Destination: c.Remote.Addr(),
		SourcePort: c.Local.Port(), DestinationPort: c.Remote.Port(), Protocol: c.Protocol,
	}
}

// Since gives what was counted after before.
func (n ConnectionNumbers) Since(before ConnectionNumbers) ConnectionNumbers {
	return ConnectionNumbers{
		BytesSent:        gained(n.BytesSent, before.BytesSent),
		BytesReceived:    gained(n.BytesReceived, before.BytesReceived),
		SegmentsSent:     n.SegmentsSent - before.SegmentsSent, // they wrap around
		SegmentsReceived: n.SegmentsReceived - before.SegmentsReceived,
		Retransmits:      n.Retransmits - before.Retransmits,
		ListenDrops:      n.ListenDrops - before.ListenDrops,
	}
}

func gained(now, before uint64) uint64 {
	if now < before {
		return 0
	}
	return now - before
}
