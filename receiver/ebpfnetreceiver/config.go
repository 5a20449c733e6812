// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package ebpfnetreceiver

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"

	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
)

// Config of the receiver.
type Config struct {
	// MetricsBuilderConfig switches single metrics on and off under `metrics`.
	MetricsBuilderConfig metadata.MetricsBuilderConfig `mapstructure:",squash"`

	Interfaces InterfacesConfig `mapstructure:"interfaces"`
	// Interval is how often the counters are read and handed on.
	Interval time.Duration `mapstructure:"interval"`
	TC       TCConfig      `mapstructure:"tc"`
	XDP      XDPConfig     `mapstructure:"xdp"`
	Flows    FlowsConfig   `mapstructure:"flows"`
	// RingBufferBytes is the size of the ring buffer that takes what the flow
	// map has no room for: a power of two, and a multiple of the page size.
	RingBufferBytes uint32 `mapstructure:"ring_buffer_bytes"`
	// ErrorMode says what becomes of the collector where eBPF cannot be used.
	ErrorMode ErrorMode `mapstructure:"error_mode"`
}

// InterfacesConfig chooses the interfaces of the network namespace to watch.
type InterfacesConfig struct {
	// Include and Exclude are patterns as of path.Match: * ? [a-z]. An
	// interface is watched if one of Include matches and none of Exclude.
	Include []string `mapstructure:"include"`
	Exclude []string `mapstructure:"exclude"`
	// MaxEntries is how many can be watched at a time.
	MaxEntries uint32 `mapstructure:"max_entries"`
}

// TCConfig of the programs at ingress and egress.
type TCConfig struct {
	// Mode is off, auto (TCX where the kernel has it, else clsact), tcx or clsact.
	Mode string `mapstructure:"mode"`
}

// XDPConfig of the program in front of the network stack.
type XDPConfig struct {
	// Mode is off, auto (native where the driver has it, else off), native or generic.
	Mode string `mapstructure:"mode"`
}

// FlowsConfig of the flow table.
type FlowsConfig struct {
	Enabled bool `mapstructure:"enabled"`
	// MaxEntries is how many flows fit into an interval before packets of new
	// ones go through the ring buffer.
	MaxEntries uint32 `mapstructure:"max_entries"`
	// Map is auto, shared or per_cpu.
	Map string `mapstructure:"map"`
	// MaxSeries is how many series each flow metric has at most; what is over
	// that is counted without addresses.
	MaxSeries int `mapstructure:"max_series"`
}

// ErrorMode says what becomes of the collector where eBPF cannot be used.
type ErrorMode string

// Error modes.
const (
	// ErrorModePropagate: the collector does not start.
	ErrorModePropagate ErrorMode = "propagate"
	// ErrorModeIgnore: the receiver says so, stays silent, and all else runs.
	ErrorModeIgnore ErrorMode = "ignore"
)

var _ confmap.Validator = (*Config)(nil)

const (
	minInterval        = 100 * time.Millisecond
	minRingBufferBytes = 4096
	maxRingBufferBytes = 1 << 30
	maxFlowEntries     = 1 << 24
	maxInterfaces      = 1 << 20
)

var (
	tcModes    = []string{"off", "auto", "tcx", "clsact"}
	xdpModes   = []string{"off", "auto", "native", "generic"}
	flowMaps   = []string{"auto", "shared", "per_cpu"}
	errorModes = []ErrorMode{ErrorModePropagate, ErrorModeIgnore}
)

func createDefaultConfig() component.Config {
	return &Config{
		MetricsBuilderConfig: metadata.NewDefaultMetricsBuilderConfig(),
		Interfaces: InterfacesConfig{
			Include:    []string{"*"},
			Exclude:    []string{"lo"},
			MaxEntries: 4096,
		},
		Interval: 5 * time.Second,
		TC:       TCConfig{Mode: "auto"},
		// Loading a native XDP program makes many drivers reset their queues,
		// which loses packets for a moment: never without being asked.
		XDP: XDPConfig{Mode: "off"},
		Flows: FlowsConfig{
			Enabled:    true,
			MaxEntries: 131072,
			Map:        "auto",
			// two metrics with as many series each stay under 20,000
			MaxSeries: 9000,
		},
		RingBufferBytes: 4 << 20,
		ErrorMode:       ErrorModePropagate,
	}
}

// Validate names the option in each error, for there may be several.
func (cfg *Config) Validate() error {
	errs := []error{
		cfg.Interfaces.validate(),
		oneOf("tc::mode", cfg.TC.Mode, tcModes),
		oneOf("xdp::mode", cfg.XDP.Mode, xdpModes),
		cfg.Flows.validate(),
		oneOf("error_mode", cfg.ErrorMode, errorModes),
	}
	if cfg.Interval < minInterval {
		errs = append(errs, fmt.Errorf("interval: %s is under the minimum of %s", cfg.Interval, minInterval))
	}
	if n := cfg.RingBufferBytes; n < minRingBufferBytes || n > maxRingBufferBytes || n&(n-1) != 0 {
		errs = append(errs, fmt.Errorf("ring_buffer_bytes: %d is not a power of two from %d to %d", n, minRingBufferBytes, maxRingBufferBytes))
	}
	if cfg.TC.Mode == "off" && cfg.XDP.Mode == "off" {
		errs = append(errs, errors.New("tc::mode and xdp::mode: both are off, so there is nothing to receive; switch one on"))
	}
	return errors.Join(errs...)
}

func (cfg *InterfacesConfig) validate() error {
	errs := []error{
		validatePatterns("interfaces::include", cfg.Include),
		validatePatterns("interfaces::exclude", cfg.Exclude),
	}
	if len(cfg.Include) == 0 {
		errs = append(errs, errors.New("interfaces::include: needs at least one pattern, such as \"*\" for all interfaces"))
	}
	if cfg.MaxEntries < 1 || cfg.MaxEntries > maxInterfaces {
		errs = append(errs, fmt.Errorf("interfaces::max_entries: %d is not from 1 to %d", cfg.MaxEntries, maxInterfaces))
	}
	return errors.Join(errs...)
}

func validatePatterns(key string, patterns []string) error {
	var errs []error
	for i, pattern := range patterns {
		if pattern == "" {
			errs = append(errs, fmt.Errorf("%s[%d]: is empty", key, i))
		} else if _, err := path.Match(pattern, ""); err != nil {
			errs = append(errs, fmt.Errorf("%s[%d]: %q: %w", key, i, pattern, err))
		}
	}
	return errors.Join(errs...)
}

func (cfg *FlowsConfig) validate() error {
	errs := []error{oneOf("flows::map", cfg.Map, flowMaps)}
	if cfg.MaxEntries < 1 || cfg.MaxEntries > maxFlowEntries {
		errs = append(errs, fmt.Errorf("flows::max_entries: %d is not from 1 to %d", cfg.MaxEntries, maxFlowEntries))
	}
	if cfg.MaxSeries < 1 {
		errs = append(errs, fmt.Errorf("flows::max_series: %d is not at least 1; to have no flow metrics, disable them under metrics", cfg.MaxSeries))
	}
	return errors.Join(errs...)
}

func oneOf[T ~string](key string, value T, values []T) error {
	if slices.Contains(values, value) {
		return nil
	}
	return fmt.Errorf("%s: %q is none of %q", key, value, values)
}
