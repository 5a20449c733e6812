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
		Flows:                FlowsConfig{Enabled: true, MaxEntries: 131072, Map: "auto", MaxSeries: 6600, QueueSize: 262144, NAT: "auto", Sampling: 1},
		Tunnels:              TunnelsConfig{VXLANPorts: []int{4789, 8472}, GenevePorts: []int{6081}, GRE: true, IPIP: true, MaxEntries: 4096, IdleTimeout: 5 * time.Minute},
		Netfilter:            NetfilterConfig{Mode: "off"},
		Drops:                DropsConfig{Mode: "auto", MaxEntries: 4096, MaxFlows: 8192},
		Sockets: SocketsConfig{
			Mode: "auto", MaxEntries: 65536, Namespaces: "all", MaxListeners: 512,
			Histograms: HistogramsConfig{
				Type: "explicit", MaxSize: 160,
				Boundaries: []time.Duration{
					50e3, 100e3, 250e3, 500e3, 1e6, 2500e3, 5e6, 10e6, 25e6, 50e6, 100e6, 250e6, 500e6, 1e9, 2500e6, 5e9, 10e9,
				},
			},
		},
		RingBufferBytes: 4194304,
		ErrorMode:       ErrorModePropagate,
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
		Interfaces: InterfacesConfig{Include: []string{"eth*", "veth[0-9]?"}, Exclude: []string{"eth1"}, MaxEntries: 12},
		Interval:   250 * time.Millisecond,
		TC:         TCConfig{Mode: "clsact"},
		XDP:        XDPConfig{Mode: "generic"},
		Flows: FlowsConfig{
			Enabled: false, MaxEntries: 1000, Map: "per_cpu", MaxSeries: 7, QueueSize: 5, PerInterface: true, IdentifyEnds: true,
			NAT: "off", Sampling: 100,
			Include: []FlowMatch{{CIDR: "10.0.0.0/8", Port: "8000-8999", Protocol: "tcp"}, {CIDR: "2001:db8::1"}},
			Exclude: []FlowMatch{{Port: "53"}, {Protocol: "89"}},
		},
		Tunnels: TunnelsConfig{
			VXLANPorts: []int{4789, 250}, GenevePorts: []int{}, MaxEntries: 16, IdleTimeout: 90 * time.Second,
		},
		Netfilter: NetfilterConfig{Mode: "auto"},
		Drops:     DropsConfig{Mode: "off", MaxEntries: 9, MaxFlows: 8},
		Sockets: SocketsConfig{
			Mode: "off", MaxEntries: 7, Namespaces: "own", MaxListeners: 6,
			Histograms: HistogramsConfig{Type: "exponential", Boundaries: []time.Duration{time.Millisecond, time.Second}, MaxSize: 20},
		},
		RingBufferBytes: 8192,
		ErrorMode:       ErrorModeIgnore,
	}, cfg)
}

func TestConfigGood(t *testing.T) {
	for _, name := range []string{"smallest", "largest", "no_excludes", "xdp_only", "sockets_only", "all_modes_auto"} {
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
		{"all_off", "tc::mode, xdp::mode, sockets::mode, drops::mode and netfilter::mode: all are off, so there is nothing to receive; switch one on"},
		{"flows_zero", "flows::max_entries: 0 is not from 1 to 16777216"},
		{"flows_too_many", "flows::max_entries: 16777217 is not from 1 to 16777216"},
		{"flows_unknown_map", `flows::map: "lru" is none of ["auto" "shared" "per_cpu"]`},
		{"flows_no_series", "flows::max_series: 0 is not at least 1; to have no flow metrics, disable them under metrics"},
		{"flows_no_queue", "flows::queue_size: 0 is not at least 1"},
		{"flows_no_sampling", "flows::sampling: 0 is not from 1, which counts all packets, to 1048576"},
		{"flows_unknown_nat", `flows::nat: "conntrack" is none of ["off" "auto"]`},
		{"flows_empty_match", "flows::include[1]: says neither cidr, port nor protocol"},
		{"flows_bad_cidr", `flows::include[0]: cidr: "10.0.0.0/33" is neither a network, such as 10.0.0.0/8, nor an address`},
		{"flows_host_name", `flows::exclude[0]: cidr: "localhost" is neither a network, such as 10.0.0.0/8, nor an address`},
		{"flows_zone", `flows::include[0]: cidr: "fe80::1%eth0": zones are not possible`},
		{"flows_mapped_network", `flows::include[0]: cidr: "::ffff:10.0.0.0/104": write it as an IPv4 network`},
		{"flows_port_zero", `flows::include[0]: port: "0" is neither a port from 1 to 65535 nor a range of them, such as 8000-8999`},
		{"flows_port_too_large", `flows::include[0]: port: "65536" is neither a port from 1 to 65535 nor a range of them, such as 8000-8999`},
		{"flows_ports_reversed", `flows::include[0]: port: "90-80" is neither a port from 1 to 65535 nor a range of them, such as 8000-8999`},
		{"flows_ports_open", `flows::include[0]: port: "8000-" is neither a port from 1 to 65535 nor a range of them, such as 8000-8999`},
		{"flows_ports_negative", `flows::include[0]: port: "-1" is neither a port from 1 to 65535 nor a range of them, such as 8000-8999`},
		{"flows_unknown_protocol", `flows::include[0]: protocol: "TCP" is neither an IANA keyword in lower case, such as tcp or ipv6-icmp, nor a number up to 255`},
		{"flows_protocol_too_large", `flows::include[0]: protocol: "256" is neither an IANA keyword in lower case, such as tcp or ipv6-icmp, nor a number up to 255`},
		{
			"flows_match_all_wrong", `flows::exclude[0]: cidr: "here" is neither a network, such as 10.0.0.0/8, nor an address
port: "http" is neither a port from 1 to 65535 nor a range of them, such as 8000-8999
protocol: "web" is neither an IANA keyword in lower case, such as tcp or ipv6-icmp, nor a number up to 255`,
		},
		{"flows_too_many_matches", "flows::include and flows::exclude: 33 entries together are over the maximum of 32"},
		{"tunnels_too_many_vxlan_ports", "tunnels::vxlan_ports: 9 ports are over the maximum of 8"},
		{"tunnels_too_many_geneve_ports", "tunnels::geneve_ports: 9 ports are over the maximum of 8"},
		{"tunnels_port_zero", "tunnels::vxlan_ports[1]: 0 is not from 1 to 65535"},
		{"tunnels_port_too_large", "tunnels::geneve_ports[0]: 65536 is not from 1 to 65535"},
		{"tunnels_port_of_both", "tunnels::vxlan_ports and tunnels::geneve_ports: 8472 is in both"},
		{"tunnels_zero", "tunnels::max_entries: 0 is not from 1 to 1048576"},
		{"tunnels_too_many", "tunnels::max_entries: 1048577 is not from 1 to 1048576"},
		{"tunnels_never_idle", "tunnels::idle_timeout: 0s is not over 0"},
		{"negative_size", "ring_buffer_bytes: -1 is not a power of two from 4096 to 1073741824"},
		{
			"sizes_beyond_32_bits", `interfaces::max_entries: 4294967297 is not from 1 to 1048576
flows::sampling: 4294967396 is not from 1, which counts all packets, to 1048576
flows::max_entries: 4294967297 is not from 1 to 16777216
tunnels::max_entries: 4294967297 is not from 1 to 1048576
ring_buffer_bytes: 4294971392 is not a power of two from 4096 to 1073741824`,
		},
		{"drops_wrong", `drops::mode: "on" is none of ["off" "auto"]
drops::max_entries: 0 is not from 1 to 1048576
drops::max_flows: 1048577 is not from 1 to 1048576`},
		{"sockets_wrong", `sockets::mode: "on" is none of ["off" "auto"]
sockets::max_entries: 0 is not from 1 to 4194304
sockets::namespaces: "host" is none of ["all" "own"]
sockets::max_listeners: 65537 is not from 1 to 65536
sockets::histograms::type: "native" is none of ["off" "explicit" "exponential"]
sockets::histograms::boundaries[0]: 0s is not over 0
sockets::histograms::boundaries[2]: 1ms is not over the one before it, 2ms
sockets::histograms::max_size: 1 is not from 2 to 1024`},
		{"sockets_no_boundaries", "sockets::histograms::boundaries: needs at least one"},
		{"netfilter_mode_unknown", `netfilter::mode: "on" is none of ["off" "auto"]`},
		{"error_mode_unknown", `error_mode: "silent" is none of ["propagate" "ignore"]`},
		{
			"several_at_once", `interfaces::include[0]: is empty
interfaces::max_entries: 0 is not from 1 to 1048576
flows::map: "lru" is none of ["auto" "shared" "per_cpu"]
flows::nat: "" is none of ["off" "auto"]
flows::include[0]: port: "70000" is neither a port from 1 to 65535 nor a range of them, such as 8000-8999
flows::queue_size: -1 is not at least 1
flows::max_series: -1 is not at least 1; to have no flow metrics, disable them under metrics
tunnels::vxlan_ports and tunnels::geneve_ports: 6081 is in both
tunnels::idle_timeout: -1s is not over 0
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
		{"unknown_match", "has invalid keys: address"},
		{"interval_without_unit", "'interval' time: invalid duration"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.name)
			require.ErrorContains(t, err, tt.want)
		})
	}
}
