// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package ebpfnetreceiver

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"

	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
)

// Config of the receiver. Numbers are of type int whatever takes them in the
// end: a smaller type would cut one that is too large to another, without an error.
type Config struct {
	// MetricsBuilderConfig switches single metrics on and off under `metrics`.
	MetricsBuilderConfig metadata.MetricsBuilderConfig `mapstructure:",squash"`

	Interfaces InterfacesConfig `mapstructure:"interfaces"`
	// Interval is how often the counters are read and handed on.
	Interval time.Duration `mapstructure:"interval"`
	TC       TCConfig      `mapstructure:"tc"`
	XDP      XDPConfig     `mapstructure:"xdp"`
	Flows    FlowsConfig   `mapstructure:"flows"`
	Tunnels  TunnelsConfig `mapstructure:"tunnels"`

	Netfilter NetfilterConfig `mapstructure:"netfilter"`
	Drops     DropsConfig     `mapstructure:"drops"`
	Sockets   SocketsConfig   `mapstructure:"sockets"`
	// RingBufferBytes is the size of the ring buffer that takes what the flow
	// map has no room for: a power of two, and a multiple of the page size.
	RingBufferBytes int `mapstructure:"ring_buffer_bytes"`
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
	MaxEntries int `mapstructure:"max_entries"`
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

// NetfilterConfig of the programs at netfilter's hooks.
type NetfilterConfig struct {
	// Mode is off or auto (where the kernel has it).
	Mode string `mapstructure:"mode"`
}

// DropsConfig of the program that counts what the kernel drops.
type DropsConfig struct {
	// Mode is off or auto (where the kernel lets it).
	Mode string `mapstructure:"mode"`
	// MaxEntries is how many combinations of reason, interface, protocol and
	// direction are told apart.
	MaxEntries int `mapstructure:"max_entries"`
	// MaxFlows is how many flows, each with its reasons, have a record in an interval.
	MaxFlows int `mapstructure:"max_flows"`
}

// SocketsConfig of the programs that watch connections.
type SocketsConfig struct {
	// Mode is off or auto (where the kernel lets it).
	Mode string `mapstructure:"mode"`
	// MaxEntries is how many sockets can be watched at a time.
	MaxEntries int `mapstructure:"max_entries"`
	// Namespaces is all, or own for those of this network namespace only.
	Namespaces string `mapstructure:"namespaces"`
	// MaxListeners is how many listening addresses overflows are told apart by.
	MaxListeners int `mapstructure:"max_listeners"`
	// Histograms of round trip time and connect latency.
	Histograms HistogramsConfig `mapstructure:"histograms"`
}

// HistogramsConfig chooses the buckets of durations.
type HistogramsConfig struct {
	// Type is explicit, exponential or off.
	Type string `mapstructure:"type"`
	// Boundaries are those of explicit buckets, in ascending order.
	Boundaries []time.Duration `mapstructure:"boundaries"`
	// MaxSize is how many exponential buckets there are at most.
	MaxSize int `mapstructure:"max_size"`
}

// FlowsConfig of the flow table.
type FlowsConfig struct {
	Enabled bool `mapstructure:"enabled"`
	// MaxEntries is how many flows fit into an interval before packets of new
	// ones go through the ring buffer.
	MaxEntries int `mapstructure:"max_entries"`
	// Map is auto, shared or per_cpu.
	Map string `mapstructure:"map"`
	// MaxSeries is how many series each flow metric has at most; what is over
	// that is counted without addresses.
	MaxSeries int `mapstructure:"max_series"`
	// QueueSize is how many flow records wait for a slow logs pipeline.
	QueueSize int `mapstructure:"queue_size"`
	// PerInterface counts a packet at every interface that it crosses.
	PerInterface bool `mapstructure:"per_interface"`
	// IdentifyEnds has points of metrics say, for who names the ends (k8s_flow), all that is
	// known of them.
	IdentifyEnds bool `mapstructure:"identify_ends"`
	// NAT is auto (joins translated connections where the kernel tells of them) or off.
	NAT string `mapstructure:"nat"`
	// Sampling counts one packet in so many; 1 is all.
	Sampling int `mapstructure:"sampling"`
	// Include and Exclude choose the flows: those that one of Include matches, or
	// all if there is none, and none of Exclude does.
	Include []FlowMatch `mapstructure:"include"`
	Exclude []FlowMatch `mapstructure:"exclude"`
}

// FlowMatch matches flows of which all that it says is true.
type FlowMatch struct {
	// CIDR is a network that source or destination is in; an address is one of its own.
	CIDR string `mapstructure:"cidr"`
	// Port is a port, or a range as 8000-8999, that either port is in.
	Port string `mapstructure:"port"`
	// Protocol is an IANA keyword in lower case, or a number.
	Protocol string `mapstructure:"protocol"`
}

// TunnelsConfig says which tunnels are opened.
type TunnelsConfig struct {
	// VXLANPorts and GenevePorts are UDP destination ports; none opens none.
	VXLANPorts  []int `mapstructure:"vxlan_ports"`
	GenevePorts []int `mapstructure:"geneve_ports"`
	GRE         bool  `mapstructure:"gre"`
	IPIP        bool  `mapstructure:"ipip"`
	// MaxEntries is how many tunnels are told apart, each direction on its own.
	MaxEntries int `mapstructure:"max_entries"`
	// IdleTimeout is after how long without packets a tunnel is gone.
	IdleTimeout time.Duration `mapstructure:"idle_timeout"`
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
	maxTunnels         = 1 << 20
	maxSampling        = 1 << 20
	maxDropEntries     = 1 << 20
	maxSockets         = 1 << 22
	maxListeners       = 1 << 16
	// of exponential histograms; the fewest let a bucket span all that is measured
	minHistogramSize = 2
	maxHistogramSize = 1024
	// what internal/probe has room for; it checks that too
	maxFlowMatches = 32
	maxTunnelPorts = 8
)

var (
	tcModes    = []string{"off", "auto", "tcx", "clsact"}
	xdpModes   = []string{"off", "auto", "native", "generic"}
	flowMaps   = []string{"auto", "shared", "per_cpu"}
	offOrAuto  = []string{"off", "auto"} // of what a kernel may not have
	namespaces = []string{"all", "own"}
	histograms = []string{"off", "explicit", "exponential"}
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
			// three metrics with as many series each stay under 20,000
			MaxSeries: 6600,
			QueueSize: 262144,
			NAT:       "auto",
			Sampling:  1,
		},
		Tunnels: TunnelsConfig{
			VXLANPorts:  []int{4789, 8472},
			GenevePorts: []int{6081},
			GRE:         true,
			IPIP:        true,
			MaxEntries:  4096,
			IdleTimeout: 5 * time.Minute,
		},
		// It costs every packet something at each hook.
		Netfilter: NetfilterConfig{Mode: "off"},
		Drops:     DropsConfig{Mode: "auto", MaxEntries: 4096, MaxFlows: 8192},
		Sockets: SocketsConfig{
			Mode:         "auto",
			MaxEntries:   65536,
			Namespaces:   "all",
			MaxListeners: 512,
			Histograms: HistogramsConfig{
				Type: "explicit",
				// from one machine to a satellite, and the kernel's waits between SYNs
				Boundaries: []time.Duration{
					50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
					time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
					50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
					time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
				},
				MaxSize: 160,
			},
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
		cfg.Tunnels.validate(),
		cfg.Drops.validate(),
		cfg.Sockets.validate(),
		oneOf("netfilter::mode", cfg.Netfilter.Mode, offOrAuto),
		oneOf("error_mode", cfg.ErrorMode, errorModes),
	}
	if cfg.Interval < minInterval {
		errs = append(errs, fmt.Errorf("interval: %s is under the minimum of %s", cfg.Interval, minInterval))
	}
	if n := cfg.RingBufferBytes; n < minRingBufferBytes || n > maxRingBufferBytes || n&(n-1) != 0 {
		errs = append(errs, fmt.Errorf("ring_buffer_bytes: %d is not a power of two from %d to %d", n, minRingBufferBytes, maxRingBufferBytes))
	}
	if cfg.packetsOff() && cfg.Sockets.Mode == "off" && cfg.Drops.Mode == "off" && cfg.Netfilter.Mode == "off" {
		errs = append(errs, errors.New("tc::mode, xdp::mode, sockets::mode, drops::mode and netfilter::mode: all are off, so there is nothing to receive; switch one on"))
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
	errs = append(errs, upTo("interfaces::max_entries", cfg.MaxEntries, maxInterfaces))
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
	errs := []error{
		oneOf("flows::map", cfg.Map, flowMaps),
		oneOf("flows::nat", cfg.NAT, offOrAuto),
		validateMatches("flows::include", cfg.Include),
		validateMatches("flows::exclude", cfg.Exclude),
	}
	if n := len(cfg.Include) + len(cfg.Exclude); n > maxFlowMatches {
		errs = append(errs, fmt.Errorf("flows::include and flows::exclude: %d entries together are over the maximum of %d", n, maxFlowMatches))
	}
	if cfg.Sampling < 1 || cfg.Sampling > maxSampling {
		errs = append(errs, fmt.Errorf("flows::sampling: %d is not from 1, which counts all packets, to %d", cfg.Sampling, maxSampling))
	}
	if cfg.QueueSize < 1 {
		errs = append(errs, fmt.Errorf("flows::queue_size: %d is not at least 1", cfg.QueueSize))
	}
	errs = append(errs, upTo("flows::max_entries", cfg.MaxEntries, maxFlowEntries))
	if cfg.MaxSeries < 1 {
		errs = append(errs, fmt.Errorf("flows::max_series: %d is not at least 1; to have no flow metrics, disable them under metrics", cfg.MaxSeries))
	}
	return errors.Join(errs...)
}

func validateMatches(key string, matches []FlowMatch) error {
	var errs []error
	for i := range matches {
		if _, err := matches[i].parse(); err != nil {
			errs = append(errs, fmt.Errorf("%s[%d]: %w", key, i, err))
		}
	}
	return errors.Join(errs...)
}

func (cfg *TunnelsConfig) validate() error {
	errs := []error{
		validatePorts("tunnels::vxlan_ports", cfg.VXLANPorts),
		validatePorts("tunnels::geneve_ports", cfg.GenevePorts),
	}
	for _, port := range cfg.VXLANPorts {
		if slices.Contains(cfg.GenevePorts, port) {
			errs = append(errs, fmt.Errorf("tunnels::vxlan_ports and tunnels::geneve_ports: %d is in both", port))
		}
	}
	errs = append(errs, upTo("tunnels::max_entries", cfg.MaxEntries, maxTunnels))
	if cfg.IdleTimeout <= 0 {
		errs = append(errs, fmt.Errorf("tunnels::idle_timeout: %s is not over 0", cfg.IdleTimeout))
	}
	return errors.Join(errs...)
}

func (cfg *DropsConfig) validate() error {
	errs := []error{oneOf("drops::mode", cfg.Mode, offOrAuto)}
	errs = append(errs, upTo("drops::max_entries", cfg.MaxEntries, maxDropEntries))
	errs = append(errs, upTo("drops::max_flows", cfg.MaxFlows, maxDropEntries))
	return errors.Join(errs...)
}

func (cfg *SocketsConfig) validate() error {
	return errors.Join(
		oneOf("sockets::mode", cfg.Mode, offOrAuto),
		upTo("sockets::max_entries", cfg.MaxEntries, maxSockets),
		oneOf("sockets::namespaces", cfg.Namespaces, namespaces),
		upTo("sockets::max_listeners", cfg.MaxListeners, maxListeners),
		cfg.Histograms.validate(),
	)
}

func (cfg *HistogramsConfig) validate() error {
	errs := []error{oneOf("sockets::histograms::type", cfg.Type, histograms)}
	if len(cfg.Boundaries) == 0 {
		errs = append(errs, errors.New("sockets::histograms::boundaries: needs at least one"))
	}
	for i, boundary := range cfg.Boundaries {
		if boundary <= 0 {
			errs = append(errs, fmt.Errorf("sockets::histograms::boundaries[%d]: %s is not over 0", i, boundary))
		} else if i > 0 && boundary <= cfg.Boundaries[i-1] {
			errs = append(errs, fmt.Errorf("sockets::histograms::boundaries[%d]: %s is not over the one before it, %s", i, boundary, cfg.Boundaries[i-1]))
		}
	}
	if cfg.MaxSize < minHistogramSize || cfg.MaxSize > maxHistogramSize {
		errs = append(errs, fmt.Errorf("sockets::histograms::max_size: %d is not from %d to %d", cfg.MaxSize, minHistogramSize, maxHistogramSize))
	}
	return errors.Join(errs...)
}

func validatePorts(key string, ports []int) error {
	if len(ports) > maxTunnelPorts {
		return fmt.Errorf("%s: %d ports are over the maximum of %d", key, len(ports), maxTunnelPorts)
	}
	for i, port := range ports {
		if err := upTo(fmt.Sprintf("%s[%d]", key, i), port, math.MaxUint16); err != nil {
			return err
		}
	}
	return nil
}

// packetsOff says that no programs are to see packets at interfaces.
func (cfg *Config) packetsOff() bool { return cfg.TC.Mode == "off" && cfg.XDP.Mode == "off" }

// flowsEnabled says whether flows are counted: the TC programs do it.
func (cfg *Config) flowsEnabled() bool {
	return cfg.Flows.Enabled && cfg.TC.Mode != "off"
}

func upTo(key string, value, most int) error {
	if value >= 1 && value <= most {
		return nil
	}
	return fmt.Errorf("%s: %d is not from 1 to %d", key, value, most)
}

func oneOf[T ~string](key string, value T, values []T) error {
	if slices.Contains(values, value) {
		return nil
	}
	return fmt.Errorf("%s: %q is none of %q", key, value, values)
}
