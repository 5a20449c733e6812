// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

// traffic is frames of several flows, and one of none.
func traffic(tb testing.TB) [][]byte {
	tb.Helper()
	syn := eth4(tb, packets.IPv4(layers.IPProtocolTCP), packets.TCP(0x02))
	data := eth4(tb, packets.IPv4(layers.IPProtocolTCP), packets.TCP(0x18), packets.Payload(100))
	dns := eth6(tb, packets.IPv6(layers.IPProtocolUDP), packets.UDP(), packets.Payload(30))
	return [][]byte{
		syn, data, data,
		dns, dns,
		eth4(tb, packets.IPv4(layers.IPProtocolICMPv4), packets.ICMP(8, 0), packets.Payload(56)),
		eth4(tb, packets.IPv4Fragment(layers.IPProtocolUDP, 1480, false), packets.Payload(200)),
		packets.Build(tb, packets.Ethernet(layers.EthernetTypeARP), packets.Payload(28)),
	}
}

// trafficFlows is what the flows of traffic are.
func (l *lab) trafficFlows(tb testing.TB, direction flow.Direction) map[flow.Key]flow.Volume {
	tb.Helper()
	frames := traffic(tb)
	icmp, fragment := l.key4(flow.ICMP, direction), l.key4(flow.UDP, direction)
	icmp.SourcePort, icmp.DestinationPort = 8, 0
	fragment.SourcePort, fragment.DestinationPort, fragment.Has = 0, 0, flow.IsFragment
	return map[flow.Key]flow.Volume{
		l.key4(flow.TCP, direction): volumeOf(frames[0:3]...),
		l.key6(flow.UDP, direction): volumeOf(frames[3:5]...),
		icmp:                        volumeOf(frames[5]),
		fragment:                    volumeOf(frames[6]),
	}
}

// Every way to attach counts the same, and what the kernel itself counts.
func TestCounts(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tc      TCMode
		xdp     XDPMode
		flowMap FlowMap
		hooks   map[Hook]string
	}{
		{"tcx", TCX, XDPOff, FlowMapShared, map[Hook]string{HookTCIngress: "tcx", HookTCEgress: "tcx"}},
		{"tcx, flows per CPU", TCX, XDPOff, FlowMapPerCPU, map[Hook]string{HookTCIngress: "tcx", HookTCEgress: "tcx"}},
		{"clsact", TCClsact, XDPOff, FlowMapShared, map[Hook]string{HookTCIngress: "clsact", HookTCEgress: "clsact"}},
		{"clsact, flows per CPU", TCClsact, XDPOff, FlowMapPerCPU, map[Hook]string{HookTCIngress: "clsact", HookTCEgress: "clsact"}},
		{"native xdp too", TCClsact, XDPNative, FlowMapShared, map[Hook]string{HookTCIngress: "clsact", HookTCEgress: "clsact", HookXDP: "native"}},
		{"generic xdp too", TCClsact, XDPGeneric, FlowMapShared, map[Hook]string{HookTCIngress: "clsact", HookTCEgress: "clsact", HookXDP: "generic"}},
		{"xdp where it can be", TCClsact, XDPAuto, FlowMapPerCPU, map[Hook]string{HookTCIngress: "clsact", HookTCEgress: "clsact", HookXDP: "native"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			if tt.tc == TCX {
				requireTCX(t)
			}
			opts := defaults()
			opts.TC, opts.XDP, opts.FlowMap = tt.tc, tt.xdp, tt.flowMap
			p := load(t, opts)
			modes := map[Hook]string{}
			for _, m := range l.attach(t, p) {
				modes[m.Hook] = m.Mode
				require.Empty(t, m.Reason)
				require.NoError(t, m.Err)
			}
			require.Equal(t, tt.hooks, modes)
			l.requireCounts(t, p, modes[HookXDP])
		})
	}
}

func (l *lab) requireCounts(t *testing.T, p *Probe, xdp string) {
	t.Helper()
	stats := statistics(t, l.near)
	begin := time.Now()
	frames := traffic(t)
	all := volumeOf(frames...)
	l.sendAsIngress(t, p, frames...)
	records := drain(t, p)
	require.Equal(t, l.trafficFlows(t, flow.Ingress), volumes(t, records))
	requireDetails(t, records, begin)

	want := flow.InterfaceCounters{Rx: all}
	if xdp != "" {
		want.XDP[flow.OutcomeOK] = volumeOf(frames[:7]...)
		want.XDP[flow.OutcomeNotIP] = volumeOf(frames[7])
	}
	got, err := p.InterfaceCounters(l.index())
	require.NoError(t, err)
	require.Equal(t, want, got)

	l.sendAsEgress(t, frames...)
	l.sendAsEgress(t, frames[0])
	records = drain(t, p)
	sent := l.trafficFlows(t, flow.Egress)
	tcp := sent[l.key4(flow.TCP, flow.Egress)]
	tcp.Add(volumeOf(frames[0]))
	sent[l.key4(flow.TCP, flow.Egress)] = tcp
	require.Equal(t, sent, volumes(t, records))

	want.Tx = all
	want.Tx.Add(volumeOf(frames[0]))
	got, err = p.InterfaceCounters(l.index())
	require.NoError(t, err)
	require.Equal(t, want, got)
	l.requireHealth(t, p, want)

	now := statistics(t, l.near)
	received := flow.Volume{Packets: now.RxPackets - stats.RxPackets, Bytes: now.RxBytes - stats.RxBytes}
	if xdp == "native" {
		// then the driver counts without the Ethernet header, and when it is done
		received = got.Rx
	}
	require.Equal(t, got.Rx, received)
	require.Equal(t, got.Tx, flow.Volume{Packets: now.TxPackets - stats.TxPackets, Bytes: now.TxBytes - stats.TxBytes})
}

// requireHealth compares the probe's own counters with the interface's.
func (l *lab) requireHealth(t *testing.T, p *Probe, counters flow.InterfaceCounters) {
	t.Helper()
	h, err := p.Health()
	require.NoError(t, err)
	require.Equal(t, counters.Rx, h.Hooks[HookTCIngress].Seen())
	require.Equal(t, counters.Tx, h.Hooks[HookTCEgress].Seen())
	require.Equal(t, HookHealth{Parsed: counters.XDP}, h.Hooks[HookXDP], "the XDP program has no flows")
	for _, hook := range []Hook{HookTCIngress, HookTCEgress} {
		parsed := h.Hooks[hook].Parsed
		require.Equal(t, uint64(1), parsed[flow.OutcomeNotIP].Packets)
		var want HookHealth
		want.Parsed = parsed
		want.NoFlow[flow.OutcomeNotIP] = parsed[flow.OutcomeNotIP]
		require.Equal(t, want, h.Hooks[hook], "all others have a flow")
	}
	require.Equal(t, [flow.Refusals]flow.Volume{}, h.Refused)
	require.Equal(t, flow.Volume{}, h.Overflowed)
	require.Equal(t, 4, h.FlowEntries)
}

// requireDetails checks what is beside the volumes.
func requireDetails(t *testing.T, records []flow.Record, begin time.Time) {
	t.Helper()
	// kernels tell the time of flows by a clock that steps with the timer tick
	const tick = 20 * time.Millisecond
	for _, rec := range records {
		require.False(t, rec.First.Before(begin.Add(-tick)))
		require.False(t, rec.First.After(rec.Last))
		require.False(t, rec.Last.After(time.Now().Add(tick)))
		if rec.Protocol == flow.TCP {
			require.Equal(t, flow.SYN|flow.PSH|flow.ACK, rec.TCPFlags)
			require.True(t, rec.SYNSeen)
		} else {
			require.Equal(t, flow.TCPFlags(0), rec.TCPFlags)
			require.False(t, rec.SYNSeen)
		}
		require.False(t, rec.SYNACKSeen)
		require.Empty(t, rec.Interface)
	}
}

// Frames that are damaged are told from those that are not, in front of the
// network stack and behind it.
func TestCountsByOutcome(t *testing.T) {
	for _, mode := range []XDPMode{XDPNative, XDPGeneric} {
		t.Run(string(mode), func(t *testing.T) {
			l := newLab(t)
			opts := defaults()
			opts.XDP = mode
			p := load(t, opts)
			l.attach(t, p)

			good := udp4(t, packets.SourcePort, 100)
			truncated := good[:len(good)-50]
			malformed := packets.Patch(good, packets.EthernetLen, 0x42) // a header of 8 bytes
			l.sendAsIngress(t, p, good, truncated, truncated, malformed)

			got, err := p.InterfaceCounters(l.index())
			require.NoError(t, err)
			require.Equal(t, volumeOf(good), got.XDP[flow.OutcomeOK])
			require.Equal(t, volumeOf(truncated, truncated), got.XDP[flow.OutcomeTruncated])
			require.Equal(t, volumeOf(malformed), got.XDP[flow.OutcomeMalformed])
			h, err := p.Health()
			require.NoError(t, err)
			require.Equal(t, got.XDP, h.Hooks[HookXDP].Parsed)
			ingress := h.Hooks[HookTCIngress]
			require.Equal(t, got.XDP, ingress.Parsed)
			// Addresses can be read of a packet that only ends too early.
			require.Equal(t, flow.Volume{}, ingress.NoFlow[flow.OutcomeOK])
			require.Equal(t, flow.Volume{}, ingress.NoFlow[flow.OutcomeTruncated])
			require.Equal(t, got.XDP[flow.OutcomeMalformed], ingress.NoFlow[flow.OutcomeMalformed])
		})
	}
}

// The receiving side takes the outermost tag out of the frame and keeps it
// beside: on the wire it was in it.
func TestCountsVLANTagsInMetadata(t *testing.T) {
	ip := []packets.Layer{packets.IPv4(layers.IPProtocolUDP), packets.UDP(), packets.Payload(100)}
	tag := func(id uint16, next layers.EthernetType) packets.Layer { return packets.VLAN(id, next) }
	for _, tt := range []struct {
		name   string
		outer  layers.EthernetType
		tags   []packets.Layer
		has    flow.Has
		id, in uint16
	}{
		{name: "802.1Q", outer: layers.EthernetTypeDot1Q, tags: []packets.Layer{tag(100, layers.EthernetTypeIPv4)}, has: flow.HasVLAN, id: 100},
		{name: "priority only", outer: layers.EthernetTypeDot1Q, tags: []packets.Layer{tag(0, layers.EthernetTypeIPv4)}, has: flow.HasVLAN},
		{
			name: "QinQ", outer: layers.EthernetTypeQinQ,
			tags: []packets.Layer{tag(200, layers.EthernetTypeDot1Q), tag(300, layers.EthernetTypeIPv4)},
			has:  flow.HasVLAN | flow.HasInnerVLAN, id: 200, in: 300,
		},
		{
			name: "802.1Q twice", outer: layers.EthernetTypeDot1Q,
			tags: []packets.Layer{tag(4094, layers.EthernetTypeDot1Q), tag(1, layers.EthernetTypeIPv4)},
			has:  flow.HasVLAN | flow.HasInnerVLAN, id: 4094, in: 1,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			p := load(t, defaults())
			l.attach(t, p)
			frame := packets.Build(t, append(append([]packets.Layer{packets.Ethernet(tt.outer)}, tt.tags...), ip...)...)
			for _, direction := range []flow.Direction{flow.Ingress, flow.Egress} {
				if direction == flow.Ingress {
					l.sendAsIngress(t, p, frame)
				} else {
					l.sendAsEgress(t, frame)
				}
				want := l.key4(flow.UDP, direction)
				want.Has |= tt.has
				want.VLAN, want.InnerVLAN = tt.id, tt.in
				require.Equal(t, map[flow.Key]flow.Volume{want: volumeOf(frame)}, volumes(t, drain(t, p)))
			}
			got, err := p.InterfaceCounters(l.index())
			require.NoError(t, err)
			require.Equal(t, flow.InterfaceCounters{Rx: volumeOf(frame), Tx: volumeOf(frame)}, got)
		})
	}
}

// A packet on an interface that is being let go of is in no interface counter,
// which is said; its flow has it, so that it is not lost.
func TestPacketsOfUnknownInterface(t *testing.T) {
	l := newLab(t)
	p := load(t, defaults())
	l.attach(t, p)
	require.NoError(t, p.removeCounters(uint32(l.index())))
	frame := udp4(t, packets.SourcePort, 10)
	l.sendAsEgress(t, frame)
	h, err := p.Health()
	require.NoError(t, err)
	require.Equal(t, volumeOf(frame), h.Hooks[HookTCEgress].InterfaceUnknown)
	require.Equal(t, flow.Volume{}, h.Hooks[HookTCIngress].InterfaceUnknown)
	require.Equal(t, [Losses]flow.Volume{}, h.Hooks[HookTCEgress].Lost)
	require.Equal(t, map[flow.Key]flow.Volume{l.key4(flow.UDP, flow.Egress): volumeOf(frame)}, volumes(t, drain(t, p)))
}

func TestCountersOfUnknownInterface(t *testing.T) {
	l := newLab(t)
	opts := defaults()
	opts.XDP = XDPGeneric
	p := load(t, opts)
	_, err := p.InterfaceCounters(l.index())
	require.ErrorContains(t, err, "read counters of interface")
	require.NoError(t, p.Remove(l.index()), "forgetting what is not known is nothing")
}

// What is not drained waits; a drain of nothing gives nothing.
func TestDrainInIntervals(t *testing.T) {
	l := newLab(t)
	p := load(t, defaults())
	l.attach(t, p)
	require.Empty(t, drain(t, p))
	frame := udp4(t, packets.SourcePort, 10)
	for _, n := range []int{1, 2, 3, 0, 4} {
		frames := make([][]byte, n)
		for i := range frames {
			frames[i] = frame
		}
		l.sendAsEgress(t, frames...)
		want := map[flow.Key]flow.Volume{}
		if n > 0 {
			want[l.key4(flow.UDP, flow.Egress)] = volumeOf(frames...)
		}
		require.Equal(t, want, volumes(t, drain(t, p)))
	}
}
