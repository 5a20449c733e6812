// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"unsafe"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// Per-CPU flow maps are taken by themselves while both together stay under this.
const maxPerCPUFlowBytes = 64 << 20

func (o *Options) flowsPerCPU() bool {
	switch o.FlowMap {
	case FlowMapPerCPU:
		return true
	case FlowMapShared:
		return false
	default:
		return o.flowBytes(true) <= maxPerCPUFlowBytes
	}
}

func (o *Options) flowBytes(perCPU bool) uint64 {
	values := uint64(unsafe.Sizeof(bpf.TCFlowStats{}))
	if perCPU {
		values *= uint64(kernel.PossibleCPUs())
	}
	entry := kernel.HashEntryOverhead + kernel.HashBucket + uint64(unsafe.Sizeof(bpf.TCFlowKey{})) + values
	return 2 * entry * uint64(o.FlowEntries)
}

// MapBytes estimates the kernel memory that the maps take.
func (o *Options) MapBytes() uint64 {
	cpus := uint64(kernel.PossibleCPUs())
	perInterface := kernel.HashEntryOverhead + kernel.HashBucket + cpus*uint64(unsafe.Sizeof(bpf.TCInterfaceCounters{}))
	if o.XDP != XDPOff {
		perInterface += kernel.HashEntryOverhead + kernel.HashBucket + cpus*uint64(unsafe.Sizeof(bpf.XDPXdpCounters{}))
	}
	total := uint64(o.MaxInterfaces)*perInterface + uint64(o.RingBufferBytes)
	if o.Flows {
		total += o.flowBytes(o.flowsPerCPU())
		tunnel := unsafe.Sizeof(bpf.TCTunnelKey{}) + 8 // the value, padded
		total += uint64(o.Tunnels.MaxEntries) * (kernel.HashEntryOverhead + kernel.HashBucket + uint64(tunnel))
	}
	return total
}
