// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package clustertest has a small cluster for tests: two nodes with flannel's VXLAN,
// pods of several kinds, and services.
package clustertest // import "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/clustertest"

import (
	"net/netip"
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// Addresses. Nodes are n1 and n2, of zones a and b.
const (
	Node1, Node2   = "192.168.0.1", "192.168.0.2"
	Gateway1       = "10.244.1.0" // node 1's end of the pods' network
	Client1        = "10.244.1.2" // pod of Deployment shop/client, on n1
	Web1           = "10.244.1.3" // pods of Deployment shop/web, on n1 and n2
	Web2           = "10.244.2.3"
	DB2            = "10.244.2.4" // pod of StatefulSet data/db, behind a headless service
	Rollout2       = "10.244.2.5" // pod of something that is not Kubernetes' own
	Bare1          = "10.244.1.9" // pod default/bare, which nothing manages, on n1
	Static1        = "10.244.1.8" // pod default/static, of n1's kubelet
	Client1v6      = "fd00:1::2"
	Web2v6         = "fd00:2::3"
	WebService     = "10.96.0.10" // shop/web, TCP 80, node port 30080
	WebServiceV6   = "fd00:ff::10"
	Outside        = "203.0.113.9"
	NodeShell      = "c0ffee" // container of DaemonSet kube-system/agent, in n1's network
	NodeShell2     = "c0ffee2"
	WebContainer1  = "c0de1"
	WebBackendPort = 8080
	WebServicePort = 80
	WebNodePort    = 30080
)

// Start is when all pods got their addresses.
var Start = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)

// New gives the cluster.
func New() *inventory.Store {
	s := inventory.NewStore(time.Minute)
	for i, n := range []struct{ name, zone, address, v4, v6 string }{
		{"n1", "a", Node1, "10.244.1.0/24", "fd00:1::/64"}, {"n2", "b", Node2, "10.244.2.0/24", "fd00:2::/64"},
	} {
		s.SetNode(&inventory.Node{
			UID: inventory.UID("node-" + n.name), Name: n.name, Zone: n.zone, Addresses: addrs(n.address),
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix(n.v4), netip.MustParsePrefix(n.v6)},
			Flannel: &inventory.Flannel{Backend: "vxlan", V4: &inventory.FlannelBackend{
				PublicIP: netip.MustParseAddr(n.address), VNI: 1, HasVNI: true, VTEPMAC: []byte{2, 0, 0, 0, 0, byte(i)},
			}},
		})
	}
	s.SetOwner("rs-client", inventory.Workload{Kind: "Deployment", Name: "client"})
	s.SetOwner("rs-web", inventory.Workload{Kind: "Deployment", Name: "web"})
	for _, p := range []*inventory.Pod{
		pod("client-1", "shop", "n1", inventory.Workload{Kind: "ReplicaSet", Name: "client-abc", UID: "rs-client"}, Client1, Client1v6),
		pod("web-1", "shop", "n1", inventory.Workload{Kind: "ReplicaSet", Name: "web-abc", UID: "rs-web"}, Web1),
		pod("web-2", "shop", "n2", inventory.Workload{Kind: "ReplicaSet", Name: "web-abc", UID: "rs-web"}, Web2, Web2v6),
		pod("db-0", "data", "n2", inventory.Workload{Kind: "StatefulSet", Name: "db"}, DB2),
		pod("canary", "shop", "n2", inventory.Workload{Kind: "Rollout", Name: "canary"}, Rollout2),
		pod("bare", "default", "n1", inventory.Workload{}, Bare1), pod("static", "default", "n1", inventory.Workload{Kind: "Node", Name: "n1"}, Static1),
		hostPod("agent-1", "n1", NodeShell, 9100), hostPod("agent-2", "n2", NodeShell2, 9100),
	} {
		if p.Name == "web-1" {
			p.ContainerIDs = []string{WebContainer1}
			p.Labels = []inventory.KeyValue{{Key: "k8s.pod.label.tier", Value: "front"}}
		}
		s.SetPod(p)
	}
	s.SetService(&inventory.Service{
		UID: "svc-web", Namespace: "shop", Name: "web", Type: "NodePort", Addresses: addrs(WebService, WebServiceV6),
		Ports: []inventory.ServicePort{{Port: inventory.Port{Protocol: flow.TCP, Port: WebServicePort}, NodePort: WebNodePort}},
	})
	s.SetService(&inventory.Service{UID: "svc-db", Namespace: "data", Name: "db", Type: "ClusterIP", Headless: true})
	s.SetEndpoints(&inventory.Endpoints{
		UID: "slice-web", Namespace: "shop", Service: "web", Addresses: addrs(Web1, Web2),
		Ports: []inventory.Port{{Protocol: flow.TCP, Port: WebBackendPort}},
	})
	s.SetEndpoints(&inventory.Endpoints{
		UID: "slice-db", Namespace: "data", Service: "db", Addresses: addrs(DB2), Ports: []inventory.Port{{Protocol: flow.TCP, Port: 5432}},
	})
	s.SetReady(true)
	return s
}

func pod(name, namespace, node string, controller inventory.Workload, addresses ...string) *inventory.Pod {
	return &inventory.Pod{
		UID: inventory.UID("uid-" + name), Name: name, Namespace: namespace, Node: node, Controller: controller,
		Addresses: addrs(addresses...), From: Start,
	}
}

func hostPod(name, node, container string, port uint16) *inventory.Pod {
	p := pod(name, "kube-system", node, inventory.Workload{Kind: "DaemonSet", Name: "agent"})
	p.HostNetwork, p.ContainerIDs = true, []string{container}
	p.HostPorts = []inventory.Port{{Protocol: flow.TCP, Port: port}}
	return p
}

func addrs(all ...string) []netip.Addr {
	out := make([]netip.Addr, len(all))
	for i, a := range all {
		out[i] = netip.MustParseAddr(a)
	}
	return out
}
