// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flannel

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// A reading's share of work that grows with the cluster.
func BenchmarkReconcile5000Nodes(b *testing.B) {
	in := testInput(backendVXLAN)
	for i := range 5000 {
		high, low := byte(i>>8), byte(i)
		v4 := netip.AddrFrom4([4]byte{172, 16, high, low})
		n := &inventory.Node{
			Name: v4.String(), Addresses: []netip.Addr{v4}, PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{11, high, low, 0}), 24)},
			Flannel: &inventory.Flannel{Backend: backendVXLAN, V4: &inventory.FlannelBackend{PublicIP: v4, VNI: 1, HasVNI: true, VTEPMAC: net.HardwareAddr{2, 0, 0, 0, high, low}}},
		}
		in.Nodes = append(in.Nodes, n)
		in.addPeer(n, false, &in.Host.Devices[0])
	}
	require.Empty(b, Reconcile(*in).Differences)
	b.ReportAllocs()
	for b.Loop() {
		k := KeepFor(in.Nodes)
		if got := Reconcile(*in); len(got.Differences) > 0 || len(k.nodes) < 5000 {
			b.Fatal(got.Differences)
		}
	}
}
