// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package probe owns the eBPF programs: it loads them, attaches them to
// interfaces and reads what they counted. It knows nothing of pdata or of the
// collector, and nothing of which interfaces the user wants.
package probe // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// TCMode says how to attach the TC programs.
type TCMode string

// TC modes.
const (
	TCOff    TCMode = "off"
	TCAuto   TCMode = "auto" // TCX where the kernel has it, else clsact
	TCX      TCMode = "tcx"
	TCClsact TCMode = "clsact"
)

// XDPMode says how to attach the XDP program.
type XDPMode string

// XDP modes.
const (
	XDPOff     XDPMode = "off"
	XDPAuto    XDPMode = "auto" // native where the driver has it, else off
	XDPNative  XDPMode = "native"
	XDPGeneric XDPMode = "generic"
)

// FlowMap says what kind of map holds the flows.
type FlowMap string

// Kinds of flow maps.
const (
	FlowMapAuto   FlowMap = "auto" // per CPU while that is small, else shared
	FlowMapShared FlowMap = "shared"
	FlowMapPerCPU FlowMap = "per_cpu"
)

// Options of a Probe.
type Options struct {
	TC              TCMode
	XDP             XDPMode
	Flows           bool
	FlowMap         FlowMap
	FlowEntries     uint32 // of each of the two flow maps
	RingBufferBytes uint32
	MaxInterfaces   uint32
	Tunnels         TunnelOptions
	// Filter says which flows are counted: those that an including rule matches,
	// or all where there is none, without those that an excluding rule matches.
	Filter []FilterRule
	// Sampling counts one packet in so many as a flow; 0 and 1 mean all.
	Sampling uint32
}

// TunnelOptions say which tunnels are opened.
type TunnelOptions struct {
	// VXLANPorts and GenevePorts are UDP destination ports.
	VXLANPorts, GenevePorts []uint16
	GRE, IPIP               bool
	// MaxEntries is how many tunnels have a place in the kernel's table, each
	// direction on its own. Packets of more go through the ring buffer.
	MaxEntries uint32
}

// Probe is the set of loaded programs. Except for Close it is for one goroutine
// at a time.
type Probe struct {
	opts Options

	tc  *bpf.TCObjects
	xdp *bpf.XDPObjects

	flows    *flowTable // nil without flows
	features []Feature
	attached map[int]*attachment
	closers  kernel.Closers
}

// capabilities that loading and attaching need.
var capabilities = []kernel.Capability{
	{Bit: unix.CAP_BPF, Name: "CAP_BPF", Why: "loads programs and maps"},
	{Bit: unix.CAP_NET_ADMIN, Name: "CAP_NET_ADMIN", Why: "attaches programs to interfaces"},
	{Bit: unix.CAP_PERFMON, Name: "CAP_PERFMON", Why: "lets programs read packets directly"},
}

// Load loads the programs that opts ask for. Nothing is attached yet. An error
// names the missing privilege or kernel feature where that is what failed.
func Load(opts Options) (*Probe, error) {
	p := &Probe{opts: opts, attached: map[int]*attachment{}}
	// Not an error by itself: without privileges it fails on any kernel, and
	// only some kernels need it.
	memlock := kernel.RemoveMemlock()
	if err := p.load(); err != nil {
		return nil, errors.Join(kernel.Explain(err, memlock, capabilities...), p.closers.Close())
	}
	return p, nil
}

func (p *Probe) load() error {
	// The XDP program shares the TC object's counters, so this one is loaded
	// even where TC is off; programs that are never attached cost nothing.
	if err := p.loadTC(); err != nil {
		return err
	}
	if p.opts.XDP != XDPOff {
		if err := p.loadXDP(); err != nil {
			return err
		}
	}
	return nil
}

func (p *Probe) loadTC() error {
	spec, err := bpf.LoadTC()
	if err != nil {
		return fmt.Errorf("read tc programs: %w", err)
	}
	perCPU := p.opts.flowsPerCPU()
	for name, value := range map[string]bool{
		bpf.TCVarCfgFlows:       p.opts.Flows,
		bpf.TCVarCfgFlowsPerCpu: perCPU,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	for _, name := range []string{bpf.TCMapFlows0, bpf.TCMapFlows1} {
		spec.Maps[name].MaxEntries = p.opts.FlowEntries
		if !p.opts.Flows {
			spec.Maps[name].MaxEntries = 1
		}
		if perCPU {
			spec.Maps[name].Type = ebpf.PerCPUHash
		}
	}
	if err := setFlowOptions(spec, &p.opts); err != nil {
		return err
	}
	spec.Maps[bpf.TCMapTunnels].MaxEntries = max(p.opts.Tunnels.MaxEntries, 1)
	spec.Maps[bpf.TCMapFlowEvents].MaxEntries = p.opts.RingBufferBytes
	spec.Maps[bpf.TCMapInterfaces].MaxEntries = p.opts.MaxInterfaces

	p.tc = &bpf.TCObjects{}
	if err := spec.LoadAndAssign(p.tc, nil); err != nil {
		return fmt.Errorf("load tc programs: %w", err)
	}
	p.closers = append(p.closers, p.tc)
	if !p.opts.Flows {
		return nil
	}
	p.flows, err = newFlowTable(p.tc, perCPU, int(p.opts.FlowEntries))
	if err != nil {
		return err
	}
	p.closers = append(p.closers, p.flows)
	p.features = append(p.features,
		Feature{BatchDrain, p.flows.tryBatch()},
		Feature{CoarseClock, coarseClock()})
	return nil
}

// xdpHasFrags lets a program see frames in several buffers (5.18); drivers
// refuse one without it on interfaces with a large MTU.
const xdpHasFrags = 1 << 5

func (p *Probe) loadXDP() error {
	// Generic mode is the exception: there a program with it is shown packets
	// that the kernel had to copy from behind their Ethernet header on (seen on
	// 6.18), and one without it packets in one piece.
	attempts := []uint32{xdpHasFrags, 0} // nothing but an attempt tells whether it is known
	if p.opts.XDP == XDPGeneric {
		attempts = attempts[1:]
	}
	var err error
	for _, flags := range attempts {
		last := err
		if err = p.tryLoadXDP(flags); err == nil {
			p.closers = append(p.closers, p.xdp)
			if p.opts.XDP != XDPGeneric {
				p.features = append(p.features, Feature{XDPFrags, withoutFlag(last)})
			}
			return nil
		}
	}
	return fmt.Errorf("load xdp program: %w", err)
}

func (p *Probe) tryLoadXDP(flags uint32) error {
	spec, err := bpf.LoadXDP()
	if err != nil {
		return fmt.Errorf("read xdp program: %w", err)
	}
	spec.Programs[bpf.XDPProgXdpCount].Flags |= flags
	spec.Maps[bpf.XDPMapXdpInterfaces].MaxEntries = p.opts.MaxInterfaces
	p.xdp = &bpf.XDPObjects{}
	return spec.LoadAndAssign(p.xdp, &ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{
			bpf.XDPMapParseOutcomes: p.tc.ParseOutcomes,
			bpf.XDPMapLedgers:       p.tc.Ledgers,
		},
	})
}

// Detach takes all programs off all interfaces. Counters stay readable.
func (p *Probe) Detach() error {
	var errs []error
	for index := range p.attached {
		errs = append(errs, p.detachPrograms(index))
	}
	return errors.Join(errs...)
}

// Close detaches and unloads everything. It may be called twice.
func (p *Probe) Close() error {
	return errors.Join(p.Detach(), p.closers.Close())
}
