// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Store keeps history over a restart. A key without a value gives none and no error.
type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
	// Apply sets what has a value and deletes what has none, all or nothing.
	Apply(ctx context.Context, changes map[string][]byte) error
}

// bucket is a span of time that is over, encoded.
type bucket struct {
	from, to time.Time
	data     []byte
}

func (b *bucket) key() string {
	return "bucket-" + strconv.FormatInt(b.from.UnixNano(), 10) + "-" + strconv.FormatInt(b.to.UnixNano(), 10)
}

// history is a ring of buckets, oldest first: fine ones, and coarse ones of what is older.
type history struct {
	o     *Options
	store Store // nil where it is not to be kept

	mu      sync.Mutex // guards what follows; a bucket is never changed
	buckets []bucket
	bytes   int64
	// lost is how many buckets the budget has cost since the start.
	lost int64
}

const (
	indexKey = "index"
	liveKey  = "live"
)

// append adds a bucket.
func (h *history) append(s *Snapshot) bucket {
	// What has no traffic costs next to nothing, and says that we were there.
	added := bucket{s.From, s.To, Encode(s)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buckets = append(h.buckets, added)
	h.bytes += int64(len(added.data))
	return added
}

// tidyUp makes room after a bucket was added, and stores what has changed. One goroutine at
// a time calls append and tidyUp.
func (h *history) tidyUp(ctx context.Context, now time.Time, added bucket) error {
	changes := map[string][]byte{added.key(): added.data}
	h.mu.Lock()
	before := slices.Clone(h.buckets)
	h.mu.Unlock()
	after := h.tidy(before, now, changes)
	h.mu.Lock()
	h.buckets = after
	h.bytes = sizeOf(after)
	h.mu.Unlock()
	if h.store == nil {
		return nil
	}
	changes[indexKey] = indexOf(after)
	changes[liveKey] = nil
	if err := h.store.Apply(ctx, changes); err != nil {
		return fmt.Errorf("store history: %w", err)
	}
	return nil
}

func sizeOf(buckets []bucket) (n int64) {
	for i := range buckets {
		n += int64(len(buckets[i].data))
	}
	return n
}

func indexOf(buckets []bucket) []byte {
	keys := make([]string, len(buckets))
	for i := range buckets {
		keys[i] = buckets[i].key()
	}
	index, err := json.Marshal(keys)
	if err != nil {
		panic(err) // strings always can
	}
	return index
}

// tidy forgets what is too old, makes coarse what is old, and folds what there is too
// much of: the oldest buckets' smallest edges, then the oldest buckets.
func (h *history) tidy(buckets []bucket, now time.Time, changes map[string][]byte) []bucket {
	drop := func(b *bucket) { changes[b.key()] = nil }
	for len(buckets) > 0 && !buckets[0].to.After(now.Add(-h.o.Retention)) {
		drop(&buckets[0])
		buckets = buckets[1:]
	}
	buckets = h.coarsen(buckets, now.Add(-h.o.FineFor), changes)
	// Under pressure a coarse bucket has a quarter of its edges, again and again, and goes at last.
	total := sizeOf(buckets)
	for i := 0; total > h.o.HistoryBytes && i < len(buckets)-1; i++ {
		was := int64(len(buckets[i].data))
		folded := h.shrink(&buckets[i], was-(total-h.o.HistoryBytes))
		drop(&buckets[i])
		buckets[i] = folded
		changes[folded.key()] = folded.data
		total += int64(len(folded.data)) - was
	}
	for len(buckets) > 1 && total > h.o.HistoryBytes {
		total -= int64(len(buckets[0].data))
		drop(&buckets[0])
		buckets = buckets[1:]
		h.mu.Lock()
		h.lost++
		h.mu.Unlock()
	}
	return buckets
}

// shrink folds a bucket until it is as small as is wanted, or has next to nothing.
func (h *history) shrink(b *bucket, want int64) bucket {
	s, err := Decode(b.data)
	if err != nil {
		return *b
	}
	out := *b
	for n := len(s.Edges) / 2; int64(len(out.data)) > want && n > 8; n /= 2 {
		out.data = Encode(fold(s, n))
	}
	return out
}

// coarsen joins buckets that are older than a time to those of the coarse resolution.
func (h *history) coarsen(buckets []bucket, before time.Time, changes map[string][]byte) []bucket {
	var out []bucket
	for len(buckets) > 0 {
		slot := buckets[0].from.Truncate(h.o.CoarseStep)
		n := 1
		for n < len(buckets) && buckets[n].from.Truncate(h.o.CoarseStep).Equal(slot) {
			n++
		}
		if n == 1 || slot.Add(h.o.CoarseStep).After(before) {
			out = append(out, buckets[:n]...)
			buckets = buckets[n:]
			continue
		}
		joined, err := h.join(buckets[:n])
		if err == nil {
			for i := range buckets[:n] {
				changes[buckets[i].key()] = nil
			}
			changes[joined.key()] = joined.data
			out = append(out, joined)
		}
		buckets = buckets[n:]
	}
	return out
}

func (h *history) join(buckets []bucket) (bucket, error) {
	b := newBuilder()
	for i := range buckets {
		s, err := Decode(buckets[i].data)
		if err != nil {
			return bucket{}, err
		}
		b.add(s)
	}
	b.finish()
	s := fold(&b.Snapshot, h.o.MaxEdges)
	return bucket{s.From, s.To, Encode(s)}, nil
}

// load reads what the store has.
func (h *history) load(ctx context.Context, now time.Time) error {
	index, err := h.store.Get(ctx, indexKey)
	if err != nil {
		return fmt.Errorf("read the index of history: %w", err)
	}
	var keys []string
	if index != nil {
		if err := json.Unmarshal(index, &keys); err != nil {
			return fmt.Errorf("read the index of history: %w", err)
		}
	}
	var errs []error
	changes := map[string][]byte{}
	for _, key := range append(keys, liveKey) {
		data, err := h.store.Get(ctx, key)
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s of history: %w", key, err))
			continue
		}
		if data == nil {
			continue
		}
		s, err := Decode(data)
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s of history: %w", key, err))
			changes[key] = nil
			continue
		}
		b := bucket{s.From, s.To, data}
		if key == liveKey { // of the process that was killed
			changes[liveKey], changes[b.key()] = nil, data
		}
		h.buckets = append(h.buckets, b)
	}
	slices.SortFunc(h.buckets, func(a, b bucket) int { return a.from.Compare(b.from) })
	h.buckets = h.tidy(h.buckets, now, changes)
	h.bytes = sizeOf(h.buckets)
	changes[indexKey] = indexOf(h.buckets)
	return errors.Join(append(errs, h.store.Apply(ctx, changes))...)
}

// saveLive stores the bucket that is not over.
func (h *history) saveLive(ctx context.Context, s *Snapshot) error {
	return h.store.Apply(ctx, map[string][]byte{liveKey: Encode(s)})
}

// between gives the buckets that have something of a span, oldest first.
func (h *history) between(from, to time.Time) []bucket {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []bucket
	for i := range h.buckets {
		if b := &h.buckets[i]; b.to.After(from) && b.from.Before(to) {
			out = append(out, *b)
		}
	}
	return out
}

// span is from when to when there is history, and how much.
func (h *history) span() (from, to time.Time, bytes int64, buckets int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.buckets) > 0 {
		from, to = h.buckets[0].from, h.buckets[len(h.buckets)-1].to
	}
	return from, to, h.bytes, len(h.buckets)
}
