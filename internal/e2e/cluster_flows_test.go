// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// taps are captures by where they are.
type taps map[*namespace]map[string]*tap

// tap captures on all devices of pods, of nodes and of the outside, and on the
// fabric's ends of the links to nodes.
func (c *cluster) tap(t *testing.T) taps {
	t.Helper()
	all := taps{}
	for n, devices := range c.devices() {
		all[n] = map[string]*tap{}
		for _, device := range devices {
			all[n][device] = n.tap(t, device)
		}
	}
	return all
}

func (ts taps) requireComplete(t *testing.T) {
	t.Helper()
	for _, devices := range ts {
		for _, p := range devices {
			p.requireComplete(t)
		}
	}
}

// sent is what the sender of a flight has sent of it.
func (ts taps) sent(f *flight) volume {
	n, device, key := f.leavesBy()
	return ts[n][device].flow(out, key)
}

func (f *flight) String() string {
	way := "to client"
	if f.toServer {
		way = "to server"
	}
	return fmt.Sprintf("%s, %s, %s", f.name, f.kind, way)
}

// holdAll holds all conversations and gives what was sent.
func (c *cluster) holdAll(t *testing.T) []flight {
	t.Helper()
	var flights []flight
	for _, conv := range c.conversations() {
		flights = append(flights, conv.hold(t, 32<<10)...)
	}
	return flights
}

// byKey gives the flow records so far by their own tuple.
func (s *sink) byKey() map[flowKey][]record {
	all := map[flowKey][]record{}
	for _, r := range s.records(isFlow) {
		all[r.key()] = append(all[r.key()], r)
	}
	return all
}

func isFlow(attrs map[string]any) bool { return attrs["netprobe.flow.packets"] != nil }

// of gives the records of a flight under either of its tuples.
func recordsOf(all map[flowKey][]record, f *flight) []record {
	found := all[f.client]
	if f.translated() {
		found = slices.Concat(found, all[f.server])
	}
	return found
}

// difference says in words where the records of a flight on a node do not add up to
// what was sent: once on each node that it passes, and not on another.
func (f *flight) difference(n *node, records []record, sent volume) string {
	path := f.path(n)
	if len(path) == 0 {
		sent = volume{}
	}
	var have volume
	var where []string
	for _, r := range records {
		have = have.plus(r.volume())
		where = append(where, r.sighting())
	}
	if have == sent {
		return ""
	}
	slices.Sort(where)
	return fmt.Sprintf("%s: sent %s; on node %d NetProbe has counted %s %v, of what crosses %v", f, sent, n.number, have, slices.Compact(where), path)
}

// differences gives those of all flights on a node.
func differences(n *node, all map[flowKey][]record, flights []flight, sent taps) string {
	var b strings.Builder
	for i := range flights {
		f := &flights[i]
		if d := f.difference(n, recordsOf(all, f), sent.sent(f)); d != "" {
			fmt.Fprintln(&b, d)
		}
	}
	return b.String()
}

// waitCounted waits until the records have at least what was sent.
func (a *agent) waitCounted(t *testing.T, flights []flight, n *node, sent taps) {
	t.Helper()
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		all := a.sink.byKey()
		for i := range flights {
			f := &flights[i]
			var have volume
			for _, r := range recordsOf(all, f) {
				have = have.plus(r.volume())
			}
			if want := sent.sent(f); len(f.path(n)) > 0 {
				assert.NotZero(t, want, "captured of %s", f)
				assert.GreaterOrEqual(t, have.packets, want.packets, "packets of %s on node %d", f, n.number)
			}
		}
	}, patience, glance)
}

// sighting is where a record was counted.
func (r record) sighting() string {
	name, _ := r.attrs["network.interface.name"].(string)
	direction, _ := r.attrs["netprobe.observation.direction"].(string)
	return sighting{device: name, direction: direction}.String()
}

// initiator is the side of its packets that opened the conversation.
func (f *flight) initiator() string {
	if f.toServer {
		return "source"
	}
	return "destination"
}

func TestClusterCountsEachPacketOnce(t *testing.T) {
	c := newCluster(t)
	c.switchOffloadsOff(t)
	sent := c.tap(t)
	// nothing is read before the end, so that what belongs together is together
	agents := c.start(t, `{interval: 1h}`)
	flights := c.holdAll(t)
	for _, a := range agents {
		require.True(t, a.stop(t, syscall.SIGTERM).Success())
	}
	sent.requireComplete(t)
	for i, n := range c.nodes {
		all := agents[i].sink.byKey()
		for j := range flights {
			f := &flights[j]
			t.Run(fmt.Sprintf("%s, on node %d", f, n.number), func(t *testing.T) {
				require.NotZero(t, sent.sent(f), "nothing of it was captured")
				records := recordsOf(all, f)
				require.Empty(t, f.difference(n, records, sent.sent(f)))
				if len(f.path(n)) == 0 {
					return
				}
				require.Len(t, records, 1, "records of one interval")
				requireAttributes(t, records[0], f.attributes(c, n))
			})
		}
	}
	c.checkCommunityIDs(t, agents, flights)
}

// attributes are those of a record of a flight on a node that are known before.
// nil stands for one that is not there.
func (f *flight) attributes(c *cluster, n *node) map[string]any {
	path := f.path(n)
	own := owner(path)
	key := f.key(own)
	want := map[string]any{
		"source.address": key.source.String(), "destination.address": key.destination.String(),
		"source.port": nil, "destination.port": nil, "netprobe.icmp.type": nil, "netprobe.icmp.code": nil,
		"network.transport": key.transport, "network.type": string(f.version),
		"network.interface.name": own.device, "netprobe.observation.direction": own.direction,
		"netprobe.observation.netns": int64(n.inode), "netprobe.observation.interfaces": nil,
		"netprobe.flow.initiator_evidence": nil,
	}
	f.setPorts(want, key)
	if others := f.others(path); len(others) > 0 {
		want["netprobe.observation.interfaces"] = anys(others)
	}
	f.setTunnel(want, c, path)
	f.setNAT(want, n, own)
	if key.transport == "tcp" {
		want["netprobe.flow.initiator_evidence"] = "syn"
		want["netprobe.flow.initiator"] = f.initiator()
	} else {
		delete(want, "netprobe.flow.initiator_evidence") // it may be known
	}
	return want
}

func anys(names []string) []any {
	all := make([]any, len(names))
	for i, name := range names {
		all[i] = name
	}
	return all
}

func (f *flight) setPorts(want map[string]any, key flowKey) {
	switch {
	case !key.hasPorts:
	case key.transport == "tcp" || key.transport == "udp":
		want["source.port"], want["destination.port"] = int64(key.sourcePort), int64(key.destinationPort)
	default:
		want["netprobe.icmp.type"], want["netprobe.icmp.code"] = int64(key.sourcePort), int64(key.destinationPort)
	}
}

// setTunnel sets the tunnel that the owner, or another with the same tuple, knows.
func (f *flight) setTunnel(want map[string]any, c *cluster, path []sighting) {
	for _, key := range []string{"type", "id", "source.address", "destination.address", "nested"} {
		want["netprobe.tunnel."+key] = nil
	}
	own := owner(path)
	known := slices.ContainsFunc(path, func(s sighting) bool {
		return s.wrapped && (f.server.hasPorts || f.key(s) == f.key(own))
	})
	if !known {
		return
	}
	from, to := f.ends()
	want["netprobe.tunnel.type"], want["netprobe.tunnel.id"] = "vxlan", int64(overlayID)
	want["netprobe.tunnel.source.address"] = from.node.host.addrs.v4.String()
	want["netprobe.tunnel.destination.address"] = to.node.host.addrs.v4.String()
}

// setNAT sets what differs on the other side of a translation, which the client's
// node makes. Later fragments have no ports to know it by.
func (f *flight) setNAT(want map[string]any, n *node, own sighting) {
	for _, end := range []string{"source", "destination"} {
		want["netprobe.nat."+end+".address"], want["netprobe.nat."+end+".port"] = nil, nil
	}
	want["netprobe.nat.original"] = nil
	if !f.translated() || n != f.conversation.client.node || !f.server.hasPorts {
		return
	}
	key, other := f.key(own), f.client
	if key == f.client {
		other = f.server
	}
	want["netprobe.nat.original"] = key == f.client
	ports := key.transport == "tcp" || key.transport == "udp"
	if other.source != key.source || other.sourcePort != key.sourcePort {
		want["netprobe.nat.source.address"] = other.source.String()
		if ports {
			want["netprobe.nat.source.port"] = int64(other.sourcePort)
		}
	}
	if other.destination != key.destination || other.destinationPort != key.destinationPort {
		want["netprobe.nat.destination.address"] = other.destination.String()
		if ports {
			want["netprobe.nat.destination.port"] = int64(other.destinationPort)
		}
	}
}

// requireAttributes looks only at what is wanted.
func requireAttributes(t *testing.T, r record, want map[string]any) {
	t.Helper()
	have := map[string]any{}
	for key := range want {
		have[key] = r.attrs[key]
	}
	require.Equal(t, want, have)
}

// checkCommunityIDs checks that both directions have the same on a node.
// Later fragments of what is translated are only known by their addresses.
func (c *cluster) checkCommunityIDs(t *testing.T, agents [2]*agent, flights []flight) {
	t.Helper()
	for i, n := range c.nodes {
		all := agents[i].sink.byKey()
		for j := 0; j < len(flights); j += 2 {
			there, back := &flights[j], &flights[j+1]
			if len(there.path(n)) == 0 || there.translated() && !there.server.hasPorts {
				continue
			}
			ids := map[any]bool{}
			for _, r := range slices.Concat(recordsOf(all, there), recordsOf(all, back)) {
				require.Regexp(t, `^1:[A-Za-z0-9+/]{27}=$`, r.attrs["netprobe.flow.community_id"])
				ids[r.attrs["netprobe.flow.community_id"]] = true
			}
			assert.Len(t, ids, 1, "community IDs of %s, %s on node %d", there.name, there.kind, n.number)
		}
	}
}
