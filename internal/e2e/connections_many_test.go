// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Many connections in a few seconds, with both ends in one namespace: each is counted
// once at each end, and told of once for each thing that happens to it.
func TestManyConnectionsAreEachCountedOnce(t *testing.T) {
	// The kernel looks long for a free port once half of them are taken to one server.
	const servers, each, size = 4, 5_000, 5
	const connections = servers * each
	l := newLab(t)
	k := l.link(t, "np0")
	k.up(t)
	a := start(t, l.near, watchOwn)
	began := time.Now()
	for i := range servers {
		l.near.shortConnections(t, netip.AddrPortFrom(k.near4, 7002+uint16(i)), each, size)
	}
	t.Logf("%d connections in %s", connections, time.Since(began))

	kinds := [][2]string{{"connect", "client"}, {"accept", "server"}, {"close", "client"}, {"close", "server"}}
	require.Eventually(t, func() bool { // totals are cheaper to look at than records
		return a.sink.sum("netprobe.socket.events", map[string]any{"netprobe.connection.phase": "close"}) >= 2*connections
	}, patience, glance)
	a.requireEventsAreRecords(t, l.near)
	byKind := map[[2]string][]record{}
	for _, r := range a.sink.connections(l.near, map[string]any{"destination.address": k.near4.String()}) {
		kind := [2]string{r.attrs["netprobe.connection.phase"].(string), r.attrs["netprobe.connection.role"].(string)}
		byKind[kind] = append(byKind[kind], r)
	}
	require.Len(t, byKind, len(kinds))
	ids := map[any]int{}
	for _, kind := range kinds {
		ports := map[[2]any]int{}
		for _, r := range byKind[kind] {
			ports[[2]any{r.attrs["source.port"], r.attrs["destination.port"]}]++
			ids[r.attrs["netprobe.flow.community_id"]]++
			if kind[0] == "close" {
				sent, received := int64(size), int64(0)
				if kind[1] == "server" {
					sent, received = received, sent
				}
				require.Equal(t, sent, r.int("netprobe.connection.bytes.sent"))
				require.Equal(t, received, r.int("netprobe.connection.bytes.received"))
				require.Nil(t, r.attrs["error.type"])
			}
			require.Equal(t, executable(t), r.attrs["process.executable.name"])
		}
		require.Len(t, ports, connections, "ports of %v", kind)
		for port, n := range ports {
			require.Equal(t, 1, n, "%v of port %v", kind, port)
		}
	}
	require.Len(t, ids, connections)
	for id, n := range ids {
		require.Equal(t, len(kinds), n, "records of %v", id)
	}
	a.requireLossless(t)
}

// requireEventsAreRecords waits until totals are as many as the records of a namespace
// are: NetProbe's own connections, to the sink and from here, are among both.
func (a *agent) requireEventsAreRecords(t *testing.T, n *namespace) {
	t.Helper()
	type kind struct{ transport, role, phase any }
	kindOf := func(attrs map[string]any) kind {
		return kind{attrs["network.transport"], attrs["netprobe.connection.role"], attrs["netprobe.connection.phase"]}
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		events, ok := a.sink.newest("netprobe.socket.events")
		require.True(c, ok)
		records := map[kind]int64{}
		for _, r := range a.sink.connections(n, nil) {
			records[kindOf(r.attrs)]++
		}
		opened := map[any]int64{}
		for _, dp := range events.Sum().DataPoints().All() {
			k := kindOf(dp.Attributes().AsRaw())
			assert.Equal(c, records[k], dp.IntValue(), "events and records of %v", k)
			if k.phase == "connect" || k.phase == "accept" {
				opened[k.role] += dp.IntValue()
			}
		}
		for role, n := range opened {
			assert.Equal(c, n, a.sink.sum("netprobe.socket.connections", map[string]any{"netprobe.connection.role": role}), role)
		}
	}, patience, 250*time.Millisecond)
}

// shortConnections opens so many to an address of the same namespace, each of which the
// client closes first.
func (n *namespace) shortConnections(t *testing.T, address netip.AddrPort, connections, size int) {
	t.Helper()
	const atATime = 64
	listener := n.listen(t, "tcp", address.String())
	room := make(chan struct{}, atATime)
	failures := make(chan error, connections+1)
	var ends sync.WaitGroup
	ends.Go(func() {
		for range connections {
			conn, err := listener.Accept()
			if err != nil {
				failures <- err
				return
			}
			ends.Go(func() {
				if err := readAll(conn, size); err != nil {
					failures <- err
				}
				<-room
			})
		}
	})
	payload := make([]byte, size)
	require.NoError(t, n.in(func() error {
		for range connections {
			room <- struct{}{}
			if err := shortConnection(address, payload); err != nil {
				return err
			}
		}
		return nil
	}))
	ends.Wait()
	close(failures)
	require.NoError(t, <-failures)
}

// readAll reads what a connection brings until its end, and closes it.
func readAll(conn net.Conn, size int) error {
	got, err := io.Copy(io.Discard, conn)
	if err == nil && got != int64(size) {
		err = fmt.Errorf("%d bytes came", got)
	}
	return errors.Join(err, conn.Close())
}

// shortConnection is in the way of the thread that it runs on: the runtime would take
// longer to wait for it than the kernel takes to make it.
func shortConnection(to netip.AddrPort, payload []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	if err == nil {
		_, err = unix.Write(fd, payload)
	}
	return errors.Join(err, unix.Close(fd))
}
