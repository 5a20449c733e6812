// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

// The maps of a pair are given out in turn, and the programs are told which is theirs.
func TestPair(t *testing.T) {
	bpftest.RequireBPF(t)
	var objs bpf.DropsObjects
	spec, err := bpf.LoadDrops()
	require.NoError(t, err)
	require.NoError(t, spec.LoadAndAssign(&objs, nil))
	defer objs.Close()
	p, err := NewPair(objs.DropFlows0, objs.DropFlows1, objs.DropEpoch, objs.DropBarrier)
	require.NoError(t, err)
	maps := []*ebpf.Map{objs.DropFlows0, objs.DropFlows1}
	for i := range uint32(4) {
		require.Same(t, maps[i%2], p.Active())
		idle, err := p.Flip()
		require.NoError(t, err)
		require.Same(t, maps[i%2], idle)
		var epoch uint32
		require.NoError(t, objs.DropEpoch.Get(&epoch))
		require.Equal(t, (i+1)%2, epoch)
	}

	// What could not be waited for is not given out, but two flips later.
	require.NoError(t, p.Close())
	_, err = p.Flip()
	require.ErrorContains(t, err, "wait for running programs: ")
	require.Same(t, maps[1], p.Active())
}
