// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func defaults() Options {
	return Options{
		TC: TCAuto, XDP: XDPOff, Flows: true, FlowMap: FlowMapShared,
		FlowEntries: 1024, RingBufferBytes: 256 << 10, MaxInterfaces: 16,
	}
}

// load loads the programs; they are closed with the test.
func load(tb testing.TB, opts Options) *Probe {
	tb.Helper()
	p, err := Load(opts)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, p.Close()) })
	return p
}

// lab is two connected interfaces in a namespace of the test's own. Programs
// are on the near one: what is sent on the far one is its ingress.
type lab struct {
	near, far netlink.Link
}

func newLab(tb testing.TB) *lab {
	tb.Helper()
	bpftest.RequireBPF(tb)
	netnstest.Enter(tb)
	near, far := netnstest.Veth(tb, "near", "far")
	return &lab{near: near, far: far}
}

func (l *lab) index() int {
	return l.near.Attrs().Index
}

func (l *lab) attach(tb testing.TB, p *Probe) []Attachment {
	tb.Helper()
	modes, err := p.Attach(Interface{Index: l.index(), Ethernet: true})
	require.NoError(tb, err)
	return modes
}

// socket sends frames on an interface as they are.
type socket struct {
	fd   int
	addr unix.SockaddrLinklayer
}

// open gives a socket for frames with their Ethernet header. It can be used on
// any thread.
func open(tb testing.TB, link netlink.Link) *socket {
	tb.Helper()
	return openType(tb, link, unix.SOCK_RAW, 0)
}

func openType(tb testing.TB, link netlink.Link, typ int, protocol uint16) *socket {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, typ|unix.SOCK_CLOEXEC, 0)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, unix.Close(fd)) })
	return &socket{fd: fd, addr: unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Protocol: protocol<<8 | protocol>>8}}
}

func (s *socket) send(frame []byte) error {
	return unix.Sendto(s.fd, frame, 0, &s.addr)
}

func (s *socket) sendAll(tb testing.TB, frames ...[]byte) {
	tb.Helper()
	for _, frame := range frames {
		require.NoError(tb, s.send(frame))
	}
}

// sendAsIngress sends on the far interface and waits until p has counted it on
// the near one.
func (l *lab) sendAsIngress(tb testing.TB, p *Probe, frames ...[]byte) {
	tb.Helper()
	received := func() uint64 {
		c, err := p.InterfaceCounters(l.index())
		require.NoError(tb, err)
		if p.opts.TC != TCOff {
			return c.Rx.Packets
		}
		var xdp flow.Volume
		for _, v := range c.XDP {
			xdp.Add(v)
		}
		return xdp.Packets
	}
	before := received()
	open(tb, l.far).sendAll(tb, frames...)
	netnstest.Eventually(tb, func() bool {
		return received()-before >= uint64(len(frames))
	}, "the near interface receives what the far one sent")
	settle(tb, p)
}

// settle waits until the programs that run have ended: they count the
// interface's packet first, and its flow's then.
func settle(tb testing.TB, p *Probe) {
	tb.Helper()
	if p.flows != nil {
		require.NoError(tb, p.flows.maps.Wait())
	}
}

func (l *lab) sendAsEgress(tb testing.TB, frames ...[]byte) {
	tb.Helper()
	open(tb, l.near).sendAll(tb, frames...)
}

// statistics are the kernel's own.
func statistics(tb testing.TB, link netlink.Link) *netlink.LinkStatistics {
	tb.Helper()
	now, err := netlink.LinkByIndex(link.Attrs().Index)
	require.NoError(tb, err)
	return now.Attrs().Statistics
}

func drain(tb testing.TB, p *Probe) []flow.Record {
	tb.Helper()
	var records []flow.Record
	require.NoError(tb, p.DrainFlows(func(rec *flow.Record) { records = append(records, *rec) }))
	return records
}

// volumes gives what was counted of each flow, and fails if one comes twice.
func volumes(tb testing.TB, records []flow.Record) map[flow.Key]flow.Volume {
	tb.Helper()
	got := map[flow.Key]flow.Volume{}
	for _, rec := range records {
		if _, twice := got[rec.Key]; twice {
			require.FailNow(tb, "a flow came twice", "%v", rec.Key)
		}
		got[rec.Key] = flow.Volume{Packets: rec.Packets, Bytes: rec.Bytes}
	}
	return got
}

func volumeOf(frames ...[]byte) flow.Volume {
	var v flow.Volume
	for _, frame := range frames {
		v.Add(flow.Volume{Packets: 1, Bytes: uint64(len(frame))})
	}
	return v
}

func eth4(tb testing.TB, parts ...packets.Layer) []byte {
	tb.Helper()
	return packets.Build(tb, append([]packets.Layer{packets.Ethernet(layers.EthernetTypeIPv4)}, parts...)...)
}

func eth6(tb testing.TB, parts ...packets.Layer) []byte {
	tb.Helper()
	return packets.Build(tb, append([]packets.Layer{packets.Ethernet(layers.EthernetTypeIPv6)}, parts...)...)
}

// udp4 is a frame of the flow with this source port.
func udp4(tb testing.TB, sourcePort uint16, payload int) []byte {
	tb.Helper()
	udp := &layers.UDP{SrcPort: layers.UDPPort(sourcePort), DstPort: packets.DestinationPort}
	return eth4(tb, packets.IPv4(layers.IPProtocolUDP), udp, packets.Payload(payload))
}

// key4 is the key of the flow of such packets on the near interface.
func (l *lab) key4(protocol flow.Protocol, direction flow.Direction) flow.Key {
	return flow.Key{
		Source: packets.Source4, Destination: packets.Destination4,
		SourcePort: packets.SourcePort, DestinationPort: packets.DestinationPort,
		Protocol: protocol, Has: flow.HasPorts, Direction: direction, InterfaceIndex: uint32(l.index()),
	}
}

func (l *lab) key6(protocol flow.Protocol, direction flow.Direction) flow.Key {
	k := l.key4(protocol, direction)
	k.Source, k.Destination = packets.Source6, packets.Destination6
	return k
}
