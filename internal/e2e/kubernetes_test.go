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

// startNamed starts NetProbe on each node with the parts that name both ends.
func (c *cluster) startNamed(t *testing.T) [2]*agent {
	t.Helper()
	objects := c.objects(t)
	var agents [2]*agent
	for i, n := range c.nodes {
		a := &agent{host: n.namespace, sink: newSink(t, n.namespace)}
		a.process = n.launch(t, command(namedConfig(n.serveKubernetes(t, objects), n.k8sName())))
		a.waitReady(t)
		agents[i] = a
	}
	return agents
}

func namedConfig(kubeconfig, node string) string {
	return fmt.Sprintf(`
receivers:
  ebpfnet: {interval: 200ms, flows: {identify_ends: true}}
processors:
  k8s_flow: {node: %[2]s, wait_timeout: 30s}
exporters:
  prometheus: {endpoint: "127.0.0.1:9464", without_scope_info: true}
  otlp_http: {endpoint: "http://%[3]s", compression: none}
extensions:
  health_check: {endpoint: "127.0.0.1:13133"}
  k8s_inventory: {kubeconfig: %[1]q, flannel: {host: "off"}}
service:
  extensions: [health_check, k8s_inventory]
  telemetry: {metrics: {readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: 8888, without_type_suffix: true, without_units: true}}}}]}}
  pipelines:
    metrics: {receivers: [ebpfnet], processors: [k8s_flow], exporters: [prometheus]}
    logs: {receivers: [ebpfnet], processors: [k8s_flow], exporters: [otlp_http]}
`, kubeconfig, node, otlpAddress)
}

// named is what a record says of its ends.
func named(attrs map[string]any) string {
	end := func(side string) string {
		key := func(name string) string {
			value, _ := attrs[side+"."+name].(string)
			return value
		}
		return key("k8s.pod.name") + "/" + key("k8s.deployment.name") + "/" + key("k8s.service.name") + "/" + key("k8s.node.name")
	}
	return fmt.Sprint(end("source"), " ", end("destination"), " ", attrs["netprobe.flow.direction"], " ", attrs["netprobe.flow.reporter"])
}

// With real packets, through the whole pipeline and over both IP versions: each end of a
// flow has its name on either node that sees it, and over both nodes each flow and each
// packet is counted once.
func TestKubernetesNamesBothEnds(t *testing.T) {
	const connections = 5
	c := newCluster(t)
	agents := c.startNamed(t)
	remote, local := c.services()
	client, host := c.nodes[0].pods[0], c.nodes[0].host
	for _, v := range []ipVersion{ipv4, ipv6} {
		for _, tt := range []struct {
			name           string
			client, server *place
			service        *service
			// of the packets that the client sends, on its node, and on the server's where
			// that is another one
			here, there string
		}{
			{"pod to pod on a node", client, c.nodes[0].pods[1], nil, "client-1/client//node1 web-1/web//node1 intra-node both", ""},
			{
				"pod to pod across nodes", client, c.nodes[1].pods[1], nil,
				"client-1/client//node1 web-2/web//node2 inter-node source", "client-1/client//node1 web-2/web//node2 inter-node destination",
			},
			{"pod to service on its node", client, local.backend, &local, "client-1/client//node1 web-1/web/local/node1 intra-node both", ""},
			{
				"pod to service on another node", client, remote.backend, &remote,
				"client-1/client//node1 client-2/client/remote/node2 inter-node source", "client-1/client//node1 client-2/client//node2 inter-node destination",
			},
			{"node to its pod", host, c.nodes[0].pods[1], nil, "///node1 web-1/web//node1 intra-node both", ""},
			{"pod to outside", client, c.outside, nil, "client-1/client//node1 /// egress source", ""},
			{"outside to pod", c.outside, c.nodes[0].pods[1], nil, "/// web-1/web//node1 ingress destination", ""},
		} {
			t.Run(tt.name+" over "+string(v), func(t *testing.T) {
				conv := conversation{tt.name, v, tt.client, tt.server, tt.service}
				was := []int{count(agents[0], tt.here), count(agents[1], tt.there)}
				for range connections {
					conv.tcp(t, 100)
				}
				require.EventuallyWithT(t, func(t *assert.CollectT) {
					assert.GreaterOrEqual(t, count(agents[0], tt.here)-was[0], connections, "%s: %v", tt.here, allNames(agents[0]))
					if tt.there != "" {
						assert.GreaterOrEqual(t, count(agents[1], tt.there)-was[1], connections, "%s: %v", tt.there, allNames(agents[1]))
					}
				}, patience, glance)
			})
		}
	}
	t.Run("each flow is counted once", func(t *testing.T) { requireFlowsOnce(t, c, 2*connections) })
}

// requireFlowsOnce checks the sums over both nodes: so many of each kind there were.
func requireFlowsOnce(t *testing.T, c *cluster, each int) {
	want := map[string]int{
		"netprobe_k8s_pod_flows_total": 4, "netprobe_k8s_service_flows_total": 2,
		"netprobe_k8s_inter_node_flows_total": 2, "netprobe_k8s_intra_node_flows_total": 3,
	}
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		for metric, kinds := range want {
			var sum float64
			for _, n := range c.nodes {
				sum += n.scrape(t, prometheusURL).sum(metric, map[string]string{"network_transport": "tcp"})
			}
			assert.EqualValues(t, kinds*each, sum, metric)
		}
	}, patience, glance)
}

// count is how many records of TCP an agent has given with these names.
func count(a *agent, names string) int { return allNames(a)[names] }

func allNames(a *agent) map[string]int {
	all := map[string]int{}
	for _, r := range a.sink.records(func(attrs map[string]any) bool {
		return attrs["network.transport"] == "tcp" && attrs["netprobe.flow.bytes"] != nil
	}) {
		all[named(r.attrs)]++
	}
	return all
}
