// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package e2e has only tests: they run the netprobe binary that NETPROBE_BIN
// names in network namespaces of their own, send real traffic, and look at
// what comes out at the other end. It knows nothing of the receiver's code.
package e2e // import "github.com/netprobe-otel/netprobe/internal/e2e"
