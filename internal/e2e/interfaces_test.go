// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const watchAll = `{interval: 200ms}`

// waitWatched waits until the programs are on the near end. Until then nothing
// is counted: what is promised to a new interface is that every packet counts
// from the moment on at which NetProbe, told by the kernel that the interface is
// there, has attached to it. One that is made first and switched on later loses
// nothing.
func (k *link) waitWatched(t *testing.T) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		a := k.attached(c)
		assert.Len(c, append(a.TCXIngress, ids(a.FilterIngress)...), 1)
		assert.Len(c, append(a.TCXEgress, ids(a.FilterEgress)...), 1)
	}, patience, glance, "%s is not watched", k.name)
}

// down switches the near end off, after which its counters stand still.
func (k *link) down(t *testing.T) {
	t.Helper()
	require.NoError(t, k.lab.near.links.LinkSetDown(k.device(t)))
}

// traffic is some of each protocol, both ways.
func (k *link) traffic(t *testing.T) {
	t.Helper()
	for _, p := range k.pairings() {
		p.tcp(t, 20<<10)
		p.udp(t, 1, 1400, 3000)
	}
}

func TestNewInterfaceIsCountedFromItsFirstPacket(t *testing.T) {
	l := newLab(t)
	a := start(t, l.near, watchAll)
	for _, name := range []string{"np0", "np1"} {
		k := l.link(t, name)
		k.waitWatched(t)
		k.up(t)
		k.traffic(t)
		a.requireAgreement(t, name, k.kernel)
		require.Greater(t, k.kernel(t).RxBytes, uint64(4*20<<10))
	}
	requireNothingLost(t, a)
}

func TestExcludedInterfaceIsNotCounted(t *testing.T) {
	l := newLab(t)
	a := start(t, l.near, `{interfaces: {include: ["np*"], exclude: ["np*-no"]}, interval: 200ms}`)
	for _, name := range []string{"other0", "np0-no", "np0"} {
		k := l.link(t, name)
		k.up(t)
		if name != "np0" {
			continue
		}
		// announced last: whoever watches it has decided on the others
		k.waitWatched(t)
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			l.near.scrape(c, prometheusURL).counters(c, name)
		}, patience, glance)
	}
	var watched []string
	for _, m := range l.near.scrape(t, prometheusURL)["netprobe_interface_rx_packets_total"].GetMetric() {
		watched = append(watched, labels(m)["network_interface_name"])
	}
	require.Equal(t, []string{"np0"}, watched)
	require.True(t, a.running())
}

func TestRenamedInterfaceContinuesUnderItsNewName(t *testing.T) {
	for _, live := range []bool{false, true} {
		name := "while down"
		if live {
			name = "while up"
		}
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			k := l.link(t, "np0")
			a := start(t, l.near, watchAll)
			k.up(t)
			k.traffic(t)
			a.requireAgreement(t, "np0", k.kernel)
			if !live {
				k.down(t)
			}

			err := l.near.links.LinkSetName(k.device(t), "np1")
			if live && errors.Is(err, unix.EBUSY) {
				t.Skip("this kernel renames no interface that is up, which came with 6.2")
			}
			require.NoError(t, err)
			k.name = "np1"
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				l.near.scrape(c, prometheusURL).counters(c, "np1")
			}, patience, glance)
			old := l.near.scrape(t, prometheusURL).counters(t, "np0")
			k.up(t)
			k.traffic(t)

			a.requireAgreement(t, "np1", func(t require.TestingT) counters { return k.kernel(t).sub(old) })
			require.Equal(t, old, l.near.scrape(t, prometheusURL).counters(t, "np0"), "the old name's total changes")
			require.Greater(t, k.kernel(t).sub(old).RxBytes, uint64(4*20<<10))
			requireNothingLost(t, a)
		})
	}
}

func TestRecreatedInterfaceContinues(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	a := start(t, l.near, watchAll)
	k.up(t)
	k.traffic(t)
	k.down(t)
	gone := k.kernel(t)
	require.NoError(t, l.near.links.LinkDel(k.device(t)))

	k = l.link(t, "np0")
	k.waitWatched(t)
	k.up(t)
	k.traffic(t)
	var last counters
	a.requireAgreement(t, "np0", func(t require.TestingT) counters {
		now := l.near.scrape(t, prometheusURL).counters(t, "np0")
		require.GreaterOrEqual(t, now.RxBytes, last.RxBytes, "the total goes back")
		require.GreaterOrEqual(t, now.TxBytes, last.TxBytes, "the total goes back")
		last = now
		return k.kernel(t).add(gone)
	})
	requireNothingLost(t, a)
}

func TestInterfaceThatIsMovedAwayIsLetGo(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	a := start(t, l.near, watchAll)
	k.up(t)
	k.traffic(t)
	k.down(t)
	gone := k.kernel(t)
	other := newNamespace(t)
	require.NoError(t, l.near.links.LinkSetNsFd(k.device(t), int(other.handle)))

	require.EventuallyWithT(t, func(c *assert.CollectT) {
		dev, err := other.links.LinkByName("np0")
		require.NoError(c, err)
		assert.Equal(c, attachments{}, other.attached(c, dev), "still attached")
	}, patience, glance)
	a.requireAgreement(t, "np0", func(require.TestingT) counters { return gone })

	dev, err := other.links.LinkByName("np0")
	require.NoError(t, err)
	require.NoError(t, other.links.LinkSetNsFd(dev, int(l.near.handle)))
	k.waitWatched(t)
	k.up(t)
	k.traffic(t)
	// the kernel's own counters went along and came back
	a.requireAgreement(t, "np0", k.kernel)
	require.Greater(t, k.kernel(t).sub(gone).RxBytes, uint64(4*20<<10))
	requireNothingLost(t, a)
}

func ids(filters []filter) []ebpf.ProgramID {
	var found []ebpf.ProgramID
	for _, f := range filters {
		found = append(found, ebpf.ProgramID(f.Program))
	}
	return found
}

func TestInterfaceThatFindsNoRoomIsWatchedLater(t *testing.T) {
	l := newLab(t)
	first := l.link(t, "np0")
	a := start(t, l.near, `{interfaces: {max_entries: 1}, interval: 200ms}`)
	first.up(t)
	second := l.link(t, "np1")
	require.Eventually(t, func() bool {
		return strings.Contains(a.output.String(), "watch interface np1: ") &&
			strings.Contains(a.output.String(), "more interfaces than interfaces::max_entries (1)")
	}, patience, glance)
	first.traffic(t)
	a.requireAgreement(t, "np0", first.kernel)
	require.Equal(t, attachments{}, second.attached(t))

	require.NoError(t, l.near.links.LinkDel(first.device(t)))
	second.waitWatched(t)
	second.up(t)
	second.traffic(t)
	a.requireAgreement(t, "np1", second.kernel)
}
