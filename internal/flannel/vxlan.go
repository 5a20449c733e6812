// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flannel

import (
	"net/netip"
	"strconv"

	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// vxlan compares the device, which is there, and what it sends to whom.
func (f *family) vxlan() {
	f.ownDevice()
	for i := range f.peers {
		if p := &f.peers[i]; f.own.HasVNI && p.end.HasVNI && p.end.VNI != f.own.VNI {
			f.differ(KindVNI, p.node, p.node.Name, "VNI "+number(p.end.VNI), f.device.Name+" has VNI "+number(f.device.VNI))
		}
	}
	f.forwarding()
	f.neighbours()
}

func number[N uint16 | uint32](n N) string { return strconv.FormatUint(uint64(n), 10) }

func (f *family) ownDevice() {
	d := f.device
	if f.own.HasVNI && d.VNI != f.own.VNI {
		f.differ(KindVNI, f.Own, d.Name, "VNI "+number(f.own.VNI), d.Name+" has VNI "+number(d.VNI))
	}
	if f.Port != 0 && d.Port != f.Port {
		f.differ(KindPort, f.Own, d.Name, "port "+number(f.Port)+" (by configuration)", d.Name+" has port "+number(d.Port))
	}
	if f.own.VTEPMAC != nil && macText(d.MAC) != macText(f.own.VTEPMAC) {
		f.differ(KindVTEPMAC, f.Own, d.Name, macText(f.own.VTEPMAC), d.Name+" has "+macText(d.MAC))
	}
	// A public address that is not the host's is that of a router before it.
	behind := f.Host.has(d.Local) && !f.Host.has(f.own.PublicIP)
	if d.Local.IsValid() && f.own.PublicIP.IsValid() && d.Local != f.own.PublicIP && !behind {
		f.differ(KindPublicIP, f.Own, d.Name, f.own.PublicIP.String(), d.Name+" sends from "+d.Local.String())
	}
}

// forwarding compares the device's FDB.
func (f *family) forwarding() {
	byMAC, byRemote := map[string][]*Entry{}, map[netip.Addr][]*Entry{}
	for i := range f.Host.FDB {
		if e := &f.Host.FDB[i]; e.Device == f.device.Index {
			byMAC[e.MAC] = append(byMAC[e.MAC], e)
			byRemote[e.Remote] = append(byRemote[e.Remote], e)
		}
	}
	explained := map[*Entry]bool{}
	for i := range f.peers {
		p := &f.peers[i]
		// Nodes that packets are routed to need none.
		if p.way == backendHostGW || p.end.VTEPMAC == nil {
			for _, e := range byRemote[p.end.PublicIP] {
				explained[e] = true
			}
			continue
		}
		if entries := byMAC[macText(p.end.VTEPMAC)]; len(entries) > 0 {
			f.entry(p, entries)
			continue
		}
		f.noEntry(p, byRemote[p.end.PublicIP], explained)
	}
	for mac, entries := range byMAC {
		for _, e := range entries {
			if f.macs[mac] == nil && e.Permanent && !explained[e] {
				f.differ(KindFDBStale, f.byAddress(e.Remote), mac, "no node has VTEP "+mac, e.text(f.device))
			}
		}
	}
}

// entry compares those that frames for a node's VTEP go by.
func (f *family) entry(p *peer, entries []*Entry) {
	mac := macText(p.end.VTEPMAC)
	for _, e := range entries {
		if e.Remote != p.end.PublicIP {
			f.differ(KindPublicIP, p.node, mac, p.text(), e.text(f.device))
		}
		if e.Port != 0 && e.Port != f.device.Port {
			f.differ(KindPort, p.node, mac, p.text(), e.text(f.device)+"; the device has port "+number(f.device.Port))
		}
		if e.VNI != 0 && e.VNI != f.device.VNI {
			f.differ(KindVNI, p.node, mac, p.text(), e.text(f.device)+"; the device has VNI "+number(f.device.VNI))
		}
	}
}

// noEntry tells an entry with a MAC address that the node had, or that is nobody's, from
// none.
func (f *family) noEntry(p *peer, sameAddress []*Entry, explained map[*Entry]bool) {
	for _, e := range sameAddress {
		if f.macs[e.MAC] == nil && e.Permanent && !explained[e] {
			explained[e] = true
			f.differ(KindVTEPMAC, p.node, "fdb "+p.end.PublicIP.String(), p.text(), e.text(f.device))
			return
		}
	}
	f.differ(KindFDBMissing, p.node, macText(p.end.VTEPMAC), p.text(), "no FDB entry for "+macText(p.end.VTEPMAC)+" dev "+f.device.Name)
}

// byAddress gives the node, or former node, that tunnels to an address are for; nil for none.
func (f *family) byAddress(addr netip.Addr) *inventory.Node {
	for _, nodes := range [][]*inventory.Node{f.Nodes, f.Former} {
		for _, n := range nodes {
			if b := backendOf(n, f.v6); b != nil && b.PublicIP == addr {
				return n
			}
		}
	}
	return nil
}

func (f *family) neighbours() {
	have := map[netip.Addr]*Neighbour{}
	for i := range f.Host.Neighbours {
		if n := &f.Host.Neighbours[i]; n.Device == f.device.Index && n.Addr.Is6() == f.v6 {
			have[n.Addr] = n
		}
	}
	for i := range f.peers {
		p := &f.peers[i]
		addr := p.subnet.Addr()
		n := have[addr]
		delete(have, addr)
		if p.way == backendHostGW || p.end.VTEPMAC == nil {
			continue
		}
		switch {
		case n == nil || n.MAC == "":
			f.differ(KindNeighbourMissing, p.node, addr.String(), p.text(), "no neighbour "+addr.String()+" dev "+f.device.Name)
		case n.MAC != macText(p.end.VTEPMAC):
			f.differ(KindVTEPMAC, p.node, "neighbour "+addr.String(), p.text(), n.text(f.device))
		}
	}
	for addr, n := range have {
		if n.Permanent && !f.isPodNetwork(addr) && !addr.IsMulticast() {
			f.differ(KindNeighbourStale, nil, addr.String(), "no node's pods are at "+addr.String(), n.text(f.device))
		}
	}
}

// isPodNetwork says whether an address is the first of a node's pod network, be it one
// that flannel has said nothing of yet.
func (f *family) isPodNetwork(addr netip.Addr) bool {
	own := podCIDR(f.Own, f.v6)
	if !own.IsValid() {
		return false
	}
	if f.cidrs[netip.PrefixFrom(addr, own.Bits())] != nil {
		return true
	}
	for _, n := range f.Nodes { // networks of other sizes
		if podCIDR(n, f.v6).Addr() == addr {
			return true
		}
	}
	return false
}

// text gives an entry as bridge(8) does.
func (e *Entry) text(d *inventory.FlannelDevice) string {
	text := e.MAC + " dev " + d.Name + " dst " + e.Remote.String()
	if e.Port != 0 {
		text += " port " + number(e.Port)
	}
	if e.VNI != 0 {
		text += " vni " + number(e.VNI)
	}
	return text
}

// text gives a neighbour as ip(8) does.
func (n *Neighbour) text(d *inventory.FlannelDevice) string {
	return n.Addr.String() + " dev " + d.Name + " lladdr " + n.MAC
}
