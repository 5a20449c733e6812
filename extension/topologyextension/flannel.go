// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"net/netip"
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
		// As `bridge fdb`, `ip neighbour` and `ip route` show them.
		FDB        []flannelForwarding `json:"fdb"`
		Neighbours []flannelNeighbour  `json:"neighbours"`
		Routes     []flannelRoute      `json:"routes"`
	}

	flannelForwarding struct {
		Device    string  `json:"device"`
		MAC       string  `json:"mac"`
		Remote    string  `json:"remote,omitempty"`
		Port      uint16  `json:"port,omitempty"`
		VNI       *uint32 `json:"vni,omitempty"`
		Permanent bool    `json:"permanent"`
		Node      string  `json:"node,omitempty"`
	}

	flannelNeighbour struct {
		Device    string `json:"device"`
		Address   string `json:"address"`
		MAC       string `json:"mac,omitempty"`
		Permanent bool   `json:"permanent"`
		Node      string `json:"node,omitempty"`
	}

	flannelRoute struct {
		Destination string `json:"destination"`
		Gateway     string `json:"gateway,omitempty"`
		Device      string `json:"device,omitempty"`
		Unusable    string `json:"unusable,omitempty"`
		Node        string `json:"node,omitempty"`
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
		out.Host = hostOf(&view)
	}
	for _, d := range view.Devices {
		if d.Type == "vxlan" {
			out.VXLANPort = d.Port
		}
	}
	for _, d := range view.Differences {
		out.Differences = append(out.Differences, flannelDifference{d.Kind, d.Node, d.Subject, d.Annotation, d.Host, d.Since.UTC()})
	}
	return out, nil
}

// hostOf gives what the host shows.
func hostOf(view *inventory.FlannelView) *flannelHost {
	host := &flannelHost{
		Node: view.Host, Read: timeOf(view.Read), Devices: []flannelDevice{},
		FDB: []flannelForwarding{}, Neighbours: []flannelNeighbour{}, Routes: []flannelRoute{},
	}
	for _, d := range view.Devices {
		device := flannelDevice{
			Index: d.Index, Name: d.Name, Type: d.Type, Up: d.Up, MTU: d.MTU, MAC: d.MAC.String(), Port: d.Port,
			Local: addrText(d.Local), Underlay: d.Underlay,
		}
		if d.Type == "vxlan" {
			device.VNI = &d.VNI
		}
		host.Devices = append(host.Devices, device)
	}
	for _, e := range view.FDB {
		entry := flannelForwarding{Device: e.Device, MAC: e.MAC, Remote: addrText(e.Remote), Port: e.Port, Permanent: e.Permanent, Node: e.Node}
		if e.VNI != 0 {
			entry.VNI = &e.VNI
		}
		host.FDB = append(host.FDB, entry)
	}
	for _, n := range view.Neighbours {
		host.Neighbours = append(host.Neighbours, flannelNeighbour{n.Device, addrText(n.Addr), n.MAC, n.Permanent, n.Node})
	}
	for _, r := range view.Routes {
		host.Routes = append(host.Routes, flannelRoute{r.Dst.String(), addrText(r.Gateway), r.Device, r.Unusable, r.Node})
	}
	return host
}

// addrText gives "" for no address.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func backendOf(b *inventory.FlannelBackend) *flannelBackend {
	if b == nil {
		return nil
	}
	out := &flannelBackend{VTEPMAC: b.VTEPMAC.String(), PublicIP: addrText(b.PublicIP)}
	if b.HasVNI {
		out.VNI = &b.VNI
	}
	return out
}
