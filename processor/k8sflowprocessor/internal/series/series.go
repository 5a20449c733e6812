// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package series adds deltas up to cumulative series, of which each metric has a
// budget. It knows nothing of what the attributes mean.
package series // import "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/series"

import (
	"encoding/binary"
	"math"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netprobe-otel/netprobe/internal/netattr"
)

// Point says what series a delta is of.
type Point struct {
	Start, At pcommon.Timestamp
	// Attributes of the series. The first so many, Ends, tell who is at the ends: those
	// that are over the budget go together without them.
	Attributes pcommon.Map
	Ends       int
}

// Table has all series.
type Table struct {
	budget    int
	idle      time.Duration
	resources map[string]*Resource
	// lens are how many series metrics have.
	lens  map[string]int
	key   []byte // reused
	swept time.Time
}

// New gives a table. Each metric has at most budget series, which are forgotten when
// they have been idle for so long.
func New(budget int, idle time.Duration) *Table {
	return &Table{budget: budget, idle: idle, resources: map[string]*Resource{}, lens: map[string]int{}}
}

// Resource has the series of a resource.
type Resource struct {
	table   *Table
	metrics map[string]*folded
	order   []*folded // as they came
}

// folded has the series of a metric.
type folded struct {
	like   pmetric.Metric // what it is, without points
	series map[string]*total
}

// total is a series.
type total struct {
	attributes pcommon.Map
	overflow   bool
	start, at  pcommon.Timestamp
	touched    time.Time
	changed    bool // since it was handed on

	number      pmetric.NumberDataPoint // the value only
	histogram   pmetric.HistogramDataPoint
	exponential pmetric.ExponentialHistogramDataPoint
}

// Resource gives the series of a resource.
func (t *Table) Resource(of pcommon.Resource) *Resource {
	t.key = appendMap(t.key[:0], of.Attributes(), 0)
	r, ok := t.resources[string(t.key)]
	if !ok {
		r = &Resource{table: t, metrics: map[string]*folded{}}
		t.resources[string(t.key)] = r
	}
	return r
}

// Len says how many series each metric has, those over the budget left out.
func (t *Table) Len() map[string]int { return t.lens }

// sweepInterval is how often idle series are looked for.
const sweepInterval = time.Minute

// Expire forgets the series that have been idle for too long.
func (t *Table) Expire(now time.Time) {
	if now.Sub(t.swept) < min(sweepInterval, t.idle) {
		return
	}
	t.swept = now
	for key, r := range t.resources {
		kept := 0
		for name, f := range r.metrics {
			for id, s := range f.series {
				if now.Sub(s.touched) <= t.idle || s.changed {
					continue
				}
				delete(f.series, id)
				if !s.overflow {
					t.lens[name]--
				}
			}
			kept += len(f.series)
		}
		if kept == 0 {
			delete(t.resources, key)
		}
	}
}

// Again hands everything on again with the next points.
func (t *Table) Again() {
	for _, r := range t.resources {
		for _, f := range r.order {
			for _, s := range f.series {
				s.changed = true
			}
		}
	}
}

// Added is what became of a point.
type Added uint8

// What becomes of points.
const (
	ToSeries   Added = iota
	ToOverflow       // there is no room for its series
	Refused          // it is none of a monotonic sum, or of a histogram
)

func (s *total) added() Added {
	if s.overflow {
		return ToOverflow
	}
	return ToSeries
}

// AddSum adds a point of a delta sum.
func (r *Resource) AddSum(m pmetric.Metric, p *Point, dp pmetric.NumberDataPoint) Added {
	if dp.IntValue() < 0 || dp.DoubleValue() < 0 || !finite(dp.DoubleValue()) {
		return Refused
	}
	s := r.at(m, p)
	switch dp.ValueType() {
	case pmetric.NumberDataPointValueTypeInt:
		s.number.SetIntValue(s.number.IntValue() + dp.IntValue())
	case pmetric.NumberDataPointValueTypeDouble:
		s.number.SetDoubleValue(s.number.DoubleValue() + dp.DoubleValue())
	}
	return s.added()
}

// AddHistogram adds a point of a delta histogram.
func (r *Resource) AddHistogram(m pmetric.Metric, p *Point, dp pmetric.HistogramDataPoint) Added {
	if !finite(dp.Sum()) {
		return Refused
	}
	s := r.at(m, p)
	if !addExplicit(s.histogram, dp) { // other boundaries: it begins anew
		s.start = p.Start
	}
	return s.added()
}

// AddExponential adds a point of a delta exponential histogram.
func (r *Resource) AddExponential(m pmetric.Metric, p *Point, dp pmetric.ExponentialHistogramDataPoint) Added {
	if !wellFormed(dp) {
		return Refused
	}
	s := r.at(m, p)
	addExponential(s.exponential, dp)
	return s.added()
}

// at gives the series that a point is of.
func (r *Resource) at(m pmetric.Metric, p *Point) *total {
	f, ok := r.metrics[m.Name()]
	if !ok {
		f = newFolded(m)
		r.metrics[m.Name()] = f
		r.order = append(r.order, f)
	}
	t := r.table
	t.key = appendMap(t.key[:0], p.Attributes, 0)
	s, ok := f.series[string(t.key)]
	if !ok && t.lens[m.Name()] >= t.budget {
		t.key = appendMap(append(t.key[:0], overflowKey...), p.Attributes, p.Ends)
		s, ok = f.series[string(t.key)]
		if !ok {
			s = newTotal(p, p.Ends)
			s.attributes.PutBool(netattr.MetricOverflow, true)
			s.overflow = true
			f.series[string(t.key)] = s
		}
	} else if !ok {
		s = newTotal(p, 0)
		f.series[string(t.key)] = s
		t.lens[m.Name()]++
	}
	s.start, s.at = min(s.start, p.Start), max(s.at, p.At)
	s.touched, s.changed = time.Now(), true
	return s
}

// overflowKey begins the key of a series that takes what there is no room for.
const overflowKey = "\x00"

func newFolded(m pmetric.Metric) *folded {
	f := &folded{like: pmetric.NewMetric(), series: map[string]*total{}}
	f.like.SetName(m.Name())
	f.like.SetUnit(m.Unit())
	f.like.SetDescription(m.Description())
	switch m.Type() {
	case pmetric.MetricTypeHistogram:
		f.like.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	case pmetric.MetricTypeExponentialHistogram:
		f.like.SetEmptyExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	default:
		sum := f.like.SetEmptySum()
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		sum.SetIsMonotonic(true)
	}
	return f
}

// newTotal begins a series, without the first so many attributes.
func newTotal(p *Point, without int) *total {
	s := &total{
		attributes: pcommon.NewMap(), start: p.Start, at: p.At,
		number: pmetric.NewNumberDataPoint(), histogram: pmetric.NewHistogramDataPoint(), exponential: pmetric.NewExponentialHistogramDataPoint(),
	}
	i := 0
	for key, value := range p.Attributes.All() {
		if i >= without {
			value.CopyTo(s.attributes.PutEmpty(key))
		}
		i++
	}
	return s
}

// Changed says whether there is anything to hand on.
func (r *Resource) Changed() bool {
	for _, f := range r.order {
		for _, s := range f.series {
			if s.changed {
				return true
			}
		}
	}
	return false
}

// AppendTo hands on the totals that have changed.
func (r *Resource) AppendTo(to pmetric.MetricSlice) {
	for _, f := range r.order {
		changed := 0
		for _, s := range f.series {
			if s.changed {
				changed++
			}
		}
		if changed > 0 {
			f.appendTo(to.AppendEmpty(), changed)
		}
	}
}

func (f *folded) appendTo(out pmetric.Metric, n int) {
	f.like.CopyTo(out)
	var appendPoint func(*total)
	switch out.Type() {
	case pmetric.MetricTypeHistogram:
		appendPoint = into(out.Histogram().DataPoints(), n, func(s *total, dp pmetric.HistogramDataPoint) { s.histogram.CopyTo(dp) })
	case pmetric.MetricTypeExponentialHistogram:
		appendPoint = into(out.ExponentialHistogram().DataPoints(), n, func(s *total, dp pmetric.ExponentialHistogramDataPoint) { s.exponential.CopyTo(dp) })
	default:
		appendPoint = into(out.Sum().DataPoints(), n, func(s *total, dp pmetric.NumberDataPoint) { s.number.CopyTo(dp) })
	}
	for _, s := range f.series {
		if s.changed {
			appendPoint(s)
			s.changed = false
		}
	}
}

// into gives what adds series to points of a type, of which there will be n more.
func into[P dataPoint](points interface {
	EnsureCapacity(int)
	AppendEmpty() P
}, n int, value func(*total, P),
) func(*total) {
	points.EnsureCapacity(n)
	return func(s *total) {
		dp := points.AppendEmpty()
		value(s, dp)
		s.describe(dp)
	}
}

// dataPoint is what data points of all types have.
type dataPoint interface {
	SetStartTimestamp(pcommon.Timestamp)
	SetTimestamp(pcommon.Timestamp)
	Attributes() pcommon.Map
}

func (s *total) describe(dp dataPoint) {
	dp.SetStartTimestamp(s.start)
	dp.SetTimestamp(s.at)
	s.attributes.CopyTo(dp.Attributes())
}

// appendMap renders attributes, without the first so many, so that maps which are equal
// in the same order give the same, and others do not.
func appendMap(to []byte, attrs pcommon.Map, without int) []byte {
	i := 0
	for key, value := range attrs.All() {
		if i++; i <= without {
			continue
		}
		to = appendString(to, key)
		to = append(to, byte(value.Type()))
		switch value.Type() {
		case pcommon.ValueTypeStr:
			to = appendString(to, value.Str())
		case pcommon.ValueTypeInt:
			to = binary.LittleEndian.AppendUint64(to, uint64(value.Int()))
		case pcommon.ValueTypeDouble:
			to = binary.LittleEndian.AppendUint64(to, math.Float64bits(value.Double()))
		default:
			to = appendString(to, value.AsString())
		}
	}
	return to
}

func appendString(to []byte, s string) []byte {
	to = binary.AppendUvarint(to, uint64(len(s)))
	return append(to, s...)
}
