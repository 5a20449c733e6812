// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

var (
	source4, destination4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.7")
	source6, destination6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")

	first    = time.Unix(1_700_000_000, 123_456_789)
	last     = time.Unix(1_700_000_004, 987_654_321)
	observed = time.Unix(1_700_000_005, 5)
)

var observer = Observer{Version: "1.2.3", NetNS: 4026531840}

func record(protocol flow.Protocol, source, destination netip.Addr) flow.Record {
	return flow.Record{
		Key: flow.Key{
			Source: source, Destination: destination,
			SourcePort: 40001, DestinationPort: 443,
			Protocol: protocol, Has: flow.HasPorts,
			InterfaceIndex: 2,
		},
		Interface: "eth0",
		Packets:   7, Bytes: 1234,
		First: first, Last: last,
	}
}

func with(rec flow.Record, change func(*flow.Record)) flow.Record {
	change(&rec)
	return rec
}

// flows are all kinds of records by the name of their golden file.
var flows = map[string]flow.Record{
	"tcp_ipv4_syn": with(record(flow.TCP, source4, destination4), func(r *flow.Record) {
		r.TCPFlags, r.SYNSeen = flow.SYN|flow.ACK|flow.PSH, true
	}),
	"tcp_ipv4_syn_ack_egress": with(record(flow.TCP, destination4, source4), func(r *flow.Record) {
		r.SourcePort, r.DestinationPort = 443, 40001
		r.TCPFlags, r.SYNACKSeen, r.Direction = flow.SYN|flow.ACK|flow.FIN, true, flow.Egress
	}),
	"tcp_ipv4_no_flags": record(flow.TCP, source4, destination4), // as a NULL scan sends
	"udp_ipv6":          record(flow.UDP, source6, destination6),
	"icmp": with(record(flow.ICMP, source4, destination4), func(r *flow.Record) {
		r.SourcePort, r.DestinationPort = 3, 1
	}),
	"icmp_echo_reply": with(record(flow.ICMP, source4, destination4), func(r *flow.Record) {
		r.SourcePort, r.DestinationPort = 0, 0 // zero is a type and a code
	}),
	"icmpv6": with(record(flow.ICMPv6, source6, destination6), func(r *flow.Record) {
		r.SourcePort, r.DestinationPort = 128, 0
	}),
	"fragment": with(record(flow.UDP, source4, destination4), func(r *flow.Record) {
		r.SourcePort, r.DestinationPort, r.Has = 0, 0, flow.IsFragment
	}),
	"fragment_of_tcp": with(record(flow.TCP, source6, destination6), func(r *flow.Record) {
		r.SourcePort, r.DestinationPort, r.Has = 0, 0, flow.IsFragment
	}),
	"vlan": with(record(flow.TCP, source4, destination4), func(r *flow.Record) {
		r.Has |= flow.HasVLAN
		r.VLAN, r.TCPFlags = 0, flow.ACK // zero is a VLAN: a priority tag
	}),
	"qinq": with(record(flow.UDP, source4, destination4), func(r *flow.Record) {
		r.Has |= flow.HasVLAN | flow.HasInnerVLAN
		r.VLAN, r.InnerVLAN = 100, 4094
	}),
	"mpls": with(record(flow.SCTP, source6, destination6), func(r *flow.Record) {
		r.Has |= flow.HasMPLS
		r.MPLSLabel = 0xfffff
	}),
	"unknown_protocol": with(record(253, source4, destination4), func(r *flow.Record) {
		r.SourcePort, r.DestinationPort, r.Has = 0, 0, 0
	}),
}

func TestFlowLogs(t *testing.T) {
	for name, rec := range flows {
		t.Run(name, func(t *testing.T) {
			requireGoldenLogs(t, name, observer.FlowLogs([]flow.Record{rec}, observed))
		})
	}
}

func TestFlowLogsOfManyRecords(t *testing.T) {
	records := []flow.Record{flows["udp_ipv6"], flows["icmp"], flows["qinq"]}
	ld := observer.FlowLogs(records, observed)
	require.Equal(t, 1, ld.ResourceLogs().Len())
	require.Equal(t, 1, ld.ResourceLogs().At(0).ScopeLogs().Len())
	got := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	require.Equal(t, len(records), got.Len())
	for i, rec := range records {
		one := observer.FlowLogs([]flow.Record{rec}, observed).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
		require.Equal(t, one.Attributes().AsRaw(), got.At(i).Attributes().AsRaw())
	}
}

func TestFlowLogsOfNoRecords(t *testing.T) {
	require.Equal(t, 0, observer.FlowLogs(nil, observed).LogRecordCount())
}

// The keys of a netprobe.flow record and their types: the contract.
var contract = map[string]pcommon.ValueType{
	"source.address":                     pcommon.ValueTypeStr,
	"destination.address":                pcommon.ValueTypeStr,
	"source.port":                        pcommon.ValueTypeInt,
	"destination.port":                   pcommon.ValueTypeInt,
	"network.transport":                  pcommon.ValueTypeStr,
	"network.type":                       pcommon.ValueTypeStr,
	"netprobe.flow.packets":              pcommon.ValueTypeInt,
	"netprobe.flow.bytes":                pcommon.ValueTypeInt,
	"netprobe.flow.start_time_unix_nano": pcommon.ValueTypeInt,
	"netprobe.flow.community_id":         pcommon.ValueTypeStr,
	"netprobe.flow.initiator":            pcommon.ValueTypeStr,
	"netprobe.flow.initiator_evidence":   pcommon.ValueTypeStr,
	"netprobe.tcp.flags":                 pcommon.ValueTypeInt,
	"netprobe.icmp.type":                 pcommon.ValueTypeInt,
	"netprobe.icmp.code":                 pcommon.ValueTypeInt,
	"network.interface.name":             pcommon.ValueTypeStr,
	"netprobe.observation.direction":     pcommon.ValueTypeStr,
	"netprobe.observation.netns":         pcommon.ValueTypeInt,
	"netprobe.vlan.id":                   pcommon.ValueTypeInt,
	"netprobe.vlan.inner_id":             pcommon.ValueTypeInt,
	"netprobe.mpls.label":                pcommon.ValueTypeInt,
}

var always = []string{
	"source.address", "destination.address", "network.transport", "network.type",
	"netprobe.flow.packets", "netprobe.flow.bytes", "netprobe.flow.start_time_unix_nano", "netprobe.flow.community_id",
	"network.interface.name", "netprobe.observation.direction", "netprobe.observation.netns",
}

var (
	ports     = []string{"source.port", "destination.port"}
	initiator = []string{"netprobe.flow.initiator", "netprobe.flow.initiator_evidence"}
	icmp      = []string{"netprobe.icmp.type", "netprobe.icmp.code"}
	tcp       = []string{"netprobe.tcp.flags"}
)

// A key is there where the thing is, and absent, not zero, where it is not.
func TestFlowLogsKeys(t *testing.T) {
	// beside what all have
	for name, want := range map[string][][]string{
		"tcp_ipv4_syn":            {ports, initiator, tcp},
		"tcp_ipv4_syn_ack_egress": {ports, initiator, tcp},
		"tcp_ipv4_no_flags":       {ports, initiator, tcp},
		"udp_ipv6":                {ports, initiator},
		"icmp":                    {icmp},
		"icmp_echo_reply":         {icmp},
		"icmpv6":                  {icmp},
		"fragment":                {},
		"fragment_of_tcp":         {},
		"vlan":                    {ports, initiator, tcp, {"netprobe.vlan.id"}},
		"qinq":                    {ports, initiator, {"netprobe.vlan.id", "netprobe.vlan.inner_id"}},
		"mpls":                    {ports, initiator, {"netprobe.mpls.label"}},
		"unknown_protocol":        {},
	} {
		t.Run(name, func(t *testing.T) {
			lr := one(observer.FlowLogs([]flow.Record{flows[name]}, observed))
			var got []string
			for key, value := range lr.Attributes().All() {
				got = append(got, key)
				require.Contains(t, contract, key)
				require.Equal(t, contract[key], value.Type(), key)
			}
			keys := append([]string{}, always...)
			for _, more := range want {
				keys = append(keys, more...)
			}
			require.ElementsMatch(t, keys, got, "each once")
			require.LessOrEqual(t, len(got), flowAttributes)
		})
	}
}

func TestFlowLogsEvent(t *testing.T) {
	lr := one(observer.FlowLogs([]flow.Record{flows["udp_ipv6"]}, observed))
	require.Equal(t, "netprobe.flow", lr.EventName())
	require.Equal(t, pcommon.ValueTypeEmpty, lr.Body().Type())
	require.Equal(t, plog.SeverityNumberInfo, lr.SeverityNumber())
	require.Equal(t, last.UnixNano(), int64(lr.Timestamp()))
	require.Equal(t, observed.UnixNano(), int64(lr.ObservedTimestamp()))
}

func one(ld plog.Logs) plog.LogRecord {
	return ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
}

func BenchmarkFlowLogs(b *testing.B) {
	records := make([]flow.Record, 4096)
	for i := range records {
		records[i] = flows["tcp_ipv4_syn"]
		records[i].SourcePort = uint16(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		observer.FlowLogs(records, observed)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/record")
}
