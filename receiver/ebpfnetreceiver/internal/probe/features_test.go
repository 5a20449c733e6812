// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	kernelfeatures "github.com/cilium/ebpf/features"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// What is not asked for is not tried, and nothing is said of it.
func TestFeatures(t *testing.T) {
	bpftest.RequireBPF(t)
	for _, tt := range []struct {
		name   string
		change func(*Options)
		want   []string
	}{
		{"flows", func(*Options) {}, []string{BatchDrain, CoarseClock}},
		{"flows per CPU", func(o *Options) { o.FlowMap = FlowMapPerCPU }, []string{BatchDrain, CoarseClock}},
		{"interfaces alone", func(o *Options) { o.Flows = false }, nil},
		{"XDP", func(o *Options) { o.XDP = XDPAuto }, []string{BatchDrain, CoarseClock, XDPFrags}},
		{"generic XDP", func(o *Options) { o.XDP = XDPGeneric }, []string{BatchDrain, CoarseClock}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := defaults()
			tt.change(&opts)
			var names []string
			for _, f := range load(t, opts).Features() {
				names = append(names, f.Name)
				if f.Name == BatchDrain {
					require.NoError(t, f.Err, "hash maps have it since 5.6")
				}
			}
			require.Equal(t, tt.want, names)
		})
	}
}

// The kernel's types say of the clock what the verifier says.
func TestCoarseClock(t *testing.T) {
	bpftest.RequireBPF(t)
	want := kernelfeatures.HaveProgramHelper(ebpf.SchedCLS, asm.FnKtimeGetCoarseNs)
	if want == nil {
		require.NoError(t, coarseClock())
	} else {
		require.ErrorIs(t, want, ebpf.ErrNotSupported)
		require.ErrorIs(t, coarseClock(), ebpf.ErrNotSupported)
	}
}

// To try takes nothing out, and a map that has no batches is said to have none.
func TestTryBatch(t *testing.T) {
	bpftest.RequireBPF(t)
	l := newLab(t)
	p := load(t, defaults())
	l.attach(t, p)
	require.NoError(t, p.flows.tryBatch())
	frame := udp4(t, 5000, 10)
	l.sendAsIngress(t, p, frame)
	var flows int
	require.NoError(t, p.DrainFlows(func(*flow.Record) { flows++ }))
	require.Equal(t, 1, flows)

	queue, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Queue, ValueSize: 4, MaxEntries: 1})
	require.NoError(t, err)
	defer queue.Close()
	queues, err := kernel.NewPair(queue, queue, nil, p.tc.Barrier)
	require.NoError(t, err)
	defer queues.Close()
	require.Error(t, (&flowTable{maps: queues}).tryBatch())
}

func TestWithoutFlag(t *testing.T) {
	require.NoError(t, withoutFlag(nil))
	err := withoutFlag(unix.EINVAL)
	require.ErrorIs(t, err, ebpf.ErrNotSupported)
	require.ErrorIs(t, err, unix.EINVAL)
	require.Equal(t, "not_supported", Reason(err))
}
