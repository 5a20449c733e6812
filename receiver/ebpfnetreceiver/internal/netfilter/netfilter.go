// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package netfilter counts what netfilter's hooks see and drop, beside whatever
// rules are there: it neither reads nor changes a ruleset. It knows nothing of
// rules, tables or the collector, and nothing of what is dropped elsewhere.
//
// A hook is between the first and the last priority that the kernel lets programs
// have. What comes after is not in it: connection tracking confirms a connection at
// the very last one, and drops the packet if another has just made the same.
package netfilter // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netfilter"

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// Hook is a place in a packet's way through the host.
type Hook uint8

// Hooks.
const (
	Prerouting  = Hook(link.NetfilterInetPreRouting)
	LocalIn     = Hook(link.NetfilterInetLocalIn)
	Forward     = Hook(link.NetfilterInetForward)
	LocalOut    = Hook(link.NetfilterInetLocalOut)
	Postrouting = Hook(link.NetfilterInetPostRouting)
	Hooks       = int(Postrouting) + 1
)

func (h Hook) String() string {
	return [...]string{
		Prerouting: "prerouting", LocalIn: "local_in", Forward: "forward",
		LocalOut: "local_out", Postrouting: "postrouting",
	}[h]
}

// Place is a hook of one IP version.
type Place struct {
	Hook Hook
	IPv6 bool
}

func (p Place) String() string {
	if p.IPv6 {
		return "ipv6 " + p.Hook.String()
	}
	return "ipv4 " + p.Hook.String()
}

// index is where the programs count what is at the place.
func (p Place) index() uint32 {
	if p.IPv6 {
		return uint32(Hooks) + uint32(p.Hook)
	}
	return uint32(p.Hook)
}

func places() []Place {
	var all []Place
	for _, ipv6 := range []bool{false, true} {
		for hook := range Hooks {
			all = append(all, Place{Hook(hook), ipv6})
		}
	}
	return all
}

// Drops names the feature of counting drops.
const Drops = "drops"

// Feature is a part of a Probe that may not work.
type Feature struct {
	// Name is Drops or that of a Place.
	Name string
	// Err is why it does not work, nil where it does.
	Err error
}

// Probe counts at the hooks of the network namespace that it was loaded in.
type Probe struct {
	programs programs
	attached []Place
	features []Feature
	closers  kernel.Closers
}

// programs are those at the hooks, and what they share with the one that
// watches what is freed.
type programs struct {
	First   *ebpf.Program `ebpf:"netfilter_first"`
	Last    *ebpf.Program `ebpf:"netfilter_last"`
	Seen    *ebpf.Map     `ebpf:"netfilter_seen"`
	Dropped *ebpf.Map     `ebpf:"netfilter_dropped"`
	Notes   *ebpf.Map     `ebpf:"netfilter_notes"`
	Evicted *ebpf.Map     `ebpf:"netfilter_evicted"`
}

// capabilities that loading and attaching need.
var capabilities = []kernel.Capability{
	{Bit: unix.CAP_BPF, Name: "CAP_BPF", Why: "loads programs and maps"},
	{Bit: unix.CAP_NET_ADMIN, Name: "CAP_NET_ADMIN", Why: "attaches programs to netfilter's hooks"},
	{Bit: unix.CAP_PERFMON, Name: "CAP_PERFMON", Why: "lets programs read the kernel's memory"},
}

// Load counts from now on at all hooks of this thread's network namespace. What
// of it does not work is in Features; the error is nil if anything does. It is
// ebpf.ErrNotSupported where the kernel has no such programs.
func Load() (*Probe, error) {
	p := &Probe{}
	err := features.HaveProgramType(ebpf.Netfilter)
	if err == nil {
		err = p.load()
	}
	if err != nil {
		return nil, errors.Join(explain(err), p.Close())
	}
	return p, nil
}

// explain says what to do about an error of Load.
func explain(err error) error {
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("netfilter programs: %w: the kernel has none; it needs Linux 6.4 or later with CONFIG_NETFILTER_BPF_LINK=y", err)
	}
	// kernels that have them count no maps against a limit on locked memory
	return fmt.Errorf("netfilter programs: %w", kernel.Explain(err, nil, capabilities...))
}

func (p *Probe) load() error {
	spec, err := bpf.LoadNetfilter()
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if err := spec.LoadAndAssign(&p.programs, nil); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	p.closers = append(p.closers, p.programs.First, p.programs.Last, p.programs.Seen,
		p.programs.Dropped, p.programs.Notes, p.programs.Evicted)

	// before anything is noted, so that no note is missed
	p.features = append(p.features, Feature{Drops, p.watchFreed(spec)})
	return p.attachAll()
}

// watchFreed lets the kernel say which packets it frees as dropped. It tells a
// program nothing of what happens on a CPU while that program runs there
// (recursion protection, bpf_prog.active), as when a process drops a packet and
// the interrupt that comes another one. So there are two that do the same: what one
// is not told the other is, and which of them comes second finds no note.
func (p *Probe) watchFreed(spec *ebpf.CollectionSpec) error {
	for range 2 {
		closers, err := p.attachFreed(spec)
		p.closers = append(p.closers, closers...)
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Probe) attachFreed(spec *ebpf.CollectionSpec) ([]io.Closer, error) {
	const needs = "needs CAP_PERFMON and CONFIG_BPF_EVENTS=y"
	var tracing struct {
		Freed *ebpf.Program `ebpf:"netfilter_freed"`
	}
	err := spec.LoadAndAssign(&tracing, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		bpf.NetfilterMapNetfilterDropped: p.programs.Dropped,
		bpf.NetfilterMapNetfilterNotes:   p.programs.Notes,
	}})
	if err != nil {
		return nil, fmt.Errorf("load the program for the tracepoint kfree_skb (%s): %w", needs, err)
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: tracing.Freed})
	if err != nil {
		return []io.Closer{tracing.Freed}, fmt.Errorf("attach to the tracepoint kfree_skb (%s): %w", needs, err)
	}
	return []io.Closer{tracing.Freed, l}, nil
}

func (p *Probe) attachAll() error {
	var failed []error
	for _, place := range places() {
		err := p.attach(place)
		if err != nil {
			err = fmt.Errorf("attach to netfilter hook %v: %w", place, err)
			failed = append(failed, err)
		} else {
			p.attached = append(p.attached, place)
		}
		p.features = append(p.features, Feature{place.String(), err})
	}
	if len(p.attached) == 0 {
		return errors.Join(failed...)
	}
	return nil
}

// attach attaches the last program before the first one, so that no packet is
// noted and then leaves unnoticed.
func (p *Probe) attach(place Place) error {
	last, err := attachAtEnd(p.programs.Last, place, math.MaxInt32-1, -1)
	if err != nil {
		return fmt.Errorf("at the last priority: %w", err)
	}
	first, err := attachAtEnd(p.programs.First, place, math.MinInt32+1, 1)
	if err != nil {
		return errors.Join(fmt.Errorf("at the first priority: %w", err), last.Close())
	}
	p.closers = append(p.closers, last, first)
	return nil
}

// otherPrograms is how many programs of others may be at an end of a hook.
const otherPrograms = 16

// attachAtEnd attaches at the outermost priority that no other BPF program has:
// the kernel lets each have but one. The very first and the very last it keeps for
// itself (bpf_nf_check_pf_and_hooks, net/netfilter/nf_bpf_link.c).
func attachAtEnd(prog *ebpf.Program, place Place, priority, inwards int32) (link.Link, error) {
	opts := link.NetfilterOptions{
		Program: prog, ProtocolFamily: link.NetfilterProtoIPv4,
		Hook: link.NetfilterInetHook(place.Hook), Priority: priority,
	}
	if place.IPv6 {
		opts.ProtocolFamily = link.NetfilterProtoIPv6
	}
	for range otherPrograms {
		l, err := link.AttachNetfilter(opts)
		if !errors.Is(err, unix.EBUSY) {
			return l, err
		}
		opts.Priority += inwards
	}
	return nil, fmt.Errorf("other programs have the %d outermost priorities: %w", otherPrograms, unix.EBUSY)
}

// Features says what works: drops, and each place.
func (p *Probe) Features() []Feature { return p.features }

// Count is what a place has counted since Load, in packets and bytes as they
// are on the wire, from the IP header on.
type Count struct {
	Place
	Seen flow.Volume
	// Dropped is zero where Features says that drops are not counted.
	Dropped flow.Volume
}

// Counters has those of all places that work. Numbers only grow, and what was
// dropped was seen.
func (p *Probe) Counters() ([]Count, error) {
	counts := make([]Count, len(p.attached))
	// dropped first: what is dropped in between is seen already
	for i, place := range p.attached {
		dropped, err := sum(p.programs.Dropped, place.index())
		if err != nil {
			return nil, fmt.Errorf("read what netfilter hook %v dropped: %w", place, err)
		}
		counts[i] = Count{Place: place, Dropped: dropped}
	}
	for i, place := range p.attached {
		seen, err := sum(p.programs.Seen, place.index())
		if err != nil {
			return nil, fmt.Errorf("read what netfilter hook %v saw: %w", place, err)
		}
		counts[i].Seen = seen
	}
	return counts, nil
}

func sum(m *ebpf.Map, key uint32) (flow.Volume, error) {
	var total flow.Volume
	var perCPU []bpf.NetfilterVolume
	if err := m.Lookup(key, &perCPU); err != nil {
		return total, err
	}
	for _, v := range perCPU {
		total.Add(flow.Volume{Packets: v.Packets, Bytes: v.Bytes})
	}
	return total, nil
}

// Evicted is how many packets have lost their note to that of another since Load.
// If one of them was dropped it is not in Counters.
func (p *Probe) Evicted() (uint64, error) {
	var total uint64
	var perCPU []uint64
	if err := p.programs.Evicted.Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("read how many netfilter notes were evicted: %w", err)
	}
	for _, n := range perCPU {
		total += n
	}
	return total, nil
}

// Close takes everything out of the kernel.
func (p *Probe) Close() error {
	return p.closers.Close()
}
