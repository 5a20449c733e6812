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

func TestClusterInterfacesCountForThemselves(t *testing.T) {
	c := newCluster(t)
	c.switchOffloadsOff(t)
	sent := c.tap(t)
	agents := c.start(t, `{interval: 200ms, flows: {per_interface: true}}`)
	flights := c.holdAll(t)
	for i, n := range c.nodes {
		t.Run(fmt.Sprintf("records of node %d", n.number), func(t *testing.T) {
			for j := range flights {
				f := &flights[j]
				for _, s := range f.path(n) {
					require.EventuallyWithT(t, func(t *assert.CollectT) {
						var have volume
						for _, r := range agents[i].sink.byKey()[f.key(s)] {
							if r.sighting() == s.String() {
								have = have.plus(r.volume())
								assert.NotContains(t, r.attrs, "netprobe.observation.interfaces")
							}
						}
						assert.Equal(t, sent.at(n, s, f), have, "captured, and counted, of %s %s on node %d", f, s, n.number)
					}, patience, glance)
				}
			}
		})
		for _, device := range []string{"vetha", "vethb", bridge, overlay, uplink} {
			t.Run(fmt.Sprintf("%s of node %d", device, n.number), func(t *testing.T) {
				require.EventuallyWithT(t, func(t *assert.CollectT) {
					c.checkInterface(t, agents[i], n, device, sent)
				}, patience, glance)
			})
		}
	}
	sent.requireComplete(t)
}

// at is what was captured of a flight at a sighting. In the tunnel, it is what was
// sent.
func (ts taps) at(n *node, s sighting, f *flight) volume {
	if s.wrapped {
		return ts.sent(f)
	}
	return ts[n.namespace][s.device].flow(s.direction, f.key(s))
}

// checkInterface compares the records, the flow metrics and the counters of an
// interface. Frames that are not IP have no record, and those of tunnels the inner
// frame's bytes.
func (c *cluster) checkInterface(t *assert.CollectT, a *agent, n *node, device string, sent taps) {
	all := n.scrape(t, prometheusURL)
	counters := all.counters(t, device)
	for direction, counted := range map[string]volume{
		in:  {counters.RxPackets, counters.RxBytes},
		out: {counters.TxPackets, counters.TxBytes},
	} {
		captured := sent[n.namespace][device]
		var have volume
		for _, r := range a.sink.records(isFlow) {
			if r.sighting() == (sighting{device: device, direction: direction}).String() {
				have = have.plus(r.volume())
			}
		}
		series := map[string]string{"network_interface_name": device, "netprobe_observation_direction": direction}
		assert.Equal(t, have, volume{
			uint64(all.sum("netprobe_flow_packets_total", series)), uint64(all.sum("netprobe_flow_bytes_total", series)),
		}, "records and flow metrics, %s at %s", direction, device)
		wrapped := captured.sum(direction, isOverlay).packets
		other := captured.sum(direction, func(k flowKey) bool { return k == flowKey{} })
		assert.Equal(t, counted, have.plus(other).plus(volume{0, overlayHeader * wrapped}),
			"counters, and records with what is not IP (%s) and headers of %d tunnelled packets, %s at %s", other, wrapped, direction, device)
	}
}
