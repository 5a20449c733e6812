// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/require"
)

// spec makes type information of some types.
func spec(tb testing.TB, types ...btf.Type) *btf.Spec {
	tb.Helper()
	builder, err := btf.NewBuilder(types, nil)
	require.NoError(tb, err)
	made, err := builder.Spec()
	require.NoError(tb, err)
	return made
}

func pointer(to btf.Type) btf.Type { return &btf.Pointer{Target: to} }

var (
	void   = &btf.Void{}
	skb    = &btf.Struct{Name: "sk_buff", Size: 4, Members: []btf.Member{{Name: "len", Type: integer}}}
	sock   = &btf.Struct{Name: "sock", Size: 4, Members: []btf.Member{{Name: "refs", Type: integer}}}
	reason = &btf.Enum{Name: reasonType, Size: 4, Values: []btf.EnumValue{
		{Name: "SKB_NOT_DROPPED_YET", Value: 0},
		{Name: "SKB_CONSUMED", Value: 1},
		{Name: "SKB_DROP_REASON_NOT_SPECIFIED", Value: 2},
		{Name: "SKB_DROP_REASON_NETFILTER_DROP", Value: 3},
		{Name: "SKB_DROP_REASON_MAX", Value: 4},
		{Name: "SKB_DROP_REASON_SUBSYS_MASK", Value: 0xffff0000},
	}}
	integer = &btf.Int{Name: "unsigned int", Size: 4}
)

func tracepoint(params ...btf.Type) btf.Type {
	proto := &btf.FuncProto{Return: void}
	for _, typ := range params {
		proto.Params = append(proto.Params, btf.FuncParam{Type: typ})
	}
	return &btf.Typedef{Name: "btf_trace_kfree_skb", Type: pointer(proto)}
}

func TestFeaturesAreThoseOfTheTracepoint(t *testing.T) {
	cookie, packet, location := pointer(void), pointer(skb), pointer(void)
	for _, tt := range []struct {
		name string
		typ  btf.Type
		want Features
		err  string
	}{
		{"before 5.17", tracepoint(cookie, packet, location), Features{}, ""},
		{"5.17", tracepoint(cookie, packet, location, reason), Features{Reasons: true}, ""},
		{"6.11", tracepoint(cookie, packet, location, reason, pointer(sock)), Features{Reasons: true, ReceivingSocket: true}, ""},
		{"another fourth argument", tracepoint(cookie, packet, location, pointer(sock)), Features{}, ""},
		{"another fifth argument", tracepoint(cookie, packet, location, reason, pointer(skb)), Features{Reasons: true}, ""},
		{"more arguments", tracepoint(cookie, packet, location, reason, pointer(sock), integer), Features{Reasons: true, ReceivingSocket: true}, ""},
		{"no packet", tracepoint(cookie, location, packet), Features{}, "other arguments than NetProbe knows"},
		{"too few", tracepoint(cookie, packet), Features{}, "other arguments than NetProbe knows"},
		{"no pointer", &btf.Typedef{Name: "btf_trace_kfree_skb", Type: integer}, Features{}, "is no pointer"},
		{"no function", &btf.Typedef{Name: "btf_trace_kfree_skb", Type: pointer(integer)}, Features{}, "points at no function"},
		{"no tracepoint", integer, Features{}, "find the tracepoint kfree_skb"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readFeatures(spec(t, tt.typ))
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

// Names are as the kernel's tracepoint prints them.
func TestReasonsHaveTheKernelsNames(t *testing.T) {
	names, err := readReasons(spec(t, reason))
	require.NoError(t, err)
	require.Equal(t, reasons{2: "NOT_SPECIFIED", 3: "NETFILTER_DROP"}, names)
	require.Equal(t, "NETFILTER_DROP", names.name(3))
	require.Equal(t, "0x20003", names.name(0x20003), "a subsystem's")
	require.Equal(t, "0x4", names.name(4))
	require.Empty(t, reasons(nil).name(0), "a kernel without reasons")

	_, err = readReasons(spec(t, integer))
	require.ErrorContains(t, err, "find the drop reasons")
}

// What newer kernels have is seen on this one.
func TestReasonsOfThisKernel(t *testing.T) {
	kernel, err := btf.LoadKernelSpec()
	require.NoError(t, err)
	features, err := readFeatures(kernel)
	require.NoError(t, err)
	names, err := readReasons(kernel)
	if !features.Reasons {
		require.Error(t, err)
		return
	}
	require.NoError(t, err)
	require.Contains(t, names, numberOf(names, "NETFILTER_DROP"))
	require.Contains(t, names, numberOf(names, "NOT_SPECIFIED"))
	require.NotContains(t, names, uint32(0xffff0000))
}

func numberOf(names reasons, name string) uint32 {
	for number, n := range names {
		if n == name {
			return number
		}
	}
	return 1<<32 - 1
}
