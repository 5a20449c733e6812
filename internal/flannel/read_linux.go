// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flannel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// Read asks the kernel for what this network namespace has. It needs no capability.
// What changes meanwhile may be there or not.
func Read(keep Keep) (*Host, error) {
	r := &reader{host: &Host{}, names: map[int]string{}, types: map[int]string{}}
	for _, read := range []func() error{r.devices, r.addresses, r.entries, func() error { return r.routes(keep) }} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return r.host, nil
}

type reader struct {
	host *Host
	// names has those of all devices, and types those of the ones that host has.
	names, types map[int]string
}

// untilWhole repeats a dump: one that changes met is cut short, and says so.
func untilWhole(what string, dump func() error) error {
	var err error
	for range 10 {
		if err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", what, err)
	}
	return nil
}

func (r *reader) devices() error {
	var links []netlink.Link
	err := untilWhole("interfaces", func() (err error) {
		links, err = netlink.LinkList()
		return err
	})
	for _, l := range links {
		r.names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		a := l.Attrs()
		d := inventory.FlannelDevice{Index: a.Index, Name: a.Name, Type: l.Type(), Up: a.Flags&net.FlagUp != 0, MTU: a.MTU, MAC: a.HardwareAddr}
		switch t := l.(type) {
		case *netlink.Vxlan:
			d.VNI, d.Port, d.Local, d.Underlay = uint32(t.VxlanId), uint16(t.Port), addrOf(t.SrcAddr), r.names[t.VtepDevIndex]
		case *netlink.Iptun:
			// its hardware address is its local one
			d.MAC, d.Local = nil, addrOf(t.Local)
		case *netlink.Wireguard:
		default:
			continue
		}
		r.host.Devices = append(r.host.Devices, d)
		r.types[d.Index] = d.Type
	}
	return err
}

func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	if addr = addr.Unmap(); addr.IsValid() && addr.IsUnspecified() {
		return netip.Addr{}
	}
	return addr
}

func (r *reader) addresses() error {
	return untilWhole("addresses", func() error {
		r.host.Addresses = nil
		all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range all {
			r.host.Addresses = append(r.host.Addresses, Address{a.LinkIndex, addrOf(a.IP)})
		}
		return err
	})
}

// entries reads of VXLAN devices whom they send to.
func (r *reader) entries() error {
	for _, family := range []uint8{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
		var messages [][]byte
		err := untilWhole("neighbours", func() (err error) {
			req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
			req.AddData(&netlink.Ndmsg{Family: family})
			messages, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
			return err
		})
		if err != nil {
			return err
		}
		for _, m := range messages {
			n, ok := parseNeighbour(m)
			if !ok || n.family != family || r.types[n.device] != typeVXLAN {
				continue
			}
			if family == unix.AF_BRIDGE {
				r.host.FDB = append(r.host.FDB, Entry{n.device, n.mac, n.addr, n.port, n.vni, n.permanent})
			} else {
				r.host.Neighbours = append(r.host.Neighbours, Neighbour{n.device, n.addr, n.mac, n.permanent})
			}
		}
	}
	return nil
}

// neighbour is a struct ndmsg with its attributes.
type neighbour struct {
	family    uint8
	device    int
	permanent bool
	addr      netip.Addr
	mac       string
	port      uint16
	vni       uint32
}

// parseNeighbour reads what the netlink library does not: the port.
func parseNeighbour(m []byte) (neighbour, bool) {
	if len(m) < unix.SizeofNdMsg {
		return neighbour{}, false
	}
	// struct ndmsg: family, 3 bytes of padding, index, state, flags, type
	n := neighbour{
		family: m[0], device: int(int32(binary.NativeEndian.Uint32(m[4:]))),
		permanent: binary.NativeEndian.Uint16(m[8:])&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0,
	}
	attrs, err := mdnetlink.NewAttributeDecoder(m[unix.SizeofNdMsg:])
	if err != nil {
		return neighbour{}, false
	}
	for attrs.Next() {
		switch attrs.Type() {
		case netlink.NDA_DST:
			n.addr = addrOf(attrs.Bytes())
		case netlink.NDA_LLADDR:
			n.mac = macText(attrs.Bytes())
		case netlink.NDA_PORT:
			if v := attrs.Bytes(); len(v) == 2 {
				n.port = binary.BigEndian.Uint16(v)
			}
		case netlink.NDA_VNI:
			n.vni = attrs.Uint32()
		}
	}
	return n, attrs.Err() == nil
}

var unusable = map[int]string{unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw"}

func (r *reader) routes(keep Keep) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		var routes []Route
		err := untilWhole("routes", func() error {
			routes = nil
			return netlink.RouteListFilteredIter(family, &netlink.Route{}, 0, func(route netlink.Route) bool {
				for _, hop := range hopsOf(&route, family) {
					hop.DeviceName = r.names[hop.Device]
					if keep.route(&hop, r.types[hop.Device] != "") {
						routes = append(routes, hop)
					}
				}
				return true
			})
		})
		if err != nil {
			return err
		}
		r.host.Routes = append(r.host.Routes, routes...)
	}
	return nil
}

// hopsOf gives a route for each of its next hops.
func hopsOf(r *netlink.Route, family int) []Route {
	if r.Type != unix.RTN_UNICAST && unusable[r.Type] == "" {
		return nil
	}
	base := Route{Dst: prefixOf(r.Dst, family), Metric: r.Priority, Unusable: unusable[r.Type]}
	if len(r.MultiPath) == 0 {
		base.Device, base.Gateway = r.LinkIndex, addrOf(r.Gw)
		return []Route{base}
	}
	hops := make([]Route, 0, len(r.MultiPath))
	for _, hop := range r.MultiPath {
		base.Device, base.Gateway = hop.LinkIndex, addrOf(hop.Gw)
		hops = append(hops, base)
	}
	return hops
}

// prefixOf gives the default route's network for nil.
func prefixOf(dst *net.IPNet, family int) netip.Prefix {
	if dst == nil {
		if family == netlink.FAMILY_V6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	addr, _ := netip.AddrFromSlice(dst.IP)
	bits, _ := dst.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}
