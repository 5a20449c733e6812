// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// segmentAt makes devices send what a wire would carry. All others go on passing
// what the sender made, which is many segments in one.
func (n *namespace) segmentAt(t *testing.T, devices ...string) {
	t.Helper()
	for _, device := range devices {
		require.NoError(t, n.in(func() error { return switchOffloadsOff(device) }))
	}
}

// arrived is what the receiver has got of a flight, which is as on a wire there.
func (ts taps) arrived(f *flight) volume {
	_, to := f.ends()
	key := f.client
	if f.toServer {
		key = f.server
	}
	return ts[to.namespace][podDevice].flow(in, key)
}

func TestClusterCountsSegmentsOfTheWire(t *testing.T) {
	for _, tt := range []struct {
		name string
		// wire: the network between the nodes carries segments, else it hands
		// on from node to node what it is given.
		wire bool
	}{
		{"segments between the nodes", true},
		{"nothing cut between the nodes", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			for _, n := range c.nodes {
				n.segmentAt(t, "vetha", "vethb") // the last devices before the pods
			}
			if tt.wire {
				c.fabric.segmentAt(t, "node1", "node2")
			}
			agents := c.start(t, `{interval: 200ms}`)
			seen := c.tap(t) // what NetProbe has not seen is no part of its counters
			var flights []flight
			for _, conv := range c.conversations() {
				if conv.service == nil && conv.client == c.nodes[0].pods[0] && conv.server.isPod() {
					client, server := conv.tcp(t, 8<<20)
					flights = append(flights, conv.flights("TCP", "tcp", client, server, true)...)
				}
			}
			require.Len(t, flights, 8)
			seen.requireComplete(t)
			seen.requireFewerThanArrived(t, flights)

			for i, n := range c.nodes {
				for j := range flights {
					f := &flights[j]
					if len(f.path(n)) == 0 {
						continue
					}
					t.Run(fmt.Sprintf("%s, on node %d", f, n.number), func(t *testing.T) {
						require.Greater(t, seen.arrived(f).bytes, uint64(8<<20))
						require.EventuallyWithT(t, func(t *assert.CollectT) {
							assert.Empty(t, f.difference(n, recordsOf(agents[i].sink.byKey(), f), seen.arrived(f)))
						}, patience, glance)
					})
				}
				t.Run(fmt.Sprintf("uplink of node %d", n.number), func(t *testing.T) {
					require.EventuallyWithT(t, func(t *assert.CollectT) {
						have := n.scrape(t, prometheusURL).counters(t, uplink)
						assert.Equal(t, c.wireFrames(n, out, flights, seen), volume{have.TxPackets, have.TxBytes}, "sent, as frames on a wire and as NetProbe says")
						assert.Equal(t, c.wireFrames(n, in, flights, seen), volume{have.RxPackets, have.RxBytes}, "received, as frames on a wire and as NetProbe says")
					}, patience, glance)
				})
			}
		})
	}
}

// requireFewerThanArrived makes sure that there was something to cut: what the pods
// sent came in more pieces.
func (ts taps) requireFewerThanArrived(t *testing.T, flights []flight) {
	t.Helper()
	for i := range flights {
		f := &flights[i]
		require.Less(t, ts.sent(f).packets, ts.arrived(f).packets/2, "the sender of %s segments by itself", f)
	}
}

// wireFrames are those of a node's uplink as a wire would carry them: of the
// conversations what arrived, in VXLAN, and the rest as it is.
func (c *cluster) wireFrames(n *node, direction string, flights []flight, seen taps) volume {
	sum := seen[n.namespace][uplink].sum(direction, func(k flowKey) bool { return !isOverlay(k) })
	for i := range flights {
		f := &flights[i]
		from, to := f.ends()
		if f.tunnelled() && (direction == out && from.node == n || direction == in && to.node == n) {
			v := seen.arrived(f)
			sum = sum.plus(volume{v.packets, v.bytes + overlayHeader*v.packets})
		}
	}
	return sum
}
