// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/topology"
)

// mappings are who has which address.
type mappings struct {
	Pods     map[string]string   `json:"pods"`
	Nodes    map[string]string   `json:"nodes"`
	Services map[string]string   `json:"services"`
	CIDRs    map[string]string   `json:"cidrs"`
	VNIs     map[string][]string `json:"vnis"`
}

const (
	podID     = "pod:"
	serviceID = "service:"
	nodeID    = "node:"
)

// mappings are the inventory's; without one those that records have told of.
func (e *topologyExtension) mappings() *mappings {
	m := &mappings{map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}, map[string][]string{}}
	if e.catalog == nil {
		e.mapRecords(m)
		return m
	}
	for _, p := range e.catalog.Pods() {
		if p.HostNetwork {
			continue // they have their node's
		}
		for _, a := range p.Addresses {
			m.Pods[a.String()] = podID + p.Namespace + "/" + p.Name
		}
	}
	for _, n := range e.catalog.Nodes() {
		for _, a := range n.Addresses {
			m.Nodes[a.String()] = nodeID + n.Name
		}
		for _, prefix := range n.PodCIDRs {
			m.CIDRs[prefix.String()] = n.Name
		}
		for vni := range vnisOf(n) {
			name := strconv.FormatUint(uint64(vni), 10)
			m.VNIs[name] = append(m.VNIs[name], n.Name)
		}
	}
	for _, s := range e.catalog.Services() {
		for _, a := range s.Addresses {
			m.Services[a.String()] = serviceID + s.Namespace + "/" + s.Name
		}
	}
	return m
}

func (e *topologyExtension) mapRecords(m *mappings) {
	s := e.Snapshot(5*time.Minute, time.Time{}, topology.LevelPod)
	for i := range s.Vertices {
		v := &s.Vertices[i]
		to := map[topology.Kind]map[string]string{topology.KindPod: m.Pods, topology.KindNode: m.Nodes, topology.KindService: m.Services}[v.Kind]
		for _, a := range v.Addresses {
			if to != nil {
				to[a.String()] = v.ID()
			}
		}
	}
	for i := range s.Edges {
		for _, vni := range s.Edges[i].VNIs {
			name := strconv.FormatInt(vni, 10)
			for _, at := range []int32{s.Edges[i].From, s.Edges[i].To} {
				if node := s.Vertices[at].Node; node != "" && !slices.Contains(m.VNIs[name], node) {
					m.VNIs[name] = append(m.VNIs[name], node)
				}
			}
		}
	}
	for _, nodes := range m.VNIs {
		slices.Sort(nodes)
	}
}

// vnisOf gives the networks of flannel that a node is in.
func vnisOf(n *inventory.Node) map[uint32]bool {
	vnis := map[uint32]bool{}
	if n.Flannel == nil {
		return vnis
	}
	for _, b := range []*inventory.FlannelBackend{n.Flannel.V4, n.Flannel.V6} {
		if b != nil && b.HasVNI {
			vnis[b.VNI] = true
		}
	}
	return vnis
}

type (
	clusterAnswer struct {
		Nodes      []clusterNode      `json:"nodes"`
		Counts     clusterCounts      `json:"counts"`
		Namespaces []clusterNamespace `json:"namespaces"`
		Inventory  string             `json:"inventory"`
	}

	clusterNode struct {
		Name      string   `json:"name"`
		Zone      string   `json:"zone,omitempty"`
		Ready     *bool    `json:"ready,omitempty"`
		Addresses []string `json:"addresses"`
		PodCIDRs  []string `json:"pod_cidrs"`
	}

	clusterCounts struct {
		Nodes      int `json:"nodes"`
		Namespaces int `json:"namespaces"`
		Pods       int `json:"pods"`
		Services   int `json:"services"`
	}

	clusterNamespace struct {
		Name     string `json:"name"`
		Pods     int    `json:"pods"`
		Services int    `json:"services"`
	}
)

// cluster counts what the inventory has; without one what records have told of.
func (e *topologyExtension) cluster(*query) (any, error) {
	out := &clusterAnswer{Nodes: []clusterNode{}, Namespaces: []clusterNamespace{}, Inventory: "none"}
	namespaces := map[string]*clusterNamespace{}
	namespace := func(name string) *clusterNamespace {
		n, ok := namespaces[name]
		if !ok {
			n = &clusterNamespace{Name: name}
			namespaces[name] = n
		}
		return n
	}
	switch {
	case e.catalog != nil:
		out.Inventory = "incomplete"
		if e.resolver.Ready() {
			out.Inventory = "complete"
		}
		for _, n := range e.catalog.Nodes() {
			out.Nodes = append(out.Nodes, clusterNode{n.Name, n.Zone, &n.Ready, textsOf(n.Addresses), textsOf(n.PodCIDRs)})
		}
		for _, p := range e.catalog.Pods() {
			namespace(p.Namespace).Pods++
			out.Counts.Pods++
		}
		for _, s := range e.catalog.Services() {
			namespace(s.Namespace).Services++
			out.Counts.Services++
		}
	default:
		e.clusterOfRecords(out, namespace)
	}
	for _, n := range namespaces {
		out.Namespaces = append(out.Namespaces, *n)
	}
	slices.SortFunc(out.Namespaces, func(a, b clusterNamespace) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Nodes, func(a, b clusterNode) int { return cmp.Compare(a.Name, b.Name) })
	out.Counts.Nodes, out.Counts.Namespaces = len(out.Nodes), len(out.Namespaces)
	return out, nil
}

func (e *topologyExtension) clusterOfRecords(out *clusterAnswer, namespace func(string) *clusterNamespace) {
	s := e.Snapshot(5*time.Minute, time.Time{}, topology.LevelPod)
	nodes, services := map[string]*clusterNode{}, map[string]bool{}
	for i := range s.Vertices {
		v := &s.Vertices[i]
		if v.Node != "" && nodes[v.Node] == nil {
			nodes[v.Node] = &clusterNode{Name: v.Node, Addresses: []string{}, PodCIDRs: []string{}}
		}
		switch v.Kind {
		case topology.KindPod:
			namespace(v.Namespace).Pods++
			out.Counts.Pods++
		case topology.KindService:
			services[v.Namespace+"/"+v.Name] = true
		case topology.KindNode:
			nodes[v.Node].Zone, nodes[v.Node].Addresses = v.Zone, textsOf(v.Addresses)
		}
	}
	for i := range s.Edges {
		if s.Edges[i].Service != "" {
			services[s.Edges[i].Service] = true
		}
	}
	for name := range services {
		for i := range len(name) {
			if name[i] == '/' {
				namespace(name[:i]).Services++
				break
			}
		}
	}
	out.Counts.Services = len(services)
	for _, n := range nodes {
		out.Nodes = append(out.Nodes, *n)
	}
}

func textsOf[T interface{ String() string }](list []T) []string {
	out := make([]string, 0, len(list))
	for _, each := range list {
		out = append(out, each.String())
	}
	return out
}

type (
	podAnswer struct {
		Namespace   string            `json:"namespace"`
		Name        string            `json:"name"`
		ID          string            `json:"id"`
		UID         string            `json:"uid,omitempty"`
		Node        string            `json:"node,omitempty"`
		Workload    *workload         `json:"workload,omitempty"`
		HostNetwork bool              `json:"host_network"`
		Addresses   []string          `json:"addresses"`
		Labels      map[string]string `json:"labels,omitempty"`
		From        *time.Time        `json:"from,omitempty"`
		Until       *time.Time        `json:"until,omitempty"`
	}

	serviceAnswer struct {
		Namespace string        `json:"namespace"`
		Name      string        `json:"name"`
		ID        string        `json:"id"`
		Type      string        `json:"type,omitempty"`
		Addresses []string      `json:"addresses"`
		Ports     []servicePort `json:"ports"`
	}

	servicePort struct {
		Transport string `json:"transport"`
		Port      uint16 `json:"port"`
		NodePort  uint16 `json:"node_port,omitempty"`
	}

	nodeAnswer struct {
		Name      string   `json:"name"`
		ID        string   `json:"id"`
		Zone      string   `json:"zone,omitempty"`
		Addresses []string `json:"addresses"`
		PodCIDRs  []string `json:"pod_cidrs"`
	}
)

// ask reads whom an address is asked of, and asks the inventory.
func (e *topologyExtension) ask(q *query, port uint16, p flow.Protocol) (netip.Addr, *inventory.End) {
	addr, at := q.addr("ip", true), q.time("at")
	if q.err != nil {
		return addr, nil
	}
	if at.IsZero() {
		at = q.now
	}
	var end inventory.End
	if e.resolver == nil || !e.resolver.Resolve(&inventory.Query{Addr: addr, Port: port, Protocol: p, First: at, Last: at}, &end) {
		return addr, nil
	}
	return addr, &end
}

// seen looks for who had an address in records.
func (e *topologyExtension) seen(addr netip.Addr, at time.Time, kind topology.Kind) *topology.Vertex {
	if at.IsZero() {
		if v := e.Holder(addr, kind); v != nil {
			return v
		}
	}
	s := e.Snapshot(time.Hour, at, topology.LevelPod)
	var found *topology.Vertex
	for i := range s.Vertices {
		if v := &s.Vertices[i]; v.Kind == kind && slices.Contains(v.Addresses, addr) && (found == nil || v.Last > found.Last) {
			found = v
		}
	}
	return found
}

func (e *topologyExtension) queryPod(q *query) (any, error) {
	addr, end := e.ask(q, 0, 0)
	if q.err != nil {
		return nil, nil
	}
	if end != nil && end.Pod != nil {
		p := end.Pod
		out := podAnswer{
			Namespace: p.Namespace, Name: p.Name, ID: podID + p.Namespace + "/" + p.Name, UID: string(p.UID), Node: p.Node,
			HostNetwork: p.HostNetwork, Addresses: textsOf(p.Addresses), From: timeOf(p.From), Until: timeOf(p.Until),
		}
		if end.Workload.Kind != "" {
			out.Workload = &workload{end.Workload.Kind, end.Workload.Name}
		}
		for _, l := range p.Labels {
			if out.Labels == nil {
				out.Labels = map[string]string{}
			}
			out.Labels[l.Key] = l.Value
		}
		return map[string]any{"ip": addr.String(), "pod": out}, nil
	}
	if e.resolver == nil {
		if v := e.seen(addr, q.at(), topology.KindPod); v != nil {
			shown := vertexOf(v)
			return map[string]any{"ip": addr.String(), "pod": podAnswer{
				Namespace: v.Namespace, Name: v.Name, ID: v.ID(), Node: v.Node, Workload: shown.Workload, Addresses: shown.Addresses, Labels: shown.Labels,
			}}, nil
		}
	}
	return nil, notFound("no pod has %s", addr)
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (e *topologyExtension) queryService(q *query) (any, error) {
	port := uint16(q.integer("port", 0, 0, math16))
	// a port says nothing of the protocol: the first that there is
	for _, p := range []flow.Protocol{flow.TCP, flow.UDP, flow.SCTP} {
		addr, end := e.ask(q, port, p)
		if q.err != nil {
			return nil, nil
		}
		if end == nil || end.Service == nil {
			if e.resolver == nil {
				if v := e.seen(addr, q.at(), topology.KindService); v != nil {
					return map[string]any{"ip": addr.String(), "service": serviceAnswer{
						Namespace: v.Namespace, Name: v.Name, ID: v.ID(), Addresses: textsOf(v.Addresses), Ports: []servicePort{},
					}}, nil
				}
			}
			continue
		}
		s := end.Service
		if port != 0 && !slices.ContainsFunc(s.Ports, func(sp inventory.ServicePort) bool { return sp.Port.Port == port || sp.NodePort == port }) {
			continue // the address is its, the port is not
		}
		out := serviceAnswer{Namespace: s.Namespace, Name: s.Name, ID: serviceID + s.Namespace + "/" + s.Name, Type: s.Type, Addresses: textsOf(s.Addresses), Ports: []servicePort{}}
		for _, sp := range s.Ports {
			out.Ports = append(out.Ports, servicePort{sp.Protocol.String(), sp.Port.Port, sp.NodePort})
		}
		return map[string]any{"ip": addr.String(), "service": out}, nil
	}
	if port != 0 {
		return nil, notFound("no service has %s", netip.AddrPortFrom(q.addr("ip", true), port))
	}
	return nil, notFound("no service has %s, or several share it: say which port", q.str("ip"))
}

const math16 = 1<<16 - 1

func (e *topologyExtension) queryNode(q *query) (any, error) {
	addr, end := e.ask(q, 0, 0)
	if q.err != nil {
		return nil, nil
	}
	if end != nil && end.Node != nil {
		n := end.Node
		return map[string]any{"ip": addr.String(), "node": nodeAnswer{n.Name, nodeID + n.Name, n.Zone, textsOf(n.Addresses), textsOf(n.PodCIDRs)}}, nil
	}
	if e.resolver == nil {
		for _, kind := range []topology.Kind{topology.KindNode, topology.KindPod} {
			if v := e.seen(addr, q.at(), kind); v != nil && (v.Node != "" || kind == topology.KindNode) {
				name := v.Node
				if kind == topology.KindNode {
					name = v.Name
				}
				return map[string]any{"ip": addr.String(), "node": nodeAnswer{name, nodeID + name, v.Zone, textsOf(v.Addresses), []string{}}}, nil
			}
		}
	}
	return nil, notFound("no node has %s", addr)
}
