// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// watchOwn sees the connections of NetProbe's own namespace: those of other programs on
// the machine would be in its totals else.
const watchOwn = `{interfaces: {include: [np0]}, interval: 200ms, sockets: {namespaces: own}}`

// connections gives what happened so far to connections that have an end in a namespace,
// of those that match.
func (s *sink) connections(n *namespace, match map[string]any) []record {
	return s.records(func(attrs map[string]any) bool {
		return attrs["netprobe.connection.phase"] != nil && attrs["netprobe.observation.netns"] == int64(n.inode) && hasAll(attrs, match)
	})
}

func hasAll(attrs, match map[string]any) bool {
	for key, want := range match {
		if attrs[key] != want {
			return false
		}
	}
	return true
}

// connection waits for the one record that matches.
func (s *sink) connection(t *testing.T, n *namespace, match map[string]any) record {
	t.Helper()
	var found []record
	require.Eventually(t, func() bool {
		found = s.connections(n, match)
		return len(found) > 0
	}, patience, glance, "no record of %v", match)
	require.Len(t, found, 1, "records of %v", match)
	require.Equal(t, "netprobe.connection", found[0].EventName())
	return found[0]
}

func (r record) int(name string) int64 {
	n, _ := r.attrs[name].(int64)
	return n
}

// seconds is a duration that a record has.
func (r record) seconds(name string) time.Duration {
	n, _ := r.attrs[name].(float64)
	return time.Duration(n * float64(time.Second))
}

// newest gives the last metric that came by a name; false if none did.
func (s *sink) newest(name string) (pmetric.Metric, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.metrics) - 1; i >= 0; i-- {
		for _, rm := range s.metrics[i].ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if m.Name() == name {
						return m, true
					}
				}
			}
		}
	}
	return pmetric.Metric{}, false
}

// sum adds up a metric's newest points that have these attributes among others.
func (s *sink) sum(name string, match map[string]any) int64 {
	m, ok := s.newest(name)
	if !ok {
		return 0
	}
	var sum int64
	for _, dp := range m.Sum().DataPoints().All() {
		if hasAll(dp.Attributes().AsRaw(), match) {
			sum += dp.IntValue()
		}
	}
	return sum
}

// statistics are the kernel's of a namespace, as TcpRetransSegs, TcpExtListenDrops or
// Udp6RcvbufErrors.
func (n *namespace) statistics(t require.TestingT) map[string]int64 {
	all := map[string]int64{}
	for _, file := range []string{"snmp", "netstat"} {
		var text []byte
		require.NoError(t, n.in(func() (err error) {
			text, err = os.ReadFile("/proc/thread-self/net/" + file)
			return err
		}))
		// a line of names, and then one of values
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			require.Len(t, values, len(names))
			for j := 1; j < len(names); j++ {
				value, err := strconv.ParseInt(values[j], 10, 64)
				require.NoError(t, err)
				all[strings.TrimSuffix(names[0], ":")+names[j]] = value
			}
		}
	}
	var text []byte
	require.NoError(t, n.in(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp6")
		return err
	}))
	for line := range strings.Lines(string(text)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if value, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64); err == nil {
			all[name] = value
		}
	}
	return all
}

// socketStatistics is what ss(8) says of the TCP socket with a local port.
func (n *namespace) socketStatistics(t *testing.T, port int) map[string]string {
	t.Helper()
	var out []byte
	require.NoError(t, n.in(func() (err error) {
		out, err = exec.Command("ss", "-tinpOH", "sport = :"+strconv.Itoa(port)).CombinedOutput()
		return err
	}), "%s", out)
	require.Equal(t, 1, strings.Count(string(out), "\n"), "%s", out)
	all := map[string]string{"name": "", "pid": ""}
	for _, m := range regexp.MustCompile(`(\w+):(\S+)`).FindAllStringSubmatch(string(out), -1) {
		all[m[1]] = m[2]
	}
	if m := regexp.MustCompile(`\(\("([^"]*)",pid=(\d+),`).FindStringSubmatch(string(out)); m != nil {
		all["name"], all["pid"] = m[1], m[2]
	}
	return all
}

// result waits until a program has ended well, and gives what it wrote.
func (p *process) result(t *testing.T) string {
	t.Helper()
	require.True(t, p.wait(t).Success(), "%s: %s", p.cmd, p.output)
	return p.output.String()
}

// waitListening waits until somebody listens on a TCP port.
func (n *namespace) waitListening(t *testing.T, port int) {
	t.Helper()
	require.Eventually(t, func() bool {
		var out []byte
		err := n.in(func() (err error) {
			out, err = exec.Command("ss", "-tlnH", fmt.Sprintf("sport = :%d", port)).Output()
			return err
		})
		return err == nil && len(out) > 0
	}, patience, glance, "nobody listens on port %d", port)
}

// dialTCP connects within a time.
func (n *namespace) dialTCP(t *testing.T, address string, within time.Duration) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	conn, err := n.dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// requireLossless looks at what NetProbe says of connections that it has missed.
func (a *agent) requireLossless(t *testing.T) {
	t.Helper()
	self := a.host.scrape(t, selfURL)
	const lost = "otelcol_receiver_ebpfnet_connections_lost"
	require.Len(t, self[lost].GetMetric(), 3, "causes of %s", lost)
	for _, m := range self[lost].GetMetric() {
		assert.Zero(t, value(m), labels(m)["cause"])
	}
}
