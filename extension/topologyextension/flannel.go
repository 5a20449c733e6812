// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"time"

	"github.com/netprobe-otel/netprobe/internal/inventory"
)

type (
	flannelAnswer struct {
		Nodes       []flannelNode       `json:"nodes"`
		Host        *flannelHost        `json:"host,omitempty"`
		VXLANPort   uint16              `json:"vxlan_port,omitempty"`
		Subnets     map[string]string   `json:"subnets"`
		Differences []flannelDifference `json:"differences"`
	}

	flannelNode struct {
		Name     string          `json:"name"`
		Backend  string          `json:"backend"`
		PodCIDRs []string        `json:"pod_cidrs"`
		PublicIP string          `json:"public_ip,omitempty"`
		VNI      *uint32         `json:"vni,omitempty"`
		VTEPMAC  string          `json:"vtep_mac,omitempty"`
		V6       *flannelBackend `json:"v6,omitempty"`
	}

	flannelBackend struct {
		PublicIP string  `json:"public_ip,omitempty"`
		VNI      *uint32 `json:"vni,omitempty"`
		VTEPMAC  string  `json:"vtep_mac,omitempty"`
	}

	flannelHost struct {
		Node    string          `json:"node"`
		Read    *time.Time      `json:"read,omitempty"`
		Devices []flannelDevice `json:"devices"`
	}

	flannelDevice struct {
		Index    int     `json:"index"`
		Name     string  `json:"name"`
		Type     string  `json:"type"`
		Up       bool    `json:"up"`
		MTU      int     `json:"mtu"`
		MAC      string  `json:"mac,omitempty"`
		VNI      *uint32 `json:"vni,omitempty"`
		Port     uint16  `json:"port,omitempty"`
		Local    string  `json:"local,omitempty"`
		Underlay string  `json:"underlay,omitempty"`
	}

	flannelDifference struct {
		Kind       string    `json:"kind"`
		Node       string    `json:"node,omitempty"`
		Subject    string    `json:"subject"`
		Annotation string    `json:"annotation"`
		Host       string    `json:"host"`
		Since      time.Time `json:"since"`
	}
)

// flannelView gives what flannel says of nodes, and what the host shows of it.
func (e *topologyExtension) flannelView(*query) (any, error) {
	out := &flannelAnswer{Nodes: []flannelNode{}, Subnets: map[string]string{}, Differences: []flannelDifference{}}
	if e.flannel == nil {
		return out, nil
	}
	view := e.flannel.Flannel()
	for _, n := range view.Nodes {
		node := flannelNode{Name: n.Name, PodCIDRs: textsOf(n.PodCIDRs)}
		for _, prefix := range n.PodCIDRs {
			out.Subnets[prefix.String()] = n.Name
		}
		if f := n.Flannel; f != nil {
			node.Backend = f.Backend
			if v4 := backendOf(f.V4); v4 != nil {
				node.PublicIP, node.VNI, node.VTEPMAC = v4.PublicIP, v4.VNI, v4.VTEPMAC
			}
			node.V6 = backendOf(f.V6)
		}
		out.Nodes = append(out.Nodes, node)
	}
	if view.Host != "" {
		out.Host = &flannelHost{Node: view.Host, Read: timeOf(view.Read), Devices: []flannelDevice{}}
	}
	for _, d := range view.Devices {
		device := flannelDevice{Index: d.Index, Name: d.Name, Type: d.Type, Up: d.Up, MTU: d.MTU, MAC: d.MAC.String(), Port: d.Port, Underlay: d.Underlay}
		if d.Type == "vxlan" {
			device.VNI, out.VXLANPort = &d.VNI, d.Port
		}
		if d.Local.IsValid() {
			device.Local = d.Local.String()
		}
		if out.Host != nil {
			out.Host.Devices = append(out.Host.Devices, device)
		}
	}
	for _, d := range view.Differences {
		out.Differences = append(out.Differences, flannelDifference{d.Kind, d.Node, d.Subject, d.Annotation, d.Host, d.Since.UTC()})
	}
	return out, nil
}

func backendOf(b *inventory.FlannelBackend) *flannelBackend {
	if b == nil {
		return nil
	}
	out := &flannelBackend{VTEPMAC: b.VTEPMAC.String()}
	if b.PublicIP.IsValid() {
		out.PublicIP = b.PublicIP.String()
	}
	if b.HasVNI {
		out.VNI = &b.VNI
	}
	return out
}
