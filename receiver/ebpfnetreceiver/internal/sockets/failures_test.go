// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// answering is a device behind which a program of the test's own is the world.
func answering(t testing.TB, answer func(packet []byte) []byte) {
	file := tunnelEnd(t, near4, near6)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 65536)
		for {
			n, err := file.Read(buffer)
			if err != nil {
				return
			}
			if tcpOf(buffer[:n]) == nil {
				continue // IPv6 speaks by itself
			}
			if reply := answer(buffer[:n]); reply != nil {
				_, _ = file.Write(reply)
			}
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, file.Close())
		<-done
	})
}

func serialize(parts ...gopacket.SerializableLayer) []byte {
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		panic(err) // cannot be: the layers are the test's own
	}
	return buffer.Bytes()
}

// back gives the IP header of an answer to a packet.
func back(packet []byte, protocol, protocol6 layers.IPProtocol) gopacket.SerializableLayer {
	if packet[0]>>4 == 4 {
		return &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: packet[16:20], DstIP: packet[12:16]}
	}
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol6, SrcIP: packet[24:40], DstIP: packet[8:24]}
}

func refuse(packet []byte) []byte {
	ip := back(packet, layers.IPProtocolTCP, layers.IPProtocolTCP)
	header := tcpOf(packet)
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(binary.BigEndian.Uint16(header[2:])), DstPort: layers.TCPPort(binary.BigEndian.Uint16(header)),
		Ack: binary.BigEndian.Uint32(header[4:]) + 1, RST: true, ACK: true,
	}
	_ = tcp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return serialize(ip, tcp)
}

func icmp(kind, code uint8) func(packet []byte) []byte {
	return func(packet []byte) []byte {
		ip := back(packet, layers.IPProtocolICMPv4, layers.IPProtocolICMPv6)
		if packet[0]>>4 == 4 {
			return serialize(ip, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, code)}, gopacket.Payload(packet))
		}
		message := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}
		_ = message.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
		return serialize(ip, message, gopacket.Payload(append(make([]byte, 4), packet...)))
	}
}

func silence([]byte) []byte { return nil }

func TestConnectFails(t *testing.T) {
	p := here(t)
	var answer atomic.Pointer[func([]byte) []byte]
	answering(t, func(packet []byte) []byte { return (*answer.Load())(packet) })
	var want Counters
	// older kernels tell the program before they close, which may take the error away
	types, err := btf.LoadKernelSpec()
	require.NoError(t, err)
	var done *btf.Func
	tellsFirst := errors.Is(types.TypeByName("tcp_done_with_error", &done), btf.ErrNotFound)
	const unreachable4, unreachable6 = 3, 1
	for _, test := range []struct {
		name     string
		to       netip.Addr
		answer   func([]byte) []byte
		err      error
		want     flow.Failure
		received bool // a reset
	}{
		{"reset", far4, refuse, unix.ECONNREFUSED, flow.Refused, true},
		{"port unreachable", far4, icmp(unreachable4, 3), unix.ECONNREFUSED, flow.Refused, false},
		{"network unreachable", far4, icmp(unreachable4, 0), unix.ENETUNREACH, flow.Unreachable, false},
		{"host unreachable", far4, icmp(unreachable4, 1), unix.EHOSTUNREACH, flow.Unreachable, false},
		{"protocol unreachable", far4, icmp(unreachable4, 2), unix.ENOPROTOOPT, flow.Unreachable, false},
		{"network unknown", far4, icmp(unreachable4, 6), unix.ENETUNREACH, flow.Unreachable, false},
		{"host unknown", far4, icmp(unreachable4, 7), unix.EHOSTDOWN, flow.Unreachable, false},
		{"host isolated", far4, icmp(unreachable4, 8), unix.ENONET, flow.Unreachable, false},
		{"network prohibited", far4, icmp(unreachable4, 9), unix.ENETUNREACH, flow.Unreachable, false},
		{"host prohibited", far4, icmp(unreachable4, 10), unix.EHOSTUNREACH, flow.Unreachable, false},
		{"admin prohibited", far4, icmp(unreachable4, 13), unix.EHOSTUNREACH, flow.Unreachable, false},
		{"time exceeded", far4, icmp(11, 0), unix.EHOSTUNREACH, flow.Unreachable, false},
		{"source route failed", far4, icmp(unreachable4, 5), unix.EOPNOTSUPP, flow.OtherFailure, false},
		{"reset, IPv6", far6, refuse, unix.ECONNREFUSED, flow.Refused, true},
		{"no route, IPv6", far6, icmp(unreachable6, 0), unix.ENETUNREACH, flow.Unreachable, false},
		{"prohibited, IPv6", far6, icmp(unreachable6, 1), unix.EACCES, flow.Unreachable, false},
		{"not a neighbor, IPv6", far6, icmp(unreachable6, 2), unix.EHOSTUNREACH, flow.Unreachable, false},
		{"address unreachable, IPv6", far6, icmp(unreachable6, 3), unix.EHOSTUNREACH, flow.Unreachable, false},
		{"port unreachable, IPv6", far6, icmp(unreachable6, 4), unix.ECONNREFUSED, flow.Refused, false},
		{"policy, IPv6", far6, icmp(unreachable6, 5), unix.EACCES, flow.Unreachable, false},
		{"route rejects, IPv6", far6, icmp(unreachable6, 6), unix.EACCES, flow.Unreachable, false},
	} {
		t.Log(test.name) // in one namespace, since subtests are in other threads
		answer.Store(&test.answer)
		to := netip.AddrPortFrom(test.to, 4321)
		_, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
		require.ErrorIs(t, err, test.err)

		c := ends(t, p, 1)[0]
		if !test.received && tellsFirst && c.Failure == flow.Unreachable {
			test.want = flow.Unreachable
		}
		require.Equal(t, test.want, c.Failure)
		require.False(t, c.Established || c.Vanished || c.Adopted || c.ResetSent)
		require.Equal(t, test.received, c.ResetReceived)
		require.Equal(t, flow.Client, c.Role)
		require.Equal(t, to, c.Remote)
		require.Equal(t, map[bool]netip.Addr{true: near4, false: near6}[test.to.Is4()], c.Local.Addr())
		require.NotZero(t, c.Local.Port())
		require.EqualValues(t, os.Getpid(), c.Process.PID)
		require.True(t, c.Closed.After(c.Started))
		require.Zero(t, c.EstablishedAt)
		require.Zero(t, c.Latency)
		want.Failed[test.want]++
		require.Equal(t, want, counters(t, p, flow.TCP))
		noMore(t, p)
	}
	require.Equal(t, snmp(t)["Tcp.AttemptFails"], sum(want.Failed[:]))
}

func sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// Nobody answers: the kernel gives up, or the program does before or after the
// kernel sends again.
func TestConnectUnanswered(t *testing.T) {
	t.Parallel()
	p := here(t)
	netnstest.Sysctl(t, "ipv4/tcp_syn_retries", "1")
	answering(t, silence)
	const kernel, program, atOnce = 1, 2, 3 // ports
	began := time.Now()
	fds := map[int][]int{}
	for _, port := range []int{kernel, program, atOnce} {
		for _, to := range []unix.Sockaddr{&unix.SockaddrInet4{Port: port, Addr: far4.As4()}, &unix.SockaddrInet6{Port: port, Addr: far6.As16()}} {
			domain := unix.AF_INET
			if _, ok := to.(*unix.SockaddrInet6); ok {
				domain = unix.AF_INET6
			}
			fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
			require.NoError(t, err)
			require.ErrorIs(t, unix.Connect(fd, to), unix.EINPROGRESS)
			fds[port] = append(fds[port], fd)
		}
	}
	giveUp := func(port int) {
		for _, fd := range fds[port] {
			require.NoError(t, unix.Close(fd))
		}
	}
	giveUp(atOnce)
	conns := ends(t, p, 2)
	netnstest.Eventually(t, func() bool { return time.Since(began) > 1300*time.Millisecond }, "the kernel to send again")
	giveUp(program)
	conns = append(conns, ends(t, p, 2)...)
	conns = append(conns, ends(t, p, 2)...)
	giveUp(kernel) // which ends nothing
	noMore(t, p)

	var retransmits uint64
	for _, c := range conns {
		retransmits += uint64(c.Now.Retransmits)
		port := c.Remote.Port()
		require.Equal(t, port != atOnce, c.Now.Retransmits > 0)
		require.Equal(t, map[uint16]flow.Failure{kernel: flow.TimedOut, program: flow.TimedOut, atOnce: flow.Canceled}[port], c.Failure)
	}
	require.Equal(t, snmp(t)["Tcp.RetransSegs"], retransmits)
	var want Counters
	want.Failed[flow.TimedOut], want.Failed[flow.Canceled] = 4, 2
	require.Equal(t, want, counters(t, p, flow.TCP))
}

// A program that does not wait: its context is canceled.
func TestConnectCanceled(t *testing.T) {
	p := here(t)
	sent := make(chan struct{}, 8)
	answering(t, func([]byte) []byte {
		sent <- struct{}{}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-sent
		cancel()
	}()
	_, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(far4, 1).String())
	require.Error(t, err)
	require.Equal(t, flow.Canceled, ends(t, p, 1)[0].Failure)
	noMore(t, p)
}

// A socket may connect again after it failed: each is a connection of its own.
func TestConnectAgain(t *testing.T) {
	p := here(t)
	l := listen(t, "127.0.0.1:0")
	port := l.Addr().(*net.TCPAddr).Port
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	to := func(port int) error {
		return unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	}
	const nobody = 1
	const times = 3
	for range times {
		require.ErrorIs(t, to(nobody), unix.ECONNREFUSED)
	}
	require.NoError(t, to(port))
	server := accept(t, l)
	require.NoError(t, unix.Close(fd))
	readEnd(t, server)
	require.NoError(t, server.Close())

	ids := map[flow.ConnectionID]bool{}
	var refused int
	for _, c := range ends(t, p, times+2) {
		ids[c.ID] = true
		if c.Failure == flow.Refused {
			refused++
			require.EqualValues(t, nobody, c.Remote.Port())
		} else {
			require.Equal(t, flow.NotFailed, c.Failure)
			require.True(t, c.Established)
		}
	}
	require.Len(t, ids, times+2)
	require.Equal(t, times, refused)
	want := Counters{Opened: [flow.Roles]uint64{1, 1}, Closed: [flow.Roles]uint64{1, 1}}
	want.Failed[flow.Refused] = times
	require.Equal(t, want, counters(t, p, flow.TCP))
	noMore(t, p)
}

// No port is left to connect from: nothing is sent, and nobody canceled.
func TestConnectFindsNoPort(t *testing.T) {
	p := here(t)
	netnstest.Sysctl(t, "ipv4/ip_local_port_range", "40000 40000")
	l := listen(t, "127.0.0.1:1234")
	dial(t, l)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.ErrorIs(t, unix.Connect(fd, &unix.SockaddrInet4{Port: 1234, Addr: [4]byte{127, 0, 0, 1}}), unix.EADDRNOTAVAIL)
	c := ends(t, p, 1)[0]
	require.Equal(t, flow.OtherFailure, c.Failure)
	require.Zero(t, c.Now.SegmentsSent)
	require.EqualValues(t, 1, counters(t, p, flow.TCP).Failed[flow.OtherFailure])
}

// The host itself knows that there is no neighbor.
func TestConnectToNobody(t *testing.T) {
	t.Parallel()
	p := here(t)
	link, _ := netnstest.Veth(t, "veth0", "veth1")
	addAddress(t, link, "10.9.0.1/24")
	netnstest.Sysctl(t, "ipv4/neigh/veth0/mcast_solicit", "1")
	netnstest.Sysctl(t, "ipv4/neigh/veth0/retrans_time_ms", "50")
	_, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(10, 9, 0, 2), Port: 1})
	require.ErrorIs(t, err, unix.EHOSTUNREACH)
	require.Equal(t, flow.Unreachable, ends(t, p, 1)[0].Failure)
	noMore(t, p)
}
