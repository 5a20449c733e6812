// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

var multicastGroup = netip.MustParseAddrPort("239.192.1.2:5005")

// listenMulticast gives a socket that hears the group on an interface.
func listenMulticast(t *testing.T, name string) *net.UDPConn {
	t.Helper()
	iface, err := net.InterfaceByName(name)
	require.NoError(t, err)
	conn, err := net.ListenMulticastUDP("udp4", iface, net.UDPAddrFromAddrPort(multicastGroup))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	return conn
}

// dialMulticast gives a socket that sends to the group on the interface with
// the address, and to listeners on this host.
func dialMulticast(t *testing.T, from netip.Addr) *net.UDPConn {
	t.Helper()
	conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 5004)), net.UDPAddrFromAddrPort(multicastGroup))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	var setErr error
	require.NoError(t, raw.Control(func(fd uintptr) {
		setErr = unix.SetsockoptInet4Addr(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, from.As4())
		if setErr == nil {
			setErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 1)
		}
	}))
	require.NoError(t, setErr)
	return conn
}

// Multicast that is sent here and heard here comes in on the interface as a
// copy that never was on the wire. It is neither the interface's nor a flow's.
func TestMulticastHeardHere(t *testing.T) {
	for _, mode := range []TCMode{TCAuto, TCClsact} {
		t.Run(string(mode), func(t *testing.T) {
			h := newHosts(t, "192.0.2.1", "192.0.2.2")
			listener := listenMulticast(t, "near")
			here := dialMulticast(t, h.near)
			var there *net.UDPConn
			h.there.Do(t, func() { there = dialMulticast(t, h.far) })

			opts := defaults()
			opts.TC = mode
			p := load(t, opts)
			_, err := p.Attach(Interface{Index: h.index, Ethernet: true})
			require.NoError(t, err)
			link, err := netlink.LinkByIndex(h.index)
			require.NoError(t, err)
			before := statistics(t, link)

			const sent = 5
			hear := func(conn *net.UDPConn, from netip.Addr) {
				t.Helper()
				for range sent {
					_, err := conn.Write(make([]byte, 100))
					require.NoError(t, err)
					buf := make([]byte, 200)
					n, sender, err := listener.ReadFromUDPAddrPort(buf)
					require.NoError(t, err)
					require.Equal(t, 100, n)
					require.Equal(t, from, sender.Addr().Unmap())
				}
			}
			hear(here, h.near)
			hear(there, h.far)
			settle(t, p)

			frames := flow.Volume{Packets: sent, Bytes: sent * (14 + 20 + 8 + 100)}
			key := func(source netip.Addr, direction flow.Direction) flow.Key {
				return flow.Key{
					Source: source, Destination: multicastGroup.Addr(), SourcePort: 5004, DestinationPort: 5005,
					Protocol: flow.UDP, Has: flow.HasPorts, Direction: direction, InterfaceIndex: uint32(h.index),
				}
			}
			var ingress []flow.Record
			for _, rec := range drain(t, p) {
				if rec.Key.Direction == flow.Ingress {
					ingress = append(ingress, rec)
					continue
				}
				if rec.Key.Protocol == flow.UDP { // beside it is what the kernel tells of the group
					require.Equal(t, key(h.near, flow.Egress), rec.Key)
					require.Equal(t, frames, flow.Volume{Packets: rec.Packets, Bytes: rec.Bytes})
				}
			}
			require.Equal(t, map[flow.Key]flow.Volume{key(h.far, flow.Ingress): frames}, volumes(t, ingress))

			counters, err := p.InterfaceCounters(h.index)
			require.NoError(t, err)
			require.Equal(t, frames, counters.Rx)
			after := statistics(t, link)
			require.Equal(t, flow.Volume{
				Packets: after.RxPackets - before.RxPackets, Bytes: after.RxBytes - before.RxBytes,
			}, counters.Rx)
			health, err := p.Health()
			require.NoError(t, err)
			require.Equal(t, frames, health.Hooks[HookTCIngress].Seen())
		})
	}
}
