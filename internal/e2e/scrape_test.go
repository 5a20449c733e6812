// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"maps"
	"net/http"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// families are scraped metrics by name.
type families map[string]*dto.MetricFamily

func (n *namespace) scrape(t require.TestingT, url string) families {
	resp, err := n.client.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	found, err := parser.TextToMetricFamilies(resp.Body)
	require.NoError(t, err)
	return found
}

func labels(m *dto.Metric) map[string]string {
	pairs := map[string]string{}
	for _, l := range m.GetLabel() {
		pairs[l.GetName()] = l.GetValue()
	}
	return pairs
}

func value(m *dto.Metric) float64 {
	if m.Counter != nil {
		return m.GetCounter().GetValue()
	}
	return m.GetGauge().GetValue()
}

// value is that of the one series that has just these labels.
func (f families) value(t require.TestingT, name string, want map[string]string) float64 {
	for _, m := range f[name].GetMetric() {
		if maps.Equal(labels(m), want) {
			return value(m)
		}
	}
	require.FailNow(t, "no such series", "%s%v", name, want)
	return 0
}

// sum adds up all series of a metric that have these labels among others.
func (f families) sum(name string, want map[string]string) float64 {
	var sum float64
	for _, m := range f[name].GetMetric() {
		have, all := labels(m), true
		for k, v := range want {
			all = all && have[k] == v
		}
		if all {
			sum += value(m)
		}
	}
	return sum
}

// counters gives what NetProbe says of an interface.
func (f families) counters(t require.TestingT, name string) counters {
	iface := map[string]string{"network_interface_name": name}
	get := func(metric string) uint64 { return uint64(f.value(t, metric, iface)) }
	return counters{
		RxPackets: get("netprobe_interface_rx_packets_total"),
		RxBytes:   get("netprobe_interface_rx_bytes_total"),
		TxPackets: get("netprobe_interface_tx_packets_total"),
		TxBytes:   get("netprobe_interface_tx_bytes_total"),
	}
}

// requireAgreement waits until NetProbe has counted what the kernel has: want
// gives the kernel's numbers.
func (a *agent) requireAgreement(t *testing.T, name string, want func(require.TestingT) counters) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		kernel := want(c)
		assert.Equal(c, kernel, a.host.scrape(c, prometheusURL).counters(c, name), "kernel and NetProbe differ on %s", name)
	}, patience, glance)
}
