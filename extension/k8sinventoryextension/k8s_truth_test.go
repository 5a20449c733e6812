// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build k8s

package k8sinventoryextension

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// lag is how far what one watch tells may be from what another one does, and an answer
// from what is true: a second is what a pod's end is not told more exactly than.
const lag = 3 * time.Second

// question is what can be asked of the extension, with one answer at a time.
type question struct {
	kind string // which part of the answer counts
	addr netip.Addr
	port uint16
	// protocol that the port is of
	protocol flow.Protocol
	id       string // of a container
}

// fact is what an object of the API says to a question.
type fact struct {
	question
	answer string
}

// Kinds of questions.
const (
	askPod       = "pod at an address"
	askContainer = "pod of a container"
	askWorkload  = "workload of a pod"
	askService   = "service at an address and a port"
	askAnyPort   = "service at an address"
	askHeadless  = "headless service of a backend"
	askPort      = "who has a node's port"
	askNode      = "node at an address"
	askCIDR      = "node whose pods' network it is"
	askTunnel    = "node whose tunnels end there"
)

// truth is what the API says and said. It is put together from watches of its own, and
// in another way than the inventory: from each object what it says to each question.
type truth struct {
	mu    sync.Mutex
	of    map[string][]fact // by object
	said  map[question][]period
	order []question // all that there were

	// Joined to say what manages a pod. An object that manages pods stays known.
	owners map[string]string      // by UID
	pods   map[string]*corev1.Pod // by UID
	// Joined to say what is behind headless services.
	slices map[string][]fact // by slice
	sliced map[string]string // the service of a slice
	heads  map[string]bool   // headless services
}

// period is from when on which answers were true.
type period struct {
	from    time.Time
	answers []string // one for each object that says so
}

func newTruth() *truth {
	return &truth{
		of: map[string][]fact{}, said: map[question][]period{}, owners: map[string]string{}, pods: map[string]*corev1.Pod{},
		slices: map[string][]fact{}, sliced: map[string]string{}, heads: map[string]bool{},
	}
}

// set takes what an object says from now on.
func (tr *truth) set(object string, facts []fact, now time.Time) {
	old := tr.of[object]
	if len(facts) == 0 {
		delete(tr.of, object)
	} else {
		tr.of[object] = facts
	}
	changed := map[question]bool{}
	for _, f := range slices.Concat(old, facts) {
		if slices.Contains(old, f) != slices.Contains(facts, f) {
			changed[f.question] = true
		}
	}
	for q := range changed {
		answers := slices.Clone(tr.now(q))
		for _, f := range old {
			if f.question == q {
				at := slices.Index(answers, f.answer)
				answers = slices.Delete(answers, at, at+1)
			}
		}
		for _, f := range facts {
			if f.question == q {
				answers = append(answers, f.answer)
			}
		}
		if tr.said[q] == nil {
			tr.order = append(tr.order, q)
		}
		tr.said[q] = append(tr.said[q], period{now, answers})
	}
}

// now gives the answers that are true.
func (tr *truth) now(q question) []string {
	said := tr.said[q]
	if len(said) == 0 {
		return nil
	}
	return said[len(said)-1].answers
}

// judge says what is wrong with an answer that was given between two times.
func (tr *truth) judge(q question, answer string, from, to time.Time) error {
	from, to = from.Add(-lag), to.Add(lag)
	var allowed []string
	nobody := true // before all that was said
	for i, p := range tr.said[q] {
		if p.from.After(to) {
			break
		}
		if i+1 < len(tr.said[q]) && !tr.said[q][i+1].from.After(from) {
			continue // was over
		}
		if !p.from.After(from) {
			nobody = false
		}
		if one(p.answers) {
			allowed = append(allowed, p.answers...)
		} else {
			nobody = true // or several, which is as good
		}
	}
	if answer == "" && nobody || slices.Contains(allowed, answer) {
		return nil
	}
	if q.kind == askService && nobody { // any port of who has the address alone
		return tr.judge(question{kind: askAnyPort, addr: q.addr}, answer, from.Add(lag), to.Add(-lag))
	}
	if answer == "" && q.kind == askHeadless { // slices name pods that are gone for a while
		return tr.judge(question{kind: askPod, addr: q.addr}, answer, from.Add(lag), to.Add(-lag))
	}
	return fmt.Errorf("%s %s port %d %s: %q; true was one of %q", q.kind, q.addr, q.port, q.id, answer, allowed)
}

// one says whether there is exactly one answer, whoever gives it.
func one(answers []string) bool {
	return len(slices.Compact(slices.Sorted(slices.Values(answers)))) == 1
}

// take takes an object as the API tells it.
func (tr *truth) take(got runtime.Object, gone bool) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	now := time.Now()
	switch o := got.(type) {
	case *corev1.Pod:
		tr.takePod(o, gone, now)
	case *corev1.Node:
		if gone {
			tr.set("node/"+o.Name, nil, now)
			return
		}
		tr.set("node/"+o.Name, nodeFacts(o), now)
	case *corev1.Service:
		tr.takeService(o, gone, now)
	case *discoveryv1.EndpointSlice:
		tr.takeSlice(o, gone, now)
	case metav1.Object:
		tr.takeOwner(o, now)
	}
}

func addrOf(text string) netip.Addr {
	a, _ := netip.ParseAddr(text)
	return a
}

func (tr *truth) takePod(p *corev1.Pod, gone bool, now time.Time) {
	key := "pod/" + string(p.UID)
	if gone {
		delete(tr.pods, string(p.UID))
		// whom a container's ID and a workload are of, is so for good
		tr.set(key, slices.DeleteFunc(slices.Clone(tr.of[key]), func(f fact) bool { return f.kind != askContainer && f.kind != askWorkload }), now)
		return
	}
	tr.pods[string(p.UID)] = p
	name := fmt.Sprintf("%s/%s %s on %q", p.Namespace, p.Name, p.UID, p.Spec.NodeName)
	var facts []fact
	for _, s := range p.Status.ContainerStatuses {
		if _, id, ok := strings.Cut(s.ContainerID, "://"); ok {
			facts = append(facts, fact{question{kind: askContainer, id: id}, name}, fact{question{kind: askWorkload, id: id}, tr.workload(p)})
		}
	}
	if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
		facts = append(facts, podFacts(p, name)...)
	}
	tr.set(key, facts, now)
}

// podFacts are those of a pod that runs.
func podFacts(p *corev1.Pod, name string) []fact {
	var facts []fact
	if !p.Spec.HostNetwork {
		for _, ip := range p.Status.PodIPs {
			facts = append(facts, fact{question{kind: askPod, addr: addrOf(ip.IP)}, name})
		}
	}
	node, fixed := fixedNodes[p.Spec.NodeName]
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.HostPort != 0 && fixed { // the API sets it to the port in the host's network
				facts = append(facts, fact{question{kind: askPort, addr: addrOf(node), port: uint16(port.HostPort), protocol: protocols[port.Protocol]}, "pod " + name})
			}
		}
	}
	return facts
}

func (tr *truth) workload(p *corev1.Pod) string {
	c := metav1.GetControllerOf(p)
	if c == nil {
		return "none"
	}
	if owner, ok := tr.owners[string(c.UID)]; ok {
		return owner
	}
	return workloadName(c)
}

func workloadName(o *metav1.OwnerReference) string {
	return fmt.Sprintf("%s %s %s", o.Kind, o.Name, o.UID)
}

func (tr *truth) takeOwner(o metav1.Object, now time.Time) {
	c := metav1.GetControllerOf(o)
	if c == nil {
		return
	}
	tr.owners[string(o.GetUID())] = workloadName(c)
	for _, p := range tr.pods {
		if of := metav1.GetControllerOf(p); of != nil && of.UID == o.GetUID() {
			tr.takePod(p, false, now)
		}
	}
}

func nodeFacts(n *corev1.Node) []fact {
	var facts []fact
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			facts = append(facts, fact{question{kind: askNode, addr: addrOf(a.Address)}, n.Name})
		}
	}
	if ip, ok := n.Annotations["flannel.alpha.coreos.com/public-ip"]; ok {
		facts = append(facts, fact{question{kind: askTunnel, addr: addrOf(ip)}, n.Name})
	}
	for _, cidr := range n.Spec.PodCIDRs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			facts = append(facts, fact{question{kind: askCIDR, addr: prefix.Addr()}, n.Name}) // which no pod gets
		}
	}
	return facts
}

func (tr *truth) takeService(s *corev1.Service, gone bool, now time.Time) {
	name := s.Namespace + "/" + s.Name
	tr.heads[name] = !gone && s.Spec.ClusterIP == corev1.ClusterIPNone
	if gone {
		tr.set("service/"+name, nil, now)
	} else {
		tr.set("service/"+name, serviceFacts(s), now)
	}
	tr.setBackends(name, now)
}

func serviceFacts(s *corev1.Service) []fact {
	ips := slices.Concat(s.Spec.ClusterIPs, s.Spec.ExternalIPs)
	for _, ingress := range s.Status.LoadBalancer.Ingress {
		ips = append(ips, ingress.IP)
	}
	var facts []fact
	answer := fmt.Sprintf("service %s/%s %s", s.Namespace, s.Name, s.UID)
	for _, p := range s.Spec.Ports {
		for _, ip := range ips {
			if addr := addrOf(ip); addr.IsValid() {
				facts = append(facts, fact{question{kind: askService, addr: addr, port: uint16(p.Port), protocol: protocols[p.Protocol]}, answer})
			}
		}
		for _, node := range fixedNodes {
			if p.NodePort != 0 {
				facts = append(facts, fact{question{kind: askPort, addr: addrOf(node), port: uint16(p.NodePort), protocol: protocols[p.Protocol]}, answer})
			}
		}
	}
	for _, ip := range ips {
		if addr := addrOf(ip); addr.IsValid() && !isFixed(ip) {
			facts = append(facts, fact{question{kind: askAnyPort, addr: addr}, answer})
		}
	}
	return facts
}

func isFixed(ip string) bool {
	for _, node := range fixedNodes {
		if node == ip {
			return true
		}
	}
	return false
}

func (tr *truth) takeSlice(e *discoveryv1.EndpointSlice, gone bool, now time.Time) {
	name := e.Namespace + "/" + e.Labels[discoveryv1.LabelServiceName]
	var facts []fact
	for _, endpoint := range e.Endpoints {
		for _, p := range e.Ports {
			for _, ip := range endpoint.Addresses {
				if !gone {
					facts = append(facts, fact{question{kind: askHeadless, addr: addrOf(ip), port: uint16(*p.Port), protocol: protocols[*p.Protocol]}, name})
				}
			}
		}
	}
	key := "slice/" + string(e.UID)
	tr.sliced[key] = name
	tr.slices[key] = facts
	tr.setBackends(name, now)
}

// setBackends says what pods are reached by their own addresses for. Who shares them with
// a service that is not headless is no business of this test's: none do.
func (tr *truth) setBackends(service string, now time.Time) {
	var facts []fact
	for key, of := range tr.sliced {
		if of != service || !tr.heads[service] {
			continue
		}
		for _, f := range tr.slices[key] {
			if !slices.Contains(facts, f) {
				facts = append(facts, f)
			}
		}
	}
	tr.set("backends/"+service, facts, now)
}

// watchAll has the truth follow the API until the context ends.
func (tr *truth) watchAll(ctx context.Context, t *testing.T, client kubernetes.Interface) *sync.WaitGroup {
	t.Helper()
	var running sync.WaitGroup
	// what there is already comes first, in any order
	all := metav1.ListOptions{ResourceVersion: "0"}
	for _, f := range []func(context.Context, metav1.ListOptions) (watch.Interface, error){
		client.CoreV1().Pods("").Watch, client.CoreV1().Nodes().Watch, client.CoreV1().Services("").Watch,
		client.DiscoveryV1().EndpointSlices("").Watch, client.AppsV1().ReplicaSets("").Watch, client.BatchV1().Jobs("").Watch,
	} {
		w, err := f(ctx, all)
		require.NoError(t, err)
		running.Go(func() {
			defer w.Stop()
			for event := range w.ResultChan() {
				tr.take(event.Object, event.Type == watch.Deleted)
			}
			if ctx.Err() == nil {
				t.Error("a watch of the test's own has ended, and it knows nothing any more")
			}
		})
	}
	return &running
}

// listAll gives what the API says now.
func listAll(t *testing.T, client kubernetes.Interface) *truth {
	t.Helper()
	ctx, all, tr := context.Background(), metav1.ListOptions{}, newTruth()
	sets, errs0 := client.AppsV1().ReplicaSets("").List(ctx, all)
	jobs, errs1 := client.BatchV1().Jobs("").List(ctx, all)
	pods, errs2 := client.CoreV1().Pods("").List(ctx, all)
	nodes, errs3 := client.CoreV1().Nodes().List(ctx, all)
	services, errs4 := client.CoreV1().Services("").List(ctx, all)
	endpoints, errs5 := client.DiscoveryV1().EndpointSlices("").List(ctx, all)
	require.NoError(t, errors.Join(errs0, errs1, errs2, errs3, errs4, errs5))
	for i := range sets.Items {
		tr.take(&sets.Items[i], false)
	}
	for i := range jobs.Items {
		tr.take(&jobs.Items[i], false)
	}
	for i := range pods.Items {
		tr.take(&pods.Items[i], false)
	}
	for i := range nodes.Items {
		tr.take(&nodes.Items[i], false)
	}
	for i := range services.Items {
		tr.take(&services.Items[i], false)
	}
	for i := range endpoints.Items {
		tr.take(&endpoints.Items[i], false)
	}
	return tr
}

// answer asks the extension a question, of packets that are seen now.
func answer(e *k8sInventory, q question) string {
	if q.kind == askTunnel {
		return nodeName(e.NodeByTunnelEnd(q.addr))
	}
	query := inventory.Query{Addr: q.addr, Port: q.port, Protocol: q.protocol, First: time.Now()}
	query.Last = query.First
	if q.kind == askContainer || q.kind == askWorkload {
		query.ContainerID = q.id
	}
	var end inventory.End
	e.Resolve(&query, &end)
	switch q.kind {
	case askPod, askContainer:
		return podAnswer(&end)
	case askWorkload:
		return workloadAnswer(&end)
	case askNode, askCIDR:
		return nodeName(end.Node)
	case askHeadless:
		if end.Service == nil {
			return ""
		}
		return end.Service.Namespace + "/" + end.Service.Name
	case askPort:
		if end.Pod != nil {
			return "pod " + podAnswer(&end)
		}
	}
	if end.Service == nil {
		return ""
	}
	return fmt.Sprintf("service %s/%s %s", end.Service.Namespace, end.Service.Name, end.Service.UID)
}

func nodeName(n *inventory.Node) string {
	if n == nil {
		return ""
	}
	return n.Name
}

func podAnswer(end *inventory.End) string {
	p := end.Pod
	if p == nil {
		return ""
	}
	if _, fixed := fixedNodes[p.Node]; fixed && nodeName(end.Node) != p.Node {
		return "a pod without its node"
	}
	return fmt.Sprintf("%s/%s %s on %q", p.Namespace, p.Name, p.UID, p.Node)
}

func workloadAnswer(end *inventory.End) string {
	switch w := end.Workload; {
	case end.Pod == nil:
		return ""
	case w.Kind == "":
		return "none"
	default:
		return fmt.Sprintf("%s %s %s", w.Kind, w.Name, w.UID)
	}
}
