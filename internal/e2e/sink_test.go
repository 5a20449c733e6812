// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"cmp"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
)

// sink is a backend: it takes OTLP over HTTP and keeps it.
type sink struct {
	mu      sync.Mutex // guards what follows
	logs    []plog.Logs
	metrics []pmetric.Metrics
}

func newSink(t *testing.T, host *namespace) *sink {
	t.Helper()
	return newSinkAt(t, host, otlpAddress)
}

func newSinkAt(t *testing.T, host *namespace, address string) *sink {
	t.Helper()
	s := &sink{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/logs", take(func(body []byte) ([]byte, error) {
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.logs = append(s.logs, req.Logs())
		return plogotlp.NewExportResponse().MarshalProto()
	}))
	mux.HandleFunc("POST /v1/metrics", take(func(body []byte) ([]byte, error) {
		req := pmetricotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.metrics = append(s.metrics, req.Metrics())
		return pmetricotlp.NewExportResponse().MarshalProto()
	}))
	host.serve(t, address, mux)
	return s
}

// serveOTLP answers where the configuration sends OTLP, until the test ends.
func (n *namespace) serveOTLP(t *testing.T, handler http.Handler) {
	t.Helper()
	n.serve(t, otlpAddress, handler)
}

// serve answers at an address of the namespace until the test ends.
func (n *namespace) serve(t *testing.T, address string, handler http.Handler) {
	t.Helper()
	server := &http.Server{Handler: handler}
	listener := n.listen(t, "tcp", address)
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
}

// take answers requests as OTLP/HTTP says.
func take(export func(body []byte) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			body, err = export(body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(body) // a client that is gone sends again
	}
}

// record is a log record that came, and its attributes.
type record struct {
	plog.LogRecord
	attrs map[string]any
}

// records gives the flow records so far that match, oldest first: they may come
// over several connections and overtake one another.
func (s *sink) records(match func(attrs map[string]any) bool) []record {
	s.mu.Lock()
	logs := slices.Clone(s.logs)
	s.mu.Unlock()
	var found []record
	for _, ld := range logs {
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					if attrs := lr.Attributes().AsRaw(); match(attrs) {
						found = append(found, record{lr, attrs})
					}
				}
			}
		}
	}
	slices.SortStableFunc(found, func(a, b record) int {
		return cmp.Compare(a.ObservedTimestamp(), b.ObservedTimestamp())
	})
	return found
}

// total gives the highest value of a cumulative sum of an interface, 0 where none came.
func (s *sink) total(metric, iface string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var highest int64
	for _, md := range s.metrics {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if m.Name() != metric {
						continue
					}
					for _, dp := range m.Sum().DataPoints().All() {
						if v, ok := dp.Attributes().Get("network.interface.name"); ok && v.Str() == iface {
							highest = max(highest, dp.IntValue())
						}
					}
				}
			}
		}
	}
	return uint64(highest)
}

// counters gives the highest totals of an interface that came.
func (s *sink) counters(iface string) counters {
	return counters{
		RxPackets: s.total("netprobe.interface.rx.packets", iface),
		RxBytes:   s.total("netprobe.interface.rx.bytes", iface),
		TxPackets: s.total("netprobe.interface.tx.packets", iface),
		TxBytes:   s.total("netprobe.interface.tx.bytes", iface),
	}
}
