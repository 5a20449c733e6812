// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

func TestMapBytes(t *testing.T) {
	// an entry has 64 bytes beside its key and its value
	o := Options{MaxEntries: 10, MaxFlows: 1000}
	require.Equal(t, uint64(10*(64+12+16*kernel.PossibleCPUs())+2*1000*(64+52+24)), o.MapBytes())
}

// The estimate is near to what the kernel says that the maps take.
func TestMapBytesAgainstTheKernel(t *testing.T) {
	bpftest.RequireBPF(t)
	o := Options{MaxEntries: 65536, MaxFlows: 65536}
	p := load(t, o)
	var taken uint64
	for _, m := range []*ebpf.Map{p.objs.DropCounts, p.objs.DropFlows0, p.objs.DropFlows1, p.objs.DropLedgers} {
		info, err := m.Info()
		require.NoError(t, err)
		bytes, ok := info.Memlock()
		require.True(t, ok)
		taken += bytes
	}
	if taken < uint64(o.MaxFlows)*2*(52+24+kernel.HashEntryOverhead) {
		t.Skip("this kernel counts keys and values only, as those before 6.4 do")
	}
	require.InEpsilon(t, taken, o.MapBytes(), 0.15)
}
