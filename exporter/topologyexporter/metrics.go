// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyexporter

import (
	"context"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/internal/topology"
)

// counters are the metrics of interfaces that the graph has a use for.
var counters = map[string]topology.InterfaceCounter{
	"netprobe.interface.rx.bytes": topology.RxBytes, "netprobe.interface.tx.bytes": topology.TxBytes,
	"netprobe.interface.rx.packets": topology.RxPackets, "netprobe.interface.tx.packets": topology.TxPackets,
}

const (
	utilization = "netprobe.interface.utilization"
	ioDirection = "network.io.direction"
	// The collector's own telemetry, where a pipeline has it.
	ledgerPackets = "otelcol_receiver_ebpfnet_packets"
	ledgerBytes   = "otelcol_receiver_ebpfnet_bytes"
)

// metrics takes the counters of interfaces, and the ledger.
func (e *topologyExporter) metrics(_ context.Context, md pmetric.Metrics) error {
	var faces []topology.InterfaceReading
	var ledger []topology.LedgerReading
	for _, rm := range md.ResourceMetrics().All() {
		node := nodeOf(rm.Resource())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if counter, ok := counters[m.Name()]; ok {
					faces = readInterface(faces, m, node, counter)
					continue
				}
				switch strings.TrimSuffix(m.Name(), "_total") {
				case utilization:
					faces = readInterface(faces, m, node, topology.RxUtilization)
				case ledgerPackets:
					ledger = readLedger(ledger, m, node, false)
				case ledgerBytes:
					ledger = readLedger(ledger, m, node, true)
				}
			}
		}
	}
	if len(faces) > 0 {
		e.sink.AddInterfaces(faces)
	}
	if len(ledger) > 0 {
		e.sink.AddLedger(ledger)
	}
	return nil
}

func readInterface(to []topology.InterfaceReading, m pmetric.Metric, node string, counter topology.InterfaceCounter) []topology.InterfaceReading {
	for _, dp := range points(m).All() {
		name := str(dp.Attributes(), netattr.NetworkInterfaceName)
		if name == "" || dp.Flags().NoRecordedValue() {
			continue
		}
		r := topology.InterfaceReading{Node: cut(node), Name: name, At: dp.Timestamp().AsTime(), Start: dp.StartTimestamp().AsTime(), Counter: counter}
		if counter == topology.RxUtilization {
			r.Ratio = dp.DoubleValue()
			if str(dp.Attributes(), ioDirection) == "transmit" {
				r.Counter = topology.TxUtilization
			}
		} else {
			r.Value = number(dp)
		}
		to = append(to, r)
	}
	return to
}

func readLedger(to []topology.LedgerReading, m pmetric.Metric, node string, bytes bool) []topology.LedgerReading {
	for _, dp := range points(m).All() {
		attrs := dp.Attributes()
		to = append(to, topology.LedgerReading{
			Node: cut(node), Hook: str(attrs, "hook"), Outcome: str(attrs, "outcome"), Cause: str(attrs, "cause"), Bytes: bytes, Value: number(dp),
		})
	}
	return to
}

// points gives those of a sum that is cumulative, or of a gauge.
func points(m pmetric.Metric) pmetric.NumberDataPointSlice {
	switch {
	case m.Type() == pmetric.MetricTypeSum && m.Sum().AggregationTemporality() == pmetric.AggregationTemporalityCumulative:
		return m.Sum().DataPoints()
	case m.Type() == pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints()
	}
	return pmetric.NewNumberDataPointSlice()
}

func number(dp pmetric.NumberDataPoint) int64 {
	if dp.ValueType() == pmetric.NumberDataPointValueTypeDouble {
		return min(max(int64(dp.DoubleValue()), 0), maxCount)
	}
	return min(max(dp.IntValue(), 0), maxCount)
}

func str(attrs pcommon.Map, key string) string {
	if v, ok := attrs.Get(key); ok {
		return text(v)
	}
	return ""
}
