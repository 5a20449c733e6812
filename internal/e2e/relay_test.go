// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/binary"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// relay carries frames between two devices of a namespace of its own, each some time
// after it came: not every kernel has a queueing discipline that does (sch_netem).
type relay struct {
	delay time.Duration
	lost  atomic.Uint64 // for want of room
}

// relayRoom bounds the frames that are on their way in a direction.
const relayRoom = 4096

type lateFrame struct {
	due   time.Time
	frame []byte
}

// delayedLink is a link whose frames take so long each way.
func (l *lab) delayedLink(t *testing.T, name string, delay time.Duration) *link {
	t.Helper()
	k := l.link(t, name)
	near, far := k.device(t), l.far.byName(t, k.peer)
	require.NoError(t, l.near.links.LinkDel(near)) // and the other end with it
	middle, r := newHost(t), &relay{delay: delay}
	l.near.wire(t, name, middle, "a", near.Attrs().MTU)
	l.far.wire(t, k.peer, middle, "b", far.Attrs().MTU)
	for device, n := range map[string]*namespace{name: l.near, k.peer: l.far, "a": middle, "b": middle} {
		require.NoError(t, n.in(func() error { return switchOffloadsOff(device) }))
	}
	a, b := middle.rawSocket(t, "a"), middle.rawSocket(t, "b")
	r.carry(t, a, b)
	r.carry(t, b, a)
	t.Cleanup(func() { require.Zero(t, r.lost.Load(), "the relay had no room for some frames") })
	return k
}

// rawSocket has the frames that a device receives, and sends by it.
func (n *namespace) rawSocket(t *testing.T, device string) *os.File {
	t.Helper()
	index := n.byName(t, device).Attrs().Index
	var f *os.File
	require.NoError(t, n.in(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "relay at "+device)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
	}))
	return f
}

// carry begins to carry frames one way, until the test ends.
func (r *relay) carry(t *testing.T, from, to *os.File) {
	waiting, done := make(chan lateFrame, relayRoom), make(chan struct{})
	go func() {
		defer close(waiting)
		buf := make([]byte, 1<<16)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return // closed
			}
			select {
			case waiting <- lateFrame{time.Now().Add(r.delay), append([]byte(nil), buf[:n]...)}:
			default:
				r.lost.Add(1)
			}
		}
	}()
	go func() {
		defer close(done)
		for late := range waiting {
			time.Sleep(time.Until(late.due))
			// one that a device has no room for, or that is down, is lost as on a wire
			_, _ = to.Write(late.frame)
		}
	}()
	t.Cleanup(func() {
		if err := from.Close(); !errors.Is(err, os.ErrClosed) {
			require.NoError(t, err)
		}
		<-done
	})
}
