// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package drops counts the packets that the kernel drops in one network
// namespace, by the kernel's own reason, and tells whose they were. It knows
// nothing of pdata, and nothing of drops before the kernel makes a buffer of a
// packet (in the network card, in native XDP) or by freeing buffers in another way.
//
// Not all that is freed as dropped is a packet lost. A packet that a flooding
// switch brought to the wrong host is OTHERHOST; one for a protocol that nobody
// speaks is UNHANDLED_PROTO; a copy that a capture had no room for is
// PACKET_SOCK_ERROR; an answer to a connection that is gone is TCP_OLD_ACK or
// TCP_CLOSE. What nobody has given a reason yet is NOT_SPECIFIED, and kernels
// without reasons free so some that had served. All are counted under their names.
//
// Those kernels (before 5.17) also free what TCP does not take of a connection in
// a way that cannot be seen from here (tcp_drop, net/ipv4/tcp_input.c).
package drops // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/drops"

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// How many entries one system call reads and deletes.
const drainBatch = 4096

// Options of a Probe.
type Options struct {
	// MaxEntries is how many keys drops are counted by.
	MaxEntries uint32
	// MaxFlows is how many flows, each with its reasons, an interval has room for.
	MaxFlows uint32
}

// Probe counts drops. Except for Close it is for one goroutine at a time.
type Probe struct {
	features Features
	reasons  reasons
	objs     bpf.DropsObjects
	maps     [2]*ebpf.Map // of flows
	epoch    uint32
	inner    *ebpf.Map // what the barrier's only slot is set to
	clock    clock
	closers  []io.Closer

	// reused at each drain
	keys   []bpf.DropsDropFlowKey
	values []bpf.DropsDropFlow
}

// Load loads the program and attaches it: from here on it counts the drops of
// the network namespace that the calling thread is in. An error says what is
// missing, and what to do about it.
func Load(opts Options) (*Probe, error) {
	if opts.MaxEntries == 0 || opts.MaxFlows == 0 {
		return nil, errors.New("load drop counters: room for at least one entry and one flow is needed")
	}
	// Not an error by itself: only kernels before 5.11 need it.
	memlock := rlimit.RemoveMemlock()
	p := &Probe{}
	if err := p.load(opts); err != nil {
		return nil, errors.Join(fmt.Errorf("load drop counters: %w", explain(err, memlock)), p.Close())
	}
	return p, nil
}

func (p *Probe) load(opts Options) error {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("read the kernel's type information (CONFIG_DEBUG_INFO_BTF=y gives it, as /sys/kernel/btf/vmlinux, with /sys mounted): %w", err)
	}
	if p.features, err = readFeatures(kernel); err != nil {
		return err
	}
	if p.features.Reasons {
		if p.reasons, err = readReasons(kernel); err != nil {
			return err
		}
	}
	if err := p.loadProgram(opts); err != nil {
		return err
	}
	size := min(drainBatch, int(opts.MaxFlows))
	p.keys = make([]bpf.DropsDropFlowKey, size)
	p.values = make([]bpf.DropsDropFlow, size)

	attached, err := link.AttachTracing(link.TracingOptions{Program: p.objs.KfreeSkb})
	if err != nil {
		return fmt.Errorf("attach to the tracepoint kfree_skb: %w", err)
	}
	p.closers = append(p.closers, attached)
	return nil
}

func (p *Probe) loadProgram(opts Options) error {
	netns, err := threadNetNS()
	if err != nil {
		return err
	}
	spec, err := bpf.LoadDrops()
	if err != nil {
		return fmt.Errorf("read the program: %w", err)
	}
	for name, value := range map[string]any{
		bpf.DropsVarCfgDropNetns:     netns,
		bpf.DropsVarCfgDropHasReason: p.features.Reasons,
		bpf.DropsVarCfgDropHasRxSk:   p.features.ReceivingSocket,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	spec.Maps[bpf.DropsMapDropCounts].MaxEntries = opts.MaxEntries
	spec.Maps[bpf.DropsMapDropFlows0].MaxEntries = opts.MaxFlows
	spec.Maps[bpf.DropsMapDropFlows1].MaxEntries = opts.MaxFlows
	if err := spec.LoadAndAssign(&p.objs, nil); err != nil {
		return fmt.Errorf("load the program: %w", err)
	}
	p.closers = append(p.closers, &p.objs)
	p.maps = [2]*ebpf.Map{p.objs.DropFlows0, p.objs.DropFlows1}

	p.inner, err = ebpf.NewMap(&ebpf.MapSpec{Name: "drop_barrier", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("create barrier map: %w", err)
	}
	p.closers = append(p.closers, p.inner)
	return nil
}

// threadNetNS gives the inode number of this thread's network namespace, which is
// 32 bits wide (struct ns_common, include/linux/ns_common.h).
func threadNetNS() (uint32, error) {
	var st unix.Stat_t
	const path = "/proc/thread-self/ns/net"
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return uint32(st.Ino), nil
}

// explain adds to an error what is missing and what to do about it. memlock is
// why the limit on locked memory could not be lifted, if so.
func explain(err, memlock error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		err = fmt.Errorf("%w; run as root, or grant CAP_BPF and CAP_PERFMON (setcap, systemd AmbientCapabilities=, container securityContext); with them there a security module or lockdown mode may forbid it: see the kernel log", err)
		if memlock != nil {
			err = fmt.Errorf("%w; kernels before 5.11 also count eBPF maps against RLIMIT_MEMLOCK, which could not be raised: %w", err, memlock)
		}
		return err
	}
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return fmt.Errorf("%w: this kernel's verifier refuses the program, which is a bug in NetProbe: please report it with the kernel version and this log: %-20v", err, verifier)
	}
	return err
}

// Features is what the kernel tells of a drop.
func (p *Probe) Features() Features {
	return p.features
}

// Collect gives the counts since the probe was loaded, and the drops of flows since
// the last call. With an error come the drops that were read before it; those not
// read stay for the next call.
func (p *Probe) Collect() ([]Count, []FlowDrop, error) {
	flows, flowsErr := p.drainFlows()
	counts, err := p.counts()
	return counts, flows, errors.Join(flowsErr, err)
}

func (p *Probe) counts() ([]Count, error) {
	var counts []Count
	var key bpf.DropsDropKey
	var values []bpf.DropsVolume
	entries := p.objs.DropCounts.Iterate()
	for entries.Next(&key, &values) {
		counts = append(counts, Count{Key: p.reasons.decodeKey(&key), Volume: sum(values)})
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read counts of drops: %w", err)
	}
	return counts, nil
}

func (p *Probe) drainFlows() ([]FlowDrop, error) {
	idle, err := p.flip()
	if err != nil {
		return nil, err
	}
	p.clock.sync()
	var flows []FlowDrop
	var cursor ebpf.MapBatchCursor
	for {
		n, err := idle.BatchLookupAndDelete(&cursor, p.keys, p.values, nil)
		for i := range n {
			flows = append(flows, p.reasons.decodeFlow(&p.keys[i], &p.values[i], &p.clock))
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return flows, nil
		}
		if err != nil {
			return flows, fmt.Errorf("drain drops of flows: %w", err)
		}
	}
}

// flip makes programs write the other map, waits until none can still be writing
// this one, and returns this one.
func (p *Probe) flip() (*ebpf.Map, error) {
	idle := p.maps[p.epoch]
	next := p.epoch ^ 1
	if err := p.objs.DropEpoch.Set(next); err != nil {
		return nil, fmt.Errorf("flip drop maps: %w", err)
	}
	p.epoch = next
	if err := p.settle(); err != nil {
		return nil, err
	}
	return idle, nil
}

// settle waits until the programs that run have ended.
func (p *Probe) settle() error {
	if err := p.objs.DropBarrier.Put(uint32(0), p.inner); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}

// Forget drops the counts of interfaces of which gone is true, to make room: the
// kernel gives no interface the number of an old one before it has run out of new ones.
func (p *Probe) Forget(gone func(interfaceIndex uint32) bool) error {
	var key bpf.DropsDropKey
	var values []bpf.DropsVolume
	var old []bpf.DropsDropKey
	entries := p.objs.DropCounts.Iterate()
	for entries.Next(&key, &values) {
		if key.Ifindex != 0 && gone(key.Ifindex) {
			old = append(old, key)
		}
	}
	err := entries.Err()
	for i := range old {
		if e := p.objs.DropCounts.Delete(&old[i]); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return fmt.Errorf("forget counts of drops: %w", err)
	}
	return nil
}

// Health is what the probe knows of its own work, since it was loaded. All
// drops are those that Collect counts, and CountLost; and these are as many as
// those of its flows, NoFlow and FlowLost.
type Health struct {
	// CountLost found no room among the counts.
	CountLost flow.Volume
	// FlowLost found no room among the interval's flows.
	FlowLost flow.Volume
	// NoFlow had no IP header that could be read.
	NoFlow flow.Volume
	// NamespaceUnknown is IP packets, of any namespace, of which nothing tells
	// whose they were: those in a UDP socket's queue when it is closed, and fragments
	// that wait for others. They are not counted anywhere else.
	NamespaceUnknown flow.Volume
	// Missed is how often the kernel did not run the program because it ran on that
	// CPU already: an interrupt dropped a packet meanwhile. It may have been of any
	// namespace.
	Missed uint64
}

// Health reads the ledger.
func (p *Probe) Health() (Health, error) {
	var h Health
	for ledger, to := range map[bpf.DropsDropLedger]*flow.Volume{
		bpf.DropsDropLedgerDROP_COUNT_LOST:    &h.CountLost,
		bpf.DropsDropLedgerDROP_FLOW_LOST:     &h.FlowLost,
		bpf.DropsDropLedgerDROP_NO_FLOW:       &h.NoFlow,
		bpf.DropsDropLedgerDROP_NETNS_UNKNOWN: &h.NamespaceUnknown,
	} {
		var values []bpf.DropsVolume
		if err := p.objs.DropLedgers.Lookup(uint32(ledger), &values); err != nil {
			return h, fmt.Errorf("read ledger of drops: %w", err)
		}
		*to = sum(values)
	}
	stats, err := p.objs.KfreeSkb.Stats()
	if err != nil {
		return h, fmt.Errorf("read how often the program was missed: %w", err)
	}
	h.Missed = stats.RecursionMisses
	return h, nil
}

// sum adds up what the CPUs counted.
func sum(perCPU []bpf.DropsVolume) flow.Volume {
	var total flow.Volume
	for _, v := range perCPU {
		total.Add(flow.Volume{Packets: v.Packets, Bytes: v.Bytes})
	}
	return total
}

// Close detaches and unloads. It may be called twice.
func (p *Probe) Close() error {
	var errs []error
	for _, c := range slices.Backward(p.closers) {
		errs = append(errs, c.Close())
	}
	p.closers = nil
	return errors.Join(errs...)
}
