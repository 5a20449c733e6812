// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// conversation is who opens one with whom, and where the client sends to.
type conversation struct {
	name           string
	version        ipVersion
	client, server *place
	service        *service // nil where the client knows the server's own address
}

// conversations are one of each way through the cluster.
func (c *cluster) conversations() []conversation {
	one, two := c.nodes[0], c.nodes[1]
	remote, local := c.services()
	var all []conversation
	for _, v := range []ipVersion{ipv4, ipv6} {
		for _, way := range []conversation{
			{"pod to pod on its node", v, one.pods[0], one.pods[1], nil},
			{"pod to pod on the other node", v, one.pods[0], two.pods[1], nil},
			{"pod to service with a backend on the other node", v, one.pods[0], remote.backend, &remote},
			{"pod to service with a backend on its node", v, one.pods[0], local.backend, &local},
			{"host to its pod", v, two.host, two.pods[0], nil},
			{"host to pod on the other node", v, one.host, two.pods[1], nil},
			{"host to service with a backend on the other node", v, one.host, remote.backend, &remote},
			{"host to service with a backend on its node", v, one.host, local.backend, &local},
			{"pod to its host", v, one.pods[1], one.host, nil},
			{"pod to outside", v, one.pods[0], c.outside, nil},
			{"outside to pod", v, c.outside, two.pods[1], nil},
		} {
			way.name += " over " + string(v)
			all = append(all, way)
		}
	}
	return all
}

// tunnelled says whether the nodes wrap its packets.
func (c *conversation) tunnelled() bool {
	return c.server.isPod() && c.client.node != nil && c.client.node != c.server.node
}

// view is the tuple of packets to the server, as one of the ends sees it.
type view struct{ source, destination netip.AddrPort }

// flight is the packets of one kind, in one direction of a conversation.
type flight struct {
	*conversation
	kind     string
	toServer bool
	// client and server are the flow as these ends see it; they differ where it
	// is translated.
	client, server flowKey
}

func (f *flight) translated() bool { return f.client != f.server }

// ends gives who sends and who receives.
func (f *flight) ends() (from, to *place) {
	if f.toServer {
		return f.conversation.client, f.conversation.server
	}
	return f.conversation.server, f.conversation.client
}

// flights gives both directions of packets of a kind.
func (c *conversation) flights(kind, transport string, client, server view, ports bool) []flight {
	return []flight{
		{c, kind, true, client.key(transport, ports), server.key(transport, ports)},
		{c, kind, false, client.reverse().key(transport, ports), server.reverse().key(transport, ports)},
	}
}

func (v view) reverse() view { return view{v.destination, v.source} }

func (v view) key(transport string, ports bool) flowKey {
	key := flowKey{transport: transport, source: v.source.Addr(), destination: v.destination.Addr()}
	if ports {
		key.sourcePort, key.destinationPort, key.hasPorts = v.source.Port(), v.destination.Port(), true
	}
	return key
}

// hold holds the conversation once in each protocol that can be.
func (c *conversation) hold(t *testing.T, tcpSize int) []flight {
	t.Helper()
	client, server := c.tcp(t, tcpSize)
	flights := c.flights("TCP", "tcp", client, server, true)
	udpClient, udpServer := c.udp(t, 1, 700, 4000)
	flights = append(flights, c.flights("UDP", "udp", udpClient, udpServer, true)...)
	flights = append(flights, c.flights("later fragments of UDP", "udp", udpClient, udpServer, false)...)
	if c.service == nil {
		flights = append(flights, c.echo(t, client, server)...)
	}
	return flights
}

// targets gives where the server listens and where the client sends to.
func (c *conversation) targets(port, servicePort uint16) (listen, dial string) {
	l := netip.AddrPortFrom(c.server.addrs.of(c.version), port)
	d := l
	if c.service != nil {
		d = netip.AddrPortFrom(c.service.addrs.of(c.version), servicePort)
	}
	return l.String(), d.String()
}

// windowSize is a tenth of what net.core.netdev_max_backlog takes by default, in
// segments of a pod.
const windowSize = 128 << 10

// retransmits is how many segments an end has sent again.
func retransmits(t *testing.T, conn net.Conn) uint32 {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	var info *unix.TCPInfo
	require.NoError(t, raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}))
	require.NoError(t, err)
	return info.Total_retrans
}

// tcp carries size bytes each way over one connection and closes it from the
// client's end.
func (c *conversation) tcp(t *testing.T, size int) (client, server view) {
	t.Helper()
	listen, dial := c.targets(tcpPort, tcpServicePort)
	listener := c.server.listen(t, "tcp", listen)
	defer func() { require.NoError(t, listener.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	near, err := c.client.dial(ctx, "tcp", dial)
	require.NoError(t, err, "connect from %s to %s", c.client.name, dial)
	far, err := listener.Accept()
	require.NoError(t, err)
	for _, conn := range []net.Conn{near, far} {
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		// no more on its way than each queue of the kernel takes
		require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(windowSize))
	}
	exchange(t, near, far, size)
	for _, conn := range []net.Conn{near, far} {
		// The kernel also probes where nothing is lost, so that this is no failure.
		if n := retransmits(t, conn); n > 0 {
			t.Logf("%s: %s sent %d segments again", c.name, conn.LocalAddr(), n)
		}
	}
	require.NoError(t, near.(*net.TCPConn).CloseWrite())
	_, err = io.Copy(io.Discard, far)
	require.NoError(t, err)
	require.NoError(t, far.Close())
	_, err = io.Copy(io.Discard, near)
	require.NoError(t, err)
	require.NoError(t, near.Close())
	return view{addrOf(near.LocalAddr()), addrOf(near.RemoteAddr())}, view{addrOf(far.RemoteAddr()), addrOf(far.LocalAddr())}
}

// udp carries a datagram of each size to the server and back.
func (c *conversation) udp(t *testing.T, sizes ...int) (client, server view) {
	t.Helper()
	listen, dial := c.targets(udpPort, udpServicePort)
	far := c.server.listenPacket(t, "udp", listen)
	defer func() { require.NoError(t, far.Close()) }()
	near, err := c.client.dial(t.Context(), "udp", dial)
	require.NoError(t, err)
	defer func() { require.NoError(t, near.Close()) }()
	deadline := time.Now().Add(patience)
	require.NoError(t, near.SetDeadline(deadline))
	require.NoError(t, far.SetDeadline(deadline))
	buf := make([]byte, 1<<16)
	var peer net.Addr
	for _, size := range sizes {
		_, err := near.Write(buf[:size])
		require.NoError(t, err)
		n, from, err := far.ReadFrom(buf)
		require.NoError(t, err, "%d bytes from %s to %s", size, near.LocalAddr(), dial)
		require.Equal(t, size, n)
		_, err = far.WriteTo(buf[:size], from)
		require.NoError(t, err)
		n, err = near.Read(buf)
		require.NoError(t, err, "%d bytes from %s to %s", size, listen, from)
		require.Equal(t, size, n)
		peer = from
	}
	return view{addrOf(near.LocalAddr()), addrOf(near.RemoteAddr())}, view{addrOf(peer), addrOf(far.LocalAddr())}
}

// echo pings between the addresses that are known from another protocol.
func (c *conversation) echo(t *testing.T, client, server view) []flight {
	t.Helper()
	pairing{client: host{namespace: c.client.namespace}, server: host{addr: c.server.addrs.of(c.version)}}.ping(t, 3, 56)
	transport, request, answer := "icmp", uint16(8), uint16(0)
	if c.version == ipv6 {
		transport, request, answer = "ipv6-icmp", 128, 129
	}
	flights := c.flights("ICMP echo", transport, client, server, false)
	for i := range flights {
		kind := request
		if !flights[i].toServer {
			kind = answer
		}
		for _, key := range []*flowKey{&flights[i].client, &flights[i].server} {
			key.sourcePort, key.hasPorts = kind, true
		}
	}
	return flights
}

// addrOf is the address of a socket.
func addrOf(addr net.Addr) netip.AddrPort {
	a := netip.MustParseAddrPort(addr.String())
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
