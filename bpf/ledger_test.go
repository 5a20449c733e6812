// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

// Where a packet can be: in the flow table, or in one account of the ledger.
const (
	inTable    = "the flow table"
	wasLost    = "lost 0"
	filtered   = "filtered"
	sampledOut = "sampled out"
)

// accounts is all that is in any place of a hook.
func accounts(tb testing.TB, r *bpftest.Runner, hook bpf.TCHook) map[string]bpf.TCVolume {
	tb.Helper()
	ledger := r.Ledger(tb, hook)
	all := map[string]bpf.TCVolume{filtered: ledger.Filtered, sampledOut: ledger.SampledOut}
	for i, v := range ledger.NoFlow {
		all[noFlowOf(bpf.TCParseOutcome(i))] = v
	}
	for i, v := range ledger.Lost {
		all[fmt.Sprintf("lost %d", i)] = v
	}
	for _, flow := range r.Flows(tb) {
		all[inTable] = plus(all[inTable], bpf.TCVolume{Packets: flow.Stats.Packets, Bytes: flow.Stats.Bytes})
	}
	require.Zero(tb, ledger.InterfaceUnknown)
	return all
}

func noFlowOf(outcome bpf.TCParseOutcome) string { return fmt.Sprintf("no flow, outcome %d", outcome) }

// Every packet is in one place, with all of its bytes: in the flow table, or in
// the ledger of its hook.
func TestEveryPacketIsInOnePlace(t *testing.T) {
	bpftest.RequireBPF(t)
	for _, tc := range []struct {
		name string
		opts bpftest.Options
		full bool
		// where those are that have a flow
		places func(*bpf.TCFlowKey) []string
	}{
		{
			name:   "nothing set",
			places: func(*bpf.TCFlowKey) []string { return []string{inTable} },
		},
		{
			name: "filtered", opts: bpftest.Options{Filter: []bpf.TCFilterRule{exclude(protocol(protoTCP))}},
			places: func(k *bpf.TCFlowKey) []string {
				if k.Protocol == uint8(protoTCP) {
					return []string{filtered}
				}
				return []string{inTable}
			},
		},
		{
			name: "sampled", opts: bpftest.Options{Sampling: 3},
			places: func(*bpf.TCFlowKey) []string { return []string{inTable, sampledOut} },
		},
		{
			name: "filtered, then sampled", opts: bpftest.Options{Sampling: 2, Filter: []bpf.TCFilterRule{include(protocol(protoTCP))}},
			places: func(k *bpf.TCFlowKey) []string {
				if k.Protocol != uint8(protoTCP) {
					return []string{filtered}
				}
				return []string{inTable, sampledOut}
			},
		},
		{
			name: "lost", opts: bpftest.Options{FlowEntries: 1}, full: true,
			places: func(*bpf.TCFlowKey) []string { return []string{wasLost} },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := bpftest.New(t, tc.opts)
			if tc.full {
				fillUp(t, r)
			}
			used := map[string]bool{}
			for _, prog := range classifiers(r) {
				for _, c := range allCases(t) {
					if !tc.full {
						r.Clear(t)
					}
					before := accounts(t, r, prog.hook())
					sendSegments(t, prog.prog, c.frame, orPlain(c.skb))
					place := requireOnePlace(t, before, accounts(t, r, prog.hook()), c.volume(uint64(prog.link)), c.name)
					used[place] = true
					if c.flow == nil {
						require.Equal(t, noFlowOf(c.outcome), place, c.name)
					} else {
						require.Contains(t, tc.places(c.flow), place, c.name)
					}
				}
			}
			for _, c := range allCases(t) {
				if c.flow != nil {
					for _, place := range tc.places(c.flow) {
						require.True(t, used[place], "nothing is in %s", place)
					}
				}
			}
		})
	}
}

// fillUp makes the flow map full, and the ring buffer too.
func fillUp(tb testing.TB, r *bpftest.Runner) {
	tb.Helper()
	send(tb, r.TC.TcIngress, conversation{30000}.frame(tb, tcpACK, 0))
	spill := conversation{30001}.frame(tb, tcpACK, 0)
	for r.Loss(tb, bpf.TCLossLOSS_RINGBUF_FULL).Packets == 0 {
		send(tb, r.TC.TcIngress, spill)
	}
}

// requireOnePlace says which place gained the volume, and checks that it is the
// only one.
func requireOnePlace(tb testing.TB, before, after map[string]bpf.TCVolume, volume bpf.TCVolume, name string) string {
	tb.Helper()
	found := ""
	for place, v := range after {
		if v == before[place] {
			continue
		}
		require.Empty(tb, found, "%s is in %s and in %s", name, found, place)
		require.Equal(tb, plus(before[place], volume), v, "%s in %s", name, place)
		found = place
	}
	require.NotEmpty(tb, found, "%s is nowhere", name)
	return found
}
