// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Names of features that not every kernel has, beside how programs are attached,
// which is said of each interface.
const (
	// BatchDrain: flows are read and deleted many at a time.
	BatchDrain = "batch_drain"
	// CoarseClock: the time of a packet costs little.
	CoarseClock = "coarse_clock"
	// XDPFrags: drivers let the XDP program see frames in several buffers.
	XDPFrags = "xdp_frags"
)

// Feature is a part of a Probe that may not work.
type Feature struct {
	Name string
	// Err is why it does not work, nil where it does.
	Err error
}

// Features says what works of that which the options ask for.
func (p *Probe) Features() []Feature { return p.features }

// tryBatch says whether the drain can read in batches, while the maps are empty.
func (t *flowTable) tryBatch() error {
	var cursor ebpf.MapBatchCursor
	_, err := t.maps.Active().BatchLookupAndDelete(&cursor, t.keys, t.values, nil)
	if err == nil || errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return fmt.Errorf("read and delete flows in a batch: %w", err)
}

// coarseClock asks what the programs ask when they are loaded.
func coarseClock() error {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return err
	}
	var helpers *btf.Enum
	if err := kernel.TypeByName("bpf_func_id", &helpers); err != nil {
		return fmt.Errorf("find the helper functions (enum bpf_func_id in the kernel's type information): %w", err)
	}
	const helper = "BPF_FUNC_ktime_get_coarse_ns"
	for _, v := range helpers.Values {
		if v.Name == helper {
			return nil
		}
	}
	return fmt.Errorf("%w: the kernel has no %s, which is in Linux 5.11 and later", ebpf.ErrNotSupported, helper)
}

// withoutFlag says what it means that the XDP program could be loaded, after err
// with the flag for frames in several buffers.
func withoutFlag(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: the kernel takes no XDP program for frames in several buffers, as Linux 5.18 and later do: %w", ebpf.ErrNotSupported, err)
}
