// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

func addForeignFilter(t *testing.T, iface netlink.Link, parent uint32, preference uint16) {
	t.Helper()
	addFilter(t, iface, &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{Parent: parent, Protocol: unix.ETH_P_ALL, Priority: preference, Handle: 1},
		Fd:          verdict(t, ebpf.SchedCLS, dropPacket).FD(),
	})
}

// addFilter adds a filter of somebody else.
func addFilter(t *testing.T, iface netlink.Link, filter *netlink.BpfFilter) {
	t.Helper()
	err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: iface.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if !errors.Is(err, unix.EEXIST) {
		require.NoError(t, err)
	}
	filter.LinkIndex, filter.Name, filter.DirectAction = iface.Attrs().Index, "foreign", true
	require.NoError(t, netlink.FilterAdd(filter))
}

func filterNames(t *testing.T, iface netlink.Link, parent uint32) []string {
	t.Helper()
	all, err := netlink.FilterList(iface, parent)
	require.NoError(t, err)
	var names []string
	for _, f := range all {
		names = append(names, f.(*netlink.BpfFilter).Name)
	}
	return names
}

// The queueing discipline and the filters of others stay, whoever came first.
func TestClsactOfOthersStays(t *testing.T) {
	ingress, egress := uint32(netlink.HANDLE_MIN_INGRESS), uint32(netlink.HANDLE_MIN_EGRESS)
	for _, theirsFirst := range []bool{true, false} {
		name := map[bool]string{true: "theirs first", false: "ours first"}[theirsFirst]
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			opts := defaults()
			opts.TC = TCClsact
			p := load(t, opts)
			if theirsFirst {
				addForeignFilter(t, l.near, ingress, 50)
			}
			l.attach(t, p)
			if !theirsFirst {
				addForeignFilter(t, l.near, ingress, 1)
			}
			require.ElementsMatch(t, []string{"foreign", "netprobe_ingress"}, filterNames(t, l.near, ingress))
			require.Equal(t, []string{"netprobe_egress"}, filterNames(t, l.near, egress))

			require.NoError(t, p.Remove(l.index()))
			require.Equal(t, []string{"foreign"}, filterNames(t, l.near, ingress))
			require.Empty(t, filterNames(t, l.near, egress))
			require.Len(t, clsactQdiscs(t, l.near), 1)
		})
	}
}

// What an instance that was killed has left is replaced, not doubled.
func TestClsactStaleFilters(t *testing.T) {
	l := newLab(t)
	opts := defaults()
	opts.TC = TCClsact
	killed := load(t, opts)
	l.attach(t, killed)
	p := load(t, opts)
	l.attach(t, p)
	require.Equal(t, []string{"netprobe_ingress"}, filterNames(t, l.near, netlink.HANDLE_MIN_INGRESS))
	require.Equal(t, []string{"netprobe_egress"}, filterNames(t, l.near, netlink.HANDLE_MIN_EGRESS))
	frame := udp4(t, packets.SourcePort, 10)
	l.sendAsIngress(t, p, frame)
	got, err := p.InterfaceCounters(l.index())
	require.NoError(t, err)
	require.Equal(t, flow.InterfaceCounters{Rx: volumeOf(frame)}, got)
}

func TestPreferenceBefore(t *testing.T) {
	for _, tt := range []struct {
		others []uint16
		want   uint16
	}{
		{nil, 0},
		{[]uint16{49152}, 49151},
		{[]uint16{300, 20, 100}, 19},
		{[]uint16{2}, 1},
		{[]uint16{7, 1}, 1},
	} {
		var others []netlink.Filter
		for _, preference := range tt.others {
			others = append(others, &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{Priority: preference}})
		}
		require.Equal(t, tt.want, preferenceBefore(others), "%v", tt.others)
	}
}

// Where the first preference is taken by a filter that shares it with none of
// ours, ours comes behind it, and counts what that one lets through.
func TestClsactBehindAFilterOfAnotherProtocol(t *testing.T) {
	l := newLab(t)
	addFilter(t, l.near, &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{Parent: netlink.HANDLE_MIN_EGRESS, Protocol: unix.ETH_P_IP, Priority: 1, Handle: 1},
		Fd:          verdict(t, ebpf.SchedCLS, -1).FD(), // TC_ACT_UNSPEC: on to the next
	})
	opts := defaults()
	opts.TC = TCClsact
	p := load(t, opts)
	l.attach(t, p)
	require.Equal(t, []string{"foreign", "netprobe_egress"}, filterNames(t, l.near, netlink.HANDLE_MIN_EGRESS))
	frame := udp4(t, packets.SourcePort, 10)
	l.sendAsEgress(t, frame)
	got, err := p.InterfaceCounters(l.index())
	require.NoError(t, err)
	require.Equal(t, flow.InterfaceCounters{Tx: volumeOf(frame)}, got)
}
