// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Datagrams that a rule drops are those that NetProbe says were dropped there.
func TestNetfilterDropsAreCounted(t *testing.T) {
	l := newLab(t)
	if features.HaveProgramType(ebpf.Netfilter) != nil {
		t.Skip("this kernel has no netfilter links, which came with 6.4")
	}
	k := l.link(t, "np0")
	nft := exec.Command("nft", "add table ip t; add chain ip t in { type filter hook input priority 0; }; add rule ip t in udp dport 7 drop")
	require.NoError(t, l.near.in(nft.Run))
	a := start(t, l.near, `{interfaces: {include: [np0]}, interval: 200ms, netfilter: {mode: auto}, drops: {mode: auto}}`)
	k.up(t)

	const datagrams = 25
	var client net.Conn
	require.NoError(t, l.far.in(func() (err error) {
		client, err = net.Dial("udp", net.JoinHostPort(k.near4.String(), "7"))
		return err
	}))
	for range datagrams {
		_, err := client.Write(make([]byte, 100))
		require.NoError(t, err)
	}
	require.NoError(t, client.Close())

	dropped := map[string]string{"netprobe_netfilter_hook": "local_in", "network_type": "ipv4", "netprobe_netfilter_outcome": "dropped"}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		found := l.near.scrape(c, prometheusURL)
		assert.EqualValues(c, datagrams, found.value(c, "netprobe_netfilter_packets_total", dropped))
		assert.EqualValues(c, datagrams*128, found.value(c, "netprobe_netfilter_bytes_total", dropped), "IP and UDP headers and 100 bytes each")
	}, patience, glance)
	seen := l.near.scrape(t, prometheusURL).value(t, "netprobe_netfilter_packets_total",
		map[string]string{"netprobe_netfilter_hook": "local_in", "network_type": "ipv4", "netprobe_netfilter_outcome": "seen"})
	require.GreaterOrEqual(t, seen, float64(datagrams))

	// the kernel says the same of them, and of which flow they were
	reason := map[string]string{
		"netprobe_drop_reason": "NETFILTER_DROP", "network_interface_name": "np0", "network_transport": "udp",
		"netprobe_observation_direction": "ingress",
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.EqualValues(c, datagrams, l.near.scrape(c, prometheusURL).value(c, "netprobe_drops_total", reason))
		var sum int64
		for _, r := range a.sink.records(func(attrs map[string]any) bool { return attrs["netprobe.drop.reason"] == "NETFILTER_DROP" }) {
			assert.Equal(c, "netprobe.drop", r.EventName())
			assert.Equal(c, k.far4.String(), r.attrs["source.address"])
			assert.EqualValues(c, 7, r.attrs["destination.port"])
			sum += r.attrs["netprobe.drops"].(int64)
		}
		assert.EqualValues(c, datagrams, sum)
	}, patience, glance)
	require.NotContains(t, strings.ToLower(a.output.String()), "netfilter is not counted")
}
