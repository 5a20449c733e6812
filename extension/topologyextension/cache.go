// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"sync"
	"sync/atomic"
	"time"
)

// answers has what was answered a moment ago, because many clients ask the same. Who comes
// first makes it anew; the others have what there was, if it is not older than twice the age
// that it may have, and else wait.
type answers struct {
	mu  sync.Mutex // guards what follows
	all map[string]*answered
	// bytes of those that have been made since all was empty
	bytes int
}

type answered struct {
	mu   sync.Mutex // held while it is made
	last atomic.Pointer[madeAnswer]
}

type madeAnswer struct {
	at   time.Time
	body []byte
}

func (m *madeAnswer) within(age time.Duration) bool { return m != nil && time.Since(m.at) < age }

const (
	maxAnswers = 64
	// maxAnswerBytes is how much they have, and maxAnswer how large one is that is kept.
	maxAnswerBytes = 32 << 20
	maxAnswer      = 8 << 20
)

// get gives an answer that is not older than a time, or makes one. A body that is nil is
// not kept.
func (a *answers) get(key string, age time.Duration, make func() []byte) []byte {
	if age <= 0 {
		return make()
	}
	a.mu.Lock()
	one, ok := a.all[key]
	if !ok {
		if len(a.all) >= maxAnswers || a.bytes > maxAnswerBytes {
			clear(a.all) // who is at one has it
			a.bytes = 0
		}
		one = &answered{}
		a.all[key] = one
	}
	a.mu.Unlock()
	if last := one.last.Load(); last.within(age) {
		return last.body
	}
	if !one.mu.TryLock() {
		if last := one.last.Load(); last.within(2 * age) {
			return last.body
		}
		one.mu.Lock()
	}
	defer one.mu.Unlock()
	last := one.last.Load()
	if last.within(age) {
		return last.body // made while we waited
	}
	body, had := make(), 0
	if last != nil {
		had = len(last.body)
	}
	var next *madeAnswer
	if body != nil && len(body) <= maxAnswer {
		next = &madeAnswer{time.Now(), body}
	}
	one.last.Store(next)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bytes -= had
	if next != nil {
		a.bytes += len(body)
	}
	return body
}
