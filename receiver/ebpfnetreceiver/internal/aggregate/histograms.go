// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Buckets says how durations are put into buckets.
type Buckets struct {
	// Boundaries of explicit buckets; none for exponential ones.
	Boundaries []time.Duration
	// MaxSize is how many exponential buckets there are at most.
	MaxSize int
}

// Durations are histograms of seconds by name, cumulative since they were made. The
// OpenTelemetry SDK does the work, so that buckets are those of its specification.
type Durations struct {
	provider *sdkmetric.MeterProvider
	reader   *sdkmetric.ManualReader
	byName   map[string]metric.Float64Histogram
}

// NewDurations makes an empty histogram for each name.
func NewDurations(buckets Buckets, names ...string) (*Durations, error) {
	reader := sdkmetric.NewManualReader(
		sdkmetric.WithAggregationSelector(func(sdkmetric.InstrumentKind) sdkmetric.Aggregation { return buckets.aggregation() }))
	d := &Durations{
		reader:   reader,
		provider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
		byName:   map[string]metric.Float64Histogram{},
	}
	meter := d.provider.Meter("")
	for _, name := range names {
		histogram, err := meter.Float64Histogram(name)
		if err != nil {
			return nil, fmt.Errorf("make histogram %s: %w", name, err)
		}
		d.byName[name] = histogram
	}
	return d, nil
}

func (b *Buckets) aggregation() sdkmetric.Aggregation {
	if len(b.Boundaries) == 0 {
		return sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: int32(b.MaxSize), MaxScale: 20}
	}
	return sdkmetric.AggregationExplicitBucketHistogram{Boundaries: b.seconds()}
}

// seconds gives the boundaries in seconds.
func (b *Buckets) seconds() []float64 {
	seconds := make([]float64, len(b.Boundaries))
	for i, boundary := range b.Boundaries {
		seconds[i] = boundary.Seconds()
	}
	return seconds
}

// Record adds a duration.
func (d *Durations) Record(name string, value time.Duration, attrs metric.MeasurementOption) {
	d.byName[name].Record(context.Background(), value.Seconds(), attrs)
}

// AttributeOption gives an attribute in the form that Record takes; make it once.
func AttributeOption(key, value string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String(key, value)))
}

// Collect gives the histograms that have something, by name.
func (d *Durations) Collect() (map[string]metricdata.Aggregation, error) {
	var all metricdata.ResourceMetrics
	if err := d.reader.Collect(context.Background(), &all); err != nil {
		return nil, fmt.Errorf("read histograms: %w", err)
	}
	byName := map[string]metricdata.Aggregation{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			byName[m.Name] = m.Data
		}
	}
	return byName, nil
}

// Close ends it.
func (d *Durations) Close() error {
	return d.provider.Shutdown(context.Background())
}
