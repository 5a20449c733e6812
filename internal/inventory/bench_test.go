// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

const benchNodes, benchPods, benchServices = 5_000, 100_000, 10_000

func numbered(base uint32, n int) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, base+uint32(n))))
}

const podBase, serviceBase, nodeBase = 10 << 24, 172<<24 | 16<<16, 192<<24 | 168<<16

// large is a store with as much as the largest cluster that Kubernetes supports, and
// services beside.
func large() *Store {
	s := NewStore(grace)
	for i := range benchNodes {
		s.SetNode(&Node{
			UID: UID(fmt.Sprintf("node-uid-%d", i)), Name: fmt.Sprintf("node-%d", i), Zone: "zone", Addresses: []netip.Addr{numbered(nodeBase, i)},
			PodCIDRs: []netip.Prefix{netip.PrefixFrom(numbered(podBase, i*32), 27)},
		})
	}
	for i := range benchPods {
		name := fmt.Sprintf("web-%d-7d4b9c5f6d-%d", i/10, i)
		s.SetPod(&Pod{
			UID: UID(fmt.Sprintf("01234567-89ab-cdef-0123-%012d", i)), Namespace: "default", Name: name, Node: s.nodes[fmt.Sprintf("node-%d", i%benchNodes)].Name,
			Controller: Workload{Kind: "ReplicaSet", Name: name[:len(name)-4], UID: UID(fmt.Sprintf("rs-%d", i/10))},
			Addresses:  []netip.Addr{numbered(podBase, i)}, ContainerIDs: []string{fmt.Sprintf("%064x", i)}, From: start,
		})
		s.SetOwner(UID(fmt.Sprintf("rs-%d", i/10)), Workload{Kind: "Deployment", Name: fmt.Sprintf("web-%d", i/10)})
	}
	for i := range benchServices {
		name := fmt.Sprintf("service-%d", i)
		s.SetService(&Service{Namespace: "default", Name: name, Addresses: []netip.Addr{numbered(serviceBase, i)}, Ports: []ServicePort{{Port: Port{flow.TCP, 80}}}})
		e := &Endpoints{UID: UID(name), Namespace: "default", Service: name, Ports: []Port{{flow.TCP, 8080}}}
		for b := range 10 {
			e.Addresses = append(e.Addresses, numbered(podBase, i*10+b))
		}
		s.SetEndpoints(e)
	}
	return s
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkResolve(b *testing.B) {
	before := heap()
	s := large()
	after := heap()
	for name, q := range map[string]*Query{
		"pod":       {Addr: numbered(podBase, 54321), Port: 8080},
		"service":   {Addr: numbered(serviceBase, 777), Port: 80},
		"node":      {Addr: numbered(nodeBase, 999), Port: 22},
		"container": {ContainerID: fmt.Sprintf("%064x", 5)},
		"outside":   {Addr: addr("203.0.113.1"), Port: 443},
	} {
		q.Protocol, q.First, q.Last = flow.TCP, at(10), at(11)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var end End
			for b.Loop() {
				s.Resolve(q, &end)
			}
			b.ReportMetric(float64(after-before)/(1<<20), "MiB-store")
		})
	}
	runtime.KeepAlive(s)
}

func TestResolveAllocatesNothing(t *testing.T) {
	s := NewStore(grace)
	s.SetNode(node("a"))
	s.SetPod(pod("web", 0))
	s.SetService(service("web"))
	for _, q := range []*Query{seen(podIP, 1, 2), seen(cluster, 1, 2), seen(nodeIP, 1, 2), seen(addr("10.244.1.99"), 1, 2), {ContainerID: "container-web"}} {
		var end End
		require.Zero(t, testing.AllocsPerRun(100, func() { s.Resolve(q, &end) }))
		require.True(t, end.InCluster)
	}
}
