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

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
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
	maps     *kernel.Pair // of flows
	clock    kernel.Clock
	closers  kernel.Closers
	missed   uint64 // as last told

	// reused at each drain
	keys        []bpf.DropsDropFlowKey
	values      []bpf.DropsDropFlow
	countKeys   []bpf.DropsDropKey
	countValues []bpf.DropsVolume // per CPU, a key's one after the other
}

// capabilities that loading and attaching need.
var capabilities = []kernel.Capability{
	{Bit: unix.CAP_BPF, Name: "CAP_BPF", Why: "loads programs and maps"},
	{Bit: unix.CAP_PERFMON, Name: "CAP_PERFMON", Why: "lets programs follow the kernel and read its memory"},
}

// Load loads the program and attaches it: from here on it counts the drops of
// the network namespace that the calling thread is in. An error says what is
// missing, and what to do about it.
func Load(opts Options) (*Probe, error) {
	if opts.MaxEntries == 0 || opts.MaxFlows == 0 {
		return nil, errors.New("load drop counters: room for at least one entry and one flow is needed")
	}
	// Not an error by itself: only kernels before 5.11 need it.
	memlock := kernel.RemoveMemlock()
	p := &Probe{}
	if err := p.load(opts); err != nil {
		return nil, errors.Join(fmt.Errorf("load drop counters: %w", kernel.Explain(err, memlock, capabilities...)), p.Close())
	}
	return p, nil
}

func (p *Probe) load(opts Options) error {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("read the kernel's type information: %w", err)
	}
	if p.features, err = readFeatures(types); err != nil {
		return err
	}
	if p.features.Reasons {
		if p.reasons, err = readReasons(types); err != nil {
			return err
		}
	}
	if err := p.loadProgram(opts); err != nil {
		return err
	}
	size := min(drainBatch, int(opts.MaxFlows))
	p.keys = make([]bpf.DropsDropFlowKey, size)
	p.values = make([]bpf.DropsDropFlow, size)
	size = min(drainBatch, int(opts.MaxEntries))
	p.countKeys = make([]bpf.DropsDropKey, size)
	p.countValues = make([]bpf.DropsVolume, size*kernel.PossibleCPUs())

	// in this order: kernels that run the first in the middle of itself have to call
	// it before the other (drop_once.h)
	for _, prog := range []*ebpf.Program{p.objs.KfreeSkb, p.objs.KfreeSkbNested} {
		attached, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			return fmt.Errorf("attach to the tracepoint kfree_skb: %w", err)
		}
		p.closers = append(p.closers, attached)
	}
	return nil
}

func (p *Probe) loadProgram(opts Options) error {
	netns, err := kernel.ThreadNetNS()
	if err != nil {
		return err
	}
	spec, err := bpf.LoadDrops()
	if err != nil {
		return fmt.Errorf("read the program: %w", err)
	}
	for name, value := range map[string]any{
		bpf.DropsVarCfgDropNetns:     uint32(netns),
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
	p.maps, err = kernel.NewPair(p.objs.DropFlows0, p.objs.DropFlows1, p.objs.DropEpoch, p.objs.DropBarrier)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, p.maps)
	return nil
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

// counts gives all counts, or none with an error.
func (p *Probe) counts() ([]Count, error) {
	var counts []Count
	err := p.eachCount(func(key *bpf.DropsDropKey, values []bpf.DropsVolume) {
		counts = append(counts, Count{Key: p.reasons.decodeKey(key), Volume: sum(values)})
	})
	if err != nil {
		return nil, fmt.Errorf("read counts of drops: %w", err)
	}
	return counts, nil
}

// eachCount yields each key with what the CPUs counted of it. It must not be kept.
func (p *Probe) eachCount(yield func(*bpf.DropsDropKey, []bpf.DropsVolume)) error {
	var cursor ebpf.MapBatchCursor
	cpus := len(p.countValues) / len(p.countKeys)
	for first := true; ; first = false {
		n, err := p.objs.DropCounts.BatchLookup(&cursor, p.countKeys, p.countValues, nil)
		if first && n == 0 && errors.Is(err, ebpf.ErrNotSupported) {
			return p.eachCountAlone(yield)
		}
		for i := range n {
			yield(&p.countKeys[i], p.countValues[i*cpus:(i+1)*cpus])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// eachCountAlone is for kernels without batch operations on this type of map.
func (p *Probe) eachCountAlone(yield func(*bpf.DropsDropKey, []bpf.DropsVolume)) error {
	var key bpf.DropsDropKey
	var values []bpf.DropsVolume
	entries := p.objs.DropCounts.Iterate()
	for entries.Next(&key, &values) {
		yield(&key, values)
	}
	return entries.Err()
}

func (p *Probe) drainFlows() ([]FlowDrop, error) {
	idle, err := p.maps.Flip()
	if err != nil {
		return nil, err
	}
	p.clock.Sync()
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

// Forget lets go of the counts of interfaces of which gone is true, to make room:
// the kernel gives no interface the number of an old one before it has run out of
// new ones. It returns what they were at last, also with an error; Collect gives
// the others.
func (p *Probe) Forget(gone func(interfaceIndex uint32) bool) ([]Count, error) {
	var old []bpf.DropsDropKey
	err := p.eachCount(func(key *bpf.DropsDropKey, _ []bpf.DropsVolume) {
		if key.Ifindex != 0 && gone(key.Ifindex) {
			old = append(old, *key)
		}
	})
	var last []Count
	var values []bpf.DropsVolume
	for i := range old {
		e := p.take(&old[i], &values)
		if e == nil {
			last = append(last, Count{Key: p.reasons.decodeKey(&old[i]), Volume: sum(values)})
		} else if !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return last, fmt.Errorf("forget counts of drops: %w", err)
	}
	return last, nil
}

// take reads an entry and deletes it, at once where the kernel can (5.14).
func (p *Probe) take(key *bpf.DropsDropKey, values *[]bpf.DropsVolume) error {
	err := p.objs.DropCounts.LookupAndDelete(key, values)
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	if err := p.objs.DropCounts.Lookup(key, values); err != nil {
		return err
	}
	return p.objs.DropCounts.Delete(key)
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
	// Missed is how often neither program was run because both ran on that CPU
	// already, or one had only just begun: an interrupt dropped a packet meanwhile. It
	// may have been of any namespace.
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
	if err := p.readMissed(); err != nil {
		return h, err
	}
	h.Missed = p.missed
	return h, nil
}

// readMissed takes what the second program caught from what the first one missed.
// That grows between the two readings, so the difference may be less than before.
func (p *Probe) readMissed() error {
	stats, err := p.objs.KfreeSkb.Stats()
	if err != nil {
		return fmt.Errorf("read how often the program was missed: %w", err)
	}
	missed := stats.RecursionMisses
	var perCPU []bpf.DropsDropFirst
	if err := p.objs.DropFirstState.Lookup(uint32(0), &perCPU); err != nil {
		return fmt.Errorf("read how many drops the second program caught: %w", err)
	}
	for i := range perCPU {
		missed -= min(missed, perCPU[i].Caught)
	}
	p.missed = max(p.missed, missed)
	return nil
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
	return p.closers.Close()
}
