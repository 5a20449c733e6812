// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// many gives records of as many edges among vertices.
func many(vertices, edges int) []Record {
	records := make([]Record, edges)
	for i := range records {
		name := func(k int) End {
			return pod(fmt.Sprintf("app%d-%d", k/10, k), fmt.Sprintf("10.%d.%d.%d", k>>16, k>>8&255, k&255), fmt.Sprintf("node-%d", k%100), 8080)
		}
		a := i % vertices
		records[i] = flowOf(name(a), name((a+1+i/vertices)%vertices), 1000, func(r *Record) { r.CommunityID = fmt.Sprint(i) })
	}
	return records
}

func BenchmarkAddRecords(b *testing.B) {
	g, _ := newGraph(func(o *Options) { o.Refresh = time.Second })
	records := many(10_000, 100_000)
	g.AddRecords(slices.Clone(records))
	batch := make([]Record, 500)
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		copy(batch, records[i*len(batch)%(len(records)-len(batch)):])
		g.AddRecords(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(batch)), "ns/record")
}

func BenchmarkSnapshot(b *testing.B) {
	g, _ := newGraph()
	g.AddRecords(many(10_000, 100_000))
	s := g.current()
	b.Run("copy", func(b *testing.B) {
		for b.Loop() {
			g.current()
		}
	})
	b.Run("recent", func(b *testing.B) {
		for b.Loop() {
			g.recent(5 * time.Minute)
		}
	})
	b.Run("encode", func(b *testing.B) {
		var n int
		for b.Loop() {
			n = len(Encode(s))
		}
		b.ReportMetric(float64(n)/float64(len(s.Edges)), "B/edge")
	})
	b.Run("lift", func(b *testing.B) {
		for b.Loop() {
			lift(s, LevelWorkload)
		}
	})
}
