// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestXDPCountsWhatIsReceived(t *testing.T) {
	for _, tt := range []struct {
		mode     string
		attached uint32
		// what the kernel leaves out of every received packet: veth counts what
		// goes to a native program without the Ethernet header
		uncounted uint64
	}{
		{"native", xdpNative, 14},
		{"generic", xdpGeneric, 0},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			l := newLab(t)
			k := l.link(t, "np0")
			a := start(t, l.near, fmt.Sprintf(`{interfaces: {include: [np0]}, interval: 200ms, xdp: {mode: %s}}`, tt.mode))
			require.Equal(t, tt.attached, k.attached(t).XDP.Mode)
			k.up(t)
			for _, p := range k.pairings() {
				p.tcp(t, 64<<10)
				p.udp(t, 1, 1400, 4000)
				p.ping(t, 5, 56)
			}

			// once for the interface, although two programs have seen it
			kernel := func(t require.TestingT) counters {
				c := k.kernel(t)
				c.RxBytes += tt.uncounted * c.RxPackets
				return c
			}
			a.requireAgreement(t, "np0", kernel)
			require.Greater(t, kernel(t).RxBytes, uint64(4*64<<10))
			// Nothing has fallen out of the headers of these.
			k.sendFromFar(t, malformedFrame)
			k.sendFromFar(t, truncatedFrame)
			k.sendFromFar(t, truncatedFrame)

			require.EventuallyWithT(t, func(c *assert.CollectT) {
				received := kernel(c)
				damaged := uint64(len(malformedFrame) + 2*len(truncatedFrame))
				all := l.near.scrape(c, prometheusURL)
				for outcome, want := range map[string][2]uint64{
					"ok":        {received.RxPackets - 3, received.RxBytes - damaged},
					"malformed": {1, uint64(len(malformedFrame))},
					"truncated": {2, uint64(2 * len(truncatedFrame))},
				} {
					series := map[string]string{"network_interface_name": "np0", "netprobe_xdp_outcome": outcome}
					assert.Equal(c, want, [2]uint64{
						uint64(all.value(c, "netprobe_xdp_packets_total", series)),
						uint64(all.value(c, "netprobe_xdp_bytes_total", series)),
					}, outcome)
				}
			}, patience, glance)
			a.requireAgreement(t, "np0", kernel)
		})
	}
}

var (
	// an IPv4 header that says it is four bytes long
	malformedFrame = append([]byte{
		2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00,
		0x41, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 1, 2, 10, 99, 1, 1,
	}, make([]byte, 20)...)
	// an IPv4 header that says there are 100 bytes, of which 40 are there
	truncatedFrame = append([]byte{
		2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00,
		0x45, 0, 0, 100, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 1, 2, 10, 99, 1, 1,
		0x30, 0x39, 0, 9, 0, 80, 0, 0,
	}, make([]byte, 12)...)
)

// sendFromFar puts a frame on the wire as it is.
func (k *link) sendFromFar(t *testing.T, frame []byte) {
	t.Helper()
	require.NoError(t, k.lab.far.in(func() error {
		dev, err := k.lab.far.links.LinkByName(k.peer)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Attrs().Index})
	}))
}
