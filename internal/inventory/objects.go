// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package inventory knows who has which address in a Kubernetes cluster, and had it
// at a time that is not long past. It knows nothing of the API that it hears of that
// from, nor of pdata.
package inventory // import "github.com/netprobe-otel/netprobe/internal/inventory"

import (
	"net/netip"
	"time"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

// UID is that of an object in the API.
type UID string

// Workload is what manages pods.
type Workload struct {
	Kind string // Deployment, StatefulSet, DaemonSet, Job, CronJob, ReplicaSet, …
	Name string
	UID  UID
}

// Pod is a pod. It must not be changed once the store has it.
type Pod struct {
	UID       UID
	Namespace string
	Name      string
	Node      string
	// Controller is what its owner reference names; the store knows what manages that.
	Controller Workload
	// HostNetwork: it has its node's addresses, and Addresses is not its own.
	HostNetwork bool
	Addresses   []netip.Addr
	// ContainerIDs are without the runtime's prefix.
	ContainerIDs []string
	// HostPorts are those that it has at its node's addresses: all that it declares in
	// the host's network, else those that are mapped.
	HostPorts []Port
	// Labels and Annotations are those that are asked for, under the keys that records
	// have them by, in their order.
	Labels, Annotations []KeyValue
	// From is when it can have got its addresses, Until when it had them no more; zero
	// while it has.
	From, Until time.Time
}

// KeyValue is a label or an annotation.
type KeyValue struct{ Key, Value string }

// Port is a port of a protocol.
type Port struct {
	Protocol flow.Protocol
	Port     uint16
}

// Node is a node.
type Node struct {
	UID  UID
	Name string
	Zone string
	// Ready is its condition of that name: false also where the node says nothing any more.
	Ready     bool
	Addresses []netip.Addr
	PodCIDRs  []netip.Prefix
	// Flannel is nil where its annotations are not there.
	Flannel *Flannel
}

// Service is a service.
type Service struct {
	UID       UID
	Namespace string
	Name      string
	Type      string // ClusterIP, NodePort, LoadBalancer, ExternalName
	// Addresses are those that it is reached by: cluster, external, load balancer.
	Addresses []netip.Addr
	// Headless: it has none, and its backends are reached by their own.
	Headless bool
	Ports    []ServicePort
}

// ServicePort is a port that a service is reached by.
type ServicePort struct {
	Port
	// NodePort is that at every node's addresses, 0 for none.
	NodePort uint16
}

// Endpoints are backends of a service, of one EndpointSlice.
type Endpoints struct {
	UID       UID
	Namespace string
	Service   string // its name
	Addresses []netip.Addr
	Ports     []Port
}

// Query asks for one end of a flow.
type Query struct {
	Addr netip.Addr
	Port uint16 // 0 for none
	// Protocol that the port is of.
	Protocol flow.Protocol
	// First and Last are when packets had the address.
	First, Last time.Time
	// ContainerID is that of the process at this end, "" where it is not known.
	ContainerID string
}

// End is who is at one end of a flow. What is not known is nil.
type End struct {
	Pod      *Pod
	Workload Workload // of the pod; its Kind is "" where it has none
	Node     *Node
	// Service is the one that the address, or the address and the port, are of. The
	// other end of a translation tells its backend.
	Service *Service
	// InCluster: the address is one of the cluster's, whoever has it.
	InCluster bool
}

// Resolver tells who is at an end of a flow. It allocates nothing, and may be
// called by several goroutines. What it gives must not be changed.
type Resolver interface {
	// Resolve gives what is known; false if nothing is.
	Resolve(q *Query, end *End) bool
	// NodeByTunnelEnd gives the node whose tunnels end at an address.
	NodeByTunnelEnd(netip.Addr) *Node
	// Ready says whether all that there is has been read once.
	Ready() bool
}

// Catalog lists what the cluster has. It may be called by several goroutines. What it
// gives must not be changed.
type Catalog interface {
	Nodes() []*Node
	// Pods gives those that are not gone, in no order.
	Pods() []ManagedPod
	// Services gives all, in no order.
	Services() []*Service
}

// ManagedPod is a pod, and what manages it at the top.
type ManagedPod struct {
	*Pod
	Workload Workload
}
