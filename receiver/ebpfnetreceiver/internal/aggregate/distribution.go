// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"sort"
	"time"

	"github.com/lightstep/go-expohisto/structure"
)

// Distribution is a histogram of seconds that can be put together with others. Those of
// Durations, which are the SDK's, cannot.
type Distribution struct {
	Count         uint64
	Sum, Min, Max float64

	// Bounds and Counts are those of explicit buckets; a bound is in the bucket below it.
	Bounds []float64 // shared, and nil where Exponential is not
	Counts []uint64

	Exponential *structure.Float64
}

// newDistribution gives an empty one, with explicit buckets where there are bounds.
func newDistribution(bounds []float64, maxSize int) *Distribution {
	if len(bounds) == 0 {
		return &Distribution{Exponential: structure.NewFloat64(structure.NewConfig(structure.WithMaxSize(int32(maxSize))))}
	}
	return &Distribution{Bounds: bounds, Counts: make([]uint64, len(bounds)+1)}
}

// Add adds a duration.
func (d *Distribution) Add(value time.Duration) {
	seconds := value.Seconds()
	if d.Exponential != nil {
		d.Exponential.Update(seconds)
	} else {
		d.Counts[sort.SearchFloat64s(d.Bounds, seconds)]++
	}
	d.note(1, seconds, seconds, seconds)
}

// Merge adds what is in o, which has the same buckets.
func (d *Distribution) Merge(o *Distribution) {
	if d.Exponential != nil {
		d.Exponential.MergeFrom(o.Exponential)
	}
	for i, n := range o.Counts {
		d.Counts[i] += n
	}
	d.note(o.Count, o.Sum, o.Min, o.Max)
}

func (d *Distribution) note(count uint64, sum, least, most float64) {
	if d.Count == 0 {
		d.Min = least
	}
	d.Count += count
	d.Sum += sum
	d.Min, d.Max = min(d.Min, least), max(d.Max, most)
}
