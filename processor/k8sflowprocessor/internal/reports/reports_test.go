// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

var (
	at    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	wire  = flow.Tuple{Source: netip.MustParseAddr("10.244.1.2"), Destination: netip.MustParseAddr("10.244.2.3"), SourcePort: 1, DestinationPort: 2, Protocol: flow.TCP}
	front = flow.Tuple{Source: netip.MustParseAddr("10.244.1.2"), Destination: netip.MustParseAddr("10.96.0.1"), SourcePort: 1, DestinationPort: 80, Protocol: flow.TCP}
)

func report(node string, rank Rank, from, to time.Duration, tuples ...flow.Tuple) *Report {
	r := &Report{Node: node, Rank: rank, First: at.Add(from), Last: at.Add(to), Tuples: [2]flow.Tuple{wire, wire}}
	copy(r.Tuples[:], tuples)
	return r
}

func TestJudge(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name    string
		reports []*Report
		stand   []bool
		others  [][]string
	}{
		{"the source's before the destination's", []*Report{report("n2", Destination, 0, s), report("n1", Preferred, 0, s)}, []bool{false, true}, [][]string{{"n1"}, {"n2"}}},
		{"the destination's before one between", []*Report{report("n3", Transit, 0, s), report("n2", Destination, 0, s)}, []bool{false, true}, [][]string{{"n2"}, {"n3"}}},
		{"three", []*Report{report("n3", Transit, 0, s), report("n2", Destination, 0, s), report("n1", Preferred, 0, s)}, []bool{false, false, true}, [][]string{{"n1", "n2"}, {"n1", "n3"}, {"n2", "n3"}}},
		{"equal ones: the first by name", []*Report{report("n2", Transit, 0, s), report("n1", Transit, 0, s)}, []bool{false, true}, [][]string{{"n1"}, {"n2"}}},
		{"a node's own next record", []*Report{report("n1", Preferred, 0, s), report("n1", Preferred, s, 2*s)}, []bool{true, true}, [][]string{nil, nil}},
		{"clocks apart", []*Report{report("n1", Preferred, 0, s), report("n2", Destination, 3*s, 4*s)}, []bool{true, false}, [][]string{{"n2"}, {"n1"}}},
		{"a later one", []*Report{report("n1", Preferred, 0, s), report("n2", Destination, 3*s+1, 4*s)}, []bool{true, true}, [][]string{nil, nil}},
		{"an earlier one", []*Report{report("n1", Preferred, 10*s, 11*s), report("n2", Destination, 0, 8*s-1)}, []bool{true, true}, [][]string{nil, nil}},
		{"either side of a translation", []*Report{report("n1", Preferred, 0, s, front, wire), report("n2", Destination, 0, s)}, []bool{true, false}, [][]string{{"n2"}, {"n1"}}},
		{"the other side only", []*Report{report("n1", Preferred, 0, s, front, front), report("n2", Destination, 0, s)}, []bool{true, true}, [][]string{nil, nil}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := New(time.Minute)
			for _, r := range tt.reports {
				m.Add(r, at)
			}
			for i, r := range tt.reports {
				stands, others, _ := m.Judge(r)
				require.Equal(t, tt.stand[i], stands, r.Node)
				require.Equal(t, tt.others[i], others, r.Node)
			}
		})
	}
}

// What only the node knows that translated stands on whichever report does.
func TestTheTranslatorsKnowledgeStands(t *testing.T) {
	m := New(time.Minute)
	known := Known{Translated: true, SourceService: "web", CommunityID: "1:abc"}
	preferred, translator := report("n2", Preferred, 0, 0), report("n1", Destination, 0, 0, front, wire)
	translator.Known = known
	m.Add(preferred, at)
	m.Add(translator, at)
	stands, _, got := m.Judge(preferred)
	require.True(t, stands)
	require.Equal(t, known, got)
	own := Known{Translated: true, CommunityID: "1:own"}
	preferred.Known = own
	_, _, got = m.Judge(preferred)
	require.Equal(t, own, got)
}

func TestForget(t *testing.T) {
	m := New(time.Minute)
	for i := range 10 {
		m.Add(report("n1", Preferred, 0, 0, front, wire), at.Add(time.Duration(i)*time.Second))
	}
	m.Forget(at.Add(time.Minute + 4*time.Second))
	require.Equal(t, 5, m.Len())
	require.Len(t, m.byTuple[wire], 5)
	m.Forget(at.Add(time.Hour))
	require.Zero(t, m.Len())
	require.Empty(t, m.byTuple)
}
