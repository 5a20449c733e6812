// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

const grace = time.Minute

var (
	start   = time.Unix(1_000_000, 0)
	addr    = netip.MustParseAddr
	podIP   = addr("10.244.1.7")
	nodeIP  = addr("192.168.0.1")
	cluster = addr("10.96.0.10")
)

func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

func pod(name string, from float64, change ...func(*Pod)) *Pod {
	p := &Pod{
		UID: UID("uid-" + name), Namespace: "default", Name: name, Node: "a", Addresses: []netip.Addr{podIP}, From: at(from),
		Controller:   Workload{Kind: "ReplicaSet", Name: "web-1", UID: "rs"},
		ContainerIDs: []string{"container-" + name},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func node(name string, change ...func(*Node)) *Node {
	n := &Node{UID: UID(name), Name: name, Zone: "z", Addresses: []netip.Addr{nodeIP}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
	for _, c := range change {
		c(n)
	}
	return n
}

// seen asks for an address whose packets were seen from one second to another.
func seen(a netip.Addr, from, to float64) *Query {
	return &Query{Addr: a, Port: 80, Protocol: flow.TCP, First: at(from), Last: at(to)}
}

func resolve(s *Store, q *Query) End {
	var end End
	s.Resolve(q, &end)
	return end
}

func podName(s *Store, q *Query) string {
	if p := resolve(s, q).Pod; p != nil {
		return p.Name
	}
	return ""
}

func TestPodByAddress(t *testing.T) {
	s := NewStore(grace)
	s.SetNode(node("a"))
	p := pod("web", 0)
	s.SetPod(p)
	want := End{Pod: p, Workload: p.Controller, Node: s.nodes["a"], InCluster: true}
	require.Equal(t, want, resolve(s, seen(podIP, 10, 11)))

	s.SetOwner("rs", Workload{Kind: "Deployment", Name: "web", UID: "d"})
	want.Workload = Workload{Kind: "Deployment", Name: "web", UID: "d"}
	require.Equal(t, want, resolve(s, seen(podIP, 10, 11)))
	s.SetOwner("rs", Workload{}) // orphaned
	require.Equal(t, p.Controller, resolve(s, seen(podIP, 10, 11)).Workload)

	require.Equal(t, End{}, resolve(s, seen(addr("203.0.113.1"), 10, 11)))
}

// What a map from addresses to pods gets wrong.
func TestAddressThatAnotherPodGets(t *testing.T) {
	s := NewStore(grace)
	s.SetPod(pod("old", 0))
	s.DeletePod("uid-old", at(100))
	s.SetPod(pod("new", 110))
	for _, tt := range []struct {
		from, to float64
		want     string
	}{
		{50, 55, "old"},
		{95, 99, "old"},
		{98, 100.5, "old"}, // its last packets, of the second that the API tells
		{101.5, 105, ""},   // nobody had it
		{110, 112, "new"},
		{108, 112, "new"},
		{99, 112, ""}, // both may have sent
		{200, 205, "new"},
	} {
		require.Equal(t, tt.want, podName(s, seen(podIP, tt.from, tt.to)), "%v to %v", tt.from, tt.to)
	}
	// the API may tell of the new one first
	s = NewStore(grace)
	s.SetPod(pod("old", 0))
	s.SetPod(pod("new", 110))
	require.Equal(t, "old", podName(s, seen(podIP, 50, 55)))
	require.Empty(t, podName(s, seen(podIP, 111, 112)), "it cannot be both")
	s.DeletePod("uid-old", at(100))
	require.Equal(t, "new", podName(s, seen(podIP, 111, 112)))
}

// Others go on sending to a pod whose last container has ended, as the kubelet's probes do,
// until its network is taken down: here at 106.2, and the next pod's is ready at 106.3. The
// API has 105 and 106.
func TestAddressThatAnotherPodGetsAtOnce(t *testing.T) {
	s := NewStore(grace)
	s.SetPod(pod("old", 0, func(p *Pod) { p.Until = at(105) }))
	s.SetPod(pod("new", 106))
	for _, tt := range []struct {
		from, to float64
		want     string
	}{
		{104, 105.2, "old"},
		{104, 105.9, "old"}, // it began before the end
		{105.7, 105.7, ""},  // the next one's network may have been there before the kubelet looked
		{106.02, 106.02, ""},
		{105, 107, ""},
		{106.5, 108, ""}, // which is the new one's, but nothing tells
		{107, 107.1, "new"},
	} {
		require.Equal(t, tt.want, podName(s, seen(podIP, tt.from, tt.to)), "%v to %v", tt.from, tt.to)
	}
}

// A pod sends before the API says that it has been started.
func TestPodThatSendsAtOnce(t *testing.T) {
	s := NewStore(grace)
	s.SetPod(pod("web", 10))
	require.Equal(t, "web", podName(s, seen(podIP, 8, 9)))
	require.Empty(t, podName(s, seen(podIP, -60, -59)), "that was somebody else")
}

func TestPodStaysForTheGraceTime(t *testing.T) {
	s := NewStore(grace)
	s.SetPod(pod("web", 0))
	s.DeletePod("uid-web", at(100))
	s.DeletePod("uid-web", at(130)) // a second time changes nothing
	s.DeletePod("nobody", at(100))
	s.Expire(at(160))
	require.Equal(t, "web", podName(s, seen(podIP, 90, 95)))
	s.Expire(at(161))
	require.Equal(t, End{}, resolve(s, seen(podIP, 90, 95)))
	require.Zero(t, s.Sizes())
	require.Empty(t, s.byAddr)
	require.Empty(t, s.byContainer)
}

// A pod that has ended stays in the API, and loses its addresses there at times.
func TestPodThatHasEnded(t *testing.T) {
	s := NewStore(grace)
	s.SetPod(pod("job", 0))
	s.SetPod(pod("job", 0, func(p *Pod) { p.Until, p.Addresses = at(50), nil }))
	require.Equal(t, "job", podName(s, seen(podIP, 40, 45)))
	require.Empty(t, podName(s, seen(podIP, 60, 65)))
	s.SetPod(pod("next", 55))
	require.Equal(t, "next", podName(s, seen(podIP, 60, 65)))
	s.Expire(at(1000))
	require.Equal(t, 1, s.Sizes().Pods)
	require.Equal(t, "next", podName(s, seen(podIP, 60, 65)))
}

// A restart of the API's watch tells of pods anew.
func TestPodToldAgainIsThereOnce(t *testing.T) {
	s := NewStore(grace)
	for range 3 {
		s.SetPod(pod("web", 0))
	}
	require.Len(t, s.byAddr[podIP], 1)
	require.Equal(t, "web", podName(s, seen(podIP, 1, 2)))
}

func TestContainerTellsBest(t *testing.T) {
	s := NewStore(grace)
	s.SetNode(node("a"))
	s.SetPod(pod("web", 0))
	s.SetPod(pod("host", 0, func(p *Pod) { p.HostNetwork, p.Addresses = true, []netip.Addr{nodeIP} }))
	q := seen(nodeIP, 10, 11)
	require.Nil(t, resolve(s, q).Pod, "a node's address is not that of a pod in its network")
	require.Equal(t, "a", resolve(s, q).Node.Name)
	q.ContainerID = "container-host"
	require.Equal(t, "host", podName(s, q))
	q.ContainerID = "container-nobody"
	require.Empty(t, podName(s, q))
}

func TestHostPorts(t *testing.T) {
	s := NewStore(grace)
	s.SetNode(node("a"))
	s.SetNode(node("b", func(n *Node) { n.Addresses, n.PodCIDRs = []netip.Addr{addr("192.168.0.2")}, nil }))
	s.SetPod(pod("exporter", 0, func(p *Pod) { p.HostNetwork, p.HostPorts = true, []Port{{flow.TCP, 80}} }))
	require.Equal(t, "exporter", podName(s, seen(nodeIP, 10, 11)))
	require.Empty(t, podName(s, seen(addr("192.168.0.2"), 10, 11)), "on the other node nobody has it")
	q := seen(nodeIP, 10, 11)
	q.Protocol = flow.UDP
	require.Empty(t, podName(s, q))
	s.DeletePod("uid-exporter", at(20))
	require.Equal(t, "exporter", podName(s, seen(nodeIP, 10, 11)))
	require.Empty(t, podName(s, seen(nodeIP, 30, 31)))
}

func service(name string, change ...func(*Service)) *Service {
	svc := &Service{Namespace: "default", Name: name, Type: "ClusterIP", Addresses: []netip.Addr{cluster}, Ports: []ServicePort{{Port: Port{flow.TCP, 80}}}}
	for _, c := range change {
		c(svc)
	}
	return svc
}

func TestServices(t *testing.T) {
	s := NewStore(grace)
	s.SetNode(node("a"))
	svc := service("web", func(svc *Service) {
		svc.Type = "LoadBalancer"
		svc.Addresses = append(svc.Addresses, addr("203.0.113.5"), addr("fd00::5"))
		svc.Ports = []ServicePort{{Port{flow.TCP, 80}, 30080}, {Port{flow.UDP, 53}, 30053}}
	})
	s.SetService(svc)
	want := End{Service: svc, InCluster: true}
	for _, a := range svc.Addresses {
		require.Equal(t, want, resolve(s, seen(a, 1, 2)))
	}
	q := seen(cluster, 1, 2)
	q.Port = 0
	require.Equal(t, want, resolve(s, q), "ICMP has no ports")

	q = seen(nodeIP, 1, 2)
	q.Port = 30080
	require.Equal(t, End{Node: s.nodes["a"], Service: svc, InCluster: true}, resolve(s, q))
	q.Protocol = flow.UDP
	require.Nil(t, resolve(s, q).Service)

	s.SetService(service("web")) // of another type now
	require.Equal(t, End{}, resolve(s, seen(addr("203.0.113.5"), 1, 2)))
	q.Protocol = flow.TCP
	require.Nil(t, resolve(s, q).Service)
	s.DeleteService("default", "web")
	require.Equal(t, End{}, resolve(s, seen(cluster, 1, 2)))
	require.Empty(t, s.frontends)
}

// A service that gets the address of another before the API tells that it is gone.
func TestServiceThatTakesAnAddressOver(t *testing.T) {
	s := NewStore(grace)
	s.SetService(service("old"))
	s.SetService(service("new"))
	s.DeleteService("default", "old")
	require.Equal(t, "new", resolve(s, seen(cluster, 1, 2)).Service.Name)
}

func TestHeadlessService(t *testing.T) {
	s := NewStore(grace)
	s.SetPod(pod("db-0", 0))
	headless := service("db", func(svc *Service) { svc.Headless, svc.Addresses = true, nil })
	s.SetService(headless)
	s.SetEndpoints(&Endpoints{UID: "e1", Namespace: "default", Service: "db", Addresses: []netip.Addr{podIP}, Ports: []Port{{flow.TCP, 80}}})
	require.Equal(t, headless, resolve(s, seen(podIP, 1, 2)).Service)
	q := seen(podIP, 1, 2)
	q.Port = 81
	require.Nil(t, resolve(s, q).Service, "not its port")

	// two services with the same backend: nothing tells which was meant
	s.SetService(service("other", func(svc *Service) { svc.Headless, svc.Addresses = true, nil }))
	s.SetEndpoints(&Endpoints{UID: "e2", Namespace: "default", Service: "other", Addresses: []netip.Addr{podIP}, Ports: []Port{{flow.TCP, 80}}})
	require.Nil(t, resolve(s, seen(podIP, 1, 2)).Service)
	s.DeleteEndpoints("e2")
	require.Equal(t, headless, resolve(s, seen(podIP, 1, 2)).Service)
	s.SetService(service("db"))
	require.Nil(t, resolve(s, seen(podIP, 1, 2)).Service, "it is reached by its own address")
	s.DeleteEndpoints("e1")
	require.Empty(t, s.backends)
}

func TestNodes(t *testing.T) {
	s := NewStore(grace)
	a := node("a", func(n *Node) {
		n.Addresses = append(n.Addresses, addr("fd00::1"))
		n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix("fd00:1::/64"))
		n.Flannel = &Flannel{Backend: "vxlan", V4: &FlannelBackend{PublicIP: addr("198.51.100.1")}}
	})
	s.SetNode(a)
	for _, at := range []string{"192.168.0.1", "fd00::1", "10.244.1.200", "fd00:1::9"} {
		require.Equal(t, a, resolve(s, seen(addr(at), 1, 2)).Node, at)
	}
	require.Nil(t, resolve(s, seen(addr("10.244.2.1"), 1, 2)).Node)
	require.Equal(t, a, s.NodeByTunnelEnd(addr("198.51.100.1")))
	require.Equal(t, a, s.NodeByTunnelEnd(nodeIP), "most have no other address")
	require.Nil(t, s.NodeByTunnelEnd(addr("198.51.100.2")))

	// a larger network of another node has what is not in a smaller one
	b := node("b", func(n *Node) { n.Addresses, n.PodCIDRs = nil, []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")} })
	s.SetNode(b)
	require.Equal(t, a, resolve(s, seen(addr("10.244.1.200"), 1, 2)).Node)
	require.Equal(t, b, resolve(s, seen(addr("10.244.2.1"), 1, 2)).Node)

	s.DeleteNode("a")
	require.Equal(t, End{}, resolve(s, seen(nodeIP, 1, 2)))
	require.Equal(t, b, resolve(s, seen(addr("10.244.1.200"), 1, 2)).Node)
	s.DeleteNode("b")
	require.Zero(t, s.Sizes())
	require.Equal(t, End{}, resolve(s, seen(addr("10.244.1.200"), 1, 2)))
}

func TestReady(t *testing.T) {
	s := NewStore(grace)
	require.False(t, s.Ready())
	s.SetReady(true)
	require.True(t, s.Ready())
}

func TestInvalidAddress(t *testing.T) {
	s := NewStore(grace)
	s.SetNode(node("a"))
	require.Equal(t, End{}, resolve(s, seen(netip.Addr{}, 1, 2)))
}

func TestNodesByName(t *testing.T) {
	s := NewStore(grace)
	require.Empty(t, s.Nodes())
	for _, name := range []string{"b", "c", "a"} {
		s.SetNode(node(name))
	}
	s.DeleteNode("c")
	var names []string
	for _, n := range s.Nodes() {
		names = append(names, n.Name)
	}
	require.Equal(t, []string{"a", "b"}, names)
}

// With a Deployment its ReplicaSet goes first, then its pods do.
func TestPodsOutliveWhatManagesThem(t *testing.T) {
	s := NewStore(grace)
	deployment := Workload{Kind: "Deployment", Name: "web", UID: "d"}
	s.SetOwner("rs", deployment)
	s.SetPod(pod("web", 0))
	s.SetPod(pod("web-2", 0, func(p *Pod) { p.Addresses = []netip.Addr{addr("10.244.1.8")} }))
	s.DeleteOwner("rs")
	require.Equal(t, deployment, resolve(s, seen(podIP, 10, 11)).Workload)
	s.SetPod(pod("web", 0)) // told again
	s.DeletePod("uid-web", at(100))
	require.Equal(t, deployment, resolve(s, seen(podIP, 10, 11)).Workload, "for what it sent before")
	s.DeletePod("uid-web-2", at(110))
	s.Expire(at(165))
	require.Equal(t, 1, s.Sizes().Owners, "one pod is left")
	s.Expire(at(1000))
	require.Zero(t, s.Sizes())
	require.Empty(t, s.managed)
	s.SetOwner("other", deployment) // which never had a pod
	s.DeleteOwner("other")
	require.Zero(t, s.Sizes())
}

// Whoever gets an address next has not had it before, also when the one that had it is
// long forgotten.
func TestAddressIsNotInherited(t *testing.T) {
	s := NewStore(0)
	s.SetPod(pod("old", 0))
	s.DeletePod("uid-old", at(102.5))
	s.Expire(at(103))
	s.SetPod(pod("new", 102)) // of which the API says only the second
	require.Equal(t, "old", podName(s, seen(podIP, 95, 96)))
	require.Empty(t, podName(s, seen(podIP, 102.1, 102.2)))
	s.Expire(at(200))
	require.Equal(t, 1, s.Sizes().Pods)
	s.SetPod(pod("new", 102, func(p *Pod) { p.Labels = []KeyValue{{"app", "web"}} }))
	require.Empty(t, podName(s, seen(podIP, 95, 96)), "that was the old one's")
	require.Empty(t, podName(s, seen(podIP, 102.1, 102.2)), "that, too")
	require.Equal(t, "new", podName(s, seen(podIP, 104, 105)))
}

// An init container may have the same port as a container.
func TestHostPortThatIsNamedTwice(t *testing.T) {
	s := NewStore(grace)
	s.SetNode(node("a"))
	s.SetPod(pod("exporter", 0, func(p *Pod) { p.HostNetwork, p.HostPorts = true, []Port{{flow.TCP, 80}, {flow.TCP, 80}} }))
	require.Equal(t, "exporter", podName(s, seen(nodeIP, 10, 11)))
	s.DeletePod("uid-exporter", at(20))
	s.Expire(at(1000))
	require.Empty(t, s.byHostPort)
}

// What is deleted takes nothing from what shares an address with it.
func TestServicesThatShareAnAddress(t *testing.T) {
	s := NewStore(grace)
	port := func(number uint16) func(*Service) {
		return func(svc *Service) { svc.Ports = []ServicePort{{Port: Port{flow.TCP, number}}} }
	}
	s.SetService(service("web", port(80)))
	s.SetService(service("mail", port(25)))
	s.SetService(service("web-2", port(80)))
	s.SetService(service("web", port(80))) // told again: who came last stays it
	require.Equal(t, "web-2", resolve(s, seen(cluster, 1, 2)).Service.Name)
	s.DeleteService("default", "web-2")
	require.Equal(t, "web", resolve(s, seen(cluster, 1, 2)).Service.Name)
	q := seen(cluster, 1, 2)
	q.Port = 0
	require.Equal(t, End{InCluster: true}, resolve(s, q), "it may be either's")
	s.DeleteService("default", "mail")
	require.Equal(t, "web", resolve(s, q).Service.Name)
	s.DeleteService("default", "web")
	require.Empty(t, s.anyPort)
	require.Empty(t, s.frontends)
}

// As k3s' load balancer does it: of a node's address a service has its own port.
func TestServiceAtANodesAddress(t *testing.T) {
	s := NewStore(grace)
	s.SetNode(node("a"))
	svc := service("ingress", func(svc *Service) { svc.Addresses = append(svc.Addresses, nodeIP) })
	s.SetService(svc)
	s.SetPod(pod("exporter", 0, func(p *Pod) { p.HostNetwork, p.HostPorts = true, []Port{{flow.TCP, 9100}} }))
	require.Equal(t, End{Service: svc, Node: s.nodes["a"], InCluster: true}, resolve(s, seen(nodeIP, 1, 2)))
	q := seen(nodeIP, 1, 2)
	q.Port = 9100
	require.Equal(t, "exporter", podName(s, q))
	q.Port = 22
	require.Equal(t, End{Node: s.nodes["a"], InCluster: true}, resolve(s, q))
}

// A node that comes back under another name: the old one is told of until it is deleted.
func TestNodesThatShareAnAddress(t *testing.T) {
	s := NewStore(grace)
	change := func(n *Node) { n.Flannel = &Flannel{V4: &FlannelBackend{PublicIP: addr("198.51.100.1")}} }
	s.SetNode(node("old", change))
	s.SetNode(node("new", change))
	is := func(name string) {
		t.Helper()
		require.Equal(t, name, resolve(s, seen(nodeIP, 1, 2)).Node.Name)
		require.Equal(t, name, resolve(s, seen(addr("10.244.1.200"), 1, 2)).Node.Name)
		require.Equal(t, name, s.NodeByTunnelEnd(addr("198.51.100.1")).Name)
	}
	is("new")
	s.SetNode(node("old", change)) // it is not ready
	is("new")
	s.DeleteNode("old")
	is("new")
	s.DeleteNode("new")
	require.Equal(t, End{}, resolve(s, seen(addr("10.244.1.200"), 1, 2)))
	require.Empty(t, s.tunnelEnds)
}

// Endpoints move from one slice of a service to another.
func TestBackendInTwoSlices(t *testing.T) {
	s := NewStore(grace)
	s.SetPod(pod("db-0", 0))
	s.SetService(service("db", func(svc *Service) { svc.Headless, svc.Addresses = true, nil }))
	slice := func(uid UID, service string) *Endpoints {
		return &Endpoints{UID: uid, Namespace: "default", Service: service, Addresses: []netip.Addr{podIP}, Ports: []Port{{flow.TCP, 80}}}
	}
	s.SetEndpoints(slice("e1", "db"))
	s.SetEndpoints(slice("e2", "db"))
	s.SetEndpoints(slice("e3", "")) // is of no service
	require.Equal(t, "db", resolve(s, seen(podIP, 1, 2)).Service.Name)
	s.DeleteEndpoints("e1")
	require.NotNil(t, resolve(s, seen(podIP, 1, 2)).Service)
	s.DeleteEndpoints("e2")
	s.DeleteEndpoints("e3")
	require.Empty(t, s.backends)
}

// When a node starts again its pods get other addresses, also those of one another.
func TestPodThatGetsAnotherAddress(t *testing.T) {
	other := addr("10.244.1.8")
	s := NewStore(grace)
	s.SetPod(pod("web", 0))
	s.SetPod(pod("web", 100, func(p *Pod) { p.Addresses = []netip.Addr{other} }))
	s.SetPod(pod("db", 101))
	require.Equal(t, "web", podName(s, seen(podIP, 90, 95)))
	require.Equal(t, "db", podName(s, seen(podIP, 103, 104)))
	require.Equal(t, "web", podName(s, seen(other, 103, 104)))
	require.Equal(t, 2, s.Sizes().Pods)
	s.Expire(at(1000))
	require.Empty(t, podName(s, seen(podIP, 90, 95)), "that was the other's")
	require.Equal(t, "db", podName(s, seen(podIP, 103, 104)))
	require.Zero(t, s.Sizes().Gone)
	s.DeletePod("uid-web", at(1000))
	s.DeletePod("uid-db", at(1000))
	s.Expire(at(2000))
	require.Zero(t, s.Sizes())
	require.Empty(t, s.byAddr)
}
