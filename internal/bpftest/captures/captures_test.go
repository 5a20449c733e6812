// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package captures

import (
	"bytes"
	"compress/gzip"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const frameColumns = "caplen,wirelen,vlans,mpls,ver,src,dst,proto,sport,dport,flags,frag," +
	"tunnel,iver,isrc,idst,iproto,isport,idport,iflags,ifrag,ip_layers,chain,agree\n"

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, content, 0o600))
}

func compress(t *testing.T, content []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// pcap is a capture of two frames, of which the second was longer on the wire.
func pcap(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := pcapgo.NewWriter(&buf)
	require.NoError(t, w.WriteFileHeader(96, layers.LinkTypeRaw))
	require.NoError(t, w.WritePacket(gopacket.CaptureInfo{CaptureLength: 3, Length: 3}, []byte("one")))
	require.NoError(t, w.WritePacket(gopacket.CaptureInfo{CaptureLength: 3, Length: 9}, []byte("two")))
	return buf.Bytes()
}

// pcapng is a capture of two frames on interfaces of different kinds.
func pcapng(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := pcapgo.NewNgWriter(&buf, layers.LinkTypeEthernet)
	require.NoError(t, err)
	raw, err := w.AddInterface(pcapgo.NgInterface{Name: "tun", LinkType: layers.LinkTypeRaw})
	require.NoError(t, err)
	require.NoError(t, w.WritePacket(gopacket.CaptureInfo{CaptureLength: 3, Length: 3}, []byte("one")))
	require.NoError(t, w.WritePacket(gopacket.CaptureInfo{CaptureLength: 3, Length: 9, InterfaceIndex: raw}, []byte("two")))
	require.NoError(t, w.Flush())
	return buf.Bytes()
}

func TestFindAndPackets(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "b", "x.pcapng"), pcapng(t))
	write(t, filepath.Join(dir, "b", "x.pcapng"+framesEnding), nil)
	write(t, filepath.Join(dir, "a", "cut.pcap.gz"), compress(t, pcap(t)[:len(pcap(t))-1]))
	write(t, filepath.Join(dir, "a", "cut.pcap"+framesEnding), nil)
	write(t, filepath.Join(dir, "a", "without-truth.pcap"), pcap(t))

	found, err := Find(dir)
	require.NoError(t, err)
	require.Len(t, found, 2)
	assert.Equal(t, "a/cut.pcap", found[0].Name)
	assert.Equal(t, "b/x.pcapng", found[1].Name)

	packets, err := found[0].Packets()
	require.NoError(t, err)
	assert.Equal(t, []Packet{{Link: layers.LinkTypeRaw, Data: []byte("one"), WireLen: 3}}, packets)
	packets, err = found[1].Packets()
	require.NoError(t, err)
	assert.Equal(t, []Packet{
		{Link: layers.LinkTypeEthernet, Data: []byte("one"), WireLen: 3},
		{Link: layers.LinkTypeRaw, Data: []byte("two"), WireLen: 9},
	}, packets)
}

func TestPacketsOfNoCapture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pcap")
	write(t, path, []byte("this is no capture, but long enough"))
	_, err := Capture{Name: "x.pcap", path: path}.Packets()
	assert.ErrorContains(t, err, "read capture x.pcap: Unknown magic")
}

func TestFrames(t *testing.T) {
	truth := filepath.Join(t.TempDir(), "x.pcap")
	write(t, truth+framesEnding, compress(t, []byte(frameColumns+
		"60,1514,10.20,16.17,4,10.0.0.1,10.0.0.2,6,4000,80,SA,first,,,,,,,,,,1,eth/vlan/vlan/mpls/ip/udp/mpls/ip,1\n"+
		"60,60,,,6,2001:db8::1,::ffff:10.1.2.3,58,135,0,,other,,,,,,,,,,1,eth/ipv6/icmpv6,0\n"+
		"42,42,7,,,,,,,,,,,,,,,,,,,0,eth/vlan/arp,1\n"+
		"99,99,,,4,10.0.0.1,10.0.0.2,17,1,4789,,,vxlan:7>6in4,6,fd00::1,fd00::2,6,2,80,S,first,3,eth/ip/udp/vxlan/eth/ip/ipv6/tcp,1\n")))

	frames, err := Capture{Name: "x.pcap", truth: truth}.Frames()
	require.NoError(t, err)
	assert.Equal(t, []Frame{
		{
			CapLen: 60, WireLen: 1514, VLANs: []uint32{10, 20}, Labels: []uint32{16}, HasFlow: true,
			FiveTuple: FiveTuple{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), 6, 4000, 80},
			Flags:     "SA", Fragment: "first", IPLayers: 1, Agreed: true,
			Chain: []string{"eth", "vlan", "vlan", "mpls", "ip", "udp", "mpls", "ip"},
		},
		{
			CapLen: 60, WireLen: 60, HasFlow: true,
			FiveTuple: FiveTuple{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:10.1.2.3"), 58, 135, 0},
			Fragment:  "other", IPLayers: 1, Chain: []string{"eth", "ipv6", "icmpv6"},
		},
		{CapLen: 42, WireLen: 42, VLANs: []uint32{7}, Chain: []string{"eth", "vlan", "arp"}, Agreed: true},
		{
			CapLen: 99, WireLen: 99, HasFlow: true,
			FiveTuple: FiveTuple{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), 17, 1, 4789},
			Tunnels:   []string{"vxlan:7", "6in4"}, IPLayers: 3, Agreed: true,
			Chain: []string{"eth", "ip", "udp", "vxlan", "eth", "ip", "ipv6", "tcp"},
			Inner: &Inner{FiveTuple{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 6, 2, 80}, "S", "first"},
		},
	}, frames)
}

func TestFramesOfNoTruth(t *testing.T) {
	for _, tt := range []struct{ name, table, want string }{
		{"a column missing", "caplen,wirelen\n60,60\n", `read truth of x.pcap, frame 1: no column "vlans"`},
		{"no number", frameColumns + "60,x,,,,,,,,,,,,,,,,,,,,0,eth,1\n", "read truth of x.pcap, frame 1: parse wirelen: "},
		{"no address", frameColumns + "60,60,,,4,x,10.0.0.1,6,1,2,,,,,,,,,,,,1,eth/ip,1\n", "read truth of x.pcap, frame 1: parse src: "},
		{"no inner address", frameColumns + "60,60,,,4,10.0.0.1,10.0.0.2,4,0,0,,,ipip,4,x,10.0.0.4,6,1,2,,,2,eth/ip/ip,1\n", "read truth of x.pcap, frame 1: parse isrc: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			truth := filepath.Join(t.TempDir(), "x.pcap")
			write(t, truth+framesEnding, []byte(tt.table))
			_, err := Capture{Name: "x.pcap", truth: truth}.Frames()
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

func TestFlows(t *testing.T) {
	truth := filepath.Join(t.TempDir(), "x.pcap")
	write(t, truth+".truth.json.gz", compress(t, []byte(`{"flows_outer_count": 2, "flows_outer": [
		{"src": "10.0.0.1", "dst": "10.0.0.2", "proto": 17, "sport": 4000, "dport": 53, "packets": 3, "wire_bytes": 300}],
		"flows_inner_count": 3, "flows_inner": [
		{"src": "fd00::1", "dst": "fd00::2", "proto": 6, "sport": 2, "dport": 80, "packets": 1, "wire_bytes": 99, "tunnel": ["gre", "6in4"]},
		{"src": "fd00::1", "dst": "fd00::2", "proto": 6, "sport": 2, "dport": 80, "packets": 2, "wire_bytes": 98, "tunnel": ["vxlan:7"]}]}`)))

	flows, err := Capture{Name: "x.pcap", truth: truth}.Flows()
	require.NoError(t, err)
	inner := FiveTuple{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 6, 2, 80}
	assert.Equal(t, Flows{
		Count: 2, Flows: map[FiveTuple]Flow{
			{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), 17, 4000, 53}: {Packets: 3, WireBytes: 300},
		},
		InnerCount: 3, Inner: map[InnerTuple]Flow{
			{"gre>6in4", inner}: {Packets: 1, WireBytes: 99},
			{"vxlan:7", inner}:  {Packets: 2, WireBytes: 98},
		},
	}, flows)
}
