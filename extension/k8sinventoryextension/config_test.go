// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/netprobe-otel/netprobe/extension/k8sinventoryextension/internal/metadata"
)

func load(t *testing.T, name string) *Config {
	t.Helper()
	all, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	id := component.NewIDWithName(metadata.Type, name)
	require.True(t, all.IsSet(id.String()), "no %s in testdata", id)
	sub, err := all.Sub(id.String())
	require.NoError(t, err)
	cfg := NewFactory().CreateDefaultConfig().(*Config)
	require.NoError(t, sub.Unmarshal(cfg))
	return cfg
}

func TestConfig(t *testing.T) {
	require.Equal(t, &Config{Scope: "cluster", Grace: time.Minute, Flannel: FlannelConfig{Host: "auto", Interval: 30 * time.Second}}, load(t, ""))
	require.NoError(t, confmap.Validate(load(t, "")))
	require.Equal(t, &Config{
		Kubeconfig: "/etc/kubeconfig", Context: "prod", Scope: "node", Node: "node-a", Grace: 90 * time.Second,
		Labels: []string{"app.kubernetes.io/name", "tier"}, Annotations: []string{"example.com/team"},
		Flannel: FlannelConfig{Host: "off", Interval: 10 * time.Second, Port: 4789},
	}, load(t, "all"))
	require.NoError(t, confmap.Validate(load(t, "all")))
}

func TestConfigBad(t *testing.T) {
	for name, want := range map[string]string{
		"scope":        `scope: "world" is none of ["cluster" "node"]`,
		"no_node":      "node: is needed for scope node; in a pod give it as ${env:K8S_NODE_NAME} from the field spec.nodeName",
		"context":      "context: is of a kubeconfig, and there is none",
		"flannel_port": "flannel::port: 70000 is not from 0, for any, to 65535",
		"grace":        "grace: 1h0m1s is not from 0s to 1h0m0s",
		"host":         `flannel::host: "yes" is none of ["auto" "off"]`,
		"interval":     "flannel::interval: 10ms is not from 1s to 1h0m0s",
		"labels":       `labels[1]: "app" is there twice`,
	} {
		require.EqualError(t, confmap.Validate(load(t, name)), want, name)
	}
	require.ErrorContains(t, confmap.Validate(load(t, "annotations")), `annotations[0]: "no key": name part must consist of`)
}
