// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace without a name, with a thread in it. It is
// gone when the test's process is, however that ends.
type namespace struct {
	handle netns.NsHandle
	links  *netlink.Handle
	inode  uint64
	work   chan func()
	closed chan struct{}
	client *http.Client
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{work: make(chan func()), closed: make(chan struct{})}
	entered := make(chan error)
	go n.run(entered)
	require.NoError(t, <-entered)
	t.Cleanup(func() {
		n.links.Close()
		require.NoError(t, n.handle.Close())
		close(n.closed)
	})

	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(n.handle), &st))
	n.inode = st.Ino
	n.client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       n.dial,
	}}
	lo, err := n.links.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, n.links.LinkSetUp(lo))
	return n
}

// run is the thread in the namespace. It is never unlocked, so that it ends
// with the goroutine and nothing else ever runs in the namespace.
func (n *namespace) run(entered chan<- error) {
	runtime.LockOSThread()
	var err error
	if n.handle, err = netns.New(); err == nil {
		n.links, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	entered <- err
	for {
		select {
		case fn := <-n.work:
			fn()
		case <-n.closed:
			return
		}
	}
}

// in runs fn in the namespace: what it opens or starts is there. It fails once
// the test is over, which a condition that is still waited for may meet.
func (n *namespace) in(fn func() error) error {
	done := make(chan error, 1)
	select {
	case n.work <- func() { done <- fn() }:
		return <-done
	case <-n.closed:
		return os.ErrClosed
	}
}

func (n *namespace) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.in(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func (n *namespace) listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	var l net.Listener
	require.NoError(t, n.in(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	}))
	t.Cleanup(func() { ignoreClosed(t, l.Close()) })
	return l
}

func (n *namespace) listenPacket(t *testing.T, network, address string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	require.NoError(t, n.in(func() (err error) {
		c, err = net.ListenPacket(network, address)
		return err
	}))
	t.Cleanup(func() { ignoreClosed(t, c.Close()) })
	return c
}

func ignoreClosed(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
		require.NoError(t, err)
	}
}
