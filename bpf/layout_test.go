// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
)

// What Go reads from a map or a ring buffer is what the programs wrote there:
// every member of the C struct at its place, with its size and under its name.
func TestTypesMatchObjects(t *testing.T) {
	for _, tc := range []struct {
		object, name string
		value        any
	}{
		{"tc", "flow_key", bpf.TCFlowKey{}},
		{"tc", "flow_stats", bpf.TCFlowStats{}},
		{"tc", "flow_event", bpf.TCFlowEvent{}},
		{"tc", "volume", bpf.TCVolume{}},
		{"tc", "interface_counters", bpf.TCInterfaceCounters{}},
		{"tc", "parse_counters", bpf.TCParseCounters{}},
		{"tc", "ledger", bpf.TCLedger{}},
		{"tc", "tunnel_key", bpf.TCTunnelKey{}},
		{"tc", "tunnel_value", bpf.TCTunnelValue{}},
		{"tc", "filter_rule", bpf.TCFilterRule{}},
		{"xdp", "volume", bpf.XDPVolume{}},
		{"xdp", "xdp_counters", bpf.XDPXdpCounters{}},
		{"xdp", "parse_counters", bpf.XDPParseCounters{}},
		{"netfilter", "volume", bpf.NetfilterVolume{}},
		{"drops", "drop_key", bpf.DropsDropKey{}},
		{"drops", "drop_flow_key", bpf.DropsDropFlowKey{}},
		{"drops", "drop_flow", bpf.DropsDropFlow{}},
		{"drops", "volume", bpf.DropsVolume{}},
		{"sockets", "socket_conn", bpf.SocketsSocketConn{}},
		{"sockets", "socket_record", bpf.SocketsSocketRecord{}},
		{"sockets", "socket_numbers", bpf.SocketsSocketNumbers{}},
		{"sockets", "socket_process", bpf.SocketsSocketProcess{}},
		{"sockets", "socket_counters", bpf.SocketsSocketCounters{}},
		{"sockets", "socket_cgroup", bpf.SocketsSocketCgroup{}},
		{"sockets", "socket_listener", bpf.SocketsSocketListener{}},
		{"sockets", "socket_listener_key", bpf.SocketsSocketListenerKey{}},
	} {
		t.Run(tc.object+"/"+tc.name, func(t *testing.T) {
			spec, err := objects[tc.object]()
			require.NoError(t, err)
			var want *btf.Struct
			require.NoError(t, spec.Types.TypeByName(tc.name, &want))

			got := reflect.TypeOf(tc.value)
			require.Equal(t, uintptr(want.Size), got.Size())
			require.Equal(t, membersOf(t, want), fieldsOf(got))
		})
	}
}

// place is where a member of a struct lies.
type place struct {
	name         string
	offset, size uintptr
}

func membersOf(tb testing.TB, s *btf.Struct) []place {
	tb.Helper()
	var places []place
	for _, m := range s.Members {
		require.Zero(tb, m.BitfieldSize)
		size, err := btf.Sizeof(m.Type)
		require.NoError(tb, err)
		places = append(places, place{strings.ReplaceAll(m.Name, "_", ""), uintptr(m.Offset.Bytes()), uintptr(size)})
	}
	return places
}

func fieldsOf(s reflect.Type) []place {
	var places []place
	for i := range s.NumField() {
		f := s.Field(i)
		if f.Name == "_" && f.Type.Size() == 0 {
			continue // structs.HostLayout
		}
		places = append(places, place{strings.ToLower(f.Name), f.Offset, f.Type.Size()})
	}
	return places
}

// Counters of the two objects stand in the same order, so one Go type and one
// set of names serve for both.
var (
	_ = bpf.TCVolume(bpf.XDPVolume{})
	_ = bpf.XDPVolume(bpf.TCVolume{})
)

// The map types say the same as the structs that the programs put into them.
func TestMapsHoldTypes(t *testing.T) {
	for _, tc := range []struct {
		object, name string
		key, value   any
	}{
		{"tc", bpf.TCMapFlows0, bpf.TCFlowKey{}, bpf.TCFlowStats{}},
		{"tc", bpf.TCMapFlows1, bpf.TCFlowKey{}, bpf.TCFlowStats{}},
		{"tc", bpf.TCMapInterfaces, uint32(0), bpf.TCInterfaceCounters{}},
		{"tc", bpf.TCMapParseOutcomes, uint32(0), bpf.TCParseCounters{}},
		{"tc", bpf.TCMapLedgers, uint32(0), bpf.TCLedger{}},
		{"tc", bpf.TCMapTunnels, bpf.TCTunnelKey{}, bpf.TCTunnelValue{}},
		{"tc", bpf.TCMapTunnelRefusals, uint32(0), bpf.TCVolume{}},
		{"xdp", bpf.XDPMapXdpInterfaces, uint32(0), bpf.XDPXdpCounters{}},
		{"xdp", bpf.XDPMapParseOutcomes, uint32(0), bpf.XDPParseCounters{}},
		{"xdp", bpf.XDPMapLedgers, uint32(0), bpf.XDPLedger{}},
		{"netfilter", bpf.NetfilterMapNetfilterSeen, uint32(0), bpf.NetfilterVolume{}},
		{"netfilter", bpf.NetfilterMapNetfilterDropped, uint32(0), bpf.NetfilterVolume{}},
		{"netfilter", bpf.NetfilterMapNetfilterEvicted, uint32(0), uint64(0)},
		{"drops", bpf.DropsMapDropCounts, bpf.DropsDropKey{}, bpf.DropsVolume{}},
		{"drops", bpf.DropsMapDropFlows0, bpf.DropsDropFlowKey{}, bpf.DropsDropFlow{}},
		{"drops", bpf.DropsMapDropFlows1, bpf.DropsDropFlowKey{}, bpf.DropsDropFlow{}},
		{"drops", bpf.DropsMapDropLedgers, uint32(0), bpf.DropsVolume{}},
		{"sockets", bpf.SocketsMapSocketConns, uint64(0), bpf.SocketsSocketConn{}},
		{"sockets", bpf.SocketsMapSocketListeners, bpf.SocketsSocketListenerKey{}, bpf.SocketsSocketListener{}},
		{"sockets", bpf.SocketsMapSocketCgroups, uint64(0), bpf.SocketsSocketCgroup{}},
		{"sockets", bpf.SocketsMapSocketCounts, uint32(0), bpf.SocketsSocketCounters{}},
		{"sockets", bpf.SocketsMapSocketLedgers, uint32(0), uint64(0)},
	} {
		t.Run(tc.object+"/"+tc.name, func(t *testing.T) {
			spec, err := objects[tc.object]()
			require.NoError(t, err)
			require.Contains(t, spec.Maps, tc.name)
			m := spec.Maps[tc.name]
			require.Equal(t, reflect.TypeOf(tc.key).Size(), uintptr(m.KeySize))
			require.Equal(t, reflect.TypeOf(tc.value).Size(), uintptr(m.ValueSize))
		})
	}
}
