// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package ebpfnetreceiver

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
)

// load gives the configuration of that name in testdata, as the collector makes it.
func load(t *testing.T, name string) (*Config, error) {
	t.Helper()
	all, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	id := component.NewIDWithName(metadata.Type, name)
	require.True(t, all.IsSet(id.String()), "no %s in testdata", id)
	sub, err := all.Sub(id.String())
	require.NoError(t, err)
	cfg := NewFactory().CreateDefaultConfig().(*Config)
	return cfg, sub.Unmarshal(cfg)
}

func TestDefaultConfig(t *testing.T) {
	cfg, err := load(t, "")
	require.NoError(t, err)
	require.NoError(t, confmap.Validate(cfg))
	require.Equal(t, createDefaultConfig(), cfg)
	require.Equal(t, &Config{
		MetricsBuilderConfig: metadata.NewDefaultMetricsBuilderConfig(),
		Interfaces:           InterfacesConfig{Include: []string{"*"}, Exclude: []string{"lo"}, MaxEntries: 4096},
		Interval:             5 * time.Second,
		TC:                   TCConfig{Mode: "auto"},
		XDP:                  XDPConfig{Mode: "off"},
		Flows:                FlowsConfig{Enabled: true, MaxEntries: 131072, Map: "auto", MaxSeries: 9000},
		RingBufferBytes:      4194304,
		ErrorMode:            ErrorModePropagate,
	}, cfg)
}

func TestConfigOfEveryOption(t *testing.T) {
	cfg, err := load(t, "all")
	require.NoError(t, err)
	require.NoError(t, confmap.Validate(cfg))

	require.False(t, cfg.MetricsBuilderConfig.Metrics.NetprobeFlowBytes.Enabled)
	require.True(t, cfg.MetricsBuilderConfig.Metrics.NetprobeFlowPackets.Enabled)
	cfg.MetricsBuilderConfig = metadata.MetricsBuilderConfig{} // which option was set by the user is hidden in it
	require.Equal(t, &Config{
		Interfaces:      InterfacesConfig{Include: []string{"eth*", "veth[0-9]?"}, Exclude: []string{"eth1"}, MaxEntries: 12},
		Interval:        250 * time.Millisecond,
		TC:              TCConfig{Mode: "clsact"},
		XDP:             XDPConfig{Mode: "generic"},
		Flows:           FlowsConfig{Enabled: false, MaxEntries: 1000, Map: "per_cpu", MaxSeries: 7},
		RingBufferBytes: 8192,
		ErrorMode:       ErrorModeIgnore,
	}, cfg)
}

func TestConfigGood(t *testing.T) {
	for _, name := range []string{"smallest", "largest", "no_excludes", "xdp_only", "all_modes_auto"} {
		t.Run(name, func(t *testing.T) {
			cfg, err := load(t, name)
			require.NoError(t, err)
			require.NoError(t, confmap.Validate(cfg))
		})
	}
}

func TestConfigWithoutExcludesWatchesLoopback(t *testing.T) {
	cfg, err := load(t, "no_excludes")
	require.NoError(t, err)
	require.Empty(t, cfg.Interfaces.Exclude)
}

func TestConfigBad(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"interval_too_short", "interval: 99ms is under the minimum of 100ms"},
		{"interval_zero", "interval: 0s is under the minimum of 100ms"},
		{"ring_buffer_too_small", "ring_buffer_bytes: 2048 is not a power of two from 4096 to 1073741824"},
		{"ring_buffer_too_large", "ring_buffer_bytes: 2147483648 is not a power of two from 4096 to 1073741824"},
		{"ring_buffer_no_power_of_two", "ring_buffer_bytes: 12288 is not a power of two from 4096 to 1073741824"},
		{"interfaces_none", `interfaces::include: needs at least one pattern, such as "*" for all interfaces`},
		{"interfaces_empty_pattern", "interfaces::include[1]: is empty"},
		{"interfaces_bad_include", `interfaces::include[0]: "[a-": syntax error in pattern`},
		{"interfaces_bad_exclude", `interfaces::exclude[1]: "veth[": syntax error in pattern`},
		{"interfaces_max_zero", "interfaces::max_entries: 0 is not from 1 to 1048576"},
		{"interfaces_max_too_large", "interfaces::max_entries: 1048577 is not from 1 to 1048576"},
		{"tc_unknown_mode", `tc::mode: "TCX" is none of ["off" "auto" "tcx" "clsact"]`},
		{"xdp_unknown_mode", `xdp::mode: "offload" is none of ["off" "auto" "native" "generic"]`},
		{"both_off", "tc::mode and xdp::mode: both are off, so there is nothing to receive; switch one on"},
		{"flows_zero", "flows::max_entries: 0 is not from 1 to 16777216"},
		{"flows_too_many", "flows::max_entries: 16777217 is not from 1 to 16777216"},
		{"flows_unknown_map", `flows::map: "lru" is none of ["auto" "shared" "per_cpu"]`},
		{"flows_no_series", "flows::max_series: 0 is not at least 1; to have no flow metrics, disable them under metrics"},
		{"error_mode_unknown", `error_mode: "silent" is none of ["propagate" "ignore"]`},
		{
			"several_at_once", `interfaces::include[0]: is empty
interfaces::max_entries: 0 is not from 1 to 1048576
flows::map: "lru" is none of ["auto" "shared" "per_cpu"]
flows::max_series: -1 is not at least 1; to have no flow metrics, disable them under metrics
interval: 1ms is under the minimum of 100ms`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := load(t, tt.name)
			require.NoError(t, err)
			require.EqualError(t, confmap.Validate(cfg), tt.want)
		})
	}
}

func TestConfigOfWrongTypes(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"unknown_option", "has invalid keys: sampling"},
		{"negative_size", "'ring_buffer_bytes' cannot parse value as 'uint32': -1 overflows uint"},
		{"interval_without_unit", "'interval' time: invalid duration"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.name)
			require.ErrorContains(t, err, tt.want)
		})
	}
}
