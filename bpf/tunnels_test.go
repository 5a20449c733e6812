// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"math"
	"slices"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
)

// tunnelCases are the packets of the table that have to do with tunnels.
func tunnelCases(tb testing.TB) []packetCase {
	tb.Helper()
	return slices.DeleteFunc(allCases(tb), func(c packetCase) bool { return c.tunnel == nil })
}

// vxlanOf is a packet in the tunnel with that identifier.
func vxlanOf(tb testing.TB, vni uint32) packetCase {
	tb.Helper()
	return frame4().in(tb, inUDP4("vxlan", packets.VXLANPort, over4(kindVXLAN, vni), 8, packets.VXLAN(vni)))
}

// What is opened is a matter of configuration.
func TestWhichTunnelsAreOpened(t *testing.T) {
	bpftest.RequireBPF(t)
	at := func(port uint16) packetCase {
		return frame4().in(t, inUDP4("vxlan", port, over4(kindVXLAN, packets.VNI), 8, packets.VXLAN(packets.VNI)))
	}
	geneveAt := func(port uint16) packetCase {
		return frame6().in(t, inUDP6("geneve", port, over6(kindGeneve, packets.VNI), 8, packets.Geneve(packets.VNI, typeTEB)))
	}
	gre := packet4().in(t, inIP4("gre", protoGRE, over4(kindGRE), 4, packets.GRE(typeIPv4)))
	pptp := refusedCase(t, inIP4("pptp", protoGRE, bpf.TCTunnelKey{}, 0, raw(0, 1, 8, 0)),
		bpf.TCTunnelRefusalREFUSED_GRE_VERSION, transport4+4, packets.Payload(9))
	ipip4 := packet4().in(t, inIP4("ip in ip", protoIPv4, over4(kindIPIP), 0))
	ipip6 := packet6().in(t, inIP6("ip in ip", protoIPv6, over6(kindIPIP), 0))
	nested := content{
		name: "ip in ip", layers: append([]packets.Layer{packets.InnerEthernet(typeIPv4), packets.InnerIPv4(protoIPv4)}, packet4().layers...),
		len: 14 + 20 + 44, addresses: 34, flow: in4(protoIPv4),
	}.in(t, vxlan4())
	flagged := nested
	flagged.flow = with(nested.flow, isNested)

	for _, tc := range []struct {
		name         string
		opts         bpftest.Options
		open, closed []packetCase
	}{
		{
			"by default", bpftest.Options{},
			[]packetCase{at(4789), at(8472), geneveAt(6081), gre, pptp, ipip4, ipip6, flagged},
			[]packetCase{at(4790), geneveAt(6082)},
		},
		{
			"vxlan at other ports", bpftest.Options{VXLANPorts: []uint16{4790, 1, 65535}},
			[]packetCase{at(4790), at(1), at(65535), geneveAt(6081)},
			[]packetCase{at(4789), at(8472), at(2)},
		},
		{
			"eight ports each", bpftest.Options{
				VXLANPorts:  []uint16{11, 12, 13, 14, 15, 16, 17, 18},
				GenevePorts: []uint16{21, 22, 23, 24, 25, 26, 27, 28},
			},
			[]packetCase{at(11), at(15), at(18), geneveAt(21), geneveAt(25), geneveAt(28)},
			[]packetCase{at(19), at(4789), geneveAt(29), geneveAt(6081)},
		},
		{
			"no ports", bpftest.Options{VXLANPorts: []uint16{}, GenevePorts: []uint16{}},
			[]packetCase{gre, ipip4},
			[]packetCase{at(4789), at(8472), at(0), geneveAt(6081), geneveAt(0)},
		},
		{
			"no gre", bpftest.Options{NoGRE: true},
			[]packetCase{at(4789), ipip4, ipip6}, []packetCase{gre, pptp},
		},
		{
			"no ip in ip", bpftest.Options{NoIPIP: true},
			[]packetCase{at(4789), gre, pptp, nested}, []packetCase{ipip4, ipip6},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := bpftest.New(t, tc.opts)
			for i := range tc.closed {
				tc.closed[i] = closed(tc.closed[i])
			}
			for _, prog := range classifiers(r) {
				for _, c := range append(slices.Clone(tc.open), tc.closed...) {
					res := r.RunTC(t, prog.prog, c.frame, nil)
					assert.Equal(t, c.wantFlows(prog), withoutTimes(res.Flows), "%s at %s", c.name, prog.name)
					assert.Equal(t, c.refused(), res.Refused, "%s at %s", c.name, prog.name)
				}
			}
		})
	}
}

// Each reason counts what was refused for it, with all of its bytes.
func TestRefusalsAreCounted(t *testing.T) {
	r := bpftest.New(t, bpftest.Options{})
	var want [bpf.TCTunnelRefusalTUNNEL_REFUSALS]bpf.TCVolume
	for _, c := range tunnelCases(t) {
		for _, prog := range classifiers(r) {
			send(t, prog.prog, c.frame)
			if why := c.refused(); why != bpf.TCTunnelRefusalTUNNEL_NOT_REFUSED {
				want[why].Packets++
				want[why].Bytes += uint64(len(c.frame))
			}
		}
	}
	for why, volume := range want {
		assert.Equal(t, volume, r.Refused(t, bpf.TCTunnelRefusal(why)), "refusal %d", why)
		if why > 0 {
			assert.NotZero(t, volume, "no packet in the table is refused for reason %d", why)
		}
	}
}

// A packet that goes out is in a flow by the interface that it came in on, too.
func TestFromWhichInterface(t *testing.T) {
	bpftest.RequireBPF(t)
	const from = 7
	_, err := emptyProgram(t, ebpf.SchedCLS).Run(&ebpf.RunOptions{
		Data: eth4(t, tcp4(0)...), Context: &bpftest.SKB{IngressIfindex: from},
	})
	if errors.Is(err, syscall.EINVAL) {
		t.Skip("the kernel's test runs take no interface that a packet came in on (before Linux 5.14)")
	}
	require.NoError(t, err)

	forEachClassifier(t, func(t *testing.T, r *bpftest.Runner, prog classifier) {
		for _, c := range []packetCase{
			{name: "no tunnel", frame: eth4(t, tcp4(5)...), flow: v4(protoTCP, ports), flags: tcpACK},
			frame4().in(t, vxlan4()),
			packet6().in(t, inIP4("ip in ip", protoIPv6, over4(kindIPIP), 0)),
		} {
			if prog.egress {
				c.flow = with(c.flow, func(k *bpf.TCFlowKey) { k.From = from })
			}
			res := r.RunTC(t, prog.prog, c.frame, &bpftest.SKB{IngressIfindex: from})
			assert.Equal(t, c.wantFlows(prog), withoutTimes(res.Flows), c.name)
		}
	})
}

// tunnelHandles are the entries of the table of tunnels.
func tunnelHandles(tb testing.TB, r *bpftest.Runner) map[bpf.TCTunnelKey]uint32 {
	tb.Helper()
	handles := map[bpf.TCTunnelKey]uint32{}
	var key bpf.TCTunnelKey
	var value bpf.TCTunnelValue
	it := r.TC.Tunnels.Iterate()
	for it.Next(&key, &value) {
		handles[key] = value.Handle
	}
	require.NoError(tb, it.Err())
	return handles
}

// Two CPUs meet the same new tunnel at once: it gets one handle, so the flow in
// it is one.
func TestNewTunnelsFromTwoCPUs(t *testing.T) {
	const senders, tunnels = 2, 2000
	r := bpftest.New(t, bpftest.Options{FlowEntries: tunnels})
	frames := make([][]byte, tunnels)
	for i := range frames {
		frames[i] = vxlanOf(t, uint32(i)).frame
	}
	inStep(senders, tunnels, func(step int) {
		ret, err := r.TC.TcIngress.Run(&ebpf.RunOptions{Data: frames[step]})
		assert.NoError(t, err)
		assert.Equal(t, tcUnspec, ret)
	})

	seen := map[uint32]bool{}
	for _, handle := range tunnelHandles(t, r) {
		assert.NotZero(t, handle)
		assert.False(t, seen[handle], "two tunnels have the handle %d", handle)
		seen[handle] = true
	}
	require.Len(t, seen, tunnels)
	flows := r.Flows(t)
	require.Len(t, flows, tunnels)
	found := map[uint32]bool{}
	for _, flow := range flows {
		require.Equal(t, over4(kindVXLAN, flow.Tunnel.Id), flow.Tunnel)
		require.Equal(t, uint64(senders), flow.Stats.Packets)
		require.Equal(t, uint64(senders*50), flow.Stats.TunnelBytes)
		found[flow.Tunnel.Id] = true
	}
	require.Len(t, found, tunnels)
	requireNoLoss(t, r)
}

// A tunnel that comes again after it was deleted is another one: records that
// have the old handle are never taken for the new one's.
func TestHandlesAreNotUsedAgain(t *testing.T) {
	r := bpftest.New(t, bpftest.Options{})
	last := uint32(0)
	for range 3 {
		for vni := range uint32(5) {
			c := vxlanOf(t, vni)
			send(t, r.TC.TcIngress, c.frame)
			send(t, r.TC.TcEgress, c.frame)
			handle := tunnelHandles(t, r)[c.tunnel.tunnel]
			require.Equal(t, last+1, handle)
			last = handle
		}
		r.Clear(t)
	}
}

// Programs give no handle twice even where there are none left: those tunnels
// go through the ring buffer, as where the table is full.
func TestLastHandle(t *testing.T) {
	r := bpftest.New(t, bpftest.Options{})
	rd := newEventReader(t, r)
	require.NoError(t, r.TC.TunnelHandles.Update(uint32(0), bpf.TCTunnelHandles{Last: math.MaxUint32 - 1}, ebpf.UpdateLock))
	last, none := vxlanOf(t, 1), vxlanOf(t, 2)
	for range 2 {
		send(t, r.TC.TcIngress, last.frame)
		send(t, r.TC.TcIngress, none.frame)
	}
	require.Equal(t, map[bpf.TCTunnelKey]uint32{last.tunnel.tunnel: math.MaxUint32}, tunnelHandles(t, r))
	flows := withoutTimes(r.Flows(t))
	require.Len(t, flows, 1)
	require.Equal(t, last.tunnel.tunnel, flows[0].Tunnel)
	require.Equal(t, uint64(2), flows[0].Stats.Packets)
	require.Equal(t, []bpf.TCFlowEvent{none.event(), none.event()}, readEvents(t, rd))
}

// event is what the ring buffer takes of the packet at ingress where the table
// of tunnels or of flows is full.
func (c *packetCase) event() bpf.TCFlowEvent {
	volume := c.volume(packets.EthernetLen)
	event := bpf.TCFlowEvent{Key: *c.flow, TcpFlags: c.flags, Packets: volume.Packets, Bytes: volume.Bytes}
	if c.tunnel != nil {
		event.Tunnel = c.tunnel.tunnel
		event.TunnelBytes = c.tunnelBytes(len(c.frame), packets.EthernetLen)
	}
	return event
}

// A tunnel that finds the table of tunnels full goes through the ring buffer,
// each packet with the tunnel that it is in. It uses up no handles.
func TestFullTunnelTable(t *testing.T) {
	forBothMaps(t, bpftest.Options{TunnelEntries: 1}, func(t *testing.T, r *bpftest.Runner) {
		rd := newEventReader(t, r)
		first := vxlanOf(t, 0xabcdef)
		send(t, r.TC.TcIngress, first.frame)

		var want []bpf.TCFlowEvent
		inMap := 0
		for _, c := range tunnelCases(t) {
			sendSegments(t, r.TC.TcIngress, c.frame, orPlain(c.skb))
			if c.tunnel.tunnel == (bpf.TCTunnelKey{}) {
				inMap++ // it is in no tunnel
				continue
			}
			want = append(want, c.event())
		}
		require.Equal(t, want, readEvents(t, rd))
		require.NotZero(t, inMap)
		sum := uint64(0)
		for _, flow := range r.Flows(t) {
			sum += flow.Stats.Packets
			if flow.Tunnel != (bpf.TCTunnelKey{}) {
				require.Equal(t, first.wantFlows(classifiers(r)[0]), withoutTimes([]bpftest.Flow{flow}))
			}
		}
		require.Equal(t, uint64(inMap+1), sum)
		requireNoLoss(t, r)

		require.Equal(t, map[bpf.TCTunnelKey]uint32{first.tunnel.tunnel: 1}, tunnelHandles(t, r))
		require.NoError(t, r.TC.Tunnels.Delete(first.tunnel.tunnel))
		second := vxlanOf(t, 2)
		send(t, r.TC.TcIngress, second.frame)
		require.Equal(t, map[bpf.TCTunnelKey]uint32{second.tunnel.tunnel: 2}, tunnelHandles(t, r))
	})
}

func orPlain(skb *bpftest.SKB) *bpftest.SKB {
	if skb == nil {
		return &bpftest.SKB{}
	}
	return skb
}

// Where only the flow map is full, the ring buffer has the handle and the tunnel.
func TestFullFlowMapWithTunnels(t *testing.T) {
	forBothMaps(t, bpftest.Options{FlowEntries: 1}, func(t *testing.T, r *bpftest.Runner) {
		rd := newEventReader(t, r)
		send(t, r.TC.TcIngress, conversation{30000}.frame(t, tcpACK, 0))
		var want []bpf.TCFlowEvent
		for _, c := range allCases(t) {
			if c.flow == nil {
				continue
			}
			sendSegments(t, r.TC.TcIngress, c.frame, orPlain(c.skb))
			event := c.event()
			event.Key.Tunnel = tunnelHandles(t, r)[event.Tunnel]
			if event.Tunnel != (bpf.TCTunnelKey{}) {
				require.NotZero(t, event.Key.Tunnel, c.name)
			}
			want = append(want, event)
		}
		require.Equal(t, want, readEvents(t, rd))
		requireNoLoss(t, r)
	})
}

// The two directions of a tunnel, and the same tunnel with another identifier,
// end or kind, are tunnels of their own. The bytes of all of them are those of
// the interface.
func TestTunnelsAreApart(t *testing.T) {
	forBothMaps(t, bpftest.Options{}, func(t *testing.T, r *bpftest.Runner) {
		back := vxlan4()
		ip := packets.IPv4(protoUDP)
		ip.SrcIP, ip.DstIP = ip.DstIP, ip.SrcIP
		back.layers[1] = ip
		back.flow = with(back.flow, func(k *bpf.TCFlowKey) { k.Source, k.Destination = k.Destination, k.Source })
		back.tunnel.Source, back.tunnel.Destination = back.tunnel.Destination, back.tunnel.Source
		otherEnd := vxlan4()
		ip = packets.IPv4(protoUDP)
		ip.DstIP = []byte{198, 51, 100, 8}
		otherEnd.layers[1] = ip
		otherEnd.tunnel.Destination[15] = 8

		var want []bpftest.Flow
		for _, a := range []around{
			vxlan4(), back, otherEnd, vxlan6(), geneve4("geneve", 0, typeTEB),
			inUDP4("vxlan", packets.VXLANPort, over4(kindVXLAN, 0), 8, packets.VXLAN(0)),
			inIP4("gre", protoGRE, over4(kindGRE), 4, packets.GRE(typeTEB)),
			inIP4("gre", protoGRE, over4(kindGRE, 0), 8, packets.GREKey(typeTEB, 0)),
		} {
			c := frame4().in(t, a)
			send(t, r.TC.TcIngress, c.frame)
			want = append(want, c.wantFlows(classifiers(r)[0])...)
		}
		flows := withoutTimes(r.Flows(t))
		require.ElementsMatch(t, want, flows)

		var sum bpf.TCVolume
		for _, flow := range flows {
			require.Equal(t, uint64(58), flow.Stats.Bytes-flow.Stats.TunnelBytes, "bytes of the frame inside")
			sum.Packets += flow.Stats.Packets
			sum.Bytes += flow.Stats.Bytes
		}
		require.Equal(t, r.Interface(t, bpf.TCDirectionDIRECTION_INGRESS), sum)
	})
}

// The bytes of a flow's packets, and those of them that are the tunnel's, add up.
func TestTunnelBytesAccumulate(t *testing.T) {
	forBothMaps(t, bpftest.Options{}, func(t *testing.T, r *bpftest.Runner) {
		plain := frame4().in(t, vxlan4())
		tagged := frame4()
		tagged.layers = append(tagged.layers[:len(tagged.layers)-1:len(tagged.layers)-1], packets.Payload(280))
		tagged.len = 54 + 280
		super := tagged.in(t, vxlan4())
		super.segments, super.headers = 3, 42+8+54
		for range 2 {
			send(t, r.TC.TcIngress, plain.frame)
			sendSegments(t, r.TC.TcIngress, super.frame, &bpftest.SKB{GSOSegs: 3, GSOSize: 100})
		}
		flows := withoutTimes(r.Flows(t))
		require.Len(t, flows, 1)
		stats := flows[0].Stats
		require.Equal(t, uint64(2*(1+3)), stats.Packets)
		require.Equal(t, uint64(2*4*50), stats.TunnelBytes)
		require.Equal(t, uint64(2*(58+3*54+280)), stats.Bytes-stats.TunnelBytes)
		require.Equal(t, uint8(layers.IPProtocolTCP), flows[0].Key.Protocol)
	})
}
