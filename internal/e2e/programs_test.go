// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	ebpflink "github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attachments are what is attached to one end of a link, by anyone.
type attachments struct {
	TCXIngress, TCXEgress       []ebpf.ProgramID
	FilterIngress, FilterEgress []filter
	Qdiscs                      []string // all but the default
	XDP                         xdpProgram
}

type filter struct {
	Name     string // of a BPF filter, else its kind
	Priority uint16
	Program  int
}

type xdpProgram struct {
	Mode    uint32 // as in enum xdp_attach_mode, include/uapi/linux/if_link.h
	Program uint32
}

const (
	xdpNative  = 1
	xdpGeneric = 2
)

// attached asks the kernel what is attached to the near end.
func (k *link) attached(t require.TestingT) attachments {
	return k.lab.near.attached(t, k.device(t))
}

func (n *namespace) attached(t require.TestingT, dev netlink.Link) attachments {
	a := attachments{
		TCXIngress:    n.tcx(t, dev, ebpf.AttachTCXIngress),
		TCXEgress:     n.tcx(t, dev, ebpf.AttachTCXEgress),
		FilterIngress: n.filters(t, dev, netlink.HANDLE_MIN_INGRESS),
		FilterEgress:  n.filters(t, dev, netlink.HANDLE_MIN_EGRESS),
	}
	qdiscs, err := n.links.QdiscList(dev)
	require.NoError(t, err)
	for _, q := range qdiscs {
		if kind := q.Type(); kind != "noqueue" {
			a.Qdiscs = append(a.Qdiscs, kind)
		}
	}
	if x := dev.Attrs().Xdp; x != nil && x.Attached {
		a.XDP = xdpProgram{Mode: x.AttachMode, Program: x.ProgId}
	}
	return a
}

func (n *namespace) tcx(t require.TestingT, dev netlink.Link, attach ebpf.AttachType) []ebpf.ProgramID {
	var ids []ebpf.ProgramID
	err := n.in(func() error {
		result, err := ebpflink.QueryPrograms(ebpflink.QueryOptions{Target: dev.Attrs().Index, Attach: attach})
		if err != nil {
			return err
		}
		for _, p := range result.Programs {
			ids = append(ids, p.ID)
		}
		return nil
	})
	if !errors.Is(err, unix.EINVAL) { // what kernels before 6.6 answer, which have no TCX
		require.NoError(t, err)
	}
	return ids
}

func (n *namespace) filters(t require.TestingT, dev netlink.Link, parent uint32) []filter {
	all, err := n.links.FilterList(dev, parent)
	require.NoError(t, err)
	var found []filter
	for _, f := range all {
		if b, ok := f.(*netlink.BpfFilter); ok {
			found = append(found, filter{b.Name, b.Priority, b.Id})
		} else {
			found = append(found, filter{Name: f.Type(), Priority: f.Attrs().Priority})
		}
	}
	return found
}

// requireTCX skips the test where the kernel has no TCX.
func requireTCX(t *testing.T, k *link) {
	t.Helper()
	err := k.lab.near.in(func() error {
		_, err := ebpflink.QueryPrograms(ebpflink.QueryOptions{Target: k.index(t), Attach: ebpf.AttachTCXIngress})
		return err
	})
	if errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel has no TCX, which came with 6.6")
	}
	require.NoError(t, err)
}
