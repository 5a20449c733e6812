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
