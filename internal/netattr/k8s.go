// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package netattr

// Prefixes of what is known of an end of a flow. Behind them are keys of the semantic
// conventions.
const (
	SourcePrefix            = "source."
	DestinationPrefix       = "destination."
	TunnelSourcePrefix      = "netprobe.tunnel.source."
	TunnelDestinationPrefix = "netprobe.tunnel.destination."
)

// Keys of the semantic conventions that stand behind a prefix.
const (
	K8sPodName       = "k8s.pod.name"
	K8sPodUID        = "k8s.pod.uid"
	K8sNamespaceName = "k8s.namespace.name"
	K8sNodeName      = "k8s.node.name"
	K8sServiceName   = "k8s.service.name"
	// Behind these is a label's or an annotation's own key.
	K8sPodLabel      = "k8s.pod.label."
	K8sPodAnnotation = "k8s.pod.annotation."
	// AvailabilityZone is that of the node (its label topology.kubernetes.io/zone).
	AvailabilityZone = "cloud.availability_zone"
)

// Keys of our own.
const (
	// K8sWorkloadKind and K8sWorkloadName are what manages a pod, whatever that is:
	// metrics have one pair of labels for all kinds. They stand behind a prefix.
	K8sWorkloadKind = "k8s.workload.kind"
	K8sWorkloadName = "k8s.workload.name"
	// FlowDirection is how a flow lies to the cluster: "intra-node", "inter-node",
	// "ingress" or "egress".
	FlowDirection = "netprobe.flow.direction"
	// FlowReporter is the end whose node counted: "source", "destination", "both" where
	// both are on it, or "transit" where neither is.
	FlowReporter = "netprobe.flow.reporter"
	// FlowRoutingKey is a number that is the same wherever the same packets were reported,
	// by which reports are brought together.
	FlowRoutingKey = "netprobe.flow.routing_key"
	// ObservationNodes are the nodes that reported the same packets.
	ObservationNodes = "netprobe.observation.nodes"
	// Inventory is "incomplete" where not all of the cluster had been read.
	Inventory = "netprobe.k8s.inventory"
	// MetricOverflow is true on the series that has all those which there was no room
	// for (OpenTelemetry specification, metrics SDK, cardinality limits).
	MetricOverflow = "otel.metric.overflow"
)
