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
	"k8s.io/utils/ptr"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/inventory"
)

var start = metav1.NewTime(time.Unix(1_700_000_000, 0))

func later(seconds int) metav1.Time {
	return metav1.NewTime(start.Add(time.Duration(seconds) * time.Second))
}

func addrs(text ...string) []netip.Addr {
	var out []netip.Addr
	for _, t := range text {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

func testPod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			UID: "pod-uid", Namespace: "shop", Name: "web-5f6d-x", CreationTimestamp: start, ResourceVersion: "1",
			Labels: map[string]string{"app": "web", "tier": "front"}, Annotations: map[string]string{"team": "a"},
			OwnerReferences: []metav1.OwnerReference{
				{Kind: "Other", Name: "no controller", UID: "other"},
				{Kind: "ReplicaSet", Name: "web-5f6d", UID: "rs-uid", Controller: ptr.To(true)},
			},
		},
		Spec: corev1.PodSpec{
			NodeName: "node-a",
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
				{ContainerPort: 8080, Protocol: corev1.ProtocolTCP}, {ContainerPort: 53, HostPort: 5353, Protocol: corev1.ProtocolUDP},
			}}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, StartTime: ptr.To(later(1)), PodIP: "10.244.1.7",
			PodIPs:     []corev1.PodIP{{IP: "10.244.1.7"}, {IP: "fd00::7"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue, LastTransitionTime: later(3)}},
			ContainerStatuses: []corev1.ContainerStatus{
				{ContainerID: "containerd://abc", LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "containerd://old"}}},
				{ContainerID: ""}, // not started yet
			},
			InitContainerStatuses: []corev1.ContainerStatus{{ContainerID: "cri-o://init"}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func TestConvertPod(t *testing.T) {
	c := &converter{labels: []string{"tier", "app", "missing"}, annotations: []string{"team"}}
	require.Equal(t, &inventory.Pod{
		UID: "pod-uid", Namespace: "shop", Name: "web-5f6d-x", Node: "node-a",
		Controller:   inventory.Workload{Kind: "ReplicaSet", Name: "web-5f6d", UID: "rs-uid"},
		Addresses:    addrs("10.244.1.7", "fd00::7"),
		ContainerIDs: []string{"init", "abc", "old"},
		HostPorts:    []inventory.Port{{Protocol: flow.UDP, Port: 5353}},
		Labels:       []inventory.KeyValue{{Key: "k8s.pod.label.tier", Value: "front"}, {Key: "k8s.pod.label.app", Value: "web"}},
		Annotations:  []inventory.KeyValue{{Key: "k8s.pod.annotation.team", Value: "a"}},
		From:         later(3).Time,
	}, c.pod(testPod()))
}

func TestConvertPodOfTheHostsNetwork(t *testing.T) {
	p := (&converter{}).pod(testPod(func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
	require.True(t, p.HostNetwork)
	require.Equal(t, []inventory.Port{{Protocol: flow.TCP, Port: 8080}, {Protocol: flow.UDP, Port: 53}}, p.HostPorts)
}

func TestConvertPodTimes(t *testing.T) {
	c := &converter{}
	old := testPod(func(p *corev1.Pod) { p.Status.Conditions = nil })
	require.Equal(t, later(1).Time, c.pod(old).From, "a kubelet that does not tell of the network")
	waiting := testPod(func(p *corev1.Pod) { p.Status = corev1.PodStatus{} })
	require.Equal(t, start.Time, c.pod(waiting).From)
	require.Empty(t, c.pod(waiting).Addresses)
	ended := testPod(func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodSucceeded
		p.Status.ContainerStatuses[0].State.Terminated = &corev1.ContainerStateTerminated{FinishedAt: later(60)}
	})
	require.Equal(t, later(60).Time, c.pod(ended).Until)
	sidecar := testPod(func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodSucceeded
		p.Status.ContainerStatuses[0].State.Terminated = &corev1.ContainerStateTerminated{FinishedAt: later(60)}
		p.Status.InitContainerStatuses[0].State.Terminated = &corev1.ContainerStateTerminated{FinishedAt: later(65)}
	})
	require.Equal(t, later(65).Time, c.pod(sidecar).Until)
	lost := testPod(func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodFailed
		p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: later(90)})
	})
	require.Equal(t, later(90).Time, c.pod(lost).Until, "its node is gone")
	never := testPod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	require.Equal(t, later(3).Time, c.pod(never).Until, "nothing of it ran")
}

func TestConvertNode(t *testing.T) {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			UID: "node-uid", Name: "node-a", Labels: map[string]string{corev1.LabelTopologyZone: "zone-1"},
			Annotations: map[string]string{
				"flannel.alpha.coreos.com/backend-type": "vxlan", "flannel.alpha.coreos.com/public-ip": "192.168.0.1",
				"flannel.alpha.coreos.com/backend-data": `{"VNI":1,"VtepMAC":"5a:29:11:02:03:04"}`,
			},
		},
		Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/24", PodCIDRs: []string{"10.244.1.0/24", "fd00:1::/64"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: "node-a"}, {Type: corev1.NodeInternalIP, Address: "192.168.0.1"}, {Type: corev1.NodeExternalIP, Address: "203.0.113.1"},
		}, Conditions: []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}, {Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
	got, err := convertNode(n)
	require.NoError(t, err)
	require.Equal(t, "vxlan", got.Flannel.Backend)
	require.EqualValues(t, 1, got.Flannel.V4.VNI)
	got.Flannel = nil
	require.Equal(t, &inventory.Node{
		UID: "node-uid", Name: "node-a", Zone: "zone-1", Ready: true, Addresses: addrs("192.168.0.1", "203.0.113.1"),
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:1::/64")},
	}, got)
	n.Annotations["flannel.alpha.coreos.com/public-ip"] = "?"
	_, err = convertNode(n)
	require.ErrorContains(t, err, "annotation flannel.alpha.coreos.com/public-ip")
	n.Spec.PodCIDRs = nil
	n.Status.Conditions[1].Status = corev1.ConditionUnknown
	got, _ = convertNode(n)
	require.False(t, got.Ready, "its kubelet says nothing")
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, got.PodCIDRs)
}

func TestConvertService(t *testing.T) {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{UID: "svc-uid", Namespace: "shop", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10", "fd00::10"}, ExternalIPs: []string{"198.51.100.1"},
			Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080, Protocol: corev1.ProtocolTCP}, {Port: 53, Protocol: corev1.ProtocolUDP}, {Port: 99999}, {Port: 7, Protocol: "DCCP"}},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "203.0.113.5"}, {Hostname: "lb.example"}}}},
	}
	require.Equal(t, &inventory.Service{
		UID: "svc-uid", Namespace: "shop", Name: "web", Type: "LoadBalancer",
		Addresses: addrs("10.96.0.10", "fd00::10", "198.51.100.1", "203.0.113.5"),
		Ports: []inventory.ServicePort{
			{Port: inventory.Port{Protocol: flow.TCP, Port: 80}, NodePort: 30080}, {Port: inventory.Port{Protocol: flow.UDP, Port: 53}},
		},
	}, convertService(s))
	s.Spec = corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}
	s.Status = corev1.ServiceStatus{}
	headless := convertService(s)
	require.True(t, headless.Headless)
	require.Empty(t, headless.Addresses)
}

func TestConvertEndpoints(t *testing.T) {
	e := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{UID: "slice-uid", Namespace: "shop", Name: "web-abc", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.7"}}, {Addresses: []string{"10.244.2.8"}}},
		Ports: []discoveryv1.EndpointPort{
			{Port: ptr.To[int32](8080)}, {Port: ptr.To[int32](53), Protocol: ptr.To(corev1.ProtocolUDP)}, {}, // all ports: cannot be told apart
		},
	}
	require.Equal(t, &inventory.Endpoints{
		UID: "slice-uid", Namespace: "shop", Service: "web", Addresses: addrs("10.244.1.7", "10.244.2.8"),
		Ports: []inventory.Port{{Protocol: flow.TCP, Port: 8080}, {Protocol: flow.UDP, Port: 53}},
	}, convertEndpoints(e))
}

// Whatever the API's objects hold, converting ends, and what it gives is well formed.
func FuzzConvertPod(f *testing.F) {
	f.Add("uid", "name", "10.244.1.7", "fd00::7", "containerd://abc", "TCP", int32(80), int64(1700000000), true)
	f.Add("", "", "::ffff:1.2.3.4", "%eth0", "://", "", int32(-1), int64(-1), false)
	f.Fuzz(func(t *testing.T, uid, name, ip, ip2, container, protocol string, port int32, seconds int64, host bool) {
		p := testPod(func(p *corev1.Pod) {
			p.Name, p.Spec.HostNetwork = name, host
			p.Status.PodIPs = []corev1.PodIP{{IP: ip}, {IP: ip2}}
			p.Status.ContainerStatuses[0].ContainerID = container
			p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(time.Unix(seconds, 0))
			p.Spec.Containers[0].Ports[0] = corev1.ContainerPort{Protocol: corev1.Protocol(protocol), ContainerPort: port, HostPort: port}
		})
		got := (&converter{labels: []string{name}}).pod(p)
		for _, a := range got.Addresses {
			require.True(t, a.IsValid())
			require.False(t, a.Is4In6())
		}
		for _, id := range got.ContainerIDs {
			require.NotEmpty(t, id)
		}
		for _, port := range got.HostPorts {
			require.NotZero(t, port.Port)
		}
		s := inventory.NewStore(time.Minute)
		s.SetPod(got)
		s.DeletePod(got.UID, time.Now())
		s.Expire(time.Now().Add(2 * time.Minute))
	})
}
