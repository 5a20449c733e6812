// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml

// Package k8sinventoryextension owns the one set of informers of a collector: it
// follows the pods, nodes, services and workloads of a Kubernetes cluster, and tells
// other components who has which address.
package k8sinventoryextension // import "github.com/netprobe-otel/netprobe/extension/k8sinventoryextension"
