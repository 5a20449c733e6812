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
	// FlowInitiatorEvidence is how that is known: "syn" or "heuristic".
	FlowInitiatorEvidence = "netprobe.flow.initiator_evidence"
	// TCPFlags is the OR of the TCP flag bytes.
	TCPFlags = "netprobe.tcp.flags"
	// ICMPType and ICMPCode are those of ICMP or ICMPv6.
	ICMPType = "netprobe.icmp.type"
	ICMPCode = "netprobe.icmp.code"
	// ObservationDirection is "ingress" or "egress" at the interface that counted.
	ObservationDirection = "netprobe.observation.direction"
	// ObservationNetNS is the inode number of the network namespace that counted.
	ObservationNetNS = "netprobe.observation.netns"
	// VLANID is the outermost VLAN tag's, VLANInnerID the one's inside it.
	VLANID      = "netprobe.vlan.id"
	VLANInnerID = "netprobe.vlan.inner_id"
	// MPLSLabel is the outermost label.
	MPLSLabel = "netprobe.mpls.label"
)
