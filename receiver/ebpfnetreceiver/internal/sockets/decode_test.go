// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

func TestDecode(t *testing.T) {
	var d decoder
	d.clock.Sync()
	var r bpf.SocketsSocketRecord
	r.Sock = 0xffff888000001000
	r.Conn = bpf.SocketsSocketConn{
		MadeNs: 7, ConnectNs: 1_000_000_000, EstablishedNs: 1_030_000_000, ClosedNs: 3_000_000_000,
		LocalPort: 1234, RemotePort: 443, Netns: 99, Protocol: unix.IPPROTO_TCP, Role: 1,
		Flags: uint32(bpf.SocketsSocketFlagSOCKET_ESTABLISHED | bpf.SocketsSocketFlagSOCKET_RESET_RECEIVED),
	}
	r.Conn.Local = netip.MustParseAddr("::ffff:192.0.2.1").As16()
	r.Conn.Remote = netip.MustParseAddr("2001:db8::1").As16()
	r.Conn.Process.Pid = 42
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&r.Conn.Process.Name)), len(r.Conn.Process.Name)), "nginx\x00rest")
	r.Conn.Begin = bpf.SocketsSocketNumbers{BytesSent: 1, BytesReceived: 2, SegmentsSent: 3, SegmentsReceived: 4, Retransmits: 5, ListenDrops: 6, RttUs: 7}
	r.Conn.Now = bpf.SocketsSocketNumbers{BytesSent: 11, BytesReceived: 12, SegmentsSent: 13, SegmentsReceived: 14, Retransmits: 15, ListenDrops: 16, RttUs: 1500}

	require.Equal(t, flow.Connection{
		ID: flow.ConnectionID{Socket: 0xffff888000001000, Made: 7}, Protocol: flow.TCP, Role: flow.Server,
		Local: netip.MustParseAddrPort("192.0.2.1:1234"), Remote: netip.MustParseAddrPort("[2001:db8::1]:443"),
		NetNS: 99, Process: flow.Process{PID: 42, Name: "nginx"},
		Established: true, ResetReceived: true, Failure: flow.Reset,
		Started: d.clock.Wall(1_000_000_000), EstablishedAt: d.clock.Wall(1_030_000_000), Closed: d.clock.Wall(3_000_000_000),
		Latency: 30 * time.Millisecond, RTT: 1500 * time.Microsecond,
		Begin: flow.ConnectionNumbers{BytesSent: 1, BytesReceived: 2, SegmentsSent: 3, SegmentsReceived: 4, Retransmits: 5, ListenDrops: 6},
		Now:   flow.ConnectionNumbers{BytesSent: 11, BytesReceived: 12, SegmentsSent: 13, SegmentsReceived: 14, Retransmits: 15, ListenDrops: 16},
	}, d.connection(&r))

	// what is not known is not a time long ago
	c := d.connection(&bpf.SocketsSocketRecord{})
	require.True(t, c.Started.IsZero() && c.EstablishedAt.IsZero() && c.Closed.IsZero())
	require.Zero(t, c.Latency)
	require.Equal(t, flow.Process{}, c.Process)

	// each flag is one field
	for flag, field := range map[bpf.SocketsSocketFlag]func(flow.Connection) bool{
		bpf.SocketsSocketFlagSOCKET_LISTENS:        func(c flow.Connection) bool { return c.Listens },
		bpf.SocketsSocketFlagSOCKET_ESTABLISHED:    func(c flow.Connection) bool { return c.Established },
		bpf.SocketsSocketFlagSOCKET_ADOPTED:        func(c flow.Connection) bool { return c.Adopted },
		bpf.SocketsSocketFlagSOCKET_VANISHED:       func(c flow.Connection) bool { return c.Vanished },
		bpf.SocketsSocketFlagSOCKET_RESET_SENT:     func(c flow.Connection) bool { return c.ResetSent },
		bpf.SocketsSocketFlagSOCKET_RESET_RECEIVED: func(c flow.Connection) bool { return c.ResetReceived },
	} {
		var only, others bpf.SocketsSocketRecord
		only.Conn.Flags, others.Conn.Flags = uint32(flag), ^uint32(flag)
		require.True(t, field(d.connection(&only)), flag)
		require.False(t, field(d.connection(&others)), flag)
	}
}

// The words of the programs are those of flow.
func TestFailuresMatch(t *testing.T) {
	for theirs, ours := range map[bpf.SocketsSocketFailure]flow.Failure{
		bpf.SocketsSocketFailureSOCKET_NOT_FAILED:    flow.NotFailed,
		bpf.SocketsSocketFailureSOCKET_REFUSED:       flow.Refused,
		bpf.SocketsSocketFailureSOCKET_TIMED_OUT:     flow.TimedOut,
		bpf.SocketsSocketFailureSOCKET_RESET:         flow.Reset,
		bpf.SocketsSocketFailureSOCKET_UNREACHABLE:   flow.Unreachable,
		bpf.SocketsSocketFailureSOCKET_CANCELED:      flow.Canceled,
		bpf.SocketsSocketFailureSOCKET_OTHER_FAILURE: flow.OtherFailure,
		bpf.SocketsSocketFailureSOCKET_FAILURES:      flow.Failure(flow.Failures),
	} {
		require.EqualValues(t, theirs, ours)
	}
	require.EqualValues(t, bpf.SocketsSocketRoleSOCKET_CLIENT, flow.Client)
	require.EqualValues(t, bpf.SocketsSocketRoleSOCKET_SERVER, flow.Server)
	require.EqualValues(t, bpf.SocketsSocketRoleSOCKET_ROLES, flow.Roles)
}

// By what error a connection ended that had been established.
func TestEndErrors(t *testing.T) {
	for errno, want := range map[unix.Errno]flow.Failure{
		0: flow.NotFailed, unix.ECONNRESET: flow.Reset, unix.EPIPE: flow.Reset, unix.ECONNABORTED: flow.Reset,
		unix.ETIMEDOUT: flow.TimedOut, unix.EHOSTUNREACH: flow.Unreachable, unix.ENETUNREACH: flow.Unreachable,
		unix.EHOSTDOWN: flow.Unreachable, unix.ENETDOWN: flow.Unreachable, unix.EACCES: flow.Unreachable,
		unix.ENONET: flow.Unreachable, unix.ENOPROTOOPT: flow.Unreachable, unix.ECONNREFUSED: flow.Refused,
		unix.EPROTO: flow.OtherFailure,
	} {
		var d decoder
		var r bpf.SocketsSocketRecord
		r.Conn.Error = uint16(errno)
		r.Conn.Flags = uint32(bpf.SocketsSocketFlagSOCKET_ESTABLISHED)
		require.Equal(t, want, d.connection(&r).Failure, errno)
		// while it was not, the programs say
		r.Conn.Flags, r.Conn.Failure = 0, uint8(bpf.SocketsSocketFailureSOCKET_CANCELED)
		require.Equal(t, flow.Canceled, d.connection(&r).Failure, errno)
	}
}

func TestRecordOfShortSample(t *testing.T) {
	size := int(unsafe.Sizeof(bpf.SocketsSocketRecord{}))
	for n := range size {
		_, ok := recordOf(make([]byte, n))
		require.False(t, ok)
	}
	sample := make([]byte, size+3)
	sample[3] = 9 // at an address that no record would have
	record, ok := recordOf(sample[3:])
	require.True(t, ok)
	require.EqualValues(t, 9, record.Sock)
}

func TestContainerOf(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, test := range []struct {
		name, parent, want string
	}{
		{"", "", ""},
		{id, "", id},
		{id, "kubepods", id},
		{"init.scope", id, id},
		{"docker-" + id + ".scope", "system.slice", id},
		{"cri-containerd-" + id + ".scope", "kubepods-burstable-pod1.slice", id},
		{"crio-" + id + ".scope", "", id},
		{"crio-conmon-" + id + ".scope", "", id},
		{"libpod-" + id + ".scope", "", id},
		{"container", "libpod-" + id + ".scope", id},
		{"libpod_" + id, "", id},
		{id[:63], "", ""},
		{id + "0", "", ""},
		{"x" + id, "", ""},
		{strings.ToUpper(id), "", ""},
		{id + ".slice", "", ""},
		{"docker-" + id + ".scope.d", "", ""},
		{"user@1000.service", "user-1000.slice", ""},
	} {
		require.Equal(t, test.want, containerOf(test.name, test.parent), "%s in %s", test.name, test.parent)
	}
}
