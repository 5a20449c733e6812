// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// listenAt listens with a short queue. Without an address the kernel chooses the port.
func listenAt(t testing.TB, at unix.Sockaddr, domain, backlog int) (fd, port int) {
	fd, err := unix.Socket(domain, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	if at != nil {
		require.NoError(t, unix.Bind(fd, at))
	}
	require.NoError(t, unix.Listen(fd, backlog))
	name, err := unix.Getsockname(fd)
	require.NoError(t, err)
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		port = name.Port
	case *unix.SockaddrInet6:
		port = name.Port
	}
	return fd, port
}

// connectAtOnce does not wait for an answer.
func connectAtOnce(t testing.TB, to unix.Sockaddr, domain int) int {
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	require.ErrorIs(t, unix.Connect(fd, to), unix.EINPROGRESS)
	return fd
}

func listeners(conns []flow.Connection) (of []flow.Connection) {
	for _, c := range conns {
		if c.Listens {
			of = append(of, c)
		}
	}
	return of
}

// What finds no room in the queue of a program that does not accept.
func TestListenDrops(t *testing.T) {
	for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
		p := here(t)
		var fd, port int
		var to unix.Sockaddr
		local := netip.MustParseAddr("127.0.0.1")
		if domain == unix.AF_INET {
			fd, port = listenAt(t, &unix.SockaddrInet4{Addr: local.As4()}, domain, 1)
			to = &unix.SockaddrInet4{Addr: local.As4(), Port: port}
		} else {
			local = netip.IPv6Loopback()
			fd, port = listenAt(t, &unix.SockaddrInet6{Addr: local.As16()}, domain, 1)
			to = &unix.SockaddrInet6{Addr: local.As16(), Port: port}
		}
		for range 12 {
			connectAtOnce(t, to, domain)
		}
		var drops uint64
		netnstest.Eventually(t, func() bool { // they are sent again meanwhile
			all := snmp(t)
			require.Equal(t, all["TcpExt.ListenOverflows"], all["TcpExt.ListenDrops"])
			drops = all["TcpExt.ListenDrops"]
			found := listeners(read(t, p).Live)
			require.Len(t, found, 1)
			require.Equal(t, netip.AddrPortFrom(local, uint16(port)), found[0].Local)
			require.Zero(t, found[0].Remote.Port())
			require.EqualValues(t, os.Getpid(), found[0].Process.PID)
			require.Equal(t, flow.Server, found[0].Role)
			return drops >= 9 && uint64(found[0].Now.ListenDrops) == drops
		}, "drops as the namespace counts them")

		require.NoError(t, unix.Close(fd))
		drops = snmp(t)["TcpExt.ListenDrops"]
		var ended []flow.Connection
		netnstest.Eventually(t, func() bool {
			ended = append(ended, listeners(read(t, p).Closed)...)
			return len(ended) > 0
		}, "the listener to end")
		require.Len(t, ended, 1)
		require.EqualValues(t, drops, ended[0].Now.ListenDrops)
		require.NotZero(t, ended[0].Closed)
		require.Equal(t, flow.NotFailed, ended[0].Failure)
		require.Empty(t, listeners(read(t, p).Live))
	}
}

// Those that were dropped before the probe was there are in Begin.
func TestListenDropsBefore(t *testing.T) {
	inNamespace(t)
	fd, port := listenAt(t, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, unix.AF_INET, 1)
	defer unix.Close(fd)
	for range 6 {
		connectAtOnce(t, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}, unix.AF_INET)
	}
	before := snmp(t)["TcpExt.ListenDrops"]
	require.NotZero(t, before)
	p := load(t)
	need(t, p, ExistingHere)
	l := listeners(read(t, p).Live)[0]
	require.GreaterOrEqual(t, uint64(l.Begin.ListenDrops), before)
	require.LessOrEqual(t, uint64(l.Now.ListenDrops), snmp(t)["TcpExt.ListenDrops"])
	require.EqualValues(t, os.Getpid(), l.Process.PID)
}

// The kernel tells that a socket listens before it has chosen the port.
func TestListenAnywhere(t *testing.T) {
	p := here(t)
	fd, port := listenAt(t, nil, unix.AF_INET, 10)
	found := listeners(read(t, p).Live)
	require.Len(t, found, 1)
	require.EqualValues(t, port, found[0].Local.Port())
	require.NoError(t, unix.Close(fd))
	var ended []flow.Connection
	netnstest.Eventually(t, func() bool {
		ended = listeners(read(t, p).Closed)
		return len(ended) > 0
	}, "the listener to end")
	require.EqualValues(t, port, ended[0].Local.Port())
	require.Equal(t, found[0].ID, ended[0].ID)
}

// A listener that goes and one that comes in its place are two.
func TestListenAgain(t *testing.T) {
	p := here(t)
	first := listen(t, "127.0.0.1:0")
	address := first.Addr().String()
	require.NoError(t, first.Close())
	second := listen(t, address)
	client, server := dial(t, second)
	finish(t, client, server)
	_, s := byRole(t, ends(t, p, 2))
	require.EqualValues(t, os.Getpid(), s.Process.PID)
	found := listeners(read(t, p).Live)
	require.Len(t, found, 1)
	require.Equal(t, address, net.TCPAddrFromAddrPort(found[0].Local).String())
}
