// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// flowKey is what tells the packets of a flow: those of one direction. Of what is
// not IP it is zero.
type flowKey struct {
	transport           string
	source, destination netip.Addr
	// ports, or type and code of ICMP. Later fragments have neither.
	sourcePort, destinationPort uint16
	hasPorts                    bool
}

func (k flowKey) String() string {
	if !k.hasPorts {
		return fmt.Sprintf("%s %s > %s without ports", k.transport, k.source, k.destination)
	}
	return fmt.Sprintf("%s %s > %s", k.transport, netip.AddrPortFrom(k.source, k.sourcePort), netip.AddrPortFrom(k.destination, k.destinationPort))
}

// volume is how much there was: frames, and bytes from the Ethernet header on.
type volume struct{ packets, bytes uint64 }

func (v volume) String() string { return fmt.Sprintf("%d packets with %d bytes", v.packets, v.bytes) }

func (v volume) plus(w volume) volume { return volume{v.packets + w.packets, v.bytes + w.bytes} }

// tap adds up frames by flow at a device, without eBPF and without any of
// NetProbe's code.
type tap struct {
	*frames

	mu       sync.Mutex // guards what follows
	sent     map[flowKey]volume
	received map[flowKey]volume
}

func (n *namespace) tap(t *testing.T, device string) *tap {
	t.Helper()
	p := &tap{sent: map[flowKey]volume{}, received: map[flowKey]volume{}}
	p.frames = n.frames(t, device, func(f frame) {
		key := readKey(f.header)
		p.mu.Lock()
		defer p.mu.Unlock()
		flows := p.received
		if f.leaving {
			flows = p.sent
		}
		flows[key] = flows[key].plus(volume{1, uint64(f.length)})
	})
	return p
}

// flow gives what the device has sent or received of a flow.
func (p *tap) flow(direction string, key flowKey) volume {
	return p.sum(direction, func(k flowKey) bool { return k == key })
}

// sum adds up the flows that match, as the device has sent or received them.
func (p *tap) sum(direction string, match func(flowKey) bool) volume {
	p.mu.Lock()
	defer p.mu.Unlock()
	flows := p.received
	if direction == out {
		flows = p.sent
	}
	var sum volume
	for key, v := range flows {
		if match(key) {
			sum = sum.plus(v)
		}
	}
	return sum
}

func readKey(header []byte) flowKey {
	packet := gopacket.NewPacket(header, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	switch ip := packet.NetworkLayer().(type) {
	case *layers.IPv4:
		return portsOf(addressKey(ip.SrcIP, ip.DstIP), ip.Protocol, ip.FragOffset == 0, ip.Payload)
	case *layers.IPv6:
		key, next, payload := addressKey(ip.SrcIP, ip.DstIP), ip.NextHeader, ip.Payload
		if h, ok := packet.Layer(layers.LayerTypeIPv6HopByHop).(*layers.IPv6HopByHop); ok {
			next, payload = h.NextHeader, h.Payload
		}
		f, ok := packet.Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment)
		if !ok {
			return portsOf(key, next, true, payload)
		}
		return portsOf(key, f.NextHeader, f.FragmentOffset == 0, f.Payload)
	default:
		return flowKey{}
	}
}

func addressKey(source, destination []byte) flowKey {
	var key flowKey
	key.source, _ = netip.AddrFromSlice(source)
	key.destination, _ = netip.AddrFromSlice(destination)
	return key
}

func portsOf(key flowKey, protocol layers.IPProtocol, first bool, payload []byte) flowKey {
	switch protocol {
	case layers.IPProtocolTCP:
		key.transport = "tcp"
	case layers.IPProtocolUDP:
		key.transport = "udp"
	case layers.IPProtocolICMPv4:
		key.transport = "icmp"
	case layers.IPProtocolICMPv6:
		key.transport = "ipv6-icmp"
	default:
		key.transport = protocol.String()
		return key
	}
	switch {
	case !first || len(payload) < 4:
	case key.transport == "tcp" || key.transport == "udp":
		key.sourcePort, key.destinationPort, key.hasPorts = binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:]), true
	default:
		key.sourcePort, key.destinationPort, key.hasPorts = uint16(payload[0]), uint16(payload[1]), true
	}
	return key
}

// key is the flow of a record.
func (r record) key() flowKey {
	var k flowKey
	k.transport, _ = r.attrs["network.transport"].(string)
	k.source = r.address("source.address")
	k.destination = r.address("destination.address")
	k.sourcePort, k.hasPorts = r.port("source.port")
	k.destinationPort, _ = r.port("destination.port")
	if kind, ok := r.port("netprobe.icmp.type"); ok {
		k.sourcePort, k.hasPorts = kind, true
		k.destinationPort, _ = r.port("netprobe.icmp.code")
	}
	return k
}

// address gives the zero address where there is none, or one that cannot be read.
func (r record) address(name string) netip.Addr {
	text, _ := r.attrs[name].(string)
	addr, _ := netip.ParseAddr(text)
	return addr
}

func (r record) port(name string) (uint16, bool) {
	port, ok := r.attrs[name].(int64)
	return uint16(port), ok
}

func (r record) volume() volume {
	packets, _ := r.attrs["netprobe.flow.packets"].(int64)
	bytes, _ := r.attrs["netprobe.flow.bytes"].(int64)
	return volume{uint64(packets), uint64(bytes)}
}
