// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/topology"
)

// clusterOf is records of as many edges between as many pods.
func clusterOf(pods, edges int) []topology.Record {
	random := rand.New(rand.NewPCG(1, 2))
	ends := make([]topology.End, pods)
	for i := range ends {
		ends[i] = end(fmt.Sprintf("app%d-%d", i/10, i), fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), fmt.Sprintf("node-%d", i%100), 0)
		ends[i].Addr = netip.MustParseAddr(fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&255, i&255))
	}
	type pair struct{ from, to int }
	seen := map[pair]bool{}
	records := make([]topology.Record, 0, edges)
	for i := 0; len(records) < edges; i++ {
		p := pair{i % pods, random.IntN(pods)}
		if p.from == p.to || seen[p] || seen[pair{p.to, p.from}] {
			continue
		}
		seen[p] = true
		source, destination := ends[p.from], ends[p.to]
		source.Port, destination.Port = uint16(32768+random.IntN(20000)), 8080
		records = append(records, topology.Record{
			Time: time.Now(), Start: time.Now(), Source: source, Destination: destination, Transport: "tcp", HasPorts: true, Class: topology.InterNode,
			Bytes: int64(100 + random.IntN(100000)), Packets: 10, Initiator: topology.SourceSide, CommunityID: fmt.Sprintf("1:%d", len(records)),
			Reporter: "source", ReportingNode: source.Node, RTT: time.Millisecond,
		})
	}
	return records
}

// BenchmarkUnderLoad is 10,000 vertices and 100,000 edges, which 50,000 records come for
// each second, and which 50 clients ask for. An iteration is a second.
func BenchmarkUnderLoad(b *testing.B) {
	const pods, edges, rate, clients = 10_000, 100_000, 50_000, 50
	records := clusterOf(pods, edges)
	before := heap()
	s := serve(b, host{}, func(cfg *Config) { cfg.Graph.Refresh = time.Second })
	s.AddRecords(slices.Clone(records))
	require.Equal(b, pods, s.Status().Vertices)
	require.Equal(b, edges, s.Status().Edges)
	empty := heap() - before

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	asked := []string{"/api/topology?limit=2000&mappings=false", "/api/flows?limit=100&namespace=shop", "/api/query/pod?ip=10.1.3.7"}
	var mu sync.Mutex
	took := make([][]time.Duration, len(asked))
	done := make(chan struct{})
	var running sync.WaitGroup
	var sent atomic.Int64
	var slowest time.Duration
	b.ResetTimer()
	began := time.Now()
	running.Go(func() { // records, as an exporter brings them
		batch := make([]topology.Record, 500)
		for n := 0; ; n += len(batch) {
			select {
			case <-done:
				return
			default:
			}
			if ahead := time.Duration(n)*time.Second/rate - time.Since(began); ahead > 0 {
				time.Sleep(ahead)
			}
			copy(batch, records[n%(edges-len(batch)):])
			at := time.Now()
			s.AddRecords(batch)
			slowest = max(slowest, time.Since(at))
			sent.Add(int64(len(batch)))
		}
	})
	for c := range clients {
		running.Go(func() {
			for i := c; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				k := i % len(asked)
				at := time.Now()
				resp, err := client.Get(s.url(asked[k]))
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					b.Errorf("%s: %d", asked[k], resp.StatusCode)
					return
				}
				mu.Lock()
				took[k] = append(took[k], time.Since(at))
				mu.Unlock()
				time.Sleep(time.Second) // as a page does
			}
		})
	}
	for b.Loop() {
		time.Sleep(time.Second)
	}
	b.ReportMetric(float64(sent.Load())/time.Since(began).Seconds(), "records/s")
	close(done)
	running.Wait()
	b.ReportMetric(float64(slowest.Microseconds())/1000, "ms/slowest-ingest")
	for k, name := range []string{"topology", "flows", "query"} {
		slices.Sort(took[k])
		if n := len(took[k]); n > 0 {
			b.ReportMetric(float64(took[k][n/2].Microseconds())/1000, "ms/"+name+"-p50")
			b.ReportMetric(float64(took[k][n*99/100].Microseconds())/1000, "ms/"+name+"-p99")
		}
	}
	b.ReportMetric(float64(empty)/(1<<20), "MiB/graph")
	b.ReportMetric(float64(heap()-before)/(1<<20), "MiB/with-readers")
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
