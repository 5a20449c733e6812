// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Without connections and drops the rest goes on as ever, and there is nothing of them.
func TestConnectionsAndDropsOff(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	k := l.link(t, "np0")
	a := start(t, l.near, `{interfaces: {include: [np0]}, interval: 200ms, sockets: {mode: "off"}, drops: {mode: "off"}}`)
	k.up(t)
	for _, p := range k.pairings() {
		p.tcp(t, 1000)
	}
	a.requireAgreement(t, "np0", k.kernel)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var bytes int64
		for _, r := range a.sink.records(isFlow) {
			bytes += r.int("netprobe.flow.bytes")
		}
		assert.Greater(c, bytes, int64(8*1000))
	}, patience, glance)
	for _, r := range a.sink.records(func(map[string]any) bool { return true }) {
		require.Equal(t, "netprobe.flow", r.EventName())
		for key := range r.attrs {
			require.False(t, strings.HasPrefix(key, "process.") || slices.Contains([]string{
				"container.id", "netprobe.drops", "netprobe.tcp.rtt", "netprobe.tcp.retransmits", "netprobe.tcp.resets",
			}, key), key)
		}
	}
	for _, url := range []string{prometheusURL, selfURL} {
		for name := range l.near.scrape(t, url) {
			for _, of := range []string{"netprobe_socket", "netprobe_tcp", "netprobe_drops", "ebpfnet_sockets", "connections_lost", "drops_uncounted"} {
				require.NotContains(t, name, of)
			}
		}
	}
	require.NotContains(t, a.output.String(), "\twarn\t")
	requireNothingLost(t, a)
}
