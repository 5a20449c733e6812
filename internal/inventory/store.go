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
	// byAddr has the pods that have, or had, an address of their own, in the order of From.
	byAddr      map[netip.Addr][]*Pod
	byContainer map[string]*Pod
	// byHostPort has the pods that have a port of a node, by the node.
	byHostPort map[hostPort][]*Pod
	gone       []*Pod // in the order of Until

	owners map[UID]Workload

	nodes      map[string]*Node
	nodeByAddr map[netip.Addr]*Node
	tunnelEnds map[netip.Addr]*Node
	podCIDRs   prefixes

	services  map[serviceName]*Service
	frontends map[frontend]*Service
	anyPort   map[netip.Addr]*Service // a service's address, whatever the port
	nodePorts map[Port]*Service

	slices   map[UID]*Endpoints
	backends map[backend][]serviceName
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

// NewStore gives an empty one. Pods that are gone stay known for grace.
func NewStore(grace time.Duration) *Store {
	return &Store{
		grace: grace,
		pods:  map[UID]*Pod{}, byAddr: map[netip.Addr][]*Pod{}, byContainer: map[string]*Pod{}, byHostPort: map[hostPort][]*Pod{},
		owners: map[UID]Workload{},
		nodes:  map[string]*Node{}, nodeByAddr: map[netip.Addr]*Node{}, tunnelEnds: map[netip.Addr]*Node{},
		podCIDRs: prefixes{byPrefix: map[netip.Prefix]*Node{}},
		services: map[serviceName]*Service{}, frontends: map[frontend]*Service{}, anyPort: map[netip.Addr]*Service{}, nodePorts: map[Port]*Service{},
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
	if old, ok := s.pods[p.UID]; ok {
		s.unindexPod(old)
		if len(p.Addresses) == 0 {
			// A pod that has ended loses its addresses in the API: it had them until then.
			kept := *p
			kept.Addresses = old.Addresses
			p = &kept
		}
	}
	s.pods[p.UID] = p
	s.indexPod(p)
	if !p.Until.IsZero() {
		s.expireLater(p)
	}
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
	s.unindexPod(old)
	s.pods[uid] = &p
	s.indexPod(&p)
	s.expireLater(&p)
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
		}
	}
	s.gone = slices.Delete(s.gone, 0, over)
}

func (s *Store) indexPod(p *Pod) {
	for _, id := range p.ContainerIDs {
		s.byContainer[id] = p
	}
	for _, port := range p.HostPorts {
		key := hostPort{p.Node, port}
		s.byHostPort[key] = append(s.byHostPort[key], p)
	}
	if p.HostNetwork {
		return
	}
	for _, addr := range p.Addresses {
		holders := s.byAddr[addr]
		at, _ := slices.BinarySearchFunc(holders, p.From, func(have *Pod, from time.Time) int { return have.From.Compare(from) })
		s.byAddr[addr] = slices.Insert(holders, at, p)
	}
}

func (s *Store) unindexPod(p *Pod) {
	for _, id := range p.ContainerIDs {
		if s.byContainer[id] == p {
			delete(s.byContainer, id)
		}
	}
	for _, port := range p.HostPorts {
		remove(s.byHostPort, hostPort{p.Node, port}, p)
	}
	if p.HostNetwork {
		return
	}
	for _, addr := range p.Addresses {
		remove(s.byAddr, addr, p)
	}
}

// remove takes a value out of a list in a map, and the list when it is empty.
func remove[K, V comparable](from map[K][]V, key K, value V) {
	list := slices.DeleteFunc(from[key], func(have V) bool { return have == value })
	if len(list) == 0 {
		delete(from, key)
		return
	}
	from[key] = list
}

// SetOwner takes what manages an object that manages pods: the Deployment of a
// ReplicaSet, the CronJob of a Job.
func (s *Store) SetOwner(of UID, owner Workload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owners[of] = owner
}

// DeleteOwner forgets that.
func (s *Store) DeleteOwner(of UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.owners, of)
}

// SetNode takes a node, or what has become of it.
func (s *Store) SetNode(n *Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.nodes[n.Name]; ok {
		s.unindexNode(old)
	}
	s.nodes[n.Name] = n
	for _, addr := range n.Addresses {
		s.nodeByAddr[addr] = n
	}
	for _, addr := range n.tunnelEnds() {
		s.tunnelEnds[addr] = n
	}
	for _, prefix := range n.PodCIDRs {
		s.podCIDRs.set(prefix.Masked(), n)
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

func (s *Store) unindexNode(n *Node) {
	forget(s.nodeByAddr, n.Addresses, n)
	forget(s.tunnelEnds, n.tunnelEnds(), n)
	for _, prefix := range n.PodCIDRs {
		s.podCIDRs.forget(prefix.Masked(), n)
	}
}

// forget removes keys that still have a value.
func forget[K, V comparable](from map[K]V, keys []K, value V) {
	for _, key := range keys {
		if from[key] == value {
			delete(from, key)
		}
	}
}

// Nodes gives all nodes, by name.
func (s *Store) Nodes() []*Node {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.SortedFunc(maps.Values(s.nodes), func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
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
	if old, ok := s.services[name]; ok {
		s.unindexService(old)
	}
	s.services[name] = svc
	for _, addr := range svc.Addresses {
		s.anyPort[addr] = svc
		for _, port := range svc.Ports {
			s.frontends[frontend{addr, port.Port}] = svc
		}
	}
	for _, port := range svc.Ports {
		if port.NodePort != 0 {
			s.nodePorts[Port{port.Protocol, port.NodePort}] = svc
		}
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

func (s *Store) unindexService(svc *Service) {
	forget(s.anyPort, svc.Addresses, svc)
	for _, addr := range svc.Addresses {
		for _, port := range svc.Ports {
			forget(s.frontends, []frontend{{addr, port.Port}}, svc)
		}
	}
	for _, port := range svc.Ports {
		forget(s.nodePorts, []Port{{port.Protocol, port.NodePort}}, svc)
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
		if !slices.Contains(s.backends[key], name) {
			s.backends[key] = append(s.backends[key], name)
		}
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
		remove(s.backends, key, name)
	}
}

func (e *Endpoints) all() func(yield func(backend) bool) {
	return func(yield func(backend) bool) {
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
