// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/safchain/ethtool"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

const (
	// How long anything that is waited for may take, on a machine that is busy.
	patience = 30 * time.Second
	// How often it is looked for.
	glance = 25 * time.Millisecond
)

// lab is two hosts: NetProbe runs on the near one.
type lab struct {
	near, far *namespace
	links     int
}

func newLab(t *testing.T) *lab {
	t.Helper()
	bpftest.RequireBPF(t)
	if os.Getenv("NETPROBE_BIN") == "" {
		t.Skip("NETPROBE_BIN does not name the netprobe binary; `make test` builds it and sets it")
	}
	return &lab{near: newNamespace(t), far: newNamespace(t)}
}

// link is a veth pair from the near host to the far one, without offloads: what
// one end sends is, packet for packet, what the other receives.
type link struct {
	lab  *lab
	name string // at the near end
	peer string // at the far end

	near4, far4, near6, far6 netip.Addr
}

// counters are an interface's as `ip -s link` shows them.
type counters struct {
	RxPackets, RxBytes, TxPackets, TxBytes uint64
}

func (c counters) sub(d counters) counters {
	return counters{c.RxPackets - d.RxPackets, c.RxBytes - d.RxBytes, c.TxPackets - d.TxPackets, c.TxBytes - d.TxBytes}
}

func (c counters) add(d counters) counters {
	return counters{c.RxPackets + d.RxPackets, c.RxBytes + d.RxBytes, c.TxPackets + d.TxPackets, c.TxBytes + d.TxBytes}
}

// link makes a pair that is down, so that its counters are at zero until up.
func (l *lab) link(t *testing.T, name string) *link {
	t.Helper()
	l.links++
	k := &link{lab: l, name: name, peer: "peer-" + name}
	for host, addr := range []*netip.Addr{&k.near4, &k.far4} {
		*addr = netip.AddrFrom4([4]byte{10, 99, byte(l.links), byte(host + 1)})
	}
	for host, addr := range []*netip.Addr{&k.near6, &k.far6} {
		*addr = netip.MustParseAddr(fmt.Sprintf("fd99:%x::%x", l.links, host+1))
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = k.name
	veth := netlink.NewVeth(attrs)
	veth.PeerName = k.peer
	veth.PeerNamespace = netlink.NsFd(l.far.handle)
	require.NoError(t, l.near.links.LinkAdd(veth))
	require.NoError(t, l.near.in(func() error { return switchOffloadsOff(k.name) }))
	require.NoError(t, l.far.in(func() error { return switchOffloadsOff(k.peer) }))
	return k
}

func switchOffloadsOff(name string) error {
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool: %w", err)
	}
	defer tool.Close()
	off := map[string]bool{}
	for _, feature := range []string{
		"rx-gro", "tx-generic-segmentation", "tx-tcp-segmentation", "tx-tcp6-segmentation",
		"tx-udp-segmentation", "tx-checksum-ip-generic",
	} {
		off[feature] = false
	}
	if err := tool.Change(name, off); err != nil {
		return fmt.Errorf("switch offloads of %s off: %w", name, err)
	}
	return nil
}

// up gives both ends their addresses and switches them on. The near end comes
// last: what it sends then has somewhere to go.
func (k *link) up(t *testing.T) {
	t.Helper()
	for _, end := range []struct {
		host *namespace
		name string
		v4   netip.Addr
		v6   netip.Addr
	}{
		{k.lab.far, k.peer, k.far4, k.far6},
		{k.lab.near, k.name, k.near4, k.near6},
	} {
		dev, err := end.host.links.LinkByName(end.name)
		require.NoError(t, err)
		require.NoError(t, end.host.links.AddrReplace(dev, &netlink.Addr{IPNet: prefix(end.v4, 24)}))
		require.NoError(t, end.host.links.LinkSetUp(dev))
		// usable at once, without duplicate address detection
		require.NoError(t, end.host.links.AddrReplace(dev, &netlink.Addr{IPNet: prefix(end.v6, 64), Flags: unix.IFA_F_NODAD}))
	}
}

func prefix(addr netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
}

func (k *link) device(t require.TestingT) netlink.Link {
	dev, err := k.lab.near.links.LinkByName(k.name)
	require.NoError(t, err)
	return dev
}

func (k *link) index(t require.TestingT) int {
	return k.device(t).Attrs().Index
}

// kernel gives the kernel's own counters of the near end. They do not have what
// it tried to send and could not, which a program at egress has: tests send
// little enough at a time that the other end always takes it.
func (k *link) kernel(t require.TestingT) counters {
	s := k.device(t).Attrs().Statistics
	require.NotNil(t, s)
	require.Zero(t, s.TxDropped, "the lab lost packets on their way out")
	return counters{s.RxPackets, s.RxBytes, s.TxPackets, s.TxBytes}
}
