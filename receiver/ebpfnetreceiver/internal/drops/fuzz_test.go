// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
	"github.com/netprobe-otel/netprobe/internal/bpftest/refdecode"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// dropper is a pair of devices, of which the near one drops all it receives.
type dropper struct {
	probe *Probe
	far   raw
	seen  uint64
}

func newDropper(tb testing.TB) *dropper {
	tb.Helper()
	bpftest.RequireBPF(tb)
	netnstest.Enter(tb)
	_, far := netnstest.Veth(tb, "near", "far")
	tcDrop(tb, "near", netlink.HANDLE_MIN_INGRESS)
	d := &dropper{probe: load(tb, roomy())}
	d.far.addr.Ifindex = far.Attrs().Index
	d.far.self = far.Attrs().HardwareAddr
	var err error
	d.far.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, unix.Close(d.far.fd)) })
	return d
}

// key is what its drops are counted by.
func (d *dropper) key(tb testing.TB, protocol flow.Protocol) Key {
	tb.Helper()
	return Key{
		Reason: d.probe.named("TC_INGRESS"), InterfaceIndex: index(tb, "near"),
		IPVersion: 4, Protocol: protocol, Direction: Ingress,
	}
}

// drop has a frame dropped and gives its flow, nil where none was told. It reads the
// map without flipping it: nothing else writes.
func (d *dropper) drop(tb testing.TB, frame []byte) *FlowDrop {
	tb.Helper()
	d.far.send(tb, frame)
	d.seen++
	netnstest.Eventually(tb, func() bool {
		counts, err := d.probe.counts()
		require.NoError(tb, err)
		return countOf(counts, func(Key) bool { return true }).Packets >= d.seen
	}, "the frame is dropped")
	var key bpf.DropsDropFlowKey
	var value bpf.DropsDropFlow
	err := d.probe.maps.Active().NextKey(nil, &key)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	require.NoError(tb, err)
	require.NoError(tb, d.probe.maps.Active().Lookup(&key, &value))
	require.NoError(tb, d.probe.maps.Active().Delete(&key))
	require.ErrorIs(tb, d.probe.maps.Active().NextKey(nil, &key), ebpf.ErrKeyNotExist, "a packet is of one flow")
	got := d.probe.reasons.decodeFlow(&key, &value, &d.probe.clock)
	return &got
}

const maxFrame = packets.EthernetLen + 1500

// withChecksum makes an IPv4 header's right, where there is one.
func withChecksum(frame []byte) []byte {
	frame = bytes.Clone(frame)
	if !hasType(frame, layers.EthernetTypeIPv4) || len(frame) < packets.EthernetLen+packets.IPv4Len {
		return frame
	}
	header := frame[packets.EthernetLen:]
	header = header[:min(len(header), max(int(header[0]&0xf)*4, packets.IPv4Len))]
	header[10], header[11] = 0, 0
	var sum uint32
	for i := 0; i+1 < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
	return frame
}

func hasType(frame []byte, typ layers.EthernetType) bool {
	return len(frame) >= packets.EthernetLen && binary.BigEndian.Uint16(frame[12:]) == uint16(typ)
}

func seeds(tb testing.TB) [][]byte {
	tb.Helper()
	v4, v6 := packets.Ethernet(layers.EthernetTypeIPv4), packets.Ethernet(layers.EthernetTypeIPv6)
	var frames [][]byte
	for _, parts := range [][]packets.Layer{
		{v4, packets.IPv4(layers.IPProtocolUDP), packets.UDP(), packets.Payload(10)},
		{v4, packets.IPv4(layers.IPProtocolTCP), packets.TCP(2)},
		{v4, packets.IPv4Options(layers.IPProtocolTCP, 40), packets.TCP(16), packets.Payload(100)},
		{v4, packets.IPv4Fragment(layers.IPProtocolUDP, 185, true), packets.Payload(64)},
		{v4, packets.IPv4Fragment(layers.IPProtocolUDP, 0, true), packets.UDP(), packets.Payload(64)},
		{v4, packets.IPv4(layers.IPProtocolICMPv4), packets.ICMP(8, 0)},
		{v4, packets.IPv4(layers.IPProtocolSCTP), packets.SCTP()},
		{v4, packets.IPv4(layers.IPProtocolUDPLite), packets.UDPLite()},
		{v4, packets.IPv4(layers.IPProtocolGRE), packets.Payload(30)},
		{v6, packets.IPv6(layers.IPProtocolUDP), packets.UDP(), packets.Payload(10)},
		{v6, packets.IPv6(layers.IPProtocolTCP), packets.TCP(2)},
		{v6, packets.IPv6(layers.IPProtocolICMPv6), packets.ICMPv6(128, 0)},
		{v6, packets.IPv6(layers.IPProtocolIPv6HopByHop), packets.Options(layers.IPProtocolIPv6Routing, 8), packets.Routing(layers.IPProtocolUDP), packets.UDP()},
		{v6, packets.IPv6(layers.IPProtocolIPv6Fragment), packets.IPv6Fragment(layers.IPProtocolUDP, 0, true), packets.UDP(), packets.Payload(64)},
		{v6, packets.IPv6(layers.IPProtocolIPv6Fragment), packets.IPv6Fragment(layers.IPProtocolUDP, 185, false), packets.Payload(64)},
		{v6, packets.IPv6(layers.IPProtocolAH), packets.AH(layers.IPProtocolTCP), packets.TCP(2)},
		{packets.Ethernet(layers.EthernetTypeARP), packets.Payload(28)},
		{packets.Ethernet(layers.EthernetTypeDot1Q), packets.VLAN(7, layers.EthernetTypeIPv4), packets.IPv4(layers.IPProtocolUDP), packets.UDP()},
	} {
		frame := packets.Build(tb, parts...)
		frames = append(frames, frame, packets.Pad(frame))
	}
	return frames
}

// Whatever a dropped packet holds, its flow is none but what another decoder finds
// in it, and of a good packet it is told.
func FuzzFlowOfDrop(f *testing.F) {
	d := newDropper(f)
	for _, frame := range seeds(f) {
		f.Add(frame, true)
		f.Add(frame, false)
	}
	f.Fuzz(func(t *testing.T, frame []byte, checksum bool) {
		frame = frame[:min(len(frame), maxFrame)]
		if len(frame) < packets.EthernetLen {
			t.Skip("no Ethernet frame")
		}
		if checksum {
			frame = withChecksum(frame)
		}
		want := refdecode.Decode(refdecode.Packet{Data: frame, OuterOnly: true})
		requireFlow(t, &want, mustBeTold(frame, &want), d.drop(t, frame))
	})
}

// mustBeTold says of which packets the flow must be told: whole ones with nothing
// between Ethernet and IP.
func mustBeTold(frame []byte, want *refdecode.Result) bool {
	if want.Outcome != refdecode.OK || want.Flow == nil {
		return false
	}
	ip := frame[packets.EthernetLen:]
	switch {
	case hasType(frame, layers.EthernetTypeIPv4):
		return bytes.Equal(frame, withChecksum(frame)) && binary.BigEndian.Uint16(ip[2:]) != 0
	case hasType(frame, layers.EthernetTypeIPv6):
		return binary.BigEndian.Uint16(ip[4:]) != 0
	default:
		return false
	}
}

func requireFlow(t *testing.T, want *refdecode.Result, must bool, got *FlowDrop) {
	t.Helper()
	if got == nil {
		require.False(t, must, "no flow is told; it is %+v", want.Flow)
		return
	}
	require.NotNil(t, want.Flow, "%+v", got)
	require.Equal(t, want.Flow.Source, got.Tuple.Source)
	require.Equal(t, want.Flow.Destination, got.Tuple.Destination)
	if got.Has&flow.HasPorts != 0 {
		require.True(t, want.Flow.HasPorts, "%+v", got)
		require.Equal(t, want.Flow.SourcePort, got.Tuple.SourcePort)
		require.Equal(t, want.Flow.DestinationPort, got.Tuple.DestinationPort)
		require.Equal(t, want.Flow.Protocol, uint8(got.Protocol))
	}
	if must {
		require.Equal(t, want.Flow.Protocol, uint8(got.Protocol))
		require.Equal(t, want.Flow.HasPorts, got.Has&flow.HasPorts != 0)
		require.Equal(t, want.Flow.Fragment, got.Has&flow.IsFragment != 0)
	}
}
