// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"time"

	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/connections"
)

// ConnectionSeries adds up what connections gained by their ends, at most as many of those
// in an interval as the budget says; what is over it has no ends.
type ConnectionSeries struct {
	// Folded counts the gains that have lost their ends to the budget.
	Folded uint64

	budget     int
	histograms bool
	bounds     []float64
	maxSize    int
	points     map[connections.Between]*ConnectionPoint
	start      time.Time // of the current interval
}

// ConnectionPoint is what connections between two ends gained from Start to the time of
// the Collect.
type ConnectionPoint struct {
	connections.Between
	connections.Counts
	// RTTs and Latencies are nil where there are none.
	RTTs, Latencies *Distribution
	Start           time.Time
}

// NewConnectionSeries begins the first interval at now. Without buckets there are no
// histograms.
func NewConnectionSeries(budget int, buckets *Buckets, now time.Time) *ConnectionSeries {
	c := &ConnectionSeries{budget: budget, points: map[connections.Between]*ConnectionPoint{}, start: now}
	if buckets != nil {
		c.histograms, c.bounds, c.maxSize = true, buckets.seconds(), buckets.MaxSize
	}
	return c
}

// Add adds what a connection gained.
func (c *ConnectionSeries) Add(gain *connections.Gain) {
	p := c.point(gain.Between, c.start)
	p.Counts.Add(&gain.Counts)
	if c.histograms {
		p.RTTs = c.with(p.RTTs, gain.RTT)
		p.Latencies = c.with(p.Latencies, gain.Latency)
	}
}

// with gives a distribution with a sample more, if there is one.
func (c *ConnectionSeries) with(d *Distribution, sample time.Duration) *Distribution {
	if sample <= 0 {
		return d
	}
	if d == nil {
		d = newDistribution(c.bounds, c.maxSize)
	}
	d.Add(sample)
	return d
}

// point gives that of two ends, or the one for all that there is no room for.
func (c *ConnectionSeries) point(key connections.Between, start time.Time) *ConnectionPoint {
	p := c.points[key]
	if p == nil && key.Client.IsValid() && len(c.points) >= c.budget {
		c.Folded++
		key = connections.Between{Role: key.Role}
		p = c.points[key]
	}
	if p == nil {
		p = &ConnectionPoint{Between: key, Start: start}
		c.points[key] = p
	}
	return p
}

// Collect ends the interval at now and hands out what was gained in it.
func (c *ConnectionSeries) Collect(now time.Time) []*ConnectionPoint {
	all := make([]*ConnectionPoint, 0, len(c.points))
	for _, p := range c.points {
		if p.Counts != (connections.Counts{}) || p.RTTs != nil || p.Latencies != nil {
			all = append(all, p)
		}
	}
	clear(c.points)
	c.start = now
	return all
}

// Restore puts back points that could not be handed on; the next Collect hands them out
// again, with what was gained since.
func (c *ConnectionSeries) Restore(points []*ConnectionPoint) {
	for _, p := range points {
		into := c.point(p.Between, p.Start)
		if p.Start.Before(into.Start) {
			into.Start = p.Start
		}
		into.Counts.Add(&p.Counts)
		into.RTTs, into.Latencies = merged(into.RTTs, p.RTTs), merged(into.Latencies, p.Latencies)
	}
}

func merged(a, b *Distribution) *Distribution {
	if a == nil {
		return b
	}
	if b != nil {
		a.Merge(b)
	}
	return a
}
