// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// Round trips and handshakes take what the way takes, by histograms of any kind, by
// records, and by what ss(8) says.
func TestRoundTripsAreThoseOfTheWay(t *testing.T) {
	t.Parallel() // it waits most of the time
	const delay = 80 * time.Millisecond
	l := newLab(t)
	k := l.delayedLink(t, "np0", delay)
	k.up(t)
	a := start(t, l.near, `{interfaces: {include: [np0]}, interval: 200ms, sockets: {namespaces: own, histograms: {type: exponential}}}`)
	for _, p := range k.pairings()[1:3] {
		p.ping(t, 1, 56) // so that both know each other's link-layer address
	}
	t.Run("connections", func(t *testing.T) {
		for _, p := range k.pairings() {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				roundTrips{k, a.sink, p, 2 * delay}.check(t)
			})
		}
	})
	for _, name := range []string{"netprobe.tcp.rtt", "netprobe.tcp.connect.latency"} {
		m, ok := a.sink.newest(name)
		require.True(t, ok, name)
		require.Equal(t, pmetric.MetricTypeExponentialHistogram, m.Type())
		require.Equal(t, pmetric.AggregationTemporalityCumulative, m.ExponentialHistogram().AggregationTemporality())
		require.Equal(t, "s", m.Unit())
	}
	// those of the loopback are far from these
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		m, _ := a.sink.newest("netprobe.tcp.connect.latency")
		assert.EqualValues(c, 2, samplesFrom(m, "client", (2*delay).Seconds()), "handshakes that the near end began")
		assert.Zero(c, samplesFrom(m, "server", 0))
		m, _ = a.sink.newest("netprobe.tcp.rtt")
		assert.GreaterOrEqual(c, samplesFrom(m, "client", (2*delay).Seconds()), uint64(2))
		assert.GreaterOrEqual(c, samplesFrom(m, "server", (2*delay).Seconds()), uint64(2))
	}, patience, glance)
}

// roundTrips looks at a connection over a link with a delay.
type roundTrips struct {
	link *link
	sink *sink
	pairing
	least time.Duration
}

func (r roundTrips) check(t *testing.T) {
	began := time.Now()
	client, server := r.connect(t)
	handshake := time.Since(began)
	longest := r.least
	for range 8 {
		began := time.Now()
		exchange(t, client, server, 10)
		longest = max(longest, time.Since(began))
	}
	// What this took here is the most that the kernel can have found on a busy machine.
	about := func(got time.Duration, of string) {
		t.Helper()
		require.GreaterOrEqual(t, got, r.least-time.Millisecond, of)
		require.LessOrEqual(t, got.Seconds(), 1.1*longest.Seconds(), of)
	}
	near, role := client, "client"
	if r.server.namespace == r.link.lab.near {
		near, role = server, "server"
	}
	local := addrOf(near.LocalAddr())
	text, _, _ := strings.Cut(r.link.lab.near.socketStatistics(t, int(local.Port()))["rtt"], "/")
	milliseconds, err := strconv.ParseFloat(text, 64)
	require.NoError(t, err)
	ss := time.Duration(milliseconds * float64(time.Millisecond))
	about(ss, "by ss")

	require.NoError(t, client.Close())
	_, err = io.Copy(io.Discard, server)
	require.NoError(t, err)
	require.NoError(t, server.Close())
	closed := r.sink.connection(t, r.link.lab.near, map[string]any{
		"source.port": int64(addrOf(client.LocalAddr()).Port()), "netprobe.connection.phase": "close",
	})
	require.Equal(t, role, closed.attrs["netprobe.connection.role"])
	require.InEpsilon(t, ss.Seconds(), closed.seconds("netprobe.tcp.rtt").Seconds(), 0.1, "by its record, one FIN after ss")
	if role == "client" {
		latency := closed.seconds("netprobe.connection.latency")
		require.GreaterOrEqual(t, latency, r.least)
		require.LessOrEqual(t, latency, handshake)
	}
	// on what the near end sends, and on what it gets
	for _, way := range []string{"source", "destination"} {
		var rtts []time.Duration
		for _, f := range r.sink.records(isFlow) {
			if f.address(way+".address") == local.Addr() && f.int(way+".port") == int64(local.Port()) && f.attrs["netprobe.tcp.rtt"] != nil {
				rtts = append(rtts, f.seconds("netprobe.tcp.rtt"))
			}
		}
		require.NotEmpty(t, rtts)
		require.InEpsilon(t, ss.Seconds(), rtts[len(rtts)-1].Seconds(), 0.1, "by its flow")
	}
}

// samplesFrom counts those of a role in the buckets from that of a value on.
func samplesFrom(m pmetric.Metric, role string, value float64) (n uint64) {
	for _, dp := range m.ExponentialHistogram().DataPoints().All() {
		if have, _ := dp.Attributes().Get("netprobe.connection.role"); have.Str() != role {
			continue
		}
		base := math.Pow(2, math.Pow(2, -float64(dp.Scale())))
		for i, count := range dp.Positive().BucketCounts().All() {
			if math.Pow(base, float64(int(dp.Positive().Offset())+i+1)) >= value {
				n += count
			}
		}
	}
	return n
}

// What is lost on the way is sent again, as often as the kernel of the sender's namespace
// says: by the records of connections, and by those of flows.
func TestRetransmitsAreTheKernels(t *testing.T) {
	const connections, size = 60, 100_000
	l := newLab(t)
	k := l.link(t, "np0")
	k.up(t)
	l.near.execute(t, `table inet lab {
	chain in {
		type filter hook input priority 0;
		tcp dport 7020 numgen random mod 100 < 3 drop
	}
}`, "nft", "-f", "-")
	a := start(t, l.near, `{interfaces: {include: [np0]}, interval: 100ms}`)
	for _, p := range []pairing{k.pairings()[1], k.pairings()[3]} { // from far, where nobody else is
		p.sendMany(t, 7020, connections/2, size)
	}
	ours := map[string]any{"destination.port": int64(7020)}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		again := l.far.statistics(c)["TcpRetransSegs"]
		assert.Greater(c, again, int64(20))
		var byConnection, byFlow, dropped int64
		for _, r := range a.sink.connections(l.far, map[string]any{"netprobe.connection.phase": "close"}) {
			byConnection += r.int("netprobe.tcp.retransmits")
		}
		for _, r := range a.sink.records(func(attrs map[string]any) bool { return isFlow(attrs) && hasAll(attrs, ours) }) {
			byFlow += r.int("netprobe.tcp.retransmits")
			dropped += r.int("netprobe.drops")
		}
		assert.Equal(c, again, byConnection, "by connections")
		assert.Equal(c, again, byFlow, "by flows")
		drops := l.near.scrape(c, prometheusURL).sum("netprobe_drops_total", map[string]string{"network_interface_name": "np0", "network_transport": "tcp"})
		assert.EqualValues(c, drops, dropped, "drops by flows")
		assert.Positive(c, dropped)
	}, patience, 100*time.Millisecond)
	t.Logf("%d segments sent again", l.far.statistics(t)["TcpRetransSegs"])
	a.requireLossless(t)
}

// sendMany sends so much over each of so many connections, some at a time, until all
// of it has come.
func (p pairing) sendMany(t *testing.T, port, connections, size int) {
	t.Helper()
	const atATime = 6
	var ends sync.WaitGroup
	room, failures := make(chan struct{}, atATime), make(chan error, 2*connections+1)
	listener := p.server.listen(t, "tcp", p.server.endpoint(strconv.Itoa(port)))
	ends.Go(func() {
		for range connections {
			conn, err := listener.Accept()
			if err != nil {
				failures <- err
				return
			}
			ends.Go(func() {
				failures <- readAll(conn, size)
				<-room
			})
		}
	})
	for range connections {
		room <- struct{}{}
		conn, err := p.client.dialTCP(t, listener.Addr().String(), patience)
		require.NoError(t, err)
		ends.Go(func() {
			_, err := conn.Write(make([]byte, size))
			failures <- errors.Join(err, conn.Close())
		})
	}
	ends.Wait()
	close(failures)
	for err := range failures {
		require.NoError(t, err)
	}
}
