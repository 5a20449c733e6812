// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
)

// gateways is two agents and two gateways with the configurations that come with
// NetProbe, on one host. Agents get records from the test instead of from packets, and
// gateways send them on to sinks.
type gateways struct {
	host     *namespace
	agents   [2]*process
	gateways [2]*process
	sinks    [2]*sink
	start    [2]func() *process // of the gateways
}

// What the test's cluster has.
const (
	gatewayClient    = "10.244.1.2" // pod on n1
	gatewayNeighbour = "10.244.1.3"
	gatewayBackend   = "10.244.2.3" // pod on n2
	gatewayService   = "10.96.0.10"
)

func agentAddress(i int) string   { return fmt.Sprintf("127.0.0.%d", 11+i) }
func gatewayAddress(i int) string { return fmt.Sprintf("127.0.0.%d", 21+i) }
func sinkAddress(i int) string    { return fmt.Sprintf("127.0.0.%d:4318", 31+i) }

// Of the configurations only these are other ones: where records come from and go to,
// and times, so that a test need not wait for long.
const (
	agentChanges = `
receivers: {otlp: {protocols: {http: {endpoint: "${env:K8S_NODE_IP}:4318"}}}}
service: {pipelines: {logs: {receivers: [otlp]}, metrics: {receivers: [otlp]}}}
`
	gatewayChanges = `
processors: {k8s_flow: {deduplicate: {wait: 8s}}}
exporters: {otlp_http: {endpoint: "http://${env:SINK}", compression: none}}
service: {pipelines: {logs: {exporters: [otlp_http]}, metrics: {exporters: [prometheus, otlp_http]}}}
`
)

func newGateways(t *testing.T, agentConfigs, gatewayConfigs []string, env ...string) *gateways {
	t.Helper()
	return newGatewaysOn(t, newLab(t).near, agentConfigs, gatewayConfigs, env...)
}

func newGatewaysOn(t *testing.T, host *namespace, agentConfigs, gatewayConfigs []string, env ...string) *gateways {
	t.Helper()
	g := &gateways{host: host}
	env = append(env, "KUBECONFIG="+g.host.serveKubernetes(t, gatewayCluster()))
	for i := range g.gateways {
		g.sinks[i] = newSinkAt(t, g.host, sinkAddress(i))
		g.start[i] = func() *process {
			return g.launch(t, gatewayAddress(i), gatewayConfigs, append(env, "NETPROBE_LISTEN="+gatewayAddress(i), "NETPROBE_TOPOLOGY_ENDPOINT="+gatewayAddress(i)+":8081", "SINK="+sinkAddress(i)))
		}
		g.gateways[i] = g.start[i]()
	}
	for i := range g.agents {
		g.agents[i] = g.launch(t, agentAddress(i), agentConfigs, append(env, "K8S_NODE_NAME="+nodeName(i), "K8S_NODE_IP="+agentAddress(i)))
	}
	return g
}

func nodeName(i int) string { return "n" + strconv.Itoa(i+1) }

// launch starts NetProbe with configurations, and waits until it is ready.
func (g *gateways) launch(t *testing.T, address string, configs, env []string) *process {
	t.Helper()
	var args []string
	for _, c := range configs {
		args = append(args, "--config="+c)
	}
	cmd := exec.Command(os.Getenv("NETPROBE_BIN"), args...)
	cmd.Env = append(os.Environ(), env...)
	p := g.host.launch(t, cmd)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		if !p.running() {
			return
		}
		resp, err := g.host.client.Get("http://" + net.JoinHostPort(address, "13133"))
		require.NoError(c, err)
		require.NoError(c, resp.Body.Close())
		assert.Equal(c, http.StatusOK, resp.StatusCode)
	}, patience, glance, "NetProbe is not ready")
	require.True(t, p.running(), "NetProbe has ended")
	return p
}

// gatewayCluster is two nodes, pods on them, and a service.
func gatewayCluster() map[string]collection {
	nodes, pods := collection{"v1", "Node", nil}, collection{"v1", "Pod", nil}
	services, slices := collection{"v1", "Service", nil}, collection{"discovery.k8s.io/v1", "EndpointSlice", nil}
	for i, cidr := range []string{"10.244.1.0/24", "10.244.2.0/24"} {
		nodes.add(nodeName(i), object{}, object{
			"spec":   object{"podCIDR": cidr, "podCIDRs": []string{cidr}},
			"status": object{"addresses": []object{{"type": "InternalIP", "address": fmt.Sprintf("192.168.0.%d", i+1)}}},
		})
	}
	began := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	for name, at := range map[string][2]string{"client": {"n1", gatewayClient}, "neighbour": {"n1", gatewayNeighbour}, "backend": {"n2", gatewayBackend}} {
		pods.add(name, object{"namespace": "shop", "creationTimestamp": began}, object{
			"spec":   object{"nodeName": at[0]},
			"status": object{"phase": "Running", "podIP": at[1], "podIPs": []object{{"ip": at[1]}}, "startTime": began},
		})
	}
	services.add("web", object{"namespace": "shop"}, object{"spec": object{
		"type": "ClusterIP", "clusterIP": gatewayService, "clusterIPs": []string{gatewayService},
		"ports": []object{{"port": 80, "targetPort": 8080, "protocol": "TCP"}},
	}})
	slices.add("web-1", object{"namespace": "shop", "labels": object{"kubernetes.io/service-name": "web"}}, object{
		"addressType": "IPv4", "ports": []object{{"port": 8080, "protocol": "TCP"}},
		"endpoints": []object{{"addresses": []string{gatewayBackend}, "conditions": object{"ready": true}}},
	})
	none := collection{"meta.k8s.io/v1", "PartialObjectMetadata", []object{}}
	return map[string]collection{
		"/api/v1/nodes": nodes, "/api/v1/pods": pods, "/api/v1/services": services,
		"/apis/discovery.k8s.io/v1/endpointslices": slices, "/apis/apps/v1/replicasets": none, "/apis/batch/v1/jobs": none,
	}
}

// flowRecord is one of a flow from the client, or of the answers to it.
func flowRecord(id int, client, server string, port int, answers bool, more map[string]any) map[string]any {
	r := map[string]any{
		"source.address": client, "source.port": 20000 + id, "destination.address": server, "destination.port": port,
		"netprobe.flow.initiator": "source", "network.transport": "tcp", "network.type": "ipv4",
		"netprobe.flow.packets": 3, "netprobe.flow.bytes": 300, "test.flow": fmt.Sprint(id, answers),
		"netprobe.flow.start_time_unix_nano": time.Now().Add(-time.Second).UnixNano(),
	}
	maps.Copy(r, more)
	if answers {
		r["source.address"], r["source.port"], r["destination.address"], r["destination.port"] = server, port, client, 20000+id
		r["netprobe.flow.initiator"] = "destination"
	}
	return r
}

// flows are what both nodes report of flows across them, both directions, every other one
// to a service; and of some that are on n1 alone.
func flows(from, to int) (reports [2][]map[string]any) {
	for id := from; id < to; id++ {
		for _, answers := range []bool{false, true} {
			first := flowRecord(id, gatewayClient, gatewayBackend, 8080, answers, nil)
			if id%2 == 0 {
				end := "destination"
				if answers {
					end = "source"
				}
				first = flowRecord(id, gatewayClient, gatewayService, 80, answers, map[string]any{
					"netprobe.nat." + end + ".address": gatewayBackend, "netprobe.nat." + end + ".port": 8080, "netprobe.nat.original": true,
				})
			}
			reports[0] = append(reports[0], first)
			reports[1] = append(reports[1], flowRecord(id, gatewayClient, gatewayBackend, 8080, answers, nil))
			if id%10 == 0 {
				reports[0] = append(reports[0], flowRecord(-id-1, gatewayClient, gatewayNeighbour, 8080, answers, nil))
			}
		}
	}
	return reports
}

// send gives an agent records, as its receiver would.
func (g *gateways) send(t *testing.T, agent int, records []map[string]any) {
	t.Helper()
	ld := plog.NewLogs()
	to := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for _, attrs := range records {
		lr := to.AppendEmpty()
		lr.SetEventName("netprobe.flow")
		lr.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		require.NoError(t, lr.Attributes().FromRaw(attrs))
	}
	body, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	g.post(t, agent, "/v1/logs", body)
}

func (g *gateways) post(t *testing.T, agent int, path string, body []byte) {
	t.Helper()
	resp, err := g.host.client.Post("http://"+net.JoinHostPort(agentAddress(agent), "4318")+path, "application/x-protobuf", bytes.NewReader(body))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

func (g *gateways) report(t *testing.T, from, to int) {
	t.Helper()
	for i, records := range flows(from, to) {
		g.send(t, i, records)
	}
}

// arrived are the records that came out of each gateway, by flow and direction.
func (g *gateways) arrived() (all [2]map[string][]record) {
	for i, s := range g.sinks {
		all[i] = map[string][]record{}
		for _, r := range s.records(func(attrs map[string]any) bool { return attrs["test.flow"] != nil }) {
			id := r.attrs["test.flow"].(string)
			all[i][id] = append(all[i][id], r)
		}
	}
	return all
}

// requireEachOnce waits until all flows up to one have come, and checks that each came
// once, from the gateway where both reports met.
func (g *gateways) requireEachOnce(t *testing.T, to int) (perGateway [2]int) {
	t.Helper()
	reports := flows(0, to)
	want := map[string]bool{} // whether two nodes reported it
	for i := range reports {
		for _, r := range reports[i] {
			_, twice := want[r["test.flow"].(string)]
			want[r["test.flow"].(string)] = twice
		}
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		all := g.arrived()
		assert.Equal(c, len(want), len(all[0])+len(all[1]))
	}, 2*patience, 20*glance)
	all := g.arrived()
	for id, both := range want {
		records := append(all[0][id], all[1][id]...)
		require.Len(t, records, 1, "flow %s", id)
		attrs := records[0].attrs
		require.Contains(t, []any{attrs["source.k8s.pod.name"], attrs["destination.k8s.pod.name"]}, "client")
		if !both {
			require.NotContains(t, attrs, "netprobe.observation.nodes", "flow %s", id)
			continue
		}
		require.ElementsMatch(t, []any{"n1", "n2"}, attrs["netprobe.observation.nodes"], "flow %s: %v", id, attrs)
		require.Equal(t, "inter-node", attrs["netprobe.flow.direction"])
		require.Equal(t, "source", attrs["netprobe.flow.reporter"])
	}
	return [2]int{len(all[0]), len(all[1])}
}

// Of so many flows, not all pairs would be at one gateway by chance.
const gatewayFlows = 400

var (
	loadBalanced = []string{"../../config/agent-loadbalanced.yaml", "yaml:" + agentChanges, `yaml:
exporters:
  load_balancing/logs: &two
    resolver: {dns: null, static: {hostnames: ["127.0.0.21:4317", "127.0.0.22:4317"]}}
    protocol: {otlp: {retry_on_failure: {max_interval: 2s}}}
  load_balancing/metrics: *two
`}
	inKubernetes = []string{"../../config/gateway.yaml", "../../config/gateway-kubernetes.yaml", "yaml:" + gatewayChanges}
)

// Two reports of a flow meet at one of two gateways, also where one node translates; and a
// gateway that is away for a while costs nothing.
func TestLoadBalancedReportsMeet(t *testing.T) {
	g := newGateways(t, loadBalanced, inKubernetes, "NETPROBE_OTLP_INSECURE=true")
	g.report(t, 0, gatewayFlows)
	for i, n := range g.requireEachOnce(t, gatewayFlows) {
		require.Greater(t, n, gatewayFlows/4, "gateway %d, of %d records", i, 2*gatewayFlows)
	}
	g.requireMetricsOfEachAtOne(t)

	require.True(t, g.gateways[1].stop(t, syscall.SIGTERM).Success())
	g.report(t, gatewayFlows, 2*gatewayFlows)
	for _, agent := range g.agents {
		require.Eventually(t, func() bool { return strings.Contains(agent.output.String(), "Exporting failed. Will retry") }, patience, glance)
	}
	g.gateways[1] = g.start[1]()
	g.requireEachOnce(t, 2*gatewayFlows)
}

// requireMetricsOfEachAtOne sends what agents' receivers count, and finds each agent's
// series at one gateway.
func (g *gateways) requireMetricsOfEachAtOne(t *testing.T) {
	t.Helper()
	for i := range g.agents {
		md := pmetric.NewMetrics()
		m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
		m.SetName("netprobe.interface.rx.packets")
		m.SetUnit("{packet}")
		sum := m.SetEmptySum()
		sum.SetIsMonotonic(true)
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		dp := sum.DataPoints().AppendEmpty()
		dp.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		dp.SetIntValue(int64(100 + i))
		body, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
		require.NoError(t, err)
		g.post(t, i, "/v1/metrics", body)
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		for agent := range g.agents {
			var values []float64
			for i := range g.gateways {
				page := g.host.scrape(c, "http://"+net.JoinHostPort(gatewayAddress(i), "9464")+"/metrics")
				if v := page.sum("netprobe_interface_rx_packets_total", map[string]string{"instance": nodeName(agent)}); v > 0 {
					values = append(values, v)
				}
			}
			assert.Equal(c, []float64{float64(100 + agent)}, values)
		}
	}, patience, 10*glance)
}

// The same through Kafka, where a gateway that is away does not matter to agents at all.
func TestReportsMeetThroughKafka(t *testing.T) {
	l := newLab(t)
	const partitions = 8
	broker := startKafka(t, l.near, partitions)
	g := newGatewaysOn(t, l.near,
		[]string{"../../config/agent-kafka.yaml", "yaml:" + agentChanges},
		[]string{"../../config/gateway-kafka.yaml", "yaml:" + gatewayChanges},
		"NETPROBE_KAFKA_BROKERS=["+broker+"]", "NETPROBE_KAFKA_INSECURE=true")
	g.waitShared(t, partitions)
	g.report(t, 0, gatewayFlows)
	for i, n := range g.requireEachOnce(t, gatewayFlows) {
		require.Greater(t, n, gatewayFlows/4, "gateway %d", i)
	}
	g.requireMetricsOfEachAtOne(t)

	require.True(t, g.gateways[1].stop(t, syscall.SIGTERM).Success())
	require.True(t, g.gateways[0].stop(t, syscall.SIGTERM).Success())
	g.report(t, gatewayFlows, 2*gatewayFlows)
	g.gateways[0] = g.start[0]()
	g.requireEachOnce(t, 2*gatewayFlows)
	g.gateways[1] = g.start[1]()
	g.waitShared(t, partitions)
	g.report(t, 2*gatewayFlows, 3*gatewayFlows)
	g.requireEachOnce(t, 3*gatewayFlows)
}

// waitShared waits until each of the gateways has half of the partitions of both topics.
func (g *gateways) waitShared(t *testing.T, partitions int) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		for i := range g.gateways {
			page := g.host.scrape(c, "http://"+net.JoinHostPort(gatewayAddress(i), "8888")+"/metrics")
			assert.Equal(c, float64(partitions),
				page.sum("otelcol_kafka_receiver_partition_start", nil)-page.sum("otelcol_kafka_receiver_partition_close", nil), "gateway %d", i)
		}
	}, patience, 10*glance)
}

// startKafka starts a broker in the test's process, and gives its address.
func startKafka(t *testing.T, host *namespace, partitions int32) string {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, "netprobe_flows", "netprobe_metrics"),
		kfake.ListenFn(func(network, address string) (l net.Listener, err error) {
			err = host.in(func() error {
				l, err = net.Listen(network, address)
				return err
			})
			return l, err
		}))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	return cluster.ListenAddrs()[0]
}

// One gateway, over TLS on both sides: what agents without an inventory say of
// themselves is enough for the gateway to name ends and leave reports out.
func TestAgentsOfOneGateway(t *testing.T) {
	l := newLab(t)
	ca := newAuthority(t)
	g := &gateways{host: l.near}
	g.sinks = [2]*sink{newSinkAt(t, g.host, sinkAddress(0)), {}}
	g.gateways[0] = g.launch(t, gatewayAddress(0), inKubernetes, []string{
		"KUBECONFIG=" + g.host.serveKubernetes(t, gatewayCluster()), "NETPROBE_LISTEN=" + gatewayAddress(0), "NETPROBE_TOPOLOGY_ENDPOINT=" + gatewayAddress(0) + ":8081", "SINK=" + sinkAddress(0),
		"NETPROBE_TLS=true", "NETPROBE_TLS_CERT_FILE=" + ca.server, "NETPROBE_TLS_KEY_FILE=" + ca.serverKey, "NETPROBE_TLS_CLIENT_CA_FILE=" + ca.file,
	})
	for i := range g.agents {
		changes := strings.ReplaceAll(agentChanges, "K8S_NODE_IP", "AGENT")
		changes += `
extensions: {health_check: {endpoint: "${env:AGENT}:13133"}}
`
		changes = strings.Replace(changes, "service: {", `service: {telemetry: {metrics: {level: none}}, `, 1)
		g.agents[i] = g.launch(t, agentAddress(i), []string{"../../config/agent.yaml", "yaml:" + changes}, []string{
			"AGENT=" + agentAddress(i), "NETPROBE_HOST_NAME=host", "K8S_NODE_NAME=" + nodeName(i), "NETPROBE_OTLP_ENDPOINT=" + gatewayAddress(0) + ":4317",
			"NETPROBE_OTLP_CA_FILE=" + ca.file, "NETPROBE_OTLP_CERT_FILE=" + ca.client, "NETPROBE_OTLP_KEY_FILE=" + ca.clientKey,
		})
	}
	g.report(t, 0, gatewayFlows)
	g.requireEachOnce(t, gatewayFlows)
}

// authority has certificates in files.
type authority struct{ file, server, serverKey, client, clientKey string }

func newAuthority(t *testing.T) *authority {
	t.Helper()
	dir := t.TempDir()
	a := &authority{}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return file
	}
	sign := func(name string, c *x509.Certificate, own *ecdsa.PrivateKey) (file, keyFile string) {
		der, err := x509.CreateCertificate(rand.Reader, c, root, &own.PublicKey, key)
		require.NoError(t, err)
		keyDER, err := x509.MarshalECPrivateKey(own)
		require.NoError(t, err)
		return write(name+".crt", "CERTIFICATE", der), write(name+".key", "EC PRIVATE KEY", keyDER)
	}
	a.file, _ = sign("ca", root, key)
	leaf := func(name string, usage x509.ExtKeyUsage) (file, keyFile string) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		return sign(name, &x509.Certificate{
			SerialNumber: big.NewInt(int64(usage) + 2), NotBefore: root.NotBefore, NotAfter: root.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.ParseIP(gatewayAddress(0))},
		}, own)
	}
	a.server, a.serverKey = leaf("server", x509.ExtKeyUsageServerAuth)
	a.client, a.clientKey = leaf("client", x509.ExtKeyUsageClientAuth)
	return a
}
