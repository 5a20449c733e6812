// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
)

// withAndWithout measures something in turns, with the programs attached and without
// them, so that both have the same of what else the machine does.
func withAndWithout(b *testing.B, fn func(n int)) {
	const turn = 200
	var with, without time.Duration
	for done := 0; done < b.N; done += turn {
		b.StopTimer()
		begin := time.Now()
		fn(turn)
		without += time.Since(begin)
		p := loadWith(b, Options{MaxEntries: 65536, RingBufferBytes: 1 << 20})
		fn(turn) // warm
		begin = time.Now()
		b.StartTimer()
		fn(turn)
		with += time.Since(begin)
		b.StopTimer()
		require.NoError(b, p.Close())
	}
	b.ReportMetric(float64(with)/float64(without), "with/without")
}

func BenchmarkConnect(b *testing.B) {
	inNamespace(b)
	l := listen(b, "127.0.0.1:0")
	to := l.Addr().(*net.TCPAddr)
	withAndWithout(b, func(n int) {
		for range n {
			c, err := net.DialTCP("tcp", nil, to)
			require.NoError(b, err)
			s, err := l.AcceptTCP()
			require.NoError(b, err)
			require.NoError(b, c.SetLinger(0)) // leaves nothing in TIME_WAIT
			require.NoError(b, c.Close())
			require.NoError(b, s.Close())
		}
	})
}

func BenchmarkReceive(b *testing.B) {
	inNamespace(b)
	l := listen(b, "127.0.0.1:0")
	client, server := dial(b, l)
	buffer := make([]byte, 64)
	withAndWithout(b, func(n int) {
		for range 20 * n {
			_, err := client.Write(buffer)
			require.NoError(b, err)
			_, err = server.Read(buffer)
			require.NoError(b, err)
		}
	})
}

func BenchmarkUDPSend(b *testing.B) {
	inNamespace(b)
	listenUDP(b, "127.0.0.1:9")
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(b, err)
	defer unix.Close(fd)
	buffer := make([]byte, 64)
	to := &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}
	withAndWithout(b, func(n int) {
		for range 20 * n {
			require.NoError(b, unix.Sendto(fd, buffer, 0, to))
		}
	})
}

// BenchmarkRead reads many entries, all of which stand for one socket that lives.
func BenchmarkRead(b *testing.B) {
	for _, entries := range []int{10_000, 100_000} {
		b.Run(strconv.Itoa(entries), func(b *testing.B) {
			inNamespace(b)
			p := loadWith(b, Options{MaxEntries: 200_000, RingBufferBytes: 1 << 20})
			l := listen(b, "127.0.0.1:0")
			dial(b, l)
			c := live(b, p)[0]
			var conn bpf.SocketsSocketConn
			require.NoError(b, p.maps[bpf.SocketsMapSocketConns].Lookup(c.ID.Socket, &conn))
			conn.LocalPort = 0 // it is not known yet: any memory would do
			for i := range entries {
				key := c.ID.Socket + 8*uint64(i) + 4 // readable, and no socket
				require.NoError(b, p.maps[bpf.SocketsMapSocketConns].Update(key, &conn, ebpf.UpdateNoExist))
			}
			b.ResetTimer()
			var n int
			for range b.N {
				r := read(b, p)
				n += len(r.Live)
			}
			b.ReportMetric(float64(n)/float64(b.N), "sockets")
			b.ReportMetric(float64(b.Elapsed())/float64(n), "ns/socket")
		})
	}
}
