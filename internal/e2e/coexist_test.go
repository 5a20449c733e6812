// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	ebpflink "github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// neighbour is somebody else's classifier at one direction of an interface. It
// counts packets and answers always the same.
type neighbour struct {
	prog  *ebpf.Program
	count *ebpf.Map
}

const (
	// the next program decides
	verdictNext = -1
	// the packet passes and no further program sees it
	verdictPass = 0
)

func newNeighbour(t *testing.T, verdict int32) *neighbour {
	t.Helper()
	count, err := ebpf.NewMap(&ebpf.MapSpec{Name: "neighbour", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, count.Close()) })
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "neighbour",
		Type: ebpf.SchedCLS,
		Instructions: asm.Instructions{
			asm.LoadMapValue(asm.R1, count.FD(), 0),
			asm.Mov.Imm(asm.R2, 1),
			asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
			asm.Mov.Imm(asm.R0, verdict),
			asm.Return(),
		},
		License: "GPL",
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, prog.Close()) })
	return &neighbour{prog, count}
}

func (n *neighbour) seen(t require.TestingT) uint64 {
	var seen uint64
	require.NoError(t, n.count.Lookup(uint32(0), &seen))
	return seen
}

func (n *neighbour) id(t *testing.T) ebpf.ProgramID {
	t.Helper()
	info, err := n.prog.Info()
	require.NoError(t, err)
	id, ok := info.ID()
	require.True(t, ok)
	return id
}

func (n *neighbour) attachTCX(t *testing.T, k *link, attach ebpf.AttachType) {
	t.Helper()
	require.NoError(t, k.lab.near.in(func() error {
		l, err := ebpflink.AttachTCX(ebpflink.TCXOptions{Interface: k.index(t), Program: n.prog, Attach: attach})
		if err == nil {
			t.Cleanup(func() { require.NoError(t, l.Close()) })
		}
		return err
	}))
}

func (n *neighbour) attachFilter(t *testing.T, k *link, parent uint32, priority uint16) {
	t.Helper()
	require.NoError(t, k.lab.near.links.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: k.index(t), Parent: parent, Priority: priority, Protocol: unix.ETH_P_ALL,
		},
		Fd: n.prog.FD(), Name: "neighbour", DirectAction: true,
	}))
}

// datagrams are one packet each to every program, in both directions.
func (k *link) datagrams(t *testing.T) {
	t.Helper()
	for _, p := range k.pairings() {
		p.udp(t, 1, 700, 1400)
		p.ping(t, 3, 56)
	}
}

// requireUntouched sends some packets and waits until both neighbours, which
// were there before the first, have seen all there ever were.
func (k *link) requireUntouched(t *testing.T, ingress, egress *neighbour) {
	t.Helper()
	before := k.kernel(t)
	k.datagrams(t)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		kernel := k.kernel(c)
		assert.Equal(c, kernel.RxPackets, ingress.seen(c), "seen at ingress")
		assert.Equal(c, kernel.TxPackets, egress.seen(c), "seen at egress")
	}, patience, glance)
	require.Greater(t, k.kernel(t).sub(before).RxPackets, uint64(20))
}

func TestNeighboursOnTCXGoOn(t *testing.T) {
	for verdict, name := range map[int32]string{verdictNext: "next", verdictPass: "pass"} {
		t.Run("verdict "+name, func(t *testing.T) {
			l := newLab(t)
			k := l.link(t, "np0")
			requireTCX(t, k)
			ingress, egress := newNeighbour(t, verdict), newNeighbour(t, verdict)
			ingress.attachTCX(t, k, ebpf.AttachTCXIngress)
			egress.attachTCX(t, k, ebpf.AttachTCXEgress)
			alone := k.attached(t)
			require.Equal(t, []ebpf.ProgramID{ingress.id(t)}, alone.TCXIngress)
			require.Equal(t, []ebpf.ProgramID{egress.id(t)}, alone.TCXEgress)

			a := start(t, l.near, watchAll)
			k.up(t)
			together := k.attached(t)
			require.Len(t, together.TCXIngress, 2)
			require.Contains(t, together.TCXIngress, ingress.id(t))
			require.Len(t, together.TCXEgress, 2)
			require.Contains(t, together.TCXEgress, egress.id(t))
			k.requireUntouched(t, ingress, egress)
			a.requireAgreement(t, "np0", k.kernel)

			require.True(t, a.stop(t, syscall.SIGTERM).Success())
			require.Equal(t, alone, k.attached(t))
			k.requireUntouched(t, ingress, egress)
		})
	}
}

func (k *link) addClsact(t *testing.T) {
	t.Helper()
	require.NoError(t, k.lab.near.links.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: k.index(t), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}))
}

func TestNeighboursOnClsactGoOn(t *testing.T) {
	for _, tt := range []struct {
		mode     string
		verdict  int32
		priority uint16
	}{
		{"clsact", verdictNext, 0}, // the kernel chooses the priority
		{"clsact", verdictPass, 0},
		{"clsact", verdictPass, 1}, // nothing goes before that
		{"clsact", verdictPass, 7},
		{"auto", verdictPass, 1},
	} {
		t.Run(fmt.Sprintf("mode %s, verdict %d, priority %d", tt.mode, tt.verdict, tt.priority), func(t *testing.T) {
			l := newLab(t)
			k := l.link(t, "np0")
			k.addClsact(t)
			ingress, egress := newNeighbour(t, tt.verdict), newNeighbour(t, tt.verdict)
			ingress.attachFilter(t, k, netlink.HANDLE_MIN_INGRESS, tt.priority)
			egress.attachFilter(t, k, netlink.HANDLE_MIN_EGRESS, tt.priority)
			alone := k.attached(t)
			require.Len(t, alone.FilterIngress, 1)
			require.Len(t, alone.FilterEgress, 1)

			a := start(t, l.near, fmt.Sprintf(`{tc: {mode: %s}, interval: 200ms}`, tt.mode))
			k.up(t)
			together := k.attached(t)
			require.Contains(t, together.FilterIngress, alone.FilterIngress[0])
			require.Contains(t, together.FilterEgress, alone.FilterEgress[0])
			k.requireUntouched(t, ingress, egress)
			a.requireAgreement(t, "np0", k.kernel)

			require.True(t, a.stop(t, syscall.SIGTERM).Success())
			require.Equal(t, alone, k.attached(t))
			k.requireUntouched(t, ingress, egress)
		})
	}
}

// A filter of another kind shares its priority with none of ours.
func TestFilterOfAnotherKindGoesOn(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	k.addClsact(t)
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		require.NoError(t, l.near.links.FilterAdd(&netlink.U32{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: k.index(t), Parent: parent, Priority: 1, Protocol: unix.ETH_P_IP},
			// the version of an IP packet, which is never 0
			Sel: &netlink.TcU32Sel{Nkeys: 1, Flags: netlink.TC_U32_TERMINAL, Keys: []netlink.TcU32Key{{Mask: 0xf0000000}}},
		}))
	}
	alone := k.attached(t)
	require.NotEmpty(t, alone.FilterIngress)
	require.NotEmpty(t, alone.FilterEgress)

	a := start(t, l.near, `{tc: {mode: clsact}, interval: 200ms}`)
	k.up(t)
	k.traffic(t)
	a.requireAgreement(t, "np0", k.kernel)
	require.True(t, a.stop(t, syscall.SIGTERM).Success())
	require.Equal(t, alone, k.attached(t))
}
