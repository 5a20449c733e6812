// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/metadata"
)

func load(t *testing.T, name string) (*Config, error) {
	t.Helper()
	all, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	id := component.NewIDWithName(metadata.Type, name)
	require.True(t, all.IsSet(id.String()), "no %s in testdata", id)
	sub, err := all.Sub(id.String())
	require.NoError(t, err)
	cfg := NewFactory().CreateDefaultConfig().(*Config)
	if err := sub.Unmarshal(cfg); err != nil {
		return nil, err
	}
	return cfg, confmap.Validate(cfg)
}

func TestConfig(t *testing.T) {
	cfg, err := load(t, "")
	require.NoError(t, err)
	require.Equal(t, createDefaultConfig(), cfg)
	cfg, err = load(t, "all")
	require.NoError(t, err)
	require.Equal(t, &Config{
		Inventory: component.MustNewIDWithName("k8s_inventory", "mine"), Node: "node-a", WaitTimeout: 10 * time.Second,
		Attributes:  []string{"pod", "namespace"},
		Metrics:     MetricsConfig{Dimensions: []string{"pod", "address", "port", "tunnel"}, MaxSeries: 10, IdleTimeout: 5 * time.Minute, Reporters: "all"},
		RoutingKey:  true,
		Deduplicate: DeduplicateConfig{Enabled: true, Wait: 45 * time.Second, MaxRecords: 1000},
	}, cfg)
}

func TestConfigBad(t *testing.T) {
	for name, want := range map[string]string{
		"inventory":    "id must not be empty",
		"wait_timeout": "wait_timeout: 6m0s is not from 0s to 5m0s",
		"attributes":   `attributes[1]: "address" is none of ["labels" "namespace" "node" "pod" "service" "workload" "zone"]`,
		"twice":        `attributes[1]: "pod" is there twice`,
		"dimensions":   `metrics::dimensions[0]: "pods" is none of ["address" "labels" "namespace" "node" "pod" "port" "service" "tunnel" "workload" "zone"]`,
		"max_series":   "metrics::max_series: 0 is not at least 1",
		"idle_timeout": "metrics::idle_timeout: 0s is not over 0",
		"reporters":    `metrics::reporters: "both" is none of ["preferred" "all"]`,
		"wait":         "deduplicate::wait: 0s is not over 0s and up to 5m0s",
		"max_records":  "deduplicate::max_records: 0 is not at least 1",
	} {
		_, err := load(t, name)
		require.ErrorContains(t, err, want, name)
	}
	require.EqualError(t, (&Config{Metrics: createDefaultConfig().(*Config).Metrics}).Validate(), "inventory: needs the ID of a k8s_inventory extension")
}
