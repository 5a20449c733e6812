// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// decoder makes plain values of what the programs write.
type decoder struct {
	clock   kernel.Clock
	cgroups *ebpf.Map
	// containers has the containers of control groups that were looked up.
	containers map[uint64]string
}

func (d *decoder) connection(r *bpf.SocketsSocketRecord) flow.Connection {
	conn := &r.Conn
	has := func(f bpf.SocketsSocketFlag) bool { return conn.Flags&uint32(f) != 0 }
	c := flow.Connection{
		ID:       flow.ConnectionID{Socket: r.Sock, Made: conn.MadeNs},
		Protocol: flow.Protocol(conn.Protocol),
		Role:     flow.Role(conn.Role & 1),
		Local:    addrPort(&conn.Local, conn.LocalPort),
		Remote:   addrPort(&conn.Remote, conn.RemotePort),
		NetNS:    conn.Netns,
		Process: flow.Process{
			PID:         conn.Process.Pid,
			Name:        unix.ByteSliceToString(bytesOf(conn.Process.Name[:])),
			ContainerID: d.container(conn.Process.Cgroup),
		},
		Listens:       has(bpf.SocketsSocketFlagSOCKET_LISTENS),
		Established:   has(bpf.SocketsSocketFlagSOCKET_ESTABLISHED),
		Adopted:       has(bpf.SocketsSocketFlagSOCKET_ADOPTED),
		Vanished:      has(bpf.SocketsSocketFlagSOCKET_VANISHED),
		ResetSent:     has(bpf.SocketsSocketFlagSOCKET_RESET_SENT),
		ResetReceived: has(bpf.SocketsSocketFlagSOCKET_RESET_RECEIVED),
		Started:       d.time(conn.ConnectNs),
		EstablishedAt: d.time(conn.EstablishedNs),
		Closed:        d.time(conn.ClosedNs),
		RTT:           time.Duration(conn.Now.RttUs) * time.Microsecond,
		Begin:         numbers(&conn.Begin),
		Now:           numbers(&conn.Now),
	}
	if conn.ConnectNs != 0 && conn.EstablishedNs != 0 {
		c.Latency = time.Duration(conn.EstablishedNs - conn.ConnectNs)
	}
	c.Failure = failure(conn, &c)
	return c
}

// time is zero where the kernel's is.
func (d *decoder) time(monoNs uint64) time.Time {
	if monoNs == 0 {
		return time.Time{}
	}
	return d.clock.Wall(monoNs)
}

// failure is why a connection was not made, as the programs tell, or by what error
// one ended that was.
func failure(conn *bpf.SocketsSocketConn, c *flow.Connection) flow.Failure {
	switch {
	case !c.Established:
		return flow.Failure(conn.Failure)
	case c.ResetSent || c.ResetReceived:
		return flow.Reset
	}
	switch unix.Errno(conn.Error) {
	case 0:
		return flow.NotFailed
	case unix.ECONNRESET, unix.EPIPE, unix.ECONNABORTED:
		return flow.Reset
	case unix.ETIMEDOUT:
		return flow.TimedOut
	case unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN, unix.EACCES, unix.ENONET, unix.ENOPROTOOPT:
		return flow.Unreachable
	case unix.ECONNREFUSED:
		return flow.Refused
	default:
		return flow.OtherFailure
	}
}

func numbers(n *bpf.SocketsSocketNumbers) flow.ConnectionNumbers {
	return flow.ConnectionNumbers{
		BytesSent: n.BytesSent, BytesReceived: n.BytesReceived,
		SegmentsSent: n.SegmentsSent, SegmentsReceived: n.SegmentsReceived,
		Retransmits: n.Retransmits, ListenDrops: n.ListenDrops,
	}
}

func addrPort(address *[16]uint8, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(*address).Unmap(), port)
}

// bytesOf gives text as the kernel has it, in what C calls char.
func bytesOf(text []int8) []byte {
	b := make([]byte, len(text))
	for i, c := range text {
		b[i] = byte(c)
	}
	return b
}
