// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// Devices without link-layer header count from the network header on.
func TestTun(t *testing.T) {
	for _, mode := range []TCMode{TCAuto, TCClsact} {
		t.Run(string(mode), func(t *testing.T) {
			bpftest.RequireBPF(t)
			netnstest.Enter(t)
			tun, file := netnstest.Tun(t, "tun0")
			// the namespace's other device stands for it in the lab
			l := &lab{near: tun, far: tun}
			opts := defaults()
			opts.TC = mode
			p := load(t, opts)
			_, err := p.Attach(Interface{Index: l.index(), Ethernet: false})
			require.NoError(t, err)

			four := packets.Build(t, packets.IPv4(layers.IPProtocolTCP), packets.TCP(0x02))
			six := packets.Build(t, packets.IPv6(layers.IPProtocolUDP), packets.UDP(), packets.Payload(50))
			icmp6 := packets.Build(t, packets.IPv6(layers.IPProtocolICMPv6), packets.ICMPv6(128, 0), packets.Payload(60))
			want := flow.InterfaceCounters{Rx: volumeOf(four, six, six, icmp6), Tx: volumeOf(four, four, six, icmp6)}
			for _, packet := range [][]byte{four, six, six, icmp6} {
				n, err := file.Write(packet)
				require.NoError(t, err)
				require.Equal(t, len(packet), n)
			}
			settle(t, p)
			ping := l.key6(flow.ICMPv6, flow.Ingress)
			ping.SourcePort, ping.DestinationPort = 128, 0
			require.Equal(t, map[flow.Key]flow.Volume{
				l.key4(flow.TCP, flow.Ingress): volumeOf(four),
				l.key6(flow.UDP, flow.Ingress): volumeOf(six, six),
				ping:                           volumeOf(icmp6),
			}, volumes(t, drain(t, p)))

			openType(t, tun, unix.SOCK_DGRAM, unix.ETH_P_IP).sendAll(t, four, four)
			openType(t, tun, unix.SOCK_DGRAM, unix.ETH_P_IPV6).sendAll(t, six, icmp6)
			ping.Direction = flow.Egress
			require.Equal(t, map[flow.Key]flow.Volume{
				l.key4(flow.TCP, flow.Egress): volumeOf(four, four),
				l.key6(flow.UDP, flow.Egress): volumeOf(six),
				ping:                          volumeOf(icmp6),
			}, volumes(t, drain(t, p)))

			got, err := p.InterfaceCounters(l.index())
			require.NoError(t, err)
			require.Equal(t, want, got)
			stats := statistics(t, tun)
			require.Equal(t, got.Rx, flow.Volume{Packets: stats.RxPackets, Bytes: stats.RxBytes})
		})
	}
}
