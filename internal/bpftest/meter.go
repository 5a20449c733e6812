// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
)

// MaxFrame is the longest frame that the kernel's test runs take for all
// programs, whatever the machine's page and cache line sizes are.
const MaxFrame = 3400

// RunnableTC says whether every kernel takes a frame for a test run of a TC
// program: one longer than its Ethernet header and, for newer kernels,
// than the IP header that the EtherType promises. XDP wants an Ethernet header.
func RunnableTC(frame []byte) bool {
	need := 15
	if len(frame) >= 14 {
		switch layers.EthernetType(binary.BigEndian.Uint16(frame[12:])) {
		case layers.EthernetTypeIPv4:
			need = 14 + 20
		case layers.EthernetTypeIPv6:
			need = 14 + 40
		}
	}
	return len(frame) >= need && len(frame) <= MaxFrame
}

// RunnableXDP says whether every kernel takes a frame for a test run of an XDP program.
func RunnableXDP(frame []byte) bool {
	return len(frame) >= 14 && len(frame) <= MaxFrame
}

// Meter tells what single packets change as a Runner does, with half the
// system calls: it remembers counters instead of reading them before each
// packet. Meanwhile nobody else may run packets through the Runner.
type Meter struct {
	Runner *Runner
	parsed map[bpf.TCHook]outcomes
	ifaces map[bpf.TCDirection]bpf.TCVolume

	refused refusals
}

// NewMeter returns a Meter for a Runner whose flow maps are not per CPU.
func NewMeter(tb testing.TB, r *Runner) *Meter {
	tb.Helper()
	require.Equal(tb, ebpf.Hash, r.TC.Flows0.Type())
	r.Clear(tb)
	m := &Meter{
		Runner: r,
		parsed: map[bpf.TCHook]outcomes{
			bpf.TCHookHOOK_XDP: r.outcomes(tb, r.XDP.ParseOutcomes, bpf.TCHookHOOK_XDP),
		},
		ifaces: make(map[bpf.TCDirection]bpf.TCVolume),

		refused: r.refusals(tb),
	}
	for _, hook := range []bpf.TCHook{bpf.TCHookHOOK_TC_INGRESS, bpf.TCHookHOOK_TC_EGRESS} {
		m.parsed[hook] = r.outcomes(tb, r.TC.ParseOutcomes, hook)
	}
	for _, dir := range []bpf.TCDirection{bpf.TCDirectionDIRECTION_INGRESS, bpf.TCDirectionDIRECTION_EGRESS} {
		m.ifaces[dir] = r.Interface(tb, dir)
	}
	return m
}

// RunTC does what Runner.RunTC does, and leaves the flow table empty.
func (m *Meter) RunTC(tb testing.TB, prog *ebpf.Program, data []byte, ctx *SKB) Result {
	tb.Helper()
	hook, dir := m.Runner.place(prog)
	opts := &ebpf.RunOptions{Data: data}
	if ctx != nil {
		opts.Context = ctx
	}
	ret, err := prog.Run(opts)
	require.NoError(tb, err)

	res := Result{Return: ret, Flows: m.takeFlows(tb)}
	res.Outcome, res.Volume = m.parse(tb, m.Runner.TC.ParseOutcomes, hook)
	iface := m.Runner.Interface(tb, dir)
	res.Interface = sub(iface, m.ifaces[dir])
	m.ifaces[dir] = iface
	refused := m.Runner.refusals(tb)
	res.Refused = newRefusal(tb, m.refused, refused)
	m.refused = refused
	return res
}

// RunXDP does what Runner.RunXDP does.
func (m *Meter) RunXDP(tb testing.TB, data []byte) Result {
	tb.Helper()
	ret, err := m.Runner.XDP.XdpCount.Run(&ebpf.RunOptions{Data: data})
	require.NoError(tb, err)
	res := Result{Return: ret}
	res.Outcome, res.Volume = m.parse(tb, m.Runner.XDP.ParseOutcomes, bpf.TCHookHOOK_XDP)
	return res
}

func (m *Meter) parse(tb testing.TB, counters *ebpf.Map, hook bpf.TCHook) (bpf.TCParseOutcome, bpf.TCVolume) {
	tb.Helper()
	before := m.parsed[hook]
	after := m.Runner.outcomes(tb, counters, hook)
	m.parsed[hook] = after
	return changed(tb, before, after)
}

// takeFlows returns the entries of the flow map that programs write, and deletes them.
func (m *Meter) takeFlows(tb testing.TB) []Flow {
	tb.Helper()
	table := m.Runner.TC.Flows0
	var flows []Flow
	for {
		var flow Flow
		err := table.NextKey(nil, &flow.Key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			m.Runner.resolve(tb, flows)
			m.Runner.clearTunnels(tb)
			return flows
		}
		require.NoError(tb, err)
		require.NoError(tb, table.Lookup(&flow.Key, &flow.Stats))
		require.NoError(tb, table.Delete(&flow.Key))
		flows = append(flows, flow)
	}
}
