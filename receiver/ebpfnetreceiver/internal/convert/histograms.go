// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// AppendHistogram adds a cumulative histogram of seconds.
func AppendHistogram(to pmetric.MetricSlice, name, description string, data metricdata.Aggregation) {
	switch h := data.(type) {
	case metricdata.Histogram[float64]:
		out := appendSeconds(to, name, description).SetEmptyHistogram()
		out.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		for i := range h.DataPoints {
			putExplicit(&h.DataPoints[i], out.DataPoints().AppendEmpty())
		}
	case metricdata.ExponentialHistogram[float64]:
		out := appendSeconds(to, name, description).SetEmptyExponentialHistogram()
		out.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		for i := range h.DataPoints {
			putExponential(&h.DataPoints[i], out.DataPoints().AppendEmpty())
		}
	}
}

func appendSeconds(to pmetric.MetricSlice, name, description string) pmetric.Metric {
	m := to.AppendEmpty()
	m.SetName(name)
	m.SetUnit("s")
	m.SetDescription(description)
	return m
}

func putExplicit(from *metricdata.HistogramDataPoint[float64], to pmetric.HistogramDataPoint) {
	to.SetStartTimestamp(pcommon.NewTimestampFromTime(from.StartTime))
	to.SetTimestamp(pcommon.NewTimestampFromTime(from.Time))
	to.SetCount(from.Count)
	to.SetSum(from.Sum)
	to.ExplicitBounds().FromRaw(from.Bounds)
	to.BucketCounts().FromRaw(from.BucketCounts)
	if least, ok := from.Min.Value(); ok {
		to.SetMin(least)
	}
	if most, ok := from.Max.Value(); ok {
		to.SetMax(most)
	}
	putSet(from.Attributes, to.Attributes())
}

func putExponential(from *metricdata.ExponentialHistogramDataPoint[float64], to pmetric.ExponentialHistogramDataPoint) {
	to.SetStartTimestamp(pcommon.NewTimestampFromTime(from.StartTime))
	to.SetTimestamp(pcommon.NewTimestampFromTime(from.Time))
	to.SetCount(from.Count)
	to.SetSum(from.Sum)
	to.SetScale(from.Scale)
	to.SetZeroCount(from.ZeroCount)
	to.SetZeroThreshold(from.ZeroThreshold)
	// durations are not negative
	to.Positive().SetOffset(from.PositiveBucket.Offset)
	to.Positive().BucketCounts().FromRaw(from.PositiveBucket.Counts)
	if least, ok := from.Min.Value(); ok {
		to.SetMin(least)
	}
	if most, ok := from.Max.Value(); ok {
		to.SetMax(most)
	}
	putSet(from.Attributes, to.Attributes())
}

func putSet(from attribute.Set, to pcommon.Map) {
	for _, kv := range from.ToSlice() {
		to.PutStr(string(kv.Key), kv.Value.String())
	}
}
