// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package bpftest runs packets through NetProbe's eBPF programs and tells what
// they counted. For tests only.
package bpftest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
)

// RequireBPF skips the test where eBPF programs cannot be loaded for want of
// privilege, and fails it instead where REQUIRE_BPF=1 promises that they can.
func RequireBPF(tb testing.TB) {
	tb.Helper()
	// Not an error by itself: only kernels before 5.11 count maps against the limit.
	memlock := rlimit.RemoveMemlock()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err == nil {
		require.NoError(tb, m.Close())
		return
	}
	if os.Getenv("REQUIRE_BPF") == "1" {
		tb.Fatalf("create a BPF map: %v", errors.Join(err, memlock))
	}
	tb.Skipf("cannot create a BPF map (root, or CAP_BPF and CAP_NET_ADMIN, needed): %v", err)
}

// Loopback is the interface that the kernel's test runs say packets are on.
const Loopback uint32 = 1

// Options of a Runner.
type Options struct {
	FlowEntries uint32 // of each flow map; 0 means 1024
	PerCPU      bool   // per-CPU flow maps
	NoFlows     bool

	TunnelEntries uint32 // of the table of tunnels; 0 means what the programs say
	// UDP ports whose packets are opened, at most 8 of a kind; nil means what the
	// programs say.
	VXLANPorts, GenevePorts []uint16
	NoGRE, NoIPIP           bool

	// Filter is at most 32 rules; with one that does not exclude, what none of
	// them includes is not counted.
	Filter   []bpf.TCFilterRule
	Sampling uint32 // one in so many packets is counted as a flow; 0 means all
}

const (
	maxTunnelPorts = 8
	maxFilterRules = 32
)

// configure sets what the programs take as constants.
func (o *Options) configure(tb testing.TB, spec *ebpf.CollectionSpec) {
	tb.Helper()
	set := func(name string, value any) {
		require.NoError(tb, spec.Variables[name].Set(value), name)
	}
	set(bpf.TCVarCfgFlowsPerCpu, o.PerCPU)
	set(bpf.TCVarCfgFlows, !o.NoFlows)
	for name, list := range map[string][]uint16{
		bpf.TCVarCfgVxlanPorts: o.VXLANPorts, bpf.TCVarCfgGenevePorts: o.GenevePorts,
	} {
		if list != nil {
			var ports [maxTunnelPorts]uint16
			require.LessOrEqual(tb, len(list), len(ports))
			copy(ports[:], list)
			set(name, ports)
		}
	}
	set(bpf.TCVarCfgGre, !o.NoGRE)
	set(bpf.TCVarCfgIpip, !o.NoIPIP)

	var rules [maxFilterRules]bpf.TCFilterRule
	require.LessOrEqual(tb, len(o.Filter), len(rules))
	copy(rules[:], o.Filter)
	set(bpf.TCVarCfgFilter, rules)
	set(bpf.TCVarCfgFilterLen, uint32(len(o.Filter)))
	set(bpf.TCVarCfgFilterIncludes, slices.ContainsFunc(o.Filter, func(r bpf.TCFilterRule) bool { return r.Exclude == 0 }))
	set(bpf.TCVarCfgSampling, max(o.Sampling, 1))
}

// Runner holds loaded programs.
type Runner struct {
	TC  bpf.TCObjects
	XDP bpf.XDPObjects
}

// Flow is one entry of the flow table.
type Flow struct {
	// Key has no handle: what it stands for is Tunnel.
	Key    bpf.TCFlowKey
	Stats  bpf.TCFlowStats
	Tunnel bpf.TCTunnelKey
}

// Result is what one packet changed.
type Result struct {
	Return  uint32 // the program's own answer
	Outcome bpf.TCParseOutcome
	Volume  bpf.TCVolume // as counted under that outcome
	// Interface is what the interface counters of the packet's direction gained.
	Interface bpf.TCVolume
	Flows     []Flow
	// Refused is why the packet was not opened as a tunnel's.
	Refused bpf.TCTunnelRefusal
}

// New loads all programs; they are closed with the test.
func New(tb testing.TB, opts Options) *Runner {
	tb.Helper()
	RequireBPF(tb)

	spec, err := bpf.LoadTC()
	require.NoError(tb, err)
	if opts.FlowEntries == 0 {
		opts.FlowEntries = 1024
	}
	for _, name := range []string{bpf.TCMapFlows0, bpf.TCMapFlows1} {
		spec.Maps[name].MaxEntries = opts.FlowEntries
		if opts.PerCPU {
			spec.Maps[name].Type = ebpf.PerCPUHash
		}
	}
	if opts.TunnelEntries != 0 {
		spec.Maps[bpf.TCMapTunnels].MaxEntries = opts.TunnelEntries
	}
	opts.configure(tb, spec)

	r := &Runner{}
	require.NoError(tb, explain(spec.LoadAndAssign(&r.TC, nil)))
	tb.Cleanup(func() { require.NoError(tb, r.TC.Close()) })

	xdp, err := bpf.LoadXDP()
	require.NoError(tb, err)
	require.NoError(tb, explain(xdp.LoadAndAssign(&r.XDP, nil)))
	tb.Cleanup(func() { require.NoError(tb, r.XDP.Close()) })

	cpus := ebpf.MustPossibleCPU()
	require.NoError(tb, r.TC.Interfaces.Put(Loopback, make([]bpf.TCInterfaceCounters, cpus)))
	require.NoError(tb, r.XDP.XdpInterfaces.Put(Loopback, make([]bpf.XDPXdpCounters, cpus)))
	return r
}

// explain puts the verifier's last words into the error.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return fmt.Errorf("%-20v", verifier)
	}
	return err
}

// RunTC runs a packet through one of the TC programs. Data is the frame from
// its first byte, at least 14 bytes; where the program is for devices without
// link header, the first 14 bytes are only there because the kernel wants them.
// The flow table is emptied before.
func (r *Runner) RunTC(tb testing.TB, prog *ebpf.Program, data []byte, ctx *SKB) Result {
	tb.Helper()
	hook, dir := r.place(prog)
	r.Clear(tb)
	outcomes, iface := r.outcomes(tb, r.TC.ParseOutcomes, hook), r.Interface(tb, dir)
	refused := r.refusals(tb)

	opts := &ebpf.RunOptions{Data: data}
	if ctx != nil {
		opts.Context = ctx
	}
	ret, err := prog.Run(opts)
	require.NoError(tb, err)

	res := Result{Return: ret, Flows: r.Flows(tb)}
	res.Outcome, res.Volume = changed(tb, outcomes, r.outcomes(tb, r.TC.ParseOutcomes, hook))
	res.Interface = sub(r.Interface(tb, dir), iface)
	res.Refused = newRefusal(tb, refused, r.refusals(tb))
	return res
}

type refusals [bpf.TCTunnelRefusalTUNNEL_REFUSALS]bpf.TCVolume

func (r *Runner) refusals(tb testing.TB) refusals {
	tb.Helper()
	var all refusals
	for i := range all {
		all[i] = r.Refused(tb, bpf.TCTunnelRefusal(i))
	}
	return all
}

// newRefusal finds the reason that counted something, if one did.
func newRefusal(tb testing.TB, before, after refusals) bpf.TCTunnelRefusal {
	tb.Helper()
	found := bpf.TCTunnelRefusalTUNNEL_NOT_REFUSED
	for i := range after {
		if after[i] != before[i] {
			require.Equal(tb, bpf.TCTunnelRefusalTUNNEL_NOT_REFUSED, found, "a packet refused for two reasons")
			found = bpf.TCTunnelRefusal(i)
		}
	}
	return found
}

// place tells where a TC program sits.
func (r *Runner) place(prog *ebpf.Program) (bpf.TCHook, bpf.TCDirection) {
	if prog == r.TC.TcEgress || prog == r.TC.TcEgressL3 {
		return bpf.TCHookHOOK_TC_EGRESS, bpf.TCDirectionDIRECTION_EGRESS
	}
	return bpf.TCHookHOOK_TC_INGRESS, bpf.TCDirectionDIRECTION_INGRESS
}

// RunXDP runs a frame through the XDP program.
func (r *Runner) RunXDP(tb testing.TB, data []byte) Result {
	tb.Helper()
	before := r.outcomes(tb, r.XDP.ParseOutcomes, bpf.TCHookHOOK_XDP)
	ret, err := r.XDP.XdpCount.Run(&ebpf.RunOptions{Data: data})
	require.NoError(tb, err)
	res := Result{Return: ret}
	res.Outcome, res.Volume = changed(tb, before, r.outcomes(tb, r.XDP.ParseOutcomes, bpf.TCHookHOOK_XDP))
	return res
}

// Flows returns the entries of the flow map that programs write.
func (r *Runner) Flows(tb testing.TB) []Flow {
	tb.Helper()
	var flows []Flow
	it := r.TC.Flows0.Iterate()
	var key bpf.TCFlowKey
	if r.TC.Flows0.Type() == ebpf.PerCPUHash {
		var values []bpf.TCFlowStats
		for it.Next(&key, &values) {
			flows = append(flows, Flow{Key: key, Stats: merge(values)})
		}
	} else {
		var value bpf.TCFlowStats
		for it.Next(&key, &value) {
			flows = append(flows, Flow{Key: key, Stats: value})
		}
	}
	require.NoError(tb, it.Err())
	r.resolve(tb, flows)
	return flows
}

// resolve puts tunnels in the place of their handles.
func (r *Runner) resolve(tb testing.TB, flows []Flow) {
	tb.Helper()
	if !slices.ContainsFunc(flows, func(f Flow) bool { return f.Key.Tunnel != 0 }) {
		return
	}
	tunnels := make(map[uint32]bpf.TCTunnelKey)
	var key bpf.TCTunnelKey
	var value bpf.TCTunnelValue
	it := r.TC.Tunnels.Iterate()
	for it.Next(&key, &value) {
		require.NotZero(tb, value.Handle, "a tunnel has the handle that stands for none")
		require.NotContains(tb, tunnels, value.Handle, "two tunnels have one handle")
		tunnels[value.Handle] = key
	}
	require.NoError(tb, it.Err())
	for i := range flows {
		if flow := &flows[i]; flow.Key.Tunnel != 0 {
			require.Contains(tb, tunnels, flow.Key.Tunnel, "no tunnel has the handle")
			flow.Tunnel, flow.Key.Tunnel = tunnels[flow.Key.Tunnel], 0
		}
	}
}

func merge(values []bpf.TCFlowStats) bpf.TCFlowStats {
	var sum bpf.TCFlowStats
	for _, v := range values {
		if v.Packets == 0 {
			continue
		}
		sum.Packets += v.Packets
		sum.Bytes += v.Bytes
		sum.TunnelBytes += v.TunnelBytes
		if sum.FirstMonoNs == 0 || (v.FirstMonoNs != 0 && v.FirstMonoNs < sum.FirstMonoNs) {
			sum.FirstMonoNs = v.FirstMonoNs
		}
		sum.LastMonoNs = max(sum.LastMonoNs, v.LastMonoNs)
		for i, seen := range v.TcpFlagSeen {
			sum.TcpFlagSeen[i] |= seen
		}
		sum.TcpFlagsHint |= v.TcpFlagsHint
		sum.SynSeen |= v.SynSeen
		sum.SynAckSeen |= v.SynAckSeen
	}
	return sum
}

// Clear empties the flow map that programs write, and the table of tunnels.
func (r *Runner) Clear(tb testing.TB) {
	tb.Helper()
	var key bpf.TCFlowKey
	for r.TC.Flows0.NextKey(nil, &key) == nil {
		require.NoError(tb, r.TC.Flows0.Delete(key))
	}
	r.clearTunnels(tb)
}

func (r *Runner) clearTunnels(tb testing.TB) {
	tb.Helper()
	var tunnel bpf.TCTunnelKey
	for r.TC.Tunnels.NextKey(nil, &tunnel) == nil {
		require.NoError(tb, r.TC.Tunnels.Delete(tunnel))
	}
}

// Interface returns the loopback's counters of one direction, over all CPUs.
func (r *Runner) Interface(tb testing.TB, dir bpf.TCDirection) bpf.TCVolume {
	tb.Helper()
	var values []bpf.TCInterfaceCounters
	require.NoError(tb, r.TC.Interfaces.Lookup(Loopback, &values))
	var sum bpf.TCVolume
	for _, v := range values {
		sum.Packets += v.Direction[dir].Packets
		sum.Bytes += v.Direction[dir].Bytes
	}
	return sum
}

// Loss returns one of the TC programs' loss counters, over all CPUs and both
// directions.
func (r *Runner) Loss(tb testing.TB, loss bpf.TCLoss) bpf.TCVolume {
	tb.Helper()
	ingress, egress := r.Ledger(tb, bpf.TCHookHOOK_TC_INGRESS), r.Ledger(tb, bpf.TCHookHOOK_TC_EGRESS)
	return add(ingress.Lost[loss], egress.Lost[loss])
}

// Ledger returns what became of a hook's packets that are in no flow record,
// over all CPUs.
func (r *Runner) Ledger(tb testing.TB, hook bpf.TCHook) bpf.TCLedger {
	tb.Helper()
	var values []bpf.TCLedger
	require.NoError(tb, r.TC.Ledgers.Lookup(uint32(hook), &values))
	var sum bpf.TCLedger
	for _, v := range values {
		for i := range v.NoFlow {
			sum.NoFlow[i] = add(sum.NoFlow[i], v.NoFlow[i])
		}
		for i := range v.Lost {
			sum.Lost[i] = add(sum.Lost[i], v.Lost[i])
		}
		sum.Filtered = add(sum.Filtered, v.Filtered)
		sum.SampledOut = add(sum.SampledOut, v.SampledOut)
		sum.InterfaceUnknown = add(sum.InterfaceUnknown, v.InterfaceUnknown)
	}
	return sum
}

// Refused returns how much was refused to be opened as a tunnel, over all CPUs.
func (r *Runner) Refused(tb testing.TB, why bpf.TCTunnelRefusal) bpf.TCVolume {
	tb.Helper()
	var values []bpf.TCVolume
	require.NoError(tb, r.TC.TunnelRefusals.Lookup(uint32(why), &values))
	var sum bpf.TCVolume
	for _, v := range values {
		sum = add(sum, v)
	}
	return sum
}

func add(a, b bpf.TCVolume) bpf.TCVolume {
	return bpf.TCVolume{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes}
}

type outcomes [bpf.TCParseOutcomePARSE_OUTCOMES]bpf.TCVolume

func (r *Runner) outcomes(tb testing.TB, m *ebpf.Map, hook bpf.TCHook) outcomes {
	tb.Helper()
	var values []bpf.TCParseCounters
	require.NoError(tb, m.Lookup(uint32(hook), &values))
	var sum outcomes
	for _, v := range values {
		for i := range v.Outcome {
			sum[i].Packets += v.Outcome[i].Packets
			sum[i].Bytes += v.Outcome[i].Bytes
		}
	}
	return sum
}

// changed finds the one outcome that counted something.
func changed(tb testing.TB, before, after outcomes) (bpf.TCParseOutcome, bpf.TCVolume) {
	tb.Helper()
	found, volume := bpf.TCParseOutcomePARSE_OUTCOMES, bpf.TCVolume{}
	for i := range after {
		if d := sub(after[i], before[i]); d.Packets != 0 {
			require.Equal(tb, bpf.TCParseOutcomePARSE_OUTCOMES, found, "a packet counted under two outcomes")
			found, volume = bpf.TCParseOutcome(i), d
		}
	}
	require.NotEqual(tb, bpf.TCParseOutcomePARSE_OUTCOMES, found, "a packet counted under no outcome")
	return found, volume
}

func sub(a, b bpf.TCVolume) bpf.TCVolume {
	return bpf.TCVolume{Packets: a.Packets - b.Packets, Bytes: a.Bytes - b.Bytes}
}

// SKB is the part of struct __sk_buff (include/uapi/linux/bpf.h) that a test
// run may set; everything else stays zero.
type SKB struct {
	_              [36]byte
	IngressIfindex uint32 // since Linux 5.14
	_              [124]byte
	GSOSegs        uint32
	_              [8]byte
	GSOSize        uint32
	_              [4]byte
}
