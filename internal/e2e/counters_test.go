// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const watchLink = `{interfaces: {include: [np0]}, interval: 200ms}`

func TestInterfaceCountersEqualTheKernels(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	a := start(t, l.near, watchLink)
	k.up(t)

	for _, p := range k.pairings() {
		for _, traffic := range []struct {
			name string
			send func(*testing.T)
			min  uint64 // bytes in each direction
		}{
			{"TCP", func(t *testing.T) { p.tcp(t, 400<<10) }, 400 << 10},
			{"UDP", func(t *testing.T) { p.udp(t, 0, 1, 17, 18, 512, 1400, 1452, 1472) }, 4872},
			{"UDP in fragments", func(t *testing.T) { p.udp(t, 1473, 2000, 9000, 60000) }, 72473},
			{"ICMP echo", func(t *testing.T) { p.ping(t, 10, 56) }, 560},
			{"ICMP echo in fragments", func(t *testing.T) { p.ping(t, 3, 4000) }, 12000},
		} {
			t.Run(traffic.name+" over "+p.name, func(t *testing.T) {
				before := k.kernel(t)
				traffic.send(t)
				a.requireAgreement(t, "np0", k.kernel)
				gained := k.kernel(t).sub(before)
				require.Greater(t, gained.RxBytes, traffic.min)
				require.Greater(t, gained.TxBytes, traffic.min)
			})
		}
	}
	requireNothingLost(t, a)
}

func TestInterfaceCountersEqualTheKernelsWithIperf3(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	a := start(t, l.near, watchLink)
	k.up(t)

	const size = 4 << 20
	for _, p := range k.pairings() {
		for _, traffic := range []struct {
			name string
			args []string
		}{
			// slow enough that the kernel's queue between the ends never overflows
			{"TCP", []string{"-b", "100M", "-w", "64K"}},
			{"UDP", []string{"-u", "-b", "100M", "-l", "1200"}},
		} {
			t.Run(traffic.name+" over "+p.name, func(t *testing.T) {
				before := k.kernel(t)
				p.iperf3(t, append(traffic.args, "-n", "4M"))
				a.requireAgreement(t, "np0", k.kernel)
				gained := k.kernel(t).sub(before)
				require.Greater(t, max(gained.RxBytes, gained.TxBytes), uint64(size))
			})
		}
	}
	requireNothingLost(t, a)
}

func (p pairing) iperf3(t *testing.T, args []string) {
	t.Helper()
	address := p.server.addr.String()
	server := p.server.launch(t, exec.Command("iperf3", "--server", "--one-off", "--forceflush", "--bind", address))
	require.Eventually(t, func() bool { return strings.Contains(server.output.String(), "Server listening") }, patience, glance)
	client := p.client.launch(t, exec.Command("iperf3", append([]string{"--client", address}, args...)...))
	require.True(t, client.wait(t).Success(), "iperf3 client: %s", client.output)
	require.True(t, server.wait(t).Success(), "iperf3 server: %s", server.output)
}

// requireNothingLost looks at what NetProbe says of its own losses.
func requireNothingLost(t *testing.T, a *agent) {
	t.Helper()
	self := a.host.scrape(t, selfURL)
	for _, name := range []string{ledgerPackets, ledgerBytes} {
		require.NotEmpty(t, self[name].GetMetric(), name)
		require.Zero(t, self.sum(name, map[string]string{"outcome": "lost"}), name)
	}
}

func TestInterfaceMetricsAreNamedAsPromised(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	a := start(t, l.near, watchLink)
	k.up(t)
	k.pairings()[0].tcp(t, 1000)
	a.requireAgreement(t, "np0", k.kernel)

	found := map[string]dto.MetricType{}
	all := l.near.scrape(t, prometheusURL)
	for name, family := range all {
		if !strings.HasPrefix(name, "netprobe_interface_") {
			continue
		}
		found[name] = family.GetType()
		if name == "netprobe_interface_utilization_ratio" {
			requireUtilization(t, family)
			continue
		}
		require.Len(t, family.GetMetric(), 1, name)
		require.Equal(t, map[string]string{"network_interface_name": "np0"}, labels(family.GetMetric()[0]), name)
	}
	require.Equal(t, map[string]dto.MetricType{
		"netprobe_interface_rx_packets_total": dto.MetricType_COUNTER,
		"netprobe_interface_tx_packets_total": dto.MetricType_COUNTER,
		"netprobe_interface_rx_bytes_total":   dto.MetricType_COUNTER,
		"netprobe_interface_tx_bytes_total":   dto.MetricType_COUNTER,
		"netprobe_interface_rx_packets_rate":  dto.MetricType_GAUGE,
		"netprobe_interface_tx_packets_rate":  dto.MetricType_GAUGE,
		"netprobe_interface_rx_bytes_rate":    dto.MetricType_GAUGE,
		"netprobe_interface_tx_bytes_rate":    dto.MetricType_GAUGE,

		"netprobe_interface_utilization_ratio": dto.MetricType_GAUGE,
	}, found)
	require.NotContains(t, slices.Collect(maps.Keys(all)), "target_info")
}

// requireUtilization checks the series of one interface, a veth pair's end, which
// says that it has 10 Gbit/s.
func requireUtilization(t *testing.T, family *dto.MetricFamily) {
	t.Helper()
	found := map[string]bool{}
	for _, m := range family.GetMetric() {
		l := labels(m)
		found[l["network_io_direction"]] = true
		require.Equal(t, "np0", l["network_interface_name"])
		require.Len(t, l, 2)
		require.GreaterOrEqual(t, value(m), 0.0)
		require.Less(t, value(m), 1.0)
	}
	require.Equal(t, map[string]bool{"receive": true, "transmit": true}, found)
}

func TestRatesFollowTheTraffic(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	start(t, l.near, watchLink)
	k.up(t)
	p := k.pairings()[0]

	rates := []string{
		"netprobe_interface_rx_packets_rate", "netprobe_interface_tx_packets_rate",
		"netprobe_interface_rx_bytes_rate", "netprobe_interface_tx_bytes_rate",
	}
	client, server := p.connect(t)
	iface := map[string]string{"network_interface_name": "np0"}
	for _, rate := range rates {
		require.Eventually(t, func() bool {
			exchange(t, client, server, 1000)
			return l.near.scrape(t, prometheusURL).sum(rate, iface) > 0
		}, patience, glance, rate)
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		all := l.near.scrape(c, prometheusURL)
		for _, rate := range rates {
			assert.Zero(c, all.value(c, rate, iface), rate)
		}
	}, patience, glance)
}
