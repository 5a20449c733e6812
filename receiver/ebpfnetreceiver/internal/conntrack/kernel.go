// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// sysctls is where the settings of this namespace are.
const sysctls = "/proc/sys/net/netfilter"

// quiet is how long nothing must come for the rest of a cancelled subscription
// to be read. All of it is there already.
const quiet = 5 * time.Millisecond

// maxBatch bounds what is read before the deadline is looked at again.
const maxBatch = 256

var groups = []uint32{unix.NFNLGRP_CONNTRACK_NEW, unix.NFNLGRP_CONNTRACK_DESTROY}

// kernel is the source of the network namespace that it was opened in. Its
// sockets and its file stay open, since a later goroutine may be in another.
type kernel struct {
	events     *netlink.Conn
	rawEvents  syscall.RawConn
	buf        []byte
	subscribed bool
	table      *nl.SocketHandle
	// eventsOn is the sysctl, or nil where the kernel is built without events.
	eventsOn *os.File
}

func openKernel(sysctls string, receiveBuffer int) (*kernel, error) {
	// A question to the kernel would load the module, which is not ours to do.
	// The limit is there once the module is, however it is built.
	if _, err := os.Stat(filepath.Join(sysctls, "nf_conntrack_max")); err != nil {
		return nil, fmt.Errorf("no connection tracking in this kernel (load the module nf_conntrack, or go without): %w", err)
	}
	eventsOn, err := os.Open(filepath.Join(sysctls, "nf_conntrack_events"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read whether the kernel sends connection tracking events: %w", err)
	}
	// A message has some 300 bytes; the kernel does not make one of more than a page.
	k := &kernel{eventsOn: eventsOn, buf: make([]byte, 2*os.Getpagesize())}
	if err := k.dial(receiveBuffer); err != nil {
		return nil, errors.Join(err, k.stop(), k.close())
	}
	return k, nil
}

func (k *kernel) dial(receiveBuffer int) error {
	var err error
	if k.events, err = netlink.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
		return fmt.Errorf("open a socket for connection tracking events: %w", err)
	}
	if k.rawEvents, err = k.events.SyscallConn(); err != nil {
		return fmt.Errorf("open a socket for connection tracking events: %w", err)
	}
	if err := k.events.SetReadBuffer(receiveBuffer); err != nil {
		return fmt.Errorf("set the receive buffer for connection tracking events to %d bytes: %w", receiveBuffer, err)
	}
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open a socket for the connection tracking table: %w", err)
	}
	k.table = &nl.SocketHandle{Socket: socket}
	if err := socket.SetReceiveTimeout(&nl.SocketTimeoutTv); err != nil {
		return fmt.Errorf("set a timeout for the connection tracking table: %w", err)
	}
	return nil
}

// subscribe leaves the groups first where it is in them: what waits in the
// socket is from before a gap, and read after a dump it would bring back what
// ended in the gap.
func (k *kernel) subscribe() error {
	if k.subscribed {
		for _, group := range groups {
			if err := k.events.LeaveGroup(group); err != nil {
				return fmt.Errorf("unsubscribe from connection tracking events: %w", err)
			}
		}
		k.subscribed = false
	}
	if err := k.drain(); err != nil {
		return err
	}
	k.subscribed = true // of some, if not of all
	for _, group := range groups {
		if err := k.events.JoinGroup(group); err != nil {
			return explain(fmt.Errorf("subscribe to connection tracking events: %w", err))
		}
	}
	return nil
}

func (k *kernel) drain() error {
	for {
		if err := k.setDeadline(time.Now().Add(quiet)); err != nil {
			return err
		}
		err := k.receive(func(netlink.HeaderType, []byte) {})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("drain connection tracking events: %w", err)
		}
	}
}

// receive does not use the library's way to do so, which asks for the size first
// and takes a new buffer each time: that would be most of what an event costs.
func (k *kernel) receive(each func(netlink.HeaderType, []byte)) error {
	var failure error
	err := k.rawEvents.Read(func(fd uintptr) (done bool) {
		for n := range maxBatch {
			length, err := unix.Read(int(fd), k.buf)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return n > 0 // else wait
			case errors.Is(err, unix.EINTR):
			case err != nil:
				failure = os.NewSyscallError("read", err)
				return true
			default:
				eachMessage(k.buf[:length], each)
			}
		}
		return true
	})
	return errors.Join(err, failure)
}

// eachMessage calls each with the messages in data. What is cut short is given
// as it is, for decode to complain.
func eachMessage(data []byte, each func(netlink.HeaderType, []byte)) {
	for len(data) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(data))
		typ := netlink.HeaderType(binary.NativeEndian.Uint16(data[4:]))
		if length < unix.NLMSG_HDRLEN || length > len(data) {
			each(typ, nil)
			return
		}
		each(typ, data[unix.NLMSG_HDRLEN:length])
		padded := (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		data = data[min(padded, len(data)):]
	}
}

func (k *kernel) setDeadline(t time.Time) error { return k.events.SetReadDeadline(t) }

// dump reads one message after the other: all of a large table at once would
// take some hundred megabytes.
func (k *kernel) dump(each func(netlink.HeaderType, []byte)) error {
	req := nl.NewNetlinkRequest(int(messageGet), unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: k.table}
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0}) // IPv4 and IPv6
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, uint16(messageNew), func(data []byte) bool {
		each(messageNew, data)
		return true
	})
	if err != nil {
		return explain(fmt.Errorf("read the connection tracking table: %w", err))
	}
	return nil
}

// silent is true where the kernel is built without events, or told to send none.
func (k *kernel) silent() bool {
	if k.eventsOn == nil {
		return true
	}
	var buf [8]byte
	n, err := k.eventsOn.ReadAt(buf[:], 0)
	if n == 0 && err != nil {
		return true // better too many dumps than no news
	}
	return string(bytes.TrimSpace(buf[:n])) == "0"
}

func (k *kernel) stop() error {
	if k.events == nil {
		return nil
	}
	return k.events.Close()
}

func (k *kernel) close() error {
	if k.table != nil {
		k.table.Close()
	}
	if k.eventsOn == nil {
		return nil
	}
	return k.eventsOn.Close()
}

// explain says what to do about an error.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (run as root, or with CAP_NET_ADMIN)", err)
	}
	return err
}
