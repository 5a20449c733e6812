// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// Interface is a network interface, as far as netlink tells. It is comparable.
type Interface struct {
	Index int
	Name  string
	// Ethernet says that packets begin with an Ethernet header.
	Ethernet bool
	Role     Role
	// Kind is the kernel's word for a virtual device, as "vxlan"; empty for
	// hardware and what poses as such (virtio). It may say ip6gre for gre, and
	// vti6 for vti.
	Kind string
	// MAC is the raw link-layer address, empty where there is none.
	MAC string
	// Master is the index of the bridge, bond or other device that this is a
	// port of; 0 for none.
	Master int
	// Lower is the index of the device below a stacked one, always in this
	// namespace.
	Lower int
	// Peer is the index of the other end of a local veth pair.
	Peer int
	// Tunnel is set for tunnels only.
	Tunnel Tunnel
}

// Role is what an interface is to the packets that cross it.
type Role uint8

// The roles.
const (
	// RoleUnknown is the role of what is not, or no longer, known.
	RoleUnknown Role = iota
	// RoleUplink is hardware, what poses as such, and whatever is nothing else.
	RoleUplink
	RoleLoopback
	// RolePod is the end of a pair whose other end is in another namespace.
	RolePod
	// RoleVethLocal is an end of a pair that has both ends here.
	RoleVethLocal
	// RoleBridge is a Linux bridge, or a port of Open vSwitch that leads to
	// this host.
	RoleBridge
	// RoleBond is a bond or a team.
	RoleBond
	// RoleVRF is a routing domain's device.
	RoleVRF
	// RoleStacked is a VLAN, macvlan or ipvlan on a device of this namespace.
	RoleStacked
	// RoleTunnel wraps packets that another interface then carries.
	RoleTunnel
	// RoleIFB is where tc redirects packets to, to shape them.
	RoleIFB
	// RoleTun is a user-space program's: a VPN, or a virtual machine.
	RoleTun
	RoleWireGuard
	// RoleDummy leads nowhere.
	RoleDummy
)

var roleNames = [...]string{
	RoleUnknown: "unknown", RoleUplink: "uplink", RoleLoopback: "loopback", RolePod: "pod",
	RoleVethLocal: "veth_local", RoleBridge: "bridge", RoleBond: "bond", RoleVRF: "vrf",
	RoleStacked: "stacked", RoleTunnel: "tunnel", RoleIFB: "ifb", RoleTun: "tun",
	RoleWireGuard: "wireguard", RoleDummy: "dummy",
}

func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return roleNames[RoleUnknown]
}

// TunnelType is the encapsulation.
type TunnelType = flow.TunnelType

// The encapsulations that the programs open.
const (
	VXLAN  = flow.VXLAN
	Geneve = flow.Geneve
	GRE    = flow.GRE
	IPIP   = flow.IPIP
)

// Tunnel is what netlink tells of a tunnel device.
type Tunnel struct {
	// Type is none for encapsulations that the programs do not open, such as
	// IPsec, and for those they know inside of another (IP-in-IP over UDP).
	Type TunnelType
	// ID is the VNI, or the key of packets sent.
	ID    uint32
	HasID bool
	// External says that each packet brings its own ID and remote end.
	External bool
	// Port is the UDP port packets are sent to; 0 for tunnels without.
	Port uint16
	// Link is the device that carries the packets; 0 where routes decide.
	Link int
	// Foreign says that another namespace carries the packets.
	Foreign bool
	Local   netip.Addr
	Remote  netip.Addr
}

const (
	greKey        = 0x2000 // GRE_KEY, include/uapi/linux/if_tunnel.h
	encapNone     = 0      // TUNNEL_ENCAP_NONE, same file
	noNamespaceID = -1     // netlink's: peer, or what is below, is in this namespace
)

func fromLink(l netlink.Link) Interface {
	attrs := l.Attrs()
	i := Interface{
		Index: attrs.Index,
		Name:  attrs.Name,
		// ARPHRD_ETHER and ARPHRD_LOOPBACK (include/uapi/linux/if_arp.h)
		Ethernet: attrs.EncapType == "ether" || attrs.EncapType == "loopback",
		Kind:     kindOf(l),
		MAC:      string(attrs.HardwareAddr),
		Master:   attrs.MasterIndex,
	}
	// The index of what is below, or opposite, is of that namespace.
	foreign := attrs.NetNsID != noNamespaceID
	i.Role = roleOf(i.Kind, attrs.EncapType, foreign)
	switch i.Role {
	case RoleVethLocal:
		i.Peer = attrs.ParentIndex
	case RoleStacked:
		i.Lower = attrs.ParentIndex
	case RoleTunnel:
		i.Tunnel = tunnelOf(l)
		i.Tunnel.Foreign = foreign
		if foreign {
			i.Tunnel.Link = 0
		}
	}
	return i
}

// kindOf gives IFLA_INFO_KIND, for which netlink has other words here and there.
func kindOf(l netlink.Link) string {
	switch l.(type) {
	case *netlink.Device:
		return ""
	case *netlink.Tuntap:
		return "tun"
	default:
		return l.Type()
	}
}

func roleOf(kind, encapType string, foreign bool) Role {
	switch kind {
	case "":
		if encapType == "loopback" {
			return RoleLoopback
		}
	case "veth", "netkit":
		if foreign {
			return RolePod
		}
		return RoleVethLocal
	case "bridge", "openvswitch":
		return RoleBridge
	case "bond", "team":
		return RoleBond
	case "vrf":
		return RoleVRF
	case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap":
		if !foreign {
			return RoleStacked
		}
	case "vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "ip6tnl",
		"erspan", "ip6erspan", "vti", "vti6", "xfrm", "bareudp", "gtp":
		return RoleTunnel
	case "ifb":
		return RoleIFB
	case "tun":
		return RoleTun
	case "wireguard":
		return RoleWireGuard
	case "dummy", "nlmon", "vsockmon":
		return RoleDummy
	}
	return RoleUplink
}

// tunnelOf reads what the kinds of tunnels say each in their own way.
func tunnelOf(l netlink.Link) Tunnel {
	parent := l.Attrs().ParentIndex
	switch l := l.(type) {
	case *netlink.Vxlan:
		return Tunnel{
			Type: VXLAN, ID: uint32(l.VxlanId), HasID: !l.FlowBased, External: l.FlowBased, Port: uint16(l.Port),
			Link: l.VtepDevIndex, Local: address(l.SrcAddr), Remote: address(l.Group),
		}
	case *netlink.Geneve:
		return Tunnel{
			Type: Geneve, ID: l.ID, HasID: !l.FlowBased, External: l.FlowBased, Port: l.Dport,
			Link: parent, Remote: address(l.Remote),
		}
	case *netlink.Gretun:
		t := Tunnel{External: l.FlowBased, Link: parent, Local: address(l.Local), Remote: address(l.Remote)}
		return t.gre(l.OFlags, l.OKey, l.EncapType)
	case *netlink.Gretap:
		t := Tunnel{External: l.FlowBased, Link: parent, Local: address(l.Local), Remote: address(l.Remote)}
		// netlink v1.3.1 reads the two keys of this kind into each other's place.
		return t.gre(l.OFlags, l.IKey, l.EncapType)
	case *netlink.Iptun:
		t := Tunnel{External: l.FlowBased, Link: parent, Local: address(l.Local), Remote: address(l.Remote)}
		return t.ipip(l.EncapType)
	case *netlink.Sittun:
		t := Tunnel{Link: parent, Local: address(l.Local), Remote: address(l.Remote)}
		return t.ipip(l.EncapType)
	case *netlink.Ip6tnl:
		t := Tunnel{External: l.FlowBased, Link: parent, Local: address(l.Local), Remote: address(l.Remote)}
		return t.ipip(l.EncapType)
	}
	return Tunnel{Link: parent}
}

func (t Tunnel) gre(flags uint16, key uint32, encap uint16) Tunnel {
	if encap != encapNone {
		return t
	}
	t.Type = GRE
	if t.HasID = flags&greKey != 0; t.HasID {
		t.ID = key
	}
	return t
}

func (t Tunnel) ipip(encap uint16) Tunnel {
	if encap == encapNone {
		t.Type = IPIP
	}
	return t
}

// address gives no address for one that is absent or unspecified.
func address(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip)
	if a = a.Unmap(); !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
