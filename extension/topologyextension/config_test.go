// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/netprobe-otel/netprobe/extension/topologyextension/internal/metadata"
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
	require.NoError(t, confmap.Validate(load(t, "")))
	require.Equal(t, "localhost:8081", load(t, "").ServerConfig.NetAddr.Endpoint)
	all := load(t, "all")
	require.NoError(t, confmap.Validate(all))
	require.Equal(t, "127.0.0.1:9000", all.ServerConfig.NetAddr.Endpoint)
	require.Equal(t, component.MustNewID("k8s_inventory"), *all.Inventory)
	require.Equal(t, component.MustNewID("file_storage"), *all.Storage)
	require.True(t, all.ReadyWithoutInventory)
	require.Equal(t, GraphConfig{MaxVertices: 100, MaxEdges: 1000, MaxConversations: 5000, MaxFlowRecords: 10, Refresh: 3 * time.Second}, all.Graph)
	require.Equal(t, HistoryConfig{
		MaxSizeMiB: 8, Resolution: 30 * time.Second, FineFor: 10 * time.Minute, CoarseResolution: 5 * time.Minute, Retention: time.Hour, FlushInterval: 5 * time.Second,
	}, all.History)
	require.Equal(t, StreamConfig{MaxClients: 2, Interval: time.Second}, all.Stream)
}

func TestConfigBad(t *testing.T) {
	for name, want := range map[string]string{
		"endpoint": "endpoint: is where the API is served, as localhost:8081, and is empty",
		"edges":    "graph::max_edges: 1 is not from 64 to 5000000",
		"coarse":   "history::coarse_resolution: 10s is not from 1m0s to 24h0m0s",
		"stream":   "stream::interval: 1ms is not from 100ms to 1m0s",
	} {
		require.EqualError(t, confmap.Validate(load(t, name)), want, name)
	}
}
