// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// kernelKey has another value in each place, so that a mix-up shows.
func kernelKey(version uint8, source, destination string) bpf.TCFlowKey {
	return bpf.TCFlowKey{
		Source:          netip.MustParseAddr(source).As16(), // IPv4 as ::ffff:a.b.c.d
		Destination:     netip.MustParseAddr(destination).As16(),
		Ifindex:         0x11121314,
		From:            0x15161718,
		Tunnel:          0x191a1b1c,
		MplsLabel:       0xfffff,
		SourcePort:      40001,
		DestinationPort: 443,
		VlanId:          100,
		InnerVlanId:     4094,
		Protocol:        6,
		IpVersion:       version,
		Direction:       1,
		Has:             1 | 2 | 4 | 8,
	}
}

func TestDecode(t *testing.T) {
	c := kernel.ClockAt(time.Unix(1_700_000_000, 0))
	stats := bpf.TCFlowStats{
		Packets: 7, Bytes: 1234, TunnelBytes: 34,
		FirstMonoNs: 1_000_000_001, LastMonoNs: 2_000_000_002,
		TcpFlagSeen: [8]uint8{0, 1, 0, 1, 1, 0, 0, 1}, TcpFlagsHint: 0x02,
		SynSeen: 1,
	}
	key := kernelKey(4, "192.0.2.1", "198.51.100.7")
	var rec flow.Record
	rec.Interface, rec.SYNACKSeen, rec.Others = "left from before", true, []string{"eth0"}
	tunnel := &flow.Tunnel{Type: flow.VXLAN, ID: 42, HasID: true}
	decode(&rec, &key, tunnel, &stats, &c)
	require.Equal(t, flow.Record{
		Key: flow.Key{
			Source:          netip.MustParseAddr("192.0.2.1"),
			Destination:     netip.MustParseAddr("198.51.100.7"),
			SourcePort:      40001,
			DestinationPort: 443,
			Protocol:        flow.TCP,
			Has:             flow.HasPorts | flow.HasVLAN | flow.HasInnerVLAN | flow.HasMPLS,
			Direction:       flow.Egress,
			VLAN:            100,
			InnerVLAN:       4094,
			MPLSLabel:       0xfffff,
			InterfaceIndex:  0x11121314,
			From:            0x15161718,
			Tunnel:          tunnel,
		},
		Packets: 7, Bytes: 1200, WireBytes: 1234,
		First:    time.Unix(1_700_000_001, 1),
		Last:     time.Unix(1_700_000_002, 2),
		TCPFlags: flow.SYN | flow.PSH | flow.ACK | 0x80,
		SYNSeen:  true,
	}, rec)
}

func TestDecodeIPv6(t *testing.T) {
	var c kernel.Clock
	var rec flow.Record
	key := kernelKey(6, "2001:db8::1", "2001:db8::2")
	key.Direction, key.Has, key.Protocol = 0, 16, 17
	decode(&rec, &key, nil, &bpf.TCFlowStats{SynAckSeen: 1}, &c)
	require.Equal(t, netip.MustParseAddr("2001:db8::1"), rec.Source)
	require.Equal(t, netip.MustParseAddr("2001:db8::2"), rec.Destination)
	require.Equal(t, flow.Ingress, rec.Direction)
	require.Equal(t, flow.IsFragment, rec.Has)
	require.Equal(t, flow.UDP, rec.Protocol)
	require.True(t, rec.SYNACKSeen)
	require.False(t, rec.SYNSeen)

	// A packet can carry a mapped address in an IPv6 header: that is no IPv4.
	key = kernelKey(6, "::ffff:192.0.2.1", "2001:db8::2")
	decode(&rec, &key, nil, &bpf.TCFlowStats{}, &c)
	require.True(t, rec.Source.Is4In6())
	require.True(t, rec.Source.Is6())
}

// A CPU that found another's entry has noted no first time.
func TestDecodeTimes(t *testing.T) {
	c := kernel.ClockAt(time.Unix(0, 1000))
	for _, tt := range []struct {
		first, last         uint64
		wantFirst, wantLast int64
	}{
		{10, 20, 1010, 1020},
		{20, 20, 1020, 1020},
		{0, 20, 1020, 1020},
		{30, 20, 1020, 1020}, // clocks of two CPUs may be read in another order
	} {
		key := kernelKey(4, "192.0.2.1", "198.51.100.7")
		var rec flow.Record
		decode(&rec, &key, nil, &bpf.TCFlowStats{FirstMonoNs: tt.first, LastMonoNs: tt.last}, &c)
		require.Equal(t, tt.wantFirst, rec.First.UnixNano())
		require.Equal(t, tt.wantLast, rec.Last.UnixNano())
	}
}

func TestDecodeFlags(t *testing.T) {
	for bit := range 8 {
		var seen [8]uint8
		seen[bit] = 1
		require.Equal(t, flow.TCPFlags(1<<bit), decodeFlags(&seen))
	}
	require.Equal(t, flow.TCPFlags(0), decodeFlags(&[8]uint8{}))
	require.Equal(t, flow.TCPFlags(0xff), decodeFlags(&[8]uint8{1, 1, 1, 1, 1, 1, 1, 1}))
}

func TestMergeStats(t *testing.T) {
	one := bpf.TCFlowStats{Packets: 1, Bytes: 10, TunnelBytes: 5, FirstMonoNs: 100, LastMonoNs: 200, TcpFlagSeen: [8]uint8{0, 1}, SynSeen: 1}
	other := bpf.TCFlowStats{Packets: 2, Bytes: 20, TunnelBytes: 7, FirstMonoNs: 50, LastMonoNs: 150, TcpFlagSeen: [8]uint8{1, 0, 0, 0, 1}, SynAckSeen: 1}
	both := bpf.TCFlowStats{
		Packets: 3, Bytes: 30, TunnelBytes: 12, FirstMonoNs: 50, LastMonoNs: 200,
		TcpFlagSeen: [8]uint8{1, 1, 0, 0, 1}, SynSeen: 1, SynAckSeen: 1,
	}
	noFirst := other
	noFirst.FirstMonoNs = 0
	withoutFirst := both
	withoutFirst.FirstMonoNs = 100
	for _, tt := range []struct {
		name           string
		to, from, want bpf.TCFlowStats
	}{
		{"both", one, other, both},
		{"both the other way", other, one, both},
		{"nothing from there", one, bpf.TCFlowStats{FirstMonoNs: 1}, one},
		{"nothing here", bpf.TCFlowStats{FirstMonoNs: 1}, other, other},
		{"no first time there", one, noFirst, withoutFirst},
		{"no first time here", noFirst, one, withoutFirst},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to, from := tt.to, tt.from
			mergeStats(&to, &from)
			require.Equal(t, tt.want, to)
			require.Equal(t, tt.from, from)
		})
	}
}

func TestSumStats(t *testing.T) {
	perCPU := []bpf.TCFlowStats{
		{},
		{Packets: 1, Bytes: 10, FirstMonoNs: 100, LastMonoNs: 100},
		{Packets: 2, Bytes: 20, LastMonoNs: 300, SynSeen: 1},
		{},
	}
	require.Equal(t, &bpf.TCFlowStats{Packets: 3, Bytes: 30, FirstMonoNs: 100, LastMonoNs: 300, SynSeen: 1}, sumStats(perCPU))
	require.Equal(t, &bpf.TCFlowStats{Packets: 1}, sumStats([]bpf.TCFlowStats{{Packets: 1}}))
}

func TestEventStats(t *testing.T) {
	for _, tt := range []struct {
		flags       uint8
		seen        [8]uint8
		syn, synACK uint8
	}{
		{0x00, [8]uint8{}, 0, 0},
		{0x02, [8]uint8{0, 1}, 1, 0},
		{0x12, [8]uint8{0, 1, 0, 0, 1}, 0, 1},
		{0x10, [8]uint8{0, 0, 0, 0, 1}, 0, 0},
		{0xc2, [8]uint8{0, 1, 0, 0, 0, 0, 1, 1}, 1, 0},
		{0xff, [8]uint8{1, 1, 1, 1, 1, 1, 1, 1}, 0, 1},
	} {
		require.Equal(t, &bpf.TCFlowStats{
			Packets: 3, Bytes: 300, TunnelBytes: 150, FirstMonoNs: 7, LastMonoNs: 7,
			TcpFlagSeen: tt.seen, SynSeen: tt.syn, SynAckSeen: tt.synACK,
		}, eventStats(&bpf.TCFlowEvent{TcpFlags: tt.flags, Packets: 3, Bytes: 300, TunnelBytes: 150, MonoNs: 7}), "flags %#x", tt.flags)
	}
}

func TestDecodeTunnel(t *testing.T) {
	key := bpf.TCTunnelKey{
		Source: netip.MustParseAddr("192.0.2.1").As16(), Destination: netip.MustParseAddr("192.0.2.2").As16(),
		Id: 1<<24 - 1, HasId: 1, IpVersion: 4, Type: uint8(flow.VXLAN),
	}
	require.Equal(t, &flow.Tunnel{
		Source: netip.MustParseAddr("192.0.2.1"), Destination: netip.MustParseAddr("192.0.2.2"),
		ID: 1<<24 - 1, HasID: true, Type: flow.VXLAN,
	}, decodeTunnel(&key))

	key = bpf.TCTunnelKey{
		Source: netip.MustParseAddr("2001:db8::1").As16(), Destination: netip.MustParseAddr("2001:db8::2").As16(),
		IpVersion: 6, Type: uint8(flow.IPIP),
	}
	require.Equal(t, &flow.Tunnel{
		Source: netip.MustParseAddr("2001:db8::1"), Destination: netip.MustParseAddr("2001:db8::2"), Type: flow.IPIP,
	}, decodeTunnel(&key))
}

func TestNamesOfHooksAndLosses(t *testing.T) {
	var hooks, losses []string
	for i := range Hooks {
		hooks = append(hooks, Hook(i).String())
	}
	for i := range Losses {
		losses = append(losses, Loss(i).String())
	}
	require.Equal(t, []string{"xdp", "tc_ingress", "tc_egress"}, hooks)
	require.Equal(t, []string{"ring_buffer_full", "map_update", "overflow_table_full"}, losses)
}

func BenchmarkDecode(b *testing.B) {
	var c kernel.Clock
	var rec flow.Record
	key := kernelKey(4, "192.0.2.1", "198.51.100.7")
	stats := bpf.TCFlowStats{Packets: 1, Bytes: 100, FirstMonoNs: 1, LastMonoNs: 2, TcpFlagSeen: [8]uint8{0, 1}}
	b.ReportAllocs()
	for b.Loop() {
		decode(&rec, &key, nil, &stats, &c)
	}
}
