// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Conversations of two pods on one node, directly and through a service, are counted once
// each, from the end that opened them: each packet crosses several devices, in two
// directions, under two names where it is translated, and some last for several intervals.
func TestClusterCountsConversationsOnce(t *testing.T) {
	const short = 20
	c := newCluster(t)
	c.start(t, `{interval: 200ms}`)
	node := c.nodes[0]
	_, local := c.services()
	for _, v := range []ipVersion{ipv4, ipv6} {
		for _, conv := range []conversation{
			{"directly over " + string(v), v, node.pods[0], local.backend, nil},
			{"through a service over " + string(v), v, node.pods[0], local.backend, &local},
		} {
			t.Run(conv.name, func(t *testing.T) {
				for range short {
					conv.tcp(t, 1)
				}
				for range 3 {
					conv.udp(t, 1)
				}
				conv.lastFor(t, time.Second)

				client, dialed := conv.client.addrs.of(v).String(), conv.server.addrs.of(v).String()
				tcp, udp := uint16(tcpPort), uint16(udpPort)
				if conv.service != nil {
					dialed = local.addrs.of(v).String()
					tcp, udp = tcpServicePort, udpServicePort
				}
				flows := func(t require.TestingT, transport, source, destination string, port uint16) float64 {
					want := map[string]string{"network_transport": transport, "source_address": source, "destination_address": destination}
					if port != 0 {
						want["destination_port"] = strconv.Itoa(int(port))
					}
					return node.scrape(t, prometheusURL).sum("netprobe_flows_total", want)
				}
				require.EventuallyWithT(t, func(t *assert.CollectT) {
					assert.EqualValues(t, short+1, flows(t, "tcp", client, dialed, tcp))
					assert.EqualValues(t, 3, flows(t, "udp", client, dialed, udp), "each has a port of its own")
				}, patience, glance)
				time.Sleep(time.Second) // what comes in later intervals would be counted again
				assert.EqualValues(t, short+1, flows(t, "tcp", client, dialed, 0), "with no other port")
				assert.EqualValues(t, 0, flows(t, "tcp", dialed, client, 0), "nor the other way around")
				if conv.service != nil {
					assert.EqualValues(t, short+1, flows(t, "tcp", client, conv.server.addrs.of(v).String(), 0), "nor by its other name: these are the direct ones")
				}
			})
		}
	}
}

// lastFor holds a connection with something in each interval of that time.
func (c *conversation) lastFor(t *testing.T, d time.Duration) {
	t.Helper()
	listen, dial := c.targets(tcpPort, tcpServicePort)
	listener := c.server.listen(t, "tcp", listen)
	defer func() { require.NoError(t, listener.Close()) }()
	near, err := c.client.dial(t.Context(), "tcp", dial)
	require.NoError(t, err)
	far, err := listener.Accept()
	require.NoError(t, err)
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		exchange(t, near, far, 1)
	}
	require.NoError(t, near.Close())
	require.NoError(t, far.Close())
}
