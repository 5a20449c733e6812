// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml

// Package topologyexporter ends a pipeline in the graph that the topology extension serves.
package topologyexporter // import "github.com/netprobe-otel/netprobe/exporter/topologyexporter"
