// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVolume(t *testing.T) {
	v := Volume{Packets: 3, Bytes: 200}
	v.Add(Volume{Packets: 2, Bytes: 50})
	require.Equal(t, Volume{Packets: 5, Bytes: 250}, v)
	require.Equal(t, Volume{Packets: 4, Bytes: 150}, v.Sub(Volume{Packets: 1, Bytes: 100}))
	require.Equal(t, Volume{Packets: 5, Bytes: 250}, v, "Sub changes nothing")
}

// A counter that has wrapped has gained what it went on by.
func TestVolumeSubWraps(t *testing.T) {
	last := Volume{Packets: ^uint64(0), Bytes: ^uint64(0) - 9}
	require.Equal(t, Volume{Packets: 3, Bytes: 15}, Volume{Packets: 2, Bytes: 5}.Sub(last))
}

// everyCounter has another value in each place, so that a mix-up shows.
func everyCounter(factor uint64) InterfaceCounters {
	c := InterfaceCounters{
		Rx: Volume{Packets: 1 * factor, Bytes: 2 * factor},
		Tx: Volume{Packets: 3 * factor, Bytes: 4 * factor},
	}
	for i := range c.XDP {
		c.XDP[i] = Volume{Packets: uint64(5+2*i) * factor, Bytes: uint64(6+2*i) * factor}
	}
	return c
}

func TestInterfaceCounters(t *testing.T) {
	c := everyCounter(10)
	c.Add(everyCounter(100))
	require.Equal(t, everyCounter(110), c)
	require.Equal(t, everyCounter(107), c.Sub(everyCounter(3)))
	require.Equal(t, everyCounter(110), c, "Sub changes nothing")
	require.Equal(t, InterfaceCounters{}, c.Sub(c))
}

func TestNames(t *testing.T) {
	require.Equal(t, "ingress", Ingress.String())
	require.Equal(t, "egress", Egress.String())

	var outcomes []string
	for i := range Outcomes {
		outcomes = append(outcomes, Outcome(i).String())
	}
	require.Equal(t, []string{"ok", "truncated", "malformed", "unsupported", "not_ip"}, outcomes)
}

func TestHasTransportPorts(t *testing.T) {
	for _, tt := range []struct {
		key  Key
		want bool
	}{
		{Key{Protocol: TCP, Has: HasPorts}, true},
		{Key{Protocol: UDPLite, Has: HasPorts | HasMPLS}, true},
		{Key{Protocol: ICMP, Has: HasPorts}, false},
		{Key{Protocol: ICMPv6, Has: HasPorts}, false},
		{Key{Protocol: TCP, Has: IsFragment}, false},
	} {
		require.Equal(t, tt.want, tt.key.HasTransportPorts(), "%+v", tt.key)
	}
}

// What was counted, inside a tunnel and with its headers, and what that stands for.
func TestRecordVolumes(t *testing.T) {
	rec := Record{Packets: 3, Bytes: 300, WireBytes: 450}
	require.Equal(t, Volume{Packets: 3, Bytes: 300}, rec.Volume())
	require.Equal(t, Volume{Packets: 3, Bytes: 450}, rec.WireVolume())
	for _, all := range []uint32{0, 1} {
		rec.SampledFrom = all
		require.Equal(t, rec.Volume(), rec.Estimate())
		require.Equal(t, rec.WireVolume(), rec.WireEstimate())
	}
	rec.SampledFrom = 1000
	require.Equal(t, Volume{Packets: 3000, Bytes: 300000}, rec.Estimate())
	require.Equal(t, Volume{Packets: 3000, Bytes: 450000}, rec.WireEstimate())
	require.Equal(t, Volume{Packets: 3, Bytes: 300}, rec.Volume())
	rec.SampledFrom = ^uint32(0)
	require.Equal(t, 450*uint64(^uint32(0)), rec.WireEstimate().Bytes, "in 64 bits")
}

func TestTCPFlags(t *testing.T) {
	require.Equal(t, TCPFlags(0x01), FIN)
	require.Equal(t, TCPFlags(0x02), SYN)
	require.Equal(t, TCPFlags(0x04), RST)
	require.Equal(t, TCPFlags(0x08), PSH)
	require.Equal(t, TCPFlags(0x10), ACK)
}
