// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package refdecode

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzDecode wants of any bytes what holds of every packet. longer is how much
// of the packet is out of reach.
func FuzzDecode(f *testing.F) {
	for _, frame := range []string{
		vxlan4(innerTag, "0001 0800", udp4In),
		vxlan4(arpIn),
		ethIPv4 + around4("11", udpTo("12b5", "0c00 0004 0013 8900", innerIPv4, udp4In)),
		ethIPv6 + around6("3c", "1100 0104 0000 0000", udpTo("2118", vni5001, innerIPv6, udp6In)),
		ethTag + "0064 8847 0001 2140" + around4("11", udpTo("17c1", "0200 86dd 0013 8900", "0102 8001 dead beef", udp6In)),
		ethIPv4 + around4("2f", "b000 6558", "abcd 0000 0a0b 0c0d 0000 0007", innerIPv4, udp4In),
		ethIPv4 + around4("2f", "3081 880b 000a 0001"),
		ethIPv6 + around6("29", "6000 0000 0034 2940", innerIP6[20:], udp6In),
		ethIPv4 + ip4("0038", "2000", "04") + udp4In + udp4In,
		ethIPv4 + ip4("0000", "0000", "11") + "c001 12b5 0000 0000" + vni5001 + innerIPv4 + innerIP4 + udpHeader,
		ethPPP + "1100 0001 0036 0057" + ip6("0018", "06") + tcpHeader + data4,
	} {
		f.Add(unhex(f, frame), uint16(0))
		f.Add(unhex(f, frame), uint16(1500))
	}
	f.Fuzz(func(t *testing.T, data []byte, longer uint16) {
		packet := Packet{Data: data, Length: len(data) + int(longer)}
		got := Decode(packet)
		requireSane(t, got, packet.Length)

		packet.OuterOnly = true
		outer := Decode(packet)
		requireSane(t, outer, packet.Length)
		requireOpened(t, outer, got)

		packet.OuterOnly, packet.Length = false, len(data)
		requireCut(t, packet, Decode(packet))
	})
}

// requireSane checks one result against itself.
func requireSane(t *testing.T, r Result, length int) {
	t.Helper()
	require.LessOrEqual(t, r.HeaderLen, length)
	require.GreaterOrEqual(t, r.FlowBytes(length), 0)
	require.LessOrEqual(t, r.FlowBytes(length), length)
	require.Less(t, r.Outcome, NotIP+1)
	if r.Flow == nil {
		require.Equal(t, Result{Outcome: r.Outcome}, r, "nothing without a flow")
		require.NotEqual(t, OK, r.Outcome)
		return
	}
	require.Equal(t, r.Flow.Source.Is4(), r.Flow.Destination.Is4())
	require.False(t, r.Flow.Fragment && r.Flow.HasPorts, "ports on a later fragment")
	if r.Outcome == OK {
		require.NotZero(t, r.HeaderLen, "headers are there")
	}

	if r.Tunnel == nil {
		require.Zero(t, r.InnerOffset)
		require.Zero(t, r.InnerLen)
		require.False(t, r.IsTunnel)
		require.Equal(t, length, r.FlowBytes(length))
		return
	}
	require.Empty(t, r.Refused)
	require.LessOrEqual(t, r.InnerOffset, length)
	require.Positive(t, r.InnerOffset)
	switch {
	case r.IsTunnel:
		require.False(t, r.Tunnel.Nested)
		require.Positive(t, r.HeaderLen)
		require.LessOrEqual(t, r.HeaderLen, r.InnerOffset)
		require.Equal(t, length, r.FlowBytes(length))
	default:
		require.Less(t, r.FlowBytes(length), length)
		require.True(t, r.HeaderLen == 0 || r.HeaderLen > r.InnerOffset)
	}
}

// requireOpened checks what opening a tunnel may change: nothing that is not a
// tunnel, and no tag or label.
func requireOpened(t *testing.T, outer, opened Result) {
	t.Helper()
	if opened.Tunnel == nil {
		refused := opened.Refused
		opened.Refused = ""
		if refused != "" {
			require.Equal(t, outer, opened)
			return
		}
		// the header of a tunnel may be at fault
		if outer.Outcome == OK || outer.Outcome == Truncated {
			outer.Outcome = opened.Outcome
		}
		require.Equal(t, outer, opened)
		return
	}
	require.Contains(t, []Outcome{OK, Truncated}, outer.Outcome, "opened in spite of a fault")
	require.False(t, outer.Flow.Fragment)
	require.Equal(t, outer.Flow.Source, opened.Tunnel.Source)
	require.Equal(t, outer.Flow.Destination, opened.Tunnel.Destination)
	require.Equal(t, outer.Flow.VLANs, opened.Flow.VLANs)
	require.Equal(t, outer.Flow.Labels, opened.Flow.Labels)
	require.LessOrEqual(t, outer.HeaderLen, opened.InnerOffset)
	if outer.Outcome == Truncated {
		require.NotEqual(t, OK, opened.Outcome)
	}
	if opened.IsTunnel {
		require.Equal(t, outer.Flow, opened.Flow)
		require.Equal(t, outer.HeaderLen, opened.HeaderLen)
	}
}

// requireCut cuts a good packet in its headers: what is left is truncated, and
// may know less, but nothing else.
func requireCut(t *testing.T, packet Packet, whole Result) {
	t.Helper()
	if whole.Outcome != OK {
		return
	}
	cuts := []int{whole.HeaderLen - 1, whole.HeaderLen / 2}
	if whole.Tunnel != nil && !whole.IsTunnel {
		cuts = append(cuts, whole.InnerOffset)
	}
	for _, n := range cuts {
		got := Decode(Packet{Data: packet.Data[:n]})
		require.Equal(t, Truncated, got.Outcome, "%d bytes", n)
		if got.Tunnel != nil {
			require.Equal(t, whole.InnerOffset, got.InnerOffset, "%d bytes", n)
			require.Equal(t, whole.Tunnel.ID, got.Tunnel.ID, "%d bytes", n)
		}
		if got.Flow == nil || got.IsTunnel != whole.IsTunnel || (got.Tunnel == nil) != (whole.Tunnel == nil) {
			continue
		}
		require.Equal(t, whole.Flow.Source, got.Flow.Source, "%d bytes", n)
		if got.Flow.HasPorts {
			require.Equal(t, whole.Flow, got.Flow, "%d bytes", n)
		}
	}
}
