// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
)

// conversation is one of many TCP flows: the same but for its source port.
type conversation struct{ port uint16 }

func (c conversation) key() bpf.TCFlowKey {
	k := *v4(layers.IPProtocolTCP, ports)
	k.SourcePort = c.port
	return k
}

func (c conversation) frame(tb testing.TB, flags byte, payload int) []byte {
	tb.Helper()
	tcp := packets.TCP(flags)
	tcp.SrcPort = layers.TCPPort(c.port)
	return eth4(tb, packets.IPv4(layers.IPProtocolTCP), tcp, packets.Payload(payload))
}

// send runs a frame through a program that has to let it go on.
func send(tb testing.TB, prog *ebpf.Program, frame []byte) {
	tb.Helper()
	sendSegments(tb, prog, frame, &bpftest.SKB{})
}

// sendSegments is send for a super-packet.
func sendSegments(tb testing.TB, prog *ebpf.Program, frame []byte, skb *bpftest.SKB) {
	tb.Helper()
	ret, err := prog.Run(&ebpf.RunOptions{Data: frame, Context: skb})
	require.NoError(tb, err)
	require.Equal(tb, tcUnspec, ret)
}

// forBothMaps runs a subtest with shared and with per-CPU flow maps.
func forBothMaps(t *testing.T, opts bpftest.Options, test func(*testing.T, *bpftest.Runner)) {
	bpftest.RequireBPF(t)
	for _, maps := range flowMaps {
		t.Run(maps.name, func(t *testing.T) {
			opts := opts
			opts.PerCPU = maps.perCPU
			test(t, bpftest.New(t, opts))
		})
	}
}

func TestFlowAccumulates(t *testing.T) {
	forBothMaps(t, bpftest.Options{}, func(t *testing.T, r *bpftest.Runner) {
		c := conversation{50000}
		send(t, r.TC.TcIngress, c.frame(t, tcpSYN, 0))
		send(t, r.TC.TcIngress, c.frame(t, tcpACK, 100))
		send(t, r.TC.TcIngress, c.frame(t, tcpFIN|tcpACK, 7))

		require.Equal(t, []bpftest.Flow{{Key: c.key(), Stats: bpf.TCFlowStats{
			Packets: 3, Bytes: 3*(transport4+packets.TCPLen) + 107,
			TcpFlagSeen: [8]uint8{1, 1, 0, 0, 1}, TcpFlagsHint: tcpFIN | tcpSYN | tcpACK, SynSeen: 1,
		}}}, withoutTimes(r.Flows(t)))
	})
}

// Which of the peers opened a connection is known from the SYN, also where a
// flow has seen both kinds, or the flags one by one before.
func TestFlowHandshake(t *testing.T) {
	forBothMaps(t, bpftest.Options{}, func(t *testing.T, r *bpftest.Runner) {
		for i, tc := range []struct {
			flags       []byte
			syn, synAck uint8
		}{
			{[]byte{tcpSYN}, 1, 0},
			{[]byte{tcpSYN | tcpACK}, 0, 1},
			{[]byte{tcpSYN | tcpECE | tcpCWR, tcpACK}, 1, 0},
			{[]byte{tcpSYN | tcpACK, tcpSYN}, 1, 1},
			{[]byte{tcpSYN, tcpACK, tcpSYN | tcpACK}, 1, 1},
			{[]byte{tcpACK, tcpPSH | tcpACK, tcpFIN | tcpACK}, 0, 0},
		} {
			r.Clear(t)
			c := conversation{uint16(20000 + i)}
			for _, flags := range tc.flags {
				send(t, r.TC.TcIngress, c.frame(t, flags, 0))
			}
			flows := r.Flows(t)
			require.Len(t, flows, 1)
			require.Equal(t, tc.syn, flows[0].Stats.SynSeen, "%#02x", tc.flags)
			require.Equal(t, tc.synAck, flows[0].Stats.SynAckSeen, "%#02x", tc.flags)
		}
	})
}

// Both directions, and every other part of a key, make flows of their own.
func TestFlowsAreApart(t *testing.T) {
	forBothMaps(t, bpftest.Options{}, func(t *testing.T, r *bpftest.Runner) {
		a, b := conversation{50001}, conversation{50002}
		send(t, r.TC.TcIngress, a.frame(t, tcpACK, 1))
		send(t, r.TC.TcEgress, a.frame(t, tcpACK, 2))
		send(t, r.TC.TcIngress, b.frame(t, tcpACK, 3))

		egress := a.key()
		egress.Direction = uint8(bpf.TCDirectionDIRECTION_EGRESS)
		const headers = transport4 + packets.TCPLen
		var want []bpftest.Flow
		for i, k := range []bpf.TCFlowKey{a.key(), egress, b.key()} {
			want = append(want, wantFlows(&k, bpf.TCVolume{Packets: 1, Bytes: uint64(headers + i + 1)}, tcpACK)...)
		}
		assert.ElementsMatch(t, want, withoutTimes(r.Flows(t)))
	})
}

// Programs write the map that the epoch names and leave the other alone.
func TestFlowEpoch(t *testing.T) {
	r := bpftest.New(t, bpftest.Options{})
	old, fresh := conversation{50003}, conversation{50004}
	send(t, r.TC.TcIngress, old.frame(t, tcpACK, 0))
	require.NoError(t, r.TC.FlowEpoch.Set(uint32(1)))
	send(t, r.TC.TcIngress, fresh.frame(t, tcpACK, 0))

	flows := r.Flows(t)
	require.Len(t, flows, 1)
	require.Equal(t, old.key(), flows[0].Key)
	var stats bpf.TCFlowStats
	key := fresh.key()
	require.NoError(t, r.TC.Flows1.Lookup(&key, &stats))
	require.Equal(t, uint64(1), stats.Packets)
	var next bpf.TCFlowKey
	require.ErrorIs(t, r.TC.Flows1.NextKey(&key, &next), ebpf.ErrKeyNotExist)

	require.NoError(t, r.TC.FlowEpoch.Set(uint32(2)))
	send(t, r.TC.TcIngress, old.frame(t, tcpACK, 0))
	flows = r.Flows(t)
	require.Len(t, flows, 1)
	require.Equal(t, uint64(2), flows[0].Stats.Packets)
}

func TestInterfacesWithoutFlows(t *testing.T) {
	r := bpftest.New(t, bpftest.Options{NoFlows: true})
	for _, c := range allCases(t) {
		res := r.RunTC(t, r.TC.TcIngress, c.frame, c.skb)
		volume := c.volume(packets.EthernetLen)
		require.Equal(t, bpftest.Result{
			Return: tcUnspec, Outcome: c.outcome, Volume: volume, Interface: volume, Refused: c.refused(),
		}, res, c.name)
	}
	requireNoLoss(t, r)
}

// An interface that is not in the counters yet: its packets are a loss of the
// counters, not of the flow table.
func TestUnknownInterface(t *testing.T) {
	r := bpftest.New(t, bpftest.Options{})
	require.NoError(t, r.TC.Interfaces.Delete(bpftest.Loopback))
	require.NoError(t, r.XDP.XdpInterfaces.Delete(bpftest.Loopback))
	c := conversation{50005}
	frame := c.frame(t, tcpACK, 30)
	volume := bpf.TCVolume{Packets: 1, Bytes: uint64(len(frame))}

	send(t, r.TC.TcIngress, frame)
	assert.Equal(t, bpf.TCLedger{InterfaceUnknown: volume}, r.Ledger(t, bpf.TCHookHOOK_TC_INGRESS))
	key := c.key()
	assert.Equal(t, wantFlows(&key, volume, tcpACK), withoutTimes(r.Flows(t)))

	res := r.RunXDP(t, frame)
	assert.Equal(t, bpftest.Result{Return: xdpPass, Outcome: ok, Volume: volume}, res)
	var ledgers []bpf.XDPLedger
	require.NoError(t, r.XDP.Ledgers.Lookup(uint32(bpf.TCHookHOOK_XDP), &ledgers))
	var sum bpf.TCVolume
	for _, l := range ledgers {
		sum.Packets += l.InterfaceUnknown.Packets
		sum.Bytes += l.InterfaceUnknown.Bytes
	}
	assert.Equal(t, volume, sum)
}

// inStep calls run from several goroutines that begin every step together.
func inStep(senders, steps int, run func(step int)) {
	var arrived atomic.Int64
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for step := range steps {
				for arrived.Add(1); arrived.Load() < int64(senders*(step+1)); {
					runtime.Gosched()
				}
				run(step)
			}
		})
	}
	all.Wait()
}

// Two CPUs meet the same new flow at once: whichever of them makes the entry,
// the other's packet is in it too.
func TestNewFlowsFromTwoCPUs(t *testing.T) {
	const senders, flows = 2, 4000
	r := bpftest.New(t, bpftest.Options{FlowEntries: flows})
	frames := make([][]byte, flows)
	for i := range frames {
		frames[i] = conversation{uint16(10000 + i)}.frame(t, 1<<(i%8), 0)
	}
	inStep(senders, flows, func(step int) {
		ret, err := r.TC.TcIngress.Run(&ebpf.RunOptions{Data: frames[step]})
		assert.NoError(t, err)
		assert.Equal(t, tcUnspec, ret)
	})

	got := make(map[bpf.TCFlowKey]bpf.TCFlowStats, flows)
	for _, flow := range withoutTimes(r.Flows(t)) {
		got[flow.Key] = flow.Stats
	}
	require.Len(t, got, flows)
	for i, frame := range frames {
		key := conversation{uint16(10000 + i)}.key()
		volume := bpf.TCVolume{Packets: senders, Bytes: senders * uint64(len(frame))}
		want := wantFlows(&key, volume, 1<<(i%8))[0]
		require.Equal(t, want.Stats, got[key], "flow %d", i)
	}
	requireNoLoss(t, r)
}

// Two CPUs add to the same entry. The interface's counters are each CPU's own,
// so they say how many packets there were.
func TestHotFlowFromTwoCPUs(t *testing.T) {
	const senders, steps, packetsAStep = 2, 300, 2000
	forBothMaps(t, bpftest.Options{}, func(t *testing.T, r *bpftest.Runner) {
		c := conversation{50006}
		frame := c.frame(t, tcpACK, 20)
		inStep(senders, steps, func(int) {
			ret, err := r.TC.TcIngress.Run(&ebpf.RunOptions{Data: frame, Repeat: packetsAStep})
			assert.NoError(t, err)
			assert.Equal(t, tcUnspec, ret)
		})

		counted := r.Interface(t, bpf.TCDirectionDIRECTION_INGRESS)
		// more where a signal made the kernel begin a step anew
		require.GreaterOrEqual(t, counted.Packets, uint64(senders*steps*packetsAStep))
		key := c.key()
		require.Equal(t, wantFlows(&key, counted, tcpACK), withoutTimes(r.Flows(t)))
		requireNoLoss(t, r)
	})
}
