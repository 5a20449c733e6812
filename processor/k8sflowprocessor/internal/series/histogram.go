// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package series

import (
	"math"
	"slices"

	"go.opentelemetry.io/collector/pdata/pmetric"
)

// addExplicit adds a histogram to another. Where the boundaries are others the sum is
// the new one alone, and the answer false.
func addExplicit(to, from pmetric.HistogramDataPoint) bool {
	if to.Count() == 0 {
		from.CopyTo(to)
		to.Exemplars().RemoveIf(func(pmetric.Exemplar) bool { return true })
		return true
	}
	if !slices.Equal(to.ExplicitBounds().AsRaw(), from.ExplicitBounds().AsRaw()) || to.BucketCounts().Len() != from.BucketCounts().Len() {
		from.CopyTo(to)
		return false
	}
	to.SetCount(to.Count() + from.Count())
	to.SetSum(to.Sum() + from.Sum())
	for i, n := range from.BucketCounts().All() {
		to.BucketCounts().SetAt(i, to.BucketCounts().At(i)+n)
	}
	addRange(to, from)
	return true
}

// extremes is what histograms of both types have.
type extremes interface {
	HasMin() bool
	Min() float64
	SetMin(float64)
	RemoveMin()
	HasMax() bool
	Max() float64
	SetMax(float64)
	RemoveMax()
}

// addRange keeps the extremes, as far as both have them.
func addRange(to, from extremes) {
	if to.HasMin() && from.HasMin() {
		to.SetMin(min(to.Min(), from.Min()))
	} else {
		to.RemoveMin()
	}
	if to.HasMax() && from.HasMax() {
		to.SetMax(max(to.Max(), from.Max()))
	} else {
		to.RemoveMax()
	}
}

// maxBuckets is how many exponential buckets a series has at most (OpenTelemetry
// specification, base2 exponential histogram aggregation: default max_size).
const maxBuckets = 160

// addExponential adds a histogram to another, at the coarser of the scales, or one at
// which there are not too many buckets. Durations are not negative, so that those
// buckets are empty.
func addExponential(to, from pmetric.ExponentialHistogramDataPoint) {
	if to.Count() == 0 {
		from.CopyTo(to)
		return
	}
	scale := min(to.Scale(), from.Scale())
	a, b := bucketsAt(to, scale), bucketsAt(from, scale)
	for ; a.with(b) > maxBuckets; scale-- {
		a, b = a.halved(), b.halved()
	}
	sum := make([]uint64, a.with(b))
	first := a.first(b)
	for _, all := range []buckets{a, b} {
		for i, n := range all.counts {
			sum[all.offset-first+int64(i)] += n
		}
	}
	to.SetScale(scale)
	to.Positive().SetOffset(int32(first))
	to.Positive().BucketCounts().FromRaw(sum)
	to.SetCount(to.Count() + from.Count())
	to.SetSum(to.Sum() + from.Sum())
	to.SetZeroCount(to.ZeroCount() + from.ZeroCount())
	to.SetZeroThreshold(max(to.ZeroThreshold(), from.ZeroThreshold()))
	addRange(to, from)
}

// buckets are those of a scale, the first of which has the index offset.
type buckets struct {
	offset int64
	counts []uint64
}

// Scales that there are (OpenTelemetry SDK specification: 20 is the largest; at -10 one
// bucket holds all numbers that there are).
const minScale, maxScale = -10, 20

// wellFormed says whether a histogram can be added: others come from nowhere that keeps
// to the data model, which numbers buckets in 32 bits.
func wellFormed(dp pmetric.ExponentialHistogramDataPoint) bool {
	end := int64(dp.Positive().Offset()) + int64(dp.Positive().BucketCounts().Len())
	return dp.Scale() >= minScale && dp.Scale() <= maxScale && end <= math.MaxInt32 && dp.Negative().BucketCounts().Len() == 0 && finite(dp.Sum())
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func bucketsAt(dp pmetric.ExponentialHistogramDataPoint, scale int32) buckets {
	b := buckets{int64(dp.Positive().Offset()), dp.Positive().BucketCounts().AsRaw()}
	for s := dp.Scale(); s > scale; s-- {
		b = b.halved()
	}
	return b
}

// halved gives the buckets of the next coarser scale: each has two of these.
func (b buckets) halved() buckets {
	h := buckets{offset: b.offset >> 1}
	if len(b.counts) == 0 {
		return h
	}
	last := (b.offset + int64(len(b.counts)) - 1) >> 1
	h.counts = make([]uint64, last-h.offset+1)
	for i, n := range b.counts {
		h.counts[((b.offset+int64(i))>>1)-h.offset] += n
	}
	return h
}

// first gives the lower of the first indexes, as far as there are any.
func (b buckets) first(other buckets) int64 {
	switch {
	case len(b.counts) == 0:
		return other.offset
	case len(other.counts) == 0:
		return b.offset
	default:
		return min(b.offset, other.offset)
	}
}

// with gives how many buckets span both.
func (b buckets) with(other buckets) int {
	first, end := b.first(other), int64(0)
	for i, all := range []buckets{b, other} {
		if len(all.counts) == 0 {
			continue
		}
		if last := all.offset + int64(len(all.counts)); i == 0 || len(b.counts) == 0 || last > end {
			end = last
		}
	}
	if len(b.counts)+len(other.counts) == 0 {
		return 0
	}
	return int(end - first)
}
