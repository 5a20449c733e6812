// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"net/netip"
	"time"
)

var _ Resolver = (*Store)(nil)

// Resolve implements Resolver. A container's ID tells best; then the service that
// an address and a port are of, the pod that had the address, and the node.
func (s *Store) Resolve(q *Query, end *End) bool {
	*end = End{}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if q.ContainerID != "" {
		if p, ok := s.byContainer[q.ContainerID]; ok {
			s.setPod(end, p)
			return true
		}
	}
	if svc := s.service(q); svc != nil {
		end.Service, end.InCluster = svc, true
		return true
	}
	if holders, ok := s.byAddr[q.Addr]; ok {
		end.InCluster = true
		if p := holderAt(holders, q.First, q.Last); p != nil {
			s.setPod(end, p)
			end.Service = s.headless(q)
		} else {
			end.Node = s.podCIDRs.find(q.Addr)
		}
		return true
	}
	if n, ok := s.nodeByAddr[q.Addr]; ok {
		s.setNode(end, n, q)
		return true
	}
	if n := s.podCIDRs.find(q.Addr); n != nil {
		end.Node, end.InCluster = n, true
		return true
	}
	return false
}

func (s *Store) setPod(end *End, p *Pod) {
	end.Pod, end.InCluster = p, true
	end.Node = s.nodes[p.Node]
	end.Workload = p.Controller
	if owner, ok := s.owners[p.Controller.UID]; ok {
		end.Workload = owner
	}
}

// service gives that which is reached by an address, on one of its ports, or on
// any where the packet has none or none of them.
func (s *Store) service(q *Query) *Service {
	if svc, ok := s.frontends[frontend{q.Addr, portOf(q)}]; ok {
		return svc
	}
	return s.anyPort[q.Addr]
}

// headless gives the service whose backend a pod's port is, where that is reached
// by the pod's own address and no other service has the same backend.
func (s *Store) headless(q *Query) *Service {
	names := s.backends[backend{q.Addr, portOf(q)}]
	if len(names) != 1 {
		return nil
	}
	if svc := s.services[names[0]]; svc != nil && svc.Headless {
		return svc
	}
	return nil
}

// setNode: who has a node's address is a pod in the host's network, or behind a
// port that is mapped, or a service's port on all nodes, or the node itself.
func (s *Store) setNode(end *End, n *Node, q *Query) {
	end.Node, end.InCluster = n, true
	if q.Port == 0 {
		return
	}
	if p := holderAt(s.byHostPort[hostPort{n.Name, portOf(q)}], q.First, q.Last); p != nil {
		s.setPod(end, p)
		return
	}
	end.Service = s.nodePorts[portOf(q)]
}

// NodeByTunnelEnd implements Resolver.
func (s *Store) NodeByTunnelEnd(addr netip.Addr) *Node {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n, ok := s.tunnelEnds[addr]; ok {
		return n
	}
	return s.nodeByAddr[addr]
}

// The API tells times in whole seconds, cut, by its own clock or a node's.
const (
	// untilSlack is how much later than Until an end may have been.
	untilSlack = time.Second
	// fromSlack is how much earlier than From a beginning may have been, where nobody
	// else can have sent.
	fromSlack = 30 * time.Second
)

// holderAt gives the pod that had what several had in turn while packets were seen,
// which are in the order of From. Nil where nobody had it, or two may have.
func holderAt(holders []*Pod, first, last time.Time) *Pod {
	var found *Pod
	for _, p := range holders {
		if !p.Until.IsZero() && !p.Until.Add(untilSlack).After(first) {
			continue // it had ended
		}
		from := p.From
		if len(holders) == 1 {
			from = from.Add(-fromSlack)
		}
		if from.After(last) {
			continue // another had it before, or nobody
		}
		if found != nil {
			return nil
		}
		found = p
	}
	return found
}

// prefixes finds the longest of those that an address is in.
type prefixes struct {
	byPrefix map[netip.Prefix]*Node
	// bits has how many prefixes there are of each length, of IPv4 and IPv6.
	bits4 [33]int
	bits6 [129]int
}

func (p *prefixes) lengths(of netip.Addr) []int {
	if of.Is4() {
		return p.bits4[:]
	}
	return p.bits6[:]
}

func (p *prefixes) set(prefix netip.Prefix, n *Node) {
	if _, ok := p.byPrefix[prefix]; !ok {
		p.lengths(prefix.Addr())[prefix.Bits()]++
	}
	p.byPrefix[prefix] = n
}

func (p *prefixes) forget(prefix netip.Prefix, n *Node) {
	if p.byPrefix[prefix] == n {
		delete(p.byPrefix, prefix)
		p.lengths(prefix.Addr())[prefix.Bits()]--
	}
}

func (p *prefixes) find(addr netip.Addr) *Node {
	lengths := p.lengths(addr)
	for bits := len(lengths) - 1; bits >= 0; bits-- {
		if lengths[bits] == 0 {
			continue
		}
		prefix, err := addr.Prefix(bits)
		if err != nil {
			return nil // the address is not valid
		}
		if n, ok := p.byPrefix[prefix]; ok {
			return n
		}
	}
	return nil
}

// portOf gives the port of the end that is asked for.
func portOf(q *Query) Port { return Port{q.Protocol, q.Port} }
