// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

const (
	// HashEntryOverhead is what a preallocated hash entry takes beside key and value (struct htab_elem, kernel/bpf/hashtab.c).
	HashEntryOverhead = 48
	// HashBucket is what a bucket takes, of which there are as many as entries, rounded up to a power of two.
	HashBucket = 16
)

// PossibleCPUs is how many values a per-CPU map has for each key.
func PossibleCPUs() int {
	n, err := ebpf.PossibleCPU()
	if err != nil {
		return 1 // loading fails with the same error and says so
	}
	return n
}

// RemoveMemlock lifts the limit on locked memory, which kernels before 5.11
// count maps against.
func RemoveMemlock() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise the limit of locked memory: %w; kernels before 5.11 count eBPF maps against RLIMIT_MEMLOCK: grant CAP_SYS_RESOURCE, or set the limit to unlimited", err)
	}
	return nil
}
