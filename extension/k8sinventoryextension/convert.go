// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/netattr"
)

// converter makes what the inventory keeps of the API's objects.
type converter struct {
	labels, annotations []string
}

func (c *converter) pod(p *corev1.Pod) *inventory.Pod {
	out := &inventory.Pod{
		UID: inventory.UID(p.UID), Namespace: intern(p.Namespace), Name: p.Name, Node: intern(p.Spec.NodeName),
		Controller:  controllerOf(p.OwnerReferences),
		HostNetwork: p.Spec.HostNetwork,
		Labels:      pick(p.Labels, c.labels, netattr.K8sPodLabel),
		Annotations: pick(p.Annotations, c.annotations, netattr.K8sPodAnnotation),
		From:        podFrom(p),
		Until:       podUntil(p),
	}
	for _, ip := range p.Status.PodIPs {
		out.Addresses = appendAddr(out.Addresses, ip.IP)
	}
	if len(out.Addresses) == 0 {
		out.Addresses = appendAddr(out.Addresses, p.Status.PodIP)
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			out.ContainerIDs = appendContainers(out.ContainerIDs, &list[i])
		}
	}
	for i := range p.Spec.Containers {
		out.HostPorts = appendHostPorts(out.HostPorts, p.Spec.Containers[i].Ports, p.Spec.HostNetwork)
	}
	for i := range p.Spec.InitContainers {
		out.HostPorts = appendHostPorts(out.HostPorts, p.Spec.InitContainers[i].Ports, p.Spec.HostNetwork)
	}
	return out
}

// podFrom is when a pod's network was ready, where the kubelet tells (Kubernetes 1.29
// and later), else when the kubelet took it up.
func podFrom(p *corev1.Pod) time.Time {
	for i := range p.Status.Conditions {
		c := &p.Status.Conditions[i]
		if c.Type == corev1.PodReadyToStartContainers && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	if p.Status.StartTime != nil {
		return p.Status.StartTime.Time
	}
	return p.CreationTimestamp.Time
}

// podUntil is when the last container of a pod that has ended did so; zero for one
// that has not. Init containers may be the last: sidecars are.
func podUntil(p *corev1.Pod) time.Time {
	if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
		return time.Time{}
	}
	until := podFrom(p)
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			if t := list[i].State.Terminated; t != nil && t.FinishedAt.After(until) {
				until = t.FinishedAt.Time
			}
		}
	}
	// Of a pod whose node is gone nobody tells when its containers ended.
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.LastTransitionTime.After(until) && runs(p) {
			until = c.LastTransitionTime.Time
		}
	}
	return until
}

// runs says whether a container still does, as far as is known.
func runs(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
}

// appendContainers adds the container that is there, and the one that was before.
func appendContainers(to []string, s *corev1.ContainerStatus) []string {
	ids := []string{s.ContainerID}
	if t := s.LastTerminationState.Terminated; t != nil {
		ids = append(ids, t.ContainerID)
	}
	for _, id := range ids {
		if _, bare, ok := strings.Cut(id, "://"); ok && bare != "" {
			to = append(to, bare)
		}
	}
	return to
}

// appendHostPorts adds what a container has of its node's ports.
func appendHostPorts(to []inventory.Port, ports []corev1.ContainerPort, hostNetwork bool) []inventory.Port {
	for i := range ports {
		number := ports[i].HostPort
		if hostNetwork {
			number = ports[i].ContainerPort
		}
		to = appendPort(to, ports[i].Protocol, number)
	}
	return to
}

func appendPort(to []inventory.Port, protocol corev1.Protocol, number int32) []inventory.Port {
	p, ok := protocols[protocol]
	if !ok || number <= 0 || number > 65535 {
		return to
	}
	return append(to, inventory.Port{Protocol: p, Port: uint16(number)})
}

var protocols = map[corev1.Protocol]flow.Protocol{
	corev1.ProtocolTCP: flow.TCP, corev1.ProtocolUDP: flow.UDP, corev1.ProtocolSCTP: flow.SCTP,
	"": flow.TCP, // which is what the API takes for nothing
}

func appendAddr(to []netip.Addr, text string) []netip.Addr {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return to // "None", or nothing
	}
	return append(to, addr.Unmap())
}

func controllerOf(owners []metav1.OwnerReference) inventory.Workload {
	for i := range owners {
		if o := &owners[i]; o.Controller != nil && *o.Controller {
			return inventory.Workload{Kind: intern(o.Kind), Name: intern(o.Name), UID: inventory.UID(intern(string(o.UID)))}
		}
	}
	return inventory.Workload{}
}

// pick takes what is asked for, under the prefix that records have it by.
func pick(from map[string]string, keys []string, prefix string) []inventory.KeyValue {
	var out []inventory.KeyValue
	for _, key := range keys {
		if value, ok := from[key]; ok {
			out = append(out, inventory.KeyValue{Key: intern(prefix + key), Value: intern(value)})
		}
	}
	return out
}

// node gives also what of its annotations cannot be read.
func convertNode(n *corev1.Node) (*inventory.Node, error) {
	out := &inventory.Node{UID: inventory.UID(n.UID), Name: intern(n.Name), Zone: intern(n.Labels[corev1.LabelTopologyZone])}
	for i := range n.Status.Addresses {
		if a := &n.Status.Addresses[i]; a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			out.Addresses = appendAddr(out.Addresses, a.Address)
		}
	}
	for i := range n.Status.Conditions {
		if c := &n.Status.Conditions[i]; c.Type == corev1.NodeReady {
			out.Ready = c.Status == corev1.ConditionTrue
		}
	}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for _, cidr := range cidrs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			out.PodCIDRs = append(out.PodCIDRs, prefix.Masked())
		}
	}
	var err error
	out.Flannel, err = inventory.ParseFlannel(n.Annotations)
	return out, err
}

func convertService(s *corev1.Service) *inventory.Service {
	out := &inventory.Service{
		UID: inventory.UID(s.UID), Namespace: intern(s.Namespace), Name: s.Name, Type: intern(string(s.Spec.Type)),
		Headless: s.Spec.ClusterIP == corev1.ClusterIPNone,
	}
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	ips = append(append([]string{}, ips...), s.Spec.ExternalIPs...)
	for i := range s.Status.LoadBalancer.Ingress {
		ips = append(ips, s.Status.LoadBalancer.Ingress[i].IP)
	}
	for _, ip := range ips {
		out.Addresses = appendAddr(out.Addresses, ip)
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		for _, port := range appendPort(nil, p.Protocol, p.Port) {
			sp := inventory.ServicePort{Port: port}
			if p.NodePort > 0 && p.NodePort <= 65535 {
				sp.NodePort = uint16(p.NodePort)
			}
			out.Ports = append(out.Ports, sp)
		}
	}
	return out
}

func convertEndpoints(e *discoveryv1.EndpointSlice) *inventory.Endpoints {
	out := &inventory.Endpoints{UID: inventory.UID(e.UID), Namespace: intern(e.Namespace), Service: intern(e.Labels[discoveryv1.LabelServiceName])}
	for i := range e.Endpoints {
		for _, address := range e.Endpoints[i].Addresses {
			out.Addresses = appendAddr(out.Addresses, address)
		}
	}
	for i := range e.Ports {
		p := &e.Ports[i]
		if p.Port == nil {
			continue
		}
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		out.Ports = appendPort(out.Ports, protocol, *p.Port)
	}
	return out
}
