// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// times is how often something is done that is done often, if NETPROBE_CONNECTIONS does not
// say.
func times(t testing.TB, usually int) int {
	text := os.Getenv("NETPROBE_CONNECTIONS")
	if text == "" {
		return usually
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// pair is two namespaces with a cable between them, and who listens in the far one.
type pair struct {
	far       *netnstest.Namespace
	listeners []*net.TCPListener
}

func newPair(t testing.TB) *pair {
	link, peer := netnstest.Veth(t, "veth0", "veth1")
	pr := &pair{far: netnstest.New(t)}
	pr.far.Adopt(t, peer)
	netnstest.Sysctl(t, "ipv6/conf/veth0/disable_ipv6", "0")
	addAddress(t, link, "10.0.0.1/24")
	addAddress(t, link, "fd00::1/64")
	pr.far.Do(t, func() {
		loopback(t)
		link := netnstest.Up(t, "veth1")
		netnstest.Sysctl(t, "ipv6/conf/veth1/disable_ipv6", "0")
		addAddress(t, link, "10.0.0.2/24")
		addAddress(t, link, "fd00::2/64")
		for _, at := range []netip.Addr{far4, far6} {
			pr.listeners = append(pr.listeners, listen(t, netip.AddrPortFrom(at, 0).String()))
		}
	})
	return pr
}

// load has connections from several goroutines, and returns what was sent between which
// ends. Nobody listens after that.
func (pr *pair) load(t testing.TB, here *netnstest.Namespace, workers, each int) map[string]uint64 {
	var served sync.WaitGroup
	for _, l := range pr.listeners {
		served.Go(func() { serve(l, &served) })
	}
	sent := make([]map[string]uint64, workers)
	errs := make([]error, workers)
	var clients sync.WaitGroup
	for w := range workers {
		clients.Go(func() {
			here.Do(t, func() { sent[w], errs[w] = pr.connect(w, each) })
		})
	}
	clients.Wait()
	for _, l := range pr.listeners {
		require.NoError(t, l.Close())
	}
	served.Wait()
	all := map[string]uint64{}
	for w := range workers {
		require.NoError(t, errs[w])
		for end, bytes := range sent[w] {
			all[end] += bytes
		}
	}
	return all
}

// connect has connections one after the other, each of another length.
func (pr *pair) connect(worker, each int) (map[string]uint64, error) {
	sent := map[string]uint64{}
	for i := range each {
		to := pr.listeners[(worker+i)%len(pr.listeners)].Addr().(*net.TCPAddr)
		c, err := net.DialTCP("tcp", nil, to)
		if err != nil {
			return nil, err
		}
		bytes := 1 + (worker*each+i)%1000
		if _, err := c.Write(make([]byte, bytes)); err != nil {
			return nil, err
		}
		if err := c.CloseWrite(); err != nil {
			return nil, err
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			return nil, err
		}
		// a port may be used again
		sent[c.LocalAddr().String()+" "+c.RemoteAddr().String()] += uint64(bytes)
		if err := c.Close(); err != nil {
			return nil, err
		}
	}
	return sent, nil
}

// serve answers each connection with one byte when all of it has come.
func serve(l *net.TCPListener, served *sync.WaitGroup) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return // closed
		}
		served.Go(func() {
			defer c.Close()
			if _, err := io.Copy(io.Discard, c); err == nil {
				_, _ = c.Write([]byte("."))
			}
		})
	}
}

// checked is connections that have ended, each of which may come once.
type checked struct {
	ids  map[flow.ConnectionID]bool
	sent map[string]uint64
	n    [flow.Roles]int
}

func (k *checked) note(t testing.TB, closed []flow.Connection) {
	for i := range closed {
		c := &closed[i]
		require.False(t, k.ids[c.ID], "twice: %v", c)
		k.ids[c.ID] = true
		require.True(t, c.Established, "%v", c)
		require.False(t, c.Vanished || c.Adopted, "%v", c)
		k.n[c.Role]++
		if c.Role == flow.Client {
			require.EqualValues(t, 1, c.Now.BytesReceived, "%v", c)
			k.sent[c.Local.String()+" "+c.Remote.String()] += c.Now.BytesSent
		} else {
			require.EqualValues(t, 1, c.Now.BytesSent, "%v", c)
			k.sent[c.Remote.String()+" "+c.Local.String()] += c.Now.BytesReceived
		}
	}
}

// Many connections at once, with both ends here: each end is told once, while they are
// read all the time.
func TestManyConnections(t *testing.T) {
	for _, test := range []struct {
		name   string
		ring   uint32
		parked bool
	}{
		{"large ring buffer", 1 << 20, false},
		{"small ring buffer", 4096, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			bpftest.RequireBPF(t)
			here := netnstest.Enter(t)
			loopback(t)
			pr := newPair(t)
			opts := Options{MaxEntries: 65536, RingBufferBytes: test.ring}
			near := loadWith(t, opts)
			var far *Probe
			pr.far.Do(t, func() { far = loadWith(t, opts) })
			const workers = 4
			n := times(t, 2000)
			stop := make(chan struct{})
			results := [2]*checked{}
			var reading sync.WaitGroup
			for i, p := range []*Probe{near, far} {
				results[i] = &checked{ids: map[flow.ConnectionID]bool{}, sent: map[string]uint64{}}
				if test.parked {
					p.ended.mu.Lock() // which stops the reading until all is over
					continue
				}
				reading.Go(func() { readAlways(t, p, results[i], stop) })
			}
			want := pr.load(t, here, workers, n/workers)
			if test.parked {
				near.ended.mu.Unlock()
				far.ended.mu.Unlock()
			}
			close(stop)
			reading.Wait()
			for i, p := range []*Probe{near, far} {
				role := flow.Role(i)
				netnstest.Eventually(t, func() bool {
					results[i].note(t, take(t, p))
					return results[i].n[role] >= n
				}, "all to be told of")
				require.Len(t, results[i].ids, n)
				require.Equal(t, want, results[i].sent)
				var count [flow.Roles]uint64
				count[role] = uint64(n)
				require.Equal(t, Counters{Opened: count, Closed: count}, counters(t, p, flow.TCP))
				noMore(t, p)
				require.Equal(t, test.parked, ledger(t, p, bpf.SocketsSocketLedgerSOCKET_PARKED) > 0)
			}
		})
	}
}

// readAlways reads until it is stopped.
func readAlways(t testing.TB, p *Probe, into *checked, stop <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			into.note(t, take(t, p))
		}
	}
}
