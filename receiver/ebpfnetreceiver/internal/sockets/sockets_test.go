// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netnstest"
)

// here watches the sockets of a new network namespace, which the test is in.
func here(t *testing.T) *Probe {
	bpftest.RequireBPF(t)
	netnstest.Enter(t)
	netnstest.Up(t, "lo")
	return load(t)
}

func load(t *testing.T) *Probe {
	netns, err := kernel.ThreadNetNS()
	require.NoError(t, err)
	p, err := Load(Options{MaxEntries: 4096, RingBufferBytes: 1 << 20, NetNS: uint32(netns)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// ends waits until so many connections have ended.
func ends(t *testing.T, p *Probe, n int) []flow.Connection {
	var closed []flow.Connection
	netnstest.Eventually(t, func() bool {
		r, err := p.Read()
		require.NoError(t, err)
		for _, c := range r.Closed {
			if !c.Listens {
				closed = append(closed, c)
			}
		}
		return len(closed) >= n
	}, "connections to end")
	require.Len(t, closed, n)
	return closed
}

func TestConnection(t *testing.T) {
	p := here(t)
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer listener.Close()
	client, err := net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	require.NoError(t, err)
	server, err := listener.AcceptTCP()
	require.NoError(t, err)
	before := time.Now()

	const up, down = 100_000, 7
	go func() {
		_, _ = client.Write(make([]byte, up))
		_ = client.CloseWrite()
	}()
	n, err := io.Copy(io.Discard, server)
	require.NoError(t, err)
	require.EqualValues(t, up, n)
	_, err = server.Write(make([]byte, down))
	require.NoError(t, err)
	require.NoError(t, server.Close())
	got, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Len(t, got, down)
	require.NoError(t, client.Close())

	byRole := map[flow.Role]flow.Connection{}
	for _, c := range ends(t, p, 2) {
		byRole[c.Role] = c
		require.Equal(t, flow.TCP, c.Protocol)
		require.True(t, c.Established)
		require.False(t, c.Adopted || c.Vanished || c.ResetSent || c.ResetReceived || c.Listens)
		require.Equal(t, flow.NotFailed, c.Failure)
		require.EqualValues(t, os.Getpid(), c.Process.PID)
		require.Contains(t, c.Process.Name, ".test")
		require.WithinDuration(t, before, c.EstablishedAt, time.Second)
		require.True(t, c.Closed.After(c.EstablishedAt))
		require.Positive(t, c.RTT)
	}
	c, s := byRole[flow.Client], byRole[flow.Server]
	require.Equal(t, client.LocalAddr().String(), c.Local.String())
	require.Equal(t, c.Local, s.Remote)
	require.Equal(t, c.Remote, s.Local)
	require.EqualValues(t, up, c.Now.BytesSent)
	require.EqualValues(t, up, s.Now.BytesReceived)
	require.EqualValues(t, down, s.Now.BytesSent)
	require.EqualValues(t, down, c.Now.BytesReceived)
	require.Equal(t, c.Now.SegmentsSent, s.Now.SegmentsReceived)
	require.Positive(t, c.Latency)
	require.Equal(t, c.EstablishedAt.Sub(c.Started), c.Latency)

	counters, err := p.Counters()
	require.NoError(t, err)
	require.Equal(t, [flow.Roles]uint64{1, 1}, counters[flow.TCP].Opened)
	require.Equal(t, [flow.Roles]uint64{1, 1}, counters[flow.TCP].Closed)
}
