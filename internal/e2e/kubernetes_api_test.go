// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// objects are what the API has, by path.
func (c *cluster) objects(t *testing.T) map[string]collection {
	t.Helper()
	var nodes []corev1.Node
	var pods []corev1.Pod
	var services []corev1.Service
	var sets []metav1.PartialObjectMetadata
	for _, n := range c.nodes {
		nodes = append(nodes, n.object())
		for i := range n.pods {
			pods = append(pods, n.podObject(i))
		}
	}
	for _, name := range workloads {
		sets = append(sets, metav1.PartialObjectMetadata{
			ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: name + "-abc", UID: types.UID("rs-" + name), OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "apps/v1", Kind: "Deployment", Name: name, UID: types.UID("deployment-" + name), Controller: ptr.To(true)},
			}},
		})
	}
	remote, local := c.services()
	for name, svc := range map[string]service{"remote": remote, "local": local} {
		services = append(services, corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: name, UID: types.UID("service-" + name)},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: svc.addrs.v4.String(), ClusterIPs: []string{svc.addrs.v4.String(), svc.addrs.v6.String()},
				Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: tcpServicePort}, {Protocol: corev1.ProtocolUDP, Port: udpServicePort}},
			},
		})
	}
	return map[string]collection{
		"/api/v1/nodes": collectionOf(t, "v1", "Node", nodes), "/api/v1/pods": collectionOf(t, "v1", "Pod", pods),
		"/api/v1/services":                         collectionOf(t, "v1", "Service", services),
		"/apis/apps/v1/replicasets":                collectionOf(t, "meta.k8s.io/v1", "PartialObjectMetadata", sets),
		"/apis/batch/v1/jobs":                      {"meta.k8s.io/v1", "PartialObjectMetadata", nil},
		"/apis/discovery.k8s.io/v1/endpointslices": {"discovery.k8s.io/v1", "EndpointSlice", nil},
	}
}

// collectionOf is what a path has of a kind.
func collectionOf[T any](t *testing.T, version, kind string, items []T) collection {
	t.Helper()
	c := collection{apiVersion: version, kind: kind}
	for i := range items {
		text, err := json.Marshal(items[i])
		require.NoError(t, err)
		var item object
		require.NoError(t, json.Unmarshal(text, &item))
		item["apiVersion"], item["kind"] = version, kind
		c.items = append(c.items, item)
	}
	return c
}

// workloads are the Deployments that pods a and b are of, on both nodes.
var workloads = [2]string{"client", "web"}

func (n *node) object() corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.k8sName(), UID: types.UID(n.k8sName())},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{n.podNetwork(ipv4).String(), n.podNetwork(ipv6).String()}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: n.host.addrs.v4.String()}, {Type: corev1.NodeInternalIP, Address: n.host.addrs.v6.String()},
		}},
	}
}

func (n *node) k8sName() string { return fmt.Sprintf("node%d", n.number) }

func (n *node) podObject(i int) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "lab", Name: fmt.Sprintf("%s-%d", workloads[i], n.number), UID: types.UID(fmt.Sprintf("pod-%d-%d", n.number, i)),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: workloads[i] + "-abc", UID: types.UID("rs-" + workloads[i]), Controller: ptr.To(true),
			}},
		},
		Spec: corev1.PodSpec{NodeName: n.k8sName()},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{
			{IP: n.pods[i].addrs.v4.String()}, {IP: n.pods[i].addrs.v6.String()},
		}},
	}
}
