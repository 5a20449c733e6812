// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
	"github.com/netprobe-otel/netprobe/internal/flow"
)

func tunnelDefaults() Options {
	opts := defaults()
	opts.Tunnels = TunnelOptions{VXLANPorts: []uint16{4789}, GRE: true, IPIP: true, MaxEntries: 16}
	return opts
}

var (
	vtepHere  = netip.MustParseAddr("203.0.113.1")
	vtepThere = netip.MustParseAddr("203.0.113.2")
)

// vxlan is the tunnel of vxlanFrame.
func vxlan(vni uint32) *flow.Tunnel {
	return &flow.Tunnel{Type: flow.VXLAN, Source: vtepHere, Destination: vtepThere, ID: vni, HasID: true}
}

// vxlanFrame is a frame in a tunnel.
func vxlanFrame(tb testing.TB, vni uint32, inner []byte) []byte {
	tb.Helper()
	ip := packets.IPv4(layers.IPProtocolUDP)
	ip.SrcIP, ip.DstIP = net.IP(vtepHere.AsSlice()), net.IP(vtepThere.AsSlice())
	return eth4(tb, ip, &layers.UDP{SrcPort: 50000, DstPort: 4789},
		&layers.VXLAN{ValidIDFlag: true, VNI: vni}, gopacket.Payload(inner))
}

// tunnelled is what is in records of the flow in tunnels.
type tunnelled struct {
	tunnel      flow.Tunnel // zero for none
	inner, wire flow.Volume
}

func tunnelledOf(records []flow.Record) []tunnelled {
	var all []tunnelled
	for i := range records {
		one := tunnelled{inner: records[i].Volume(), wire: records[i].WireVolume()}
		if records[i].Tunnel != nil {
			one.tunnel = *records[i].Tunnel
		}
		all = append(all, one)
	}
	return all
}

// A flow is told by the tunnel that it was in, and has the frames inside and out.
func TestTunnels(t *testing.T) {
	for _, flowMap := range []FlowMap{FlowMapShared, FlowMapPerCPU} {
		t.Run(string(flowMap), func(t *testing.T) {
			l := newLab(t)
			opts := tunnelDefaults()
			opts.FlowMap = flowMap
			p := load(t, opts)
			l.attach(t, p)
			inner := udp4(t, packets.SourcePort, 100)
			one, other := vxlanFrame(t, 1, inner), vxlanFrame(t, 1<<24-1, inner)
			l.sendAsEgress(t, inner, one, one, other)
			records, key := drain(t, p), l.key4(flow.UDP, flow.Egress)
			require.ElementsMatch(t, []tunnelled{
				{inner: volumeOf(inner), wire: volumeOf(inner)},
				{tunnel: *vxlan(1), inner: volumeOf(inner, inner), wire: volumeOf(one, one)},
				{tunnel: *vxlan(1<<24 - 1), inner: volumeOf(inner), wire: volumeOf(other)},
			}, tunnelledOf(records))
			for i := range records {
				rec := &records[i]
				require.Equal(t, key.Tuple(), rec.Tuple())
				require.Equal(t, rec.Tunnel != nil, rec.Has&flow.InTunnel != 0)
			}
		})
	}
}

// Tunnels that are not asked for are flows of their own packets.
func TestTunnelsThatAreNotOpened(t *testing.T) {
	l := newLab(t)
	p := load(t, defaults())
	l.attach(t, p)
	frame := vxlanFrame(t, 1, udp4(t, packets.SourcePort, 100))
	l.sendAsEgress(t, frame)
	require.Equal(t, map[flow.Key]flow.Volume{{
		Source: vtepHere, Destination: vtepThere, SourcePort: 50000, DestinationPort: 4789, Protocol: flow.UDP,
		Has: flow.HasPorts, Direction: flow.Egress, InterfaceIndex: uint32(l.index()),
	}: volumeOf(frame)}, volumes(t, drain(t, p)))
}

// The filter looks at what is in the tunnel.
func TestFilterLooksIntoTunnels(t *testing.T) {
	l := newLab(t)
	opts := tunnelDefaults()
	opts.Filter = []FilterRule{{PortMin: 7, PortMax: 7}, {Network: netip.PrefixFrom(vtepHere, 32), Exclude: true}}
	p := load(t, opts)
	l.attach(t, p)
	wanted, not := vxlanFrame(t, 1, udp4(t, 7, 100)), vxlanFrame(t, 1, udp4(t, 8, 100))
	l.sendAsEgress(t, wanted, not)
	require.Equal(t, []tunnelled{{
		tunnel: *vxlan(1), inner: volumeOf(udp4(t, 7, 100)), wire: volumeOf(wanted),
	}}, tunnelledOf(drain(t, p)))
	h, err := p.Health()
	require.NoError(t, err)
	require.Equal(t, volumeOf(not), h.Hooks[HookTCEgress].Filtered)
}

// What the table of tunnels has no room for goes through the ring buffer with its
// tunnel, each tunnel's flow on its own.
func TestTunnelTableFull(t *testing.T) {
	l := newLab(t)
	opts := tunnelDefaults()
	opts.Tunnels.MaxEntries = 1
	p := load(t, opts)
	l.attach(t, p)
	inner := udp4(t, packets.SourcePort, 100)
	first, second, third := vxlanFrame(t, 1, inner), vxlanFrame(t, 2, inner), vxlanFrame(t, 3, inner)
	for range 2 { // the same in each interval
		l.sendAsEgress(t, first, second, third, second, inner)
		require.ElementsMatch(t, []tunnelled{
			{inner: volumeOf(inner), wire: volumeOf(inner)},
			{tunnel: *vxlan(1), inner: volumeOf(inner), wire: volumeOf(first)},
			{tunnel: *vxlan(2), inner: volumeOf(inner, inner), wire: volumeOf(second, second)},
			{tunnel: *vxlan(3), inner: volumeOf(inner), wire: volumeOf(third)},
		}, tunnelledOf(drain(t, p)))
	}
	h, err := p.Health()
	require.NoError(t, err)
	require.Equal(t, volumeOf(second, third, second, second, third, second), h.Overflowed)
	require.Equal(t, [Losses]flow.Volume{}, h.Hooks[HookTCEgress].Lost)
}

// A flow in a tunnel that overflows because the flow map is full is the same
// flow as its entry, and has the tunnel that its handle stands for.
func TestOverflowInATunnel(t *testing.T) {
	l := newLab(t)
	opts := tunnelDefaults()
	opts.FlowEntries = 1
	p := load(t, opts)
	l.attach(t, p)
	inner, other := udp4(t, 1, 100), udp4(t, 2, 100)
	frame, otherFrame := vxlanFrame(t, 1, inner), vxlanFrame(t, 1, other)
	l.sendAsEgress(t, frame, otherFrame, frame, otherFrame)
	require.ElementsMatch(t, []tunnelled{
		{tunnel: *vxlan(1), inner: volumeOf(inner, inner), wire: volumeOf(frame, frame)},
		{tunnel: *vxlan(1), inner: volumeOf(other, other), wire: volumeOf(otherFrame, otherFrame)},
	}, tunnelledOf(drain(t, p)))
}

// entries gives how many tunnels the kernel's table has.
func entries(t *testing.T, p *Probe) int {
	t.Helper()
	var key bpf.TCTunnelKey
	var value bpf.TCTunnelValue
	n := 0
	it := p.tc.Tunnels.Iterate()
	for it.Next(&key, &value) {
		n++
	}
	require.NoError(t, it.Err())
	return n
}

// A tunnel without packets gives its place to others, and is known for as long
// as a program may still name it. One with packets stays.
func TestTunnelsAge(t *testing.T) {
	l := newLab(t)
	opts := tunnelDefaults()
	opts.Tunnels.MaxEntries = 2
	p := load(t, opts)
	l.attach(t, p)
	table := p.flows.tunnels
	now := time.Now()
	table.now = func() time.Time { return now }
	inner := udp4(t, packets.SourcePort, 10)
	idle, used, late := vxlanFrame(t, 1, inner), vxlanFrame(t, 2, inner), vxlanFrame(t, 3, inner)
	seen := func(frames ...[]byte) map[uint32]*flow.Tunnel {
		t.Helper()
		l.sendAsEgress(t, frames...)
		got := map[uint32]*flow.Tunnel{}
		for _, rec := range drain(t, p) {
			got[rec.Tunnel.ID] = rec.Tunnel
		}
		return got
	}
	first := seen(idle, used)
	require.Len(t, first, 2)
	require.Equal(t, 2, entries(t, p))

	now = now.Add(keepTunnel)
	require.Same(t, first[2], seen(used)[2], "a tunnel keeps its place")
	require.Equal(t, 2, entries(t, p))
	now = now.Add(time.Second)
	seen(used)
	require.Equal(t, 1, entries(t, p), "that of the idle one is free")
	require.Len(t, table.known, 2, "a program may have looked it up before")

	before, err := p.Health()
	require.NoError(t, err)
	require.Equal(t, vxlan(3), seen(late)[3])
	require.Equal(t, 2, entries(t, p))
	after, err := p.Health()
	require.NoError(t, err)
	require.Equal(t, before.Overflowed, after.Overflowed, "there was room")

	now = now.Add(keepTunnel)
	seen(used, late)
	require.Len(t, table.known, 2, "the idle one is forgotten")

	// It comes again, under another handle.
	require.Equal(t, vxlan(1), seen(idle)[1])
}

// Handles stand for nothing else ever, so that one that is not known is none.
func TestTunnelOfNoHandle(t *testing.T) {
	bpftest.RequireBPF(t)
	p := load(t, tunnelDefaults())
	require.Nil(t, p.flows.tunnels.find(0))
	require.Nil(t, p.flows.tunnels.find(12345))
}

// Packets that only look like a tunnel's are counted as refused, once, whatever
// the direction.
func TestRefusedTunnels(t *testing.T) {
	l := newLab(t)
	p := load(t, tunnelDefaults())
	l.attach(t, p)
	frame := vxlanFrame(t, 1, udp4(t, packets.SourcePort, 10))
	noVNI := packets.Patch(frame, packets.EthernetLen+packets.IPv4Len+packets.UDPLen, 0)
	l.sendAsEgress(t, frame, noVNI)
	l.sendAsIngress(t, p, noVNI)
	h, err := p.Health()
	require.NoError(t, err)
	want := [flow.Refusals]flow.Volume{}
	want[flow.RefusedVXLANNoVNI] = volumeOf(noVNI, noVNI)
	require.Equal(t, want, h.Refused)
	require.Equal(t, volumeOf(frame, noVNI), h.Hooks[HookTCEgress].Seen())
	require.Len(t, drain(t, p), 3, "they are flows of their own packets all the same")
}
