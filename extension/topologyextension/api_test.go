// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configauth"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"sigs.k8s.io/yaml"

	"github.com/netprobe-otel/netprobe/extension/topologyextension/internal/metadata"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/topology"
)

// served is an extension that answers.
type served struct {
	*topologyExtension
	t testing.TB
}

type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

func serve(t testing.TB, h host, change ...func(*Config)) *served {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.ServerConfig.NetAddr.Endpoint = "127.0.0.1:0"
	cfg.Graph.Refresh = 0
	for _, f := range change {
		f(cfg)
	}
	set := extensiontest.NewNopSettings(metadata.Type)
	tel := componenttest.NewTelemetry()
	set.TelemetrySettings = tel.NewTelemetrySettings()
	e, err := newExtension(set, cfg)
	require.NoError(t, err)
	require.NoError(t, e.Start(context.Background(), h))
	t.Cleanup(func() {
		require.NoError(t, e.Shutdown(context.Background()))
		require.NoError(t, tel.Shutdown(context.Background()))
	})
	return &served{e, t}
}

func (s *served) url(path string) string { return "http://" + s.address.String() + path }

func (s *served) get(path string, headers ...string) (*http.Response, []byte) {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.url(path), nil)
	require.NoError(s.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	require.NoError(s.t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	return resp, body
}

func (s *served) json(path string, to any) {
	s.t.Helper()
	resp, body := s.get(path)
	require.Equal(s.t, http.StatusOK, resp.StatusCode, "%s: %s", path, body)
	require.NoError(s.t, json.Unmarshal(body, to))
}

// cluster is an inventory.
type cluster struct {
	component.StartFunc
	component.ShutdownFunc
	*inventory.Store
}

func (cluster) Flannel() inventory.FlannelView {
	return inventory.FlannelView{
		Nodes: []*inventory.Node{{Name: "a", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}, Flannel: &inventory.Flannel{
			Backend: "vxlan", V4: &inventory.FlannelBackend{PublicIP: netip.MustParseAddr("192.0.2.1"), VNI: 1, HasVNI: true, VTEPMAC: []byte{2, 0, 0, 0, 0, 1}},
		}}},
		Host: "a", Read: time.Now(), Devices: []inventory.FlannelDevice{{Index: 4, Name: "flannel.1", Type: "vxlan", Up: true, MTU: 1450, VNI: 1, Port: 8472}},
		FDB:        []inventory.FlannelForwarding{{Device: "flannel.1", Node: "b", MAC: "02:00:00:00:00:02", Remote: netip.MustParseAddr("192.0.2.2"), VNI: 2, Permanent: true}},
		Neighbours: []inventory.FlannelNeighbour{{Device: "flannel.1", Node: "b", Addr: netip.MustParseAddr("10.1.1.0"), MAC: "02:00:00:00:00:02", Permanent: true}},
		Routes: []inventory.FlannelRoute{
			{Device: "cni0", Node: "a", Dst: netip.MustParsePrefix("10.1.0.0/24")},
			{Device: "flannel.1", Node: "b", Dst: netip.MustParsePrefix("10.1.1.0/24"), Gateway: netip.MustParseAddr("10.1.1.0")},
		},
		Differences: []inventory.FlannelDifference{{Kind: "fdb_missing", Node: "b", Subject: "x", Annotation: "y", Host: "z", Since: time.Now()}},
	}
}

func newCluster() cluster {
	s := inventory.NewStore(time.Minute)
	long := time.Now().Add(-time.Hour)
	s.SetNode(&inventory.Node{
		UID: "na", Name: "a", Zone: "z1", Ready: true, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")},
		Flannel: &inventory.Flannel{Backend: "vxlan", V4: &inventory.FlannelBackend{VNI: 1, HasVNI: true}},
	})
	s.SetNode(&inventory.Node{UID: "nb", Name: "b", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.1.0/24")}})
	s.SetPod(&inventory.Pod{
		UID: "p1", Namespace: "shop", Name: "web-1", Node: "a", Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1")}, From: long,
		Controller: inventory.Workload{Kind: "Deployment", Name: "web"}, Labels: []inventory.KeyValue{{Key: "app", Value: "web"}},
	})
	s.SetPod(&inventory.Pod{UID: "p2", Namespace: "shop", Name: "db-0", Node: "b", Addresses: []netip.Addr{netip.MustParseAddr("10.1.1.1")}, From: long})
	s.SetService(&inventory.Service{
		UID: "s1", Namespace: "shop", Name: "db", Type: "ClusterIP", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.5")},
		Ports: []inventory.ServicePort{{Port: inventory.Port{Protocol: flow.TCP, Port: 5432}}},
	})
	s.SetReady(true)
	return cluster{Store: s}
}

var inventoryID = component.MustNewID("k8s_inventory")

func withInventory(cfg *Config) { cfg.Inventory = &inventoryID }

func end(name, addr, node string, port uint16) topology.End {
	e := topology.End{Addr: netip.MustParseAddr(addr), Port: port, Node: node}
	if name != "" {
		e.Namespace, e.Pod, e.WorkloadKind, e.WorkloadName = "shop", name, "Deployment", strings.Split(name, "-")[0]
	}
	return e
}

// talk is traffic of each class and shape.
func (s *served) talk() {
	now := time.Now()
	web, db, out := end("web-1", "10.1.0.1", "a", 40000), end("db-0", "10.1.1.1", "b", 5432), end("", "203.0.113.9", "", 443)
	db.Service = "db"
	s.AddRecords([]topology.Record{
		{
			Time: now, Start: now, Source: web, Destination: db, Transport: "tcp", HasPorts: true, Class: topology.InterNode, Bytes: 3000, Packets: 30,
			RTT: time.Millisecond, Retransmits: 2, Resets: 1, Initiator: topology.SourceSide, CommunityID: "1:a", Reporter: "source", ReportingNode: "a",
			Interface: "eth0", Tunnel: &topology.Tunnel{Type: "vxlan", ID: 1, HasID: true, Source: "192.0.2.1", Destination: "192.0.2.2"},
			NAT: &topology.NAT{Destination: "10.96.0.5", DestinationPort: 5432}, PID: 7, Process: "web", TCPFlags: 27,
		},
		{Time: now, Start: now, Source: db, Destination: web, Transport: "tcp", HasPorts: true, Class: topology.InterNode, Bytes: 9000, Packets: 90, Initiator: topology.DestinationSide, CommunityID: "1:a", Reporter: "source", ReportingNode: "b"},
		{Time: now, Start: now, Source: web, Destination: out, Transport: "tcp", HasPorts: true, Class: topology.Egress, Bytes: 500, Packets: 5, Initiator: topology.SourceSide, CommunityID: "1:b", ReportingNode: "a"},
		{Time: now, Start: now, Source: out, Destination: end("", "192.0.2.1", "a", 0), Transport: "icmp", Class: topology.Ingress, Bytes: 98, Packets: 1, ReportingNode: "a"},
	})
	s.AddDrops([]topology.Record{{Source: web, Destination: out, HasPorts: true, Class: topology.Egress, Drops: 4}})
	s.AddInterfaces([]topology.InterfaceReading{
		{Node: "a", Name: "eth0", At: now, Start: now, Counter: topology.RxBytes, Value: 100}, {Node: "a", Name: "eth0", At: now, Counter: topology.TxUtilization, Ratio: 0.25},
	})
	s.AddLedger([]topology.LedgerReading{{Node: "a", Hook: "tc", Outcome: "seen", Value: 5}, {Node: "a", Hook: "tc", Outcome: "seen", Bytes: true, Value: 500}})
}

// paths are requests that are answered, of each path.
var paths = []string{
	"/api/cluster", "/api/topology", "/api/topology?level=pod&mappings=false", "/api/topology?level=node&window=1h&namespace=shop&direction=inter-node&q=web&min_bytes=1&limit=5",
	"/api/topology?level=service", "/api/topology?level=address&node=a", "/api/topology?level=pod&focus=pod:shop/web-1&depth=2", "/api/topology/diff?from=0", "/api/topology/diff?from=2026-01-01T00:00:00Z&to=4000000000&level=pod",
	"/api/topology/critical-path", "/api/flannel", "/api/stats", "/api/flows", "/api/flows?direction=inter-node&namespace=shop&node=b&q=web&protocol=tcp&port=5432&address=10.1.0.1&limit=1",
	"/api/query/pod?ip=10.1.0.1", "/api/query/service?ip=10.96.0.5&port=5432", "/api/query/node?ip=192.0.2.1", "/api/query/node?ip=10.1.1.77",
	"/api/interfaces", "/api/health", "/api/report", "/api/topology/export?format=dot", "/api/topology/export?format=mermaid&level=pod", "/api/openapi.json", "/healthz", "/readyz",
}

// The document that is served describes every answer, and all paths that there are.
func TestAnswersAreAsTheDocumentSays(t *testing.T) {
	for name, s := range map[string]*served{
		"with a cluster":  serve(t, host{inventoryID: newCluster()}, withInventory),
		"without one":     serve(t, host{}),
		"without traffic": serve(t, host{}),
	} {
		t.Run(name, func(t *testing.T) {
			if name != "without traffic" {
				s.talk()
			}
			_, served := s.get("/api/openapi.json")
			document, err := libopenapi.NewDocument(served)
			require.NoError(t, err)
			v, errs := validator.NewValidator(document)
			require.Empty(t, errs)
			ok, problems := v.ValidateDocument()
			require.True(t, ok, "%v", problems)
			asked := map[string]bool{}
			for _, path := range append(slices.Clone(paths), "/api/topology?limit=x", "/api/query/pod?ip=198.51.100.1") {
				req := httptest.NewRequest(http.MethodGet, path, nil)
				resp, body := s.get(path)
				if resp.StatusCode < 400 {
					ok, problems := v.ValidateHttpRequest(req)
					require.True(t, ok, "%s: %v", path, problems)
				}
				resp.Body = io.NopCloser(bytes.NewReader(body))
				ok, problems := v.ValidateHttpResponse(req, resp)
				if !ok {
					for _, p := range problems {
						t.Errorf("%s: %s %s %v", path, p.Message, p.Reason, p.SchemaValidationErrors)
					}
				}
				asked[req.URL.Path] = true
			}
			var tree struct {
				Paths map[string]any `json:"paths"`
			}
			require.NoError(t, json.Unmarshal(served, &tree))
			for path := range tree.Paths {
				require.True(t, asked[path] || path == "/api/stream", "%s is described and not asked", path)
			}
			for _, r := range s.routes() {
				require.Contains(t, tree.Paths, r.path)
			}
		})
	}
}

// Every parameter of the code is in the document, and the other way round.
func TestParametersAreAsTheDocumentSays(t *testing.T) {
	s := serve(t, host{})
	var tree struct {
		Paths map[string]map[string]struct {
			Parameters []struct {
				Ref string `json:"$ref"`
			} `json:"parameters"`
		} `json:"paths"`
		Components struct {
			Parameters map[string]struct{ Name string } `json:"parameters"`
		} `json:"components"`
	}
	require.NoError(t, yaml.Unmarshal(openAPIDocument, &tree))
	for _, r := range s.routes() {
		described := []string{}
		for _, p := range tree.Paths[r.path]["get"].Parameters {
			described = append(described, tree.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")].Name)
		}
		require.ElementsMatch(t, r.parameters, described, r.path)
	}
}

func TestTruth(t *testing.T) {
	s := serve(t, host{inventoryID: newCluster()}, withInventory)
	s.talk()
	var graph graphAnswer
	s.json("/api/topology", &graph)
	require.Equal(t, "workload", graph.Level)
	i := slices.IndexFunc(graph.Edges, func(e edge) bool { return e.Target == "workload:shop/Deployment/db" })
	require.GreaterOrEqual(t, i, 0)
	e := graph.Edges[i]
	require.Equal(t, "workload:shop/Deployment/web", e.Source)
	require.Equal(t, "service:shop/db", e.Service)
	require.Equal(t, "inter-node", e.Direction)
	require.Equal(t, counters{Bytes: 3000, Packets: 30, Flows: 1, Retransmits: 2, Resets: 1, RTT: 0.001}, e.Forward)
	require.Equal(t, counters{Bytes: 9000, Packets: 90}, e.Reverse)
	require.Equal(t, []int64{1}, e.VNIs)
	require.Equal(t, &mappings{
		Pods: map[string]string{"10.1.0.1": "pod:shop/web-1", "10.1.1.1": "pod:shop/db-0"}, Nodes: map[string]string{"192.0.2.1": "node:a", "192.0.2.2": "node:b"},
		Services: map[string]string{"10.96.0.5": "service:shop/db"}, CIDRs: map[string]string{"10.1.0.0/24": "a", "10.1.1.0/24": "b"}, VNIs: map[string][]string{"1": {"a"}},
	}, graph.Mappings)

	var members clusterAnswer
	s.json("/api/cluster", &members)
	require.Equal(t, clusterCounts{Nodes: 2, Namespaces: 1, Pods: 2, Services: 1}, members.Counts)
	require.True(t, *members.Nodes[0].Ready)
	require.False(t, *members.Nodes[1].Ready)
	var network flannelAnswer
	s.json("/api/flannel", &network)
	require.Equal(t, uint16(8472), network.VXLANPort)
	require.Equal(t, map[string]string{"10.1.0.0/24": "a"}, network.Subnets)
	two := uint32(2)
	require.Equal(t, []flannelForwarding{{Device: "flannel.1", MAC: "02:00:00:00:00:02", Remote: "192.0.2.2", VNI: &two, Permanent: true, Node: "b"}}, network.Host.FDB)
	require.Equal(t, []flannelNeighbour{{Device: "flannel.1", Address: "10.1.1.0", MAC: "02:00:00:00:00:02", Permanent: true, Node: "b"}}, network.Host.Neighbours)
	require.Equal(t, []flannelRoute{
		{Destination: "10.1.0.0/24", Device: "cni0", Node: "a"}, {Destination: "10.1.1.0/24", Gateway: "10.1.1.0", Device: "flannel.1", Node: "b"},
	}, network.Host.Routes)

	var stats statsAnswer
	s.json("/api/stats", &stats)
	require.Equal(t, int64(12598), stats.Totals.Bytes)
	require.Equal(t, int64(12000), stats.ByDirection["inter-node"].Bytes)
	require.Equal(t, int64(12500), stats.ByProtocol["tcp"].Bytes)
	require.Equal(t, "a", stats.NodeMatrix[1].Source)
	require.Equal(t, int64(3000), stats.NodeMatrix[1].Bytes)
	require.Equal(t, int64(4), stats.Totals.Drops)

	for path, want := range map[string]int{
		"/api/flows": 4, "/api/flows?direction=inter-node": 2, "/api/flows?namespace=shop&direction=egress": 1, "/api/flows?node=b": 2,
		"/api/flows?q=WEB-1&protocol=tcp&port=443": 1, "/api/flows?address=203.0.113.9": 2, "/api/flows?namespace=none": 0,
	} {
		var flows flowsAnswer
		s.json(path, &flows)
		require.Equal(t, want, flows.Total, path)
		require.Len(t, flows.Items, want, path)
	}
	var found struct{ Pod podAnswer }
	s.json("/api/query/pod?ip=10.1.0.1", &found)
	require.Equal(t, "web-1", found.Pod.Name)
	require.Equal(t, &workload{"Deployment", "web"}, found.Pod.Workload)
	var faces interfacesAnswer
	s.json("/api/interfaces", &faces)
	require.Equal(t, int64(100), faces.Items[0].Rx.Bytes)
	require.Equal(t, 0.25, *faces.Items[0].Utilization)
}

func TestBadRequests(t *testing.T) {
	s := serve(t, host{inventoryID: newCluster()}, withInventory)
	s.talk()
	for path, want := range map[string]int{
		"/api/topology?level=rack": 400, "/api/topology?window=0s": 400, "/api/topology?window=forever": 400, "/api/topology?at=yesterday": 400,
		"/api/topology?direction=up": 400, "/api/topology?limit=-1": 400, "/api/topology?limit=1&limit=2": 400, "/api/topology?nonsense=1": 400,
		"/api/topology?mappings=perhaps": 400, "/api/topology?depth=2": 400, "/api/topology?min_bytes=1e9": 400, "/api/topology?q=%ff": 400, "/api/topology?q=%zz": 400,
		"/api/topology?q=" + strings.Repeat("x", 600): 400, "/api/topology?focus=pod:none/none": 404, "/api/topology/export": 400, "/api/topology/export?format=svg": 400,
		"/api/topology/diff": 400, "/api/topology/diff?from=0&min_ratio=NaN": 400, "/api/topology/critical-path?from=x": 404, "/api/cluster?x=": 400,
		"/api/flows?limit=0": 400, "/api/flows?limit=1001": 400, "/api/flows?address=10.0.0": 400, "/api/flows?port=70000": 400, "/api/flows?cursor=x": 400, "/api/flows?protocol=T%20": 400,
		"/api/query/pod": 400, "/api/query/pod?ip=fe80::1%25eth0": 400, "/api/query/pod?ip=198.51.100.1": 404, "/api/query/service?ip=10.96.0.5&port=1": 404,
		"/api/query/node?ip=198.51.100.1": 404, "/api/stream?level=rack": 400, "/api/none": 404, "/assets/../../etc/passwd": 404,
	} {
		resp, body := s.get(path)
		require.Equal(t, want, resp.StatusCode, "%s: %s", path, body)
		var answer struct{ Error apiError }
		require.NoError(t, json.Unmarshal(body, &answer), path)
		require.Equal(t, want, answer.Error.Code)
		require.NotEmpty(t, answer.Error.Message)
		require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
		require.Equal(t, contentSecurityPolicy, resp.Header.Get("Content-Security-Policy"))
	}
	resp, err := http.Post(s.url("/api/topology"), "text/plain", strings.NewReader("x"))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
}

func TestHeadersCompressionAndTags(t *testing.T) {
	s := serve(t, host{})
	s.talk()
	path := "/api/flows"
	resp, plain := s.get(path)
	tag := resp.Header.Get("ETag")
	require.NotEmpty(t, tag)
	require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
	require.Equal(t, "no-cache", resp.Header.Get("Cache-Control"))
	resp, body := s.get(path, "If-None-Match", tag)
	require.Equal(t, http.StatusNotModified, resp.StatusCode)
	require.Empty(t, body)
	resp, body = s.get(path, "Accept-Encoding", "gzip")
	require.Equal(t, "gzip", resp.Header.Get("Content-Encoding"))
	z, err := gzip.NewReader(bytes.NewReader(body))
	require.NoError(t, err)
	unpacked, err := io.ReadAll(z)
	require.NoError(t, err)
	require.Equal(t, plain, unpacked)
	resp, _ = s.get(path, "Accept-Encoding", "gzip", "If-None-Match", resp.Header.Get("ETag"))
	require.Equal(t, http.StatusNotModified, resp.StatusCode)
	resp, body = s.get("/")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Contains(t, resp.Header.Get("Content-Type"), "text/html")
	require.Contains(t, string(body), "<html")
	resp, _ = s.get("/assets/app.js")
	require.Contains(t, resp.Header.Get("Content-Type"), "javascript")
	require.NotEmpty(t, resp.Header.Get("ETag"))
}

// guard lets in who has the word.
type guard struct {
	component.StartFunc
	component.ShutdownFunc
}

func (guard) Authenticate(ctx context.Context, h map[string][]string) (context.Context, error) {
	if got := http.Header(h).Get("Authorization"); got != "Bearer word" {
		return ctx, fmt.Errorf("no such credentials")
	}
	return ctx, nil
}

// Nothing but the probes is answered without the credentials.
func TestCredentials(t *testing.T) {
	id := component.MustNewID("guard")
	s := serve(t, host{id: guard{}}, func(cfg *Config) {
		cfg.ServerConfig.Auth = configoptional.Some(confighttp.AuthConfig{Config: configauth.Config{AuthenticatorID: id}})
	})
	s.talk()
	for _, path := range append(slices.Clone(paths), "/", "/assets/app.js", "/api/stream", "/api/none") {
		resp, body := s.get(path)
		if path == "/healthz" || path == "/readyz" {
			require.Equal(t, http.StatusOK, resp.StatusCode)
			continue
		}
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode, path)
		require.NotEmpty(t, resp.Header.Get("WWW-Authenticate"))
		require.NotContains(t, string(body), "shop")
		require.Equal(t, contentSecurityPolicy, resp.Header.Get("Content-Security-Policy"))
	}
	resp, _ := s.get("/api/topology", "Authorization", "Bearer word")
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

func TestReadiness(t *testing.T) {
	c := newCluster()
	c.SetReady(false)
	s := serve(t, host{inventoryID: c}, withInventory)
	resp, _ := s.get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	c.SetReady(true)
	resp, _ = s.get("/readyz")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	c.SetReady(false)
	s = serve(t, host{inventoryID: c}, withInventory, func(cfg *Config) { cfg.ReadyWithoutInventory = true })
	resp, _ = s.get("/readyz")
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

// A stream tells what changes, has a limit of clients, and ends with the extension.
func TestStream(t *testing.T) {
	s := serve(t, host{}, func(cfg *Config) { cfg.Stream = StreamConfig{MaxClients: 1, Interval: 100 * time.Millisecond} })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url("/api/stream?level=pod"), nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	require.True(t, lines.Scan())
	require.Equal(t, "retry: 2000", lines.Text())
	other, body := s.get("/api/stream")
	require.Equal(t, http.StatusServiceUnavailable, other.StatusCode, string(body))
	require.NotEmpty(t, other.Header.Get("Retry-After"))
	event := func() (got streamEvent) {
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				require.NoError(t, json.Unmarshal([]byte(data), &got))
				return got
			}
		}
		require.NoError(t, lines.Err())
		return got
	}
	s.talk()
	first := event()
	require.Len(t, first.Edges, 3)
	s.AddRecords([]topology.Record{{Time: time.Now(), Source: end("web-1", "10.1.0.1", "a", 40000), Destination: end("", "203.0.113.9", "", 443), Class: topology.Egress, Transport: "tcp", HasPorts: true, Bytes: 7, Initiator: topology.SourceSide}})
	second := event()
	require.Len(t, second.Edges, 1)
	require.Equal(t, int64(507), second.Edges[0].Total.Bytes)
	require.Len(t, second.Nodes, 2)
	require.NoError(t, s.Shutdown(context.Background()))
	require.False(t, lines.Scan() && lines.Scan() && lines.Scan())
}

// A fault is one request's.
func TestFault(t *testing.T) {
	e, err := newExtension(extensiontest.NewNopSettings(metadata.Type), createDefaultConfig().(*Config))
	require.NoError(t, err)
	e.own, err = metadata.NewTelemetryBuilder(componenttest.NewNopTelemetrySettings())
	require.NoError(t, err)
	w := httptest.NewRecorder()
	e.outermost(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") })).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/x", nil))
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Contains(t, w.Body.String(), `"code":500`)
	require.NotContains(t, w.Body.String(), "oh")
}

// Whatever a parameter has, it is answered, and by JSON.
func FuzzParameters(f *testing.F) {
	s := serve(f, host{inventoryID: newCluster()}, withInventory)
	s.talk()
	handler := s.outermost(s.handler())
	routes := append(s.routes(), route{path: "/api/topology/export", parameters: with(filters, "format")})
	for _, p := range paths {
		u, err := url.Parse(p)
		require.NoError(f, err)
		for name, values := range u.Query() {
			f.Add(name, values[0], true)
		}
	}
	f.Add("window", "9999999h", false)
	f.Add("at", "-1e309", false)
	f.Add("ip", "::ffff:10.1.0.1", true)
	f.Fuzz(func(t *testing.T, name, value string, needed bool) {
		for _, r := range routes {
			q := url.Values{name: {value}}
			if needed { // what a path cannot do without
				for key, v := range map[string]string{"ip": "10.1.0.1", "format": "dot", "from": "0"} {
					if slices.Contains(r.parameters, key) && name != key && r.path != "/api/topology/critical-path" {
						q.Set(key, v)
					}
				}
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, r.path+"?"+q.Encode(), nil))
			require.Contains(t, []int{200, 400, 404}, w.Code, "%s?%s: %s", r.path, q.Encode(), w.Body)
			if w.Code != 200 || r.path != "/api/topology/export" {
				require.True(t, json.Valid(w.Body.Bytes()), "%s?%s: %s", r.path, q.Encode(), w.Body)
			}
			if !slices.Contains(r.parameters, name) {
				require.Equal(t, 400, w.Code, "%s?%s", r.path, q.Encode())
			}
		}
	})
}

// kept is a storage extension.
type kept struct {
	component.StartFunc
	component.ShutdownFunc
	data map[string][]byte
}

func (k *kept) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	return keptClient{k}, nil
}

type keptClient struct{ *kept }

func (k keptClient) Get(_ context.Context, key string) ([]byte, error) { return k.data[key], nil }
func (k keptClient) Set(_ context.Context, key string, value []byte) error {
	k.data[key] = value
	return nil
}
func (k keptClient) Delete(_ context.Context, key string) error { delete(k.data, key); return nil }
func (k keptClient) Close(context.Context) error                { return nil }
func (k keptClient) Batch(ctx context.Context, ops ...*storage.Operation) error {
	for _, op := range ops {
		switch op.Type {
		case storage.Set:
			k.data[op.Key] = op.Value
		case storage.Delete:
			delete(k.data, op.Key)
		}
	}
	return nil
}

func TestHistoryIsKept(t *testing.T) {
	id := component.MustNewID("kept")
	h := host{id: &kept{data: map[string][]byte{}}}
	storing := func(cfg *Config) { cfg.Storage = &id }
	s := serve(t, h, storing)
	s.talk()
	require.NoError(t, s.Shutdown(context.Background()))
	var graph graphAnswer
	serve(t, h, storing).json("/api/topology?level=pod", &graph)
	require.Len(t, graph.Edges, 3)
}

func TestStartNamesWhatIsMissing(t *testing.T) {
	none := component.MustNewID("none")
	nothing := struct {
		component.StartFunc
		component.ShutdownFunc
	}{}
	for _, test := range []struct {
		host   host
		change func(*Config)
		want   string
	}{
		{host{}, func(cfg *Config) { cfg.Inventory = &none }, `inventory: there is no extension "none"; configure one of type k8s_inventory and name it under service::extensions`},
		{host{none: nothing}, func(cfg *Config) { cfg.Inventory = &none }, `inventory: the extension "none" does not know who has an address; name one of type k8s_inventory`},
		{host{}, func(cfg *Config) { cfg.Storage = &none }, `storage: there is no extension "none"; configure one, as file_storage, and name it under service::extensions`},
		{host{none: nothing}, func(cfg *Config) { cfg.Storage = &none }, `storage: the extension "none" stores nothing; name one that does, as file_storage`},
	} {
		cfg := createDefaultConfig().(*Config)
		test.change(cfg)
		e, err := newExtension(extensiontest.NewNopSettings(metadata.Type), cfg)
		require.NoError(t, err)
		require.EqualError(t, e.Start(t.Context(), test.host), test.want)
	}
}
