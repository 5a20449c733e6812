// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package ends_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/inventory"
	c "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/clustertest"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/ends"
)

// at is a moment at which all pods have been there for a while.
var at = c.Start.Add(time.Hour)

func end(address string, port uint16) ends.Endpoint {
	return ends.Endpoint{Addr: addr(address), Port: port}
}

func translated(address string, port uint16, other string, otherPort uint16) ends.Endpoint {
	e := end(address, port)
	e.Other, e.OtherPort = addr(other), otherPort
	return e
}

func of(container string, e ends.Endpoint) ends.Endpoint {
	e.ContainerID = container
	return e
}

func addr(text string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(text)
}

// who says in short who is at an end: pod, or service, or node, with what is known beside it.
func who(e *inventory.End) string {
	text := "outside"
	switch {
	case e.Pod != nil:
		text = e.Pod.Namespace + "/" + e.Pod.Name
	case e.Node != nil:
		text = "node " + e.Node.Name
	case e.InCluster || e.Service != nil:
		text = "cluster"
	}
	if e.Service != nil {
		text += " as " + e.Service.Namespace + "/" + e.Service.Name
	}
	return text
}

func TestBothEndsAreNamed(t *testing.T) {
	const original, after = true, false
	for _, tt := range []struct {
		name                     string
		source, destination      ends.Endpoint
		initiator                flow.Side
		original                 bool
		wantSource, wantDest     string
		wantClass                ends.Class
		reportedBy1, reportedBy2 ends.Reporter
		left1, left2             bool // to another node
	}{
		{
			name: "pod to pod on a node", source: end(c.Client1, 40000), destination: end(c.Web1, c.WebBackendPort), initiator: flow.SourceSide,
			wantSource: "shop/client-1", wantDest: "shop/web-1", wantClass: ends.IntraNode, reportedBy1: ends.ByBoth, reportedBy2: ends.ByTransit, left2: true,
		},
		{
			name: "pod to pod across nodes", source: end(c.Client1, 40000), destination: end(c.Web2, c.WebBackendPort), initiator: flow.SourceSide,
			wantSource: "shop/client-1", wantDest: "shop/web-2", wantClass: ends.InterNode, reportedBy1: ends.BySource, reportedBy2: ends.ByDestination, left2: true,
		},
		{
			name: "and the answer", source: end(c.Web2, c.WebBackendPort), destination: end(c.Client1, 40000), initiator: flow.DestinationSide,
			wantSource: "shop/web-2", wantDest: "shop/client-1", wantClass: ends.InterNode, reportedBy1: ends.ByDestination, reportedBy2: ends.BySource, left1: true,
		},
		{
			name: "over IPv6", source: end(c.Client1v6, 40000), destination: end(c.Web2v6, c.WebBackendPort), initiator: flow.SourceSide,
			wantSource: "shop/client-1", wantDest: "shop/web-2", wantClass: ends.InterNode, reportedBy1: ends.BySource, reportedBy2: ends.ByDestination, left2: true,
		},
		{
			name: "pod to service, before translation", source: end(c.Client1, 40000),
			destination: translated(c.WebService, c.WebServicePort, c.Web2, c.WebBackendPort), initiator: flow.SourceSide, original: original,
			wantSource: "shop/client-1", wantDest: "shop/web-2 as shop/web", wantClass: ends.InterNode, reportedBy1: ends.BySource, reportedBy2: ends.ByDestination, left2: true,
		},
		{
			name: "pod to service, after translation", source: end(c.Client1, 40000),
			destination: translated(c.Web1, c.WebBackendPort, c.WebService, c.WebServicePort), initiator: flow.SourceSide, original: after,
			wantSource: "shop/client-1", wantDest: "shop/web-1 as shop/web", wantClass: ends.IntraNode, reportedBy1: ends.ByBoth, reportedBy2: ends.ByTransit, left2: true,
		},
		{
			name: "a service's answer", source: translated(c.WebService, c.WebServicePort, c.Web2, c.WebBackendPort),
			destination: end(c.Client1, 40000), initiator: flow.DestinationSide, original: original,
			wantSource: "shop/web-2 as shop/web", wantDest: "shop/client-1", wantClass: ends.InterNode, reportedBy1: ends.ByDestination, reportedBy2: ends.BySource, left1: true,
		},
		{
			name: "a service that nobody is behind", source: end(c.Client1, 40000), destination: end(c.WebService, c.WebServicePort), initiator: flow.SourceSide,
			wantSource: "shop/client-1", wantDest: "cluster as shop/web", wantClass: ends.NoClass, reportedBy1: ends.NoReporter,
		},
		{
			name: "headless", source: end(c.Client1, 40000), destination: end(c.DB2, 5432), initiator: flow.SourceSide,
			wantSource: "shop/client-1", wantDest: "data/db-0 as data/db", wantClass: ends.InterNode, reportedBy1: ends.BySource, reportedBy2: ends.ByDestination, left2: true,
		},
		{
			name: "a node port, masqueraded to the other node: at the first", initiator: flow.SourceSide, original: original,
			source: translated(c.Outside, 50000, c.Gateway1, 50000), destination: translated(c.Node1, c.WebNodePort, c.Web2, c.WebBackendPort),
			wantSource: "outside", wantDest: "shop/web-2 as shop/web", wantClass: ends.Ingress, reportedBy1: ends.ByTransit, reportedBy2: ends.ByDestination, left2: true,
		},
		{
			name: "and at the second, which sees the first for the source", initiator: flow.SourceSide,
			source: end(c.Gateway1, 50000), destination: end(c.Web2, c.WebBackendPort),
			wantSource: "node n1", wantDest: "shop/web-2", wantClass: ends.InterNode, reportedBy1: ends.BySource, reportedBy2: ends.ByDestination, left2: true,
		},
		{
			name: "another node's node port, called by a pod: at that node, which hides it once more", initiator: flow.SourceSide, original: original,
			source: translated(c.Node1, 50000, "10.244.2.0", 50001), destination: translated(c.Node2, c.WebNodePort, c.Web2, c.WebBackendPort),
			wantSource: "node n1", wantDest: "shop/web-2 as shop/web", wantClass: ends.InterNode, reportedBy1: ends.BySource, reportedBy2: ends.ByDestination, left2: true,
		},
		{
			name: "a node port of a pod on the same node, not masqueraded", initiator: flow.SourceSide, original: original,
			source: end(c.Outside, 50000), destination: translated(c.Node1, c.WebNodePort, c.Web1, c.WebBackendPort),
			wantSource: "outside", wantDest: "shop/web-1 as shop/web", wantClass: ends.Ingress, reportedBy1: ends.ByDestination, reportedBy2: ends.ByTransit, left2: true,
		},
		{
			name: "pod to outside, masqueraded, before translation", initiator: flow.SourceSide, original: original,
			source: translated(c.Client1, 40000, c.Node1, 61000), destination: end(c.Outside, 443),
			wantSource: "shop/client-1", wantDest: "outside", wantClass: ends.Egress, reportedBy1: ends.BySource, reportedBy2: ends.ByTransit, left2: true,
		},
		{
			name: "pod to outside, masqueraded, after translation", initiator: flow.SourceSide, original: after,
			source: translated(c.Node1, 61000, c.Client1, 40000), destination: end(c.Outside, 443),
			wantSource: "shop/client-1", wantDest: "outside", wantClass: ends.Egress, reportedBy1: ends.BySource, reportedBy2: ends.ByTransit, left2: true,
		},
		{
			name: "its answer, before the translation back", initiator: flow.DestinationSide, original: after,
			source: end(c.Outside, 443), destination: translated(c.Node1, 61000, c.Client1, 40000),
			wantSource: "outside", wantDest: "shop/client-1", wantClass: ends.Ingress, reportedBy1: ends.ByDestination, reportedBy2: ends.ByTransit, left2: true,
		},
		{
			name: "node to pod", source: end(c.Gateway1, 40000), destination: end(c.Web1, c.WebBackendPort), initiator: flow.SourceSide,
			wantSource: "node n1", wantDest: "shop/web-1", wantClass: ends.IntraNode, reportedBy1: ends.ByBoth, reportedBy2: ends.ByTransit, left2: true,
		},
		{
			name: "a pod in the host's network, by its container", source: of(c.NodeShell, end(c.Node1, 40000)),
			destination: end(c.Web2, c.WebBackendPort), initiator: flow.SourceSide,
			wantSource: "kube-system/agent-1", wantDest: "shop/web-2", wantClass: ends.InterNode, reportedBy1: ends.BySource, reportedBy2: ends.ByDestination, left2: true,
		},
		{
			name: "two of them, of which one is known by its port", source: of(c.NodeShell, end(c.Node1, 40000)),
			destination: end(c.Node2, 9100), initiator: flow.SourceSide,
			wantSource: "kube-system/agent-1", wantDest: "kube-system/agent-2", wantClass: ends.InterNode, reportedBy1: ends.BySource, reportedBy2: ends.ByDestination, left2: true,
		},
		{
			name: "one that calls a service, whose answer comes back", initiator: flow.DestinationSide, original: original,
			source: translated(c.WebService, c.WebServicePort, c.Web1, c.WebBackendPort), destination: of(c.NodeShell, end(c.Node1, 40000)),
			wantSource: "shop/web-1 as shop/web", wantDest: "kube-system/agent-1", wantClass: ends.IntraNode, reportedBy1: ends.ByBoth, reportedBy2: ends.ByTransit, left2: true,
		},
		{
			name: "a translation of which it is not known who opened", initiator: flow.NoSide, original: original,
			source: end(c.Client1, 0), destination: translated(c.WebService, 0, c.Web2, 0),
			wantSource: "shop/client-1", wantDest: "shop/web-2 as shop/web", wantClass: ends.InterNode, reportedBy1: ends.BySource, reportedBy2: ends.ByDestination, left2: true,
		},
		{
			name: "an address of a node's pods that nobody has", source: end("10.244.2.77", 1), destination: end(c.Client1, 2), initiator: flow.SourceSide,
			wantSource: "node n2", wantDest: "shop/client-1", wantClass: ends.InterNode, reportedBy1: ends.ByDestination, reportedBy2: ends.BySource, left1: true,
		},
		{
			name: "all on a link", source: end(c.Client1, 5353), destination: end("224.0.0.251", 5353), initiator: flow.SourceSide,
			wantSource: "shop/client-1", wantDest: "outside", wantClass: ends.NoClass,
		},
		{
			name: "a host with itself", source: end("127.0.0.1", 40000), destination: end("127.0.0.1", 80), initiator: flow.SourceSide,
			wantSource: "outside", wantDest: "outside", wantClass: ends.IntraNode, reportedBy1: ends.ByTransit, reportedBy2: ends.ByTransit,
		},
		{
			name: "neither end is the cluster's", source: end(c.Outside, 1), destination: end("198.51.100.7", 2), initiator: flow.SourceSide,
			wantSource: "outside", wantDest: "outside", wantClass: ends.NoClass,
		},
		{
			name: "an end that is not told", source: ends.Endpoint{}, destination: end(c.Web1, 53), initiator: flow.SourceSide,
			wantSource: "outside", wantDest: "shop/web-1", wantClass: ends.NoClass,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := ends.Flow{
				Source: tt.source, Destination: tt.destination, Protocol: flow.TCP, First: at, Last: at.Add(time.Second),
				Initiator: tt.initiator, Original: tt.original, Translated: tt.source.Other.IsValid() || tt.destination.Other.IsValid(),
			}
			var names ends.Names
			namer := ends.Namer{Resolver: c.New()}
			namer.Name(&f, &names)
			require.Equal(t, tt.wantSource, who(&names.Source))
			require.Equal(t, tt.wantDest, who(&names.Destination))
			require.Equal(t, tt.wantClass, names.Class, names.Class.String())
			require.Equal(t, tt.reportedBy1, names.ReportedBy("n1"), "by n1: %s", names.ReportedBy("n1"))
			if tt.reportedBy2 != ends.NoReporter || tt.left2 {
				require.Equal(t, tt.reportedBy2, names.ReportedBy("n2"), "by n2: %s", names.ReportedBy("n2"))
			}
			require.Equal(t, tt.left1, names.AnothersToReport("n1"), "left by n1")
			require.Equal(t, tt.left2, names.AnothersToReport("n2"), "left by n2")
			require.False(t, names.AnothersToReport(""), "without a node")
			require.Equal(t, ends.NoReporter, names.ReportedBy(""))
		})
	}
}

// Whatever two nodes report, one of them and no more does it for metrics.
func TestOneNodeReports(t *testing.T) {
	addresses := []string{c.Node1, c.Node2, c.Gateway1, c.Client1, c.Web1, c.Web2, c.DB2, c.Outside}
	namer := ends.Namer{Resolver: c.New()}
	for _, source := range addresses {
		for _, destination := range addresses {
			f := ends.Flow{Source: end(source, 40000), Destination: end(destination, 80), Protocol: flow.TCP, First: at, Last: at, Initiator: flow.SourceSide}
			var names ends.Names
			namer.Name(&f, &names)
			if names.Class != ends.InterNode {
				continue
			}
			require.NotEqual(t, names.AnothersToReport("n1"), names.AnothersToReport("n2"), "%s to %s", source, destination)
		}
	}
}

// What nobody is known to have may yet be the cluster's while not all has been read.
func TestNothingIsOutsideOfWhatIsNotKnown(t *testing.T) {
	namer := ends.Namer{Resolver: c.New(), Incomplete: true}
	var names ends.Names
	namer.Name(&ends.Flow{Source: end(c.Client1, 1), Destination: end(c.Outside, 2), Protocol: flow.TCP, First: at, Last: at}, &names)
	require.Equal(t, ends.NoClass, names.Class)
	namer.Name(&ends.Flow{Source: end(c.Client1, 1), Destination: end(c.Web2, 2), Protocol: flow.TCP, First: at, Last: at}, &names)
	require.Equal(t, ends.InterNode, names.Class)
}

func TestTunnelsEndAtNodes(t *testing.T) {
	namer := ends.Namer{Resolver: c.New()}
	var names ends.Names
	f := ends.Flow{
		Source: end(c.Client1, 40000), Destination: end("10.96.0.99", 80), Protocol: flow.TCP, First: at, Last: at,
		TunnelSource: addr(c.Node1), TunnelDestination: addr(c.Node2),
	}
	namer.Name(&f, &names)
	require.Equal(t, "n1", names.TunnelSource.Name)
	require.Equal(t, "n2", names.TunnelDestination.Name)
	f.TunnelSource, f.TunnelDestination = netip.Addr{}, netip.Addr{}
	namer.Name(&f, &names)
	require.Nil(t, names.TunnelSource)
	require.Nil(t, names.TunnelDestination)
}

func TestNamingAllocatesNothing(t *testing.T) {
	namer := ends.Namer{Resolver: c.New()}
	var names ends.Names
	f := ends.Flow{
		Source: end(c.Client1, 40000), Destination: translated(c.WebService, c.WebServicePort, c.Web2, c.WebBackendPort),
		Protocol: flow.TCP, First: at, Last: at, Initiator: flow.SourceSide, Translated: true, Original: true,
		TunnelSource: addr(c.Node1), TunnelDestination: addr(c.Node2),
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { namer.Name(&f, &names) }))
}
