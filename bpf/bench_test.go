// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/bpf/flowbench"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

// What a packet of one flow costs at TC. The empty program is what the kernel's
// test run costs by itself: subtract it before comparing the others.
func BenchmarkTC(b *testing.B) {
	tcp, tcpV6 := eth4(b, tcp4(64)...), eth6(b, tcp6(64)...)
	b.Run("empty", func(b *testing.B) {
		repeat(b, emptyProgram(b, ebpf.SchedCLS), tcp, tcUnspec)
	})
	b.Run("interfaces", func(b *testing.B) {
		r := bpftest.New(b, bpftest.Options{NoFlows: true})
		repeat(b, r.TC.TcIngress, tcp, tcUnspec)
		require.Empty(b, r.Flows(b))
	})
	for _, maps := range flowMaps {
		for _, packet := range []struct {
			name  string
			frame []byte
		}{{"ipv4", tcp}, {"ipv6", tcpV6}} {
			b.Run("flow/"+maps.name+"/"+packet.name, func(b *testing.B) {
				r := bpftest.New(b, bpftest.Options{PerCPU: maps.perCPU})
				repeat(b, r.TC.TcIngress, packet.frame, tcUnspec)
				require.Len(b, r.Flows(b), 1)
				require.GreaterOrEqual(b, r.Flows(b)[0].Stats.Packets, uint64(b.N))
			})
		}
	}
	b.Run("flow/shared/without link header", func(b *testing.B) {
		r := bpftest.New(b, bpftest.Options{})
		repeat(b, r.TC.TcIngressL3, tcp, tcUnspec)
		require.Len(b, r.Flows(b), 1)
	})
}

// What a packet costs when it is of one of many flows, picked at random: the
// whole program (flow), beside the same picking alone (pick), and picking with
// one bare lookup and addition (bare), which no flow table can be cheaper than.
// Subtract empty, or pick, before comparing.
func BenchmarkManyFlows(b *testing.B) {
	tcp := eth4(b, tcp4(64)...)
	b.Run("empty", func(b *testing.B) {
		repeat(b, emptyProgram(b, ebpf.SchedCLS), tcp, tcUnspec)
	})
	for _, maps := range flowMaps {
		for _, flows := range []uint32{1, 1_000, 100_000, 1_000_000} {
			name := fmt.Sprintf("%s/flows=%d/", maps.name, flows)
			objects := loadFlowBench(b, maps.perCPU, flows)
			for _, prog := range []struct {
				name string
				*ebpf.Program
				filled *ebpf.Map
			}{
				{"pick", objects.BenchPick, nil},
				{"bare", objects.BenchBare, objects.Bare},
				{"flow", objects.BenchFlow, objects.Flows0},
			} {
				if prog.filled != nil {
					fill(b, prog.Program, tcp, prog.filled, flows)
				}
				b.Run(name+prog.name, func(b *testing.B) { repeat(b, prog.Program, tcp, tcUnspec) })
			}
			require.NoError(b, objects.Close())
		}
	}
}

func loadFlowBench(b *testing.B, perCPU bool, flows uint32) *flowbench.BenchObjects {
	b.Helper()
	bpftest.RequireBPF(b)
	spec, err := flowbench.LoadBench()
	require.NoError(b, err)
	for _, name := range []string{flowbench.BenchMapFlows0, flowbench.BenchMapBare} {
		spec.Maps[name].MaxEntries = max(flows, 1024)
		if perCPU {
			spec.Maps[name].Type = ebpf.PerCPUHash
		}
	}
	if perCPU {
		spec.Maps[flowbench.BenchMapFlows1].Type = ebpf.PerCPUHash
	}
	require.NoError(b, spec.Variables[flowbench.BenchVarCfgFlowsPerCpu].Set(perCPU))
	require.NoError(b, spec.Variables[flowbench.BenchVarBenchFlows].Set(flows))
	objects := &flowbench.BenchObjects{}
	require.NoError(b, spec.LoadAndAssign(objects, nil))
	cpus := ebpf.MustPossibleCPU()
	require.NoError(b, objects.Interfaces.Put(bpftest.Loopback, make([]flowbench.BenchInterfaceCounters, cpus)))
	return objects
}

// fill runs a program until nearly all flows have been picked.
func fill(b *testing.B, prog *ebpf.Program, frame []byte, filled *ebpf.Map, flows uint32) {
	b.Helper()
	for range 8 {
		_, err := prog.Run(&ebpf.RunOptions{Data: frame, Repeat: flows})
		require.NoError(b, err)
	}
	var key flowbench.BenchFlowKey
	require.NoError(b, filled.NextKey(nil, &key), "the program counted nothing")
}

func BenchmarkXDP(b *testing.B) {
	tcp := eth4(b, tcp4(64)...)
	b.Run("empty", func(b *testing.B) {
		repeat(b, emptyProgram(b, ebpf.XDP), tcp, xdpPass)
	})
	b.Run("count", func(b *testing.B) {
		r := bpftest.New(b, bpftest.Options{})
		repeat(b, r.XDP.XdpCount, tcp, xdpPass)
		require.GreaterOrEqual(b, xdpInterface(b, r)[bpf.TCParseOutcomePARSE_OK].Packets, uint64(b.N))
	})
}

// repeat runs a program b.N times, in system calls of some milliseconds: the
// kernel begins one anew that a signal interrupts.
func repeat(b *testing.B, prog *ebpf.Program, frame []byte, want uint32) {
	b.Helper()
	const most = 1 << 16
	b.ResetTimer()
	for left := b.N; left > 0; left -= most {
		ret, err := prog.Run(&ebpf.RunOptions{Data: frame, Repeat: uint32(min(left, most))})
		require.NoError(b, err)
		require.Equal(b, want, ret)
	}
	b.StopTimer()
}
