// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"net/netip"
	"sync"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/ends"
)

// seen is what attributes say of a flow.
type seen struct {
	ends.Flow
	// hasEnds: there is at least one address.
	hasEnds bool
}

// read reads the attributes of a record or a data point. What does not parse is not
// there: it stays on the record as it is.
func (s *seen) read(attrs pcommon.Map) {
	*s = seen{}
	var sourcePort, destinationPort bool
	for key, value := range attrs.All() {
		switch key {
		case netattr.SourceAddress:
			s.Source.Addr, s.hasEnds = address(value), true
		case netattr.DestinationAddress:
			s.Destination.Addr, s.hasEnds = address(value), true
		case netattr.SourcePort:
			s.Source.Port, sourcePort = uint16(value.Int()), true
		case netattr.DestinationPort:
			s.Destination.Port, destinationPort = uint16(value.Int()), true
		case netattr.NetworkTransport:
			s.Protocol = protocols[value.Str()]
		case netattr.ICMPType: // they tell flows apart as ports do
			s.Source.Port = uint16(value.Int())
		case netattr.ICMPCode:
			s.Destination.Port = uint16(value.Int())
		case netattr.NATSourceAddress:
			s.Source.Other, s.Translated = address(value), true
		case netattr.NATDestinationAddress:
			s.Destination.Other, s.Translated = address(value), true
		case netattr.NATSourcePort:
			s.Source.OtherPort = uint16(value.Int())
		case netattr.NATDestinationPort:
			s.Destination.OtherPort = uint16(value.Int())
		case netattr.NATOriginal:
			s.Original = value.Bool()
		case netattr.SourceContainerID:
			s.Source.ContainerID = value.Str()
		case netattr.DestinationContainerID:
			s.Destination.ContainerID = value.Str()
		case netattr.FlowInitiator:
			s.Initiator = sides[value.Str()]
		case netattr.TunnelSourceAddress:
			s.TunnelSource = address(value)
		case netattr.TunnelDestinationAddress:
			s.TunnelDestination = address(value)
		case netattr.FlowStart:
			s.First = pcommon.Timestamp(value.Int()).AsTime()
		}
	}
	if s.Initiator == flow.NoSide && sourcePort != destinationPort { // a metric's point has the server's port only
		s.Initiator = flow.SourceSide
		if sourcePort {
			s.Initiator = flow.DestinationSide
		}
	}
}

func address(v pcommon.Value) netip.Addr {
	addr, err := netip.ParseAddr(v.Str())
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}

var (
	protocols = map[string]flow.Protocol{}
	sides     = map[string]flow.Side{
		flow.SourceSide.String(): flow.SourceSide, flow.DestinationSide.String(): flow.DestinationSide,
	}
)

func init() {
	for number := range 256 {
		protocols[flow.Protocol(number).String()] = flow.Protocol(number)
	}
}

// endKeys are the keys of what is known of an end.
type endKeys struct {
	prefix, pod, podUID, namespace, service, node, zone string
	workloadKind, workloadName                          string
	// byKind are the semantic conventions' keys of workloads' names.
	byKind map[string]string
	// labels are those of labels and annotations, as they come.
	labels sync.Map
}

func newEndKeys(prefix string) *endKeys {
	k := &endKeys{
		prefix: prefix, pod: prefix + netattr.K8sPodName, podUID: prefix + netattr.K8sPodUID, namespace: prefix + netattr.K8sNamespaceName,
		service: prefix + netattr.K8sServiceName, node: prefix + netattr.K8sNodeName, zone: prefix + netattr.AvailabilityZone,
		workloadKind: prefix + netattr.K8sWorkloadKind, workloadName: prefix + netattr.K8sWorkloadName,
		byKind: map[string]string{},
	}
	for kind, key := range map[string]string{
		"Deployment": "k8s.deployment.name", "StatefulSet": "k8s.statefulset.name", "DaemonSet": "k8s.daemonset.name",
		"ReplicaSet": "k8s.replicaset.name", "Job": "k8s.job.name", "CronJob": "k8s.cronjob.name",
		"ReplicationController": "k8s.replicationcontroller.name",
	} {
		k.byKind[kind] = prefix + key
	}
	return k
}

var sourceKeys, destinationKeys = newEndKeys(netattr.SourcePrefix), newEndKeys(netattr.DestinationPrefix)

// put puts what is known of an end, as far as it is asked for.
func (k *endKeys) put(to pcommon.Map, end *inventory.End, asked group) {
	if asked&groupNamespace != 0 {
		switch {
		case end.Pod != nil:
			to.PutStr(k.namespace, end.Pod.Namespace)
		case end.Service != nil:
			to.PutStr(k.namespace, end.Service.Namespace)
		}
	}
	if end.Service != nil && asked&groupService != 0 {
		to.PutStr(k.service, end.Service.Name)
	}
	if pod := end.Pod; pod != nil && asked&groupPod != 0 {
		to.PutStr(k.pod, pod.Name)
		to.PutStr(k.podUID, string(pod.UID))
	}
	if end.Node != nil && asked&groupNode != 0 {
		to.PutStr(k.node, end.Node.Name)
	}
	if end.Node != nil && end.Node.Zone != "" && asked&groupZone != 0 {
		to.PutStr(k.zone, end.Node.Zone)
	}
	if end.Pod != nil && asked&groupLabels != 0 {
		for _, set := range [][]inventory.KeyValue{end.Pod.Labels, end.Pod.Annotations} {
			for _, kv := range set {
				to.PutStr(k.label(kv.Key), kv.Value)
			}
		}
	}
}

// label gives the key of a label or an annotation, of which there are few.
func (k *endKeys) label(key string) string {
	if full, ok := k.labels.Load(key); ok {
		return full.(string)
	}
	full, _ := k.labels.LoadOrStore(key, k.prefix+key)
	return full.(string)
}

// putKind puts a workload under the key of its kind, which the semantic conventions
// have of those that come with Kubernetes.
func (k *endKeys) putKind(to pcommon.Map, end *inventory.End) {
	if !managed(end) {
		return
	}
	if key, ok := k.byKind[end.Workload.Kind]; ok {
		to.PutStr(key, end.Workload.Name)
		return
	}
	k.putWorkload(to, end)
}

// managed says whether a pod has a workload. The kubelet's own pods name their node,
// which has them all and is none.
func managed(end *inventory.End) bool {
	return end.Workload.Kind != "" && end.Workload.Kind != "Node"
}

// putWorkload puts a workload of any kind under the same two keys: of a pod that
// has none, itself.
func (k *endKeys) putWorkload(to pcommon.Map, end *inventory.End) {
	switch {
	case managed(end):
		to.PutStr(k.workloadKind, end.Workload.Kind)
		to.PutStr(k.workloadName, end.Workload.Name)
	case end.Pod != nil:
		to.PutStr(k.workloadKind, "Pod")
		to.PutStr(k.workloadName, end.Pod.Name)
	}
}

// result is what became of an end, in the processor's telemetry.
type result uint8

const (
	isPod result = iota
	isService
	isNode
	isUnknown
	isOutside
	results
)

func (r result) String() string {
	return [results]string{"pod", "service", "node", "unknown", "outside"}[r]
}

func resultOf(end *inventory.End) result {
	switch {
	case end.Pod != nil:
		return isPod
	case end.Service != nil:
		return isService
	case end.Node != nil:
		return isNode
	case end.InCluster:
		return isUnknown
	default:
		return isOutside
	}
}
