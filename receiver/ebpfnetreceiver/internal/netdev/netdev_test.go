// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestFilterMatch(t *testing.T) {
	for _, tt := range []struct {
		name             string
		include, exclude []string
		match, noMatch   []string
	}{
		{"all", []string{"*"}, nil, []string{"eth0", "lo", "br-1a2b", "wg.0"}, nil},
		{"all but", []string{"*"}, []string{"lo", "veth*"}, []string{"eth0", "lo0"}, []string{"lo", "veth1", "veth"}},
		{"one", []string{"eth0"}, nil, []string{"eth0"}, []string{"eth00", "eth", "xeth0", "ETH0"}},
		{"any of several", []string{"eth0", "wlan*"}, nil, []string{"eth0", "wlan", "wlan1"}, []string{"eth1"}},
		{"classes", []string{"eth[0-3]", "en[^p]?"}, nil, []string{"eth3", "enx1"}, []string{"eth4", "enp1", "enx"}},
		{"the exclusion wins", []string{"eth0"}, []string{"eth?"}, nil, []string{"eth0"}},
		{"a name with a slash is no name", []string{"*"}, nil, nil, []string{"a/b"}},
		{"nothing included", nil, nil, nil, []string{"eth0", ""}},
		{"a bad pattern matches nothing", []string{"eth[", "lo"}, []string{"[a-"}, []string{"lo"}, []string{"eth["}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := Filter{Include: tt.include, Exclude: tt.exclude}
			for _, name := range tt.match {
				require.True(t, f.Match(name), name)
			}
			for _, name := range tt.noMatch {
				require.False(t, f.Match(name), name)
			}
		})
	}
}

func TestFilterUnmatched(t *testing.T) {
	all := map[int]Interface{1: {Name: "lo"}, 2: {Name: "eth0"}, 3: {Name: "veth1"}}
	f := Filter{Include: []string{"eth*", "wlan0", "lo", "*"}, Exclude: []string{"lo"}}
	// lo is there, and excluded all the same
	require.Equal(t, []string{"wlan0", "lo"}, f.Unmatched(all))
	require.Equal(t, f.Include, f.Unmatched(nil))
	require.Empty(t, Filter{Include: []string{"*"}}.Unmatched(all))
}

func TestList(t *testing.T) {
	netnstest.Enter(t)
	near, far := netnstest.Veth(t, "near", "far")
	tun, _ := netnstest.Tun(t, "tun0")
	all, err := List()
	require.NoError(t, err)
	// There may be others: some kernels put their tunnels into every namespace.
	for _, want := range []Interface{
		{Index: 1, Name: "lo", Ethernet: true},
		{Index: near.Attrs().Index, Name: "near", Ethernet: true},
		{Index: far.Attrs().Index, Name: "far", Ethernet: true},
		{Index: tun.Attrs().Index, Name: "tun0", Ethernet: false},
	} {
		require.Equal(t, want, identityOf(all[want.Index]))
	}
}

// identityOf is the interface without what it is to packets.
func identityOf(i Interface) Interface {
	return Interface{Index: i.Index, Name: i.Name, Ethernet: i.Ethernet}
}

func watch(t *testing.T) *Watcher {
	t.Helper()
	w, err := Watch()
	require.NoError(t, err)
	t.Cleanup(w.Close)
	return w
}

// next gives the next event that is of interest.
func next(t *testing.T, w *Watcher) Event {
	t.Helper()
	timeout := time.NewTimer(20 * time.Second)
	defer timeout.Stop()
	for {
		select {
		case u, ok := <-w.Updates():
			if e, have := ReadEvent(u, ok); have {
				return e
			}
		case <-timeout.C:
			require.FailNow(t, "no event came")
		}
	}
}

// until reads events until all of these were among them. A change is announced
// more than once, and what comes first may still say what was before.
func until(t *testing.T, w *Watcher, want ...Event) {
	t.Helper()
	for len(want) > 0 {
		e := next(t, w)
		e.Interface = identityOf(e.Interface)
		want = slices.DeleteFunc(want, func(one Event) bool { return one == e })
	}
}

func TestWatch(t *testing.T) {
	netnstest.Enter(t)
	w := watch(t)
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "near"}, PeerName: "far"}))
	near, err := netlink.LinkByName("near")
	require.NoError(t, err)
	far, err := netlink.LinkByName("far")
	require.NoError(t, err)
	nearIs := Interface{Index: near.Attrs().Index, Name: "near", Ethernet: true}
	farIs := Interface{Index: far.Attrs().Index, Name: "far", Ethernet: true}
	until(t, w, Event{Interface: farIs}, Event{Interface: nearIs})

	require.NoError(t, netlink.LinkSetName(near, "uplink"))
	nearIs.Name = "uplink"
	until(t, w, Event{Interface: nearIs})

	require.NoError(t, netlink.LinkDel(near))
	until(t, w, Event{Gone: true, Interface: nearIs}, Event{Gone: true, Interface: farIs})
}

// An interface that leaves for another namespace is gone from this one, and new
// in the other.
func TestWatchMoveBetweenNamespaces(t *testing.T) {
	netnstest.Enter(t)
	near, _ := netnstest.Veth(t, "near", "far")
	other := netnstest.New(t)
	here := watch(t)
	var there *Watcher
	other.Do(t, func() { there = watch(t) })

	other.Adopt(t, near)
	until(t, here, Event{Gone: true, Interface: Interface{Index: near.Attrs().Index, Name: "near", Ethernet: true}})
	require.Equal(t, "near", next(t, there).Interface.Name)
}

// A port that leaves its bridge is announced as deleted, by the bridge.
func TestWatchBridgePortIsNoInterface(t *testing.T) {
	netnstest.Enter(t)
	near, _ := netnstest.Veth(t, "near", "far")
	require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	bridge, err := netlink.LinkByName("br0")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetMaster(near, bridge))

	w := watch(t)
	require.NoError(t, netlink.LinkSetNoMaster(near))
	require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "last"}})) // tells where to stop
	timeout := time.NewTimer(20 * time.Second)
	defer timeout.Stop()
	fromBridge := 0
	for {
		select {
		case u, ok := <-w.Updates():
			require.True(t, ok)
			e, have := ReadEvent(u, ok)
			if u.Family == unix.AF_BRIDGE && u.Header.Type == unix.RTM_DELLINK {
				fromBridge++
				require.False(t, have)
			}
			require.False(t, e.Gone)
			if e.Interface.Name == "last" {
				require.Equal(t, 1, fromBridge, "without it this shows nothing")
				return
			}
		case <-timeout.C:
			require.FailNow(t, "no event came")
		}
	}
}

func TestReadEventOfAFailedSubscription(t *testing.T) {
	e, have := ReadEvent(netlink.LinkUpdate{}, false)
	require.True(t, have)
	require.Equal(t, Event{Resync: true}, e)
}

// More changes at once than the socket holds end the subscription, and say so.
func TestWatchOverrun(t *testing.T) {
	netnstest.Enter(t)
	near, _ := netnstest.Veth(t, "near", "far")
	w := watch(t)
	// Nobody receives, so the messages stay in the socket until it is full.
	for i := range socketBuffer / 256 { // no message is as short
		require.NoError(t, netlink.LinkSetAlias(near, strconv.Itoa(i)))
	}
	for e := next(t, w); !e.Resync; e = next(t, w) {
		// that the link is up may be told of the other end only now
		require.Contains(t, []string{"near", "far"}, e.Interface.Name)
	}
	_, ok := <-w.Updates()
	require.False(t, ok)
}

func TestWatcherClose(t *testing.T) {
	netnstest.Enter(t)
	w := watch(t)
	netnstest.Veth(t, "near", "far") // there is something to be read when it closes
	w.Close()
	w.Close()
	_, ok := <-w.Updates()
	require.False(t, ok)
}

func TestNilWatcher(t *testing.T) {
	var w *Watcher
	require.Nil(t, w.Updates())
	w.Close()
}
