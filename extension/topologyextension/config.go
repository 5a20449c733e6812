// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/confmap"

	"github.com/netprobe-otel/netprobe/internal/topology"
)

// Config of the extension.
type Config struct {
	// ServerConfig is where and how it is served.
	ServerConfig confighttp.ServerConfig `mapstructure:",squash"`
	// Inventory is the ID of the extension that knows the cluster; nil for none.
	Inventory *component.ID `mapstructure:"inventory"`
	// ReadyWithoutInventory: /readyz does not wait until it has been read whole.
	ReadyWithoutInventory bool `mapstructure:"ready_without_inventory"`
	// Storage is the ID of the extension that keeps history over a restart; nil for none.
	Storage *component.ID `mapstructure:"storage"`
	// Graph has the budgets of the live graph.
	Graph GraphConfig `mapstructure:"graph"`
	// History has those of what is over.
	History HistoryConfig `mapstructure:"history"`
	// Stream has the limits of /api/stream.
	Stream StreamConfig `mapstructure:"stream"`
}

// GraphConfig has the budgets of the live graph.
type GraphConfig struct {
	MaxVertices      int `mapstructure:"max_vertices"`
	MaxEdges         int `mapstructure:"max_edges"`
	MaxConversations int `mapstructure:"max_conversations"`
	MaxFlowRecords   int `mapstructure:"max_flow_records"`
	// Refresh is how old an answer may be.
	Refresh time.Duration `mapstructure:"refresh"`
}

// HistoryConfig has those of what is over.
type HistoryConfig struct {
	MaxSizeMiB       int           `mapstructure:"max_size_mib"`
	Resolution       time.Duration `mapstructure:"resolution"`
	FineFor          time.Duration `mapstructure:"fine_for"`
	CoarseResolution time.Duration `mapstructure:"coarse_resolution"`
	Retention        time.Duration `mapstructure:"retention"`
	// FlushInterval is how often the minute that is not over is stored.
	FlushInterval time.Duration `mapstructure:"flush_interval"`
}

// StreamConfig has the limits of /api/stream.
type StreamConfig struct {
	MaxClients int           `mapstructure:"max_clients"`
	Interval   time.Duration `mapstructure:"interval"`
}

var _ confmap.Validator = (*Config)(nil)

const defaultEndpoint = "localhost:8081"

func createDefaultConfig() component.Config {
	server := confighttp.NewDefaultServerConfig()
	server.NetAddr.Endpoint = defaultEndpoint
	server.ReadTimeout, server.ReadHeaderTimeout = 10*time.Second, 5*time.Second
	server.MaxRequestBodySize = 64 << 10 // it takes no bodies
	o := topology.Defaults()
	return &Config{
		ServerConfig: server,
		Graph: GraphConfig{
			MaxVertices: o.MaxVertices, MaxEdges: o.MaxEdges, MaxConversations: o.MaxConversations, MaxFlowRecords: o.MaxFlowRecords, Refresh: o.Refresh,
		},
		History: HistoryConfig{
			MaxSizeMiB: int(o.HistoryBytes >> 20), Resolution: o.Step, FineFor: o.FineFor, CoarseResolution: o.CoarseStep, Retention: o.Retention,
			FlushInterval: 10 * time.Second,
		},
		Stream: StreamConfig{MaxClients: 32, Interval: 2 * time.Second},
	}
}

func (cfg *Config) options() topology.Options {
	return topology.Options{
		MaxVertices: cfg.Graph.MaxVertices, MaxEdges: cfg.Graph.MaxEdges, MaxConversations: cfg.Graph.MaxConversations,
		MaxFlowRecords: cfg.Graph.MaxFlowRecords, Refresh: cfg.Graph.Refresh,
		HistoryBytes: int64(cfg.History.MaxSizeMiB) << 20, Step: cfg.History.Resolution, FineFor: cfg.History.FineFor,
		CoarseStep: cfg.History.CoarseResolution, Retention: cfg.History.Retention,
	}
}

// Validate names the option in each error, for there may be several.
func (cfg *Config) Validate() error {
	var errs []error
	if cfg.ServerConfig.NetAddr.Endpoint == "" {
		errs = append(errs, errors.New("endpoint: is where the API is served, as "+defaultEndpoint+", and is empty"))
	}
	for _, n := range []struct {
		option        string
		value, lo, hi int
	}{
		{"graph::max_vertices", cfg.Graph.MaxVertices, 16, 1_000_000},
		{"graph::max_edges", cfg.Graph.MaxEdges, 64, 5_000_000},
		{"graph::max_conversations", cfg.Graph.MaxConversations, 1024, 50_000_000},
		{"graph::max_flow_records", cfg.Graph.MaxFlowRecords, 1, 5_000_000},
		{"history::max_size_mib", cfg.History.MaxSizeMiB, 1, 65536},
		{"stream::max_clients", cfg.Stream.MaxClients, 0, 10_000},
	} {
		if n.value < n.lo || n.value > n.hi {
			errs = append(errs, fmt.Errorf("%s: %d is not from %d to %d", n.option, n.value, n.lo, n.hi))
		}
	}
	for _, d := range []struct {
		option        string
		value, lo, hi time.Duration
	}{
		{"graph::refresh", cfg.Graph.Refresh, 0, time.Minute},
		{"history::resolution", cfg.History.Resolution, time.Second, time.Hour},
		{"history::fine_for", cfg.History.FineFor, 0, 31 * 24 * time.Hour},
		{"history::coarse_resolution", cfg.History.CoarseResolution, cfg.History.Resolution, 24 * time.Hour},
		{"history::retention", cfg.History.Retention, cfg.History.Resolution, 31 * 24 * time.Hour},
		{"history::flush_interval", cfg.History.FlushInterval, time.Second, time.Hour},
		{"stream::interval", cfg.Stream.Interval, 100 * time.Millisecond, time.Minute},
	} {
		if d.value < d.lo || d.value > d.hi {
			errs = append(errs, fmt.Errorf("%s: %s is not from %s to %s", d.option, d.value, d.lo, d.hi))
		}
	}
	return errors.Join(errs...)
}
