// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
)

// Config of the processor.
type Config struct {
	// Inventory is the ID of the extension that knows who has which address.
	Inventory component.ID `mapstructure:"inventory"`
	// Node is the name of the node whose flows these are. A resource's k8s.node.name
	// says it for its own.
	Node string `mapstructure:"node"`
	// WaitTimeout is how long the start waits for the inventory to be complete.
	WaitTimeout time.Duration `mapstructure:"wait_timeout"`
	// Attributes are what log records get of each end.
	Attributes []string `mapstructure:"attributes"`
	// Metrics says how flow metrics are folded.
	Metrics MetricsConfig `mapstructure:"metrics"`
	// RoutingKey gives records a number by which reports of the same packets meet, where
	// there are several gateways.
	RoutingKey bool `mapstructure:"routing_key"`
	// Deduplicate makes one of what two nodes report.
	Deduplicate DeduplicateConfig `mapstructure:"deduplicate"`
}

// MetricsConfig says how flow metrics are folded.
type MetricsConfig struct {
	// Dimensions are what series have of each end.
	Dimensions []string `mapstructure:"dimensions"`
	// MaxSeries is how many series a metric has at most, beside those for what is over it.
	MaxSeries int `mapstructure:"max_series"`
	// IdleTimeout is after how long without points a series is forgotten.
	IdleTimeout time.Duration `mapstructure:"idle_timeout"`
	// Reporters is preferred for one node for each flow, or all.
	Reporters string `mapstructure:"reporters"`
}

// DeduplicateConfig makes one of what two nodes report. It is for a gateway.
type DeduplicateConfig struct {
	Enabled bool `mapstructure:"enabled"`
	// Wait is for how long records wait for those of the other node.
	Wait time.Duration `mapstructure:"wait"`
	// MaxRecords is how many may wait.
	MaxRecords int `mapstructure:"max_records"`
}

// group is a set of attributes of an end.
type group uint16

const (
	groupPod group = 1 << iota
	groupNamespace
	groupWorkload
	groupService
	groupNode
	groupZone
	groupLabels
	// of metrics only: records have them anyway
	groupAddress
	groupPort
	groupTunnel
)

var (
	logGroups = map[string]group{
		"pod": groupPod, "namespace": groupNamespace, "workload": groupWorkload, "service": groupService,
		"node": groupNode, "zone": groupZone, "labels": groupLabels,
	}
	metricGroups = map[string]group{"address": groupAddress, "port": groupPort, "tunnel": groupTunnel}
)

func init() { maps.Copy(metricGroups, logGroups) }

// Reporters of metrics.
const (
	reportersPreferred = "preferred"
	reportersAll       = "all"
)

const maxWait = 5 * time.Minute

func createDefaultConfig() component.Config {
	return &Config{
		Inventory:  component.MustNewID("k8s_inventory"),
		Attributes: []string{"pod", "namespace", "workload", "service", "node", "zone", "labels"},
		Metrics: MetricsConfig{
			Dimensions:  []string{"namespace", "workload", "service"},
			MaxSeries:   2000,
			IdleTimeout: 15 * time.Minute,
			Reporters:   reportersPreferred,
		},
		Deduplicate: DeduplicateConfig{Wait: 30 * time.Second, MaxRecords: 200_000},
	}
}

var _ confmap.Validator = (*Config)(nil)

// Validate names the option in each error, for there may be several.
func (cfg *Config) Validate() error {
	var errs []error
	if cfg.Inventory == (component.ID{}) {
		errs = append(errs, errors.New("inventory: needs the ID of a k8s_inventory extension"))
	}
	if cfg.WaitTimeout < 0 || cfg.WaitTimeout > maxWait {
		errs = append(errs, fmt.Errorf("wait_timeout: %s is not from 0s to %s", cfg.WaitTimeout, maxWait))
	}
	errs = append(errs, validateGroups("attributes", cfg.Attributes, logGroups), cfg.Metrics.validate(), cfg.Deduplicate.validate())
	return errors.Join(errs...)
}

func (cfg *MetricsConfig) validate() error {
	errs := []error{validateGroups("metrics::dimensions", cfg.Dimensions, metricGroups)}
	if cfg.MaxSeries < 1 {
		errs = append(errs, fmt.Errorf("metrics::max_series: %d is not at least 1", cfg.MaxSeries))
	}
	if cfg.IdleTimeout <= 0 {
		errs = append(errs, fmt.Errorf("metrics::idle_timeout: %s is not over 0", cfg.IdleTimeout))
	}
	if all := []string{reportersPreferred, reportersAll}; !slices.Contains(all, cfg.Reporters) {
		errs = append(errs, fmt.Errorf("metrics::reporters: %q is none of %q", cfg.Reporters, all))
	}
	return errors.Join(errs...)
}

func (cfg *DeduplicateConfig) validate() error {
	if !cfg.Enabled {
		return nil
	}
	var errs []error
	if cfg.Wait <= 0 || cfg.Wait > maxWait {
		errs = append(errs, fmt.Errorf("deduplicate::wait: %s is not over 0s and up to %s", cfg.Wait, maxWait))
	}
	if cfg.MaxRecords < 1 {
		errs = append(errs, fmt.Errorf("deduplicate::max_records: %d is not at least 1", cfg.MaxRecords))
	}
	return errors.Join(errs...)
}

func validateGroups(option string, names []string, known map[string]group) error {
	var errs []error
	for i, name := range names {
		if _, ok := known[name]; !ok {
			errs = append(errs, fmt.Errorf("%s[%d]: %q is none of %q", option, i, name, slices.Sorted(maps.Keys(known))))
		}
		if slices.Contains(names[:i], name) {
			errs = append(errs, fmt.Errorf("%s[%d]: %q is there twice", option, i, name))
		}
	}
	return errors.Join(errs...)
}

func groupsOf(names []string, known map[string]group) group {
	var all group
	for _, name := range names {
		all |= known[name]
	}
	return all
}
