// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

func TestFlowsPerCPU(t *testing.T) {
	// two maps; an entry has 64 bytes beside its key of 60, and 56 a CPU
	perEntry := uint64(2 * (64 + 60 + 56*kernel.PossibleCPUs()))
	fits := uint32(64 << 20 / perEntry)
	for _, tt := range []struct {
		name    string
		flowMap FlowMap
		entries uint32
		want    bool
	}{
		{"auto, small", FlowMapAuto, 1, true},
		{"auto, as large as can be", FlowMapAuto, fits, true},
		{"auto, too large", FlowMapAuto, fits + 1, false},
		{"shared, small", FlowMapShared, 1, false},
		{"per CPU, large", FlowMapPerCPU, 1 << 24, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{FlowMap: tt.flowMap, FlowEntries: tt.entries}
			require.Equal(t, tt.want, o.flowsPerCPU())
		})
	}
}

func TestMapBytes(t *testing.T) {
	cpus := uint64(kernel.PossibleCPUs())
	o := Options{
		TC: TCAuto, XDP: XDPOff, Flows: true, FlowMap: FlowMapShared,
		FlowEntries: 1000, RingBufferBytes: 8192, MaxInterfaces: 10,
	}
	rest := 10 * (64 + 32*cpus)
	require.Equal(t, 8192+rest+2*1000*(64+60+56), o.MapBytes())

	// an entry has 64 bytes beside its key of 40 and its value of 4, padded
	o.Tunnels.MaxEntries = 100
	rest += 100 * (64 + 40 + 8)
	require.Equal(t, 8192+rest+2*1000*(64+60+56), o.MapBytes())

	o.XDP = XDPNative
	xdp := 10 * (64 + 80*cpus)
	require.Equal(t, 8192+rest+xdp+2*1000*(64+60+56), o.MapBytes())

	o.FlowMap = FlowMapPerCPU
	require.Equal(t, 8192+rest+xdp+2*1000*(64+60+56*cpus), o.MapBytes())

	o.Flows = false
	rest -= 100 * (64 + 40 + 8)
	require.Equal(t, 8192+rest+xdp, o.MapBytes())
}

// The estimate is near to what the kernel says that the maps take.
func TestMapBytesAgainstTheKernel(t *testing.T) {
	bpftest.RequireBPF(t)
	for _, flowMap := range []FlowMap{FlowMapShared, FlowMapPerCPU} {
		t.Run(string(flowMap), func(t *testing.T) {
			o := Options{
				TC: TCAuto, XDP: XDPNative, Flows: true, FlowMap: flowMap,
				FlowEntries: 65536, RingBufferBytes: 1 << 20, MaxInterfaces: 4096,
				Tunnels: TunnelOptions{MaxEntries: 4096},
			}
			p := load(t, o)
			if memlock(t, p.tc.Flows0) < uint64(o.FlowEntries)*(60+56+kernel.HashEntryOverhead) {
				t.Skip("this kernel counts keys and values only, as those before 6.4 do")
			}
			var taken uint64
			for _, m := range []*ebpf.Map{
				p.tc.Flows0, p.tc.Flows1, p.tc.FlowEvents, p.tc.Interfaces, p.tc.ParseOutcomes, p.tc.Ledgers, p.tc.Tunnels, p.xdp.XdpInterfaces,
			} {
				taken += memlock(t, m)
			}
			require.InEpsilon(t, taken, o.MapBytes(), 0.15)
		})
	}
}

func memlock(t *testing.T, m *ebpf.Map) uint64 {
	t.Helper()
	info, err := m.Info()
	require.NoError(t, err)
	bytes, ok := info.Memlock()
	require.True(t, ok)
	return bytes
}

// Without flows the flow maps shrink to nothing, and nothing is drained.
func TestLoadWithoutFlows(t *testing.T) {
	bpftest.RequireBPF(t)
	o := defaults()
	o.Flows = false
	p := load(t, o)
	require.Equal(t, uint32(1), p.tc.Flows0.MaxEntries())
	require.Nil(t, p.flows)
	require.NoError(t, p.DrainFlows(nil))
	h, err := p.Health()
	require.NoError(t, err)
	require.Equal(t, Health{}, h)
}

// The default of flows::map puts the default number of flows per CPU as long as
// there are not too many of those.
func TestLoadChoosesTheFlowMap(t *testing.T) {
	bpftest.RequireBPF(t)
	for flowMap, want := range map[FlowMap]ebpf.MapType{FlowMapShared: ebpf.Hash, FlowMapPerCPU: ebpf.PerCPUHash} {
		o := defaults()
		o.FlowMap = flowMap
		p := load(t, o)
		require.Equal(t, want, p.tc.Flows0.Type())
		require.Equal(t, want, p.tc.Flows1.Type())
		require.Equal(t, o.FlowEntries, p.tc.Flows1.MaxEntries())
		require.Equal(t, o.RingBufferBytes, p.tc.FlowEvents.MaxEntries())
		require.Equal(t, o.MaxInterfaces, p.tc.Interfaces.MaxEntries())
	}
}
