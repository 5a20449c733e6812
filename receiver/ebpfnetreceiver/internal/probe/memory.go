// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/netprobe-otel/netprobe/bpf"
)

const (
	// what a preallocated hash entry takes beside key and value (struct htab_elem, kernel/bpf/hashtab.c)
	hashEntryOverhead = 48
	// what a bucket takes, of which there are as many as entries, rounded up to a power of two
	hashBucket = 16
	// per-CPU flow maps are taken by themselves while both together stay under this
	maxPerCPUFlowBytes = 64 << 20
)

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
		values *= uint64(possibleCPUs())
	}
	entry := hashEntryOverhead + hashBucket + uint64(unsafe.Sizeof(bpf.TCFlowKey{})) + values
	return 2 * entry * uint64(o.FlowEntries)
}

// MapBytes estimates the kernel memory that the maps take.
func (o *Options) MapBytes() uint64 {
	cpus := uint64(possibleCPUs())
	perInterface := hashEntryOverhead + hashBucket + cpus*uint64(unsafe.Sizeof(bpf.TCInterfaceCounters{}))
	if o.XDP != XDPOff {
		perInterface += hashEntryOverhead + hashBucket + cpus*uint64(unsafe.Sizeof(bpf.XDPXdpCounters{}))
	}
	total := uint64(o.MaxInterfaces)*perInterface + uint64(o.RingBufferBytes)
	if o.Flows {
		total += o.flowBytes(o.flowsPerCPU())
		tunnel := unsafe.Sizeof(bpf.TCTunnelKey{}) + 8 // the value, padded
		total += uint64(o.Tunnels.MaxEntries) * (hashEntryOverhead + hashBucket + uint64(tunnel))
	}
	return total
}

// possibleCPUs is how many values a per-CPU map has for each key.
func possibleCPUs() int {
	n, err := ebpf.PossibleCPU()
	if err != nil {
		return 1 // loading fails with the same error and says so
	}
	return n
}

// removeMemlock lifts the limit on locked memory, which kernels before 5.11
// count maps against.
func removeMemlock() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise the limit of locked memory: %w; kernels before 5.11 count eBPF maps against RLIMIT_MEMLOCK: grant CAP_SYS_RESOURCE, or set the limit to unlimited", err)
	}
	return nil
}
