// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	clientmetadata "k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// owners are what stands between pods and those whose workload they are.
var owners = []schema.GroupVersionResource{
	{Group: "apps", Version: "v1", Resource: "replicasets"},
	{Group: "batch", Version: "v1", Resource: "jobs"},
}

// clients of the API.
type clients struct {
	typed    kubernetes.Interface
	metadata clientmetadata.Interface
}

func newClients(cfg *rest.Config) (clients, error) {
	binary := rest.CopyConfig(cfg)
	binary.ContentType = runtime.ContentTypeProtobuf
	binary.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	var c clients
	var errs [2]error
	c.typed, errs[0] = kubernetes.NewForConfig(binary)
	c.metadata, errs[1] = clientmetadata.NewForConfig(cfg)
	if err := errors.Join(errs[:]...); err != nil {
		return clients{}, fmt.Errorf("make a client of the Kubernetes API: %w", err)
	}
	return c, nil
}

// followAll makes an informer of each resource.
func (e *k8sInventory) followAll(c clients) ([]*resource, error) {
	all := []func() (*resource, error){
		func() (*resource, error) { return e.followPods(c.typed) },
		func() (*resource, error) { return e.followNodes(c.typed) },
		func() (*resource, error) { return e.followServices(c.typed) },
		func() (*resource, error) { return e.followEndpoints(c.typed) },
	}
	for _, kind := range owners {
		all = append(all, func() (*resource, error) { return e.followOwners(c.metadata, kind) })
	}
	var resources []*resource
	var errs []error
	for _, f := range all {
		r, err := f()
		resources, errs = append(resources, r), append(errs, err)
	}
	return resources, errors.Join(errs...)
}

// nodes is the name of that resource.
const nodes = "nodes"

// everything has all fields.
var everything = fields.Everything().String()

// lister is what clients of all kinds have.
type lister[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// listWatcher reads the objects that have the fields, and tells the resource how that
// goes. It asks the client whether it can list by watching, which is how an API server
// need not build whole lists.
func listWatcher[L runtime.Object](r *resource, client any, objects lister[L], fields string) cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = fields
			list, err := objects.List(ctx, o)
			r.listed(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = fields
			w, err := objects.Watch(ctx, o)
			r.watched(ctx, o, err)
			return w, err
		},
	}, client)
}

// newResource gives one that is not followed yet.
func (e *k8sInventory) newResource(name string) *resource {
	option := metric.WithAttributeSet(attribute.NewSet(attribute.String("resource", name)))
	return &resource{
		name: name, logger: e.logger.With(zap.String("resource", name)),
		count:   func() { e.own.ExtensionK8sInventoryWatchErrors.Add(context.Background(), 1, option) },
		failing: map[verb]failure{},
	}
}

func (e *k8sInventory) followPods(client kubernetes.Interface) (*resource, error) {
	selector := everything
	if e.cfg.Scope == scopeNode {
		selector = fields.OneTermEqualSelector("spec.nodeName", e.cfg.Node).String()
	}
	c := &converter{labels: e.cfg.Labels, annotations: e.cfg.Annotations}
	r := e.newResource("pods")
	return follow(r, listWatcher(r, client, client.CoreV1().Pods(metav1.NamespaceAll), selector), &corev1.Pod{}, c.pod, e.store.SetPod, func(old *object[*inventory.Pod]) { e.store.DeletePod(old.value.UID, time.Now()) })
}

func (e *k8sInventory) followNodes(client kubernetes.Interface) (*resource, error) {
	r := e.newResource(nodes)
	return follow(r, listWatcher(r, client, client.CoreV1().Nodes(), everything), &corev1.Node{}, e.convertNode, e.setNode, func(old *object[*inventory.Node]) {
		e.store.DeleteNode(old.Name)
		e.host.nodeGone(old.Name)
	})
}

func (e *k8sInventory) setNode(n *inventory.Node) {
	e.store.SetNode(n)
	e.host.nodeSet(n)
}

// convertNode says what of a node's annotations cannot be read.
func (e *k8sInventory) convertNode(n *corev1.Node) *inventory.Node {
	node, err := convertNode(n)
	if err != nil {
		e.logger.Warn("Cannot read all that flannel says of a node", zap.String("node", n.Name), zap.Error(err))
	}
	return node
}

func (e *k8sInventory) followServices(client kubernetes.Interface) (*resource, error) {
	r := e.newResource("services")
	return follow(r, listWatcher(r, client, client.CoreV1().Services(metav1.NamespaceAll), everything), &corev1.Service{}, convertService, e.store.SetService, func(old *object[*inventory.Service]) { e.store.DeleteService(old.Namespace, old.Name) })
}

func (e *k8sInventory) followEndpoints(client kubernetes.Interface) (*resource, error) {
	r := e.newResource("endpointslices")
	return follow(r, listWatcher(r, client, client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll), everything), &discoveryv1.EndpointSlice{}, convertEndpoints, e.store.SetEndpoints, func(old *object[*inventory.Endpoints]) { e.store.DeleteEndpoints(old.value.UID) })
}

// followOwners follows the metadata of a kind whose objects have owners of their own.
func (e *k8sInventory) followOwners(client clientmetadata.Interface, kind schema.GroupVersionResource) (*resource, error) {
	r := e.newResource(kind.Resource)
	return follow(r, listWatcher(r, client, client.Resource(kind), everything), &metav1.PartialObjectMetadata{}, convertOwner, e.setOwner, func(old *object[owned]) { e.store.DeleteOwner(old.value.uid) })
}

// owned is an object with what manages it.
type owned struct {
	uid   inventory.UID
	owner inventory.Workload
}

func convertOwner(m *metav1.PartialObjectMetadata) owned {
	return owned{uid: inventory.UID(intern(string(m.UID))), owner: controllerOf(m.OwnerReferences)}
}

func (e *k8sInventory) setOwner(o owned) {
	e.store.SetOwner(o.uid, o.owner)
}
