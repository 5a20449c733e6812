// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package listeners

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

func to(protocol flow.Protocol, destination string) flow.Tuple {
	d := netip.MustParseAddrPort(destination)
	return flow.Tuple{
		Source: d.Addr(), SourcePort: 50000, Destination: d.Addr(), DestinationPort: d.Port(), Protocol: protocol,
	}
}

func TestSocketsThatWait(t *testing.T) {
	bpftest.RequireBPF(t)
	netnstest.Enter(t)
	netnstest.Up(t, "lo")
	link, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	for _, addr := range []string{"10.1.2.3/32", "fd01::3/128"} {
		a, err := netlink.ParseAddr(addr)
		require.NoError(t, err)
		a.Flags = unix.IFA_F_NODAD // usable at once
		require.NoError(t, netlink.AddrAdd(link, a))
	}
	listen := func(network, address string) {
		l, err := net.Listen(network, address)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, l.Close()) })
		go func() { // so that the connection below is taken
			if c, err := l.Accept(); err == nil {
				t.Cleanup(func() { _ = c.Close() })
			}
		}()
	}
	bind := func(network, address string) {
		l, err := net.ListenPacket(network, address)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, l.Close()) })
	}
	listen("tcp4", "10.1.2.3:80")
	listen("tcp4", "0.0.0.0:81")
	listen("tcp6", "[fd01::3]:82")
	listen("tcp", ":83")
	bind("udp4", "10.1.2.3:53")
	bind("udp6", "[::]:54")
	client, err := net.Dial("tcp4", "10.1.2.3:80")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	connected, err := net.Dial("udp4", "10.1.2.3:53")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, connected.Close()) })

	table := &Table{}
	require.False(t, table.Listening(to(flow.TCP, "10.1.2.3:80")), "before the first look")
	require.NoError(t, table.Refresh())

	for _, tc := range []struct {
		protocol    flow.Protocol
		destination string
		want        bool
	}{
		{flow.TCP, "10.1.2.3:80", true},
		{flow.TCP, "10.9.9.9:80", false}, // not its address
		{flow.UDP, "10.1.2.3:80", false},
		{flow.TCP, "10.1.2.3:81", true},
		{flow.TCP, "127.0.0.1:81", true},
		{flow.TCP, "10.9.9.9:81", false}, // all addresses, but this is none of ours
		{flow.TCP, "[fd01::3]:82", true},
		{flow.TCP, "10.1.2.3:83", true},
		{flow.TCP, "[fd01::3]:83", true},
		{flow.TCP, "[fd01::4]:83", false},
		{flow.UDP, "10.1.2.3:53", true},
		{flow.UDP, "[fd01::3]:54", true},
		{flow.TCP, client.LocalAddr().String(), false}, // has begun, does not wait
		{flow.UDP, connected.LocalAddr().String(), false},
		{flow.TCP, "10.1.2.3:9", false},
	} {
		assert.Equal(t, tc.want, table.Listening(to(tc.protocol, tc.destination)), "%s %s", tc.protocol, tc.destination)
	}
}

func TestMessagesThatAreCut(t *testing.T) {
	d := dumps[0]
	for n := range messageLen {
		_, ok := d.parse(make([]byte, n))
		require.False(t, ok)
	}
	_, ok := d.parse(make([]byte, messageLen))
	require.False(t, ok, "port 0")
}
