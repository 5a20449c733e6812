// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package series

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func sum(name string) pmetric.Metric {
	m := pmetric.NewMetric()
	m.SetName(name)
	m.SetEmptySum().SetIsMonotonic(true)
	return m
}

func value(v int64) pmetric.NumberDataPoint {
	dp := pmetric.NewNumberDataPoint()
	dp.SetIntValue(v)
	return dp
}

func point(ends, rest string) *Point {
	p := &Point{Start: 10, At: 20, Attributes: pcommon.NewMap(), Ends: 1}
	p.Attributes.PutStr("end", ends)
	p.Attributes.PutStr("rest", rest)
	return p
}

func resource(name string) pcommon.Resource {
	r := pcommon.NewResource()
	r.Attributes().PutStr("node", name)
	return r
}

func values(r *Resource) map[string]int64 {
	to := pmetric.NewMetricSlice()
	r.AppendTo(to)
	out := map[string]int64{}
	for _, m := range to.All() {
		for _, dp := range m.Sum().DataPoints().All() {
			raw := dp.Attributes().AsRaw()
			end, _ := raw["end"].(string)
			if raw["otel.metric.overflow"] == true {
				end = "overflow"
			}
			out[m.Name()+" "+end+" "+raw["rest"].(string)] = dp.IntValue()
		}
	}
	return out
}

func TestResourcesAndMetricsAreKeptApart(t *testing.T) {
	table := New(10, time.Hour)
	a, b := table.Resource(resource("a")), table.Resource(resource("b"))
	require.Equal(t, ToSeries, a.AddSum(sum("x"), point("e", "r"), value(1)))
	require.Equal(t, ToSeries, a.AddSum(sum("y"), point("e", "r"), value(2)))
	require.Equal(t, ToSeries, b.AddSum(sum("x"), point("e", "r"), value(4)))
	require.Equal(t, ToSeries, table.Resource(resource("a")).AddSum(sum("x"), point("e", "r"), value(8)))
	require.Equal(t, map[string]int64{"x e r": 9, "y e r": 2}, values(a))
	require.Equal(t, map[string]int64{"x e r": 4}, values(b))
	require.Equal(t, map[string]int{"x": 2, "y": 1}, table.Len())
	require.False(t, a.Changed())
	require.Empty(t, values(a), "only what has changed")
	table.Again()
	require.Equal(t, map[string]int64{"x e r": 9, "y e r": 2}, values(a))
}

// What has no room goes together by what is not of the ends, and its room comes back.
func TestBudget(t *testing.T) {
	table := New(2, time.Minute)
	r := table.Resource(resource("a"))
	for i, end := range []string{"1", "2", "3", "4", "1"} {
		require.Equal(t, i < 2 || i == 4, r.AddSum(sum("x"), point(end, "r"), value(1)) == ToSeries, end)
	}
	require.Equal(t, ToOverflow, r.AddSum(sum("x"), point("5", "other"), value(1)))
	require.Equal(t, ToSeries, r.AddSum(sum("y"), point("5", "other"), value(1)), "another metric")
	require.Equal(t, map[string]int64{"x 1 r": 2, "x 2 r": 1, "x overflow r": 2, "x overflow other": 1, "y 5 other": 1}, values(r))
	table.Expire(time.Now().Add(2 * time.Minute))
	require.Equal(t, map[string]int{"x": 0, "y": 0}, table.Len())
	require.Empty(t, table.resources)
	r = table.Resource(resource("a"))
	require.Equal(t, ToSeries, r.AddSum(sum("x"), point("3", "r"), value(7)))
	require.Equal(t, map[string]int64{"x 3 r": 7}, values(r))
}

// A series that has not been handed on is not forgotten.
func TestWhatIsNotHandedOnStays(t *testing.T) {
	table := New(2, time.Minute)
	r := table.Resource(resource("a"))
	r.AddSum(sum("x"), point("1", "r"), value(1))
	table.Expire(time.Now().Add(time.Hour))
	require.Equal(t, map[string]int64{"x 1 r": 1}, values(r))
	table.Expire(time.Now().Add(2 * time.Hour))
	require.Zero(t, table.Len()["x"])
}

func TestTimesSpanAllPoints(t *testing.T) {
	r := New(2, time.Minute).Resource(resource("a"))
	for _, times := range [][2]pcommon.Timestamp{{10, 20}, {20, 30}, {5, 25}} {
		p := point("1", "r")
		p.Start, p.At = times[0], times[1]
		r.AddSum(sum("x"), p, value(1))
	}
	to := pmetric.NewMetricSlice()
	r.AppendTo(to)
	dp := to.At(0).Sum().DataPoints().At(0)
	require.EqualValues(t, 5, dp.StartTimestamp())
	require.EqualValues(t, 30, dp.Timestamp())
}

func TestDoublesAddUp(t *testing.T) {
	r := New(2, time.Minute).Resource(resource("a"))
	for range 2 {
		dp := pmetric.NewNumberDataPoint()
		dp.SetDoubleValue(0.25)
		r.AddSum(sum("x"), point("1", "r"), dp)
	}
	to := pmetric.NewMetricSlice()
	r.AppendTo(to)
	require.InDelta(t, 0.5, to.At(0).Sum().DataPoints().At(0).DoubleValue(), 0)
}

// Keys tell maps apart that look alike as text.
func TestKeysTellMapsApart(t *testing.T) {
	keys := map[string]map[string]any{}
	for _, raw := range []map[string]any{
		{"a": "1"}, {"a": int64(1)}, {"a": 1.0}, {"a": true}, {"a": "true"}, {"a1": ""}, {"a": ""}, {}, {"a": []any{"1"}}, {"a": "[\"1\"]"},
	} {
		m := pcommon.NewMap()
		require.NoError(t, m.FromRaw(raw))
		key := string(appendMap(nil, m, 0))
		require.NotContains(t, keys, key, "%v", raw)
		keys[key] = raw
	}
}

func explicit(bounds []float64, counts []uint64, lowest, highest float64) pmetric.HistogramDataPoint {
	dp := pmetric.NewHistogramDataPoint()
	dp.ExplicitBounds().FromRaw(bounds)
	dp.BucketCounts().FromRaw(counts)
	for _, n := range counts {
		dp.SetCount(dp.Count() + n)
	}
	dp.SetSum(float64(dp.Count()))
	dp.SetMin(lowest)
	dp.SetMax(highest)
	return dp
}

func TestExplicitHistogramsAddUp(t *testing.T) {
	m := pmetric.NewMetric()
	m.SetName("h")
	m.SetEmptyHistogram()
	r := New(2, time.Minute).Resource(resource("a"))
	require.Equal(t, ToSeries, r.AddHistogram(m, point("1", "r"), explicit([]float64{1, 2}, []uint64{1, 0, 5}, 0.5, 9)))
	require.Equal(t, ToSeries, r.AddHistogram(m, point("1", "r"), explicit([]float64{1, 2}, []uint64{1, 1, 1}, 0.1, 3)))
	last := func() pmetric.HistogramDataPoint {
		to := pmetric.NewMetricSlice()
		r.AppendTo(to)
		require.Equal(t, pmetric.AggregationTemporalityCumulative, to.At(0).Histogram().AggregationTemporality())
		return to.At(0).Histogram().DataPoints().At(0)
	}
	dp := last()
	require.Equal(t, []uint64{2, 1, 6}, dp.BucketCounts().AsRaw())
	require.EqualValues(t, 9, dp.Count())
	require.InDelta(t, 9, dp.Sum(), 0)
	require.InDelta(t, 0.1, dp.Min(), 0)
	require.InDelta(t, 9, dp.Max(), 0)
	// other boundaries cannot be added
	p := point("1", "r")
	p.Start, p.At = 100, 200
	require.Equal(t, ToSeries, r.AddHistogram(m, p, explicit([]float64{1, 2, 3}, []uint64{1, 1, 1, 1}, 0.1, 3)))
	dp = last()
	require.Equal(t, []uint64{1, 1, 1, 1}, dp.BucketCounts().AsRaw())
	require.EqualValues(t, 100, dp.StartTimestamp())
}

// exponentialOf is what the SDK makes of values.
func exponentialOf(t *testing.T, values []float64, size int32) pmetric.ExponentialHistogramDataPoint {
	reader := sdkmetric.NewManualReader(sdkmetric.WithAggregationSelector(func(sdkmetric.InstrumentKind) sdkmetric.Aggregation {
		return sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: size, MaxScale: 20}
	}))
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	histogram, err := provider.Meter("").Float64Histogram("h")
	require.NoError(t, err)
	for _, v := range values {
		histogram.Record(context.Background(), v)
	}
	var rm metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(context.Background(), &rm))
	from := rm.ScopeMetrics[0].Metrics[0].Data.(metricdata.ExponentialHistogram[float64]).DataPoints[0]
	dp := pmetric.NewExponentialHistogramDataPoint()
	dp.SetScale(from.Scale)
	dp.SetCount(from.Count)
	dp.SetSum(from.Sum)
	dp.SetZeroCount(from.ZeroCount)
	dp.Positive().SetOffset(from.PositiveBucket.Offset)
	dp.Positive().BucketCounts().FromRaw(from.PositiveBucket.Counts)
	return dp
}

// Added histograms have each value in the bucket that its scale says (OpenTelemetry
// data model, exponential scale: bucket i is over base^i up to base^(i+1)).
func TestExponentialHistogramsAddUp(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 50 {
		var all []float64
		m := pmetric.NewMetric()
		m.SetName("h")
		m.SetEmptyExponentialHistogram()
		r := New(2, time.Minute).Resource(resource("a"))
		for range 1 + random.IntN(4) {
			var part []float64
			for range 1 + random.IntN(50) {
				v := math.Exp(random.NormFloat64()*float64(1+round%5) - 6)
				if random.IntN(20) == 0 {
					v = 0
				}
				part = append(part, v)
			}
			all = append(all, part...)
			require.Equal(t, ToSeries, r.AddExponential(m, point("1", "r"), exponentialOf(t, part, []int32{4, 40, 160}[random.IntN(3)])))
		}
		to := pmetric.NewMetricSlice()
		r.AppendTo(to)
		dp := to.At(0).ExponentialHistogram().DataPoints().At(0)
		require.EqualValues(t, len(all), dp.Count())
		require.LessOrEqual(t, dp.Positive().BucketCounts().Len(), maxBuckets)
		want, zeros := map[int]uint64{}, uint64(0)
		for _, v := range all {
			if v == 0 {
				zeros++
				continue
			}
			want[int(math.Ceil(math.Log2(v)*math.Exp2(float64(dp.Scale()))))-1]++
		}
		got := map[int]uint64{}
		for i, n := range dp.Positive().BucketCounts().All() {
			if n > 0 {
				got[int(dp.Positive().Offset())+i] = n
			}
		}
		require.Equal(t, want, got, "scale %d", dp.Scale())
		require.Equal(t, zeros, dp.ZeroCount())
	}
}

// What keeps to no data model is refused, and takes no series with it.
func TestPointsThatCannotBeAdded(t *testing.T) {
	r := New(2, time.Minute).Resource(resource("a"))
	require.Equal(t, ToSeries, r.AddSum(sum("x"), point("1", "r"), value(5)))
	require.Equal(t, Refused, r.AddSum(sum("x"), point("1", "r"), value(-1)))
	for _, v := range []float64{-0.5, math.NaN(), math.Inf(1)} {
		dp := pmetric.NewNumberDataPoint()
		dp.SetDoubleValue(v)
		require.Equal(t, Refused, r.AddSum(sum("y"), point("1", "r"), dp), "%v", v)
	}
	require.Equal(t, map[string]int64{"x 1 r": 5}, values(r))

	m := pmetric.NewMetric()
	m.SetName("h")
	m.SetEmptyExponentialHistogram()
	exponential := func(scale, offset int32, counts ...uint64) pmetric.ExponentialHistogramDataPoint {
		dp := pmetric.NewExponentialHistogramDataPoint()
		dp.SetScale(scale)
		dp.SetCount(uint64(len(counts)))
		dp.Positive().SetOffset(offset)
		dp.Positive().BucketCounts().FromRaw(counts)
		return dp
	}
	for _, refused := range []pmetric.ExponentialHistogramDataPoint{
		exponential(math.MaxInt32, 0, 1), exponential(math.MinInt32, 0, 1), exponential(0, math.MaxInt32, 1, 2),
	} {
		require.Equal(t, Refused, r.AddExponential(m, point("1", "r"), refused))
	}
	// as far apart as can be, in any order
	for _, all := range [][]pmetric.ExponentialHistogramDataPoint{
		{exponential(20, math.MinInt32, 1), exponential(20, math.MaxInt32-1, 1), exponential(-10, 0, 1)},
		{exponential(-10, math.MaxInt32-1, 1), exponential(-10, math.MinInt32, 1), exponential(20, 0, 1)},
	} {
		r := New(2, time.Minute).Resource(resource("a"))
		for _, dp := range all {
			require.Equal(t, ToSeries, r.AddExponential(m, point("1", "r"), dp))
		}
		to := pmetric.NewMetricSlice()
		r.AppendTo(to)
		dp := to.At(0).ExponentialHistogram().DataPoints().At(0)
		var sum uint64
		for _, n := range dp.Positive().BucketCounts().All() {
			sum += n
		}
		require.EqualValues(t, 3, sum)
		require.LessOrEqual(t, dp.Positive().BucketCounts().Len(), maxBuckets)
	}
}

func FuzzAddExponential(f *testing.F) {
	f.Add(int32(0), int32(0), int32(0), int32(math.MaxInt32), uint8(1), uint8(2))
	f.Add(int32(-10), int32(math.MinInt32), int32(20), int32(math.MaxInt32), uint8(200), uint8(7))
	f.Fuzz(func(t *testing.T, scale, offset, scale2, offset2 int32, n, n2 uint8) {
		m := pmetric.NewMetric()
		m.SetName("h")
		m.SetEmptyExponentialHistogram()
		r := New(2, time.Minute).Resource(resource("a"))
		var want uint64
		for _, p := range []struct {
			scale, offset int32
			n             uint8
		}{{scale, offset, n}, {scale2, offset2, n2}} {
			dp := pmetric.NewExponentialHistogramDataPoint()
			dp.SetScale(p.scale)
			dp.Positive().SetOffset(p.offset)
			for range p.n {
				dp.Positive().BucketCounts().Append(1)
			}
			dp.SetCount(uint64(p.n))
			if r.AddExponential(m, point("1", "r"), dp) == ToSeries {
				want += uint64(p.n)
			}
		}
		to := pmetric.NewMetricSlice()
		r.AppendTo(to)
		var sum uint64
		for _, m := range to.All() {
			for _, count := range m.ExponentialHistogram().DataPoints().At(0).Positive().BucketCounts().All() {
				sum += count
			}
		}
		require.Equal(t, want, sum)
	})
}
