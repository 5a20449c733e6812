// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// Hook is where a program sits.
type Hook uint8

// Hooks.
const (
	HookXDP       = Hook(bpf.TCHookHOOK_XDP)
	HookTCIngress = Hook(bpf.TCHookHOOK_TC_INGRESS)
	HookTCEgress  = Hook(bpf.TCHookHOOK_TC_EGRESS)
	Hooks         = int(bpf.TCHookHOOKS)
)

func (h Hook) String() string {
	return [...]string{HookXDP: "xdp", HookTCIngress: "tc_ingress", HookTCEgress: "tc_egress"}[h]
}

// Loss is why a packet that has a flow is in no record.
type Loss uint8

// Losses in the kernel, and after them those of this package.
const (
	LossRingBufferFull = Loss(bpf.TCLossLOSS_RINGBUF_FULL)
	LossMapUpdate      = Loss(bpf.TCLossLOSS_MAP_UPDATE)
	LossOverflowFull   = Loss(bpf.TCLossLOSSES)
	Losses             = int(LossOverflowFull) + 1
)

func (l Loss) String() string {
	return [...]string{
		LossRingBufferFull: "ring_buffer_full", LossMapUpdate: "map_update", LossOverflowFull: "overflow_table_full",
	}[l]
}

// InterfaceCounters reads an interface's counters, summed over all CPUs.
func (p *Probe) InterfaceCounters(index int) (flow.InterfaceCounters, error) {
	var c flow.InterfaceCounters
	var tc []bpf.TCInterfaceCounters
	if err := p.tc.Interfaces.Lookup(uint32(index), &tc); err != nil {
		return c, fmt.Errorf("read counters of interface %d: %w", index, err)
	}
	for i := range tc {
		c.Rx.Add(volume(tc[i].Direction[bpf.TCDirectionDIRECTION_INGRESS]))
		c.Tx.Add(volume(tc[i].Direction[bpf.TCDirectionDIRECTION_EGRESS]))
	}
	if p.xdp == nil {
		return c, nil
	}
	var xdp []bpf.XDPXdpCounters
	if err := p.xdp.XdpInterfaces.Lookup(uint32(index), &xdp); err != nil {
		return c, fmt.Errorf("read xdp counters of interface %d: %w", index, err)
	}
	for i := range xdp {
		for outcome, v := range xdp[i].Outcome {
			c.XDP[outcome].Add(flow.Volume{Packets: v.Packets, Bytes: v.Bytes})
		}
	}
	return c, nil
}

// HookHealth is what became of the packets that a hook saw. Those that are in
// none but Parsed are in flow records.
type HookHealth struct {
	// Parsed has all packets, by how parsing ended.
	Parsed [flow.Outcomes]flow.Volume
	// NoFlow has those of which no addresses could be read.
	NoFlow [flow.Outcomes]flow.Volume
	Lost   [Losses]flow.Volume
	// Filtered is what the filter did not want.
	Filtered   flow.Volume
	SampledOut flow.Volume
	// InterfaceUnknown is what the interface counters miss; flows have it.
	InterfaceUnknown flow.Volume
}

// Seen is all packets.
func (h *HookHealth) Seen() flow.Volume {
	var seen flow.Volume
	for _, v := range h.Parsed {
		seen.Add(v)
	}
	return seen
}

// Health is what the probe knows of its own work, since it was loaded.
type Health struct {
	Hooks [Hooks]HookHealth
	// Refused packets look like a tunnel's and were not opened.
	Refused [flow.Refusals]flow.Volume
	// Overflowed went through the ring buffer because a map was full.
	Overflowed flow.Volume
	// FlowEntries the flow map held when it was last drained.
	FlowEntries int
}

// Health reads the counters.
func (p *Probe) Health() (Health, error) {
	var h Health
	for hook := range Hooks {
		if err := p.hookHealth(uint32(hook), &h.Hooks[hook]); err != nil {
			return h, err
		}
	}
	for refusal := range flow.Refusals {
		v, err := sumVolumes(p.tc.TunnelRefusals, uint32(refusal))
		if err != nil {
			return h, fmt.Errorf("read refused tunnels: %w", err)
		}
		h.Refused[refusal] = v
	}
	if p.flows != nil {
		h.FlowEntries = p.flows.entries
		overflowed, lost := p.flows.overflow.health()
		h.Overflowed = overflowed
		h.Hooks[HookTCIngress].Lost[LossOverflowFull] = lost[flow.Ingress]
		h.Hooks[HookTCEgress].Lost[LossOverflowFull] = lost[flow.Egress]
	}
	return h, nil
}

func (p *Probe) hookHealth(hook uint32, h *HookHealth) error {
	var parsed []bpf.TCParseCounters
	if err := p.tc.ParseOutcomes.Lookup(hook, &parsed); err != nil {
		return fmt.Errorf("read parse outcomes: %w", err)
	}
	for i := range parsed {
		for outcome, v := range parsed[i].Outcome {
			h.Parsed[outcome].Add(volume(v))
		}
	}
	var ledgers []bpf.TCLedger
	if err := p.tc.Ledgers.Lookup(hook, &ledgers); err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	for i := range ledgers {
		l := &ledgers[i]
		for outcome, v := range l.NoFlow {
			h.NoFlow[outcome].Add(volume(v))
		}
		for loss, v := range l.Lost {
			h.Lost[loss].Add(volume(v))
		}
		h.Filtered.Add(volume(l.Filtered))
		h.SampledOut.Add(volume(l.SampledOut))
		h.InterfaceUnknown.Add(volume(l.InterfaceUnknown))
	}
	return nil
}

func sumVolumes(m *ebpf.Map, key uint32) (flow.Volume, error) {
	var sum flow.Volume
	var values []bpf.TCVolume
	if err := m.Lookup(key, &values); err != nil {
		return sum, err
	}
	for i := range values {
		sum.Add(volume(values[i]))
	}
	return sum, nil
}

func volume(v bpf.TCVolume) flow.Volume {
	return flow.Volume{Packets: v.Packets, Bytes: v.Bytes}
}
