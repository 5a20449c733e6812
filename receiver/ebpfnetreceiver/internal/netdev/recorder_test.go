// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// shortest is the length, in bytes, from which on a recorder takes notice: no
// packet that the kernel sends by itself has it.
const shortest = 1000

// sighting is where a packet was seen, and the interface it had come in by.
type sighting struct {
	Interface int
	Direction flow.Direction
	From      int
}

// recorder counts the long packets of interfaces by sighting.
type recorder struct {
	seen     *ebpf.Map
	programs [2]*ebpf.Program
}

const sightingSize = 3 * 4

func newRecorder(tb testing.TB) *recorder {
	tb.Helper()
	bpftest.RequireBPF(tb)
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: sightingSize, ValueSize: 8, MaxEntries: 256})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, seen.Close()) })
	r := &recorder{seen: seen}
	for direction := range r.programs {
		r.programs[direction], err = ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.SchedCLS, License: "GPL", Instructions: recordSighting(seen, int32(direction)),
		})
		require.NoError(tb, err)
		tb.Cleanup(func() { require.NoError(tb, r.programs[direction].Close()) })
	}
	return r
}

// recordSighting adds one to the value of the packet's sighting.
func recordSighting(seen *ebpf.Map, direction int32) asm.Instructions {
	const (
		// offsets in struct __sk_buff, include/uapi/linux/bpf.h
		length, ingressIfindex, ifindex = 0, 36, 40

		key, value = -16, -24 // on the stack
		next       = -1       // TCX_NEXT
		noExist    = 1        // BPF_NOEXIST
	)
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, length, asm.Word),
		asm.JLT.Imm(asm.R2, shortest, "out"),
		asm.LoadMem(asm.R2, asm.R1, ifindex, asm.Word),
		asm.StoreMem(asm.RFP, key, asm.R2, asm.Word),
		asm.StoreImm(asm.RFP, key+4, int64(direction), asm.Word),
		asm.LoadMem(asm.R2, asm.R1, ingressIfindex, asm.Word),
		asm.StoreMem(asm.RFP, key+8, asm.R2, asm.Word),

		asm.LoadMapPtr(asm.R1, seen.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "new"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Ja.Label("out"),

		asm.Mov.Imm(asm.R1, 1).WithSymbol("new"),
		asm.StoreMem(asm.RFP, value, asm.R1, asm.DWord),
		asm.LoadMapPtr(asm.R1, seen.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, value),
		asm.Mov.Imm(asm.R4, noExist),
		asm.FnMapUpdateElem.Call(),

		asm.Mov.Imm(asm.R0, next).WithSymbol("out"),
		asm.Return(),
	}
}

// watch records what crosses the interface of this namespace until the test ends.
func (r *recorder) watch(tb testing.TB, index int) {
	tb.Helper()
	for direction, attach := range [...]ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: r.programs[direction], Attach: attach})
		if errors.Is(err, ebpf.ErrNotSupported) {
			attachFilter(tb, index, flow.Direction(direction), r.programs[direction])
			continue
		}
		require.NoError(tb, err)
		tb.Cleanup(func() { require.NoError(tb, l.Close()) })
	}
}

// attachFilter attaches a program on kernels before 6.6. It goes with the interface.
func attachFilter(tb testing.TB, index int, direction flow.Direction, prog *ebpf.Program) {
	tb.Helper()
	require.NoError(tb, netlink.QdiscReplace(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}))
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if direction == flow.Egress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	require.NoError(tb, netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: index, Parent: parent, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:           prog.FD(),
		Name:         "recorder",
		DirectAction: true,
	}))
}

// sightings gives the packets of each sighting.
func (r *recorder) sightings(tb testing.TB) map[sighting]uint64 {
	tb.Helper()
	all := map[sighting]uint64{}
	var key [sightingSize]byte
	var packets uint64
	for i := r.seen.Iterate(); i.Next(&key, &packets); {
		field := func(i int) int { return int(binary.NativeEndian.Uint32(key[4*i:])) }
		all[sighting{Interface: field(0), Direction: flow.Direction(field(1)), From: field(2)}] = packets
	}
	return all
}
