// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"net/netip"
)

var (
	_ Resolver = (*Store)(nil)
	_ Catalog  = (*Store)(nil)
)

// Resolve implements Resolver. A container's ID tells best; then the service that
// an address and a port are of, the pod that had the address, the node, and the service
// that has the address with other ports, if it is the only one.
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
	if svc := s.frontends.get(frontend{q.Addr, portOf(q)}); svc != nil {
		// an external address may be a node's
		end.Service, end.Node, end.InCluster = svc, s.nodeByAddr.get(q.Addr), true
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
	if n := s.nodeByAddr.get(q.Addr); n != nil {
		s.setNode(end, n, q)
		return true
	}
	if sharers := s.anyPort[q.Addr]; len(sharers) > 0 {
		end.InCluster = true
		if len(sharers) == 1 {
			end.Service = sharers[0]
		}
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
		end.Workload = owner.Workload
	}
}

// headless gives the service whose backend a pod's port is, where that is reached
// by the pod's own address and no other service has the same backend.
func (s *Store) headless(q *Query) *Service {
	names := s.backends[backend{q.Addr, portOf(q)}]
	if len(names) == 0 {
		return nil
	}
	for _, other := range names[1:] {
		if other != names[0] {
			return nil
		}
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
	end.Service = s.nodePorts.get(portOf(q))
}

// NodeByTunnelEnd implements Resolver.
func (s *Store) NodeByTunnelEnd(addr netip.Addr) *Node {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n := s.tunnelEnds.get(addr); n != nil {
		return n
	}
	return s.nodeByAddr.get(addr)
}

// prefixes finds the longest of those that an address is in.
type prefixes struct {
	byPrefix holders[netip.Prefix, Node]
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

func (p *prefixes) put(prefix netip.Prefix, n, old *Node) {
	if len(p.byPrefix[prefix]) == 0 {
		p.lengths(prefix.Addr())[prefix.Bits()]++
	}
	p.byPrefix.put(prefix, n, old)
}

func (p *prefixes) drop(prefix netip.Prefix, n *Node) {
	had := len(p.byPrefix[prefix])
	p.byPrefix.drop(prefix, n)
	if had > 0 && len(p.byPrefix[prefix]) == 0 {
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
		if n := p.byPrefix.get(prefix); n != nil {
			return n
		}
	}
	return nil
}

// portOf gives the port of the end that is asked for.
func portOf(q *Query) Port { return Port{q.Protocol, q.Port} }
