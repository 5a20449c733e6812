// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const topologyURL = "http://127.0.0.1:8081"

// topologyConfig is the receiver with the graph, whose history is kept in a directory.
func topologyConfig(directory string) string {
	return fmt.Sprintf(`
receivers:
  ebpfnet: {interfaces: {exclude: [lo]}, interval: 500ms}
exporters:
  topology:
extensions:
  health_check: {endpoint: "127.0.0.1:13133"}
  file_storage: {directory: %q}
  topology: {endpoint: "127.0.0.1:8081", storage: file_storage, graph: {refresh: 0s}, history: {flush_interval: 1s}}
service:
  extensions: [health_check, file_storage, topology]
  telemetry: {metrics: {readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: 8888, without_type_suffix: true, without_units: true}}}}]}}
  pipelines:
    metrics: {receivers: [ebpfnet], exporters: [topology]}
    logs: {receivers: [ebpfnet], exporters: [topology]}
`, directory)
}

type (
	apiCounters struct{ Bytes, Packets, Flows int64 }

	apiEdge struct {
		Source, Target          string
		Forward, Reverse, Total apiCounters
		Protocols               []struct {
			Transport string
			Port      int
			Bytes     int64
		}
	}

	apiGraph struct{ Edges []apiEdge }

	apiFlows struct {
		Items []struct {
			Source, Destination struct {
				Address string
				Port    int
			}
			Transport      string
			Bytes, Packets int64
		}
		Total int
	}

	apiInterfaces struct {
		Items []struct {
			Name   string
			Rx, Tx apiCounters
		}
	}
)

func (n *namespace) api(t require.TestingT, path string, to any) {
	resp, err := n.client.Get(topologyURL + path)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(t, http.StatusOK, resp.StatusCode, path)
	require.NoError(t, json.NewDecoder(resp.Body).Decode(to), path)
}

func (g *apiGraph) edge(t require.TestingT, from, to string) *apiEdge {
	for i := range g.Edges {
		if e := &g.Edges[i]; e.Source == from && e.Target == to {
			return e
		}
	}
	require.FailNow(t, "there is no such edge", "%s -> %s of %+v", from, to, g.Edges)
	return nil
}

// What the graph, the list of flows and the interfaces say is what the kernel counted; a
// process that is killed leaves its history to the next.
func TestTopology(t *testing.T) {
	lab := newLab(t)
	link := lab.link(t, "va")
	link.up(t)
	directory := t.TempDir()
	begin := func() *agent {
		a := &agent{host: lab.near}
		a.process = lab.near.launch(t, command(topologyConfig(directory)))
		a.waitReady(t)
		return a
	}
	a := begin()
	c := conversation{
		name: "near to far", version: ipv4,
		client: &place{name: "near", namespace: lab.near, addrs: addresses{v4: link.near4, v6: link.near6}},
		server: &place{name: "far", namespace: lab.far, addrs: addresses{v4: link.far4, v6: link.far6}},
	}
	before := link.kernel(t)
	client, server := c.tcp(t, 1<<20)
	after := link.kernel(t).sub(before)
	near, far := "external:"+client.source.Addr().String(), "external:"+server.destination.Addr().String()

	var edge apiEdge
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var graph apiGraph
		lab.near.api(c, "/api/topology", &graph)
		edge = *graph.edge(c, near, far)
		// each way a megabyte and headers
		require.Greater(c, edge.Forward.Bytes, int64(1<<20))
		require.Greater(c, edge.Reverse.Bytes, int64(1<<20))
		var flows apiFlows
		lab.near.api(c, fmt.Sprintf("/api/flows?protocol=tcp&limit=1000&port=%d", client.source.Port()), &flows)
		require.Equal(c, flows.Total, len(flows.Items))
		var sent, received apiCounters
		for _, f := range flows.Items {
			to := &received
			if f.Source.Address == client.source.Addr().String() {
				to = &sent
			}
			to.Bytes += f.Bytes
			to.Packets += f.Packets
		}
		// the list has what the edge has, and both what the kernel sent and received; there is
		// no other traffic but of neighbours and ICMPv6
		require.Equal(c, sent.Bytes, edge.Forward.Bytes)
		require.Equal(c, received.Bytes, edge.Reverse.Bytes)
		require.Equal(c, sent.Packets, edge.Forward.Packets)
		require.InDelta(c, after.TxBytes, sent.Bytes, 2000)
		require.InDelta(c, after.RxBytes, received.Bytes, 2000)
		require.LessOrEqual(c, sent.Bytes, int64(after.TxBytes))
	}, patience, glance)
	require.Equal(t, int64(1), edge.Forward.Flows+edge.Reverse.Flows)
	require.Equal(t, int(server.destination.Port()), edge.Protocols[0].Port)

	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var faces apiInterfaces
		lab.near.api(c, "/api/interfaces", &faces)
		require.Len(c, faces.Items, 1)
		require.Equal(c, "va", faces.Items[0].Name)
		total := link.kernel(c)
		require.InDelta(c, total.TxBytes, faces.Items[0].Tx.Bytes, 2000)
		require.InDelta(c, total.RxBytes, faces.Items[0].Rx.Bytes, 2000)
	}, patience, glance)

	// and after a kill
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var health struct{ Graph struct{ Edges int } }
		lab.near.api(c, "/api/health", &health)
		assert.Positive(c, health.Graph.Edges)
		assert.Greater(c, a.uptime(c), a.ready+3) // what is stored each second has been
	}, patience, glance)
	a.process.stop(t, syscall.SIGKILL)
	a = begin()
	var graph apiGraph
	lab.near.api(t, "/api/topology", &graph)
	again := graph.edge(t, near, far)
	require.Equal(t, edge.Forward, again.Forward)
	require.Equal(t, edge.Reverse, again.Reverse)
	a.stop(t, syscall.SIGTERM)
}
