// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// machine is a namespace of interfaces by name.
type machine map[string]Interface

// machineOf numbers the interfaces, and resolves the names that they are given
// with: "below" for what is below or opposite, "in" for the master.
func machineOf(tb testing.TB, devices ...device) machine {
	tb.Helper()
	m := machine{}
	for n, d := range devices {
		m[d.name] = Interface{Index: n + 1, Name: d.name, Kind: d.kind, Role: d.role, Tunnel: d.tunnel}
	}
	index := func(name string) int {
		require.True(tb, name == "" || m[name].Index != 0, "no interface %q", name)
		return m[name].Index
	}
	for _, d := range devices {
		i := m[d.name]
		i.Master = index(d.in)
		switch i.Role {
		case RoleVethLocal:
			i.Peer = index(d.below)
		case RoleTunnel:
			i.Tunnel.Link = index(d.below)
		default:
			i.Lower = index(d.below)
		}
		m[d.name] = i
	}
	return m
}

type device struct {
	name      string
	role      Role
	in, below string
	kind      string
	tunnel    Tunnel
}

var ports = Options{VXLANPorts: []uint16{4789, 8472}, GenevePorts: []uint16{6081}, GRE: true, IPIP: true}

func (m machine) graph(watched ...string) *Graph {
	all := map[int]Interface{}
	for _, i := range m {
		all[i.Index] = i
	}
	return NewGraph(all, func(index int) bool {
		return len(watched) == 0 || slices.Contains(watched, all[index].Name)
	}, ports, nil)
}

// observation reads "cni0 in", "eth0 out", "eth0 out from cni0", "eth0 out from
// somewhere", and, behind any, "vxlan 7" or "ipip" for what the program opened.
func (m machine) observation(tb testing.TB, text string) Observation {
	tb.Helper()
	words := strings.Fields(text)
	index := func(name string) int {
		require.NotZero(tb, m[name].Index, "no interface %q", name)
		return m[name].Index
	}
	o := Observation{Interface: index(words[0]), From: index(words[0])}
	if words[1] == "out" {
		o.Direction, o.From = flow.Egress, 0
	}
	words = words[2:]
	if len(words) > 1 && words[0] == "from" {
		o.From = flow.FromForgotten
		if words[1] != "somewhere" {
			o.From = index(words[1])
		}
		words = words[2:]
	}
	if len(words) > 0 {
		o.Tunnel = tunnelTypes[words[0]]
		words = words[1:]
	}
	if len(words) > 0 {
		id, err := strconv.ParseUint(words[0], 10, 32)
		require.NoError(tb, err)
		o.TunnelID, o.HasID = uint32(id), true
	}
	return o
}

// owners gives those of the sightings that count, of the watched ones.
func (m machine) owners(tb testing.TB, g *Graph, watched []string, sightings []string) []string {
	tb.Helper()
	owners := []string{}
	for _, s := range sightings {
		name, _, _ := strings.Cut(s, " ")
		if len(watched) > 0 && !slices.Contains(watched, name) {
			continue
		}
		if g.Owns(m.observation(tb, s)) {
			owners = append(owners, s)
		}
	}
	return owners
}

// packet is a way through a machine.
type packet struct {
	name string
	sees []string
}

// scenario says which interface counts, by packet, where some are watched; where
// none are named, all.
type scenario struct {
	name    string
	watched []string
	owners  map[string]string
}

func checkScenarios(t *testing.T, m machine, packets []packet, scenarios []scenario) {
	t.Helper()
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			require.Len(t, s.owners, len(packets), "each packet has its answer")
			g := m.graph(s.watched...)
			for _, p := range packets {
				want := []string{}
				if owner := s.owners[p.name]; owner != "" {
					want = append(want, owner)
				}
				require.Equal(t, want, m.owners(t, g, s.watched, p.sees), p.name)
			}
		})
	}
}

func flannelNode(t *testing.T) machine {
	return machineOf(t,
		device{name: "lo", role: RoleLoopback},
		device{name: "eth0", role: RoleUplink},
		device{name: "cni0", role: RoleBridge, kind: "bridge"},
		device{name: "flannel.1", role: RoleTunnel, below: "eth0", tunnel: Tunnel{Type: VXLAN, ID: 1, HasID: true, Port: 8472}},
		device{name: "podA", role: RolePod, in: "cni0"},
		device{name: "podB", role: RolePod, in: "cni0"},
	)
}

func TestOwnsOnAFlannelNode(t *testing.T) {
	packets := []packet{
		{"pod to pod", []string{"podA in", "podB out from podA"}},
		{"pod to pod by a service", []string{"podA in", "cni0 in", "cni0 out from cni0", "podB out from cni0"}},
		{"pod to remote pod", []string{"podA in", "cni0 in", "flannel.1 out from cni0", "eth0 out vxlan 1"}},
		{"remote pod to pod", []string{"eth0 in vxlan 1", "flannel.1 in", "cni0 out from flannel.1", "podA out from flannel.1"}},
		{"host to pod", []string{"cni0 out", "podA out"}},
		{"pod to host", []string{"podA in", "cni0 in"}},
		{"host to remote pod", []string{"flannel.1 out", "eth0 out vxlan 1"}},
		{"remote pod to host", []string{"eth0 in vxlan 1", "flannel.1 in"}},
		{"pod to outside", []string{"podA in", "cni0 in", "eth0 out from cni0"}},
		{"outside to pod", []string{"eth0 in", "cni0 out from eth0", "podA out from eth0"}},
		{"outside to remote pod", []string{"eth0 in", "flannel.1 out from eth0", "eth0 out vxlan 1"}},
		{"host to outside", []string{"eth0 out"}},
		{"outside to host", []string{"eth0 in"}},
		{"host to itself", []string{"lo out", "lo in"}},
		{"a program of this host that does VXLAN", []string{"eth0 out vxlan 99"}},
		{"a pod that does VXLAN", []string{"podA in vxlan 1", "cni0 in vxlan 1", "eth0 out from cni0 vxlan 1"}},
	}
	checkScenarios(t, flannelNode(t), packets, []scenario{
		{"all watched", nil, map[string]string{
			"pod to pod":                             "podA in",
			"pod to pod by a service":                "podA in",
			"pod to remote pod":                      "podA in",
			"remote pod to pod":                      "eth0 in vxlan 1",
			"host to pod":                            "podA out",
			"pod to host":                            "podA in",
			"host to remote pod":                     "flannel.1 out",
			"remote pod to host":                     "eth0 in vxlan 1",
			"pod to outside":                         "podA in",
			"outside to pod":                         "eth0 in",
			"outside to remote pod":                  "eth0 in",
			"host to outside":                        "eth0 out",
			"outside to host":                        "eth0 in",
			"host to itself":                         "lo out",
			"a program of this host that does VXLAN": "eth0 out vxlan 99",
			"a pod that does VXLAN":                  "podA in vxlan 1",
		}},
		{"pods only", []string{"podA", "podB"}, map[string]string{
			"pod to pod":                             "podA in",
			"pod to pod by a service":                "podA in",
			"pod to remote pod":                      "podA in",
			"remote pod to pod":                      "podA out from flannel.1",
			"host to pod":                            "podA out",
			"pod to host":                            "podA in",
			"host to remote pod":                     "",
			"remote pod to host":                     "",
			"pod to outside":                         "podA in",
			"outside to pod":                         "podA out from eth0",
			"outside to remote pod":                  "",
			"host to outside":                        "",
			"outside to host":                        "",
			"host to itself":                         "",
			"a program of this host that does VXLAN": "",
			"a pod that does VXLAN":                  "podA in vxlan 1",
		}},
		{"all but pods", []string{"lo", "eth0", "cni0", "flannel.1"}, map[string]string{
			"pod to pod":                             "", // within the bridge
			"pod to pod by a service":                "cni0 in",
			"pod to remote pod":                      "cni0 in",
			"remote pod to pod":                      "eth0 in vxlan 1",
			"host to pod":                            "cni0 out",
			"pod to host":                            "cni0 in",
			"host to remote pod":                     "flannel.1 out",
			"remote pod to host":                     "eth0 in vxlan 1",
			"pod to outside":                         "cni0 in",
			"outside to pod":                         "eth0 in",
			"outside to remote pod":                  "eth0 in",
			"host to outside":                        "eth0 out",
			"outside to host":                        "eth0 in",
			"host to itself":                         "lo out",
			"a program of this host that does VXLAN": "eth0 out vxlan 99",
			"a pod that does VXLAN":                  "cni0 in vxlan 1",
		}},
		{"the tunnel and pods", []string{"flannel.1", "podA", "podB"}, map[string]string{
			"pod to pod":                             "podA in",
			"pod to pod by a service":                "podA in",
			"pod to remote pod":                      "podA in",
			"remote pod to pod":                      "flannel.1 in",
			"host to pod":                            "podA out",
			"pod to host":                            "podA in",
			"host to remote pod":                     "flannel.1 out",
			"remote pod to host":                     "flannel.1 in",
			"pod to outside":                         "podA in",
			"outside to pod":                         "podA out from eth0",
			"outside to remote pod":                  "flannel.1 out from eth0",
			"host to outside":                        "",
			"outside to host":                        "",
			"host to itself":                         "",
			"a program of this host that does VXLAN": "",
			"a pod that does VXLAN":                  "podA in vxlan 1",
		}},
	})
}

// What is only seen below an unwatched tunnel counts there.
func TestOwnsWithTheUplinkAlone(t *testing.T) {
	m := flannelNode(t)
	checkScenarios(t, m, []packet{
		{"pod to remote pod", []string{"podA in", "cni0 in", "flannel.1 out from cni0", "eth0 out vxlan 1"}},
		{"remote pod to pod", []string{"eth0 in vxlan 1", "flannel.1 in", "cni0 out from flannel.1"}},
		{"pod to outside", []string{"podA in", "cni0 in", "eth0 out from cni0"}},
		{"host to outside", []string{"eth0 out"}},
	}, []scenario{{"eth0", []string{"eth0"}, map[string]string{
		"pod to remote pod": "eth0 out vxlan 1",
		"remote pod to pod": "eth0 in vxlan 1",
		"pod to outside":    "eth0 out from cni0",
		"host to outside":   "eth0 out",
	}}})
	doubts := m.graph("eth0").Doubts()
	require.Len(t, doubts, 1, "what comes in and leaves through the tunnel counts twice")
	require.Equal(t, Doubt{Interface: m["flannel.1"].Index, Name: "flannel.1", Why: whyTunnel}, doubts[0])
}

func TestOwnsWithBondVLANAndBridge(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink, in: "bond0"},
		device{name: "eth1", role: RoleUplink, in: "bond0"},
		device{name: "bond0", role: RoleBond, kind: "bond"},
		device{name: "bond0.5", role: RoleStacked, below: "bond0", kind: "vlan", in: "br5"},
		device{name: "br5", role: RoleBridge, kind: "bridge"},
		device{name: "vm", role: RoleTun, kind: "tun", in: "br5"},
	)
	packets := []packet{
		{"in to the host", []string{"eth1 in", "bond0 in", "bond0.5 in", "br5 in"}},
		{"in to the machine", []string{"eth0 in", "bond0 in", "bond0.5 in", "vm out from bond0.5"}},
		{"untagged in", []string{"eth0 in", "bond0 in"}},
		{"host out", []string{"br5 out", "bond0.5 out", "bond0 out", "eth1 out"}},
		{"machine out", []string{"vm in", "bond0.5 out from vm", "bond0 out from vm", "eth0 out from vm"}},
		{"machine to host", []string{"vm in", "br5 in"}},
		{"machine, routed out", []string{"vm in", "br5 in", "bond0 out from br5", "eth0 out from br5"}},
	}
	checkScenarios(t, m, packets, []scenario{
		{"all", nil, map[string]string{
			"in to the host": "eth1 in", "in to the machine": "eth0 in", "untagged in": "eth0 in",
			"host out": "eth1 out", "machine out": "vm in", "machine to host": "vm in", "machine, routed out": "vm in",
		}},
		{"no hardware", []string{"bond0", "bond0.5", "br5", "vm"}, map[string]string{
			"in to the host": "bond0 in", "in to the machine": "bond0 in", "untagged in": "bond0 in",
			"host out": "bond0 out", "machine out": "vm in", "machine to host": "vm in", "machine, routed out": "vm in",
		}},
		{"hardware only", []string{"eth0", "eth1"}, map[string]string{
			"in to the host": "eth1 in", "in to the machine": "eth0 in", "untagged in": "eth0 in",
			"host out": "eth1 out", "machine out": "eth0 out from vm", "machine to host": "",
			// the bridge's packets may have come by eth0, which counted them
			"machine, routed out": "",
		}},
		{"the bridge only", []string{"br5"}, map[string]string{
			"in to the host": "br5 in", "in to the machine": "", "untagged in": "",
			"host out": "br5 out", "machine out": "", "machine to host": "br5 in", "machine, routed out": "br5 in",
		}},
	})
}

func TestOwnsWithMacvlan(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink},
		device{name: "mac0", role: RoleStacked, below: "eth0", kind: "macvlan"},
		device{name: "tap0", role: RoleStacked, below: "eth0", kind: "macvtap"},
	)
	checkScenarios(t, m, []packet{
		{"in", []string{"eth0 in", "mac0 in"}},
		{"out", []string{"mac0 out", "eth0 out"}},
		{"sibling to sibling", []string{"tap0 out", "eth0 in", "mac0 in"}}, // macvlan_queue_xmit
		{"of a container that has one", []string{"eth0 out"}},
	}, []scenario{
		{"all", nil, map[string]string{"in": "eth0 in", "out": "eth0 out", "sibling to sibling": "eth0 in", "of a container that has one": "eth0 out"}},
		{"uppers", []string{"mac0"}, map[string]string{"in": "mac0 in", "out": "mac0 out", "sibling to sibling": "mac0 in", "of a container that has one": ""}},
	})
}

func TestOwnsOnARouter(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink}, device{name: "eth1", role: RoleUplink},
		device{name: "tun0", role: RoleTun, kind: "tun"}, device{name: "wg0", role: RoleWireGuard, kind: "wireguard"},
	)
	checkScenarios(t, m, []packet{
		{"through", []string{"eth0 in", "eth1 out from eth0"}},
		{"a tunnel through", []string{"eth0 in vxlan 7", "eth1 out from eth0 vxlan 7"}},
		{"back where it came from", []string{"eth0 in", "eth0 out from eth0"}},
		{"into the VPN", []string{"eth0 in", "tun0 out from eth0"}},
		{"own into the VPN", []string{"wg0 out"}},
		{"the VPN's own", []string{"eth1 out"}},
		{"out of the VPN", []string{"wg0 in", "eth0 out from wg0"}},
	}, []scenario{
		{"all", nil, map[string]string{
			"through": "eth0 in", "a tunnel through": "eth0 in vxlan 7", "back where it came from": "eth0 in",
			"into the VPN": "eth0 in", "own into the VPN": "wg0 out", "the VPN's own": "eth1 out", "out of the VPN": "wg0 in",
		}},
		{"one side", []string{"eth1"}, map[string]string{
			"through": "eth1 out from eth0", "a tunnel through": "eth1 out from eth0 vxlan 7", "back where it came from": "",
			"into the VPN": "", "own into the VPN": "", "the VPN's own": "eth1 out", "out of the VPN": "",
		}},
	})
}

func TestOwnsWithALocalPair(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink},
		device{name: "a", role: RoleVethLocal, below: "b", kind: "veth"},
		device{name: "b", role: RoleVethLocal, below: "a", kind: "veth", in: "br0"},
		device{name: "br0", role: RoleBridge, kind: "bridge"},
	)
	packets := []packet{
		{"own", []string{"a out", "b in", "br0 in"}},
		{"own, backwards", []string{"br0 out", "b out", "a in"}},
		{"through", []string{"eth0 in", "a out from eth0", "b in", "br0 in"}},
		{"own, and out", []string{"a out", "b in", "br0 in", "eth0 out from br0"}},
	}
	checkScenarios(t, m, packets, []scenario{
		{"all", nil, map[string]string{"own": "a out", "own, backwards": "b out", "through": "eth0 in", "own, and out": "a out"}},
		{"one end", []string{"b", "br0"}, map[string]string{"own": "b in", "own, backwards": "b out", "through": "b in", "own, and out": "b in"}},
		{"the other", []string{"a", "br0"}, map[string]string{"own": "a out", "own, backwards": "a in", "through": "a out from eth0", "own, and out": "a out"}},
	})
	require.Empty(t, m.graph().Doubts())
	neither := []string{"eth0", "br0"}
	doubts := m.graph(neither...).Doubts()
	require.Len(t, doubts, 2, "what comes in and goes through the pair counts twice")
	require.Equal(t, []string{whyPair, whyPair}, []string{doubts[0].Why, doubts[1].Why})
	require.Len(t, m.owners(t, m.graph(neither...), neither, packets[2].sees), 2)
}

func TestOwnsWithOpenVSwitch(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink, in: "ovs-system"},
		device{name: "tap1", role: RoleTun, kind: "tun", in: "ovs-system"},
		device{name: "ovs-system", role: RoleBridge, kind: "openvswitch"},
		device{name: "br-ex", role: RoleBridge, kind: "openvswitch"},
		device{name: "br-int", role: RoleBridge, kind: "openvswitch"},
		device{name: "vxlan_sys_4789", role: RoleTunnel, in: "ovs-system", tunnel: Tunnel{Type: VXLAN, External: true, Port: 4789}},
	)
	packets := []packet{
		{"machine to remote", []string{"tap1 in", "vxlan_sys_4789 out from tap1", "br-ex out vxlan 3", "eth0 out vxlan 3"}},
		{"remote to machine", []string{"eth0 in vxlan 4", "br-ex in vxlan 4", "vxlan_sys_4789 in", "tap1 out from vxlan_sys_4789"}},
		{"host to remote", []string{"br-int out", "vxlan_sys_4789 out", "br-ex out vxlan 4", "eth0 out vxlan 4"}},
		{"host out", []string{"br-ex out", "eth0 out"}},
		{"in to host", []string{"eth0 in", "br-ex in"}},
	}
	checkScenarios(t, m, packets, []scenario{
		{"all", nil, map[string]string{
			"machine to remote": "tap1 in", "remote to machine": "eth0 in vxlan 4", "host to remote": "vxlan_sys_4789 out",
			"host out": "eth0 out", "in to host": "eth0 in",
		}},
		{"machines only", []string{"tap1"}, map[string]string{
			"machine to remote": "tap1 in", "remote to machine": "tap1 out from vxlan_sys_4789", "host to remote": "",
			"host out": "", "in to host": "",
		}},
	})
}

func TestOwnsOnACalicoNode(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink},
		device{name: "eth1", role: RoleUplink},
		device{name: "tunl0", role: RoleTunnel, tunnel: Tunnel{Type: IPIP}},
		device{name: "cali1", role: RolePod}, device{name: "cali2", role: RolePod},
	)
	packets := []packet{
		{"pod to pod", []string{"cali1 in", "cali2 out from cali1"}},
		{"pod to remote", []string{"cali1 in", "tunl0 out from cali1", "eth0 out ipip"}},
		{"remote to pod", []string{"eth0 in ipip", "tunl0 in", "cali1 out from tunl0"}},
		{"host to remote", []string{"tunl0 out", "eth1 out ipip"}},
	}
	checkScenarios(t, m, packets, []scenario{
		{"all", nil, map[string]string{"pod to pod": "cali1 in", "pod to remote": "cali1 in", "remote to pod": "eth0 in ipip", "host to remote": "tunl0 out"}},
		{"pods and the tunnel", []string{"cali1", "cali2", "tunl0"}, map[string]string{
			"pod to pod": "cali1 in", "pod to remote": "cali1 in", "remote to pod": "tunl0 in", "host to remote": "tunl0 out",
		}},
	})
}

// A node that is itself a container has a pair's end where others have hardware.
func TestOwnsOnANodeInAContainer(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RolePod},
		device{name: "tunl0", role: RoleTunnel, tunnel: Tunnel{Type: IPIP}},
		device{name: "cali1", role: RolePod},
		device{name: "kube-ipvs0", role: RoleDummy, kind: "dummy"},
	)
	checkScenarios(t, m, []packet{
		{"pod to remote", []string{"cali1 in", "tunl0 out from cali1", "eth0 out ipip"}},
		{"remote to pod", []string{"eth0 in ipip", "tunl0 in", "cali1 out from tunl0"}},
	}, []scenario{{"all", nil, map[string]string{"pod to remote": "cali1 in", "remote to pod": "eth0 in ipip"}}})
}

// The port of a tunnel that is not opened: what it carries, and what carries it,
// are flows of their own.
func TestOwnsWithATunnelThatIsNotOpened(t *testing.T) {
	for name, tunnel := range map[string]Tunnel{
		"another port": {Type: VXLAN, ID: 1, HasID: true, Port: 9999},
		"another kind": {},
		"another namespace's": {
			Type: VXLAN, ID: 1, HasID: true, Port: 4789, Foreign: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := machineOf(t,
				device{name: "eth0", role: RoleUplink},
				device{name: "tun", role: RoleTunnel, tunnel: tunnel},
				device{name: "pod", role: RolePod},
			)
			checkScenarios(t, m, []packet{
				{"inner out", []string{"pod in", "tun out from pod"}},
				{"own inner out", []string{"tun out"}},
				{"outer out", []string{"eth0 out"}},
				{"outer in", []string{"eth0 in"}},
				{"inner in", []string{"tun in", "pod out from tun"}},
				{"another's", []string{"eth0 out vxlan 1"}},
			}, []scenario{{"all", nil, map[string]string{
				"inner out": "pod in", "own inner out": "tun out", "outer out": "eth0 out",
				"outer in": "eth0 in", "inner in": "tun in", "another's": "eth0 out vxlan 1",
			}}})
			require.Empty(t, m.graph("eth0", "pod").Doubts())
		})
	}
}

func TestOwnsTellsWrappedPacketsByWhatTheTunnelMakes(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink},
		device{name: "vxlan7", role: RoleTunnel, tunnel: Tunnel{Type: VXLAN, ID: 7, HasID: true, Port: 4789}},
		device{name: "geneve", role: RoleTunnel, tunnel: Tunnel{Type: Geneve, External: true, Port: 6081}},
		device{name: "gre5", role: RoleTunnel, tunnel: Tunnel{Type: GRE, ID: 5, HasID: true}},
		device{name: "gre", role: RoleTunnel, tunnel: Tunnel{Type: GRE}},
	)
	g := m.graph()
	for _, tt := range []struct {
		sees string
		port uint16
		made bool
	}{
		{"eth0 out vxlan 7", 0, true},
		{"eth0 out vxlan 7", 4789, true},
		{"eth0 out vxlan 7", 8472, false},
		{"eth0 out vxlan 8", 0, false},
		{"eth0 out vxlan", 0, false},
		{"eth0 out geneve 1", 0, true},
		{"eth0 out geneve 2", 6081, true},
		{"eth0 out geneve 2", 6082, false},
		{"eth0 out gre 5", 0, true},
		{"eth0 out gre 6", 0, false},
		{"eth0 out gre", 0, true},
		{"eth0 out ipip", 0, false},
		{"eth0 out", 0, false},
	} {
		o := m.observation(t, tt.sees)
		o.TunnelPort = tt.port
		require.Equal(t, !tt.made, g.Owns(o), "%s port %d", tt.sees, tt.port)
	}
	o := m.observation(t, "eth0 out from gre5 vxlan 7")
	require.False(t, g.Owns(o), "counted coming in by the tunnel")
	o.From = 99
	require.True(t, g.Owns(o), "on its way through: no tunnel here made it")
}

func TestOwnsNeverOnIFB(t *testing.T) {
	m := machineOf(t, device{name: "eth0", role: RoleUplink}, device{name: "ifb0", role: RoleIFB, kind: "ifb"})
	for _, watched := range [][]string{nil, {"ifb0"}} {
		g := m.graph(watched...)
		require.Empty(t, m.owners(t, g, nil, []string{"ifb0 in", "ifb0 out", "ifb0 out from eth0", "eth0 out from ifb0"}))
	}
}

// The interface of a virtual machine with a virtual function below: the same
// packets, and those that bypass the function.
func TestOwnsWithAStandIn(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink},
		device{name: "enP1", role: RoleUplink, in: "eth0"},
		device{name: "eth1", role: RoleUplink},
	)
	packets := []packet{
		{"in", []string{"enP1 in", "eth0 in"}}, {"in the slow way", []string{"eth0 in"}},
		{"out", []string{"eth0 out", "enP1 out"}}, {"out the slow way", []string{"eth0 out"}},
		{"through", []string{"enP1 in", "eth0 in", "eth1 out from eth0"}},
	}
	checkScenarios(t, m, packets, []scenario{
		{"all", nil, map[string]string{"in": "eth0 in", "in the slow way": "eth0 in", "out": "eth0 out", "out the slow way": "eth0 out", "through": "eth0 in"}},
		{"the function", []string{"enP1", "eth1"}, map[string]string{
			"in": "enP1 in", "in the slow way": "", "out": "enP1 out", "out the slow way": "", "through": "enP1 in",
		}},
	})
	doubts := m.graph("enP1", "eth1").Doubts()
	require.Equal(t, []Doubt{{Interface: m["enP1"].Index, Name: "enP1", Why: whyStandIn}}, doubts)
}

// The kernel makes the routing domain what the packet came in by, and shows the
// packet on its port only.
func TestOwnsWithAVRF(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink, in: "red"}, device{name: "eth1", role: RoleUplink, in: "red"},
		device{name: "red", role: RoleVRF, kind: "vrf"},
	)
	checkScenarios(t, m, []packet{
		{"through", []string{"eth0 in", "eth1 out from red"}},
		{"into the domain", []string{"red out", "eth0 out"}},
		{"to itself", []string{"red out", "red in"}},
	}, []scenario{
		{"all", nil, map[string]string{"through": "eth0 in", "into the domain": "eth0 out", "to itself": "red in"}},
		{"the domain", []string{"red"}, map[string]string{"through": "", "into the domain": "red out", "to itself": "red out"}},
	})
}

func TestOwnsWithTunnelsInTunnels(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink},
		device{name: "ipip0", role: RoleTunnel, below: "eth0", tunnel: Tunnel{Type: IPIP}},
		device{name: "vxlan7", role: RoleTunnel, below: "ipip0", tunnel: Tunnel{Type: VXLAN, ID: 7, HasID: true, Port: 4789}},
		device{name: "pod", role: RolePod},
	)
	checkScenarios(t, m, []packet{
		{"out", []string{"vxlan7 out", "ipip0 out vxlan 7", "eth0 out ipip"}},
		{"pod out", []string{"pod in", "vxlan7 out from pod", "ipip0 out vxlan 7", "eth0 out ipip"}},
		{"in", []string{"eth0 in ipip", "ipip0 in vxlan 7", "vxlan7 in", "pod out from vxlan7"}},
	}, []scenario{{"all", nil, map[string]string{"out": "vxlan7 out", "pod out": "pod in", "in": "eth0 in ipip"}}})
}

// What a bridge sends through an unwatched tunnel counts on what carries that,
// but for tunnels in the tunnel: what carries it shows the outer one.
func TestOwnsWithAnUnwatchedTunnelAsPort(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink},
		device{name: "br0", role: RoleBridge, kind: "bridge"},
		device{name: "vxlan7", role: RoleTunnel, in: "br0", below: "eth0", tunnel: Tunnel{Type: VXLAN, ID: 7, HasID: true, Port: 4789}},
	)
	watched := []string{"eth0", "br0"}
	checkScenarios(t, m, []packet{
		{"out", []string{"br0 out", "vxlan7 out", "eth0 out vxlan 7"}},
		{"in", []string{"eth0 in vxlan 7", "vxlan7 in", "br0 in"}},
	}, []scenario{
		{"all", nil, map[string]string{"out": "vxlan7 out", "in": "eth0 in vxlan 7"}},
		{"not the tunnel", watched, map[string]string{"out": "eth0 out vxlan 7", "in": "eth0 in vxlan 7"}},
		{"the bridge only", []string{"br0"}, map[string]string{"out": "br0 out", "in": "br0 in"}},
	})
	bridge := m["br0"].Index
	require.True(t, m.graph(watched...).OwnsOuter(bridge, flow.Egress, 0))
	require.True(t, m.graph(watched...).OwnsOuter(bridge, flow.Ingress, bridge))
}

func TestOwnsOuter(t *testing.T) {
	m := flannelNode(t)
	g := m.graph()
	owners := func(g *Graph, sightings ...string) []string {
		got := []string{}
		for _, s := range sightings {
			o := m.observation(t, s)
			if g.OwnsOuter(o.Interface, o.Direction, o.From) {
				got = append(got, s)
			}
		}
		return got
	}
	require.Equal(t, []string{"eth0 out"}, owners(g, "eth0 out"), "of a watched tunnel all the same")
	require.Equal(t, []string{"eth0 in"}, owners(g, "eth0 in"))
	require.Equal(t, []string{"podA in"}, owners(g, "podA in", "cni0 in", "eth0 out from cni0"), "a pod that does VXLAN")
	require.Equal(t, []string{"podA out"}, owners(g, "cni0 out", "podA out"))
	require.Equal(t, []string{"flannel.1 in"}, owners(g, "flannel.1 in", "cni0 out from flannel.1", "podA out from flannel.1"),
		"a tunnel in the tunnel")
	require.Equal(t, []string{"eth0 out from cni0"}, owners(m.graph("eth0"), "eth0 out from cni0"))
	require.True(t, g.OwnsOuter(99, flow.Ingress, 99), "was never in a graph")
}

func TestGraphRemembersWhatIsGone(t *testing.T) {
	m := flannelNode(t)
	before := m.graph()
	all := map[int]Interface{m["eth0"].Index: m["eth0"]}
	watched := func(int) bool { return true }
	unwatched := machineOf(t, device{name: "eth0", role: RoleUplink}, device{name: "wlan0", role: RoleUplink})
	for range 3 {
		before = NewGraph(all, watched, ports, before)
		require.Equal(t, RolePod, before.Role(m["podA"].Index))
		require.False(t, before.Owns(m.observation(t, "eth0 out from podA")))
		require.True(t, before.Owns(m.observation(t, "podA in")))
		require.False(t, before.Owns(m.observation(t, "cni0 in")))
	}
	g := unwatched.graph("eth0")
	g = NewGraph(map[int]Interface{1: unwatched["eth0"]}, watched, ports, g)
	require.True(t, g.Owns(unwatched.observation(t, "eth0 out from wlan0")), "gone, and was not watched")
	require.True(t, g.Owns(Observation{Interface: 1, Direction: flow.Egress, From: 77}), "was never known")
	require.Equal(t, RoleUnknown, g.Role(77))

	back := NewGraph(map[int]Interface{2: {Index: 2, Role: RoleDummy}}, watched, ports, before)
	require.Equal(t, RoleDummy, back.Role(2), "what is there is not what was")
}

func TestGraphForgetsTheOldest(t *testing.T) {
	var g *Graph
	all := map[int]Interface{}
	const n = remembered + 10
	for index := 1; index <= n; index++ {
		all[index] = Interface{Index: index, Role: RolePod}
	}
	g = NewGraph(all, func(int) bool { return true }, ports, nil)
	g = NewGraph(nil, func(int) bool { return true }, ports, g)
	require.Len(t, g.nodes, remembered)
	require.Equal(t, RoleUnknown, g.Role(10))
	require.Equal(t, RolePod, g.Role(11))
	g = NewGraph(map[int]Interface{n + 1: {Index: n + 1, Role: RoleTun}}, func(int) bool { return true }, ports, g)
	g = NewGraph(nil, func(int) bool { return true }, ports, g)
	require.Len(t, g.nodes, remembered)
	require.Equal(t, RoleUnknown, g.Role(11))
	require.Equal(t, RoleTun, g.Role(n+1))
}

// The kernel announces an end of a pair that moves, and not the other.
func TestGraphSettlesPairs(t *testing.T) {
	watched := func(int) bool { return true }
	g := NewGraph(map[int]Interface{1: {Index: 1, Role: RoleVethLocal, Peer: 2}}, watched, ports, nil)
	require.Equal(t, RolePod, g.Role(1), "its peer has left")
	g = NewGraph(map[int]Interface{
		1: {Index: 1, Role: RoleVethLocal, Peer: 2}, 2: {Index: 2, Role: RolePod},
	}, watched, ports, nil)
	require.Equal(t, RoleVethLocal, g.Role(1))
	require.Equal(t, RoleVethLocal, g.Role(2), "its peer has come")
	require.False(t, g.Owns(Observation{Interface: 1, Direction: flow.Ingress, From: 1}))
	g = NewGraph(map[int]Interface{
		1: {Index: 1, Role: RoleVethLocal, Peer: 2}, 2: {Index: 2, Role: RoleUplink},
	}, watched, ports, nil)
	require.Equal(t, RolePod, g.Role(1), "its peer's index is another's now")
	require.Equal(t, RoleUplink, g.Role(2))
}

func TestDoubts(t *testing.T) {
	m := flannelNode(t)
	require.Empty(t, m.graph().Doubts())
	require.Empty(t, m.graph("podA", "podB").Doubts(), "all ports, and nothing else")
	require.Empty(t, m.graph("eth0", "flannel.1").Doubts())
	doubts := m.graph("eth0", "flannel.1", "podA").Doubts()
	require.Equal(t, []Doubt{{Interface: m["cni0"].Index, Name: "cni0", Why: whyPorts}}, doubts)

	ip := machineOf(t, device{name: "eth0", role: RoleUplink}, device{name: "ipvl0", role: RoleStacked, below: "eth0", kind: "ipvlan"})
	require.Equal(t, []Doubt{{Interface: ip["ipvl0"].Index, Name: "ipvl0", Why: whyIPVLAN}}, ip.graph().Doubts())
	require.Empty(t, ip.graph("ipvl0").Doubts())

	calico := machineOf(t, device{name: "eth0", role: RoleUplink}, device{name: "eth1", role: RoleUplink},
		device{name: "tunl0", role: RoleTunnel, tunnel: Tunnel{Type: IPIP}})
	require.Equal(t, []Doubt{{Interface: calico["tunl0"].Index, Name: "tunl0", Why: whyCarriers}}, calico.graph("eth0", "tunl0").Doubts())
	require.Empty(t, calico.graph("tunl0").Doubts())
}

func TestRoleNames(t *testing.T) {
	seen := map[string]bool{}
	for r := RoleUnknown; r <= RoleDummy; r++ {
		require.NotEmpty(t, r.String())
		require.False(t, seen[r.String()], r.String())
		seen[r.String()] = true
	}
	require.Equal(t, "unknown", (RoleDummy + 1).String())
}

// Of fragments of IPv6 that are cut here the kernel does not say where they came
// in: they count there, unless something may have come in that was not counted.
func TestFragmentsOfWhichTheEntryIsForgotten(t *testing.T) {
	m := machineOf(t,
		device{name: "eth0", role: RoleUplink},
		device{name: "cni0", role: RoleBridge},
		device{name: "podA", role: RolePod, in: "cni0"},
		device{name: "podB", role: RolePod, in: "cni0"},
		device{name: "flannel.1", role: RoleTunnel, below: "eth0", tunnel: Tunnel{Type: VXLAN, ID: 1, HasID: true, Port: 8472}},
	)
	throughTunnel := []string{"podA in", "cni0 in", "flannel.1 out from somewhere", "eth0 out vxlan 1"}
	outside := []string{"podA in", "cni0 in", "eth0 out from somewhere"}
	for _, tt := range []struct {
		watched, throughTunnel, outside []string
	}{
		{nil, []string{"podA in"}, []string{"podA in"}},
		{[]string{"eth0"}, []string{"eth0 out vxlan 1"}, []string{"eth0 out from somewhere"}},
		{[]string{"podA", "podB", "flannel.1"}, []string{"podA in"}, []string{"podA in"}},
	} {
		g := m.graph(tt.watched...)
		for sightings, want := range map[*[]string][]string{&throughTunnel: tt.throughTunnel, &outside: tt.outside} {
			got := m.owners(t, g, tt.watched, *sightings)
			if len(tt.watched) == 3 { // eth0 is not watched: what comes in by it may not have been counted
				require.Contains(t, got, want[0])
				continue
			}
			require.Equal(t, want, got, "watched %v, %v", tt.watched, *sightings)
		}
	}
}

var tunnelTypes = map[string]TunnelType{"vxlan": VXLAN, "geneve": Geneve, "gre": GRE, "ipip": IPIP}
