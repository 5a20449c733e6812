// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	prometheusURL = "http://127.0.0.1:9464/metrics"
	selfURL       = "http://127.0.0.1:8888/metrics"
	healthURL     = "http://127.0.0.1:13133/"
	otlpAddress   = "127.0.0.1:4318"
)

// configEnv takes the configuration to the process, so that it needs no file
// that the user it runs as may read.
const configEnv = "NETPROBE_TEST_CONFIG"

// config is a whole configuration around that of the receiver.
func config(receiver string) string {
	return configOf(receiver, "compression: none")
}

// configOf is the same with other options of the OTLP exporter.
func configOf(receiver, otlp string) string {
	return fmt.Sprintf(`
receivers:
  ebpfnet: %s
exporters:
  prometheus: {endpoint: "127.0.0.1:9464", without_scope_info: true}
  otlp_http: {endpoint: "http://%s", %s}
extensions:
  health_check: {endpoint: "127.0.0.1:13133"}
service:
  extensions: [health_check]
  telemetry: {metrics: {readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: 8888, without_type_suffix: true, without_units: true}}}}]}}
  pipelines:
    metrics: {receivers: [ebpfnet], exporters: [prometheus, otlp_http]}
    logs: {receivers: [ebpfnet], exporters: [otlp_http]}
`, receiver, otlpAddress, otlp)
}

// command is the binary with a configuration, not started.
func command(config string) *exec.Cmd {
	cmd := exec.Command(os.Getenv("NETPROBE_BIN"), "--config=env:"+configEnv)
	cmd.Env = append(os.Environ(), configEnv+"="+config)
	return cmd
}

// agent is a NetProbe that runs, and what it exports.
type agent struct {
	*process
	host  *namespace
	sink  *sink
	ready float64 // uptime when it was, in seconds
}

// start starts NetProbe on a host and waits until it is ready: the interfaces
// that are there are then watched.
func start(t *testing.T, host *namespace, receiver string) *agent {
	t.Helper()
	a := &agent{host: host, sink: newSink(t, host)}
	a.process = host.launch(t, command(config(receiver)))
	a.waitReady(t)
	return a
}

func (a *agent) waitReady(t *testing.T) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		if !a.running() {
			return // there is nothing to wait for
		}
		resp, err := a.host.client.Get(healthURL)
		require.NoError(c, err)
		require.NoError(c, resp.Body.Close())
		assert.Equal(c, http.StatusOK, resp.StatusCode)
	}, patience, glance, "NetProbe is not ready")
	if !a.running() {
		require.FailNow(t, "NetProbe has ended", "%s", a.cmd.ProcessState)
	}
	a.ready = a.uptime(t)
}

func (a *agent) uptime(t require.TestingT) float64 {
	return a.host.scrape(t, selfURL).sum("otelcol_process_uptime", nil)
}

// stop sends a signal and waits until NetProbe has ended.
//
// It waits before too, until the collector's own clock has advanced a little:
// the collector says that it is ready a moment before it handles signals
// (otelcol's Collector.Run), and nothing tells when it does.
func (a *agent) stop(t *testing.T, signal syscall.Signal) *os.ProcessState {
	t.Helper()
	const enough = 0.3 // seconds
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.Greater(c, a.uptime(c), a.ready+enough)
	}, patience, glance, "the uptime stands still")
	return a.process.stop(t, signal)
}
