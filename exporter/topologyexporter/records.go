// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyexporter

import (
	"math"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/internal/topology"
)

// read reads a record. False if it has not two addresses. What does not fit is cut, for
// records may come from anywhere.
func read(lr plog.LogRecord, node string, r *topology.Record) bool {
	r.Time = lr.Timestamp().AsTime()
	r.Start = r.Time
	var opened topology.Side
	original := false
	for key, v := range lr.Attributes().All() {
		switch key {
		case netattr.SourceAddress:
			r.Source.Addr = address(v)
		case netattr.DestinationAddress:
			r.Destination.Addr = address(v)
		case netattr.SourcePort:
			r.Source.Port, r.HasPorts = port(v), true
		case netattr.DestinationPort:
			r.Destination.Port, r.HasPorts = port(v), true
		case netattr.NetworkTransport:
			r.Transport = text(v)
		case netattr.FlowPackets:
			r.Packets = count(v)
		case netattr.FlowBytes:
			r.Bytes = count(v)
		case netattr.FlowStart:
			if at := v.Int(); at > 0 {
				r.Start = time.Unix(0, at).UTC()
			}
		case netattr.FlowCommunityID:
			r.CommunityID = text(v)
		case netattr.FlowInitiator:
			r.Initiator = sideOf(v.Str())
		case netattr.ICMPType:
			opened = icmpOpener(v.Int())
		case netattr.FlowDirection:
			r.Class, _ = topology.ParseClass(v.Str())
		case netattr.FlowReporter:
			r.Reporter = text(v)
		case netattr.ObservationNodes:
			r.Nodes = texts(v)
		case netattr.NetworkInterfaceName:
			r.Interface = text(v)
		case netattr.TCPRTT:
			r.RTT = rtt(v)
		case netattr.TCPRetransmits:
			r.Retransmits = count(v)
		case netattr.TCPResets:
			r.Resets = count(v)
		case netattr.Drops:
			r.Drops = count(v)
		case netattr.TCPFlags:
			r.TCPFlags = count(v)
		case netattr.ProcessPID:
			r.PID = count(v)
		case netattr.ProcessExecutableName:
			r.Process = text(v)
		case netattr.TunnelType:
			tunnel(r).Type = text(v)
		case netattr.TunnelID:
			tunnel(r).ID, tunnel(r).HasID = count(v), true
		case netattr.TunnelSourceAddress:
			tunnel(r).Source = text(v)
		case netattr.TunnelDestinationAddress:
			tunnel(r).Destination = text(v)
		case netattr.NATOriginal:
			original = v.Bool()
		case netattr.NATSourceAddress:
			nat(r).Source = text(v)
		case netattr.NATDestinationAddress:
			nat(r).Destination = text(v)
		case netattr.NATSourcePort:
			nat(r).SourcePort = int64(port(v))
		case netattr.NATDestinationPort:
			nat(r).DestinationPort = int64(port(v))
		default:
			if rest, ok := strings.CutPrefix(key, netattr.SourcePrefix); ok {
				end(&r.Source, rest, v)
			} else if rest, ok := strings.CutPrefix(key, netattr.DestinationPrefix); ok {
				end(&r.Destination, rest, v)
			}
		}
	}
	translated(r, original)
	if r.Tunnel != nil && r.Tunnel.Type == "" {
		r.Tunnel.Type = "unknown"
	}
	if r.Initiator == topology.NoSide && strings.HasSuffix(r.Transport, "icmp") {
		r.Initiator = opened
	}
	r.ReportingNode = node
	if node == "" {
		r.ReportingNode = reporterOf(r)
	}
	return r.Source.Addr.IsValid() && r.Destination.Addr.IsValid()
}

// translated finds who the ends of a translated flow are, where a translation hides them: who
// opened the conversation is who it was before, and the other one who it is afterwards. A
// record that is the original has the addresses of before.
func translated(r *topology.Record, original bool) {
	if r.NAT == nil || r.Initiator == topology.NoSide {
		return
	}
	source, destination := r.Initiator == topology.SourceSide, r.Initiator == topology.DestinationSide
	realOf(&r.Source, r.NAT.Source, r.NAT.SourcePort, source != original)
	realOf(&r.Destination, r.NAT.Destination, r.NAT.DestinationPort, destination != original)
}

func realOf(e *topology.End, address string, port int64, hidden bool) {
	if addr, err := netip.ParseAddr(address); err == nil && hidden {
		e.Real = netip.AddrPortFrom(addr.Unmap(), uint16(port))
	}
}

// icmpOpener is who asked, where a type is of a question or of its answer: echo, timestamp,
// information, address mask; of ICMPv6 echo and solicitations.
func icmpOpener(kind int64) topology.Side {
	switch kind {
	case 8, 13, 15, 17, 128, 133, 135:
		return topology.SourceSide
	case 0, 14, 16, 18, 129, 134, 136:
		return topology.DestinationSide
	}
	return topology.NoSide
}

// reporterOf is the node that a record itself tells of.
func reporterOf(r *topology.Record) string {
	switch r.Reporter {
	case "source", "both":
		return r.Source.Node
	case "destination":
		return r.Destination.Node
	}
	return ""
}

// workloads are the kinds behind the keys that the semantic conventions have.
var workloads = map[string]string{
	"k8s.deployment.name": "Deployment", "k8s.statefulset.name": "StatefulSet", "k8s.daemonset.name": "DaemonSet",
	"k8s.replicaset.name": "ReplicaSet", "k8s.job.name": "Job", "k8s.cronjob.name": "CronJob",
	"k8s.replicationcontroller.name": "ReplicationController",
}

func end(e *topology.End, key string, v pcommon.Value) {
	switch key {
	case netattr.K8sPodName:
		e.Pod = text(v)
	case netattr.K8sNamespaceName:
		e.Namespace = text(v)
	case netattr.K8sServiceName:
		e.Service = text(v)
	case netattr.K8sNodeName:
		e.Node = text(v)
	case netattr.AvailabilityZone:
		e.Zone = text(v)
	case netattr.K8sWorkloadKind:
		e.WorkloadKind = text(v)
	case netattr.K8sWorkloadName:
		e.WorkloadName = text(v)
	default:
		if kind, ok := workloads[key]; ok {
			e.WorkloadKind, e.WorkloadName = kind, text(v)
			return
		}
		for _, prefix := range [...]string{netattr.K8sPodLabel, netattr.K8sPodAnnotation} {
			if name, ok := strings.CutPrefix(key, prefix); ok && len(e.Labels) < maxLabels {
				e.Labels = append(e.Labels, topology.Label{Key: cut(name), Value: text(v)})
			}
		}
	}
}

const (
	// maxText is the longest of Kubernetes' names (253), and room for addresses and labels.
	maxText   = 256
	maxLabels = 32
	maxTexts  = 16
)

func text(v pcommon.Value) string { return cut(v.Str()) }

// cut copies nothing that is short enough, and keeps no bytes that are no text.
func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func texts(v pcommon.Value) (out []string) {
	if v.Type() != pcommon.ValueTypeSlice {
		return nil
	}
	for _, each := range v.Slice().All() {
		if len(out) < maxTexts {
			out = append(out, text(each))
		}
	}
	return out
}

func address(v pcommon.Value) netip.Addr {
	a, err := netip.ParseAddr(v.Str())
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

func port(v pcommon.Value) uint16 {
	if n := v.Int(); n >= 0 && n <= math.MaxUint16 {
		return uint16(n)
	}
	return 0
}

// maxCount leaves room for sums.
const maxCount = 1 << 53

func count(v pcommon.Value) int64 { return min(max(v.Int(), 0), maxCount) }

func rtt(v pcommon.Value) time.Duration {
	if s := v.Double(); s > 0 && s < time.Hour.Seconds() { // not NaN either
		return time.Duration(s * float64(time.Second))
	}
	return 0
}

func sideOf(name string) topology.Side {
	switch name {
	case "source":
		return topology.SourceSide
	case "destination":
		return topology.DestinationSide
	}
	return topology.NoSide
}

func tunnel(r *topology.Record) *topology.Tunnel {
	if r.Tunnel == nil {
		r.Tunnel = &topology.Tunnel{}
	}
	return r.Tunnel
}

func nat(r *topology.Record) *topology.NAT {
	if r.NAT == nil {
		r.NAT = &topology.NAT{}
	}
	return r.NAT
}
