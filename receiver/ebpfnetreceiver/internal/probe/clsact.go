// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// clsactFilterPrefix begins the name of every filter of ours. A filter, unlike
// a TCX link, outlives its process when that is killed; by the name the next
// start finds and removes it. Until then it only counts: it passes everything.
const clsactFilterPrefix = "netprobe_"

// clsactHandle tells the filter from others of the same preference. Unlike 1, it
// is none that someone would think of, and so replace the filter.
const clsactHandle = 0x6e70

// clsactFilter is an attached filter.
type clsactFilter struct {
	filter *netlink.BpfFilter
	// qdisc is set where it was added for the filter.
	qdisc *netlink.Clsact
}

// attachClsact attaches prog as a direct-action filter before all others.
func attachClsact(index int, dir flow.Direction, prog *ebpf.Program) (io.Closer, error) {
	c := &clsactFilter{}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}}
	switch err := netlink.QdiscAdd(qdisc); {
	case err == nil:
		c.qdisc = qdisc
	case !errors.Is(err, unix.EEXIST):
		return nil, fmt.Errorf("add clsact qdisc to interface %d: %w", index, err)
	}

	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if dir == flow.Egress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	if err := removeStaleFilters(index, parent); err != nil {
		return nil, errors.Join(err, c.closeQdisc())
	}
	others, err := listFilters(index, parent)
	if err != nil {
		return nil, errors.Join(err, c.closeQdisc())
	}
	c.filter = &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: parent, Protocol: unix.ETH_P_ALL,
			Priority: preferenceBefore(others), Handle: clsactHandle,
		},
		Fd:           prog.FD(),
		Name:         clsactFilterPrefix + dir.String(),
		DirectAction: true,
	}
	err = netlink.FilterAdd(c.filter)
	if errors.Is(err, unix.EINVAL) {
		// A filter of another kind or protocol has the first preference, which
		// then no other may share. Behind it is better than nowhere.
		c.filter.Priority = 0
		err = netlink.FilterAdd(c.filter)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("add clsact %s filter to interface %d: %w", dir, index, err), c.closeQdisc())
	}
	return c, nil
}

// preferenceBefore is one before that of all filters that are there. Where that
// cannot be, it is their first: among filters of one preference the newest comes
// first. Where there are none, it is 0, for which the kernel chooses a high one:
// a low one is what others may want for a filter that cannot share it.
func preferenceBefore(others []netlink.Filter) uint16 {
	var first uint16
	for _, f := range others {
		if p := f.Attrs().Priority; first == 0 || p < first {
			first = p
		}
	}
	if first > 1 {
		return first - 1
	}
	return first
}

// removeStaleFilters removes the filters of an instance that could not.
func removeStaleFilters(index int, parent uint32) error {
	filters, err := ourFilters(index, parent)
	if err != nil {
		return err
	}
	for _, f := range filters {
		if err := netlink.FilterDel(f); err != nil {
			return fmt.Errorf("remove stale filter %s from interface %d: %w", f.Name, index, err)
		}
	}
	return nil
}

func ourFilters(index int, parent uint32) ([]*netlink.BpfFilter, error) {
	all, err := listFilters(index, parent)
	if err != nil {
		return nil, err
	}
	var ours []*netlink.BpfFilter
	for _, f := range all {
		if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, clsactFilterPrefix) {
			ours = append(ours, b)
		}
	}
	return ours, nil
}

func listFilters(index int, parent uint32) ([]netlink.Filter, error) {
	dev := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	filters, err := netlink.FilterList(dev, parent)
	if err != nil {
		return nil, fmt.Errorf("list filters of interface %d: %w", index, err)
	}
	return filters, nil
}

// Close removes the filter, and the qdisc where it was added for it and nobody
// else uses it since.
func (c *clsactFilter) Close() error {
	filters, err := ourFilters(c.filter.LinkIndex, c.filter.Parent)
	for _, f := range filters {
		err = errors.Join(err, ignoreGone(netlink.FilterDel(f)))
	}
	return errors.Join(ignoreGone(err), c.closeQdisc())
}

func (c *clsactFilter) closeQdisc() error {
	if c.qdisc == nil {
		return nil
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := listFilters(c.qdisc.LinkIndex, parent)
		if err != nil {
			return ignoreGone(err)
		}
		if len(filters) > 0 {
			return nil
		}
	}
	if err := ignoreGone(netlink.QdiscDel(c.qdisc)); err != nil {
		return fmt.Errorf("remove clsact qdisc from interface %d: %w", c.qdisc.LinkIndex, err)
	}
	return nil
}

// ignoreGone takes the disappearance of an interface, and of all on it, for success.
func ignoreGone(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
