// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package netnstest puts tests into network namespaces of their own, where no
// packet is sent but theirs. For tests only.
package netnstest // import "github.com/netprobe-otel/netprobe/internal/netnstest"

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace.
type Namespace struct {
	handle netns.NsHandle
}

// Enter moves the test into a new namespace until it ends. What it opens and
// asks the kernel is there; other goroutines, also those of subtests, stay
// where they were.
func Enter(tb testing.TB) *Namespace {
	tb.Helper()
	n, before := create(tb)
	tb.Cleanup(func() {
		require.NoError(tb, netns.Set(before))
		require.NoError(tb, before.Close())
		runtime.UnlockOSThread()
	})
	return n
}

// New makes a namespace and stays in this one.
func New(tb testing.TB) *Namespace {
	tb.Helper()
	n, before := create(tb)
	require.NoError(tb, netns.Set(before))
	require.NoError(tb, before.Close())
	runtime.UnlockOSThread()
	return n
}

// create leaves the goroutine locked to a thread that is in the new namespace.
// A test that fails here ends its goroutine, and the thread with it.
func create(tb testing.TB) (n *Namespace, before netns.NsHandle) {
	tb.Helper()
	runtime.LockOSThread()
	before, err := netns.Get()
	require.NoError(tb, err)
	handle, err := netns.New()
	if errors.Is(err, unix.EPERM) && os.Getenv("REQUIRE_BPF") != "1" {
		require.NoError(tb, before.Close())
		runtime.UnlockOSThread()
		tb.Skipf("cannot make a network namespace (root, or CAP_SYS_ADMIN, needed): %v", err)
	}
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, handle.Close()) })

	// IPv6 sends by itself: solicitations, reports, duplicate address detection.
	Sysctl(tb, "ipv6/conf/default/disable_ipv6", "1")
	return &Namespace{handle: handle}, before
}

// Do runs fn in the namespace, in this goroutine.
func (n *Namespace) Do(tb testing.TB, fn func()) {
	tb.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := netns.Get()
	require.NoError(tb, err)
	require.NoError(tb, netns.Set(n.handle))
	defer func() {
		require.NoError(tb, netns.Set(before))
		require.NoError(tb, before.Close())
	}()
	fn()
}

// Adopt moves an interface of this namespace into n.
func (n *Namespace) Adopt(tb testing.TB, link netlink.Link) {
	tb.Helper()
	require.NoError(tb, netlink.LinkSetNsFd(link, int(n.handle)))
}

// Sysctl sets a variable under /proc/sys/net of this namespace.
func Sysctl(tb testing.TB, name, value string) {
	tb.Helper()
	require.NoError(tb, os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644))
}

// Veth makes a pair of connected Ethernet devices and brings both up.
func Veth(tb testing.TB, name, peer string) (netlink.Link, netlink.Link) {
	tb.Helper()
	require.NoError(tb, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}))
	return Up(tb, name), Up(tb, peer)
}

// Tun makes a device without link-layer header and brings it up. What is
// written to the file is received on it, and what is sent on it can be read.
func Tun(tb testing.TB, name string) (netlink.Link, *os.File) {
	tb.Helper()
	tun := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: name},
		Mode:      netlink.TUNTAP_MODE_TUN,
		Flags:     netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE,
		Queues:    1,
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil && os.Getenv("REQUIRE_BPF") != "1" {
		tb.Skipf("no tun devices here: %v", err)
	}
	require.NoError(tb, netlink.LinkAdd(tun))
	tb.Cleanup(func() { require.NoError(tb, tun.Fds[0].Close()) })
	return Up(tb, name), tun.Fds[0]
}

// Up brings an interface up.
func Up(tb testing.TB, name string) netlink.Link {
	tb.Helper()
	link, err := netlink.LinkByName(name)
	require.NoError(tb, err)
	require.NoError(tb, netlink.LinkSetUp(link))
	link, err = netlink.LinkByName(name)
	require.NoError(tb, err)
	return link
}

// patience is how long to wait for what should happen at once.
const patience = 20 * time.Second

// Eventually waits until condition holds.
func Eventually(tb testing.TB, condition func() bool, what string) {
	tb.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			require.FailNow(tb, "waited in vain: "+what)
		}
	}
}
