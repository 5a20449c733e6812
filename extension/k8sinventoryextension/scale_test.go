// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

// As much as the largest cluster that Kubernetes supports
// (https://kubernetes.io/docs/setup/best-practices/cluster-large/), and 10,000 services.
const (
	manyNodes, manyPods, manyServices = 5_000, 100_000, 10_000
	podsOfService                     = manyPods / manyServices
)

func numbered(base uint32, n int) string {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, base+uint32(n)))).String()
}

func nodeOfPod(i int) string { return fmt.Sprintf("node-%d", i%manyNodes) }
func podIP(i int) string     { return numbered(10<<24, i) }

func uid(kind string, i int) types.UID {
	return types.UID(fmt.Sprintf("%s-89ab-cdef-0123-%012d", kind, i))
}

func largePods(node string) *corev1.PodList {
	var list corev1.PodList
	for i := range manyPods {
		if node != "" && nodeOfPod(i) != node {
			continue
		}
		list.Items = append(list.Items, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				UID: uid("aaaaaaaa", i), Namespace: fmt.Sprintf("team-%d", i%100), Name: fmt.Sprintf("web-%d-7d4b9c5f6d-%05d", i/podsOfService, i), ResourceVersion: "1",
				OwnerReferences: []metav1.OwnerReference{{
					Kind: "ReplicaSet", Name: fmt.Sprintf("web-%d-7d4b9c5f6d", i/podsOfService), UID: uid("bbbbbbbb", i/podsOfService), Controller: ptr.To(true),
				}},
			},
			Spec: corev1.PodSpec{NodeName: nodeOfPod(i), Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}}},
			Status: corev1.PodStatus{
				Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: podIP(i)}}, StartTime: ptr.To(metav1.NewTime(time.Unix(1700000000, 0))),
				ContainerStatuses: []corev1.ContainerStatus{{ContainerID: fmt.Sprintf("containerd://%064x", i)}, {ContainerID: fmt.Sprintf("containerd://%064x", manyPods+i)}},
			},
		})
	}
	return &list
}

func largeNodes() *corev1.NodeList {
	var list corev1.NodeList
	for i := range manyNodes {
		list.Items = append(list.Items, corev1.Node{
			ObjectMeta: metav1.ObjectMeta{
				UID: uid("cccccccc", i), Name: fmt.Sprintf("node-%d", i), Labels: map[string]string{corev1.LabelTopologyZone: fmt.Sprint("zone-", i%3)},
				Annotations: map[string]string{
					"flannel.alpha.coreos.com/backend-type": "vxlan", "flannel.alpha.coreos.com/public-ip": numbered(192<<24|168<<16, i),
					"flannel.alpha.coreos.com/backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`,
				},
			},
			Spec:   corev1.NodeSpec{PodCIDRs: []string{numbered(10<<24, i*32) + "/27"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: numbered(192<<24|168<<16, i)}}},
		})
	}
	return &list
}

func largeServices() *corev1.ServiceList {
	var list corev1.ServiceList
	for i := range manyServices {
		list.Items = append(list.Items, corev1.Service{
			ObjectMeta: metav1.ObjectMeta{UID: uid("dddddddd", i), Namespace: fmt.Sprintf("team-%d", i%100), Name: fmt.Sprintf("web-%d", i)},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeNodePort, ClusterIP: numbered(172<<24|16<<16, i), ClusterIPs: []string{numbered(172<<24|16<<16, i)},
				Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80, NodePort: int32(30000 + i%2768)}},
			},
		})
	}
	return &list
}

func largeEndpoints() *discoveryv1.EndpointSliceList {
	var list discoveryv1.EndpointSliceList
	for i := range manyServices {
		slice := discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				UID: uid("eeeeeeee", i), Namespace: fmt.Sprintf("team-%d", i%100), Name: fmt.Sprintf("web-%d-abcde", i),
				Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("web-%d", i)},
			},
			Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
		}
		for b := range podsOfService {
			pod := i*podsOfService + b
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{podIP(pod)}, NodeName: ptr.To(nodeOfPod(pod))})
		}
		list.Items = append(list.Items, slice)
	}
	return &list
}

func largeReplicaSets() *metav1.List {
	var list metav1.List
	for i := range manyServices {
		list.Items = append(list.Items, kruntime.RawExtension{Object: &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			UID: uid("bbbbbbbb", i), Namespace: fmt.Sprintf("team-%d", i%100), Name: fmt.Sprintf("web-%d-7d4b9c5f6d", i),
			OwnerReferences: []metav1.OwnerReference{{Kind: "Deployment", Name: fmt.Sprintf("web-%d", i), Controller: ptr.To(true)}},
		}}})
	}
	return &list
}

func heap() float64 {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// The whole extension, informers included, keeps the largest cluster within its bounds.
func TestMemoryOfALargeCluster(t *testing.T) {
	for _, tt := range []struct {
		name  string
		scope func(*Config)
		node  string
		most  float64 // MiB
		pods  int
	}{
		{"cluster", func(cfg *Config) { cfg.Scope = scopeCluster }, "", 400, manyPods},
		{"node", func(cfg *Config) { cfg.Scope, cfg.Node = scopeNode, "node-7" }, "node-7", 60, manyPods / manyNodes},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			list := func(resource string, give func() kruntime.Object) {
				c.typed.PrependReactor("list", resource, func(clienttesting.Action) (bool, kruntime.Object, error) { return true, give(), nil })
			}
			list("pods", func() kruntime.Object { return largePods(tt.node) })
			list("nodes", func() kruntime.Object { return largeNodes() })
			list("services", func() kruntime.Object { return largeServices() })
			list("endpointslices", func() kruntime.Object { return largeEndpoints() })
			c.metadata.PrependReactor("list", "replicasets", func(clienttesting.Action) (bool, kruntime.Object, error) { return true, largeReplicaSets(), nil })
			before := heap()
			e := c.start(t, tt.scope)
			eventually(t, "all is read", func() bool { return e.Ready() || c.logs.Len() > 0 })
			require.True(t, e.Ready(), "%v", c.logs.All())
			c.typed.ClearActions()
			c.metadata.ClearActions()
			sizes := e.store.Sizes()
			require.Equal(t, []int{tt.pods, manyNodes, manyServices}, []int{sizes.Pods, sizes.Nodes, sizes.Services})
			end := ask(e, podIP(7), 8080)
			require.Equal(t, "web-0", end.Workload.Name)
			used := heap() - before
			t.Logf("%.0f MiB in scope %s: %d nodes, %d pods, %d services", used, tt.name, sizes.Nodes, sizes.Pods, sizes.Services)
			require.Less(t, used, tt.most)
		})
	}
}
