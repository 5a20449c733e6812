// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What a pod calls outside is one edge: its answers come in, and are of the call that went out.
func TestAnswersAreOfTheCallsClass(t *testing.T) {
	g, _ := newGraph()
	of := func(class Class) func(*Record) { return func(r *Record) { r.Class = class } }
	caller, called := pod("web-1", "10.1.0.1", "a", 40000), outside("203.0.113.9", 443)
	g.AddRecords([]Record{flowOf(caller, called, 100, of(Egress)), flowOf(called, caller, 5000, answer, of(Ingress))})
	s := g.Snapshot(time.Minute, time.Time{}, LevelPod)
	require.Len(t, s.Edges, 1)
	e := s.edge(t, "pod:shop/web-1", "external:203.0.113.9")
	require.Equal(t, Egress, e.Class)
	require.Equal(t, []int64{100, 5000}, []int64{e.Forward.Bytes, e.Reverse.Bytes})

	g.AddRecords([]Record{flowOf(outside("203.0.113.7", 50000), pod("web-1", "10.1.0.1", "a", 80), 10, of(Ingress))})
	require.Equal(t, Ingress, g.Snapshot(time.Minute, time.Time{}, LevelPod).edge(t, "external:203.0.113.7", "pod:shop/web-1").Class)
}
