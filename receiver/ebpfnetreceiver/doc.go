// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml

// Package ebpfnetreceiver counts the packets, bytes and flows of this host's
// network interfaces with eBPF programs, and hands them to the collector as
// metrics (interfaces, flows) and logs (one record per flow and interval).
package ebpfnetreceiver // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver"
