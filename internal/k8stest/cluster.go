// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package k8stest runs a real control plane for tests: etcd, kube-apiserver and
// kube-controller-manager, on loopback, out of binaries that the environment variable
// K8S_BIN names the directory of. There is no kubelet: tests say what one would.
package k8stest // import "github.com/netprobe-otel/netprobe/internal/k8stest"

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// PodCIDR is what nodes get their pods' networks of.
	PodCIDR = "10.244.0.0/16"
	// ServiceCIDR is what services get their addresses of.
	ServiceCIDR = "10.96.0.0/16"

	// patience is how long a process may take to be ready, on a machine that is busy.
	patience = 2 * time.Minute
	address  = "127.0.0.1"
)

// Cluster is a control plane. What is killed can be started again, and has the same
// address and the same data.
type Cluster struct {
	bin, dir string
	ca       *authority

	etcdURL, peerURL, apiURL string
	etcd, api, controllers   *process
}

// New makes what a control plane needs, and starts nothing. It fails the test where
// the binaries are not there, for who asks for it asks for a real one.
func New(t testing.TB) *Cluster {
	t.Helper()
	bin := os.Getenv("K8S_BIN")
	require.NotEmpty(t, bin, "K8S_BIN names no directory of etcd, kube-apiserver and kube-controller-manager; `make test-k8s` builds them and sets it")
	ports := freePorts(t, 3)
	c := &Cluster{
		bin: bin, dir: t.TempDir(), ca: newAuthority(t),
		etcdURL: "http://" + ports[0], peerURL: "http://" + ports[1], apiURL: "https://" + ports[2],
	}
	c.writeCertificates(t)
	t.Cleanup(func() {
		for _, p := range []*process{c.controllers, c.api, c.etcd} {
			p.kill()
		}
	})
	return c
}

// Start gives a control plane that runs.
func Start(t testing.TB) *Cluster {
	t.Helper()
	c := New(t)
	c.StartEtcd(t)
	c.StartAPIServer(t)
	c.StartControllers(t)
	return c
}

// StartEtcd returns when etcd answers.
func (c *Cluster) StartEtcd(t testing.TB) {
	t.Helper()
	c.etcd = c.spawn(t, "etcd",
		"--name=test", "--data-dir="+c.path("etcd"), "--log-level=warn",
		"--unsafe-no-fsync", // a process that is killed loses nothing by it, only a machine
		"--listen-client-urls="+c.etcdURL, "--advertise-client-urls="+c.etcdURL,
		"--listen-peer-urls="+c.peerURL, "--initial-advertise-peer-urls="+c.peerURL, "--initial-cluster=test="+c.peerURL)
	c.etcd.await(t, http.DefaultClient, c.etcdURL+"/health")
}

// StartAPIServer returns when the API says that it is ready.
func (c *Cluster) StartAPIServer(t testing.TB) {
	t.Helper()
	c.SpawnAPIServer(t)
	client, err := rest.HTTPClientFor(c.Admin(t))
	require.NoError(t, err)
	defer client.CloseIdleConnections()
	c.api.await(t, client, c.apiURL+"/readyz")
}

// SpawnAPIServer returns as soon as the API server runs, before it answers.
func (c *Cluster) SpawnAPIServer(t testing.TB) {
	t.Helper()
	_, port, err := net.SplitHostPort(c.apiURL[len("https://"):])
	require.NoError(t, err)
	c.api = c.spawn(t, "kube-apiserver",
		"--etcd-servers="+c.etcdURL, "--bind-address="+address, "--secure-port="+port,
		"--advertise-address=192.0.2.1", // it takes none of loopback, and nobody calls it there
		"--service-cluster-ip-range="+ServiceCIDR, "--authorization-mode=RBAC", "--allow-privileged=true",
		"--disable-admission-plugins=ServiceAccount", // pods need not wait for their account
		"--client-ca-file="+c.path("ca.crt"), "--tls-cert-file="+c.path("apiserver.crt"), "--tls-private-key-file="+c.path("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+c.path("accounts.key"),
		"--service-account-signing-key-file="+c.path("accounts.key"), "--cert-dir="+c.path("certs"), "--profiling=false")
}

// StartControllers starts the controller manager. It returns at once: what it does is
// seen in the API.
func (c *Cluster) StartControllers(t testing.TB) {
	t.Helper()
	kubeconfig := c.Kubeconfig(t, "system:kube-controller-manager", "system:masters") // all controllers are this one user
	c.controllers = c.spawn(t, "kube-controller-manager",
		"--kubeconfig="+kubeconfig, "--secure-port=0", "--leader-elect=false", "--use-service-account-credentials=false",
		"--service-account-private-key-file="+c.path("accounts.key"), "--root-ca-file="+c.path("ca.crt"),
		"--allocate-node-cidrs=true", "--cluster-cidr="+PodCIDR, "--service-cluster-ip-range="+ServiceCIDR,
		"--kube-api-qps=500", "--kube-api-burst=1000", "--concurrent-gc-syncs=5")
}

// KillAPIServer ends the API server without a warning.
func (c *Cluster) KillAPIServer() { c.api.kill() }

// KillEtcd ends etcd without a warning.
func (c *Cluster) KillEtcd() { c.etcd.kill() }

// Compact makes etcd forget all but the newest revision, so that watches of older ones
// cannot go on.
func (c *Cluster) Compact(t testing.TB) {
	t.Helper()
	defer http.DefaultClient.CloseIdleConnections()
	var status struct {
		Header struct{ Revision string }
	}
	c.askEtcd(t, "/v3/maintenance/status", "{}", &status)
	_, err := strconv.ParseInt(status.Header.Revision, 10, 64)
	require.NoError(t, err, "etcd's revision")
	c.askEtcd(t, "/v3/kv/compaction", `{"revision":"`+status.Header.Revision+`","physical":true}`, nil)
}

// Admin gives how to reach the API with all rights.
func (c *Cluster) Admin(t testing.TB) *rest.Config {
	t.Helper()
	return c.Config(t, "admin", "system:masters")
}

// Config gives how to reach the API as a user.
func (c *Cluster) Config(t testing.TB, user string, groups ...string) *rest.Config {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig(t, user, groups...))
	require.NoError(t, err)
	cfg.QPS = -1 // tests do not wait for their own limit
	return cfg
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// process is a part of the control plane.
type process struct {
	name, log string
	cmd       *exec.Cmd
	done      chan struct{} // closed when it has ended
}

func (c *Cluster) spawn(t testing.TB, name string, args ...string) *process {
	t.Helper()
	p := &process{name: name, log: c.path(name + ".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer log.Close()
	p.cmd = exec.Command(filepath.Join(c.bin, name), args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	dieWithTest(p.cmd)
	require.NoError(t, p.cmd.Start(), "start %s; `make test-k8s` builds it", name)
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // who waits for it to be ready tells what it said
	}()
	return p
}

// kill may be called of one that never was.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// await waits until a URL answers that all is well.
func (p *process) await(t testing.TB, client *http.Client, url string) {
	t.Helper()
	client = &http.Client{Transport: client.Transport, Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	deadline := time.Now().Add(patience)
	for {
		_, err := fetch(client, http.MethodGet, url, nil)
		if err == nil {
			return
		}
		select {
		case <-p.done:
			t.Fatalf("%s has ended (%v); its last words:\n%s", p.name, p.cmd.ProcessState, p.lastWords())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not ready after %s: %v; its last words:\n%s", p.name, patience, err, p.lastWords())
		}
	}
}

func (p *process) lastWords() []byte {
	const enough = 4 << 10
	words, _ := os.ReadFile(p.log)
	return words[max(0, len(words)-enough):]
}

// fetch gives the answer to a request, where that is 200.
func fetch(client *http.Client, method, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, answer)
	}
	return answer, nil
}

// freePorts gives addresses that nobody listens at.
func freePorts(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", address+":0")
		require.NoError(t, err)
		defer l.Close() // all at the end, so that none is given twice
		out = append(out, l.Addr().String())
	}
	return out
}
