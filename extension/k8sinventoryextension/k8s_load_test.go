// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build k8s

package k8sinventoryextension

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// fixedNodes are those that stay, and have pods. There are others that come and go.
var fixedNodes = map[string]string{"fixed-0": "192.168.0.1", "fixed-1": "192.168.0.2", "fixed-2": "192.168.0.3"}

const (
	loadTime    = 30 * time.Second
	comingNodes = 47
	barePods    = 400
	services    = 100
	deployments = 25
	replicas    = 6
	cronJobs    = 10
)

// churn changes a cluster without a pause, by several goroutines.
type churn struct {
	t      *testing.T
	client kubernetes.Interface

	mu      sync.Mutex
	free    map[string][]string // addresses by node, the last freed first
	has     map[types.UID]string
	changes int
}

// expected says whether an error is one of those that come of others changing the same.
func expected(err error) bool {
	return err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err)
}

func (l *churn) did(err error) {
	l.mu.Lock()
	l.changes++
	l.mu.Unlock()
	if !expected(err) {
		l.t.Errorf("change the cluster: %v", err)
	}
}

// kubelets do what a scheduler and the kubelets of the fixed nodes do: bind pods, give
// them addresses, which are used again at once, let jobs end, and take away what is to go.
func (l *churn) kubelets(ctx context.Context) *sync.WaitGroup {
	w, err := l.client.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{ResourceVersion: "0"})
	require.NoError(l.t, err)
	var running sync.WaitGroup
	work := make(chan watch.Event, 10_000)
	running.Go(func() {
		defer close(work)
		defer w.Stop()
		for event := range w.ResultChan() {
			work <- event
		}
	})
	for range 4 {
		running.Go(func() {
			for event := range work {
				l.kubelet(event)
			}
		})
	}
	return &running
}

func (l *churn) kubelet(event watch.Event) {
	p, ok := event.Object.(*corev1.Pod)
	if !ok {
		return // the watch has been ended
	}
	pods, ctx := l.client.CoreV1().Pods(p.Namespace), context.Background()
	switch {
	case event.Type == watch.Deleted:
		l.release(p)
	case p.DeletionTimestamp != nil:
		l.did(pods.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &p.UID}}))
	case p.Spec.NodeName == "":
		node := fmt.Sprint("fixed-", rand.IntN(len(fixedNodes)))
		l.did(pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name, UID: p.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{}))
	case p.Status.PodIP == "":
		running(p, l.address(p))
		_, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{})
		l.did(err)
	case p.Labels[batchv1.JobNameLabel] != "" && p.Status.Phase == corev1.PodRunning:
		now := metav1.Now()
		p.Status.Phase, p.Status.Conditions = corev1.PodSucceeded, nil
		p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: now}}
		_, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{})
		l.did(err)
	}
}

// address gives a pod one that is free.
func (l *churn) address(p *corev1.Pod) string {
	if p.Spec.HostNetwork {
		return fixedNodes[p.Spec.NodeName]
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if addr, ok := l.has[p.UID]; ok {
		return addr // it has been told of twice
	}
	free := l.free[p.Spec.NodeName]
	addr := free[len(free)-1]
	l.free[p.Spec.NodeName], l.has[p.UID] = free[:len(free)-1], addr
	return addr
}

func (l *churn) release(p *corev1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if addr, ok := l.has[p.UID]; ok {
		delete(l.has, p.UID)
		l.free[p.Spec.NodeName] = append(l.free[p.Spec.NodeName], addr)
	}
}

// podsComeAndGo is for one of several goroutines, which have pods each.
func (l *churn) podsComeAndGo(ctx context.Context, worker, workers int) {
	pods := l.client.CoreV1().Pods("default")
	exists := map[int]bool{}
	for i := worker; ctx.Err() == nil; i += workers {
		n := i % barePods
		name := fmt.Sprint("pod-", n)
		if !exists[n] {
			_, err := pods.Create(context.Background(), loadPod(name, n, i), metav1.CreateOptions{})
			l.did(err)
			exists[n] = true
			continue
		}
		switch rand.IntN(3) {
		case 0:
			l.did(pods.Delete(context.Background(), name, *metav1.NewDeleteOptions(0)))
			exists[n] = false
			i -= workers // and made anew at once
		case 1:
			_, err := pods.Patch(context.Background(), name, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"round":"%d"}}}`, i), metav1.PatchOptions{})
			l.did(err)
		}
	}
}

// loadPod is one of a few kinds: in the host's network, with a port of its node, else
// behind a service.
func loadPod(name string, n, round int) *corev1.Pod {
	p := barePod(name, fmt.Sprint("fixed-", n%len(fixedNodes)))
	p.Labels = map[string]string{}
	port := corev1.ContainerPort{ContainerPort: int32(20_000 + round%10_000), Protocol: corev1.ProtocolTCP}
	switch n % 5 {
	case 0:
		p.Spec.HostNetwork = true
		port.HostPort = port.ContainerPort
	case 1:
		port.HostPort = port.ContainerPort
		port.ContainerPort = 8080
	default:
		p.Labels["app"] = fmt.Sprint(n % services)
	}
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{port}
	return p
}

func (l *churn) nodesComeAndGo(ctx context.Context) {
	nodes := l.client.CoreV1().Nodes()
	exists := make([]bool, comingNodes)
	for round := 0; ctx.Err() == nil; round++ {
		n := rand.IntN(comingNodes)
		name := fmt.Sprint("node-", n)
		if !exists[n] {
			_, err := nodes.Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
				"flannel.alpha.coreos.com/backend-type": "vxlan", "flannel.alpha.coreos.com/public-ip": fmt.Sprint("198.51.100.", n+1),
				"flannel.alpha.coreos.com/backend-data": `{"VNI":1,"VtepMAC":"5a:29:11:02:03:04"}`,
			}}}, metav1.CreateOptions{})
			l.did(err)
			exists[n] = true
		} else if round%4 == 0 {
			l.did(nodes.Delete(context.Background(), name, metav1.DeleteOptions{}))
			exists[n] = false
			continue
		}
		_, err := nodes.PatchStatus(context.Background(), name, fmt.Appendf(nil,
			`{"status":{"addresses":[{"type":"InternalIP","address":"192.168.%d.%d"},{"type":"Hostname","address":%q}]}}`, 1+round%2, n+1, name))
		l.did(err)
		pause(ctx, 20*time.Millisecond)
	}
}

// pause lets others work.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// servicesComeAndGo is for one of several goroutines, which have services each.
func (l *churn) servicesComeAndGo(ctx context.Context, worker, workers int) {
	all := l.client.CoreV1().Services("default")
	exists := map[int]bool{}
	for i := worker; ctx.Err() == nil; i += workers {
		n := i % services
		name := fmt.Sprint("service-", n)
		switch {
		case !exists[n]:
			svc, err := all.Create(context.Background(), loadService(name, n), metav1.CreateOptions{})
			l.did(err)
			exists[n] = true
			if err == nil && svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
				// some share the address
				svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprint("203.0.113.", 1+n/10)}}
				_, err = all.UpdateStatus(context.Background(), svc, metav1.UpdateOptions{})
				l.did(err)
			}
		case rand.IntN(3) == 0:
			l.did(all.Delete(context.Background(), name, metav1.DeleteOptions{}))
			exists[n] = false
		default:
			// of all of them, or the node ports that are kept would be those of others
			_, err := all.Patch(context.Background(), name, types.JSONPatchType, fmt.Appendf(nil,
				`[{"op":"replace","path":"/spec/ports/0/port","value":%d}]`, 1000+100*n+rand.IntN(3)), metav1.PatchOptions{})
			l.did(err)
		}
		pause(ctx, 5*time.Millisecond)
	}
}

func loadService(name string, n int) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": fmt.Sprint(n)},
			Ports: []corev1.ServicePort{
				{Name: "a", Port: int32(1000 + 100*n), TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP},
				{Name: "b", Port: int32(1050 + 100*n), TargetPort: intstr.FromInt32(8053), Protocol: corev1.ProtocolUDP},
			},
		},
	}
	switch n % 6 {
	case 0:
		svc.Spec.Type = corev1.ServiceTypeNodePort
	case 1:
		svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	case 2:
		svc.Spec.ExternalIPs = []string{fmt.Sprint("203.0.113.", 100+n/10), fixedNodes["fixed-0"]}
	case 3, 4:
		svc.Spec.ClusterIP = corev1.ClusterIPNone
	}
	return svc
}

func podTemplate(labels map[string]string, round int) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{Spec: barePod("", "").Spec}
	t.Labels, t.Annotations = labels, map[string]string{"round": fmt.Sprint(round)}
	return t
}

// deploymentsComeAndGo has the controller manager make ReplicaSets and pods.
func (l *churn) deploymentsComeAndGo(ctx context.Context) {
	all := l.client.AppsV1().Deployments("default")
	exists := make([]bool, deployments)
	for round := 0; ctx.Err() == nil; round++ {
		n := round % deployments
		name := fmt.Sprint("deployment-", n)
		labels := map[string]string{"app": fmt.Sprint(n), "of": name}
		switch {
		case !exists[n]:
			_, err := all.Create(context.Background(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
				Replicas: ptr.To[int32](replicas), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: podTemplate(labels, round),
			}}, metav1.CreateOptions{})
			l.did(err)
			exists[n] = true
		case round%3 == 0: // ReplicaSets and pods go with it
			l.did(all.Delete(context.Background(), name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}))
			exists[n] = false
		default: // a new ReplicaSet
			_, err := all.Patch(context.Background(), name, types.MergePatchType,
				fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{"round":"%d"}}}}}`, round), metav1.PatchOptions{})
			l.did(err)
		}
		pause(ctx, 150*time.Millisecond)
	}
}

// jobsComeAndGo makes Jobs of CronJobs, of which the controller manager makes pods.
func (l *churn) jobsComeAndGo(ctx context.Context) {
	background := context.Background()
	var made []*batchv1.CronJob
	for n := range cronJobs {
		c, err := l.client.BatchV1().CronJobs("default").Create(background, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("cron-", n)}, Spec: batchv1.CronJobSpec{
			Schedule: "0 0 1 1 *", Suspend: ptr.To(true), JobTemplate: batchv1.JobTemplateSpec{Spec: jobSpec(0)},
		}}, metav1.CreateOptions{})
		if err != nil {
			l.t.Errorf("make a CronJob: %v", err)
			return
		}
		made = append(made, c)
	}
	jobs := l.client.BatchV1().Jobs("default")
	for round := 0; ctx.Err() == nil; round++ {
		c := made[round%cronJobs]
		_, err := jobs.Create(background, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-%d", c.Name, round), OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(c, batchv1.SchemeGroupVersion.WithKind("CronJob"))},
		}, Spec: jobSpec(round)}, metav1.CreateOptions{})
		l.did(err)
		if old := round - 2*cronJobs; old >= 0 {
			l.did(jobs.Delete(background, fmt.Sprintf("%s-%d", c.Name, old), metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}))
		}
		pause(ctx, 100*time.Millisecond)
	}
}

func jobSpec(round int) batchv1.JobSpec {
	spec := batchv1.JobSpec{Template: podTemplate(nil, round)}
	spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	return spec
}

// asked is a question with the answer that there was.
type asked struct {
	question
	answer   string
	from, to time.Time
}

// inquire asks what has been said of last, and of old, until the context ends.
func inquire(ctx context.Context, e *k8sInventory, tr *truth) []asked {
	var out []asked
	for ctx.Err() == nil {
		tr.mu.Lock()
		var some []question
		for range min(20, len(tr.order)) {
			some = append(some, tr.order[rand.IntN(len(tr.order))])
		}
		tr.mu.Unlock()
		for _, q := range some {
			a := asked{question: q, from: time.Now()}
			a.answer, a.to = answer(e, q), time.Now()
			out = append(out, a)
		}
		pause(ctx, 5*time.Millisecond)
	}
	return out
}

// While a cluster changes without a pause, each answer is one that was true just now;
// and when it has come to rest, the only one.
func TestAnswersUnderLoad(t *testing.T) {
	r := newReal(t)
	r.grant(t, role(t))
	l := &churn{t: t, client: r.client, free: map[string][]string{}, has: map[types.UID]string{}}
	for i := range len(fixedNodes) {
		name := fmt.Sprint("fixed-", i)
		r.createNode(t, name, fixedNodes[name], fmt.Sprintf("10.244.%d.0/24", i))
		for host := 250; host >= 2; host-- {
			l.free[name] = append(l.free[name], fmt.Sprintf("10.244.%d.%d", i, host))
		}
	}
	e := r.follow(t, func(cfg *Config) { cfg.Grace = 10 * time.Minute })
	watching, stopWatching := context.WithCancel(context.Background())
	tr := newTruth()
	watchers := tr.watchAll(watching, t, r.client)
	kubelets := l.kubelets(watching)
	defer func() {
		stopWatching()
		watchers.Wait()
		kubelets.Wait()
	}()
	eventually(t, "all to be read", e.Ready)

	answers := l.run(e, tr)
	time.Sleep(2 * lag) // until all that belongs to the last answers has been told
	l.judge(tr, answers)
	l.judgeRest(e, tr, r.client)
}

// run makes the load, and gives what was asked meanwhile.
func (l *churn) run(e *k8sInventory, tr *truth) []asked {
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	var running sync.WaitGroup
	for worker := range 3 {
		running.Go(func() { l.podsComeAndGo(ctx, worker, 3) })
	}
	for worker := range 2 {
		running.Go(func() { l.servicesComeAndGo(ctx, worker, 2) })
	}
	running.Go(func() { l.nodesComeAndGo(ctx) })
	running.Go(func() { l.deploymentsComeAndGo(ctx) })
	running.Go(func() { l.jobsComeAndGo(ctx) })
	answers := make([][]asked, 2)
	for i := range answers {
		running.Go(func() { answers[i] = inquire(ctx, e, tr) })
	}
	running.Wait()
	return slices.Concat(answers...)
}

// judge compares what was answered with what was true at the time.
func (l *churn) judge(tr *truth, answers []asked) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	known, wrong := map[string]int{}, 0
	for _, a := range answers {
		if a.answer != "" {
			known[a.kind]++
		}
		if err := tr.judge(a.question, a.answer, a.from, a.to); err != nil {
			if wrong++; wrong <= 10 {
				l.t.Errorf("an answer was not true: %v", err)
			}
		}
	}
	l.mu.Lock()
	changes := l.changes // the kubelets go on
	l.mu.Unlock()
	l.t.Logf("%d changes, %d questions of %d, of which answered: %v", changes, len(answers), len(tr.order), known)
	require.Zero(l.t, wrong, "of %d answers", len(answers))
	for _, kind := range []string{askPod, askContainer, askWorkload, askService, askAnyPort, askHeadless, askPort, askNode, askCIDR, askTunnel} {
		require.NotZero(l.t, known[kind], kind)
	}
}

// judgeRest compares all that can be asked with what the API lists, once that does not
// change any more.
func (l *churn) judgeRest(e *k8sInventory, tr *truth, client kubernetes.Interface) {
	var wrong []error
	var list *truth
	ok := func() bool {
		list, wrong = listAll(l.t, client), nil
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, q := range slices.Concat(tr.order, list.order) {
			now := list
			if q.kind == askContainer || q.kind == askWorkload {
				now = tr // has those that are gone, too
			}
			later := time.Now().Add(2 * lag) // whatever is true is so by then
			if err := now.judge(q, answer(e, q), later, later); err != nil {
				wrong = append(wrong, err)
			}
		}
		return len(wrong) == 0
	}
	deadline := time.Now().Add(time.Minute)
	for !ok() && time.Now().Before(deadline) {
		time.Sleep(time.Second)
	}
	require.Empty(l.t, wrong, "at rest")
	l.t.Logf("at rest: %d facts of %d pods, %d objects that manage some", len(list.order), len(list.pods), len(list.owners))
	require.Greater(l.t, len(list.pods), 200)
}
