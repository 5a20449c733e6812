// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package join

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		name    string
		in      flow.Tuple
		forward bool
	}{
		{"from the lower address", tuple(client, 50000, server, 443), true},
		{"from the higher address", tuple(server, 443, client, 50000), false},
		{"from the lower port of one address", tuple(client, 1, client, 2), true},
		{"from the higher port of one address", tuple(client, 2, client, 1), false},
		{"to itself", tuple(client, 1, client, 1), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key, forward := tt.in.Ordered()
			require.Equal(t, tt.forward, forward)
			back, backForward := tt.in.Reverse().Ordered()
			require.Equal(t, key, back, "both directions are one conversation")
			if tt.in != tt.in.Reverse() {
				require.NotEqual(t, forward, backForward)
			}
		})
	}
}

// conversations are as many different ones.
func conversations(n int) []flow.Tuple {
	all := make([]flow.Tuple, n)
	for i := range all {
		all[i] = tuple(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 40001, server, 443)
	}
	return all
}

func TestMemoryIsBounded(t *testing.T) {
	for _, size := range []int{0, 1, 2, 3, 100} {
		m := newMemory(size)
		for _, tuple := range conversations(1000) {
			m.put(tuple)
			m.get(tuple.Reverse())
			require.LessOrEqual(t, len(m.young), max(size/2, 1))
			require.LessOrEqual(t, len(m.old), max(size/2, 1))
		}
	}
}

// The last ones to come stay, and so does one that is asked for now and then.
func TestMemoryForgetsWhatIsNotAskedFor(t *testing.T) {
	m := newMemory(20)
	hot, all := tuple(server, 1, client, 2), conversations(500)
	c, forward := m.put(hot)
	c.opener = side(flow.SourceSide, forward)
	for i, tuple := range all {
		m.put(tuple)
		if i%9 == 0 { // within the younger half
			again, forward := m.get(hot)
			require.Same(t, c, again)
			require.Equal(t, flow.SourceSide, side(again.opener, forward))
		}
	}
	for _, tuple := range all[491:] {
		c, _ := m.get(tuple)
		require.NotNil(t, c)
	}
	first, _ := m.get(all[0])
	require.Nil(t, first)
}

func TestMemoryAges(t *testing.T) {
	remembered := func(asks ...time.Duration) bool {
		j := New(100)
		out := tuple(client, 1024, server, 50051)
		j.Join([]flow.Record{with(seen(out, "eth0", 1), syn)}, at(0))
		var known bool
		last := time.Duration(0)
		for _, ask := range asks {
			for now := last + time.Second; now < ask; now += time.Second {
				j.Join(nil, at(now)) // as in each interval
			}
			records, _ := j.Join([]flow.Record{seen(out, "eth0", 1)}, at(ask))
			_, evidence := records[0].Initiator()
			known, last = evidence == flow.EvidenceSYN, ask
		}
		return known
	}
	require.True(t, remembered(generation), "not asked for as long as is promised")
	require.True(t, remembered(generation+time.Second))
	require.False(t, remembered(2*generation+3*time.Second))
	require.True(t, remembered(generation, 2*generation, 3*generation, 4*generation), "each time is from anew")
	require.False(t, remembered(generation, 2*generation, 4*generation+5*time.Second))
}
