// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"math"
	"strconv"
	"time"

	"github.com/netprobe-otel/netprobe/internal/topology"
)

type (
	interfacesAnswer struct {
		Window span            `json:"window"`
		Items  []interfaceItem `json:"items"`
		Next   string          `json:"next_cursor,omitempty"`
		Total  int             `json:"total"`
	}

	interfaceItem struct {
		Name        string          `json:"name"`
		Node        string          `json:"node,omitempty"`
		Rx          volume          `json:"rx"`
		Tx          volume          `json:"tx"`
		Utilization *float64        `json:"utilization,omitempty"`
		Series      []interfaceStep `json:"series"`
	}

	volume struct {
		Bytes   int64 `json:"bytes"`
		Packets int64 `json:"packets"`
	}

	interfaceStep struct {
		T       time.Time `json:"t"`
		RxBytes int64     `json:"rx_bytes"`
		TxBytes int64     `json:"tx_bytes"`
	}
)

func (e *topologyExtension) interfaces(q *query) (any, error) {
	window := q.window()
	limit, cursor := q.integer("limit", 500, 1, 5000), q.integer("cursor", 0, 1, math.MaxInt32)
	if q.err != nil {
		return nil, nil
	}
	out := &interfacesAnswer{Window: span{q.now.Add(-window).UTC(), q.now.UTC()}, Items: []interfaceItem{}}
	all := e.Interfaces(q.now.Add(-window), q.now)
	out.Total = len(all)
	all = all[min(int(cursor), len(all)):]
	if len(all) > int(limit) {
		all = all[:limit]
		out.Next = strconv.FormatInt(cursor+limit, 10)
	}
	for i := range all {
		f := &all[i]
		item := interfaceItem{
			Name: f.Name, Node: f.Node, Series: make([]interfaceStep, len(f.Steps)),
			Rx: volume{f.Total[topology.RxBytes], f.Total[topology.RxPackets]}, Tx: volume{f.Total[topology.TxBytes], f.Total[topology.TxPackets]},
		}
		if f.HasUtilization && !math.IsNaN(f.Utilization) && !math.IsInf(f.Utilization, 0) {
			item.Utilization = &f.Utilization
		}
		for k, s := range f.Steps {
			item.Series[k] = interfaceStep{s.At.UTC(), s.Values[topology.RxBytes], s.Values[topology.TxBytes]}
		}
		out.Items = append(out.Items, item)
	}
	return out, nil
}

type (
	healthAnswer struct {
		Started time.Time     `json:"started"`
		Version string        `json:"version"`
		Ready   bool          `json:"ready"`
		Reason  string        `json:"reason,omitempty"`
		Records recordHealth  `json:"records"`
		Graph   graphHealth   `json:"graph"`
		Ledger  []ledgerEntry `json:"ledger,omitempty"`
	}

	recordHealth struct {
		Received  int64 `json:"received"`
		LeftOut   int64 `json:"left_out"`
		Invalid   int64 `json:"invalid"`
		Listed    int   `json:"listed"`
		MaxListed int   `json:"max_listed"`
		PushedOut int64 `json:"pushed_out"`
	}

	graphHealth struct {
		Vertices        int        `json:"vertices"`
		Edges           int        `json:"edges"`
		Conversations   int        `json:"conversations"`
		MaxVertices     int        `json:"max_vertices"`
		MaxEdges        int        `json:"max_edges"`
		Folded          folded     `json:"folded"`
		HistoryBytes    int64      `json:"history_bytes"`
		MaxHistoryBytes int64      `json:"max_history_bytes"`
		HistoryBuckets  int        `json:"history_buckets"`
		HistoryLost     int64      `json:"history_lost"`
		HistoryFrom     *time.Time `json:"history_from,omitempty"`
		HistoryTo       *time.Time `json:"history_to,omitempty"`
		StreamClients   int        `json:"stream_clients"`
	}

	ledgerEntry struct {
		Node    string `json:"node,omitempty"`
		Hook    string `json:"hook,omitempty"`
		Outcome string `json:"outcome"`
		Cause   string `json:"cause,omitempty"`
		Packets int64  `json:"packets"`
		Bytes   int64  `json:"bytes"`
	}
)

// health is what the extension says of itself.
func (e *topologyExtension) health(*query) (any, error) {
	s := e.Status()
	ready, why := e.ready()
	out := &healthAnswer{
		Started: s.Started.UTC(), Version: e.set.BuildInfo.Version, Ready: ready, Reason: why,
		Records: recordHealth{s.Received, s.LeftOut, s.Invalid, s.FlowRecords, s.MaxFlowRecords, s.PushedOut},
		Graph: graphHealth{
			Vertices: s.Vertices, Edges: s.Edges, Conversations: s.Conversations, MaxVertices: s.MaxVertices, MaxEdges: s.MaxEdges,
			Folded: folded{s.Folded.Vertices, s.Folded.Edges, s.Folded.Records}, HistoryBytes: s.HistoryBytes, MaxHistoryBytes: s.MaxHistoryBytes,
			HistoryBuckets: s.HistoryBuckets, HistoryLost: s.HistoryLost, HistoryFrom: timeOf(s.HistoryFrom), HistoryTo: timeOf(s.HistoryTo),
			StreamClients: len(e.streams),
		},
	}
	for _, l := range e.Ledger() {
		out.Ledger = append(out.Ledger, ledgerEntry(l))
	}
	return out, nil
}

type reportAnswer struct {
	Cluster    any               `json:"cluster"`
	Topology   *graphAnswer      `json:"topology"`
	Flannel    any               `json:"flannel"`
	Stats      any               `json:"stats"`
	TopTalkers map[string][]edge `json:"top_talkers"`
}

// report is all in one document.
func (e *topologyExtension) report(q *query) (any, error) {
	cluster, _ := e.cluster(q)
	flannel, _ := e.flannelView(q)
	stats, err := e.stats(q)
	if err != nil || q.err != nil {
		return nil, err
	}
	c := e.choose(q)
	if q.err != nil {
		return nil, nil
	}
	return &reportAnswer{cluster, c.answer(), flannel, stats, stats.(*statsAnswer).TopTalkers}, nil
}
