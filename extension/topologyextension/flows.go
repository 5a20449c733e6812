// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/netprobe-otel/netprobe/internal/topology"
)

type (
	flowsAnswer struct {
		Items []flowRecord `json:"items"`
		Next  string       `json:"next_cursor,omitempty"`
		Total int          `json:"total"`
	}

	flowRecord struct {
		Time        time.Time    `json:"time"`
		Start       time.Time    `json:"start"`
		Source      flowEnd      `json:"source"`
		Destination flowEnd      `json:"destination"`
		Transport   string       `json:"transport,omitempty"`
		Direction   string       `json:"direction,omitempty"`
		Bytes       int64        `json:"bytes"`
		Packets     int64        `json:"packets"`
		RTT         float64      `json:"rtt_seconds,omitempty"`
		Retransmits int64        `json:"retransmits,omitempty"`
		Resets      int64        `json:"resets,omitempty"`
		Drops       int64        `json:"drops,omitempty"`
		TCPFlags    int64        `json:"tcp_flags,omitempty"`
		CommunityID string       `json:"community_id,omitempty"`
		Initiator   string       `json:"initiator,omitempty"`
		Reporter    string       `json:"reporter,omitempty"`
		Node        string       `json:"reporting_node,omitempty"`
		Interface   string       `json:"interface,omitempty"`
		Tunnel      *flowTunnel  `json:"tunnel,omitempty"`
		NAT         *flowNAT     `json:"nat,omitempty"`
		Process     *flowProcess `json:"process,omitempty"`
	}

	flowEnd struct {
		ID        string    `json:"id"`
		Address   string    `json:"address"`
		Port      *uint16   `json:"port,omitempty"`
		Pod       string    `json:"pod,omitempty"`
		Namespace string    `json:"namespace,omitempty"`
		Workload  *workload `json:"workload,omitempty"`
		Service   string    `json:"service,omitempty"`
		Node      string    `json:"node,omitempty"`
	}

	flowTunnel struct {
		Type        string `json:"type"`
		ID          *int64 `json:"id,omitempty"`
		Source      string `json:"source,omitempty"`
		Destination string `json:"destination,omitempty"`
	}

	flowNAT struct {
		Source      *natEnd `json:"source,omitempty"`
		Destination *natEnd `json:"destination,omitempty"`
	}

	natEnd struct {
		Address string `json:"address"`
		Port    int64  `json:"port,omitempty"`
	}

	flowProcess struct {
		PID  int64  `json:"pid,omitempty"`
		Name string `json:"name,omitempty"`
	}
)

const (
	defaultFlows = 100
	mostFlows    = 1000
)

// protocolName is one as records have it.
var protocolName = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]{0,31}$`)

// flowRecords gives those that are chosen, newest first.
func (e *topologyExtension) flowRecords(q *query) (any, error) {
	class, address := q.class(), q.addr("address", false)
	namespace, node, text, protocol := q.str("namespace"), q.str("node"), strings.ToLower(q.str("q")), q.str("protocol")
	if protocol != "" && !protocolName.MatchString(protocol) {
		q.fail("protocol", "%q is no protocol, as tcp", protocol)
	}
	port := q.integer("port", -1, 0, math.MaxUint16)
	limit := q.integer("limit", defaultFlows, 1, mostFlows)
	cursor := q.integer("cursor", 0, 1, math.MaxInt64)
	if q.err != nil {
		return nil, nil
	}
	match := func(r *topology.Record) bool {
		return (class == topology.NoClass || r.Class == class) &&
			(namespace == "" || r.Source.Namespace == namespace || r.Destination.Namespace == namespace) &&
			(node == "" || r.Source.Node == node || r.Destination.Node == node || r.ReportingNode == node) &&
			(protocol == "" || r.Transport == protocol) &&
			(port < 0 || r.HasPorts && (int64(r.Source.Port) == port || int64(r.Destination.Port) == port)) &&
			(!address.IsValid() || r.Source.Addr == address || r.Destination.Addr == address) &&
			(text == "" || containsEnd(&r.Source, text) || containsEnd(&r.Destination, text) || strings.Contains(strings.ToLower(r.Process), text))
	}
	found, next, total := e.Flows(match, uint64(cursor), int(limit))
	out := &flowsAnswer{Items: make([]flowRecord, len(found)), Total: total}
	for i, r := range found {
		out.Items[i] = flowRecordOf(r)
	}
	if next > 0 {
		out.Next = strconv.FormatUint(next, 10)
	}
	return out, nil
}

func containsEnd(e *topology.End, text string) bool {
	for _, have := range [...]string{e.Pod, e.Namespace, e.WorkloadName, e.Service, e.Node} {
		if have != "" && strings.Contains(strings.ToLower(have), text) {
			return true
		}
	}
	return strings.Contains(e.Addr.String(), text)
}

var sideNames = [...]string{"", "source", "destination"}

func flowRecordOf(r *topology.Record) flowRecord {
	source, destination := r.Of()
	out := flowRecord{
		Time: r.Time.UTC(), Start: r.Start.UTC(), Source: endOf(&r.Source, source, r.HasPorts), Destination: endOf(&r.Destination, destination, r.HasPorts),
		Transport: r.Transport, Direction: r.Class.String(), Bytes: r.Bytes, Packets: r.Packets, RTT: r.RTT.Seconds(), Retransmits: r.Retransmits,
		Resets: r.Resets, Drops: r.Drops, TCPFlags: r.TCPFlags, CommunityID: r.CommunityID, Initiator: sideNames[r.Initiator], Reporter: r.Reporter,
		Node: r.ReportingNode, Interface: r.Interface,
	}
	if t := r.Tunnel; t != nil {
		out.Tunnel = &flowTunnel{Type: t.Type, Source: t.Source, Destination: t.Destination}
		if t.HasID {
			out.Tunnel.ID = &t.ID
		}
	}
	if n := r.NAT; n != nil {
		out.NAT = &flowNAT{}
		if n.Source != "" {
			out.NAT.Source = &natEnd{n.Source, n.SourcePort}
		}
		if n.Destination != "" {
			out.NAT.Destination = &natEnd{n.Destination, n.DestinationPort}
		}
	}
	if r.PID != 0 || r.Process != "" {
		out.Process = &flowProcess{r.PID, r.Process}
	}
	return out
}

func endOf(e *topology.End, id string, ports bool) flowEnd {
	out := flowEnd{ID: id, Address: e.Addr.String(), Pod: e.Pod, Namespace: e.Namespace, Service: e.Service, Node: e.Node}
	if ports {
		out.Port = &e.Port
	}
	if e.WorkloadKind != "" {
		out.Workload = &workload{e.WorkloadKind, e.WorkloadName}
	}
	return out
}
