// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// here watches the sockets of a new network namespace, which the test is in.
func here(t testing.TB) *Probe {
	inNamespace(t)
	return load(t)
}

// inNamespace moves the test into a new namespace with IPv4 and IPv6 on lo.
func inNamespace(t testing.TB) {
	bpftest.RequireBPF(t)
	netnstest.Enter(t)
	loopback(t)
}

func loopback(t testing.TB) {
	netnstest.Sysctl(t, "ipv6/conf/lo/disable_ipv6", "0")
	netnstest.Up(t, "lo")
}

// load watches the namespace that the test is in.
func load(t testing.TB) *Probe {
	return loadWith(t, Options{MaxEntries: 4096, RingBufferBytes: 1 << 20})
}

func loadWith(t testing.TB, opts Options) *Probe {
	opts.NetNS = netNS(t)
	return loadAs(t, opts)
}

// loadAs loads with just these options.
func loadAs(t testing.TB, opts Options) *Probe {
	p, err := Load(opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// netNS is the number of the namespace that the test is in.
func netNS(t testing.TB) uint32 {
	netns, err := kernel.ThreadNetNS()
	require.NoError(t, err)
	return uint32(netns)
}

// need skips where the kernel is too old for a part.
func need(t testing.TB, p *Probe, part string) {
	// in a container these tests see their own processes, which are those that matter
	if err := p.feature(part).Err; err != nil && !errors.Is(err, ErrPIDNamespace) {
		t.Skipf("%s does not work here: %v", part, err)
	}
}

func read(t testing.TB, p *Probe) Reading {
	r, err := p.Read()
	require.NoError(t, err)
	return r
}

// take returns what has ended, without those that listened.
func take(t testing.TB, p *Probe) []flow.Connection {
	var closed []flow.Connection
	for _, c := range read(t, p).Closed {
		if !c.Listens {
			closed = append(closed, c)
		}
	}
	return closed
}

// ends waits until so many connections have ended.
func ends(t testing.TB, p *Probe, n int) []flow.Connection {
	var closed []flow.Connection
	netnstest.Eventually(t, func() bool {
		closed = append(closed, take(t, p)...)
		return len(closed) >= n
	}, fmt.Sprintf("%d connections to end", n))
	require.Len(t, closed, n)
	return closed
}

// noMore makes sure that nothing else ends, and that all events were heard.
func noMore(t testing.TB, p *Probe) {
	require.Empty(t, take(t, p))
	h, err := p.Health()
	require.NoError(t, err)
	require.Zero(t, h.RecordsLost)
	require.Zero(t, h.Untracked)
}

// live returns the sockets that are there, without those that listen.
func live(t testing.TB, p *Probe) []flow.Connection {
	var conns []flow.Connection
	for _, c := range read(t, p).Live {
		if !c.Listens {
			conns = append(conns, c)
		}
	}
	return conns
}

func byRole(t testing.TB, conns []flow.Connection) (client, server flow.Connection) {
	require.Len(t, conns, 2)
	require.NotEqual(t, conns[0].Role, conns[1].Role)
	if conns[0].Role == flow.Client {
		return conns[0], conns[1]
	}
	return conns[1], conns[0]
}

func counters(t testing.TB, p *Probe, protocol flow.Protocol) Counters {
	all, err := p.Counters()
	require.NoError(t, err)
	return all[protocol]
}

func health(t testing.TB, p *Probe) Health {
	h, err := p.Health()
	require.NoError(t, err)
	return h
}

// listen listens with plain TCP: Go's own listeners are of MPTCP.
func listen(t testing.TB, address string) *net.TCPListener {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}

// dial connects to a listener and accepts.
func dial(t testing.TB, l *net.TCPListener) (client, server *net.TCPConn) {
	client, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client, accept(t, l)
}

func accept(t testing.TB, l *net.TCPListener) *net.TCPConn {
	require.NoError(t, l.SetDeadline(time.Now().Add(10*time.Second)))
	server, err := l.AcceptTCP()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	return server
}

// send writes so many bytes and reads them at the other end.
func send(t testing.TB, from, to net.Conn, n int) {
	written := make(chan error, 1)
	go func() {
		_, err := from.Write(make([]byte, n))
		written <- err
	}()
	require.NoError(t, to.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := io.ReadFull(to, make([]byte, n))
	require.NoError(t, err)
	require.NoError(t, <-written)
}

// readEnd reads the other end's FIN.
func readEnd(t testing.TB, c net.Conn) {
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, err := io.Copy(io.Discard, c)
	require.NoError(t, err)
	require.Zero(t, n)
}

// finish closes both ends, the first one first.
func finish(t testing.TB, first, second *net.TCPConn) {
	require.NoError(t, first.CloseWrite())
	readEnd(t, second)
	require.NoError(t, second.Close())
	readEnd(t, first)
	require.NoError(t, first.Close())
}

// control gives the number of a connection's file for asking and setting options.
func control(t testing.TB, c syscall.Conn, fn func(fd int) error) {
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { err = fn(int(fd)) }))
	require.NoError(t, err)
}

// tcpInfo asks the kernel by another way.
func tcpInfo(t testing.TB, c *net.TCPConn) (info *unix.TCPInfo) {
	control(t, c, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	return info
}

// snmp reads the namespace's own counters, such as Tcp.OutRsts and TcpExt.ListenDrops.
func snmp(t testing.TB) map[string]uint64 {
	all := map[string]uint64{}
	for _, file := range []string{"snmp", "netstat"} {
		f, err := os.Open("/proc/thread-self/net/" + file)
		require.NoError(t, err)
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			names := strings.Fields(lines.Text())
			require.True(t, lines.Scan())
			for i, value := range strings.Fields(lines.Text())[1:] {
				var n int64
				_, err := fmt.Sscan(value, &n)
				require.NoError(t, err)
				all[strings.TrimSuffix(names[0], ":")+"."+names[i+1]] = uint64(n)
			}
		}
		require.NoError(t, lines.Err())
		require.NoError(t, f.Close())
	}
	return all
}

// The two ends of a wire.
var (
	near4, far4 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	near6, far6 = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
)

// wire connects this namespace with another one by two devices between which the
// test carries each packet itself.
type wire struct {
	far   *netnstest.Namespace
	delay time.Duration
	// lose says of a packet that it is not carried; toFar says where it goes.
	lose atomic.Pointer[func(packet []byte, toFar bool) bool]
}

func newWire(t testing.TB, delay time.Duration) *wire {
	w := &wire{far: netnstest.New(t), delay: delay}
	near := tunnelEnd(t, near4, near6)
	var far *os.File
	w.far.Do(t, func() {
		loopback(t)
		far = tunnelEnd(t, far4, far6)
	})
	w.carry(t, near, far, true)
	w.carry(t, far, near, false)
	return w
}

// tunnelEnd makes a device of which all of its networks is reached through it.
func tunnelEnd(t testing.TB, addresses ...netip.Addr) *os.File {
	link, file := netnstest.Tun(t, "tun0")
	netnstest.Sysctl(t, "ipv6/conf/tun0/disable_ipv6", "0")
	for _, a := range addresses {
		bits := map[bool]int{true: 24, false: 64}[a.Is4()]
		addr, err := netlink.ParseAddr(netip.PrefixFrom(a, bits).String())
		require.NoError(t, err)
		addr.Flags = unix.IFA_F_NODAD
		require.NoError(t, netlink.AddrAdd(link, addr))
	}
	fd, err := unix.Dup(int(file.Fd()))
	require.NoError(t, err)
	require.NoError(t, unix.SetNonblock(fd, true))
	own := os.NewFile(uintptr(fd), "tun0") // can be closed while it is read
	return own
}

type held struct {
	packet []byte
	due    time.Time
}

// carry takes packets from one end to the other in order.
func (w *wire) carry(t testing.TB, from, to *os.File, toFar bool) {
	queue := make(chan held, 4096)
	done := make(chan struct{})
	go func() {
		defer close(queue)
		for {
			buffer := make([]byte, 65536)
			n, err := from.Read(buffer)
			if err != nil {
				return
			}
			if lose := w.lose.Load(); lose == nil || !(*lose)(buffer[:n], toFar) {
				queue <- held{buffer[:n], time.Now().Add(w.delay)}
			}
		}
	}()
	go func() {
		defer close(done)
		for h := range queue {
			time.Sleep(time.Until(h.due))
			_, _ = to.Write(h.packet) // fails when the test is over
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, from.Close())
		<-done
	})
}

// losing sets which packets are lost from now on.
func (w *wire) losing(lose func(packet []byte, toFar bool) bool) {
	w.lose.Store(&lose)
}

// tcpOf gives the TCP header of a packet of the wire, nil of anything else.
func tcpOf(packet []byte) []byte {
	switch {
	case packet[0]>>4 == 4 && packet[9] == unix.IPPROTO_TCP:
		return packet[20:]
	case packet[0]>>4 == 6 && packet[6] == unix.IPPROTO_TCP:
		return packet[40:]
	}
	return nil
}

// Bits of a TCP header's byte of flags.
const (
	tcpFlags = 13 // where it is
	syn      = 2
)

// payloadOf is how many bytes a TCP packet of the wire carries.
func payloadOf(packet []byte) int {
	header := tcpOf(packet)
	if header == nil {
		return 0
	}
	return len(header) - int(header[12]>>4)*4
}

// isTimeout says whether a program's own deadline was over.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func addAddress(t testing.TB, link netlink.Link, prefix string) {
	addr, err := netlink.ParseAddr(prefix)
	require.NoError(t, err)
	addr.Flags = unix.IFA_F_NODAD
	require.NoError(t, netlink.AddrAdd(link, addr))
}
