// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"strings"
	"time"

	"github.com/netprobe-otel/netprobe/internal/topology"
)

// What answers are made of. Keys are those of the API's contract.
type (
	counters struct {
		Bytes       int64   `json:"bytes"`
		Packets     int64   `json:"packets"`
		Flows       int64   `json:"flows"`
		Retransmits int64   `json:"retransmits"`
		Resets      int64   `json:"resets"`
		Drops       int64   `json:"drops"`
		RTT         float64 `json:"rtt_seconds,omitempty"`
	}

	workload struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
	}

	vertex struct {
		ID        string            `json:"id"`
		Kind      string            `json:"kind"`
		Name      string            `json:"name"`
		Namespace string            `json:"namespace,omitempty"`
		Node      string            `json:"node,omitempty"`
		Zone      string            `json:"zone,omitempty"`
		Labels    map[string]string `json:"labels,omitempty"`
		Addresses []string          `json:"addresses,omitempty"`
		Workload  *workload         `json:"workload,omitempty"`
		FirstSeen time.Time         `json:"first_seen"`
		LastSeen  time.Time         `json:"last_seen"`
		Folded    int64             `json:"folded,omitempty"`
	}

	graphVertex struct {
		vertex
		In  counters `json:"in"`
		Out counters `json:"out"`
	}

	protocol struct {
		Transport string `json:"transport"`
		Port      uint16 `json:"port,omitempty"`
		Bytes     int64  `json:"bytes"`
	}

	edge struct {
		Source    string     `json:"source"`
		Target    string     `json:"target"`
		ID        string     `json:"id"`
		Service   string     `json:"service,omitempty"`
		Direction string     `json:"direction,omitempty"`
		Protocols []protocol `json:"protocols"`
		VNIs      []int64    `json:"vnis,omitempty"`
		Forward   counters   `json:"forward"`
		Reverse   counters   `json:"reverse"`
		Total     counters   `json:"total"`
		FirstSeen time.Time  `json:"first_seen"`
		LastSeen  time.Time  `json:"last_seen"`
	}

	span struct {
		From time.Time `json:"from"`
		To   time.Time `json:"to"`
	}

	folded struct {
		Vertices int64 `json:"vertices"`
		Edges    int64 `json:"edges"`
		Records  int64 `json:"records"`
	}

	leftOut struct {
		Nodes int `json:"nodes"`
		Edges int `json:"edges"`
	}
)

func countersOf(c *topology.Counters) counters {
	return counters{c.Bytes, c.Packets, c.Flows, c.Retransmits, c.Resets, c.Drops, c.MeanRTT().Seconds()}
}

func unix(ns int64) time.Time { return time.Unix(0, ns).UTC() }

func vertexOf(v *topology.Vertex) vertex {
	out := vertex{
		ID: v.ID(), Kind: v.Kind.String(), Name: v.Name, Namespace: v.Namespace, Node: v.Node, Zone: v.Zone,
		FirstSeen: unix(v.First), LastSeen: unix(v.Last), Folded: v.Folded,
	}
	switch v.Kind {
	case topology.KindOther:
		out.Name = "other"
	case topology.KindWorkload:
		kind, name, _ := strings.Cut(v.Name, "/")
		out.Name, out.Workload = name, &workload{kind, name}
	case topology.KindPod:
		if v.WorkloadKind != "" {
			out.Workload = &workload{v.WorkloadKind, v.WorkloadName}
		}
	case topology.KindNode:
		out.Node = v.Name
	}
	for _, a := range v.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	if len(v.Labels) > 0 {
		out.Labels = make(map[string]string, len(v.Labels))
		for _, l := range v.Labels {
			out.Labels[l.Key] = l.Value
		}
	}
	return out
}

// maxProtocols of an edge are told.
const maxProtocols = 5

func edgeOf(s *topology.Snapshot, e *topology.Edge) edge {
	total := e.Total()
	out := edge{
		Source: s.Vertices[e.From].ID(), Target: s.Vertices[e.To].ID(), Direction: e.Class.String(),
		Protocols: make([]protocol, 0, min(len(e.Protocols), maxProtocols)), VNIs: e.VNIs,
		Forward: countersOf(&e.Forward), Reverse: countersOf(&e.Reverse), Total: countersOf(&total),
		FirstSeen: unix(e.First), LastSeen: unix(e.Last),
	}
	if e.Service != "" {
		out.Service = "service:" + e.Service
	}
	out.ID = out.Source + "~" + out.Target + "~" + out.Service + "~" + out.Direction
	for _, p := range e.Protocols[:min(len(e.Protocols), maxProtocols)] {
		out.Protocols = append(out.Protocols, protocol{p.Transport, p.Port, p.Bytes})
	}
	return out
}

func spanOf(s *topology.Snapshot) span { return span{s.From.UTC(), s.To.UTC()} }

func foldedOf(s *topology.Snapshot) folded {
	return folded{s.Folded.Vertices, s.Folded.Edges, s.Folded.Records}
}
