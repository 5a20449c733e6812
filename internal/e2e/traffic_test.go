// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// host is one end of some traffic.
type host struct {
	*namespace
	addr netip.Addr
}

func (h host) endpoint(port string) string {
	return net.JoinHostPort(h.addr.String(), port)
}

// pairing is who opens a conversation with whom.
type pairing struct {
	name           string
	client, server host
}

// pairings are both IP versions, opened from either end of the link.
func (k *link) pairings() []pairing {
	near4, far4 := host{k.lab.near, k.near4}, host{k.lab.far, k.far4}
	near6, far6 := host{k.lab.near, k.near6}, host{k.lab.far, k.far6}
	return []pairing{
		{"IPv4 to far", near4, far4},
		{"IPv4 to near", far4, near4},
		{"IPv6 to far", near6, far6},
		{"IPv6 to near", far6, near6},
	}
}

// connect opens a TCP connection and gives its two ends.
func (p pairing) connect(t *testing.T) (client, server net.Conn) {
	t.Helper()
	listener := p.server.listen(t, "tcp", p.server.endpoint("0"))
	accepted := make(chan net.Conn, 1)
	go func() {
		if conn, err := listener.Accept(); err == nil {
			accepted <- conn
		}
		close(accepted)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := p.client.dial(ctx, "tcp", listener.Addr().String())
	require.NoError(t, err)
	server, ok := <-accepted
	require.True(t, ok, "accept %s", listener.Addr())
	for _, conn := range []net.Conn{client, server} {
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		t.Cleanup(func() { ignoreClosed(t, conn.Close()) })
	}
	return client, server
}

// exchange sends size bytes over the connection and back.
func exchange(t *testing.T, client, server net.Conn, size int) {
	t.Helper()
	payload := bytes.Repeat([]byte{0x5a}, size)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		written := make(chan error)
		go func() {
			_, err := way[0].Write(payload)
			written <- err
		}()
		_, err := io.CopyN(io.Discard, way[1], int64(size))
		require.NoError(t, err)
		require.NoError(t, <-written)
	}
}

// tcp carries size bytes each way over one connection.
func (p pairing) tcp(t *testing.T, size int) {
	t.Helper()
	client, server := p.connect(t)
	exchange(t, client, server, size)
	require.NoError(t, client.Close())
	require.NoError(t, server.Close())
}

// udp carries a datagram of each size to the server and back.
func (p pairing) udp(t *testing.T, sizes ...int) {
	t.Helper()
	server := p.server.listenPacket(t, "udp", p.server.endpoint("0"))
	client := p.client.listenPacket(t, "udp", p.client.endpoint("0"))
	buf := make([]byte, 1<<16)
	for _, size := range sizes {
		for _, way := range [][2]net.PacketConn{{client, server}, {server, client}} {
			_, err := way[0].WriteTo(buf[:size], way[1].LocalAddr())
			require.NoError(t, err)
			require.NoError(t, way[1].SetReadDeadline(time.Now().Add(patience)))
			n, from, err := way[1].ReadFrom(buf)
			require.NoError(t, err)
			require.Equal(t, size, n)
			require.Equal(t, way[0].LocalAddr().String(), from.String())
		}
	}
}

// ping sends echo requests with size bytes and waits for the answers.
func (p pairing) ping(t *testing.T, count, size int) {
	t.Helper()
	p.client.execute(t, "", "ping", "-n", "-c", strconv.Itoa(count), "-i", "0.01", "-s", strconv.Itoa(size), p.server.addr.String())
}
