// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/netprobe-otel/netprobe/internal/netattr"
	c "github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/clustertest"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/metadata"
)

// Whatever a record says, it passes with all that it said, and once.
func FuzzRecord(f *testing.F) {
	f.Add(c.Client1, c.WebService, c.Web2, int64(40000), int64(80), "tcp", "source", c.WebContainer1, true, int64(1), "n1")
	f.Add("", "::ffff:10.244.1.2", "%", int64(-1), int64(1<<40), "no such", "both", "", false, int64(-1<<63), "")
	f.Fuzz(func(t *testing.T, source, destination, other string, sourcePort, destinationPort int64, transport, initiator, container string, original bool, start int64, node string) {
		cfg := defaults(on("n2"), func(cfg *Config) { cfg.Deduplicate.Enabled = true })
		var late consumertest.LogsSink
		p, err := newLogs(processortest.NewNopSettings(metadata.Type), cfg, &late)
		require.NoError(t, err)
		require.NoError(t, p.start(t.Context(), hostWith(c.New())))
		said := record(source, destination, sourcePort, destinationPort, attributes{
			netattr.NATDestinationAddress: other, netattr.NATDestinationPort: destinationPort, netattr.NATOriginal: original,
			netattr.NetworkTransport: transport, netattr.FlowInitiator: initiator, netattr.SourceContainerID: container, netattr.FlowStart: start,
			// of the wrong type
			netattr.TunnelSourceAddress: start, netattr.ICMPType: other,
		})
		ld := flowLogs(t, node, said)
		now, err := p.process(t.Context(), ld)
		if err == nil {
			require.NoError(t, late.ConsumeLogs(t.Context(), now))
		}
		require.NoError(t, p.shutdown(t.Context()))
		require.Equal(t, 1, late.LogRecordCount())
		want := flowLogs(t, "", said).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes()
		got := onlyRecord(late.AllLogs()).Attributes()
		for key, value := range want.All() {
			kept, ok := got.Get(key)
			require.True(t, ok, key)
			require.True(t, value.Equal(kept), key)
		}
	})
}

func onlyRecord(all []plog.Logs) plog.LogRecord {
	for _, ld := range all {
		if ld.LogRecordCount() == 1 {
			return ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
		}
	}
	return plog.NewLogRecord()
}
