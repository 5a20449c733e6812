// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTuple(t *testing.T) {
	k := key(SCTP, "192.0.2.1", "2001:db8::1", 40001, 443)
	there := k.Tuple()
	require.Equal(t, Tuple{
		Source: netip.MustParseAddr("192.0.2.1"), Destination: netip.MustParseAddr("2001:db8::1"),
		SourcePort: 40001, DestinationPort: 443, Protocol: SCTP,
	}, there)
	back := reverse(k)
	require.Equal(t, back.Tuple(), there.Reverse())
	require.Equal(t, there, there.Reverse().Reverse())
}

// Where packets were seen is no part of who sends to whom.
func TestTupleIgnoresWhereItWasSeen(t *testing.T) {
	k := key(TCP, "192.0.2.1", "198.51.100.7", 40001, 443)
	there := k.Tuple()
	k.Has |= HasVLAN | InTunnel
	k.VLAN, k.InterfaceIndex, k.Direction, k.From, k.Tunnel = 1, 2, Egress, 3, &Tunnel{Type: GRE}
	require.Equal(t, there, k.Tuple())
}

func TestTupleOrdered(t *testing.T) {
	for _, k := range []Key{
		key(TCP, "192.0.2.1", "198.51.100.7", 443, 40001), key(TCP, "192.0.2.1", "192.0.2.1", 1, 2), key(TCP, "192.0.2.1", "192.0.2.1", 2, 2),
	} {
		there := k.Tuple()
		ordered, forward := there.Ordered()
		require.Equal(t, there, ordered)
		require.True(t, forward)
		ordered, forward = there.Reverse().Ordered()
		require.Equal(t, there, ordered)
		require.Equal(t, there == there.Reverse(), forward)
	}
}

// Both directions are one conversation, and one of them answers.
func TestConversation(t *testing.T) {
	for _, tt := range []struct {
		name        string
		there, back Key
	}{
		{"tcp", key(TCP, "192.0.2.1", "198.51.100.7", 40001, 443), key(TCP, "198.51.100.7", "192.0.2.1", 443, 40001)},
		{"ping", key(ICMP, "198.51.100.7", "192.0.2.1", 8, 0), key(ICMP, "192.0.2.1", "198.51.100.7", 0, 0)},
		{"ping of IPv6", key(ICMPv6, "2001:db8::2", "2001:db8::1", 128, 0), key(ICMPv6, "2001:db8::1", "2001:db8::2", 129, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			there, back := Record{Key: tt.there}, Record{Key: tt.back}
			require.Equal(t, there.Conversation(), back.Conversation())
			require.False(t, there.Answers())
			require.True(t, back.Answers())
		})
	}
	// each asks the other
	a, b := Record{Key: key(ICMP, "198.51.100.7", "192.0.2.1", 8, 0)}, Record{Key: key(ICMP, "192.0.2.1", "198.51.100.7", 8, 0)}
	require.NotEqual(t, a.Conversation(), b.Conversation())
	// types of the other protocol mean something else
	a, b = Record{Key: key(ICMPv6, "2001:db8::2", "2001:db8::1", 8, 0)}, Record{Key: key(ICMPv6, "2001:db8::1", "2001:db8::2", 0, 0)}
	require.NotEqual(t, a.Conversation(), b.Conversation())
	require.False(t, b.Answers())
	// nothing tells who opened it
	a, b = Record{Key: withoutPorts(47, "192.0.2.1", "198.51.100.7")}, Record{Key: withoutPorts(47, "198.51.100.7", "192.0.2.1")}
	require.Equal(t, a.Conversation(), b.Conversation())
	require.False(t, a.Answers())
	require.False(t, b.Answers())
}

func TestConversationThatIsTranslated(t *testing.T) {
	opened := key(TCP, "192.0.2.1", "198.51.100.7", 40001, 443)
	before := Record{Key: opened}
	back := Record{Key: key(TCP, "10.0.0.7", "192.0.2.1", 8443, 40001), NAT: &NAT{Original: opened.Tuple().Reverse(), Reply: true}}
	require.Equal(t, before.Conversation(), back.Conversation())
}
