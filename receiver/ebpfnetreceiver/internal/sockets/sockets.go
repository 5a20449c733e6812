// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package sockets knows the connections of this machine, in all its network
// namespaces or in one: who has them, how they begin and end, and what the kernel
// counts of them. It knows nothing of pdata.
//
// Tracepoints tell of what happens; what is in between is read from the kernel's
// own sockets by an iterator. Neither is in the way of what a program does.
//
// Not seen: a connect that the host itself refuses for want of a route, since no
// socket changes its state for it.
package sockets // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/sockets"

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// Options of a Probe.
type Options struct {
	// MaxEntries is how many sockets can be watched at a time.
	MaxEntries uint32
	// RingBufferBytes is the room for connections that have ended and were not read
	// yet: a power of two, and a multiple of the page size.
	RingBufferBytes uint32
	// NetNS is the inode number of the only network namespace to watch; 0 for all.
	NetNS uint32
}

// minRemembered is how many sockets at least the programs remember that have no entry:
// those that found no room, and those whose end has been told of. What they forget
// they count again.
const minRemembered = 65536

// remembered is that number. It has little to do with how many can be watched: beyond
// a small table there are as many as beside a large one.
func (o *Options) remembered() uint32 {
	return max(minRemembered, o.MaxEntries)
}

// MapBytes estimates the kernel memory that the maps take.
func (o *Options) MapBytes() uint64 {
	entry := kernel.HashEntryOverhead + kernel.HashBucket + 8 + uint64(unsafe.Sizeof(bpf.SocketsSocketConn{}))
	const remembered = 2 * (kernel.HashEntryOverhead + kernel.HashBucket + 16) // without room, done
	const others = 4096 * (2*(kernel.HashEntryOverhead+kernel.HashBucket) + 8 + uint64(unsafe.Sizeof(bpf.SocketsSocketCgroup{})) +
		uint64(unsafe.Sizeof(bpf.SocketsSocketListenerKey{})+unsafe.Sizeof(bpf.SocketsSocketListener{})))
	return uint64(o.MaxEntries)*entry + uint64(o.remembered())*remembered + uint64(o.RingBufferBytes) + others
}

// Parts of a Probe that may not work.
const (
	// TCP is connections, without which there is nothing.
	TCP = "tcp"
	// Resets is who resets them.
	Resets = "resets"
	// UDP is sockets that send and receive datagrams (Linux 6.3).
	UDP = "udp"
	// Existing finds connections that were there before, with their processes.
	Existing = "existing"
	// ExistingHere finds those of this network namespace that no process has open.
	ExistingHere = "existing_here"
	// Readers tells the process that reads from an accepted connection from the one
	// that listens.
	Readers = "readers"
	// SYNACKs counts what is sent again before there is a connection.
	SYNACKs = "synack_retransmits"
)

// parts in the order of loading.
var parts = []struct {
	name     string
	programs []string
	// tracepoints that they are for, each with the first Linux that has it where that
	// is newer than 5.10
	tracepoints map[string]string
}{
	{TCP, []string{"socket_state_first", "socket_state_second", "socket_destroyed_first", "socket_destroyed_second", "socket_dump"},
		map[string]string{"inet_sock_set_state": "", "tcp_destroy_sock": ""}},
	{Resets, []string{"socket_reset_sent_first", "socket_reset_sent_second", "socket_reset_received_first", "socket_reset_received_second"},
		map[string]string{"tcp_send_reset": "", "tcp_receive_reset": ""}},
	{UDP, []string{"socket_sent", "socket_received"},
		map[string]string{"sock_send_length": "6.3", "sock_recv_length": "6.3"}},
	{Readers, []string{"socket_read"}, map[string]string{"tcp_rcv_space_adjust": ""}},
	{SYNACKs, []string{"socket_synack_again"}, map[string]string{"tcp_retransmit_synack": ""}},
	{Existing, []string{"socket_find"}, nil},
	{ExistingHere, []string{"socket_find_rest"}, nil},
}

// Feature is a part of a Probe that may not work.
type Feature struct {
	Name string
	// Err is why it does not work, nil where it does.
	Err error
}

// Probe watches sockets. Except for Close it is for one goroutine at a time.
type Probe struct {
	maps     map[string]*ebpf.Map // by name, shared by the parts
	programs map[string]*ebpf.Program
	finding  *ebpf.Variable // whether listening sockets are looked for
	features []Feature
	dump     *link.Iter
	ended    *ended
	decoder  decoder
	closers  kernel.Closers
}

var capabilities = []kernel.Capability{
	{Bit: unix.CAP_BPF, Name: "CAP_BPF", Why: "loads programs and maps"},
	{Bit: unix.CAP_PERFMON, Name: "CAP_PERFMON", Why: "attaches to tracepoints and reads the kernel's sockets"},
}

// Load watches sockets from here on, and finds those that are there. What does
// not work is in Features; without TCP there is an error, which says what is missing.
func Load(opts Options) (*Probe, error) {
	memlock := kernel.RemoveMemlock()
	p := &Probe{maps: map[string]*ebpf.Map{}, programs: map[string]*ebpf.Program{}}
	if err := p.load(opts, memlock); err != nil {
		return nil, errors.Join(fmt.Errorf("watch sockets: %w", err), p.Close())
	}
	return p, nil
}

func (p *Probe) load(opts Options, memlock error) error {
	if opts.MaxEntries == 0 {
		return errors.New("room for at least one socket is needed")
	}
	spec, err := configured(opts)
	if err != nil {
		return err
	}
	return p.loadSpec(spec, opts, memlock)
}

// loadSpec loads configured programs and finds what is there.
func (p *Probe) loadSpec(spec *ebpf.CollectionSpec, opts Options, memlock error) error {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return kernel.Explain(err, memlock, capabilities...)
	}
	if err := p.loadParts(types, spec, memlock); err != nil {
		return err
	}
	if p.ended, err = readEnded(p.maps[bpf.SocketsMapSocketClosed], int(opts.MaxEntries)); err != nil {
		return err
	}
	p.closers = append(p.closers, p.ended)
	for _, find := range []func() error{p.openDump, p.findAll} {
		if err := find(); err != nil {
			return err
		}
	}
	return nil
}

func (p *Probe) loadParts(types *btf.Spec, spec *ebpf.CollectionSpec, memlock error) error {
	for i := range parts {
		err := p.loadPart(types, spec, i)
		if err != nil && !errors.Is(err, errNoTracepoint) {
			err = kernel.Explain(err, memlock, capabilities...)
		}
		if err != nil && parts[i].name == TCP {
			return err
		}
		p.features = append(p.features, Feature{parts[i].name, err})
	}
	p.decoder.cgroups = p.maps[bpf.SocketsMapSocketCgroups]
	return nil
}

// configured gives the programs with what options say.
func configured(opts Options) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadSockets()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	for name, value := range map[string]uint32{
		bpf.SocketsVarCfgSocketNetns:       opts.NetNS,
		bpf.SocketsVarCfgSocketWakeupBytes: opts.RingBufferBytes / 8,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	spec.Maps[bpf.SocketsMapSocketConns].MaxEntries = opts.MaxEntries
	spec.Maps[bpf.SocketsMapSocketDone].MaxEntries = opts.remembered()
	spec.Maps[bpf.SocketsMapSocketRoomless].MaxEntries = opts.remembered()
	spec.Maps[bpf.SocketsMapSocketClosed].MaxEntries = opts.RingBufferBytes
	return spec, nil
}

// loadPart loads and attaches the programs of a part, or none of them. All parts
// share the maps of the first one.
func (p *Probe) loadPart(types *btf.Spec, spec *ebpf.CollectionSpec, i int) error {
	part := &parts[i]
	for _, name := range slices.Sorted(maps.Keys(part.tracepoints)) {
		if err := haveTracepoint(types, name, part.tracepoints[name]); err != nil {
			return err
		}
	}
	only := spec.Copy()
	maps.DeleteFunc(only.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return !slices.Contains(part.programs, name) })
	loaded, err := ebpf.NewCollectionWithOptions(only, ebpf.CollectionOptions{MapReplacements: p.maps})
	if err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	defer loaded.Close() // but for what is taken out of it
	if p.finding == nil {
		p.finding = loaded.Variables[bpf.SocketsVarSocketFindListening]
		for name := range only.Maps {
			p.maps[name] = loaded.DetachMap(name)
			p.closers = append(p.closers, p.maps[name])
		}
	}
	programs := map[string]*ebpf.Program{}
	var opened kernel.Closers
	for _, name := range part.programs {
		programs[name] = loaded.DetachProgram(name)
		opened = append(opened, programs[name])
		if only.Programs[name].AttachType == ebpf.AttachTraceIter {
			continue // runs when asked
		}
		l, err := link.AttachTracing(link.TracingOptions{Program: programs[name]})
		if err != nil {
			return errors.Join(fmt.Errorf("attach %s: %w", name, err), opened.Close())
		}
		opened = append(opened, l)
	}
	maps.Copy(p.programs, programs)
	p.closers = append(p.closers, opened...)
	return nil
}

// errNoTracepoint needs no more explanation than which one it is.
var errNoTracepoint = fmt.Errorf("%w: the kernel has no tracepoint", ebpf.ErrNotSupported)

// haveTracepoint says whether the kernel describes a tracepoint, which it does
// as the type of a function.
func haveTracepoint(types *btf.Spec, name, since string) error {
	var tracepoint *btf.Typedef
	err := types.TypeByName("btf_trace_"+name, &tracepoint)
	if err == nil {
		return nil
	}
	if !errors.Is(err, btf.ErrNotFound) {
		return fmt.Errorf("find the tracepoint %s: %w", name, err)
	}
	if since == "" {
		return fmt.Errorf("%w %s", errNoTracepoint, name)
	}
	return fmt.Errorf("%w %s (Linux %s and later have)", errNoTracepoint, name, since)
}

func (p *Probe) openDump() error {
	iter, err := link.AttachIter(link.IterOptions{Program: p.programs["socket_dump"], Map: p.maps[bpf.SocketsMapSocketConns]})
	if err != nil {
		return fmt.Errorf("attach to the table of sockets: %w", err)
	}
	p.dump = iter
	p.closers = append(p.closers, iter)
	return nil
}

// Features says what works.
func (p *Probe) Features() []Feature { return p.features }

// Reading is what became of sockets since the last one.
type Reading struct {
	// Live has all sockets that are there, Closed those that have ended.
	Live, Closed []flow.Connection
}

// Read reads all sockets. With an error come those that were read before it.
func (p *Probe) Read() (Reading, error) {
	p.decoder.clock.Sync()
	// What ends while this goes on is shown here as living, and then as ended.
	r, err := p.readDump()
	closed := p.ended.take()
	for i := range closed {
		r.Closed = append(r.Closed, p.decoder.connection(&closed[i]))
	}
	return r, err
}

// Close detaches and unloads. It may be called twice.
func (p *Probe) Close() error {
	return p.closers.Close()
}
