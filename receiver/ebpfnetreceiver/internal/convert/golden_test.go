// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/golden"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/plogtest"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/pmetrictest"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

var update = flag.Bool("update", false, "write the golden files anew, to be read before they are committed")

func requireGoldenLogs(t *testing.T, name string, got plog.Logs) {
	t.Helper()
	path := filepath.Join("testdata", "logs", name+".yaml")
	if *update {
		require.NoError(t, golden.WriteLogsToFile(path, got))
		require.NoError(t, os.Chmod(path, 0o644))
	}
	want, err := golden.ReadLogs(path)
	require.NoError(t, err)
	require.NoError(t, plogtest.CompareLogs(want, got))
}

func requireGoldenMetrics(t *testing.T, name string, got pmetric.Metrics) {
	t.Helper()
	path := filepath.Join("testdata", "metrics", name+".yaml")
	if *update {
		require.NoError(t, golden.WriteMetricsToFile(path, got, golden.SkipMetricTimestampNormalization()))
		require.NoError(t, os.Chmod(path, 0o644))
	}
	want, err := golden.ReadMetrics(path)
	require.NoError(t, err)
	require.NoError(t, pmetrictest.CompareMetrics(want, got, pmetrictest.IgnoreMetricDataPointsOrder()))
}
