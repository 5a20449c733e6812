// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml

// Package k8sflowprocessor names both ends of flows: which pod, workload, service and
// node is there. It finds who has an address in the extension k8s_inventory.
package k8sflowprocessor // import "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor"
