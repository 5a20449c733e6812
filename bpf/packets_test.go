// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
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

// classifier is a TC program.
type classifier struct {
	name   string
	prog   *ebpf.Program
	egress bool
	// link is the length of the header before the network header, 0 for devices
	// that have none.
	link int
}

// unseen is how many missing bytes at the end of a packet the program cannot
// notice: a test run gives a packet without link header 14 bytes too many.
func (c *classifier) unseen() int { return packets.EthernetLen - c.link }

// key is what the program makes of a key at ingress.
func (c *classifier) key(k *bpf.TCFlowKey) *bpf.TCFlowKey {
	if k == nil || !c.egress {
		return k
	}
	egress := *k
	egress.Direction = uint8(bpf.TCDirectionDIRECTION_EGRESS)
	return &egress
}

// classifiers are the TC programs of a Runner.
func classifiers(r *bpftest.Runner) []classifier {
	return []classifier{
		{"tc_ingress", r.TC.TcIngress, false, packets.EthernetLen},
		{"tc_egress", r.TC.TcEgress, true, packets.EthernetLen},
		{"tc_ingress_l3", r.TC.TcIngressL3, false, 0},
		{"tc_egress_l3", r.TC.TcEgressL3, true, 0},
	}
}

// forEachClassifier runs a subtest with each TC program and each kind of flow map.
func forEachClassifier(t *testing.T, test func(*testing.T, *bpftest.Runner, classifier)) {
	forBothMaps(t, bpftest.Options{}, func(t *testing.T, r *bpftest.Runner) {
		for _, prog := range classifiers(r) {
			t.Run(prog.name, func(t *testing.T) { test(t, r, prog) })
		}
		requireNoLoss(t, r)
	})
}

// wantFlows is the flow table after one packet.
func wantFlows(k *bpf.TCFlowKey, v bpf.TCVolume, flags uint8) []bpftest.Flow {
	if k == nil {
		return nil
	}
	stats := bpf.TCFlowStats{Packets: v.Packets, Bytes: v.Bytes, TcpFlagsHint: flags}
	for i := range stats.TcpFlagSeen {
		stats.TcpFlagSeen[i] = flags >> i & 1
	}
	switch flags & (tcpSYN | tcpACK) {
	case tcpSYN:
		stats.SynSeen = 1
	case tcpSYN | tcpACK:
		stats.SynAckSeen = 1
	}
	return []bpftest.Flow{{Key: *k, Stats: stats}}
}

// withoutTimes are the flows for comparison with wantFlows.
func withoutTimes(flows []bpftest.Flow) []bpftest.Flow {
	for i := range flows {
		flows[i].Stats.FirstMonoNs, flows[i].Stats.LastMonoNs = 0, 0
	}
	return flows
}

func TestPacketsAtTC(t *testing.T) {
	cases := allCases(t)
	forEachClassifier(t, func(t *testing.T, r *bpftest.Runner, prog classifier) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				volume := c.volume(uint64(prog.link))
				res := r.RunTC(t, prog.prog, c.frame, c.skb)

				assert.Equal(t, tcUnspec, res.Return)
				assert.Equal(t, c.outcome, res.Outcome)
				assert.Equal(t, volume, res.Volume, "counted under the outcome")
				assert.Equal(t, volume, res.Interface, "counted for the interface")
				assert.Equal(t, c.refused(), res.Refused)
				assert.Equal(t, c.wantFlows(prog), withoutTimes(res.Flows))
			})
		}
	})
}

func TestPacketsAtXDP(t *testing.T) {
	r := bpftest.New(t, bpftest.Options{})
	for _, c := range allCases(t) {
		t.Run(c.name, func(t *testing.T) {
			c := c.outside()
			volume := bpf.TCVolume{Packets: 1, Bytes: uint64(len(c.frame))}
			want := xdpInterface(t, r)
			want[c.outcome].Packets += volume.Packets
			want[c.outcome].Bytes += volume.Bytes
			res := r.RunXDP(t, c.frame)

			assert.Equal(t, xdpPass, res.Return)
			assert.Equal(t, c.outcome, res.Outcome)
			assert.Equal(t, volume, res.Volume, "counted under the outcome")
			assert.Equal(t, want, xdpInterface(t, r), "counted for the interface")
		})
	}
}

// xdpInterface is what XDP counted at the loopback, by outcome, over all CPUs.
func xdpInterface(tb testing.TB, r *bpftest.Runner) [bpf.TCParseOutcomePARSE_OUTCOMES]bpf.XDPVolume {
	tb.Helper()
	var values []bpf.XDPXdpCounters
	require.NoError(tb, r.XDP.XdpInterfaces.Lookup(bpftest.Loopback, &values))
	var sum [bpf.TCParseOutcomePARSE_OUTCOMES]bpf.XDPVolume
	for _, v := range values {
		for i := range v.Outcome {
			sum[i].Packets += v.Outcome[i].Packets
			sum[i].Bytes += v.Outcome[i].Bytes
		}
	}
	return sum
}

// requireNoLoss checks that every packet so far is in the flow table and the counters.
func requireNoLoss(tb testing.TB, r *bpftest.Runner) {
	tb.Helper()
	for loss := range bpf.TCLossLOSSES {
		require.Equal(tb, bpf.TCVolume{}, r.Loss(tb, loss), "loss %d", loss)
	}
}

// Every value of the flags byte comes out as it went in.
func TestTCPFlags(t *testing.T) {
	forEachClassifier(t, func(t *testing.T, r *bpftest.Runner, prog classifier) {
		for flags := range 256 {
			frame := eth4(t, packets.IPv4(layers.IPProtocolTCP), packets.TCP(byte(flags)))
			require.Equal(t, byte(flags), frame[transport4+13])

			res := r.RunTC(t, prog.prog, frame, nil)

			require.Equal(t, tcUnspec, res.Return)
			require.Equal(t, ok, res.Outcome)
			require.Equal(t, wantFlows(prog.key(v4(layers.IPProtocolTCP, ports)), res.Volume, byte(flags)),
				withoutTimes(res.Flows), "flags %#02x", flags)
		}
	})
}

// A packet of which the end is missing is never said to be whole, and never
// counted for another flow than its own. The kind of flow map has no part in this.
func TestCutPacketsAtTC(t *testing.T) {
	cases := allCases(t)
	r := bpftest.New(t, bpftest.Options{})
	meter := bpftest.NewMeter(t, r)
	for _, prog := range classifiers(r) {
		t.Run(prog.name, func(t *testing.T) {
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					for size := shortest(t, ebpf.SchedCLS, c.frame); size < len(c.frame); size++ {
						res := meter.RunTC(t, prog.prog, c.frame[:size], nil)

						require.Equal(t, tcUnspec, res.Return, "cut to %d", size)
						volume := bpf.TCVolume{Packets: 1, Bytes: uint64(size)}
						require.Equal(t, volume, res.Volume, "cut to %d", size)
						require.Equal(t, volume, res.Interface, "cut to %d", size)
						requireCutOutcome(t, &c, size, prog.unseen(), res.Outcome)
						requireCutRefusal(t, &c, size, res.Refused)
						requireCutFlows(t, &c, size, prog, res)
					}
				})
			}
		})
	}
	requireNoLoss(t, r)
}

func TestCutPacketsAtXDP(t *testing.T) {
	meter := bpftest.NewMeter(t, bpftest.New(t, bpftest.Options{}))
	for _, c := range allCases(t) {
		t.Run(c.name, func(t *testing.T) {
			c := c.outside()
			for size := shortest(t, ebpf.XDP, c.frame); size < len(c.frame); size++ {
				res := meter.RunXDP(t, c.frame[:size])

				require.Equal(t, xdpPass, res.Return, "cut to %d", size)
				require.Equal(t, bpf.TCVolume{Packets: 1, Bytes: uint64(size)}, res.Volume, "cut to %d", size)
				requireCutOutcome(t, &c, size, 0, res.Outcome)
			}
		})
	}
}

// requireCutOutcome checks what became of the first size bytes of a packet.
func requireCutOutcome(tb testing.TB, c *packetCase, size, unseen int, got bpf.TCParseOutcome) {
	tb.Helper()
	switch {
	case c.outcome != ok:
		require.NotEqual(tb, ok, got, "cut to %d", size)
	case size >= c.whole():
		require.Equal(tb, ok, got, "cut to %d, behind all that belongs to the packet", size)
	case size < c.whole()-unseen:
		require.NotEqual(tb, ok, got, "cut to %d", size)
	}
}

// requireCutRefusal checks that a tunnel is refused for what its header says
// from the length on with which all of that header is there.
func requireCutRefusal(tb testing.TB, c *packetCase, size int, got bpf.TCTunnelRefusal) {
	tb.Helper()
	want := bpf.TCTunnelRefusalTUNNEL_NOT_REFUSED
	if c.tunnel != nil && size >= c.tunnel.off {
		want = c.tunnel.refused
	}
	require.Equal(tb, want, got, "cut to %d", size)
}

// cut is the packet of which only the first size bytes are there: in the flow of
// the tunnel's own packets until the addresses of the packet inside are there.
// Of what is not read it is known by the packet's length alone that it is there,
// which may be unseen bytes too many.
func (c packetCase) cut(size, unseen int) packetCase {
	t := c.tunnel
	if t == nil || t.tunnel == (bpf.TCTunnelKey{}) || (t.addresses != 0 && size >= t.addresses) {
		return c
	}
	tunnel := *t
	tunnel.len = 0
	c.flow, c.chain, c.flags, c.tunnel = t.outer, t.chain, 0, &tunnel
	if size < t.off-min(t.unread, unseen) {
		tunnel.tunnel = bpf.TCTunnelKey{}
	} else {
		flow := *t.outer
		flow.Has |= uint8(bpf.TCFlowHasFLOW_IS_TUNNEL)
		c.flow = &flow
	}
	return c
}

// requireCutFlows checks that the first size bytes of a packet made no other
// flow than the packet did, or its tunnel's would have.
func requireCutFlows(tb testing.TB, c *packetCase, size int, prog classifier, res bpftest.Result) {
	tb.Helper()
	want := wantCutFlows(tb, c, size, prog, res)
	require.Equal(tb, want, withoutTimes(res.Flows), "cut to %d", size)
}

func wantCutFlows(tb testing.TB, c *packetCase, size int, prog classifier, res bpftest.Result) []bpftest.Flow {
	tb.Helper()
	cut := c.cut(size, prog.unseen())
	whole := prog.key(cut.flow)
	inTunnel := func(flows []bpftest.Flow) []bpftest.Flow {
		if cut.tunnel != nil && len(flows) > 0 {
			cut.segments = 1
			flows[0].Tunnel = cut.tunnel.tunnel
			flows[0].Stats.TunnelBytes = cut.tunnelBytes(size, uint64(prog.link))
		}
		return flows
	}
	if size >= c.whole() {
		return inTunnel(wantFlows(whole, res.Volume, cut.flags))
	}
	if len(res.Flows) == 0 {
		if cut.tunnel != nil {
			require.Zero(tb, cut.tunnel.tunnel, "cut to %d, a tunnel that was opened is in no flow", size)
		}
		return nil
	}
	require.Len(tb, res.Flows, 1, "cut to %d", size)
	require.NotNil(tb, whole, "cut to %d, a packet without a flow has one: %v", size, res.Flows[0].Key)
	got := res.Flows[0].Key

	want := *whole
	if got.Has&uint8(bpf.TCFlowHasFLOW_HAS_PORTS) == 0 {
		want.SourcePort, want.DestinationPort = 0, 0
		want.Has &^= uint8(bpf.TCFlowHasFLOW_HAS_PORTS)
		// neither its ports nor what it is for are known
		want.Has &^= uint8(bpf.TCFlowHasFLOW_IS_NESTED) &^ got.Has
	}
	if slices.Contains(cut.chain, layers.IPProtocol(got.Protocol)) {
		// it ends before the header that says what comes next, or in it
		require.Zero(tb, got.Has&uint8(bpf.TCFlowHasFLOW_HAS_PORTS), "cut to %d", size)
		want.Protocol = got.Protocol
		want.Has = want.Has&^uint8(bpf.TCFlowHasFLOW_IS_FRAGMENT) | got.Has&uint8(bpf.TCFlowHasFLOW_IS_FRAGMENT)
	}
	flags := cut.flags & res.Flows[0].Stats.TcpFlagsHint
	require.Contains(tb, []uint8{0, cut.flags}, flags, "cut to %d", size)
	return inTunnel(wantFlows(&want, res.Volume, flags))
}

// shortest is the least number of a packet's bytes with which the kernel makes a
// test run. At TC it wants more than a link header, and newer kernels want the
// whole IP header that the link header promises; of the cases with a tag they
// take every length.
func shortest(tb testing.TB, kind ebpf.ProgramType, frame []byte) int {
	tb.Helper()
	prog := emptyProgram(tb, kind)
	size := packets.EthernetLen
	for ; size < len(frame); size++ {
		_, err := prog.Run(&ebpf.RunOptions{Data: frame[:size]})
		if err == nil {
			break
		}
		require.ErrorIs(tb, err, syscall.EINVAL)
	}
	require.LessOrEqual(tb, size, packets.EthernetLen+packets.IPv6Len)
	return size
}

// The packets leave the programs as they came.
func TestPacketsAreNotChanged(t *testing.T) {
	r := bpftest.New(t, bpftest.Options{})
	cases := allCases(t)
	for _, prog := range []*ebpf.Program{
		r.TC.TcIngress, r.TC.TcEgress, r.TC.TcIngressL3, r.TC.TcEgressL3, r.XDP.XdpCount,
	} {
		t.Run(prog.String(), func(t *testing.T) {
			for _, c := range cases {
				_, out, err := prog.Test(c.frame)
				require.NoError(t, err, c.name)
				require.Equal(t, c.frame, out, c.name)
			}
		})
	}
}
