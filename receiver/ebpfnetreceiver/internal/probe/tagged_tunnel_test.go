// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// tunnelOptions are defaults with every tunnel opened.
func tunnelOptions() Options {
	opts := defaults()
	opts.Tunnels = TunnelOptions{
		VXLANPorts: []uint16{packets.VXLANPort}, GenevePorts: []uint16{packets.GenevePort},
		GRE: true, IPIP: true, MaxEntries: 64,
	}
	return opts
}

// A tag that the kernel keeps beside the frame is on the wire before a tunnel's
// headers: of the frame's bytes it is one of those that are not the inner
// packet's.
func TestTunnelBehindAVLANTag(t *testing.T) {
	l := newLab(t)
	p := load(t, tunnelOptions())
	l.attach(t, p)
	const inner = 14 + 20 + 8 + 100
	frame := packets.Build(t,
		packets.Ethernet(layers.EthernetTypeDot1Q), packets.VLAN(100, layers.EthernetTypeIPv4),
		packets.IPv4(layers.IPProtocolUDP), packets.UDPTunnel(packets.VXLANPort), packets.VXLAN(packets.VNI),
		packets.InnerEthernet(layers.EthernetTypeIPv4), packets.InnerIPv4(layers.IPProtocolUDP), packets.UDP(), packets.Payload(100))

	for _, direction := range []flow.Direction{flow.Ingress, flow.Egress} {
		if direction == flow.Ingress {
			l.sendAsIngress(t, p, frame, frame)
		} else {
			l.sendAsEgress(t, frame, frame)
		}
		records := drain(t, p)
		require.Len(t, records, 1)
		rec := records[0]
		require.Equal(t, direction, rec.Key.Direction)
		require.Equal(t, flow.HasPorts|flow.HasVLAN|flow.InTunnel, rec.Key.Has)
		require.Equal(t, uint16(100), rec.Key.VLAN)
		require.Equal(t, packets.InnerSource4, rec.Key.Source)
		require.Equal(t, packets.InnerDestination4, rec.Key.Destination)
		require.NotNil(t, rec.Key.Tunnel)
		require.Equal(t, flow.Tunnel{
			Source: packets.Source4, Destination: packets.Destination4, ID: packets.VNI, HasID: true, Type: flow.VXLAN,
		}, *rec.Key.Tunnel)
		require.Equal(t, flow.Volume{Packets: 2, Bytes: 2 * inner}, rec.Volume())
		require.Equal(t, volumeOf(frame, frame), rec.WireVolume())
	}
}
