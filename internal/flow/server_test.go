// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestInitiator(t *testing.T) {
	for _, tt := range []struct {
		name         string
		protocol     Protocol
		has          Has
		ports        [2]uint16
		syn, synACK  bool
		want         Side
		wantEvidence Evidence
	}{
		{"opening syn", TCP, HasPorts, [2]uint16{40001, 443}, true, false, SourceSide, EvidenceSYN},
		{"opening syn from the lower port", TCP, HasPorts, [2]uint16{443, 40001}, true, false, SourceSide, EvidenceSYN},
		{"answering syn", TCP, HasPorts, [2]uint16{443, 40001}, false, true, DestinationSide, EvidenceSYN},
		{"answering syn from the higher port", TCP, HasPorts, [2]uint16{40001, 443}, false, true, DestinationSide, EvidenceSYN},
		{"both syns, left to the ports", TCP, HasPorts, [2]uint16{443, 40001}, true, true, DestinationSide, EvidenceHeuristic},
		{"no handshake, from the higher port", TCP, HasPorts, [2]uint16{40001, 443}, false, false, SourceSide, EvidenceHeuristic},
		{"no handshake, from the lower port", TCP, HasPorts, [2]uint16{443, 40001}, false, false, DestinationSide, EvidenceHeuristic},
		{"no handshake, equal ports", UDP, HasPorts, [2]uint16{123, 123}, false, false, SourceSide, EvidenceHeuristic},
		{"udp", UDP, HasPorts, [2]uint16{53, 40001}, false, false, DestinationSide, EvidenceHeuristic},
		{"sctp in a vlan", SCTP, HasPorts | HasVLAN, [2]uint16{40001, 36412}, false, false, SourceSide, EvidenceHeuristic},
		{"icmp, whose ports are none", ICMP, HasPorts, [2]uint16{8, 0}, false, false, NoSide, ""},
		{"icmpv6, whose ports are none", ICMPv6, HasPorts, [2]uint16{128, 0}, false, false, NoSide, ""},
		{"later fragment", UDP, IsFragment, [2]uint16{}, false, false, NoSide, ""},
		{"protocol without ports", 47, 0, [2]uint16{}, false, false, NoSide, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rec := Record{
				Key:     Key{Protocol: tt.protocol, Has: tt.has, SourcePort: tt.ports[0], DestinationPort: tt.ports[1]},
				SYNSeen: tt.syn, SYNACKSeen: tt.synACK,
			}
			side, evidence := rec.Initiator()
			require.Equal(t, tt.want, side)
			require.Equal(t, tt.wantEvidence, evidence)
		})
	}
}

// Both directions of a connection name the same end, each from its own side.
func TestInitiatorOfBothDirections(t *testing.T) {
	there := Record{Key: key(TCP, "192.0.2.1", "198.51.100.7", 40001, 443), SYNSeen: true}
	back := Record{Key: reverse(there.Key), SYNACKSeen: true}
	opened, _ := there.Initiator()
	answered, _ := back.Initiator()
	require.Equal(t, SourceSide, opened)
	require.Equal(t, DestinationSide, answered)

	there.SYNSeen, back.SYNACKSeen = false, false
	opened, _ = there.Initiator()
	answered, _ = back.Initiator()
	require.Equal(t, SourceSide, opened)
	require.Equal(t, DestinationSide, answered)
}

// Of equal ports both directions guess the same end, each from its own side.
func TestInitiatorOfEqualPorts(t *testing.T) {
	for _, addresses := range [][2]string{
		{"192.0.2.1", "198.51.100.7"}, {"198.51.100.7", "192.0.2.1"}, {"10.0.0.9", "10.0.0.10"}, {"2001:db8::1", "2001:db8::2"},
	} {
		there := Record{Key: key(UDP, addresses[0], addresses[1], 123, 123)}
		back := Record{Key: reverse(there.Key)}
		opened, evidence := there.Initiator()
		answered, _ := back.Initiator()
		require.Equal(t, opened.Opposite(), answered, addresses)
		require.Equal(t, EvidenceHeuristic, evidence)
		require.Equal(t, there.Source.Compare(there.Destination) > 0, opened == SourceSide, "the higher address")
	}
}

// What is known from more than the record goes before what the record says.
func TestInitiatorOpener(t *testing.T) {
	rec := Record{Key: key(TCP, "192.0.2.1", "198.51.100.7", 40001, 443), SYNSeen: true}
	rec.Opener, rec.OpenerEvidence = DestinationSide, EvidenceListener
	side, evidence := rec.Initiator()
	require.Equal(t, DestinationSide, side)
	require.Equal(t, EvidenceListener, evidence)

	rec.Has = IsFragment
	side, evidence = rec.Initiator()
	require.Equal(t, NoSide, side, "it has no ports")
	require.Equal(t, Evidence(""), evidence)
}

func TestHandshake(t *testing.T) {
	for _, tt := range []struct {
		syn, synACK bool
		want        Side
	}{{false, false, NoSide}, {true, false, SourceSide}, {false, true, DestinationSide}, {true, true, NoSide}} {
		require.Equal(t, tt.want, (&Record{SYNSeen: tt.syn, SYNACKSeen: tt.synACK}).Handshake())
	}
}

func TestSideOpposite(t *testing.T) {
	require.Equal(t, DestinationSide, SourceSide.Opposite())
	require.Equal(t, SourceSide, DestinationSide.Opposite())
	require.Equal(t, NoSide, NoSide.Opposite())
}

func TestSideString(t *testing.T) {
	require.Equal(t, "", NoSide.String())
	require.Equal(t, "source", SourceSide.String())
	require.Equal(t, "destination", DestinationSide.String())
}
