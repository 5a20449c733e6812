// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package listeners knows the sockets of this network namespace that wait for
// others to begin: those of TCP that listen, and those of UDP that are bound and
// not connected.
package listeners // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/listeners"

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// Table is what Refresh found. It is for one goroutine at a time.
type Table struct {
	sockets map[socket]struct{}
	local   map[netip.Addr]struct{}
}

type socket struct {
	protocol flow.Protocol
	// address is the unspecified one, of IPv6, where the socket takes all.
	address netip.Addr
	port    uint16
}

// Listening says whether a socket of this namespace waits at the destination.
// What is bound to all addresses of IPv6 is taken to wait for IPv4 too, as
// sockets do unless told otherwise (ipv6(7), IPV6_V6ONLY).
func (t *Table) Listening(tuple flow.Tuple) bool {
	s := socket{protocol: tuple.Protocol, address: tuple.Destination, port: tuple.DestinationPort}
	if _, ok := t.sockets[s]; ok {
		return true
	}
	s.address = netip.IPv6Unspecified()
	if _, ok := t.sockets[s]; !ok {
		return false
	}
	_, ok := t.local[tuple.Destination]
	return ok || tuple.Destination.IsLoopback()
}

// Refresh asks the kernel. After an error the table is as it was.
func (t *Table) Refresh() error {
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	local := make(map[netip.Addr]struct{}, len(addresses))
	for i := range addresses {
		if a, ok := netip.AddrFromSlice(addresses[i].IP); ok {
			local[a.Unmap()] = struct{}{}
		}
	}
	sockets := map[socket]struct{}{}
	for _, d := range dumps {
		if err := d.into(sockets); err != nil {
			return fmt.Errorf("list %s sockets that wait: %w", d.protocol, err)
		}
	}
	t.local, t.sockets = local, sockets
	return nil
}

// States of sockets (include/net/tcp_states.h). UDP has that of a closed TCP
// socket while it is not connected.
const (
	stateClose  = 7
	stateListen = 10
)

// dump is one question to sock_diag(7).
type dump struct {
	family   uint8
	protocol flow.Protocol
	state    uint8
}

var dumps = []dump{
	{unix.AF_INET, flow.TCP, stateListen},
	{unix.AF_INET6, flow.TCP, stateListen},
	{unix.AF_INET, flow.UDP, stateClose},
	{unix.AF_INET6, flow.UDP, stateClose},
}

// Sizes and offsets of struct inet_diag_req_v2 and struct inet_diag_msg
// (include/uapi/linux/inet_diag.h), both with a struct inet_diag_sockid.
const (
	requestLen  = 56
	messageLen  = 72
	sourcePort  = 4
	sourceBytes = 8
)

// request is written by hand because the library asks for sockets in every
// state, of which a busy machine has a hundred thousand.
type request dump

// Len implements nl.NetlinkRequestData.
func (r request) Len() int { return requestLen }

// Serialize implements nl.NetlinkRequestData.
func (r request) Serialize() []byte {
	b := make([]byte, requestLen)
	b[0], b[1] = r.family, uint8(r.protocol)
	binary.NativeEndian.PutUint32(b[4:], 1<<r.state)
	return b
}

func (d dump) into(sockets map[socket]struct{}) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(request(d))
	messages, err := req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if s, ok := d.parse(m); ok {
			sockets[s] = struct{}{}
		}
	}
	return nil
}

func (d dump) parse(m []byte) (socket, bool) {
	if len(m) < messageLen {
		return socket{}, false
	}
	s := socket{protocol: d.protocol, port: binary.BigEndian.Uint16(m[sourcePort:])}
	if d.family == unix.AF_INET {
		s.address = netip.AddrFrom4([4]byte(m[sourceBytes:]))
	} else {
		s.address = netip.AddrFrom16([16]byte(m[sourceBytes:])).Unmap()
	}
	if s.address.IsUnspecified() {
		s.address = netip.IPv6Unspecified()
	}
	return s, s.port != 0
}
