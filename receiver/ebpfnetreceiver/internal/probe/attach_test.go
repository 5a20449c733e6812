// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// requireTCX skips the test on kernels before 6.6.
func requireTCX(tb testing.TB) {
	tb.Helper()
	var release unix.Utsname
	require.NoError(tb, unix.Uname(&release))
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
	if lacksTCX(err) {
		tb.Skipf("this kernel has no TCX: %s", unix.ByteSliceToString(release.Release[:]))
	}
	require.NoError(tb, err)
}

// lacksTCX says whether a question for TCX programs failed because the kernel does
// not know what they are (bpf_prog_query, kernel/bpf/syscall.c).
func lacksTCX(err error) bool {
	return errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL)
}

// verdict gives a program that does nothing but answer.
func verdict(tb testing.TB, typ ebpf.ProgramType, answer int32) *ebpf.Program {
	tb.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: typ, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, answer), asm.Return()},
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, prog.Close()) })
	return prog
}

const dropPacket = 2 // TC_ACT_SHOT

// requireClean fails if anything is left on an interface.
func requireClean(tb testing.TB, iface netlink.Link) {
	tb.Helper()
	for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: iface.Attrs().Index, Attach: attach})
		if lacksTCX(err) {
			continue
		}
		require.NoError(tb, err)
		require.Empty(tb, found.Programs)
	}
	require.Empty(tb, clsactQdiscs(tb, iface))
	now, err := netlink.LinkByIndex(iface.Attrs().Index)
	require.NoError(tb, err)
	if xdp := now.Attrs().Xdp; xdp != nil {
		require.False(tb, xdp.Attached)
	}
}

func clsactQdiscs(tb testing.TB, iface netlink.Link) []netlink.Qdisc {
	tb.Helper()
	all, err := netlink.QdiscList(iface)
	require.NoError(tb, err)
	var found []netlink.Qdisc
	for _, q := range all {
		if q.Type() == "clsact" {
			found = append(found, q)
		}
	}
	return found
}

func TestDetachAndClose(t *testing.T) {
	for _, mode := range []TCMode{TCAuto, TCClsact} {
		t.Run(string(mode), func(t *testing.T) {
			l := newLab(t)
			opts := defaults()
			opts.TC, opts.XDP = mode, XDPGeneric
			p, err := Load(opts)
			require.NoError(t, err)
			l.attach(t, p)
			frame := udp4(t, packets.SourcePort, 10)
			l.sendAsEgress(t, frame)

			require.NoError(t, p.Detach())
			requireClean(t, l.near)
			require.NoError(t, p.Detach())
			// What was counted is still there, and nothing is added.
			l.sendAsEgress(t, frame)
			got, err := p.InterfaceCounters(l.index())
			require.NoError(t, err)
			require.Equal(t, flow.InterfaceCounters{Tx: volumeOf(frame)}, got)
			require.Equal(t, map[flow.Key]flow.Volume{l.key4(flow.UDP, flow.Egress): volumeOf(frame)}, volumes(t, drain(t, p)))

			require.NoError(t, p.Close())
			require.NoError(t, p.Close())
			require.NoError(t, p.Detach())
		})
	}
}

func TestCloseTakesProgramsOff(t *testing.T) {
	for _, mode := range []TCMode{TCAuto, TCClsact} {
		t.Run(string(mode), func(t *testing.T) {
			l := newLab(t)
			opts := defaults()
			opts.TC, opts.XDP = mode, XDPNative
			p, err := Load(opts)
			require.NoError(t, err)
			l.attach(t, p)
			_, err = p.Attach(Interface{Index: l.far.Attrs().Index, Ethernet: true})
			require.NoError(t, err)
			require.NoError(t, p.Close())
			requireClean(t, l.near)
			requireClean(t, l.far)
		})
	}
}

// An interface can be let go of and watched again: its counters begin at zero.
func TestRemoveAndAttachAgain(t *testing.T) {
	for _, mode := range []TCMode{TCAuto, TCClsact} {
		t.Run(string(mode), func(t *testing.T) {
			l := newLab(t)
			opts := defaults()
			opts.TC, opts.XDP = mode, XDPNative
			p := load(t, opts)
			l.attach(t, p)
			frame := udp4(t, packets.SourcePort, 10)
			l.sendAsEgress(t, frame)
			require.NoError(t, p.Remove(l.index()))
			requireClean(t, l.near)
			_, err := p.InterfaceCounters(l.index())
			require.Error(t, err)
			require.Equal(t, map[flow.Key]flow.Volume{l.key4(flow.UDP, flow.Egress): volumeOf(frame)}, volumes(t, drain(t, p)), "its last flows are there")

			l.attach(t, p)
			got, err := p.InterfaceCounters(l.index())
			require.NoError(t, err)
			require.Equal(t, flow.InterfaceCounters{}, got)
			l.sendAsEgress(t, frame, frame)
			got, err = p.InterfaceCounters(l.index())
			require.NoError(t, err)
			require.Equal(t, flow.InterfaceCounters{Tx: volumeOf(frame, frame)}, got)
		})
	}
}

// Programs go with their interface.
func TestRemoveAfterTheInterfaceHasGone(t *testing.T) {
	for _, mode := range []TCMode{TCAuto, TCClsact} {
		t.Run(string(mode), func(t *testing.T) {
			l := newLab(t)
			opts := defaults()
			opts.TC, opts.XDP = mode, XDPNative
			p := load(t, opts)
			l.attach(t, p)
			l.sendAsEgress(t, udp4(t, packets.SourcePort, 10))
			require.NoError(t, netlink.LinkDel(l.near))
			got, err := p.InterfaceCounters(l.index())
			require.NoError(t, err)
			require.Equal(t, uint64(1), got.Tx.Packets)
			require.NoError(t, p.Remove(l.index()))
			require.Len(t, drain(t, p), 1)
		})
	}
}

// Whoever asks for an interface that has just gone is told so, and can ignore it.
func TestAttachToNoInterface(t *testing.T) {
	for _, tt := range []struct {
		tc  TCMode
		xdp XDPMode
	}{{TCAuto, XDPOff}, {TCClsact, XDPOff}, {TCOff, XDPNative}, {TCOff, XDPGeneric}} {
		t.Run(string(tt.tc)+" "+string(tt.xdp), func(t *testing.T) {
			newLab(t)
			opts := defaults()
			opts.TC, opts.XDP = tt.tc, tt.xdp
			p := load(t, opts)
			_, err := p.Attach(Interface{Index: 9999, Ethernet: true})
			require.ErrorIs(t, err, unix.ENODEV)
			_, err = p.InterfaceCounters(9999)
			require.Error(t, err, "nothing is left of the try")
		})
	}
}

func TestAttachToTooManyInterfaces(t *testing.T) {
	l := newLab(t)
	opts := defaults()
	opts.MaxInterfaces = 1
	p := load(t, opts)
	l.attach(t, p)
	_, err := p.Attach(Interface{Index: l.far.Attrs().Index, Ethernet: true})
	require.ErrorIs(t, err, unix.E2BIG)
	require.ErrorContains(t, err, "more interfaces than interfaces::max_entries (1)")
	requireClean(t, l.far)
	require.NoError(t, p.Remove(l.index()))
	_, err = p.Attach(Interface{Index: l.far.Attrs().Index, Ethernet: true})
	require.NoError(t, err)
}

// Two instances count the same packets, each for itself.
func TestTwoInstances(t *testing.T) {
	l := newLab(t)
	requireTCX(t)
	opts := defaults()
	opts.TC = TCX
	first, second := load(t, opts), load(t, opts)
	l.attach(t, first)
	l.attach(t, second) // which comes before the first
	frame := udp4(t, packets.SourcePort, 10)
	l.sendAsIngress(t, first, frame)
	l.sendAsEgress(t, frame, frame)
	want := flow.InterfaceCounters{Rx: volumeOf(frame), Tx: volumeOf(frame, frame)}
	for _, p := range []*Probe{first, second} {
		got, err := p.InterfaceCounters(l.index())
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// Others on the same hook may drop packets. They come after our programs, which
// see what they drop, and they work as if ours were not there.
func TestOthersThatDrop(t *testing.T) {
	foreignTCX := func(t *testing.T, l *lab, attach ebpf.AttachType) {
		cl, err := link.AttachTCX(link.TCXOptions{Interface: l.index(), Program: verdict(t, ebpf.SchedCLS, dropPacket), Attach: attach})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, cl.Close()) })
	}
	for _, tt := range []struct {
		name    string
		mode    TCMode
		foreign func(t *testing.T, l *lab)
	}{
		{"tcx", TCX, func(t *testing.T, l *lab) {
			requireTCX(t)
			foreignTCX(t, l, ebpf.AttachTCXIngress)
			foreignTCX(t, l, ebpf.AttachTCXEgress)
		}},
		{"clsact", TCClsact, func(t *testing.T, l *lab) {
			addForeignFilter(t, l.near, netlink.HANDLE_MIN_INGRESS, 1)
			addForeignFilter(t, l.near, netlink.HANDLE_MIN_EGRESS, 100)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			tt.foreign(t, l)
			opts := defaults()
			opts.TC = tt.mode
			p := load(t, opts)
			l.attach(t, p)
			before := statistics(t, l.far).RxPackets
			frame := udp4(t, packets.SourcePort, 10)
			l.sendAsIngress(t, p, frame)
			require.NoError(t, ignoreDropped(open(t, l.near).send(frame)))

			got, err := p.InterfaceCounters(l.index())
			require.NoError(t, err)
			require.Equal(t, flow.InterfaceCounters{Rx: volumeOf(frame), Tx: volumeOf(frame)}, got)
			require.Equal(t, before, statistics(t, l.far).RxPackets, "the other program has dropped it")
		})
	}
}

// ignoreDropped takes what a sender hears of a filter's drop for success.
func ignoreDropped(err error) error {
	if errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

// Kernels that have no TCX get clsact, and a reason; those that do not let us
// are not asked again in another way.
func TestAttachClassifierFallsBack(t *testing.T) {
	bpftest.RequireBPF(t)
	p := load(t, defaults())
	mode := Attachment{}
	_, err := p.attachClassifier(9999, flow.Ingress, p.tc.TcIngress, &mode)
	require.ErrorIs(t, err, unix.ENODEV)
	if mode.Mode == "tcx" {
		require.Empty(t, mode.Reason)
	} else {
		require.Equal(t, "not_supported", mode.Reason)
		require.ErrorIs(t, mode.Err, ebpf.ErrNotSupported)
	}
}
