// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netfilter

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netnstest"
)

// sizes of datagrams, all different so that bytes say which were counted.
var sizes = []int{0, 1, 10, 100, 1000, 1400}

// volume of datagrams of these sizes.
func volume(ipv6 bool, sizes ...int) flow.Volume {
	v := flow.Volume{Packets: uint64(len(sizes))}
	for _, size := range sizes {
		v.Bytes += uint64(20 + 8 + size)
		if ipv6 {
			v.Bytes += 20
		}
	}
	return v
}

// through sends datagrams through the hook and returns their volume.
func (l *lab) through(t *testing.T, place Place, sizes ...int) flow.Volume {
	t.Helper()
	var to netip.Addr
	var fd int
	switch place.Hook {
	case Prerouting, LocalIn:
		l.client.Do(t, func() { fd = udp(t, place.IPv6) })
		to = clientRouter.addr(place.IPv6)
	case Forward:
		l.client.Do(t, func() { fd = udp(t, place.IPv6) })
		to = server.addr(place.IPv6)
	case LocalOut, Postrouting:
		fd = udp(t, place.IPv6)
		to = client.addr(place.IPv6)
	}
	send(t, fd, to, sizes...)
	return volume(place.IPv6, sizes...)
}

// Whatever drops, wherever: the numbers are those of the rule.
func TestDropsAreThoseOfTheRule(t *testing.T) {
	for _, fw := range []firewall{nft, iptables("nft"), iptables("legacy")} {
		for _, place := range places() {
			t.Run(fw.name+"/"+place.String(), func(t *testing.T) {
				l := newLab(t)
				p := load(t)
				fw.drop(t, place, "drop")
				rules := fw.list(t, place)
				sent := l.through(t, place, sizes...)
				netnstest.Eventually(t, func() bool { return count(t, p, place).Dropped.Packets >= sent.Packets }, "all are dropped")

				got := count(t, p, place)
				require.Equal(t, fw.rule(t, place), got.Dropped)
				require.Equal(t, sent, got.Dropped)
				require.GreaterOrEqual(t, got.Seen.Packets, got.Dropped.Packets)
				require.GreaterOrEqual(t, got.Seen.Bytes, got.Dropped.Bytes)
				requireNoDrops(t, p, place)
				require.Equal(t, rules, fw.list(t, place))
			})
		}
	}
}
