// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netprobe-otel/netprobe/internal/flannel"
	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// flannelNode gives the node of a number as flannel's VXLAN backend announces it.
func flannelNode(number byte) *inventory.Node {
	address := netip.AddrFrom4([4]byte{192, 168, 0, number})
	return &inventory.Node{
		Name: fmt.Sprintf("node-%d", number), Addresses: []netip.Addr{address},
		PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, number, 0}), 24)},
		Flannel: &inventory.Flannel{Backend: "vxlan", V4: &inventory.FlannelBackend{
			PublicIP: address, VNI: 1, HasVNI: true, VTEPMAC: net.HardwareAddr{0x5a, 0, 0, 0, 0, number},
		}},
	}
}

// flannelHost gives what the host of node 1 shows where there are so many nodes.
func flannelHost(nodes byte) *flannel.Host {
	own := flannelNode(1)
	h := &flannel.Host{
		Devices:   []inventory.FlannelDevice{{Index: 3, Name: "flannel.1", Type: "vxlan", Up: true, MAC: own.Flannel.V4.VTEPMAC, VNI: 1, Port: 8472, Local: own.Addresses[0]}},
		Addresses: []flannel.Address{{Device: 2, Addr: own.Addresses[0]}},
	}
	for number := byte(2); number <= nodes; number++ {
		n := flannelNode(number)
		mac, subnet := n.Flannel.V4.VTEPMAC.String(), n.PodCIDRs[0]
		h.FDB = append(h.FDB, flannel.Entry{Device: 3, MAC: mac, Remote: n.Addresses[0], Permanent: true})
		h.Neighbours = append(h.Neighbours, flannel.Neighbour{Device: 3, Addr: subnet.Addr(), MAC: mac, Permanent: true})
		h.Routes = append(h.Routes, flannel.Route{Dst: subnet, Gateway: subnet.Addr(), Device: 3, DeviceName: "flannel.1"})
	}
	return h
}

// watched is a hostWatch whose host and nodes are the test's.
type watched struct {
	*hostWatch
	host    *flannel.Host
	err     error
	current bool
	logs    *observer.ObservedLogs
}

func newWatched(nodes byte) *watched {
	core, logs := observer.New(zapcore.InfoLevel)
	x := &watched{host: flannelHost(nodes), current: true, logs: logs}
	cfg := createDefaultConfig().(*Config)
	cfg.Node = "node-1"
	x.hostWatch = newHostWatch(cfg, zap.New(core), inventory.NewStore(time.Minute), func(time.Time) bool { return x.current })
	x.read = func(flannel.Keep) (*flannel.Host, error) { return x.host, x.err }
	x.tracker = flannel.NewTracker(x.settle)
	for number := byte(1); number <= nodes; number++ {
		x.store.SetNode(flannelNode(number))
	}
	return x
}

// at gives a time of the test.
func at(s int) time.Time { return time.Unix(1000, 0).Add(time.Duration(s) * time.Second) }

func TestFlannelDifferenceIsSaidOnce(t *testing.T) {
	x := newWatched(2)
	require.False(t, x.look(at(0)))
	require.Equal(t, "node-1", x.last().Host)
	require.Equal(t, at(0), x.last().Read)
	require.Equal(t, x.host.Devices, x.last().Devices)

	x.host.FDB[0].Remote = netip.MustParseAddr("192.168.0.99")
	require.True(t, x.look(at(30)), "it is to be read again soon")
	require.Empty(t, x.last().Differences)
	require.Zero(t, x.logs.Len())
	for s := 40; s < 200; s += 30 {
		require.False(t, x.look(at(s)))
	}
	require.Equal(t, 1, x.logs.Len())
	entry := x.logs.TakeAll()[0]
	require.Equal(t, zapcore.WarnLevel, entry.Level)
	require.Equal(t, map[string]any{
		"kind": "public_ip", "node": "node-2", "subject": "5a:00:00:00:00:02",
		"annotation": "10.244.2.0/24 at 192.168.0.2, VTEP 5a:00:00:00:00:02", "host": "5a:00:00:00:00:02 dev flannel.1 dst 192.168.0.99",
		"what_to_do": flannel.Kinds[flannel.KindPublicIP],
	}, entry.ContextMap())
	require.Len(t, x.last().Differences, 1)
	require.Equal(t, at(30), x.last().Differences[0].Since)

	x.host = flannelHost(2)
	require.False(t, x.look(at(230)))
	require.False(t, x.look(at(260)))
	require.Equal(t, 1, x.logs.Len())
	require.Equal(t, zapcore.InfoLevel, x.logs.All()[0].Level)
	require.Equal(t, map[string]any{
		"kind": "public_ip", "node": "node-2", "subject": "5a:00:00:00:00:02",
		"annotation": "10.244.2.0/24 at 192.168.0.2, VTEP 5a:00:00:00:00:02", "host_was": "5a:00:00:00:00:02 dev flannel.1 dst 192.168.0.99",
	}, x.logs.All()[0].ContextMap())
	require.Empty(t, x.last().Differences)
}

func TestFlannelFollowsNodes(t *testing.T) {
	x := newWatched(3)
	require.False(t, x.look(at(0)))
	// A node comes, and flannel is quick enough.
	x.store.SetNode(flannelNode(4))
	require.True(t, x.look(at(30)))
	x.host = flannelHost(4)
	require.False(t, x.look(at(40)))
	// One goes, and flannel does not hear of it.
	x.store.DeleteNode("node-3")
	require.True(t, x.look(at(70)))
	require.Zero(t, x.logs.Len())
	require.False(t, x.look(at(80)))
	kinds := map[string]string{}
	for _, d := range x.last().Differences {
		kinds[d.Kind] = d.Node
	}
	require.Equal(t, map[string]string{"fdb_stale": "node-3", "neighbour_stale": "", "route_stale": ""}, kinds, "node-3 is remembered")
	// It comes back as it was.
	x.store.SetNode(flannelNode(3))
	require.False(t, x.look(at(110)))
	require.Empty(t, x.last().Differences)
	require.Empty(t, x.former)
}

func TestFlannelRemembersSoManyNodes(t *testing.T) {
	x := newWatched(1)
	for i := range formerNodes + 5 {
		name := fmt.Sprintf("gone-%d", i)
		x.store.SetNode(&inventory.Node{Name: name})
		x.look(at(2 * i))
		x.store.DeleteNode(name)
		x.look(at(2*i + 1))
	}
	require.Len(t, x.former, formerNodes)
	require.Equal(t, "gone-5", x.former[0].Name)
}

// Where much is wrong at once, not all of it is named.
func TestFlannelSaysNotAll(t *testing.T) {
	x := newWatched(40)
	x.host.FDB = nil
	x.look(at(0))
	x.look(at(30))
	require.Equal(t, warningsAtOnce+1, x.logs.Len())
	last := x.logs.TakeAll()[warningsAtOnce]
	require.Equal(t, map[string]any{"kind": "fdb_missing", "more": int64(39 - warningsAtOnce)}, last.ContextMap())
	require.Len(t, x.last().Differences, 39)
	x.host = flannelHost(40)
	x.look(at(60))
	require.Equal(t, warningsAtOnce+1, x.logs.Len())
}

// Nodes that the API cannot be asked for are no ground for a difference.
func TestFlannelWithoutAPI(t *testing.T) {
	x := newWatched(2)
	x.look(at(0))
	x.current = false
	x.host = flannelHost(3) // flannel heard of a node that we did not
	require.True(t, x.look(at(30)))
	require.True(t, x.look(at(300)))
	require.Empty(t, x.last().Differences)
	x.current = true
	x.store.SetNode(flannelNode(3))
	require.False(t, x.look(at(330)))
	require.Zero(t, x.logs.Len())
}

func TestFlannelIsNotRead(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*watched)
		says   string
	}{
		"another namespace":       {func(x *watched) { x.host.Addresses = nil }, "None of the node's addresses is here"},
		"no permission":           {func(x *watched) { x.err = errors.New("denied") }, "This host's part of flannel's network cannot be read"},
		"no such node":            {func(x *watched) { x.store.DeleteNode("node-1") }, "The node that the option node names is not in the cluster"},
		"another network plug-in": {func(x *watched) { x.store.SetNode(&inventory.Node{Name: "node-1"}) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			x := newWatched(2)
			x.look(at(0))
			tt.change(x)
			x.look(at(30))
			x.look(at(60))
			require.Equal(t, inventory.FlannelView{}, x.last())
			if tt.says == "" {
				require.Zero(t, x.logs.Len())
				return
			}
			require.Equal(t, 1, x.logs.Len(), "once")
			require.Contains(t, x.logs.All()[0].Message, tt.says)
			// and when it can be read again, it is
			y := newWatched(2)
			x.host, x.err = y.host, nil
			x.store.SetNode(flannelNode(1))
			x.look(at(90))
			require.Equal(t, "node-1", x.last().Host)
		})
	}
}

func TestFlannelNews(t *testing.T) {
	x := newWatched(1)
	for _, tt := range []struct {
		name   string
		change func(*inventory.Node)
		news   int
	}{
		{"a node", func(*inventory.Node) {}, 1},
		{"the same", func(*inventory.Node) {}, 0},
		{"another zone", func(n *inventory.Node) { n.Zone = "z" }, 0},
		{"another MAC address", func(n *inventory.Node) { n.Flannel.V4.VTEPMAC[0]++ }, 1},
		{"as before", func(*inventory.Node) {}, 1},
		{"another pod network", func(n *inventory.Node) { n.PodCIDRs = nil }, 1},
		{"no annotations", func(n *inventory.Node) { n.PodCIDRs, n.Flannel = nil, nil }, 1},
	} {
		n := flannelNode(2)
		tt.change(n)
		x.nodeSet(n)
		require.Len(t, x.news, tt.news, tt.name)
		if tt.news > 0 {
			<-x.news
		}
	}
}

// told are changes that the test makes.
type told struct {
	changed, ended chan struct{}
	closed         atomic.Bool
}

func newTold() *told { return &told{changed: make(chan struct{}, 1), ended: make(chan struct{})} }

func (c *told) Changes() <-chan struct{} { return c.changed }
func (c *told) Ended() <-chan struct{}   { return c.ended }
func (c *told) Close()                   { c.closed.Store(true) }

func TestFlannelIsReadAfterChanges(t *testing.T) {
	x := newWatched(2)
	reads := make(chan struct{}, 100)
	x.read = func(flannel.Keep) (*flannel.Host, error) {
		reads <- struct{}{}
		return x.host, nil
	}
	subscriptions := []*told{newTold(), newTold()}
	x.watch = func() (changes, error) {
		if len(subscriptions) == 0 {
			return nil, errors.New("no more")
		}
		next := subscriptions[0]
		subscriptions = subscriptions[1:]
		return next, nil
	}
	first, second := subscriptions[0], subscriptions[1]
	x.interval, x.delay = time.Hour, time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		x.run(ctx)
		close(done)
	}()
	read := func(why string) {
		t.Helper()
		select {
		case <-reads:
		case <-time.After(patience):
			require.FailNow(t, "not read "+why)
		}
	}
	read("at the start")
	first.changed <- struct{}{}
	read("after a change")
	close(first.ended)
	read("after the subscription's end")
	second.changed <- struct{}{}
	read("after a change that the next one told")
	x.nodeSet(flannelNode(2))
	read("after a node that came")
	x.nodeSet(flannelNode(2)) // nothing new
	x.nodeGone("node-2")
	read("after a node that went")
	cancel()
	<-done
	require.True(t, first.closed.Load())
	require.True(t, second.closed.Load())
	require.Empty(t, reads, "no more than that")
}

func announced(name, address, cidr string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
			"flannel.alpha.coreos.com/backend-type": "vxlan", "flannel.alpha.coreos.com/public-ip": address,
			"flannel.alpha.coreos.com/backend-data": `{"VNI":1,"VtepMAC":"5a:00:00:00:00:01"}`,
		}},
		Spec:   corev1.NodeSpec{PodCIDRs: []string{cidr}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}},
	}
}

// differences gives the metric by kind; nil where there is none.
func (c *cluster) differences(t *testing.T) map[string]int64 {
	t.Helper()
	m, err := c.tt.GetMetric("otelcol_extension.k8s.inventory.flannel.differences")
	if err != nil {
		return nil
	}
	out := map[string]int64{}
	for _, dp := range m.Data.(metricdata.Gauge[int64]).DataPoints {
		kind, _ := dp.Attributes.Value("kind")
		out[kind.AsString()] = dp.Value
	}
	return out
}

// The node is this test's machine by an address that it has: its loopback.
func TestFlannelOfThisMachine(t *testing.T) {
	here := announced("here", "127.0.0.1", "10.244.1.0/24")
	c := newCluster(t, here, announced("there", "192.0.2.2", "10.244.2.0/24"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "plain"}})
	c.before = func(e *k8sInventory) { e.host.settle = 100 * time.Millisecond }
	e := c.start(t, func(cfg *Config) { cfg.Node = "here" })
	eventually(t, "the host to be read", func() bool { return e.Flannel().Host == "here" })
	view := e.Flannel()
	require.Len(t, view.Nodes, 2)
	require.Equal(t, "here", view.Nodes[0].Name)
	require.Equal(t, "there", view.Nodes[1].Name)
	require.WithinDuration(t, time.Now(), view.Read, time.Minute)
	require.Len(t, c.differences(t), len(flannel.Kinds), "zeros too")
	eventually(t, "flannel's device to be missed", func() bool { return c.differences(t)[flannel.KindDeviceMissing] == 1 })
	require.Len(t, c.logs.FilterField(zap.String("kind", flannel.KindDeviceMissing)).All(), 1)
}

func TestFlannelOfAnotherMachine(t *testing.T) {
	c := newCluster(t, announced("elsewhere", "192.0.2.1", "10.244.1.0/24"))
	c.before = func(e *k8sInventory) { e.host.settle = 100 * time.Millisecond }
	e := c.start(t, func(cfg *Config) { cfg.Node = "elsewhere" })
	message := "None of the node's addresses is here"
	eventually(t, "that to be said", func() bool {
		for _, entry := range c.logs.All() {
			if len(entry.Message) > len(message) && entry.Message[:len(message)] == message {
				return true
			}
		}
		return false
	})
	require.Empty(t, e.Flannel().Host)
	require.Len(t, e.Flannel().Nodes, 1)
	require.Nil(t, c.differences(t))
}

func TestFlannelOff(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"off":     func(cfg *Config) { cfg.Node, cfg.Flannel.Host = "here", "off" },
		"no node": func(*Config) {},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, announced("here", "127.0.0.1", "10.244.1.0/24"))
			e := c.start(t, change)
			require.Nil(t, e.host)
			eventually(t, "all to be read", e.Ready)
			require.Len(t, e.Flannel().Nodes, 1)
			require.Empty(t, e.Flannel().Host)
			require.Nil(t, c.differences(t))
		})
	}
}

func TestNodesAreCurrent(t *testing.T) {
	c := newCluster(t, announced("here", "127.0.0.1", "10.244.1.0/24"))
	e := c.start(t)
	eventually(t, "all to be read", e.Ready)
	now := time.Now()
	require.True(t, e.nodesCurrent(now))
	for _, r := range e.resources {
		r.listed(context.Background(), errors.New("connection refused"))
	}
	require.False(t, e.nodesCurrent(now.Add(time.Minute)))
	require.True(t, e.nodesCurrent(now.Add(staleNodes+time.Minute)))
}
