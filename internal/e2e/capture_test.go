// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// capture counts TCP frame by frame at the far end of a link, without eBPF and
// without any of NetProbe's code.
type capture struct {
	*frames

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

// frames hands over each frame that a device sends or receives.
type frames struct {
	socket *os.File
	ring   []byte
	done   chan struct{}
}

// The ring has room for all that a test sends before it is looked at, with the
// headers of each frame.
const (
	slotSize  = 256
	slots     = 1 << 14
	blockSize = 1 << 16
)

// frame is one that was captured.
type frame struct {
	header []byte // valid while it is handled
	length int
	// leaving: the device sends it.
	leaving bool
}

// frames starts at a device that is up, and ends with the test.
//
// The kernel copies what it hands over: a socket without a ring shares the packet
// with the stack, which writes other addresses over it when it translates fragments
// (ip_do_fragment).
func (n *namespace) frames(t *testing.T, device string, handle func(frame)) *frames {
	t.Helper()
	dev, err := n.links.LinkByName(device)
	require.NoError(t, err)
	f := &frames{done: make(chan struct{})}
	require.NoError(t, n.in(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f.socket = os.NewFile(uintptr(fd), "capture of "+device)
		if err := f.mapRing(fd); err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Attrs().Index})
	}))
	conn, err := f.socket.SyscallConn()
	require.NoError(t, err)
	go f.run(conn, handle)
	t.Cleanup(func() {
		require.NoError(t, f.socket.Close())
		<-f.done
		require.NoError(t, unix.Munmap(f.ring))
	})
	return f
}

func (f *frames) mapRing(fd int) (err error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return err
	}
	const size = slots * slotSize
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq{
		Block_size: blockSize, Block_nr: size / blockSize, Frame_size: slotSize, Frame_nr: slots,
	}); err != nil {
		return err
	}
	f.ring, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return err
}

func (f *frames) run(conn syscall.RawConn, handle func(frame)) {
	defer close(f.done)
	next := 0
	// false waits for more; the error is that the socket is closed
	_ = conn.Read(func(uintptr) bool {
		for {
			slot := f.ring[next*slotSize:][:slotSize]
			h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&slot[0]))
			if atomic.LoadUint32(&h.Status)&unix.TP_STATUS_USER == 0 {
				return false
			}
			from := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&slot[unix.SizeofTpacket2Hdr]))
			handle(frame{slot[h.Mac:][:h.Snaplen], int(h.Len), from.Pkttype == unix.PACKET_OUTGOING})
			atomic.StoreUint32(&h.Status, unix.TP_STATUS_KERNEL)
			next = (next + 1) % slots
		}
	})
}

// requireComplete makes sure that no frame has passed unseen.
func (f *frames) requireComplete(t *testing.T) {
	t.Helper()
	conn, err := f.socket.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, conn.Control(func(fd uintptr) {
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		require.NoError(t, err)
		require.Zero(t, stats.Drops, "%s lost packets", f.socket.Name())
	}))
}

// capture starts at a link that is up.
func (k *link) capture(t *testing.T) *capture {
	t.Helper()
	c := &capture{streams: map[stream]streamStats{}}
	c.frames = k.lab.far.frames(t, k.peer, c.handle)
	return c
}

func (c *capture) handle(f frame) {
	packet := gopacket.NewPacket(f.header, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	tcp, ok := packet.TransportLayer().(*layers.TCP)
	if !ok {
		return
	}
	src, dst := packet.NetworkLayer().NetworkFlow().Endpoints()
	c.count(stream{addrPort(src, uint16(tcp.SrcPort)), addrPort(dst, uint16(tcp.DstPort))}, f.length, tcp.Contents[13])
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
