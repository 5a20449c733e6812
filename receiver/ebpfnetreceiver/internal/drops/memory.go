// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"unsafe"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// MapBytes estimates the kernel memory that the maps take.
func (o *Options) MapBytes() uint64 {
	const entry = kernel.HashEntryOverhead + kernel.HashBucket
	count := entry + unsafe.Sizeof(bpf.DropsDropKey{}) + uintptr(kernel.PossibleCPUs())*unsafe.Sizeof(bpf.DropsVolume{})
	flow := entry + unsafe.Sizeof(bpf.DropsDropFlowKey{}) + unsafe.Sizeof(bpf.DropsDropFlow{})
	return uint64(o.MaxEntries)*uint64(count) + 2*uint64(o.MaxFlows)*uint64(flow)
}
