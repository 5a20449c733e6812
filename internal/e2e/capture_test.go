// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// capture counts TCP frame by frame at the far end of a link, without eBPF and
// without any of NetProbe's code.
type capture struct {
	socket *os.File
	done   chan struct{}

	mu      sync.Mutex // guards what follows
	streams map[stream]streamStats
}

// stream is one direction of a TCP connection.
type stream struct {
	source, destination netip.AddrPort
}

type streamStats struct {
	packets, bytes uint64
	flags          uint8
}

const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagPSH = 0x08
	flagACK = 0x10
)

// captureBuffer has room for all that a test sends.
const captureBuffer = 64 << 20

// capture starts at a link that is up.
func (k *link) capture(t *testing.T) *capture {
	t.Helper()
	dev, err := k.lab.far.links.LinkByName(k.peer)
	require.NoError(t, err)
	c := &capture{done: make(chan struct{}), streams: map[stream]streamStats{}}
	require.NoError(t, k.lab.far.in(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		c.socket = os.NewFile(uintptr(fd), "capture of "+k.peer)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer); err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Attrs().Index})
	}))
	go c.run()
	t.Cleanup(func() {
		require.NoError(t, c.socket.Close())
		<-c.done
	})
	return c
}

func (c *capture) run() {
	defer close(c.done)
	buf := make([]byte, 1<<16)
	for {
		n, err := c.socket.Read(buf)
		if err != nil {
			return // closed
		}
		packet := gopacket.NewPacket(buf[:n], layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
		tcp, ok := packet.TransportLayer().(*layers.TCP)
		if !ok {
			continue
		}
		src, dst := packet.NetworkLayer().NetworkFlow().Endpoints()
		c.count(stream{addrPort(src, uint16(tcp.SrcPort)), addrPort(dst, uint16(tcp.DstPort))}, n, tcp.Contents[13])
	}
}

func addrPort(ip gopacket.Endpoint, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip.Raw())
	return netip.AddrPortFrom(addr, port)
}

func (c *capture) count(s stream, length int, flags uint8) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stats := c.streams[s]
	stats.packets++
	stats.bytes += uint64(length)
	stats.flags |= flags
	c.streams[s] = stats
}

func (c *capture) stream(s stream) streamStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[s]
}

// requireComplete makes sure that no frame has passed uncounted.
func (c *capture) requireComplete(t *testing.T) {
	t.Helper()
	conn, err := c.socket.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, conn.Control(func(fd uintptr) {
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		require.NoError(t, err)
		require.Zero(t, stats.Drops, "the capture lost packets")
	}))
}
