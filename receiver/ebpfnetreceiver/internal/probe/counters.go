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

// Loss is why a packet could not be recorded.
type Loss uint8

// Losses in the kernel, and after them those of this package.
const (
	LossRingBufferFull   = Loss(bpf.TCLossLOSS_RINGBUF_FULL)
	LossMapUpdate        = Loss(bpf.TCLossLOSS_MAP_UPDATE)
	LossInterfaceUnknown = Loss(bpf.TCLossLOSS_INTERFACE_UNKNOWN)
	LossOverflowFull     = Loss(bpf.TCLossLOSSES)
	Losses               = int(LossOverflowFull) + 1
)

func (l Loss) String() string {
	return [...]string{
		LossRingBufferFull: "ring_buffer_full", LossMapUpdate: "map_update",
		LossInterfaceUnknown: "interface_unknown", LossOverflowFull: "overflow_table_full",
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

// Health is what the probe knows of its own work, since it was loaded.
type Health struct {
	Parsed [Hooks][flow.Outcomes]flow.Volume
	Lost   [Losses]flow.Volume
	// Overflowed went through the ring buffer because the flow map was full.
	Overflowed flow.Volume
	// FlowEntries the flow map held when it was last drained.
	FlowEntries int
}

// Health reads the counters.
func (p *Probe) Health() (Health, error) {
	var h Health
	for hook := range Hooks {
		var values []bpf.TCParseCounters
		if err := p.tc.ParseOutcomes.Lookup(uint32(hook), &values); err != nil {
			return h, fmt.Errorf("read parse outcomes: %w", err)
		}
		for i := range values {
			for outcome, v := range values[i].Outcome {
				h.Parsed[hook][outcome].Add(volume(v))
			}
		}
	}
	for loss := range int(bpf.TCLossLOSSES) {
		v, err := sumVolumes(p.tc.Losses, uint32(loss))
		if err != nil {
			return h, fmt.Errorf("read losses: %w", err)
		}
		h.Lost[loss] = v
	}
	if p.flows != nil {
		h.FlowEntries = p.flows.entries
		h.Overflowed, h.Lost[LossOverflowFull] = p.flows.overflow.health()
	}
	return h, nil
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
