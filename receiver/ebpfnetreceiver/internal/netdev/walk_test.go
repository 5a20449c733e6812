// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// world is a random namespace. An interface refers only to those made before it,
// but for tunnels that name no link.
type world struct {
	*rand.Rand
	all     map[int]Interface
	linked  map[int]bool // carries a tunnel, so it is no port
	stacked map[int]bool // has an interface on it
}

func (w *world) add(i Interface) int {
	i.Index = len(w.all) + 1
	i.Name = fmt.Sprintf("%s%d", i.Role, i.Index)
	w.all[i.Index] = i
	return i.Index
}

func (w *world) chance(percent int) bool {
	return w.IntN(100) < percent
}

// indexes gives in order those that are so.
func (w *world) indexes(so func(Interface) bool) []int {
	var found []int
	for index := 1; index <= len(w.all); index++ {
		if so(w.all[index]) {
			found = append(found, index)
		}
	}
	return found
}

// pick gives one that is so, or 0.
func (w *world) pick(so func(Interface) bool) int {
	found := w.indexes(so)
	if len(found) == 0 {
		return 0
	}
	return found[w.IntN(len(found))]
}

func (w *world) isPort(i Interface) bool {
	return i.Master != 0 && w.all[i.Master].Role != RoleVRF
}

// routable says that routes may lead to it.
func (w *world) routable(i Interface) bool {
	return !w.isPort(i) && i.Role != RoleLoopback && i.Role != RoleVRF && i.Kind != "openvswitch"
}

func newWorld(r *rand.Rand) *world {
	w := &world{Rand: r, all: map[int]Interface{}, linked: map[int]bool{}, stacked: map[int]bool{}}
	w.add(Interface{Role: RoleLoopback})
	if w.chance(85) { // else a container's
		for range 1 + w.IntN(3) {
			w.add(Interface{Role: RoleUplink})
		}
	} else {
		w.add(Interface{Role: RolePod})
	}
	grow := []func(){
		func() { w.add(Interface{Role: RolePod, Kind: "veth"}) },
		func() { w.add(Interface{Role: RolePod, Kind: "veth"}) },
		func() { w.add(Interface{Role: RoleTun, Kind: "tun"}) },
		func() { w.add(Interface{Role: RoleWireGuard, Kind: "wireguard"}) },
		w.addPair, w.addStacked, w.addTunnel, w.addTunnel, w.addBridge,
		func() { w.addMaster(Interface{Role: RoleBond, Kind: "bond"}) },
		func() { w.addMaster(Interface{Role: RoleVRF, Kind: "vrf"}) },
		w.addStandIn,
	}
	for range 2 + w.IntN(12) {
		grow[w.IntN(len(grow))]()
	}
	return w
}

func (w *world) addPair() {
	a := w.add(Interface{Role: RoleVethLocal, Kind: "veth"})
	b := w.add(Interface{Role: RoleVethLocal, Kind: "veth", Peer: a})
	near := w.all[a]
	near.Peer = b
	w.all[a] = near
}

func (w *world) addStacked() {
	lower := w.pick(func(i Interface) bool {
		return i.Role != RoleLoopback && i.Role != RoleVRF && i.Role != RoleTunnel && i.Role != RoleWireGuard && i.Role != RoleTun &&
			(!w.isPort(i) || w.all[i.Master].Role == RoleBridge)
	})
	if lower != 0 {
		kinds := []string{"vlan", "macvlan", "macvlan", "ipvlan"}
		w.stacked[lower] = true
		w.add(Interface{Role: RoleStacked, Kind: kinds[w.IntN(len(kinds))], Lower: lower})
	}
}

func (w *world) addTunnel() {
	t := Tunnel{Type: []TunnelType{VXLAN, Geneve, GRE, IPIP, flow.NoTunnel}[w.IntN(5)], Foreign: w.chance(5)}
	alike := w.indexes(func(i Interface) bool { return i.Tunnel.Type == t.Type && i.Role == RoleTunnel })
	if slices.ContainsFunc(alike, func(index int) bool { return w.all[index].Tunnel.External }) {
		return
	}
	switch {
	case len(alike) == 0 && w.chance(30):
		t.External = true
	case t.Type != IPIP:
		t.ID, t.HasID = uint32(len(w.all)), true
	case len(alike) > 0:
		return // it could not be told from the other
	}
	if t.Type == VXLAN || t.Type == Geneve {
		t.Port = []uint16{4789, 6081, 9999}[w.IntN(3)]
	}
	if !t.Foreign && w.chance(60) {
		t.Link = w.pick(func(i Interface) bool { return w.routable(i) && i.Master == 0 && i.Role != RoleVethLocal })
		w.linked[t.Link] = true
	}
	w.add(Interface{Role: RoleTunnel, Tunnel: t})
}

func (w *world) addBridge() {
	kind := "bridge"
	if w.chance(20) && w.pick(func(i Interface) bool { return i.Kind == "openvswitch" }) == 0 {
		kind = "openvswitch"
	}
	bridge := Interface{Role: RoleBridge, Kind: kind}
	free := w.indexes(func(i Interface) bool {
		return i.Master == 0 && !w.linked[i.Index] && i.Role != RoleLoopback && i.Role != RoleBridge && i.Role != RoleVRF && i.Role != RoleWireGuard
	})
	index := w.add(bridge)
	w.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	for _, port := range free[:min(len(free), w.IntN(5))] {
		i := w.all[port]
		i.Master = index
		w.all[port] = i
	}
	if kind == "openvswitch" { // the datapath; this is what leads to the host
		w.add(bridge)
	}
}

// addMaster puts hardware that nothing else uses into a master.
func (w *world) addMaster(master Interface) int {
	free := w.indexes(func(i Interface) bool {
		return i.Role == RoleUplink && i.Master == 0 && !w.linked[i.Index] && !w.stacked[i.Index] && !w.hasPorts(i.Index)
	})
	index := 0
	for n, port := range free {
		if n == 0 || w.chance(70) {
			if index == 0 {
				index = w.add(master)
			}
			i := w.all[port]
			i.Master = index
			w.all[port] = i
		}
	}
	return index
}

func (w *world) addStandIn() {
	w.addMaster(Interface{Role: RoleUplink})
}

func (w *world) hasPorts(master int) bool {
	return len(w.portsOf(master)) > 0
}

func (w *world) portsOf(master int) []int {
	if i := w.all[master]; i.Kind == "openvswitch" {
		return w.indexes(func(i Interface) bool { return w.all[i.Master].Kind == "openvswitch" })
	}
	return w.indexes(func(i Interface) bool { return i.Master == master })
}

// layer is a tunnel that a packet is in, numbered within the journey.
type layer struct {
	Tunnel
	number int
}

// sight is an observation with the number of the packet's outermost tunnel.
type sight struct {
	Observation
	layer int
}

// journey is one packet's way through a world, as the kernel does it. Where a
// tunnel is not opened, what it carries and what carries it are two packets.
type journey struct {
	*world
	iif     int     // skb->skb_iif
	tunnels []layer // that the packet is in, the outermost first
	now     []sight
	packets [][]sight
	layers  int
	steps   int
	// lost: the walk makes no sense, or none in reasonable time.
	lost bool
}

func (j *journey) see(index int, d flow.Direction) {
	if d == flow.Ingress {
		j.iif = index // __netif_receive_skb_core
	}
	o := sight{Observation: Observation{Interface: index, Direction: d, From: j.iif}}
	if len(j.tunnels) > 0 {
		t := j.tunnels[0]
		o.Tunnel, o.TunnelID, o.HasID, o.TunnelPort, o.layer = t.Type, t.ID, t.HasID, t.Port, t.number
		if j.chance(30) {
			o.TunnelPort = 0
		}
	}
	j.now = append(j.now, o)
}

// next begins another packet.
func (j *journey) next() {
	if len(j.now) > 0 {
		j.packets = append(j.packets, j.now)
		j.now = nil
	}
}

func (j *journey) stray() bool {
	j.steps++
	j.lost = j.lost || j.steps > 60
	return j.lost
}

// sent is the tunnel as one packet of it shows it.
func (j *journey) sent(t Tunnel) layer {
	if t.External && t.Type != IPIP {
		t.ID, t.HasID = j.Uint32(), true
	}
	j.layers++
	return layer{Tunnel: t, number: j.layers}
}

// carrier is where the packets of a tunnel come and go.
func (j *journey) carrier(t Tunnel) int {
	if t.Link != 0 {
		return t.Link
	}
	bases := j.bases()
	return j.pick(func(i Interface) bool { return j.routable(i) && j.grounded(i, bases) })
}

func (j *journey) bases() []int {
	if hardware := j.indexes(func(i Interface) bool { return i.Role == RoleUplink }); len(hardware) > 0 {
		return hardware
	}
	return j.indexes(func(i Interface) bool { return i.Role == RolePod })
}

func (j *journey) grounded(i Interface, bases []int) bool {
	if slices.Contains(bases, i.Index) {
		return true
	}
	below := j.portsOf(i.Index)
	if i.Role == RoleStacked {
		below = []int{i.Lower}
	}
	return slices.ContainsFunc(below, func(index int) bool { return j.grounded(j.all[index], bases) })
}

// below picks the port by which a packet comes or goes. One that is in a tunnel
// that names no link is not in need of another tunnel.
func (j *journey) below(i Interface) int {
	if len(j.tunnels) == 0 {
		return j.pick(func(port Interface) bool { return slices.Contains(j.portsOf(i.Index), port.Index) })
	}
	bases := j.bases()
	port := j.pick(func(port Interface) bool {
		return slices.Contains(j.portsOf(i.Index), port.Index) && (i.Role != RoleBridge || j.grounded(port, bases))
	})
	return port
}

// arrive lets a packet come in as far as to this interface.
func (j *journey) arrive(index int) {
	i, ok := j.all[index]
	if !ok || j.stray() {
		j.lost = true
		return
	}
	switch {
	case i.Role == RoleStacked:
		j.arrive(i.Lower)
	case i.Role == RoleTunnel && !i.Tunnel.Foreign:
		j.unwrap(i.Tunnel)
	case i.Role == RoleVethLocal:
		j.lost = j.lost || len(j.tunnels) > 0 // nobody here makes another's tunnel packets
		j.iif = 0
		j.see(i.Peer, flow.Egress)
	case i.Role == RoleBridge || i.Role == RoleBond || j.hasPorts(index) && j.chance(50):
		j.arrive(j.below(i))
	}
	j.see(index, flow.Ingress)
	if j.all[i.Master].Role == RoleVRF {
		j.iif = i.Master // vrf_ip_rcv
	}
}

// unwrap lets the packet come in by a tunnel, and leaves it unwrapped.
func (j *journey) unwrap(t Tunnel) {
	inner := j.tunnels
	if !ports.opens(t) {
		j.tunnels = nil
		j.arrive(j.carrier(t))
		j.next()
		j.tunnels = inner
		return
	}
	j.tunnels = append([]layer{j.sent(t)}, inner...)
	j.arrive(j.carrier(t))
	j.tunnels = inner
}

// depart sends the packet by this interface.
func (j *journey) depart(index int) {
	i, ok := j.all[index]
	if !ok || j.stray() {
		j.lost = true
		return
	}
	j.see(index, flow.Egress)
	switch {
	case i.Role == RoleStacked:
		if i.Kind == "ipvlan" {
			j.iif = 0 // ipvlan_skb_crossing_ns
		}
		j.depart(i.Lower)
	case i.Role == RoleTunnel && !i.Tunnel.Foreign:
		j.wrap(i.Tunnel)
	case i.Role == RoleVethLocal:
		j.iif = 0 // ____dev_forward_skb
		j.see(i.Peer, flow.Ingress)
		j.climb(i.Peer)
	case i.Role == RoleBridge || i.Role == RoleBond || j.hasPorts(index) && j.chance(50):
		j.depart(j.below(i))
	}
}

func (j *journey) wrap(t Tunnel) {
	j.iif = 0 // iptunnel_xmit, ip6_tnl_xmit
	if ports.opens(t) {
		j.tunnels = append([]layer{j.sent(t)}, j.tunnels...)
	} else {
		j.next()
		j.tunnels = nil
	}
	j.depart(j.carrier(t))
}

// climb goes on from an interface where the packet has come in.
func (j *journey) climb(index int) {
	master, ok := j.all[j.all[index].Master]
	if !ok {
		j.route()
		return
	}
	other := j.pick(func(i Interface) bool { return i.Master == master.Index && i.Index != index })
	if other != 0 && j.chance(50) {
		j.depart(other)
		return
	}
	if master.Kind == "openvswitch" {
		master = j.all[j.internal()]
	}
	j.see(master.Index, flow.Ingress)
	j.route()
}

// internal is the port of Open vSwitch that leads to the host.
func (w *world) internal() int {
	return w.pick(func(i Interface) bool {
		return i.Kind == "openvswitch" && len(w.indexes(func(p Interface) bool { return p.Master == i.Index })) == 0
	})
}

// route ends here, or forwards.
func (j *journey) route() {
	if j.chance(60) {
		j.depart(j.pick(j.routable))
	}
}

// travel gives the packets of one journey, each with its sightings.
func (w *world) travel() [][]sight {
	j := &journey{world: w}
	switch n := w.IntN(10); {
	case n == 0:
		j.see(1, flow.Egress)
		j.see(1, flow.Ingress)
	case n < 4: // made here
		j.depart(j.pick(j.routable))
	case n < 6: // through a bridge
		j.transit()
		port := j.pick(func(i Interface) bool { return j.all[i.Master].Role == RoleBridge })
		other := j.pick(func(i Interface) bool { return i.Index != port && port != 0 && i.Master == j.all[port].Master })
		j.arrive(port)
		j.depart(other)
	default:
		j.transit()
		j.arrive(j.pick(j.routable))
		j.route()
	}
	j.next()
	if j.lost {
		return nil
	}
	return j.packets
}

// transit may put the packet into a tunnel that does not end here.
func (j *journey) transit() {
	if t := j.pick(func(i Interface) bool { return ports.opens(i.Tunnel) && i.Role == RoleTunnel }); t != 0 && j.chance(20) {
		j.tunnels = []layer{j.sent(j.all[t].Tunnel)}
	}
}

// watch picks interfaces: all, or whole groups of them, or any.
func (w *world) watch() map[int]bool {
	watched := map[int]bool{}
	percent := []int{100, 85, 50, 15}[w.IntN(4)]
	byRole := w.chance(50)
	roles := map[Role]bool{}
	for r := range RoleDummy {
		roles[r] = w.chance(percent)
	}
	for index := 1; index <= len(w.all); index++ {
		if byRole && roles[w.all[index].Role] || !byRole && w.chance(percent) {
			watched[index] = true
		}
	}
	return watched
}

// mixed says whether some ports of a master count, and others do not.
func mixed(g *Graph, w *world) bool {
	for index := range w.all {
		entered := map[bool]bool{}
		for _, port := range w.portsOf(index) {
			entered[g.nodes[port].flow.entered] = true
		}
		if len(entered) == 2 {
			return true
		}
	}
	return false
}

func (w *world) String() string {
	var b strings.Builder
	for index := 1; index <= len(w.all); index++ {
		i := w.all[index]
		fmt.Fprintf(&b, "%s %s master=%d lower=%d peer=%d %+v\n", i.Name, i.Kind, i.Master, i.Lower, i.Peer, i.Tunnel)
	}
	return b.String()
}

type tally struct{ graphs, packets, outer, several, doubtful int }

// checkWorld makes a world, lets packets cross it, and checks that of those that
// were seen each counts once.
func checkWorld(tb testing.TB, seed uint64, t *tally) {
	tb.Helper()
	w := newWorld(rand.New(rand.NewPCG(seed, 1))) //nolint:gosec // to be repeated
	watched := w.watch()
	g := NewGraph(w.all, func(index int) bool { return watched[index] }, ports, nil)
	t.graphs++
	ipvlan := slices.ContainsFunc(g.doubts, func(d Doubt) bool { return d.Why == whyIPVLAN })
	if len(watched) == len(w.all) && !ipvlan {
		require.Empty(tb, g.Doubts(), "all are watched\n%s", w)
	}
	if len(g.Doubts()) > 0 || mixed(g, w) {
		t.doubtful++
		return
	}
	for range 30 {
		for _, packet := range w.travel() {
			packet = slices.DeleteFunc(packet, func(s sight) bool { return !watched[s.Interface] })
			checkPacket(tb, w, g, packet, t)
		}
	}
}

// checkPacket checks the sightings, by watched interfaces, of one packet.
func checkPacket(tb testing.TB, w *world, g *Graph, packet []sight, t *tally) {
	owners, outerSeen, outerOwners := 0, map[int]bool{}, map[int]int{}
	for _, s := range packet {
		if g.Owns(s.Observation) {
			owners++
		}
		if s.layer == 0 {
			continue
		}
		outerSeen[s.layer] = true
		if g.OwnsOuter(s.Interface, s.Direction, s.From) {
			outerOwners[s.layer]++
		}
	}
	if len(packet) > 0 && owners != 1 {
		require.Equal(tb, 1, owners, "times counted\n%s\n%s", w, w.trace(g, packet))
	}
	for number := range outerSeen {
		if outerOwners[number] != 1 {
			require.Equal(tb, 1, outerOwners[number], "times counted as outer packet %d\n%s\n%s", number, w, w.trace(g, packet))
		}
	}
	t.packets += min(1, len(packet))
	if len(packet) > 1 {
		t.several++
	}
	t.outer += len(outerSeen)
}

func (w *world) trace(g *Graph, packet []sight) string {
	var b strings.Builder
	for _, s := range packet {
		fmt.Fprintf(&b, "%s owns=%v outer=%v %+v\n", w.all[s.Interface].Name,
			g.Owns(s.Observation), g.OwnsOuter(s.Interface, s.Direction, s.From), s)
	}
	return b.String()
}

func TestEachPacketCountsOnce(t *testing.T) {
	var total tally
	for seed := range uint64(20000) {
		checkWorld(t, seed, &total)
	}
	t.Logf("%+v", total)
	require.Greater(t, total.packets, total.graphs, "else this shows little")
	require.Greater(t, total.several, total.packets/3)
	require.Greater(t, total.outer, total.packets/20)
	require.Less(t, total.doubtful, total.graphs/2)
}

func FuzzEachPacketCountsOnce(f *testing.F) {
	f.Add(uint64(1 << 40))
	f.Fuzz(func(t *testing.T, seed uint64) {
		checkWorld(t, seed, &tally{})
	})
}
