// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package join

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// at is a time so long after the beginning.
func at(after time.Duration) time.Time {
	return began.Add(after)
}

// The addresses order as their names do.
var (
	client  = netip.MustParseAddr("10.42.0.5")
	backend = netip.MustParseAddr("10.42.1.9")
	service = netip.MustParseAddr("10.43.0.10")
	server  = netip.MustParseAddr("192.0.2.7")
)

// tuple is one of TCP.
func tuple(source netip.Addr, sourcePort uint16, destination netip.Addr, destinationPort uint16) flow.Tuple {
	return flow.Tuple{
		Source: source, Destination: destination, SourcePort: sourcePort, DestinationPort: destinationPort, Protocol: flow.TCP,
	}
}

func udp(t flow.Tuple) flow.Tuple {
	t.Protocol = flow.UDP
	return t
}

// icmp is one of ICMP with type and code, or as tables of translations have it.
func icmp(source, destination netip.Addr, typ, code uint16) flow.Tuple {
	return flow.Tuple{Source: source, Destination: destination, SourcePort: typ, DestinationPort: code, Protocol: flow.ICMP}
}

// seen is a record of packets with a tuple on an interface, told from others by
// the number of packets.
func seen(t flow.Tuple, on string, packets uint64) flow.Record {
	return flow.Record{
		Key: flow.Key{
			Source: t.Source, Destination: t.Destination, SourcePort: t.SourcePort, DestinationPort: t.DestinationPort,
			Protocol: t.Protocol, Has: flow.HasPorts, InterfaceIndex: index(on),
		},
		Interface: on,
		Packets:   packets,
	}
}

var interfaces = []string{"", "veth1", "cni0", "flannel.1", "eth0"}

func index(name string) uint32 {
	return uint32(slices.Index(interfaces, name))
}

func with(rec flow.Record, change func(*flow.Record)) flow.Record {
	change(&rec)
	return rec
}

func syn(r *flow.Record)    { r.SYNSeen = true }
func synACK(r *flow.Record) { r.SYNACKSeen = true }

// owners are the interfaces that count.
type owners []string

func (o owners) Owns(key *flow.Key) bool {
	return slices.Contains(o, interfaces[key.InterfaceIndex])
}

func (o owners) OwnsOuter(key *flow.Key) bool { return o.Owns(key) }

// translations has them by the packets' tuple.
type translations map[flow.Tuple]flow.NAT

func (tr translations) Lookup(t flow.Tuple) (flow.NAT, bool) {
	if t.Protocol.IsICMP() {
		t.SourcePort, t.DestinationPort = 0, 0
	}
	nat, ok := tr[t]
	return nat, ok
}

// add adds all four tuples of a translated conversation, which was opened with
// the first one and went on with the other.
func (tr translations) add(original, translated flow.Tuple) {
	tr[original] = flow.NAT{Other: translated, Original: original}
	tr[translated] = flow.NAT{Other: original, Original: original}
	back := flow.NAT{Original: original.Reverse(), Reply: true}
	back.Other = original.Reverse()
	tr[translated.Reverse()] = back
	back.Other = translated.Reverse()
	tr[original.Reverse()] = back
}

// listeners are addresses and ports that are waited at.
type listeners map[netip.AddrPort]bool

func (l listeners) Listening(t flow.Tuple) bool {
	return l[netip.AddrPortFrom(t.Destination, t.DestinationPort)]
}

func packetsOf(records []flow.Record) []uint64 {
	var all []uint64
	for i := range records {
		all = append(all, records[i].Packets)
	}
	return all
}

// one gives what the only record that is counted has become.
func one(t *testing.T, j *Joiner, now time.Time, records ...flow.Record) *flow.Record {
	t.Helper()
	counted, _ := j.Join(records, now)
	require.Len(t, counted, 1)
	return &counted[0]
}

func requireOpener(t *testing.T, rec *flow.Record, want flow.Side, evidence flow.Evidence) {
	t.Helper()
	side, why := rec.Initiator()
	require.Equal(t, want, side)
	require.Equal(t, evidence, why)
}

// Without owners every interface counts, and nothing is put together.
func TestJoinWithoutOwners(t *testing.T) {
	j := New(100)
	out := tuple(client, 40001, server, 443)
	counted, noted := j.Join([]flow.Record{seen(out, "veth1", 1), seen(out, "eth0", 2)}, at(0))
	require.Equal(t, []uint64{1, 2}, packetsOf(counted))
	require.Empty(t, noted)
	for _, rec := range counted {
		require.Empty(t, rec.Others)
	}
	counted, noted = j.Join(nil, at(time.Second))
	require.Empty(t, counted)
	require.Empty(t, noted)
}

// Of the interfaces that see a flight one counts it, and names the others.
func TestJoinSplitsByOwner(t *testing.T) {
	j := New(100)
	j.Owners = owners{"veth1"}
	out := tuple(client, 40001, server, 443)
	counted, noted := j.Join([]flow.Record{
		seen(out, "flannel.1", 1),
		seen(out, "veth1", 2),
		seen(out.Reverse(), "veth1", 4),
		seen(out, "eth0", 8),
		seen(udp(out), "cni0", 16), // another flight
		seen(out, "cni0", 32),
		seen(out, "cni0", 64), // the same in the other direction of the interface, or in another VLAN
	}, at(0))
	require.ElementsMatch(t, []uint64{2, 4}, packetsOf(counted))
	require.ElementsMatch(t, []uint64{1, 8, 16, 32, 64}, packetsOf(noted))
	for _, rec := range counted {
		if rec.Packets == 2 {
			require.Equal(t, []string{"cni0", "eth0", "flannel.1"}, rec.Others)
		} else {
			require.Empty(t, rec.Others, "the answers are another flight")
		}
	}
}

// What one interval noted says nothing of the next.
func TestJoinForgetsWhoSawItElsewhere(t *testing.T) {
	j := New(100)
	j.Owners = owners{"veth1"}
	out := tuple(client, 40001, server, 443)
	require.Equal(t, []string{"eth0"}, one(t, j, at(0), seen(out, "veth1", 1), seen(out, "eth0", 1)).Others)
	require.Empty(t, one(t, j, at(time.Second), seen(out, "veth1", 1)).Others)
}

// An interface is not elsewhere to itself, and one that has no name any more is
// not named.
func TestJoinOthersAreOtherNames(t *testing.T) {
	j := New(100)
	j.Owners = owners{"veth1"}
	out := tuple(client, 40001, server, 443)
	rec := one(t, j, at(0),
		seen(out, "veth1", 1),
		with(seen(out, "cni0", 2), func(r *flow.Record) { r.Interface = "veth1" }),
		with(seen(out, "cni0", 3), func(r *flow.Record) { r.Interface = "" }),
	)
	require.Empty(t, rec.Others)
}

// Later fragments, which have no ports, are not the packets of a flow whose ports
// are zero.
func TestJoinOfFragments(t *testing.T) {
	j := New(100)
	j.Owners = owners{"veth1"}
	out := udp(tuple(client, 0, server, 0))
	fragment := func(r *flow.Record) { r.Has = flow.IsFragment }
	counted, _ := j.Join([]flow.Record{
		with(seen(out, "veth1", 1), fragment),
		seen(out, "veth1", 2),
		with(seen(out, "cni0", 4), fragment),
		seen(out, "eth0", 8),
	}, at(0))
	require.Equal(t, []uint64{1, 2}, packetsOf(counted))
	require.Equal(t, []string{"cni0"}, counted[0].Others)
	require.Equal(t, []string{"eth0"}, counted[1].Others)
	require.Equal(t, flow.NoSide, counted[0].Opener)
}

// A conversation with a Service: before and after the translation, there and
// back, it is one, and was opened by the client.
func TestJoinOfNAT(t *testing.T) {
	original, translated := tuple(client, 40001, service, 53), tuple(client, 40001, backend, 8053)
	table := translations{}
	table.add(original, translated)
	for _, tt := range []struct {
		name       string
		counted    flow.Tuple
		noted      flow.Tuple
		want       flow.NAT
		wantOpener flow.Side
	}{
		{"there, counted before", original, translated, flow.NAT{Other: translated, Original: original}, flow.SourceSide},
		{"there, counted after", translated, original, flow.NAT{Other: original, Original: original}, flow.SourceSide},
		{
			"back, counted before", translated.Reverse(), original.Reverse(),
			flow.NAT{Other: original.Reverse(), Original: original.Reverse(), Reply: true}, flow.DestinationSide,
		},
		{
			"back, counted after", original.Reverse(), translated.Reverse(),
			flow.NAT{Other: translated.Reverse(), Original: original.Reverse(), Reply: true}, flow.DestinationSide,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := New(100)
			j.Owners, j.Translations = owners{"veth1"}, table
			rec := one(t, j, at(0), seen(tt.noted, "eth0", 1), seen(tt.counted, "veth1", 1))
			require.Equal(t, tt.counted, rec.Tuple(), "the record stays as it was seen")
			require.Equal(t, &tt.want, rec.NAT)
			require.Equal(t, []string{"eth0"}, rec.Others)
			requireOpener(t, rec, tt.wantOpener, flow.EvidenceHeuristic)
		})
	}
}

// ICMP is looked up without type and code, and joined with them: the answer to
// an echo is not its request.
func TestJoinOfNATOfICMP(t *testing.T) {
	table := translations{}
	table.add(icmp(client, service, 0, 0), icmp(client, backend, 0, 0))
	const request, reply = 8, 0
	j := New(100)
	j.Owners, j.Translations = owners{"veth1"}, table
	counted, noted := j.Join([]flow.Record{
		seen(icmp(client, service, request, 0), "veth1", 1),
		seen(icmp(service, client, reply, 0), "veth1", 2),
		seen(icmp(client, backend, request, 0), "eth0", 4),
		seen(icmp(backend, client, reply, 0), "flannel.1", 8),
		seen(icmp(client, backend, 13, 0), "cni0", 16), // another type
	}, at(0))
	require.Equal(t, []uint64{1, 2}, packetsOf(counted))
	require.Len(t, noted, 3)
	require.Equal(t, &flow.NAT{
		Other: icmp(client, backend, request, 0), Original: icmp(client, service, request, 0),
	}, counted[0].NAT)
	require.Equal(t, []string{"eth0"}, counted[0].Others)
	require.Equal(t, &flow.NAT{
		Other: icmp(backend, client, reply, 0), Original: icmp(service, client, reply, 0), Reply: true,
	}, counted[1].NAT)
	require.Equal(t, []string{"flannel.1"}, counted[1].Others)
	require.Equal(t, flow.NoSide, counted[0].Opener, "it has no ports")
}

// What has no ports to look up, and what is a tunnel's own, is not looked up.
func TestJoinLooksUpNoFragmentsAndTunnels(t *testing.T) {
	out := udp(tuple(client, 0, server, 0))
	table := translations{out: {Other: out, Original: out}}
	for _, tt := range []struct {
		name string
		has  flow.Has
		want bool
	}{
		{"ports that are zero", flow.HasPorts, true},
		{"a later fragment", flow.IsFragment, false},
		{"a tunnel that was not opened", flow.HasPorts | flow.IsTunnel, false},
		{"a protocol without ports", 0, true},
		{"in a tunnel", flow.HasPorts | flow.InTunnel, true},
	} {
		j := New(100)
		j.Translations = table
		rec := one(t, j, at(0), with(seen(out, "eth0", 1), func(r *flow.Record) { r.Has = tt.has }))
		require.Equal(t, tt.want, rec.NAT != nil, tt.name)
	}
}

// Whoever saw the handshake, in whichever direction, all records of the
// conversation know the opener from then on.
func TestJoinRemembersTheHandshake(t *testing.T) {
	// from a port that the heuristic takes for the server's
	for _, out := range []flow.Tuple{tuple(client, 1024, server, 50051), tuple(server, 1024, client, 50051)} {
		for _, tt := range []struct {
			name  string
			first flow.Record
		}{
			{"its SYN, counted", with(seen(out, "veth1", 1), syn)},
			{"its SYN, noted", with(seen(out, "eth0", 1), syn)},
			{"the answer, counted", with(seen(out.Reverse(), "veth1", 1), synACK)},
			{"the answer, noted", with(seen(out.Reverse(), "eth0", 1), synACK)},
		} {
			t.Run(fmt.Sprint(out.Source, " ", tt.name), func(t *testing.T) {
				j := New(100)
				j.Owners = owners{"veth1"}
				j.Join([]flow.Record{tt.first}, at(0))
				requireOpener(t, one(t, j, at(time.Second), seen(out, "veth1", 1)), flow.SourceSide, flow.EvidenceSYN)
				requireOpener(t, one(t, j, at(time.Minute), seen(out.Reverse(), "veth1", 1)), flow.DestinationSide, flow.EvidenceSYN)
				requireOpener(t, one(t, j, at(time.Minute), seen(udp(out), "veth1", 1)), flow.DestinationSide, flow.EvidenceHeuristic)
			})
		}
	}
}

// Records of the same interval know it whatever their order.
func TestJoinHandshakeOfTheSameInterval(t *testing.T) {
	j := New(100)
	j.Owners = owners{"veth1"}
	out := tuple(client, 1024, server, 50051)
	counted, _ := j.Join([]flow.Record{
		seen(out, "veth1", 1), seen(out.Reverse(), "veth1", 2), with(seen(out, "eth0", 4), syn),
	}, at(0))
	requireOpener(t, &counted[0], flow.SourceSide, flow.EvidenceSYN)
	requireOpener(t, &counted[1], flow.DestinationSide, flow.EvidenceSYN)
}

// A port that is used again from the other end is another conversation, and a
// record with both parts of a handshake tells nothing.
func TestJoinNewHandshakes(t *testing.T) {
	j := New(100)
	out := tuple(client, 5000, server, 5001)
	j.Join([]flow.Record{with(seen(out, "eth0", 1), syn)}, at(0))
	j.Join([]flow.Record{with(seen(out.Reverse(), "eth0", 1), syn)}, at(time.Second))
	requireOpener(t, one(t, j, at(2*time.Second), seen(out, "eth0", 1)), flow.DestinationSide, flow.EvidenceSYN)

	both := with(with(seen(out, "eth0", 1), syn), synACK)
	requireOpener(t, one(t, j, at(3*time.Second), both), flow.DestinationSide, flow.EvidenceSYN)
	requireOpener(t, one(t, New(100), at(0), both), flow.DestinationSide, flow.EvidenceHeuristic)
}

// The handshake before the translation is that of the packets behind it.
func TestJoinRemembersTheHandshakeOfNAT(t *testing.T) {
	original, translated := tuple(client, 1024, service, 50051), tuple(client, 1024, backend, 60000)
	j := New(100)
	table := translations{}
	table.add(original, translated)
	j.Owners, j.Translations = owners{"veth1"}, table
	j.Join([]flow.Record{with(seen(original, "veth1", 1), syn)}, at(0))
	requireOpener(t, one(t, j, at(time.Second), seen(translated, "veth1", 1)), flow.SourceSide, flow.EvidenceSYN)
	requireOpener(t, one(t, j, at(time.Second), seen(translated.Reverse(), "veth1", 1)), flow.DestinationSide, flow.EvidenceSYN)
	requireOpener(t, one(t, j, at(time.Second), seen(original.Reverse(), "veth1", 1)), flow.DestinationSide, flow.EvidenceSYN)
}

func TestJoinAsksListeners(t *testing.T) {
	// from a port that the heuristic takes for the server's
	out := udp(tuple(client, 1024, server, 50051))
	original, translated := udp(tuple(client, 1024, service, 50051)), udp(tuple(client, 1024, backend, 60000))
	table := translations{}
	table.add(original, translated)
	at443 := func(t flow.Tuple) netip.AddrPort { return netip.AddrPortFrom(t.Destination, t.DestinationPort) }
	for _, tt := range []struct {
		name     string
		there    flow.Tuple
		waits    listeners
		want     flow.Side
		evidence flow.Evidence
	}{
		{"the destination waits", out, listeners{at443(out): true}, flow.SourceSide, flow.EvidenceListener},
		{"the source waits", out, listeners{at443(out.Reverse()): true}, flow.DestinationSide, flow.EvidenceListener},
		{"both wait, as peers do", out, listeners{at443(out): true, at443(out.Reverse()): true}, flow.DestinationSide, flow.EvidenceHeuristic},
		{"nobody waits", out, listeners{}, flow.DestinationSide, flow.EvidenceHeuristic},
		{"the backend waits, seen before", original, listeners{at443(translated): true}, flow.SourceSide, flow.EvidenceListener},
		{"the backend waits, seen after", translated, listeners{at443(translated): true}, flow.SourceSide, flow.EvidenceListener},
		{"nobody waits, but there is a translation", original, listeners{}, flow.SourceSide, flow.EvidenceHeuristic},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := New(100)
			j.Translations, j.Listeners = table, tt.waits
			requireOpener(t, one(t, j, at(0), seen(tt.there, "eth0", 1)), tt.want, tt.evidence)
			requireOpener(t, one(t, j, at(0), seen(tt.there.Reverse(), "eth0", 1)), tt.want.Opposite(), tt.evidence)
		})
	}
}

// A handshake, seen or remembered, is better evidence than a listener.
func TestJoinHandshakeGoesBeforeListeners(t *testing.T) {
	out := tuple(client, 1024, server, 50051)
	j := New(100)
	j.Listeners = listeners{netip.AddrPortFrom(client, 1024): true}
	requireOpener(t, one(t, j, at(0), with(seen(out, "eth0", 1), syn)), flow.SourceSide, flow.EvidenceSYN)
	requireOpener(t, one(t, j, at(time.Second), seen(out, "eth0", 1)), flow.SourceSide, flow.EvidenceSYN)
}

func vxlan(id uint32) *flow.Tunnel {
	return &flow.Tunnel{Type: flow.VXLAN, Source: client, Destination: server, ID: id, HasID: true}
}

func inTunnel(tunnel *flow.Tunnel, more flow.Has) func(*flow.Record) {
	return func(r *flow.Record) { r.Has, r.Tunnel = r.Has|flow.InTunnel|more, tunnel }
}

// What another interface saw in a tunnel was in it where it was counted, also in
// intervals in which nobody saw it there.
func TestJoinRemembersTunnels(t *testing.T) {
	j := New(100)
	j.Owners = owners{"veth1"}
	out := tuple(client, 40001, server, 443)
	there, back := vxlan(1), vxlan(2)
	counted, _ := j.Join([]flow.Record{
		seen(out, "veth1", 1), seen(out.Reverse(), "veth1", 2),
		with(seen(out, "eth0", 4), inTunnel(there, flow.IsNested)), with(seen(out.Reverse(), "eth0", 8), inTunnel(back, 0)),
	}, at(0))
	require.Same(t, there, counted[0].Tunnel)
	require.NotZero(t, counted[0].Has&flow.IsNested)
	require.Zero(t, counted[0].Has&flow.InTunnel, "where it was counted it was in none")
	require.Same(t, back, counted[1].Tunnel)
	require.Zero(t, counted[1].Has&flow.IsNested)

	require.Same(t, there, one(t, j, at(time.Second), seen(out, "veth1", 1)).Tunnel)
	require.Same(t, back, one(t, j, at(time.Second), seen(out.Reverse(), "veth1", 1)).Tunnel)
	require.Nil(t, one(t, j, at(time.Second), seen(udp(out), "veth1", 1)).Tunnel)

	moved := vxlan(3)
	j.Join([]flow.Record{with(seen(out, "eth0", 1), inTunnel(moved, 0))}, at(2*time.Second))
	require.Same(t, moved, one(t, j, at(3*time.Second), seen(out, "veth1", 1)).Tunnel)
}

// A record that was in a tunnel itself keeps its own.
func TestJoinKeepsARecordsOwnTunnel(t *testing.T) {
	j := New(100)
	j.Owners = owners{"eth0"}
	out := tuple(client, 40001, server, 443)
	own := vxlan(1)
	rec := one(t, j, at(0),
		with(seen(out, "cni0", 1), inTunnel(vxlan(2), flow.IsNested)), with(seen(out, "eth0", 1), inTunnel(own, 0)))
	require.Same(t, own, rec.Tunnel)
	require.Zero(t, rec.Has&flow.IsNested)
}

// Of packets without ports tunnels are known in the same interval only.
func TestJoinTunnelOfICMP(t *testing.T) {
	j := New(100)
	j.Owners = owners{"veth1"}
	ping, tunnel := icmp(client, server, 8, 0), vxlan(1)
	require.Same(t, tunnel, one(t, j, at(0), seen(ping, "veth1", 1), with(seen(ping, "eth0", 1), inTunnel(tunnel, 0))).Tunnel)
	require.Nil(t, one(t, j, at(time.Second), seen(ping, "veth1", 1)).Tunnel)
}

// Where every interface counts for itself, a record says what that interface saw.
func TestJoinPerInterfaceRemembersNoTunnels(t *testing.T) {
	j := New(100)
	out := tuple(client, 40001, server, 443)
	counted, _ := j.Join([]flow.Record{with(seen(out, "eth0", 1), inTunnel(vxlan(1), 0)), seen(out, "veth1", 1)}, at(0))
	require.NotNil(t, counted[0].Tunnel)
	require.Nil(t, counted[1].Tunnel)
}

// naive says of a counted record what all records of its interval tell.
func naive(records []flow.Record, i int, table translations, counts owners) []string {
	same := func(rec *flow.Record) flight {
		f := flight{tuple: rec.Tuple(), fragment: rec.Has&flow.IsFragment != 0}
		if f.fragment {
			return f
		}
		if nat, ok := table[f.tuple]; ok {
			f.tuple = nat.Original
		}
		return f
	}
	others := map[string]bool{}
	for k := range records {
		rec := &records[k]
		if !counts.Owns(&rec.Key) && same(rec) == same(&records[i]) && rec.Interface != records[i].Interface {
			others[rec.Interface] = true
		}
	}
	var names []string
	for name := range others {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Over many intervals of one Joiner: every record comes out once, on its side;
// others are named as by looking at each pair; both directions agree on who
// opened the conversation and by what that is known.
func TestJoinOfRandomRecords(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		table, waits := translations{}, listeners{}
		for range 5 {
			original := randomTuple(rnd)
			translated := original
			translated.Destination, translated.DestinationPort = backend, uint16(1000+len(table))
			if _, have := table[original]; !have {
				table.add(original, translated)
			}
			waits[netip.AddrPortFrom(original.Destination, original.DestinationPort)] = true
		}
		j := New(1000)
		counts := owners{"veth1", "cni0"}
		j.Owners, j.Translations, j.Listeners = counts, table, waits
		for interval := range 20 {
			records := make([]flow.Record, rnd.IntN(60))
			for i := range records {
				records[i] = randomRecord(rnd, table)
				records[i].Packets = uint64(i)
			}
			before := slices.Clone(records)
			counted, noted := j.Join(records, at(time.Duration(interval)*time.Minute))
			require.Len(t, before, len(counted)+len(noted))
			came := map[uint64]bool{}
			for _, rec := range slices.Concat(counted, noted) {
				require.False(t, came[rec.Packets], "seed %d", seed)
				came[rec.Packets] = true
			}
			for i := range noted {
				require.False(t, counts.Owns(&noted[i].Key))
				require.Empty(t, noted[i].Others)
			}
			for i := range counted {
				require.True(t, counts.Owns(&counted[i].Key))
				require.Equal(t, naive(before, int(counted[i].Packets), table, counts), counted[i].Others, "seed %d", seed)
				requireTheSameBack(t, j, &counted[i], at(time.Duration(interval)*time.Minute))
			}
		}
	}
}

// requireTheSameBack joins the other direction of a record without a handshake of
// its own and compares who opened the conversation.
func requireTheSameBack(t *testing.T, j *Joiner, rec *flow.Record, now time.Time) {
	t.Helper()
	if !rec.HasTransportPorts() || rec.Handshake() != flow.NoSide {
		return
	}
	back := seen(rec.Tuple().Reverse(), "veth1", 1)
	again := one(t, j, now, back)
	side, evidence := rec.Initiator()
	requireOpener(t, again, side.Opposite(), evidence)
}

func randomTuple(rnd *rand.Rand) flow.Tuple {
	addresses := []netip.Addr{client, service, server}
	from := rnd.IntN(3)
	t := tuple(addresses[from], uint16(1+rnd.IntN(3)), addresses[(from+1+rnd.IntN(2))%3], uint16(1+rnd.IntN(3)))
	if rnd.IntN(2) == 0 {
		t = udp(t)
	}
	return t
}

func randomRecord(rnd *rand.Rand, table translations) flow.Record {
	tuple := randomTuple(rnd)
	if nat, ok := table[tuple]; ok && rnd.IntN(2) == 0 {
		tuple = nat.Other
	}
	rec := seen(tuple, interfaces[1+rnd.IntN(4)], 0)
	switch rnd.IntN(8) {
	case 0:
		rec.SYNSeen = rec.Protocol == flow.TCP
	case 1:
		rec.Has, rec.SourcePort, rec.DestinationPort = flow.IsFragment, 0, 0
	}
	return rec
}

func BenchmarkJoin(b *testing.B) {
	const flows = 10_000
	records := make([]flow.Record, 0, 3*flows)
	for i := range flows {
		out := tuple(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), uint16(1024+i), server, 443)
		for _, on := range []string{"veth1", "cni0", "eth0"} {
			records = append(records, seen(out, on, 1))
		}
		records[len(records)-1].SYNSeen = true
	}
	j := New(2 * flows)
	j.Owners = owners{"veth1"}
	work := make([]flow.Record, len(records))
	b.ReportAllocs()
	for b.Loop() {
		copy(work, records)
		j.Join(work, began)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/record")
}
