// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// setBusy says to the programs, on every CPU, that the first one is in the middle of
// so many drops.
func setBusy(t *testing.T, p *Probe, n uint64) {
	t.Helper()
	perCPU := make([]bpf.DropsDropFirst, kernel.PossibleCPUs())
	for i := range perCPU {
		perCPU[i].Busy = n
	}
	require.NoError(t, p.objs.DropFirstState.Put(uint32(0), perCPU))
}

// first sums up what the programs note on each CPU.
func first(t *testing.T, p *Probe) (sum bpf.DropsDropFirst) {
	t.Helper()
	var perCPU []bpf.DropsDropFirst
	require.NoError(t, p.objs.DropFirstState.Lookup(uint32(0), &perCPU))
	for _, state := range perCPU {
		sum.Busy += state.Busy
		sum.Reentered += state.Reentered
		sum.Caught += state.Caught
	}
	return sum
}

// detachFirst makes what the first program would be told as good as skipped.
func detachFirst(t *testing.T, p *Probe) {
	t.Helper()
	at := len(p.closers) - 2 // the links are the last two
	require.NoError(t, p.closers[at].Close())
	p.closers = slices.Delete(p.closers, at, at+1)
}

// Whatever the first program is doing, and whether or not the kernel runs it in the
// middle of itself, one of the two counts a drop.
func TestOneOfTwoProgramsCounts(t *testing.T) {
	const n = 10
	for _, tt := range []struct {
		name        string
		skipped     bool // is the first
		busy        uint64
		want        uint64
		wantsCaught bool
	}{
		{"not interrupted", false, 0, n, false},
		{"interrupted, and skipped", true, 1, n, true},
		{"interrupted, and run all the same", false, 1, n, false},
		// which cannot be, and shows that the second leaves it to the first
		{"not interrupted, and skipped", true, 0, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDropper(t)
			all := load(t, roomy())
			if tt.skipped {
				detachFirst(t, d.probe)
			}
			if tt.busy > 0 {
				setBusy(t, d.probe, tt.busy)
			}
			for range n {
				d.far.send(t, d.far.frame(t, sent, anyone))
			}
			require.Equal(t, uint64(n), await(t, all, d.key(t, flow.UDP), n).Packets)
			require.NoError(t, d.probe.maps.Wait())
			counts, flows := collect(t, d.probe)
			require.Equal(t, tt.want, closes(t, d.probe, counts, flows).Packets)
			if tt.wantsCaught {
				require.GreaterOrEqual(t, first(t, d.probe).Caught, uint64(n), "and maybe some of other namespaces")
			}
		})
	}
}

// A process has its packets dropped, and all the while interrupts on its CPU bring
// others that are dropped too: each is counted, by one of the programs.
func TestDropsInTheMiddleOfOthers(t *testing.T) {
	const each = 100_000
	if runtime.NumCPU() < 2 {
		t.Skip("one CPU interrupts another: there is but one")
	}
	d := newDropper(t)
	addAddress(t, "near", "192.0.2.1/24")
	staticNeighbor(t, "near", "192.0.2.9", d.far.self)
	nft(t, `table inet lab { counter c {}; chain c { type filter hook output priority 0; meta nfproto ipv4 counter name c drop; }; }`)
	// sysfs shows the network namespace in which it is mounted
	out, err := exec.Command("unshare", "--mount", "sh", "-c",
		"mount -t sysfs none /sys && echo 1 >/sys/class/net/near/queues/rx-0/rps_cpus").CombinedOutput()
	require.NoError(t, err, "%s", out)
	conn := dial(t, nil, "192.0.2.9", 9)
	pin(t, 1) // this test; its frames are received by CPU 0
	var process sync.WaitGroup
	process.Go(func() {
		runtime.LockOSThread() // and does not unlock it: the thread ends with this
		pin(t, 0)
		send(t, conn, each, 1)
	})
	frame := d.far.frame(t, as(sent, flow.TCP), anyone)
	for range each {
		d.far.send(t, frame)
	}
	process.Wait()
	await(t, d.probe, d.key(t, flow.TCP), each*9/10) // some may not have fit into the queue
	require.NoError(t, d.probe.maps.Wait())

	counts, flows := collect(t, d.probe)
	closes(t, d.probe, counts, flows)
	h, err := d.probe.Health()
	require.NoError(t, err)
	of := func(p flow.Protocol) uint64 {
		return countOf(counts, func(k Key) bool { return k.Protocol == p }).Packets
	}
	state := first(t, d.probe)
	t.Logf("%d and %d counted; %+v, %d missed", of(flow.UDP), of(flow.TCP), state, h.Missed)
	require.Equal(t, uint64(each), nftCounter(t, "c").Packets)
	require.LessOrEqual(t, of(flow.UDP), uint64(each))
	require.LessOrEqual(t, of(flow.TCP), uint64(each))
	require.GreaterOrEqual(t, of(flow.UDP)+h.Missed, uint64(each))
	switch {
	case state.Reentered > 0: // as before 6.1
		require.Zero(t, h.Missed)
	case state.Caught+h.Missed == 0:
		t.Log("nothing came in the middle of anything")
	default:
		require.Less(t, h.Missed, state.Caught, "one program would have missed both")
	}
}

// pin keeps this thread, which is locked, on a CPU.
func pin(t *testing.T, cpu int) {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		t.Errorf("pin to CPU %d: %v", cpu, err)
	}
}
