// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestClusterAtRestHasNothingUnaccounted(t *testing.T) {
	for _, bridged := range []string{"0", "1"} {
		t.Run("bridge-nf-call "+bridged, func(t *testing.T) {
			if bridged == "1" && !hasBridgeFilters() {
				t.Skip("the module br_netfilter is not loaded")
			}
			c := newCluster(t)
			for _, n := range c.nodes {
				n.filterBridged(t, bridged)
			}
			c.requireNothingUnaccounted(t)
		})
	}
}

func (c *cluster) requireNothingUnaccounted(t *testing.T) {
	t.Helper()
	c.switchOffloadsOff(t)
	sent := c.tap(t)
	agents := c.start(t, `{interval: 200ms}`)
	flights := c.holdAll(t)
	c.toAll(t)

	for i, n := range c.nodes {
		t.Run(fmt.Sprintf("ledger of node %d", n.number), func(t *testing.T) {
			require.EventuallyWithT(t, func(t *assert.CollectT) {
				assert.Empty(t, n.scrape(t, selfURL).imbalance())
			}, patience, glance)
			requireNothingLost(t, agents[i])
		})
		t.Run(fmt.Sprintf("tunnels of node %d", n.number), func(t *testing.T) {
			c.requireTunnels(t, n, sent)
			events := agents[i].sink.tunnelEvents()
			require.Len(t, events, 1)
			requireTunnelEvent(t, c, n, events[0], "up")
		})
		t.Run(fmt.Sprintf("flows of node %d", n.number), func(t *testing.T) {
			agents[i].waitCounted(t, flights, n, sent)
			all := agents[i].sink.byKey()
			assert.Empty(t, differences(n, all, flights, sent))
			for j := range flights {
				checkOneOwner(t, &flights[j], n, recordsOf(all, &flights[j]))
			}
		})
	}
	sent.requireComplete(t)
}

// checkOneOwner checks the records of many intervals. What several devices tell
// of a packet may have come in two of them.
func checkOneOwner(t *testing.T, f *flight, n *node, records []record) {
	t.Helper()
	path := f.path(n)
	if len(path) == 0 {
		assert.Empty(t, records, "%s passes node %d by", f, n.number)
		return
	}
	own := owner(path)
	for _, r := range records {
		assert.Equal(t, own.String(), r.sighting(), f)
		names, _ := r.attrs["netprobe.observation.interfaces"].([]any)
		assert.Subset(t, anys(f.others(path)), names, f)
		if f.client.transport == "tcp" {
			assert.Equal(t, f.initiator(), r.attrs["netprobe.flow.initiator"], f)
			assert.Equal(t, "syn", r.attrs["netprobe.flow.initiator_evidence"], f)
		}
	}
}

// toAll sends what many receive, and asks for what nobody has.
func (c *cluster) toAll(t *testing.T) {
	t.Helper()
	pod := c.nodes[0].pods[0]
	pod.execute(t, "", "ping", "-n", "-b", "-c", "2", "-i", "0.05", "-w", "2", "10.244.1.255")
	for _, group := range []struct{ network, from, to string }{
		{"udp4", "10.244.1.10:0", "10.244.1.255:9"},
		{"udp4", "10.244.1.10:0", "255.255.255.255:9"},
		{"udp4", "10.244.1.10:0", "224.0.0.99:9"},
		{"udp4", "10.244.1.10:0", "10.244.1.99:9"}, // ARP
		{"udp6", "[fd44:1::10]:0", fmt.Sprintf("[ff02::99%%%d]:9", pod.byName(t, podDevice).Attrs().Index)},
		{"udp6", "[fd44:1::10]:0", "[fd44:1::99]:9"}, // neighbour solicitation
	} {
		conn := pod.listenPacket(t, group.network, group.from)
		to, err := net.ResolveUDPAddr(group.network, group.to)
		require.NoError(t, err)
		_, err = conn.WriteTo(make([]byte, 100), to)
		require.NoError(t, err, "send to %s", group.to)
	}
}

// requireTunnels waits until the node's totals of VXLAN are what crosses its uplink.
func (c *cluster) requireTunnels(t *testing.T, n *node, sent taps) {
	t.Helper()
	one, two := c.nodes[0].host.addrs.v4, c.nodes[1].host.addrs.v4
	captured := func(direction string) volume {
		return sent[n.namespace][uplink].sum(direction, isOverlay)
	}
	towards := map[string][2]string{"1": {one.String(), two.String()}, "2": {two.String(), one.String()}}
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		all := n.scrape(t, prometheusURL)
		var both volume
		for from, ends := range towards {
			direction := in
			if from == fmt.Sprint(n.number) {
				direction = out
			}
			series := map[string]string{
				"netprobe_tunnel_id": "1", "netprobe_tunnel_source_address": ends[0], "netprobe_tunnel_destination_address": ends[1],
			}
			want := captured(direction)
			assert.Greater(t, want.bytes, uint64(100<<10), "captured from node %s", from)
			assert.Equal(t, want, volume{
				uint64(all.value(t, "netprobe_vxlan_packets_total", series)), uint64(all.value(t, "netprobe_vxlan_bytes_total", series)),
			}, "captured on the uplink, and counted, from node %s", from)
			both = both.plus(want)
		}
		assert.Len(t, all["netprobe_vxlan_packets_total"].GetMetric(), 2)
		assert.Equal(t, both.bytes, uint64(all.value(t, "netprobe_vxlan_vni_stats_total", map[string]string{"netprobe_tunnel_id": "1"})), "bytes of VNI 1")
		assert.InDelta(t, 1, all.value(t, "netprobe_vxlan_tunnels_active", map[string]string{}), 0)
	}, patience, glance)
}

func isOverlay(k flowKey) bool { return k.transport == "udp" && k.destinationPort == overlayPort }

// tunnelEvents gives those so far, oldest first.
func (s *sink) tunnelEvents() []record {
	return s.records(func(attrs map[string]any) bool { return attrs["netprobe.tunnel.state"] != nil })
}

// requireTunnelEvent checks an event of the tunnel. Which direction was first is
// less than the clock of flows tells apart.
func requireTunnelEvent(t *testing.T, c *cluster, n *node, r record, state string) {
	t.Helper()
	require.Equal(t, "netprobe.tunnel", r.EventName())
	want := map[string]any{
		"netprobe.tunnel.state": state, "netprobe.tunnel.type": "vxlan", "netprobe.tunnel.id": int64(overlayID),
		"netprobe.tunnel.source.address":      c.nodes[0].host.addrs.v4.String(),
		"netprobe.tunnel.destination.address": c.nodes[1].host.addrs.v4.String(),
		"netprobe.observation.netns":          int64(n.inode),
	}
	if r.attrs["netprobe.tunnel.source.address"] == want["netprobe.tunnel.destination.address"] {
		want["netprobe.tunnel.source.address"], want["netprobe.tunnel.destination.address"] =
			want["netprobe.tunnel.destination.address"], want["netprobe.tunnel.source.address"]
	}
	require.Equal(t, want, r.attrs)
}

func TestClusterTunnelGoesWithItsTraffic(t *testing.T) {
	c := newCluster(t)
	agents := c.start(t, `{interval: 100ms, tunnels: {idle_timeout: 300ms}}`)
	one, two := c.nodes[0].pods[0], c.nodes[1].pods[0]
	pairing{client: host{namespace: one.namespace}, server: host{addr: two.addrs.v4}}.ping(t, 1, 56)
	for i, n := range c.nodes {
		var events []record
		require.Eventually(t, func() bool {
			events = agents[i].sink.tunnelEvents()
			return len(events) >= 2
		}, patience, glance, "the tunnel is not said to have come and gone")
		require.Len(t, events, 2)
		requireTunnelEvent(t, c, n, events[0], "up")
		requireTunnelEvent(t, c, n, events[1], "down")
		require.GreaterOrEqual(t, events[1].Timestamp().AsTime().Sub(events[0].Timestamp().AsTime()).Milliseconds(), int64(300))
		require.EventuallyWithT(t, func(t *assert.CollectT) {
			assert.Zero(t, n.scrape(t, prometheusURL).value(t, "netprobe_vxlan_tunnels_active", map[string]string{}))
		}, patience, glance, "tunnels still active on node %d", n.number)
	}
}
