// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netfilter

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// queue is a program that rules give packets to, for a verdict
// (include/uapi/linux/netfilter/nfnetlink_queue.h).
type queue struct{ conn *netlink.Conn }

const (
	queueMessages = unix.NFNL_SUBSYS_QUEUE << 8
	queueVerdict  = queueMessages | 1
	queueConfig   = queueMessages | 2

	configCommand, configParameters = 1, 2 // NFQA_CFG_CMD, NFQA_CFG_PARAMS
	commandBind, copyMetadata       = 1, 1
	packetHeader, verdictHeader     = 1, 2 // NFQA_PACKET_HDR, NFQA_VERDICT_HDR

	verdictDrop, verdictAccept = 0, 1
)

func newQueue(tb testing.TB) *queue {
	tb.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, conn.Close()) })
	q := &queue{conn}
	q.send(tb, queueConfig, netlink.Acknowledge, configCommand, []byte{commandBind, 0, 0, 0})
	q.send(tb, queueConfig, netlink.Acknowledge, configParameters, []byte{0, 0, 0, 0, copyMetadata})
	return q
}

func (q *queue) send(tb testing.TB, kind uint16, flags netlink.HeaderFlags, attribute uint16, value []byte) {
	tb.Helper()
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: attribute, Data: value}})
	require.NoError(tb, err)
	message := netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags},
		Data:   append([]byte{unix.AF_UNSPEC, 0, 0, 0}, attributes...), // queue 0
	}
	if flags&netlink.Acknowledge != 0 {
		_, err = q.conn.Execute(message)
	} else {
		_, err = q.conn.Send(message)
	}
	require.NoError(tb, err)
}

// take waits for n packets and returns their numbers.
func (q *queue) take(tb testing.TB, n int) []uint32 {
	tb.Helper()
	require.NoError(tb, q.conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	var ids []uint32
	for len(ids) < n {
		messages, err := q.conn.Receive()
		require.NoError(tb, err)
		for _, m := range messages {
			attributes, err := netlink.UnmarshalAttributes(m.Data[4:])
			require.NoError(tb, err)
			for _, a := range attributes {
				if a.Type == packetHeader {
					ids = append(ids, binary.BigEndian.Uint32(a.Data))
				}
			}
		}
	}
	return ids
}

// decide says what becomes of a packet.
func (q *queue) decide(tb testing.TB, id, verdict uint32) {
	tb.Helper()
	value := binary.BigEndian.AppendUint32(nil, verdict)
	q.send(tb, queueVerdict, 0, verdictHeader, binary.BigEndian.AppendUint32(value, id))
}
