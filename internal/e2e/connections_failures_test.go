// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Why a connection was not made, or who broke it off, is told apart.
func TestConnectionsThatFail(t *testing.T) {
	t.Parallel() // it waits most of the time
	l := newLab(t)
	// What ICMP says while connect(2) is still at work the kernel notes where the program's
	// question for it (SO_ERROR) takes it away, so that nobody else sees it.
	k := l.delayedLink(t, "np0", 10*time.Millisecond)
	k.up(t)
	l.near.sysctl(t, "ipv4/tcp_syn_retries", "1") // gives up after three seconds
	l.far.execute(t, `table inet lab {
	chain in {
		type filter hook input priority 0;
		tcp dport { 7011, 7014, 7015 } drop
		tcp dport 7012 meta nfproto ipv4 reject with icmp host-unreachable
		tcp dport 7012 meta nfproto ipv6 reject with icmpv6 addr-unreachable
	}
}`, "nft", "-f", "-")
	a := start(t, l.near, watchOwn)

	type attempt struct {
		why   string
		port  string
		limit time.Duration
		err   error
	}
	attempts := []attempt{
		{"refused", "7010", patience, syscall.ECONNREFUSED},
		{"timeout", "7011", patience, syscall.ETIMEDOUT},
		// more than the first retransmit takes
		{"timeout", "7014", 1500 * time.Millisecond, context.DeadlineExceeded},
		{"canceled", "7015", 200 * time.Millisecond, context.DeadlineExceeded},
		{"unreachable", "7012", patience, syscall.EHOSTUNREACH},
	}
	var before map[string]float64 // who waited for NetProbe was refused
	require.EventuallyWithT(t, func(c *assert.CollectT) { before = a.failures(c) }, patience, glance)
	want := map[string]int{}
	t.Run("connects", func(t *testing.T) {
		for _, far := range []netip.Addr{k.far4, k.far6} {
			for _, at := range attempts {
				want[at.why]++
				address := net.JoinHostPort(far.String(), at.port)
				t.Run(at.why+" of "+address, func(t *testing.T) {
					t.Parallel()
					a.fail(t, l.near, address, at.why, at.limit, at.err)
				})
			}
		}
	})
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		after := a.failures(c)
		for why, n := range want {
			assert.EqualValues(c, n, after[why]-before[why], why)
		}
	}, patience, glance)
	require.Zero(t, a.failures(t)["reset"]+a.failures(t)["_OTHER"])
	t.Run("resets", func(t *testing.T) { a.requireResets(t, k) })
	t.Run("listen overflow", func(t *testing.T) { a.requireListenOverflow(t, k) })
	a.requireEventsAreRecords(t, l.near)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.Equal(c, l.near.statistics(c)["TcpRetransSegs"], a.sink.sum("netprobe.tcp.retransmits", nil), "since the namespace was made")
	}, patience, glance)
	a.requireLossless(t)
}

// failures are as scraped, by reason.
func (a *agent) failures(t require.TestingT) map[string]float64 {
	all := map[string]float64{}
	family := a.host.scrape(t, prometheusURL)["netprobe_tcp_failed_connections_total"]
	require.NotNil(t, family)
	for _, m := range family.GetMetric() {
		require.Equal(t, "client", labels(m)["netprobe_connection_role"])
		all[labels(m)["error_type"]] = value(m)
	}
	return all
}

// fail connects to nobody, and waits for the record of that.
func (a *agent) fail(t *testing.T, n *namespace, address, why string, within time.Duration, want error) {
	t.Helper()
	began := time.Now()
	err := n.apart(func() error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		_, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		return err
	})
	if want == context.DeadlineExceeded {
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
	} else {
		require.ErrorIs(t, err, want)
	}
	took := time.Since(began)
	to := netip.MustParseAddrPort(address)
	r := a.sink.connection(t, n, map[string]any{"destination.address": to.Addr().String(), "destination.port": int64(to.Port())})
	requireAttributes(t, r, map[string]any{
		"error.type":                why,
		"netprobe.connection.phase": "failed", "netprobe.connection.role": "client", "network.transport": "tcp",
		"process.pid": int64(os.Getpid()), "process.executable.name": executable(t),
		"netprobe.connection.duration": nil, "netprobe.connection.latency": nil, "netprobe.connection.bytes.sent": nil,
	})
	require.NotZero(t, r.int("source.port"))
	require.LessOrEqual(t, r.Timestamp().AsTime(), began.Add(took+10*time.Millisecond))
	switch again := r.int("netprobe.tcp.retransmits"); why {
	case "timeout":
		require.Positive(t, again)
	case "canceled", "refused":
		require.Zero(t, again)
	}
}

// requireResets breaks connections off, from each end.
func (a *agent) requireResets(t *testing.T, k *link) {
	resets := func(c require.TestingT, role, by string) float64 {
		return k.lab.near.scrape(c, prometheusURL).value(c, "netprobe_tcp_resets_total",
			map[string]string{"netprobe_connection_role": role, "netprobe_tcp_reset_by": by})
	}
	type kind struct{ role, by string }
	before, want := map[kind]float64{}, map[kind]float64{}
	for _, role := range []string{"client", "server"} {
		for _, by := range []string{"local", "remote"} {
			before[kind{role, by}] = resets(t, role, by)
		}
	}
	for _, p := range k.pairings() {
		for _, by := range []string{"local", "remote"} {
			client, server := p.connect(t)
			exchange(t, client, server, 1000)
			near, far, role := client, server, "client"
			if p.server.namespace == k.lab.near {
				near, far, role = server, client, "server"
			}
			if by == "remote" {
				near, far = far, near
			}
			require.NoError(t, near.(*net.TCPConn).SetLinger(0))
			require.NoError(t, near.Close())
			_, err := io.Copy(io.Discard, far)
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.NoError(t, far.Close())
			want[kind{role, by}]++
			r := a.sink.connection(t, k.lab.near, map[string]any{
				"source.port": int64(addrOf(client.LocalAddr()).Port()), "netprobe.connection.phase": "close",
			})
			requireAttributes(t, r, map[string]any{
				"netprobe.tcp.reset.by": by, "error.type": "reset", "netprobe.connection.role": role,
				"netprobe.connection.bytes.sent": int64(1000), "netprobe.connection.bytes.received": int64(1000),
			})
			// and on the flow of the end that did it
			from := addrOf(near.LocalAddr())
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				sum := map[bool]int64{}
				for _, f := range a.sink.records(isFlow) {
					for _, way := range []string{"source", "destination"} {
						if f.address(way+".address") == from.Addr() && f.int(way+".port") == int64(from.Port()) {
							sum[way == "source"] += f.int("netprobe.tcp.resets")
						}
					}
				}
				assert.Equal(c, map[bool]int64{true: 1, false: 0}, sum, "resets in flows from and to %s", from)
			}, patience, glance)
		}
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		for which, n := range want {
			assert.InDelta(c, n, resets(c, which.role, which.by)-before[which], 0, "%v", which)
		}
	}, patience, glance)
}

// requireListenOverflow lets more connect than a listening socket has room for.
func (a *agent) requireListenOverflow(t *testing.T, k *link) {
	const port, connects = 7013, 4
	for _, p := range []pairing{k.pairings()[1], k.pairings()[3]} { // from far
		fd := k.lab.near.listenWithoutRoom(t, netip.AddrPortFrom(p.server.addr, port))
		before := k.lab.near.statistics(t)["TcpExtListenDrops"]
		// What finds no room is dropped, and connects again and again.
		for range connects {
			conn, err := p.client.dialTCP(t, p.server.endpoint(strconv.Itoa(port)), 200*time.Millisecond)
			if err == nil {
				t.Cleanup(func() { require.NoError(t, conn.Close()) })
			}
		}
		series := map[string]string{"server_address": p.server.addr.String(), "server_port": strconv.Itoa(port)}
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			drops := k.lab.near.statistics(c)["TcpExtListenDrops"] - before
			assert.Positive(c, drops)
			assert.EqualValues(c, drops, k.lab.near.scrape(c, prometheusURL).value(c, "netprobe_tcp_listen_overflows_total", series))
		}, patience, glance)
		require.NoError(t, unix.Close(fd))
	}
}

// listenWithoutRoom listens, with room for one connection that is not accepted.
func (n *namespace) listenWithoutRoom(t *testing.T, at netip.AddrPort) (fd int) {
	t.Helper()
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	require.NoError(t, n.in(func() (err error) {
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(fd, address); err != nil {
			return err
		}
		return unix.Listen(fd, 0)
	}))
	return fd
}

// apart runs fn in the namespace on a thread of its own, which ends with it.
func (n *namespace) apart(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: nothing else may run there
		if err := netns.Set(n.handle); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}
