// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build k8s

package k8sinventoryextension

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/k8stest"
)

const (
	// agent is the user that the extension is.
	agent = "netprobe"
	// comeback is how long it may take to see that the API is there again: client-go
	// tries every 30 to 60 seconds in the end.
	comeback = 90 * time.Second
)

// real is a real control plane, and what tests do there.
type real struct {
	*k8stest.Cluster
	cluster // with the extension
	client  kubernetes.Interface
}

func newReal(t *testing.T) *real {
	t.Helper()
	return join(t, k8stest.Start(t))
}

// join gives a client with all rights.
func join(t *testing.T, c *k8stest.Cluster) *real {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.Admin(t))
	require.NoError(t, err)
	return &real{Cluster: c, client: client}
}

// role is what the extension needs.
func role(t *testing.T) *rbacv1.ClusterRole {
	t.Helper()
	file, err := os.Open("testdata/clusterrole.yaml")
	require.NoError(t, err)
	defer file.Close()
	var out rbacv1.ClusterRole
	require.NoError(t, yaml.NewYAMLOrJSONDecoder(file, 4096).Decode(&out))
	require.NotEmpty(t, out.Rules)
	return &out
}

// grant gives the extension's user a role's rights.
func (r *real) grant(t *testing.T, role *rbacv1.ClusterRole) {
	t.Helper()
	rbac := r.client.RbacV1()
	_, err := rbac.ClusterRoles().Create(context.Background(), role, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = rbac.ClusterRoleBindings().Create(context.Background(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: agent}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// follow starts the extension, as a user with the rights that it needs.
func (r *real) follow(t *testing.T, change ...func(*Config)) *k8sInventory {
	t.Helper()
	kubeconfig := r.Kubeconfig(t, agent)
	return r.start(t, append([]func(*Config){func(cfg *Config) { cfg.Kubeconfig = kubeconfig }}, change...)...)
}

func (r *real) createNode(t *testing.T, name, addr, cidr string) {
	t.Helper()
	_, err := r.client.CoreV1().Nodes().Create(context.Background(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	// a patch, for controllers change nodes at the same time
	_, err = r.client.CoreV1().Nodes().PatchStatus(context.Background(), name, fmt.Appendf(nil, `{"status":{"addresses":[{"type":"InternalIP","address":%q}]}}`, addr))
	require.NoError(t, err)
}

// createPod makes a pod that runs, as a kubelet would.
func (r *real) createPod(t *testing.T, name, node, addr string) *corev1.Pod {
	t.Helper()
	p, err := r.client.CoreV1().Pods("default").Create(context.Background(), barePod(name, node), metav1.CreateOptions{})
	require.NoError(t, err)
	running(p, addr)
	status, err := json.Marshal(map[string]any{"status": p.Status})
	require.NoError(t, err)
	p, err = r.client.CoreV1().Pods("default").Patch(context.Background(), name, types.MergePatchType, status, metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	return p
}

func barePod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "example.com/image"}}},
	}
}

// running gives a pod the status that a kubelet gives one whose network is there.
func running(p *corev1.Pod, addr string) {
	now := metav1.Now()
	p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &now
	p.Status.PodIP, p.Status.PodIPs = addr, []corev1.PodIP{{IP: addr}}
	p.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue, LastTransitionTime: now},
		{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "c", Ready: true, ContainerID: "containerd://" + string(p.UID), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
	}}
}

// deletePod makes a pod go at once.
func (r *real) deletePod(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, r.client.CoreV1().Pods("default").Delete(context.Background(), name, *metav1.NewDeleteOptions(0)))
}

func (r *real) createService(t *testing.T, name string, spec corev1.ServiceSpec) *corev1.Service {
	t.Helper()
	svc, err := r.client.CoreV1().Services("default").Create(context.Background(),
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	require.NoError(t, err)
	return svc
}

// owner of an address at a time, "" for nobody.
func owner(e *k8sInventory, addr string, at time.Time) string {
	var end inventory.End
	e.Resolve(&inventory.Query{Addr: netip.MustParseAddr(addr), Protocol: flow.TCP, First: at, Last: at}, &end)
	if end.Pod == nil {
		return ""
	}
	return end.Pod.Name
}

// within waits longer than eventually.
func within(t *testing.T, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, limit, 20*time.Millisecond, what)
}

func warnings(logs *observer.ObservedLogs) []observer.LoggedEntry {
	return logs.FilterLevelExact(zapcore.WarnLevel).All()
}

// The API server dies; what changes before its watches are there again is not lost.
func TestAPIServerThatIsKilled(t *testing.T) {
	for _, compact := range []bool{false, true} {
		t.Run(fmt.Sprintf("compacted=%t", compact), func(t *testing.T) {
			r := newReal(t)
			r.grant(t, role(t))
			r.createNode(t, "node-a", "192.168.0.1", "10.244.1.0/24")
			for i := range 10 {
				r.createPod(t, fmt.Sprint("stays-", i), "node-a", fmt.Sprint("10.244.1.", 10+i))
				r.createPod(t, fmt.Sprint("goes-", i), "node-a", fmt.Sprint("10.244.1.", 30+i))
			}
			svc := r.createService(t, "web", corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}})
			e := r.follow(t)
			eventually(t, "all to be read", e.Ready)
			resolvesAll(t, e, "stays-", 10)

			r.KillAPIServer()
			if compact {
				r.Compact(t)
				r.KillEtcd()
				r.StartEtcd(t)
			}
			within(t, comeback, "a warning of each resource", func() bool { return len(warnings(r.logs)) == 6 })
			resolvesAll(t, e, "stays-", 10) // while it is away
			require.Equal(t, "web", ask(e, svc.Spec.ClusterIP, 80).Service.Name)
			require.True(t, e.Ready())

			r.StartAPIServer(t)
			for i := range 10 {
				r.deletePod(t, fmt.Sprint("goes-", i))
				r.createPod(t, fmt.Sprint("new-", i), "node-a", fmt.Sprint("10.244.1.", 50+i))
			}
			require.NoError(t, r.client.CoreV1().Services("default").Delete(context.Background(), "web", metav1.DeleteOptions{}))
			r.createNode(t, "node-b", "192.168.0.2", "10.244.2.0/24")
			if compact {
				r.Compact(t)
			}
			within(t, comeback, "what is new", func() bool {
				return owner(e, "10.244.1.59", time.Now()) == "new-9" && ask(e, "192.168.0.2", 0).Node != nil && ask(e, svc.Spec.ClusterIP, 80).Service == nil
			})
			resolvesAll(t, e, "stays-", 10)
			resolvesAll(t, e, "new-", 50)
			for i := range 10 {
				addr := fmt.Sprint("10.244.1.", 30+i)
				eventually(t, "pods that are gone to be gone", func() bool { return owner(e, addr, time.Now()) == "" })
			}
			within(t, comeback, "each resource to be back", func() bool { return r.logs.FilterMessageSnippet("can be read now").Len() == 6 })
			require.Len(t, warnings(r.logs), 6, "one of each resource")
			require.Len(t, r.logs.FilterMessage("Read what the cluster has").All(), 1, "it went on, and did not begin anew")
		})
	}
}

// resolvesAll checks the ten pods of a name, whose addresses follow one another.
func resolvesAll(t *testing.T, e *k8sInventory, name string, first int) {
	t.Helper()
	for i := range 10 {
		require.Equal(t, fmt.Sprint(name, i), owner(e, fmt.Sprint("10.244.1.", first+i), time.Now()))
	}
}

// Nothing is known before there is an API, which refuses all for a moment when it
// comes: then it does not know yet who may do what.
func TestAPIServerThatComesLater(t *testing.T) {
	r := newReal(t)
	r.grant(t, role(t))
	r.createNode(t, "node-a", "192.168.0.1", "10.244.1.0/24")
	r.createPod(t, "web", "node-a", "10.244.1.10")
	r.KillAPIServer()

	e := r.follow(t)
	eventually(t, "a warning of each resource", func() bool { return len(warnings(r.logs)) == 6 })
	require.False(t, e.Ready())
	require.Equal(t, inventory.End{}, ask(e, "10.244.1.10", 1))
	for resource, synced := range r.gauge(t, "otelcol_extension.k8s.inventory.synced") {
		require.Zero(t, synced, resource)
	}

	r.SpawnAPIServer(t)
	within(t, comeback, "all to be read", e.Ready)
	require.Equal(t, "web", owner(e, "10.244.1.10", time.Now()), "ready is when all is known")
	for resource, synced := range r.gauge(t, "otelcol_extension.k8s.inventory.synced") {
		require.EqualValues(t, 1, synced, resource)
	}
	for _, w := range warnings(r.logs) {
		require.Contains(t, w.Message, "cannot be read", "it never was a matter of rights")
	}
}

// What may not be read is one warning, and is read as soon as it may be.
func TestRightsThatAreMissing(t *testing.T) {
	for _, missing := range []string{"services", "endpointslices"} {
		t.Run(missing, func(t *testing.T) {
			r := newReal(t)
			all := role(t)
			some, rest := all.DeepCopy(), all.DeepCopy()
			rest.Name, rest.Rules = "rest", nil
			for i, rule := range all.Rules {
				some.Rules[i].Resources = slices.DeleteFunc(slices.Clone(rule.Resources), func(resource string) bool { return resource == missing })
				if slices.Contains(rule.Resources, missing) {
					rest.Rules = []rbacv1.PolicyRule{{APIGroups: rule.APIGroups, Resources: []string{missing}, Verbs: rule.Verbs}}
				}
			}
			some.Rules = slices.DeleteFunc(some.Rules, func(rule rbacv1.PolicyRule) bool { return len(rule.Resources) == 0 })
			r.grant(t, some)
			r.createNode(t, "node-a", "192.168.0.1", "10.244.1.0/24")
			r.createPod(t, "web", "node-a", "10.244.1.10")
			svc := r.createService(t, "web", corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}})
			e := r.follow(t)
			eventually(t, "all else to be read", e.Ready)
			require.Equal(t, "web", owner(e, "10.244.1.10", time.Now()))
			require.Equal(t, "node-a", ask(e, "192.168.0.1", 0).Node.Name)
			time.Sleep(5 * time.Second) // several tries, which say nothing more
			require.Len(t, warnings(r.logs), 1)
			require.Equal(t, missing, warnings(r.logs)[0].ContextMap()["resource"])
			for resource, synced := range r.gauge(t, "otelcol_extension.k8s.inventory.synced") {
				require.Equal(t, resource != missing, synced == 1, resource)
			}

			r.grant(t, rest)
			within(t, comeback, "the rest to be read", func() bool {
				return r.gauge(t, "otelcol_extension.k8s.inventory.synced")[missing] == 1
			})
			require.Equal(t, "web", ask(e, svc.Spec.ClusterIP, 80).Service.Name)
			require.Len(t, warnings(r.logs), 1)
			require.Len(t, r.logs.FilterMessageSnippet("can be read now").All(), 1)
		})
	}
}

// Each verb is needed: without one of them there is a warning.
func TestRoleIsTheLeast(t *testing.T) {
	r := newReal(t)
	least := role(t)
	for _, rule := range least.Rules {
		require.Equal(t, []string{"list", "watch"}, rule.Verbs)
	}
	for i := range least.Rules {
		least.Rules[i].Verbs = []string{"list"}
	}
	r.grant(t, least)
	r.follow(t)
	eventually(t, "a warning of each resource", func() bool { return len(warnings(r.logs)) == 6 })
	for _, w := range warnings(r.logs) {
		require.Contains(t, w.Message, "grant list and watch")
	}
}

// Of other nodes' pods the nodes are known, and no more.
func TestScopeOfOneNode(t *testing.T) {
	r := newReal(t)
	r.grant(t, role(t))
	r.createNode(t, "node-a", "192.168.0.1", "10.244.1.0/24")
	r.createNode(t, "node-b", "192.168.0.2", "10.244.2.0/24")
	for i := range 10 {
		r.createPod(t, fmt.Sprint("a-", i), "node-a", fmt.Sprint("10.244.1.", 10+i))
		r.createPod(t, fmt.Sprint("b-", i), "node-b", fmt.Sprint("10.244.2.", 10+i))
	}
	e := r.follow(t, func(cfg *Config) { cfg.Scope, cfg.Node = scopeNode, "node-a" })
	eventually(t, "all to be read", e.Ready)
	require.EqualValues(t, 10, r.gauge(t, "otelcol_extension.k8s.inventory.objects")["pods"])
	resolvesAll(t, e, "a-", 10)
	for i := range 10 {
		end := ask(e, fmt.Sprint("10.244.2.", 10+i), 1)
		require.Nil(t, end.Pod)
		require.Equal(t, "node-b", end.Node.Name)
	}
	r.createPod(t, "b-later", "node-b", "10.244.2.99")
	r.createPod(t, "a-later", "node-a", "10.244.1.99")
	eventually(t, "this node's", func() bool { return owner(e, "10.244.1.99", time.Now()) == "a-later" })
	require.EqualValues(t, 11, r.gauge(t, "otelcol_extension.k8s.inventory.objects")["pods"])
	require.Equal(t, "node-b", ask(e, "10.244.2.99", 1).Node.Name)
}

// An address passes from a pod to another one at once, again and again: what one sent
// is never said to be the other's, also when the first is long forgotten.
func TestAddressThatPassesOn(t *testing.T) {
	r := newReal(t)
	r.grant(t, role(t))
	r.createNode(t, "node-a", "192.168.0.1", "10.244.1.0/24")
	e := r.follow(t, func(cfg *Config) { cfg.Grace = 3 * time.Second })
	eventually(t, "all to be read", e.Ready)
	type life struct {
		name     string
		from, to time.Time
	}
	var lives []life
	const addr = "10.244.1.10"
	for i := range 4 {
		l := life{name: fmt.Sprint("web-", i)}
		r.createPod(t, l.name, "node-a", addr)
		l.from = time.Now()
		time.Sleep(3 * time.Second) // the API tells whole seconds
		l.to = time.Now()
		r.deletePod(t, l.name)
		lives = append(lives, l)
	}
	check := func() {
		for _, l := range lives {
			for at := l.from; at.Before(l.to); at = at.Add(100 * time.Millisecond) {
				if got := owner(e, addr, at); got != "" {
					require.Equal(t, l.name, got, "%s after its beginning, %s before its end", at.Sub(l.from), l.to.Sub(at))
				}
			}
		}
	}
	r.createPod(t, "last", "node-a", addr)
	eventually(t, "the last", func() bool { return owner(e, addr, time.Now().Add(3*time.Second)) == "last" })
	check()
	for _, l := range lives {
		// a second after the one before, and a second before the next one
		require.Equal(t, l.name, owner(e, addr, l.from.Add(1500*time.Millisecond)))
	}
	within(t, comeback, "those before to be forgotten", func() bool {
		return r.gauge(t, "otelcol_extension.k8s.inventory.objects")["pods"] == 1
	})
	check()
}
