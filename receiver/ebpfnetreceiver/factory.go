// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package ebpfnetreceiver

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"

	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
)

// NewFactory creates the factory of the ebpfnet receiver.
func NewFactory() receiver.Factory {
	f := newSharedReceivers()
	return receiver.NewFactory(
		metadata.Type,
		createDefaultConfig,
		receiver.WithMetrics(func(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Metrics) (receiver.Metrics, error) {
			return f.metrics(set, cfg.(*Config), next)
		}, metadata.MetricsStability),
		receiver.WithLogs(func(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Logs) (receiver.Logs, error) {
			return f.logs(set, cfg.(*Config), next)
		}, metadata.LogsStability),
	)
}
