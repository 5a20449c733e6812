// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
)

// sharedReceivers lets the metrics and the logs receiver of one component ID
// share a session: the programs are loaded once, and each counter is read once
// for both.
type sharedReceivers struct {
	mu       sync.Mutex // guards sessions
	sessions map[component.ID]*session
}

func newSharedReceivers() *sharedReceivers {
	return &sharedReceivers{sessions: map[component.ID]*session{}}
}

func (f *sharedReceivers) metrics(set receiver.Settings, cfg *Config, next consumer.Metrics) (receiver.Metrics, error) {
	sink, err := newMetricsSink(set, cfg, next)
	if err != nil {
		return nil, err
	}
	return f.receiver(set, cfg, sink), nil
}

func (f *sharedReceivers) logs(set receiver.Settings, cfg *Config, next consumer.Logs) (receiver.Logs, error) {
	sink, err := newLogsSink(set, cfg, next)
	if err != nil {
		return nil, err
	}
	return f.receiver(set, cfg, sink), nil
}

// receiver gives the receiver that feeds sink. Settings come with the signal's
// own logger and meter; the session uses those of the first.
func (f *sharedReceivers) receiver(set receiver.Settings, cfg *Config, sink sink) *signalReceiver {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sessions[set.ID]
	if s == nil || s.cfg != cfg {
		s = newSession(set, cfg)
		f.sessions[set.ID] = s
	}
	return &signalReceiver{session: s, sink: sink, forget: func() { f.forget(set.ID, s) }}
}

// forget drops a session that has ended, so that the next receiver of its ID
// gets a new one.
func (f *sharedReceivers) forget(id component.ID, s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sessions[id] == s {
		delete(f.sessions, id)
	}
}

// signalReceiver is the receiver of one signal.
type signalReceiver struct {
	session *session
	sink    sink
	forget  func()
	started bool
}

// Start joins the session; the first receiver to do so starts it. Its error is
// every later receiver's too.
func (r *signalReceiver) Start(_ context.Context, host component.Host) error {
	if err := r.session.join(host, r.sink); err != nil {
		return err
	}
	r.started = true
	return nil
}

// Shutdown hands on what was counted until now and leaves the session; the last
// receiver to do so ends it. It may be called without Start, and twice.
func (r *signalReceiver) Shutdown(ctx context.Context) error {
	r.forget()
	if !r.started {
		return nil
	}
	r.started = false
	return r.session.leave(ctx, r.sink)
}
