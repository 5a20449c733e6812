// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// hosts are two of them, connected, with offloads as veth has them: segments
// cross it as super-packets. Programs are on the near one's interface.
type hosts struct {
	near, far netip.Addr
	index     int
	there     *netnstest.Namespace
}

func newHosts(t *testing.T, near, far string) *hosts {
	t.Helper()
	bpftest.RequireBPF(t)
	netnstest.Enter(t)
	there := netnstest.New(t)
	nearLink, farLink := netnstest.Veth(t, "near", "far")
	there.Adopt(t, farLink)
	h := &hosts{near: netip.MustParseAddr(near), far: netip.MustParseAddr(far), index: nearLink.Attrs().Index, there: there}
	h.configure(t, nearLink.Attrs().Name, h.near)
	there.Do(t, func() { h.configure(t, farLink.Attrs().Name, h.far) })
	return h
}

// configure gives an interface its address, and takes from TCP what makes the
// length of its headers hard to tell afterwards.
func (h *hosts) configure(t *testing.T, name string, addr netip.Addr) {
	t.Helper()
	netnstest.Sysctl(t, "ipv4/tcp_sack", "0")
	if addr.Is6() {
		netnstest.Sysctl(t, "ipv6/conf/"+name+"/disable_ipv6", "0")
	}
	link := netnstest.Up(t, name)
	bits := 24
	if addr.Is6() {
		bits = 64
	}
	at, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", addr, bits))
	require.NoError(t, err)
	at.Flags = unix.IFA_F_NODAD // there is nobody who could have it
	require.NoError(t, netlink.AddrAdd(link, at))
}

// connect gives both ends of a connection from near to far.
func (h *hosts) connect(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	var listener *net.TCPListener
	h.there.Do(t, func() {
		var err error
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(h.far, 443)))
		require.NoError(t, err)
	})
	defer listener.Close()
	client, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(h.far, 443)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	server, err = listener.AcceptTCP()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return client, server
}

// tcpInfo is what the kernel has counted of a connection.
func tcpInfo(t *testing.T, conn *net.TCPConn) *unix.TCPInfo {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	var info *unix.TCPInfo
	var infoErr error
	require.NoError(t, raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}))
	require.NoError(t, infoErr)
	return info
}

// exchange sends so many bytes each way, one after the other, and closes.
func exchange(client, server *net.TCPConn, size int) error {
	payload := make([]byte, size)
	served := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, server)
		if err == nil {
			_, err = server.Write(payload)
		}
		served <- errors.Join(err, server.CloseWrite())
	}()
	_, err := client.Write(payload)
	err = errors.Join(err, client.CloseWrite())
	_, copyErr := io.Copy(io.Discard, client)
	return errors.Join(err, copyErr, <-served)
}

const tcpClosed = 7 // TCP_CLOSE

// A super-packet counts as the segments that the wire carries, with the headers
// of each. The kernel's TCP counts the segments of both ends, and their payload.
func TestTCPSuperPackets(t *testing.T) {
	for _, tt := range []struct {
		name, near, far string
		ip              uint64 // length of an IP header
	}{
		{"ipv4", "192.0.2.1", "192.0.2.2", 20},
		{"ipv6", "2001:db8::1", "2001:db8::2", 40},
	} {
		for _, mode := range []TCMode{TCAuto, TCClsact} {
			t.Run(tt.name+" "+string(mode), func(t *testing.T) {
				h := newHosts(t, tt.near, tt.far)
				opts := defaults()
				opts.TC = mode
				p := load(t, opts)
				_, err := p.Attach(Interface{Index: h.index, Ethernet: true})
				require.NoError(t, err)
				link, err := netlink.LinkByIndex(h.index)
				require.NoError(t, err)

				client, server := h.connect(t)
				require.NoError(t, exchange(client, server, 4<<20))
				netnstest.Eventually(t, func() bool {
					return tcpInfo(t, client).State == tcpClosed && tcpInfo(t, server).State == tcpClosed
				}, "both ends are closed")
				settle(t, p)
				records := drain(t, p)
				requireWire(t, records, flow.Egress, tcpInfo(t, client), 0, tt.ip)
				// the SYN and ACK was sent before there was a socket to count it
				requireWire(t, records, flow.Ingress, tcpInfo(t, server), 1, tt.ip)

				stats := statistics(t, link)
				counters, err := p.InterfaceCounters(h.index)
				require.NoError(t, err)
				require.Greater(t, counters.Tx.Packets, 2*stats.TxPackets, "there were super-packets")
				require.Greater(t, counters.Rx.Packets, 2*stats.RxPackets, "there were super-packets")
			})
		}
	}
}

// requireWire compares one direction of the connection with what the end that
// sends it has counted, and what it has not.
func requireWire(t *testing.T, records []flow.Record, direction flow.Direction, info *unix.TCPInfo, uncounted, ip uint64) {
	t.Helper()
	var got *flow.Record
	for i := range records {
		if rec := &records[i]; rec.Protocol == flow.TCP && rec.Direction == direction {
			require.Nil(t, got, "there is one connection")
			got = rec
		}
	}
	require.NotNil(t, got)
	require.Greater(t, info.Segs_out, uint32(2000))
	require.Equal(t, uint64(info.Segs_out)+uncounted, got.Packets)

	// Ethernet, IP, TCP with timestamps; the SYN has the segment size and the
	// window scale beside.
	header := 14 + ip + 32
	require.Equal(t, info.Bytes_sent+got.Packets*header+8, got.Bytes)
	require.Equal(t, direction == flow.Egress, got.SYNSeen)
	require.Equal(t, direction == flow.Ingress, got.SYNACKSeen)
	require.NotZero(t, got.TCPFlags&flow.FIN)
}

// UDP that is cut into datagrams by the kernel or the device, the last of which
// is shorter.
func TestUDPSuperPackets(t *testing.T) {
	const size, last = 1000, 321
	for _, tt := range []struct {
		name, near, far string
		ip              int
	}{
		{"ipv4", "192.0.2.1", "192.0.2.2", 20},
		{"ipv6", "2001:db8::1", "2001:db8::2", 40},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHosts(t, tt.near, tt.far)
			p := load(t, defaults())
			_, err := p.Attach(Interface{Index: h.index, Ethernet: true})
			require.NoError(t, err)
			h.there.Do(t, func() {
				listener, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.far, 443)))
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, listener.Close()) })
			})
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.far, 443)))
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, conn.Close()) })
			raw, err := conn.SyscallConn()
			require.NoError(t, err)
			require.NoError(t, raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
			}))
			require.NoError(t, err)

			var sent flow.Volume
			for _, datagrams := range []int{1, 2, 10, 40} {
				n, err := conn.Write(make([]byte, (datagrams-1)*size+last))
				require.NoError(t, err)
				require.Equal(t, (datagrams-1)*size+last, n)
				sent.Add(flow.Volume{Packets: uint64(datagrams), Bytes: uint64(n + datagrams*(14+tt.ip+8))})
			}
			var got flow.Volume
			// The first waits until the other end has said its hardware address.
			netnstest.Eventually(t, func() bool {
				for _, rec := range drain(t, p) {
					if rec.Protocol == flow.UDP && rec.Direction == flow.Egress {
						got.Add(flow.Volume{Packets: rec.Packets, Bytes: rec.Bytes})
					}
				}
				return got.Packets >= sent.Packets
			}, "all datagrams are sent")
			require.Equal(t, sent, got)
		})
	}
}
