// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package netattr has the names that NetProbe gives to events and attributes,
// each once. Keys of the OpenTelemetry semantic conventions are used where they
// exist and stand here only to be beside ours.
package netattr // import "github.com/netprobe-otel/netprobe/internal/netattr"

// Event names of log records.
const (
	// EventFlow is one flow, in one direction, in one interval.
	EventFlow = "netprobe.flow"
	// EventTunnel is a tunnel that was seen for the first time, or no more.
	EventTunnel = "netprobe.tunnel"
	// EventDrop is the first drop of a flow for one reason in an interval.
	EventDrop = "netprobe.drop"
	// EventConnection is a connection that was opened, accepted, closed, or not made.
	EventConnection = "netprobe.connection"
)

// Keys of the semantic conventions.
const (
	SourceAddress        = "source.address"
	SourcePort           = "source.port"
	DestinationAddress   = "destination.address"
	DestinationPort      = "destination.port"
	NetworkTransport     = "network.transport"
	NetworkType          = "network.type"
	NetworkInterfaceName = "network.interface.name"
	ServerAddress        = "server.address"
	ServerPort           = "server.port"
	ErrorType            = "error.type"
	ProcessPID           = "process.pid"
	// ProcessExecutableName is the base name of the executable.
	ProcessExecutableName = "process.executable.name"
	ContainerID           = "container.id"
)

// Keys of our own.
const (
	// FlowPackets counts the packets on the wire in this direction and interval.
	FlowPackets = "netprobe.flow.packets"
	// FlowBytes counts their bytes, link-layer headers included, frame check sequence not.
	FlowBytes = "netprobe.flow.bytes"
	// FlowStart is when the record's first packet was seen, in ns since the Unix epoch.
	FlowStart = "netprobe.flow.start_time_unix_nano"
	// FlowCommunityID is the Community ID v1 with seed 0.
	FlowCommunityID = "netprobe.flow.community_id"
	// FlowInitiator is which end opened the flow: "source" or "destination".
	FlowInitiator = "netprobe.flow.initiator"
	// FlowInitiatorEvidence is how that is known: "syn", "listener" or "heuristic".
	FlowInitiatorEvidence = "netprobe.flow.initiator_evidence"
	// FlowSamplingInterval is how many packets each counted one stands for; the
	// counts have been multiplied by it. Absent where all were counted.
	FlowSamplingInterval = "netprobe.flow.sampling_interval"
	// TCPFlags is the OR of the TCP flag bytes.
	TCPFlags = "netprobe.tcp.flags"
	// TCPRTT is the smoothed round trip time, in seconds.
	TCPRTT = "netprobe.tcp.rtt"
	// TCPRetransmits counts segments that were sent again, TCPResets connections that
	// were broken off, by the end that sends the packets.
	TCPRetransmits = "netprobe.tcp.retransmits"
	TCPResets      = "netprobe.tcp.resets"
	// TCPResetBy is the end that broke a connection off: "local" or "remote".
	TCPResetBy = "netprobe.tcp.reset.by"
	// ConnectionPhase is what happened: "connect", "accept", "close" or "failed".
	ConnectionPhase = "netprobe.connection.phase"
	// ConnectionRole is what this machine's end is: "client" or "server".
	ConnectionRole = "netprobe.connection.role"
	// ConnectionLatency is how long the handshake took, ConnectionDuration how long the
	// connection was there after it; in seconds.
	ConnectionLatency  = "netprobe.connection.latency"
	ConnectionDuration = "netprobe.connection.duration"
	// ConnectionBytesSent and the next are what this machine's end did in the
	// connection's life. Bytes are payload, and each counts once.
	ConnectionBytesSent        = "netprobe.connection.bytes.sent"
	ConnectionBytesReceived    = "netprobe.connection.bytes.received"
	ConnectionSegmentsSent     = "netprobe.connection.segments.sent"
	ConnectionSegmentsReceived = "netprobe.connection.segments.received"
	// ICMPType and ICMPCode are those of ICMP or ICMPv6.
	ICMPType = "netprobe.icmp.type"
	ICMPCode = "netprobe.icmp.code"
	// ObservationDirection is "ingress" or "egress" at the interface that counted.
	ObservationDirection = "netprobe.observation.direction"
	// DropReason is the kernel's name for why it dropped a packet.
	DropReason = "netprobe.drop.reason"
	// Drops counts the packets that were dropped.
	Drops = "netprobe.drops"
	// ObservationNetNS is the inode number of the network namespace that counted.
	ObservationNetNS = "netprobe.observation.netns"
	// ObservationInterfaces are the interfaces that saw the same packets and did not count them.
	ObservationInterfaces = "netprobe.observation.interfaces"
	// TunnelType is "vxlan", "geneve", "gre" or "ipip".
	TunnelType = "netprobe.tunnel.type"
	// TunnelID is the network identifier of VXLAN and Geneve, the key of GRE.
	TunnelID = "netprobe.tunnel.id"
	// TunnelSourceAddress and TunnelDestinationAddress are the tunnel's end points.
	TunnelSourceAddress      = "netprobe.tunnel.source.address"
	TunnelDestinationAddress = "netprobe.tunnel.destination.address"
	// TunnelNested says that what was in the tunnel is a tunnel's packet too, which was not opened.
	TunnelNested = "netprobe.tunnel.nested"
	// TunnelState is "up" or "down".
	TunnelState = "netprobe.tunnel.state"
	// NATSourceAddress and the next are the packets' on the other side of a translation.
	NATSourceAddress      = "netprobe.nat.source.address"
	NATSourcePort         = "netprobe.nat.source.port"
	NATDestinationAddress = "netprobe.nat.destination.address"
	NATDestinationPort    = "netprobe.nat.destination.port"
	// NATOriginal says whether the packets' own addresses are those that the
	// conversation was opened with (true), or those after translation.
	NATOriginal = "netprobe.nat.original"
	// SourceContainerID and DestinationContainerID are the containers of the sockets at
	// the ends that are of this machine.
	SourceContainerID      = "source.container.id"
	DestinationContainerID = "destination.container.id"
	// VLANID is the outermost VLAN tag's, VLANInnerID the one's inside it.
	VLANID      = "netprobe.vlan.id"
	VLANInnerID = "netprobe.vlan.inner_id"
	// MPLSLabel is the outermost label.
	MPLSLabel = "netprobe.mpls.label"
)
