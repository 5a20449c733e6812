// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"strings"
)

// The ledger, as the collector's own telemetry has it.
const (
	ledgerPackets = "otelcol_receiver_ebpfnet_packets"
	ledgerBytes   = "otelcol_receiver_ebpfnet_bytes"
)

// imbalance says in words where what a hook has seen is not the sum of what became
// of it. What is on its way is a difference too.
func (f families) imbalance() string {
	var b strings.Builder
	for _, name := range []string{ledgerPackets, ledgerBytes} {
		seen, others, listed := map[string]float64{}, map[string]float64{}, map[string][]string{}
		for _, m := range f[name].GetMetric() {
			l := labels(m)
			if l["outcome"] == "seen" {
				seen[l["hook"]] += value(m)
				continue
			}
			others[l["hook"]] += value(m)
			if value(m) != 0 {
				listed[l["hook"]] = append(listed[l["hook"]], fmt.Sprintf("%s %s %.0f", l["outcome"], l["cause"], value(m)))
			}
		}
		for hook, n := range seen {
			if n != others[hook] {
				fmt.Fprintf(&b, "%s at %s: seen %.0f, but %.0f in all: %q\n", name, hook, n, others[hook], listed[hook])
			}
		}
		if len(seen) == 0 {
			fmt.Fprintf(&b, "%s: there is none\n", name)
		}
	}
	return b.String()
}
