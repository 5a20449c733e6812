// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// heartbeat is how often a stream without changes says that it is there.
const heartbeat = 15 * time.Second

type streamEvent struct {
	At    time.Time     `json:"at"`
	Edges []edge        `json:"edges"`
	Nodes []graphVertex `json:"nodes"`
	// Gone are the edges that have left the window.
	Gone []string `json:"gone,omitempty"`
}

// stream sends what of the graph has changed, until the client goes.
func (e *topologyExtension) stream(w http.ResponseWriter, r *http.Request) {
	q := newQuery(r.URL.RawQuery, []string{"level", "window", "namespace", "node", "direction", "q", "min_bytes", "limit", "focus", "depth"}, e.Now())
	if q.err == nil {
		e.choose(q)
	}
	// what is looked at may come later
	if q.err != nil && q.err.Code == http.StatusBadRequest {
		writeError(w, r, q.err)
		return
	}
	select {
	case e.streams <- struct{}{}:
		defer func() { <-e.streams }()
	default:
		w.Header().Set("Retry-After", "10")
		writeError(w, r, &apiError{Code: http.StatusServiceUnavailable, Message: fmt.Sprintf("there are %d streams, which is as many as may be", cap(e.streams))})
		return
	}
	out := http.NewResponseController(w)
	// The server's limit is for an answer that ends. Each event has its own.
	if err := out.SetReadDeadline(time.Time{}); err != nil {
		writeError(w, r, &apiError{Code: http.StatusInternalServerError, Message: "this connection cannot stream: " + err.Error()})
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("X-Accel-Buffering", "no")
	send := func(text string) bool {
		_ = out.SetWriteDeadline(time.Now().Add(10 * time.Second)) // a client that does not read is cut
		if _, err := fmt.Fprint(w, text); err != nil {
			return false
		}
		return out.Flush() == nil
	}
	if !send(fmt.Sprintf("retry: %d\n\n", (2 * time.Second).Milliseconds())) {
		return
	}
	s := &changes{e: e, raw: r.URL.RawQuery, sent: map[string]counters{}}
	ticker := time.NewTicker(e.cfg.Stream.Interval)
	defer ticker.Stop()
	last := time.Now()
	for id := 1; ; {
		if event := s.next(); event != nil {
			data, err := json.Marshal(event)
			if err != nil || !send(fmt.Sprintf("event: topology\nid: %d\ndata: %s\n\n", id, data)) {
				return
			}
			id++
			last = time.Now()
		} else if time.Since(last) >= heartbeat {
			if !send(": nothing new\n\n") {
				return
			}
			last = time.Now()
		}
		select {
		case <-r.Context().Done():
			return
		case <-e.stopping:
			return
		case <-ticker.C:
		}
	}
}

// changes tells what a client has not been sent.
type changes struct {
	e    *topologyExtension
	raw  string
	sent map[string]counters
}

// next gives what has changed, nil for nothing.
func (s *changes) next() *streamEvent {
	q := newQuery(s.raw, with(filters), s.e.Now())
	c := s.e.choose(q)
	if c == nil {
		return nil
	}
	event := &streamEvent{At: c.snapshot.To.UTC(), Edges: []edge{}, Nodes: []graphVertex{}}
	now := map[string]counters{}
	touched := map[string]bool{}
	for _, each := range edgesOf(c.snapshot) {
		now[each.ID] = each.Total
		if had, ok := s.sent[each.ID]; !ok || had != each.Total {
			event.Edges = append(event.Edges, each)
			touched[each.Source], touched[each.Target] = true, true
		}
	}
	for id := range s.sent {
		if _, ok := now[id]; !ok {
			event.Gone = append(event.Gone, id)
		}
	}
	s.sent = now
	if len(event.Edges) == 0 && len(event.Gone) == 0 {
		return nil
	}
	for _, v := range verticesOf(c.snapshot) {
		if touched[v.ID] {
			event.Nodes = append(event.Nodes, v)
		}
	}
	return event
}
