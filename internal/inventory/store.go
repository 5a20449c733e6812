// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Store has what was heard of a cluster. It implements Resolver.
type Store struct {
	// grace is for how long a pod that is gone stays known.
	grace time.Duration

	ready atomic.Bool

	mu   sync.RWMutex // guards all that follows
	pods map[UID]*Pod
	// byAddr has the pods that have, or had, an address of their own.
	byAddr      map[netip.Addr][]holding
	byContainer map[string]*Pod
	// byHostPort has the pods that have, or had, a port of a node.
	byHostPort map[hostPort][]holding
	gone       []*Pod // in the order of Until

	owners map[UID]ownership
	// managed counts the pods by the object that manages them.
	managed map[UID]int

	nodes      map[string]*Node
	nodeByAddr holders[netip.Addr, Node]
	tunnelEnds holders[netip.Addr, Node]
	podCIDRs   prefixes

	services  map[serviceName]*Service
	frontends holders[frontend, Service]
	anyPort   holders[netip.Addr, Service] // a service's address, whatever the port
	nodePorts holders[Port, Service]

	slices map[UID]*Endpoints
	// backends has a service once for each slice that names the backend.
	backends map[backend][]serviceName
}

// ownership is what manages an object that manages pods.
type ownership struct {
	Workload
	gone bool // the object is, and some of its pods are still known
}

type hostPort struct {
	node string
	port Port
}

type serviceName struct{ namespace, name string }

type frontend struct {
	addr netip.Addr
	port Port
}

type backend = frontend

// NewStore gives an empty one. Pods that are gone stay known for grace, and for as long
// as the next one with their address could be taken for the one that had it.
func NewStore(grace time.Duration) *Store {
	return &Store{
		grace: max(grace, fromSlack),
		pods:  map[UID]*Pod{}, byAddr: map[netip.Addr][]holding{}, byContainer: map[string]*Pod{}, byHostPort: map[hostPort][]holding{},
		owners: map[UID]ownership{}, managed: map[UID]int{},
		nodes: map[string]*Node{}, nodeByAddr: holders[netip.Addr, Node]{}, tunnelEnds: holders[netip.Addr, Node]{},
		podCIDRs: prefixes{byPrefix: holders[netip.Prefix, Node]{}},
		services: map[serviceName]*Service{}, frontends: holders[frontend, Service]{}, anyPort: holders[netip.Addr, Service]{}, nodePorts: holders[Port, Service]{},
		slices: map[UID]*Endpoints{}, backends: map[backend][]serviceName{},
	}
}

// SetReady says that all that there is has been told once.
func (s *Store) SetReady(ready bool) { s.ready.Store(ready) }

// Ready implements Resolver.
func (s *Store) Ready() bool { return s.ready.Load() }

// SetPod takes a pod, or what has become of it. One whose Until is set has its
// addresses no more.
func (s *Store) SetPod(p *Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.pods[p.UID]; ok && len(old.Addresses) > 0 {
		if len(p.Addresses) == 0 {
			// A pod that has ended loses its addresses in the API: it had them until then.
			kept := *p
			kept.Addresses = old.Addresses
			p = &kept
		}
		s.keepFormer(old, p)
	}
	s.putPod(p)
	if !p.Until.IsZero() {
		s.expireLater(p)
	}
}

// keepFormer keeps for the grace time that a pod had other addresses, before its network
// was made anew: its node has started again.
func (s *Store) keepFormer(old, now *Pod) {
	if old.HostNetwork || !slices.ContainsFunc(old.Addresses, func(a netip.Addr) bool { return !slices.Contains(now.Addresses, a) }) {
		return
	}
	former := *old
	if former.Until.IsZero() {
		former.Until = now.From
	}
	former.Addresses = slices.DeleteFunc(slices.Clone(old.Addresses), func(a netip.Addr) bool { return slices.Contains(now.Addresses, a) })
	for _, addr := range former.Addresses {
		hold(s.byAddr, addr, &former, old)
	}
	s.expireLater(&former)
}

// DeletePod takes that a pod is gone since a time. It stays known for the grace time.
func (s *Store) DeletePod(uid UID, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.pods[uid]
	if !ok {
		return
	}
	p := *old
	if p.Until.IsZero() {
		p.Until = at
	}
	s.putPod(&p)
	s.expireLater(&p)
}

// putPod puts a pod into the place of what it was before.
func (s *Store) putPod(p *Pod) {
	old := s.pods[p.UID]
	s.pods[p.UID] = p
	s.indexPod(p, old)
	if old != nil {
		s.unindexPod(old)
	}
}

// expireLater notes that a pod is to be forgotten.
func (s *Store) expireLater(p *Pod) {
	at, _ := slices.BinarySearchFunc(s.gone, p.Until, func(have *Pod, until time.Time) int { return have.Until.Compare(until) })
	s.gone = slices.Insert(s.gone, at, p)
}

// Expire forgets the pods whose grace time is over.
func (s *Store) Expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	over := 0
	for ; over < len(s.gone) && now.Sub(s.gone[over].Until) > s.grace; over++ {
		p := s.gone[over]
		if s.pods[p.UID] == p { // and not what has become of it since
			s.unindexPod(p)
			delete(s.pods, p.UID)
			continue
		}
		s.releaseAddrs(p) // those that it had before
	}
	s.gone = slices.Delete(s.gone, 0, over)
}

func (s *Store) indexPod(p, old *Pod) {
	if p.Controller.UID != "" {
		s.managed[p.Controller.UID]++
	}
	for _, id := range p.ContainerIDs {
		s.byContainer[id] = p
	}
	for _, port := range p.HostPorts {
		hold(s.byHostPort, hostPort{p.Node, port}, p, old)
	}
	if p.HostNetwork {
		return
	}
	for _, addr := range p.Addresses {
		hold(s.byAddr, addr, p, old)
	}
}

// unindexPod forgets a pod where nothing has come into its place.
func (s *Store) unindexPod(p *Pod) {
	s.unmanage(p.Controller.UID)
	for _, id := range p.ContainerIDs {
		if s.byContainer[id] == p {
			delete(s.byContainer, id)
		}
	}
	for _, port := range p.HostPorts {
		release(s.byHostPort, hostPort{p.Node, port}, p)
	}
	s.releaseAddrs(p)
}

func (s *Store) releaseAddrs(p *Pod) {
	if p.HostNetwork {
		return
	}
	for _, addr := range p.Addresses {
		release(s.byAddr, addr, p)
	}
}

// unmanage takes that an object has one pod less.
func (s *Store) unmanage(by UID) {
	if by == "" {
		return
	}
	if s.managed[by]--; s.managed[by] > 0 {
		return
	}
	delete(s.managed, by)
	if s.owners[by].gone {
		delete(s.owners, by)
	}
}

// SetOwner takes what manages an object that manages pods: the Deployment of a
// ReplicaSet, the CronJob of a Job. Its Kind is "" where nothing does.
func (s *Store) SetOwner(of UID, owner Workload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if owner.Kind == "" {
		delete(s.owners, of)
		return
	}
	s.owners[of] = ownership{Workload: owner}
}

// DeleteOwner takes that the object is gone. With a Deployment its ReplicaSet goes
// before the pods do, and they were the Deployment's to their end.
func (s *Store) DeleteOwner(of UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner, ok := s.owners[of]
	if !ok {
		return
	}
	if s.managed[of] == 0 {
		delete(s.owners, of)
		return
	}
	owner.gone = true
	s.owners[of] = owner
}

// SetNode takes a node, or what has become of it.
func (s *Store) SetNode(n *Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.nodes[n.Name]
	s.nodes[n.Name] = n
	for _, addr := range n.Addresses {
		s.nodeByAddr.put(addr, n, old)
	}
	for _, addr := range n.tunnelEnds() {
		s.tunnelEnds.put(addr, n, old)
	}
	for _, prefix := range n.PodCIDRs {
		s.podCIDRs.put(prefix.Masked(), n, old)
	}
	if old != nil {
		s.unindexNode(old)
	}
}

// DeleteNode forgets a node.
func (s *Store) DeleteNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.nodes[name]; ok {
		s.unindexNode(old)
		delete(s.nodes, name)
	}
}

// unindexNode forgets a node where nothing has come into its place.
func (s *Store) unindexNode(n *Node) {
	for _, addr := range n.Addresses {
		s.nodeByAddr.drop(addr, n)
	}
	for _, addr := range n.tunnelEnds() {
		s.tunnelEnds.drop(addr, n)
	}
	for _, prefix := range n.PodCIDRs {
		s.podCIDRs.drop(prefix.Masked(), n)
	}
}

// Nodes gives all nodes, by name.
func (s *Store) Nodes() []*Node {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.SortedFunc(maps.Values(s.nodes), func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
}

// Pods implements Catalog.
func (s *Store) Pods() []ManagedPod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]ManagedPod, 0, len(s.pods))
	for _, p := range s.pods {
		if !p.Until.IsZero() {
			continue
		}
		var end End
		s.setPod(&end, p)
		out = append(out, ManagedPod{p, end.Workload})
	}
	return out
}

// Services implements Catalog.
func (s *Store) Services() []*Service {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Values(s.services))
}

// tunnelEnds are the addresses that flannel's tunnels of a node end at.
func (n *Node) tunnelEnds() []netip.Addr {
	if n.Flannel == nil {
		return nil
	}
	var ends []netip.Addr
	for _, b := range []*FlannelBackend{n.Flannel.V4, n.Flannel.V6} {
		if b != nil && b.PublicIP.IsValid() {
			ends = append(ends, b.PublicIP)
		}
	}
	return ends
}

// SetService takes a service, or what has become of it.
func (s *Store) SetService(svc *Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := serviceName{svc.Namespace, svc.Name}
	old := s.services[name]
	s.services[name] = svc
	for _, addr := range svc.Addresses {
		s.anyPort.put(addr, svc, old)
		for _, port := range svc.Ports {
			s.frontends.put(frontend{addr, port.Port}, svc, old)
		}
	}
	for _, port := range svc.Ports {
		if port.NodePort != 0 {
			s.nodePorts.put(Port{port.Protocol, port.NodePort}, svc, old)
		}
	}
	if old != nil {
		s.unindexService(old)
	}
}

// DeleteService forgets a service.
func (s *Store) DeleteService(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := serviceName{namespace, name}
	if old, ok := s.services[key]; ok {
		s.unindexService(old)
		delete(s.services, key)
	}
}

// unindexService forgets a service where nothing has come into its place.
func (s *Store) unindexService(svc *Service) {
	for _, addr := range svc.Addresses {
		s.anyPort.drop(addr, svc)
		for _, port := range svc.Ports {
			s.frontends.drop(frontend{addr, port.Port}, svc)
		}
	}
	for _, port := range svc.Ports {
		s.nodePorts.drop(Port{port.Protocol, port.NodePort}, svc)
	}
}

// SetEndpoints takes an EndpointSlice, or what has become of it.
func (s *Store) SetEndpoints(e *Endpoints) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.slices[e.UID]; ok {
		s.unindexEndpoints(old)
	}
	s.slices[e.UID] = e
	name := serviceName{e.Namespace, e.Service}
	for key := range e.all() {
		s.backends[key] = append(s.backends[key], name)
	}
}

// DeleteEndpoints forgets an EndpointSlice.
func (s *Store) DeleteEndpoints(uid UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.slices[uid]; ok {
		s.unindexEndpoints(old)
		delete(s.slices, uid)
	}
}

func (s *Store) unindexEndpoints(e *Endpoints) {
	name := serviceName{e.Namespace, e.Service}
	for key := range e.all() {
		names := s.backends[key]
		if at := slices.Index(names, name); at >= 0 {
			names = slices.Delete(names, at, at+1) // once: another slice may name it, too
		}
		if len(names) == 0 {
			delete(s.backends, key)
			continue
		}
		s.backends[key] = names
	}
}

// all gives the backends. Those that are no service's are nobody's.
func (e *Endpoints) all() func(yield func(backend) bool) {
	return func(yield func(backend) bool) {
		if e.Service == "" {
			return
		}
		for _, addr := range e.Addresses {
			for _, port := range e.Ports {
				if !yield(backend{addr, port}) {
					return
				}
			}
		}
	}
}

// Sizes is how much a store has.
type Sizes struct {
	Pods, Gone, Nodes, Services, Endpoints, Owners int
}

// Sizes counts.
func (s *Store) Sizes() Sizes {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Sizes{
		Pods: len(s.pods), Gone: len(s.gone), Nodes: len(s.nodes), Services: len(s.services),
		Endpoints: len(s.slices), Owners: len(s.owners),
	}
}
