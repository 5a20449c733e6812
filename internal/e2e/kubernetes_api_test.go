// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// apiAddress is where each node finds the Kubernetes API.
const apiAddress = "127.0.0.1:6443"

// kubeconfig says so.
const kubeconfig = `{apiVersion: v1, kind: Config, current-context: lab, contexts: [{name: lab, context: {cluster: lab}}],
  clusters: [{name: lab, cluster: {server: "http://` + apiAddress + `"}}]}`

// serveAPI answers on each node as an API server would that has these objects, which
// do not change. What a real one does is shown by `make test-k8s`.
func (c *cluster) serveAPI(t *testing.T) {
	t.Helper()
	lists := c.objects()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list, ok := lists[r.URL.Path]
		switch q := r.URL.Query(); {
		case !ok:
			http.NotFound(w, r)
		case q.Get("sendInitialEvents") == "true": // as one that is older than such watches
			answer(w, http.StatusUnprocessableEntity, &metav1.Status{
				TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
				Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
			})
		case q.Has("watch"):
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush() // nothing changes
			<-r.Context().Done()
		default:
			answer(w, http.StatusOK, list)
		}
	})
	for _, n := range c.nodes {
		n.serve(t, apiAddress, handler)
	}
}

func answer(w http.ResponseWriter, code int, object runtime.Object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object) // a client that is gone asks again
}

// workloads are the Deployments that pods a and b are of, on both nodes.
var workloads = [2]string{"client", "web"}

// objects are what the API has, by path.
func (c *cluster) objects() map[string]runtime.Object {
	list := metav1.ListMeta{ResourceVersion: "1"}
	nodes := &corev1.NodeList{TypeMeta: kind("v1", "NodeList"), ListMeta: list}
	pods := &corev1.PodList{TypeMeta: kind("v1", "PodList"), ListMeta: list}
	services := &corev1.ServiceList{TypeMeta: kind("v1", "ServiceList"), ListMeta: list}
	sets := &metav1.PartialObjectMetadataList{TypeMeta: kind("meta.k8s.io/v1", "PartialObjectMetadataList"), ListMeta: list}
	for _, n := range c.nodes {
		nodes.Items = append(nodes.Items, n.object())
		for i := range n.pods {
			pods.Items = append(pods.Items, n.podObject(i))
		}
	}
	for _, name := range workloads {
		sets.Items = append(sets.Items, metav1.PartialObjectMetadata{
			TypeMeta: kind("meta.k8s.io/v1", "PartialObjectMetadata"),
			ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: name + "-abc", UID: types.UID("rs-" + name), OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "apps/v1", Kind: "Deployment", Name: name, UID: types.UID("deployment-" + name), Controller: ptr.To(true)},
			}},
		})
	}
	remote, local := c.services()
	for name, svc := range map[string]service{"remote": remote, "local": local} {
		services.Items = append(services.Items, corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: name, UID: types.UID("service-" + name)},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: svc.addrs.v4.String(), ClusterIPs: []string{svc.addrs.v4.String(), svc.addrs.v6.String()},
				Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: tcpServicePort}, {Protocol: corev1.ProtocolUDP, Port: udpServicePort}},
			},
		})
	}
	return map[string]runtime.Object{
		"/api/v1/nodes": nodes, "/api/v1/pods": pods, "/api/v1/services": services, "/apis/apps/v1/replicasets": sets,
		"/apis/batch/v1/jobs":                      &metav1.PartialObjectMetadataList{TypeMeta: sets.TypeMeta, ListMeta: list},
		"/apis/discovery.k8s.io/v1/endpointslices": &discoveryv1.EndpointSliceList{TypeMeta: kind("discovery.k8s.io/v1", "EndpointSliceList"), ListMeta: list},
	}
}

func kind(version, name string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: version, Kind: name}
}

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

// serve answers at an address of the namespace until the test ends.
func (n *namespace) serve(t *testing.T, address string, handler http.Handler) {
	t.Helper()
	server := &http.Server{Handler: handler}
	listener := n.listen(t, "tcp", address)
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
}
