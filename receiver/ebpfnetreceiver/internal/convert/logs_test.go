// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
)

var (
	source4, destination4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.7")
	backend4              = netip.MustParseAddr("10.42.0.7")
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
	"quality_of_sender": with(record(flow.TCP, source4, destination4), func(r *flow.Record) {
		r.Process = &flow.Process{PID: 4711, Name: "curl", ContainerID: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
		r.TCP = &flow.TCPQuality{RTT: 21500 * time.Microsecond, Retransmits: 3, HasRetransmits: true, Resets: 1}
		r.Dropped = 4
		r.SourceContainer, r.DestinationContainer = r.Process.ContainerID, "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
	}),
	// nothing was measured, and who sends is elsewhere
	"quality_of_receiver": with(record(flow.TCP, source4, destination4), func(r *flow.Record) { r.TCP = &flow.TCPQuality{} }),
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
	"vxlan": with(record(flow.TCP, source4, destination4), func(r *flow.Record) {
		r.Has |= flow.InTunnel
		r.Tunnel = &flow.Tunnel{Type: flow.VXLAN, Source: source6, Destination: destination6, HasID: true} // zero is a VNI
		r.WireBytes = 5678
	}),
	"gre_nested": with(record(flow.UDP, source6, destination6), func(r *flow.Record) {
		r.Has |= flow.InTunnel | flow.IsNested
		r.Tunnel = &flow.Tunnel{Type: flow.GRE, Source: source4, Destination: destination4} // without a key
	}),
	"geneve_unread": with(record(flow.UDP, source4, destination4), func(r *flow.Record) {
		r.Has |= flow.IsTunnel
		r.DestinationPort = 6081
		r.Tunnel = &flow.Tunnel{Type: flow.Geneve, Source: source4, Destination: destination4, ID: 1<<24 - 1, HasID: true}
	}),
	"dnat": with(record(flow.TCP, source4, destination4), func(r *flow.Record) {
		other := r.Tuple()
		other.Destination, other.DestinationPort = backend4, 8443
		r.NAT = &flow.NAT{Other: other, Original: r.Tuple()}
	}),
	"dnat_to_the_same_port": with(record(flow.TCP, source4, destination4), func(r *flow.Record) {
		other := r.Tuple()
		other.Destination = backend4
		r.NAT = &flow.NAT{Other: other, Original: other, Reply: true}
	}),
	"snat_of_the_port": with(record(flow.UDP, source4, destination4), func(r *flow.Record) {
		other := r.Tuple()
		other.SourcePort = 1024
		r.NAT = &flow.NAT{Other: other, Original: other}
	}),
	"snat_of_icmp": with(record(flow.ICMP, source4, destination4), func(r *flow.Record) {
		r.SourcePort, r.DestinationPort = 8, 0
		other := r.Tuple()
		other.Source = backend4
		r.NAT = &flow.NAT{Other: other, Original: other}
	}),
	"sampled": with(record(flow.UDP, source4, destination4), func(r *flow.Record) {
		r.SampledFrom = 1000
	}),
	"seen_elsewhere": with(record(flow.UDP, source4, destination4), func(r *flow.Record) {
		r.Others, r.SampledFrom = []string{"cni0", "veth1"}, 1
	}),
	"listener": with(record(flow.TCP, source4, destination4), func(r *flow.Record) {
		r.Opener, r.OpenerEvidence = flow.DestinationSide, flow.EvidenceListener
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
	"source.address":                      pcommon.ValueTypeStr,
	"destination.address":                 pcommon.ValueTypeStr,
	"source.port":                         pcommon.ValueTypeInt,
	"destination.port":                    pcommon.ValueTypeInt,
	"network.transport":                   pcommon.ValueTypeStr,
	"network.type":                        pcommon.ValueTypeStr,
	"netprobe.flow.packets":               pcommon.ValueTypeInt,
	"netprobe.flow.bytes":                 pcommon.ValueTypeInt,
	"netprobe.flow.start_time_unix_nano":  pcommon.ValueTypeInt,
	"netprobe.flow.community_id":          pcommon.ValueTypeStr,
	"netprobe.flow.initiator":             pcommon.ValueTypeStr,
	"netprobe.flow.initiator_evidence":    pcommon.ValueTypeStr,
	"netprobe.tcp.flags":                  pcommon.ValueTypeInt,
	"netprobe.icmp.type":                  pcommon.ValueTypeInt,
	"netprobe.icmp.code":                  pcommon.ValueTypeInt,
	"network.interface.name":              pcommon.ValueTypeStr,
	"netprobe.observation.direction":      pcommon.ValueTypeStr,
	"netprobe.observation.netns":          pcommon.ValueTypeInt,
	"netprobe.vlan.id":                    pcommon.ValueTypeInt,
	"netprobe.vlan.inner_id":              pcommon.ValueTypeInt,
	"netprobe.mpls.label":                 pcommon.ValueTypeInt,
	"netprobe.observation.interfaces":     pcommon.ValueTypeSlice,
	"netprobe.tunnel.type":                pcommon.ValueTypeStr,
	"netprobe.tunnel.id":                  pcommon.ValueTypeInt,
	"netprobe.tunnel.source.address":      pcommon.ValueTypeStr,
	"netprobe.tunnel.destination.address": pcommon.ValueTypeStr,
	"netprobe.tunnel.nested":              pcommon.ValueTypeBool,
	"netprobe.nat.source.address":         pcommon.ValueTypeStr,
	"netprobe.nat.source.port":            pcommon.ValueTypeInt,
	"netprobe.nat.destination.address":    pcommon.ValueTypeStr,
	"netprobe.nat.destination.port":       pcommon.ValueTypeInt,
	"netprobe.nat.original":               pcommon.ValueTypeBool,
	"netprobe.flow.sampling_interval":     pcommon.ValueTypeInt,
	"netprobe.tcp.rtt":                    pcommon.ValueTypeDouble,
	"netprobe.tcp.retransmits":            pcommon.ValueTypeInt,
	"netprobe.tcp.resets":                 pcommon.ValueTypeInt,
	"netprobe.drops":                      pcommon.ValueTypeInt,
	"process.pid":                         pcommon.ValueTypeInt,
	"process.executable.name":             pcommon.ValueTypeStr,
	"container.id":                        pcommon.ValueTypeStr,
	"source.container.id":                 pcommon.ValueTypeStr,
	"destination.container.id":            pcommon.ValueTypeStr,
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
	tunnel    = []string{"netprobe.tunnel.type", "netprobe.tunnel.source.address", "netprobe.tunnel.destination.address"}
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
		"vxlan":                   {ports, initiator, tcp, tunnel, {"netprobe.tunnel.id"}},
		"gre_nested":              {ports, initiator, tunnel, {"netprobe.tunnel.nested"}},
		"geneve_unread":           {ports, initiator, tunnel, {"netprobe.tunnel.id"}},
		"dnat":                    {ports, initiator, tcp, {"netprobe.nat.destination.address", "netprobe.nat.destination.port", "netprobe.nat.original"}},
		"dnat_to_the_same_port":   {ports, initiator, tcp, {"netprobe.nat.destination.address", "netprobe.nat.destination.port", "netprobe.nat.original"}},
		"snat_of_the_port":        {ports, initiator, {"netprobe.nat.source.address", "netprobe.nat.source.port", "netprobe.nat.original"}},
		"snat_of_icmp":            {icmp, {"netprobe.nat.source.address", "netprobe.nat.original"}},
		"sampled":                 {ports, initiator, {"netprobe.flow.sampling_interval"}},
		"seen_elsewhere":          {ports, initiator, {"netprobe.observation.interfaces"}},
		"listener":                {ports, initiator, tcp},
		"unknown_protocol":        {},
		"quality_of_sender": {ports, initiator, tcp, {
			"process.pid", "process.executable.name", "container.id", "source.container.id", "destination.container.id",
			"netprobe.tcp.rtt", "netprobe.tcp.retransmits", "netprobe.tcp.resets", "netprobe.drops",
		}},
		"quality_of_receiver": {ports, initiator, tcp, {"netprobe.tcp.resets"}},
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

// Every kind of record has its keys checked.
func TestFlowLogsKeysAreCheckedOfAll(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join("testdata", "logs"))
	require.NoError(t, err)
	var golden []string
	for _, e := range entries {
		golden = append(golden, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	require.ElementsMatch(t, append(slices.Collect(maps.Keys(flows)), "tunnel_events"), golden)
	seen := map[string]bool{}
	for _, rec := range flows {
		for key := range one(observer.FlowLogs([]flow.Record{rec}, observed)).Attributes().All() {
			seen[key] = true
		}
	}
	for key := range contract {
		require.True(t, seen[key], "no record has %s", key)
	}
}

// What was counted stands for so many packets; the record says how many each.
func TestFlowLogsOfSamples(t *testing.T) {
	attrs := one(observer.FlowLogs([]flow.Record{flows["sampled"]}, observed)).Attributes().AsRaw()
	require.Equal(t, int64(7000), attrs["netprobe.flow.packets"])
	require.Equal(t, int64(1234000), attrs["netprobe.flow.bytes"])
	require.Equal(t, int64(1000), attrs["netprobe.flow.sampling_interval"])
}

// The identifier of a translated conversation is the same on both sides of the
// translation and in both directions.
func TestFlowLogsCommunityIDOfNAT(t *testing.T) {
	id := func(rec flow.Record) any {
		return one(observer.FlowLogs([]flow.Record{rec}, observed)).Attributes().AsRaw()["netprobe.flow.community_id"]
	}
	before := flows["dnat"]
	after := before
	other := before.NAT.Other
	after.Destination, after.DestinationPort = other.Destination, other.DestinationPort
	after.NAT = &flow.NAT{Other: before.Tuple(), Original: before.Tuple()}
	back := after
	back.Source, back.Destination = after.Destination, after.Source
	back.SourcePort, back.DestinationPort = after.DestinationPort, after.SourcePort
	back.NAT = &flow.NAT{Other: before.Tuple().Reverse(), Original: before.Tuple().Reverse(), Reply: true}

	want := id(flows["tcp_ipv4_no_flags"]) // the same conversation, not translated
	for name, rec := range map[string]flow.Record{"before": before, "after": after, "back": back} {
		require.Equal(t, want, id(rec), name)
	}
	after.NAT = nil
	require.NotEqual(t, want, id(after))
}

// Whether a record's own addresses are those that the conversation was opened with is
// the same for both directions at one side of a translation.
func TestFlowLogsSayWhichSideOfATranslation(t *testing.T) {
	original := func(rec flow.Record) any {
		return one(observer.FlowLogs([]flow.Record{rec}, observed)).Attributes().AsRaw()["netprobe.nat.original"]
	}
	before := flows["dnat"]
	opened, other := before.Tuple(), before.NAT.Other
	at := func(t, other flow.Tuple, reply bool) flow.Record {
		rec := before
		rec.Source, rec.SourcePort, rec.Destination, rec.DestinationPort = t.Source, t.SourcePort, t.Destination, t.DestinationPort
		rec.NAT = &flow.NAT{Other: other, Original: opened, Reply: reply}
		if reply {
			rec.NAT.Original = opened.Reverse()
		}
		return rec
	}
	require.Equal(t, true, original(before))
	require.Equal(t, false, original(at(other, opened, false)), "behind the translation")
	require.Equal(t, false, original(at(other.Reverse(), opened.Reverse(), true)), "an answer that has yet to be translated")
	require.Equal(t, true, original(at(opened.Reverse(), other.Reverse(), true)), "an answer that has been")
	require.Nil(t, original(flows["tcp_ipv4_syn"]), "nothing is translated")
}

func TestTunnelLogs(t *testing.T) {
	vxlan := flow.Tunnel{Type: flow.VXLAN, Source: source4, Destination: destination4, ID: 42, HasID: true}
	ipip := flow.Tunnel{Type: flow.IPIP, Source: source6, Destination: destination6}
	requireGoldenLogs(t, "tunnel_events", observer.EventLogs([]Event{
		TunnelEvent{aggregate.TunnelEvent{Tunnel: vxlan, Up: true, At: first}},
		TunnelEvent{aggregate.TunnelEvent{Tunnel: ipip, At: last}},
	}, observed))
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
