// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml

// Package topologyextension has the graph of who talks to whom, and serves it: a REST API, a
// stream of changes, and a page to look at.
package topologyextension // import "github.com/netprobe-otel/netprobe/extension/topologyextension"
