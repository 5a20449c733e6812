// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// Each hook drops what it is sent; what the rules count and what is counted here
// are the same packets and bytes.
func TestDropsOfNetfilterEqualItsCounters(t *testing.T) {
	const drops, size = 17, 100
	for _, tt := range []struct {
		hook      string
		interfac  string
		direction Direction
		dial      func(*testing.T, *lab) []*net.UDPConn // of IPv4 and IPv6
	}{
		{"prerouting", toClient, Ingress, func(t *testing.T, l *lab) []*net.UDPConn {
			return []*net.UDPConn{dial(t, l.client, server4, 9), dial(t, l.client, server6, 9)}
		}},
		{"input", toClient, Ingress, func(t *testing.T, l *lab) []*net.UDPConn {
			return []*net.UDPConn{dial(t, l.client, node4, 9), dial(t, l.client, node6, 9)}
		}},
		{"forward", toClient, Ingress, func(t *testing.T, l *lab) []*net.UDPConn {
			return []*net.UDPConn{dial(t, l.client, server4, 9), dial(t, l.client, server6, 9)}
		}},
		{"output", toServer, Egress, func(t *testing.T, _ *lab) []*net.UDPConn {
			return []*net.UDPConn{dial(t, nil, server4, 9), dial(t, nil, server6, 9)}
		}},
		{"postrouting", toServer, Egress, func(t *testing.T, l *lab) []*net.UDPConn {
			return []*net.UDPConn{dial(t, l.client, server4, 9), dial(t, l.client, server6, 9)}
		}},
	} {
		t.Run(tt.hook, func(t *testing.T) {
			l := newLab(t)
			nft(t, `table inet lab {
				counter c4 {}; counter c6 {};
				chain c { type filter hook `+tt.hook+` priority 0;
					meta nfproto ipv4 udp dport 9 counter name c4 drop;
					meta nfproto ipv6 udp dport 9 counter name c6 drop;
				};
			}`)
			p := load(t, roomy())
			before := time.Now()
			for i, conn := range tt.dial(t, l) {
				send(t, conn, drops, size)

				key := Key{
					Reason: p.named("NETFILTER_DROP"), InterfaceIndex: index(t, tt.interfac),
					IPVersion: []uint8{4, 6}[i], Protocol: flow.UDP, Direction: tt.direction,
				}
				got := await(t, p, key, drops)
				require.Equal(t, nftCounter(t, []string{"c4", "c6"}[i]), got)
				require.Equal(t, uint64(drops), got.Packets)

				counts, flows := collect(t, p)
				require.Len(t, counts, i+1, "nothing else is dropped: %+v", counts)
				require.Len(t, flows, 1)
				require.WithinRange(t, flows[0].First, before.Add(-time.Second), time.Now().Add(time.Second))
				flows[0].First = time.Time{}
				require.Equal(t, FlowDrop{Key: key, Tuple: tupleOf(conn), Has: flow.HasPorts, Volume: got}, flows[0])
			}
			_, flows := collect(t, p)
			require.Empty(t, flows, "the interval is over")
			require.Zero(t, health(t, p))
		})
	}
}

func TestDropsOfOtherNamespacesAreNotCounted(t *testing.T) {
	l := newLab(t)
	drop := `table inet lab {
		counter c {};
		chain in { type filter hook input priority 0; udp dport 9 counter name c drop; };
		chain out { type filter hook output priority 0; udp dport 10 counter name c drop; };
	}`
	p := load(t, roomy())
	l.server.Do(t, func() { nft(t, drop) })
	send(t, dial(t, nil, server4, 9), 5, 10)       // from here
	send(t, dial(t, l.client, server4, 9), 5, 10)  // through here
	send(t, dial(t, l.server, client4, 10), 5, 10) // never to get here
	l.server.Do(t, func() {
		netnstest.Eventually(t, func() bool { return nftCounter(t, "c").Packets == 15 }, "the server drops all")
	})
	counts, flows := collect(t, p)
	require.Empty(t, counts)
	require.Empty(t, flows)
}

// A packet still has the socket that sent it when it comes out of a pair of veth: the
// drop is of the namespace that it is in.
func TestDropOnArrivalInAnotherNamespaceIsCountedThere(t *testing.T) {
	const n = 5
	l := newLab(t)
	here := load(t, roomy())
	var there *Probe
	var far uint32
	l.server.Do(t, func() {
		there = load(t, roomy())
		tcDrop(t, toServer+"-far", netlink.HANDLE_MIN_INGRESS)
		far = index(t, toServer+"-far")
	})
	staticNeighbor(t, toServer, server4, anyone)
	conn := dial(t, nil, server4, 9)
	send(t, conn, n, 10)
	key := Key{there.named("TC_INGRESS"), far, 4, flow.UDP, Ingress}
	require.Equal(t, uint64(n), await(t, there, key, n).Packets)
	_, flows := collect(t, there)
	require.Len(t, flows, 1)
	require.Equal(t, tupleOf(conn), flows[0].Tuple)

	counts, flows := collect(t, here)
	require.Empty(t, counts)
	require.Empty(t, flows)
}
