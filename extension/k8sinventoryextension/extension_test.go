// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	fakemetadata "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/inventory"
)

const patience = 20 * time.Second

// cluster is an API that keeps what tests put into it, or without clients a real one.
type cluster struct {
	typed    *fake.Clientset
	metadata *fakemetadata.FakeMetadataClient
	logs     *observer.ObservedLogs
	tt       *componenttest.Telemetry
	// before is done with the extension before it starts; nil for nothing.
	before func(*k8sInventory)
}

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	scheme := runtime.NewScheme()
	require.NoError(t, metav1.AddMetaToScheme(scheme))
	return &cluster{typed: fake.NewClientset(objects...), metadata: fakemetadata.NewSimpleMetadataClient(scheme)}
}

// start gives an extension that reads the cluster.
func (c *cluster) start(t *testing.T, change ...func(*Config)) *k8sInventory {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	for _, f := range change {
		f(cfg)
	}
	c.tt = componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, c.tt.Shutdown(context.Background())) })
	set := c.tt.NewTelemetrySettings()
	core, logs := observer.New(zapcore.InfoLevel)
	set.Logger, c.logs = zap.New(core), logs
	e, err := newInventory(set, cfg)
	require.NoError(t, err)
	if c.typed != nil {
		e.connect = func() (clients, error) { return clients{c.typed, c.metadata}, nil }
	}
	if c.before != nil {
		c.before(e)
	}
	require.NoError(t, e.Start(context.Background(), componenttest.NewNopHost()))
	t.Cleanup(func() { require.NoError(t, e.Shutdown(context.Background())) })
	return e
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond, what)
}

func ask(e *k8sInventory, addr string, port uint16) inventory.End {
	var end inventory.End
	e.Resolve(&inventory.Query{Addr: netip.MustParseAddr(addr), Port: port, Protocol: flow.TCP, First: time.Now(), Last: time.Now()}, &end)
	return end
}

func podIs(e *k8sInventory, name string) func() bool {
	return func() bool {
		p := ask(e, "10.244.1.7", 8080).Pod
		return p != nil && p.Name == name
	}
}

func TestWhatIsThereIsRead(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", UID: "n"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24"}}}
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.10", Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
	c := newCluster(t, testPod(), node, svc)
	e := c.start(t)
	eventually(t, "all to be read", e.Ready)
	end := ask(e, "10.244.1.7", 8080)
	require.Equal(t, "web-5f6d-x", end.Pod.Name)
	require.Equal(t, "node-a", end.Node.Name)
	require.Equal(t, inventory.Workload{Kind: "ReplicaSet", Name: "web-5f6d", UID: "rs-uid"}, end.Workload)
	require.Equal(t, "web", ask(e, "10.96.0.10", 80).Service.Name)
	require.Len(t, c.logs.FilterMessage("Read what the cluster has").All(), 1)
	require.Equal(t, map[string]int64{"pods": 1, "nodes": 1, "services": 1, "endpointslices": 0, "owners": 0}, c.gauge(t, "otelcol_extension.k8s.inventory.objects"))
	for resource, synced := range c.gauge(t, "otelcol_extension.k8s.inventory.synced") {
		require.EqualValues(t, 1, synced, resource)
	}
}

// gauge gives a metric of the extension's own by resource.
func (c *cluster) gauge(t *testing.T, name string) map[string]int64 {
	t.Helper()
	m, err := c.tt.GetMetric(name)
	require.NoError(t, err)
	out := map[string]int64{}
	for _, dp := range m.Data.(metricdata.Gauge[int64]).DataPoints {
		resource, _ := dp.Attributes.Value("resource")
		out[resource.AsString()] = dp.Value
	}
	return out
}

func TestChangesAreFollowed(t *testing.T) {
	c := newCluster(t)
	e := c.start(t)
	eventually(t, "all to be read", e.Ready)
	pods := c.typed.CoreV1().Pods("shop")
	_, err := pods.Create(context.Background(), testPod(), metav1.CreateOptions{})
	require.NoError(t, err)
	eventually(t, "the pod", podIs(e, "web-5f6d-x"))

	moved := testPod(func(p *corev1.Pod) { p.Status.PodIPs, p.ResourceVersion = []corev1.PodIP{{IP: "10.244.1.9"}}, "2" })
	_, err = pods.Update(context.Background(), moved, metav1.UpdateOptions{})
	require.NoError(t, err)
	eventually(t, "its new address", func() bool { return ask(e, "10.244.1.9", 8080).Pod != nil })
	require.Nil(t, ask(e, "10.244.1.7", 8080).Pod)

	require.NoError(t, pods.Delete(context.Background(), moved.Name, metav1.DeleteOptions{}))
	eventually(t, "it to be gone", func() bool {
		var end inventory.End
		later := time.Now().Add(3 * time.Second)
		e.Resolve(&inventory.Query{Addr: netip.MustParseAddr("10.244.1.9"), First: later, Last: later}, &end)
		return end.Pod == nil
	})
	var end inventory.End
	before := time.Now().Add(-10 * time.Second)
	e.Resolve(&inventory.Query{Addr: netip.MustParseAddr("10.244.1.9"), First: before, Last: before}, &end)
	require.NotNil(t, end.Pod, "for what it sent before")
}

// A pod of the same name that is another one.
func TestPodThatIsMadeAnew(t *testing.T) {
	c := newCluster(t, testPod())
	e := c.start(t)
	eventually(t, "all to be read", e.Ready)
	second := testPod(func(p *corev1.Pod) {
		p.UID, p.ResourceVersion, p.Status.PodIPs = "second", "2", []corev1.PodIP{{IP: "10.244.1.8"}}
	})
	_, err := c.typed.CoreV1().Pods("shop").Update(context.Background(), second, metav1.UpdateOptions{})
	require.NoError(t, err)
	eventually(t, "the second", func() bool { return ask(e, "10.244.1.8", 1).Pod != nil })
	later := time.Now().Add(3 * time.Second)
	var end inventory.End
	e.Resolve(&inventory.Query{Addr: netip.MustParseAddr("10.244.1.7"), First: later, Last: later}, &end)
	require.Nil(t, end.Pod, "the first is gone")
}

func TestOwnersOfOwners(t *testing.T) {
	c := newCluster(t, testPod())
	replicaSet := &metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-5f6d", UID: "rs-uid",
			OwnerReferences: []metav1.OwnerReference{{Kind: "Deployment", Name: "web", UID: "d-uid", Controller: ptr.To(true)}},
		},
	}
	require.NoError(t, c.metadata.Tracker().Create(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}, replicaSet, "shop"))
	e := c.start(t)
	eventually(t, "all to be read", e.Ready)
	require.Equal(t, inventory.Workload{Kind: "Deployment", Name: "web", UID: "d-uid"}, ask(e, "10.244.1.7", 1).Workload)
}

// What may not be read is one warning, and the rest works.
func TestResourceThatIsDenied(t *testing.T) {
	c := newCluster(t, testPod())
	denied := apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "", errors.New("as a test says"))
	deny := func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, denied }
	c.typed.PrependReactor("list", "services", deny)
	c.typed.PrependWatchReactor("services", clienttesting.DefaultWatchReactor(nil, denied))
	e := c.start(t)
	eventually(t, "all else to be read", e.Ready)
	require.True(t, podIs(e, "web-5f6d-x")())
	warnings := c.logs.FilterLevelExact(zapcore.WarnLevel).All()
	require.Len(t, warnings, 1)
	require.Equal(t, "services", warnings[0].ContextMap()["resource"])
	require.Contains(t, warnings[0].Message, "grant list and watch")
	require.Zero(t, c.gauge(t, "otelcol_extension.k8s.inventory.synced")["services"])
}

// Without an API there is nothing known, and with one there is.
func TestAPIThatComesLater(t *testing.T) {
	c := newCluster(t, testPod())
	away := make(chan struct{})
	gone := errors.New("nobody there")
	c.typed.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		select {
		case <-away:
			return false, nil, nil
		default:
			return true, nil, gone
		}
	})
	e := c.start(t)
	eventually(t, "a warning", func() bool { return c.logs.FilterMessageSnippet("cannot be read; trying again").Len() >= 4 })
	require.False(t, e.Ready())
	require.Equal(t, inventory.End{}, ask(e, "10.244.1.7", 1))
	close(away)
	eventually(t, "all to be read", e.Ready)
	require.True(t, podIs(e, "web-5f6d-x")())
	require.Equal(t, 4, c.logs.FilterMessageSnippet("cannot be read; trying again").Len(), "once for each resource")
}

func TestPodsOfOneNode(t *testing.T) {
	c := newCluster(t)
	var asked []string
	c.typed.PrependReactor("list", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		asked = append(asked, a.(clienttesting.ListAction).GetListRestrictions().Fields.String())
		return false, nil, nil
	})
	e := c.start(t, func(cfg *Config) { cfg.Scope, cfg.Node = scopeNode, "node-a" })
	eventually(t, "all to be read", e.Ready)
	require.Equal(t, []string{"spec.nodeName=node-a"}, asked)
}

func TestStartThatCannotBe(t *testing.T) {
	start := func(change func(*Config)) error {
		cfg := createDefaultConfig().(*Config)
		change(cfg)
		e, err := newInventory(componenttest.NewNopTelemetrySettings(), cfg)
		require.NoError(t, err)
		defer func() { require.NoError(t, e.Shutdown(context.Background())) }()
		return e.Start(context.Background(), componenttest.NewNopHost())
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	require.ErrorContains(t, start(func(*Config) {}), "outside of a pod name a file in the option kubeconfig")
	require.ErrorContains(t, start(func(cfg *Config) { cfg.Kubeconfig = "testdata/none" }), "testdata/none")
	require.ErrorContains(t, start(func(cfg *Config) { cfg.Kubeconfig, cfg.Context = "testdata/nowhere.kubeconfig", "none" }), "none")
	require.NoError(t, start(func(cfg *Config) { cfg.Kubeconfig, cfg.Context = "testdata/nowhere.kubeconfig", "elsewhere" }))
}

// An API that is away after it has been read is told of, and that it is back.
func TestOutageIsTold(t *testing.T) {
	c := newCluster(t, testPod())
	back := make(chan struct{})
	refused := fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
	c.typed.PrependWatchReactor("pods", func(clienttesting.Action) (bool, watch.Interface, error) {
		select {
		case <-back:
			return false, nil, nil
		default:
			return true, nil, refused
		}
	})
	e := c.start(t)
	eventually(t, "all to be read", e.Ready)
	eventually(t, "several tries", func() bool { return c.sum(t, "otelcol_extension.k8s.inventory.watch.errors") >= 2 })
	warnings := c.logs.FilterLevelExact(zapcore.WarnLevel).All()
	require.Len(t, warnings, 1)
	require.Equal(t, "pods", warnings[0].ContextMap()["resource"])
	require.True(t, podIs(e, "web-5f6d-x")())
	close(back)
	eventually(t, "it to be back", func() bool { return c.logs.FilterMessageSnippet("can be read now").Len() == 1 })
}

// sum gives a counter of the extension's own.
func (c *cluster) sum(t *testing.T, name string) int64 {
	t.Helper()
	m, err := c.tt.GetMetric(name)
	if err != nil {
		return 0 // nothing has been counted
	}
	var out int64
	for _, dp := range m.Data.(metricdata.Sum[int64]).DataPoints {
		out += dp.Value
	}
	return out
}

// An API that has just started denies all, until it knows who may do what.
func TestDenialThatIsOverSoon(t *testing.T) {
	c := newCluster(t, testPod())
	var once sync.Once
	c.typed.PrependReactor("list", "pods", func(clienttesting.Action) (handled bool, _ runtime.Object, err error) {
		once.Do(func() {
			handled, err = true, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("not yet"))
		})
		return handled, nil, err
	})
	e := c.start(t)
	eventually(t, "all to be read", e.Ready)
	require.True(t, podIs(e, "web-5f6d-x")(), "ready is when all is known")
	require.Empty(t, c.logs.FilterLevelExact(zapcore.WarnLevel).All())
}
