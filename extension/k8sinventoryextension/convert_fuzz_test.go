// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netprobe-otel/netprobe/internal/inventory"
)

func requireAddresses(t *testing.T, all []netip.Addr) {
	t.Helper()
	for _, a := range all {
		require.True(t, a.IsValid())
		require.False(t, a.Is4In6())
	}
}

// Whatever a node's object holds, what is made of it is well formed, and is forgotten whole.
func FuzzConvertNode(f *testing.F) {
	f.Add("n1", "192.0.2.1", "fd00::1", "10.244.1.0/24", "fd00:1::/64", "zone", "vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`, "192.0.2.1")
	f.Add("", "::ffff:1.2.3.4", "%1", "10.244.1.9/0", "::ffff:1.2.3.0/120", "", "", "null", "nowhere")
	f.Fuzz(func(t *testing.T, name, ip, ip2, cidr, cidr2, zone, backend, data, public string) {
		n := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone},
				Annotations: map[string]string{
					"flannel.alpha.coreos.com/backend-type": backend, "flannel.alpha.coreos.com/backend-data": data,
					"flannel.alpha.coreos.com/backend-v6-data": data, "flannel.alpha.coreos.com/public-ip": public, "flannel.alpha.coreos.com/public-ipv6": public,
				},
			},
			Spec: corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr, cidr2}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: ip}, {Type: corev1.NodeExternalIP, Address: ip2}, {Type: corev1.NodeHostName, Address: name},
			}},
		}
		got, _ := convertNode(n) // an error is of annotations, and what there is else is there
		requireAddresses(t, got.Addresses)
		for _, prefix := range got.PodCIDRs {
			require.True(t, prefix.IsValid())
			require.Equal(t, prefix.Masked(), prefix)
		}
		s := inventory.NewStore(time.Minute)
		s.SetNode(got)
		var end inventory.End
		for _, a := range got.Addresses {
			require.True(t, s.Resolve(&inventory.Query{Addr: a}, &end))
			require.Equal(t, name, end.Node.Name)
		}
		s.DeleteNode(name)
		for _, a := range got.Addresses {
			require.False(t, s.Resolve(&inventory.Query{Addr: a}, &end))
			require.Nil(t, s.NodeByTunnelEnd(a))
		}
	})
}

// The same of services, and of their backends.
func FuzzConvertService(f *testing.F) {
	f.Add("shop", "web", "10.96.0.1", "fd00:ff::1", "203.0.113.1", "198.51.100.1", "TCP", int32(80), int32(30080), "10.244.1.2")
	f.Add("", "", "None", "", "%", "::ffff:1.2.3.4", "ICMP", int32(-1), int32(70000), "x")
	f.Fuzz(func(t *testing.T, namespace, name, ip, ip2, external, balancer, protocol string, port, nodePort int32, backend string) {
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: corev1.ServiceSpec{
				ClusterIP: ip, ClusterIPs: []string{ip, ip2}, ExternalIPs: []string{external},
				Ports: []corev1.ServicePort{{Protocol: corev1.Protocol(protocol), Port: port, NodePort: nodePort}},
			},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: balancer}}}},
		}
		got := convertService(svc)
		requireAddresses(t, got.Addresses)
		for _, p := range got.Ports {
			require.NotZero(t, p.Port.Port)
			require.NotZero(t, p.Protocol)
		}
		endpoints := convertEndpoints(&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{UID: "u", Namespace: namespace, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{backend, ip}}},
			Ports:      []discoveryv1.EndpointPort{{Port: &port, Protocol: (*corev1.Protocol)(&protocol)}, {}},
		})
		requireAddresses(t, endpoints.Addresses)
		s := inventory.NewStore(time.Minute)
		s.SetService(got)
		s.SetEndpoints(endpoints)
		var end inventory.End
		for _, a := range got.Addresses {
			require.True(t, s.Resolve(&inventory.Query{Addr: a}, &end))
			require.Equal(t, name, end.Service.Name)
		}
		s.DeleteService(namespace, name)
		s.DeleteEndpoints("u")
		for _, a := range append(got.Addresses, endpoints.Addresses...) {
			require.False(t, s.Resolve(&inventory.Query{Addr: a}, &end))
		}
	})
}

// Owners that a pod names are taken as they are, and the one that manages it counts.
func FuzzConvertOwner(f *testing.F) {
	f.Add("ReplicaSet", "web-abc", true, "Deployment", "web")
	f.Add("", "", false, "", "")
	f.Fuzz(func(t *testing.T, kind, name string, controls bool, topKind, top string) {
		p := testPod(func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "Other", Name: "x"}, {Kind: kind, Name: name, UID: "rs", Controller: &controls}}
		})
		got := (&converter{}).pod(p)
		if !controls {
			require.Empty(t, got.Controller)
			return
		}
		require.Equal(t, inventory.Workload{Kind: kind, Name: name, UID: "rs"}, got.Controller)
		s := inventory.NewStore(time.Minute)
		s.SetPod(got)
		if topKind == "" {
			return // the owner is the workload itself
		}
		s.SetOwner("rs", inventory.Workload{Kind: topKind, Name: top})
		var end inventory.End
		require.True(t, s.Resolve(&inventory.Query{Addr: got.Addresses[0], First: got.From, Last: got.From.Add(time.Second)}, &end))
		require.Equal(t, top, end.Workload.Name)
		s.DeleteOwner("rs") // which its pods outlive
		require.True(t, s.Resolve(&inventory.Query{Addr: got.Addresses[0], First: got.From, Last: got.From.Add(time.Second)}, &end))
		require.Equal(t, top, end.Workload.Name)
	})
}
