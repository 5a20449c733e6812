// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// In a PID namespace of its own NetProbe is not shown the connections that were there
// before it, and says so.
func TestOwnPIDNamespaceIsSaidToHideConnections(t *testing.T) {
	l := newLab(t)
	l.link(t, "np0").up(t)
	// the state of the feature, by its reason
	feature := func(a *agent, reason string) string {
		for _, m := range a.host.scrape(t, selfURL)["otelcol_receiver_ebpfnet_feature"].GetMetric() {
			if l := labels(m); l["feature"] == "sockets_existing" && l["reason"] == reason {
				return l["state"]
			}
		}
		return ""
	}
	const warning = "in Kubernetes hostPID: true"

	if own, err := os.Readlink("/proc/self/ns/pid"); err != nil || own != "pid:[4026531836]" {
		t.Skip("these tests are not run in the machine's first PID namespace: ", own, err)
	}
	a := start(t, l.near, `{interval: 200ms}`)
	require.Eventually(t, func() bool { return feature(a, "") == "on" }, patience, glance)
	require.NotContains(t, a.output.String(), warning)
	require.True(t, a.stop(t, syscall.SIGTERM).Success())

	b := &agent{host: l.near, sink: a.sink}
	cmd := command(config(`{interval: 200ms}`))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	b.process = l.near.launch(t, cmd)
	b.waitReady(t)
	require.Eventually(t, func() bool { return feature(b, "pid_namespace") == "missing" }, patience, glance)
	require.Contains(t, b.output.String(), warning)
}
