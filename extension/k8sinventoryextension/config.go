// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Scopes of what is followed.
const (
	scopeCluster = "cluster"
	scopeNode    = "node"
)

// Config of the extension.
type Config struct {
	// Kubeconfig is a file that says how to reach the API; empty for the pod's own
	// service account.
	Kubeconfig string `mapstructure:"kubeconfig"`
	// Context of the kubeconfig; empty for its current one.
	Context string `mapstructure:"context"`
	// Scope is cluster for all pods, or node for those of one node.
	Scope string `mapstructure:"scope"`
	// Node is the name of that node, which with scope cluster is the one that this runs on.
	Node string `mapstructure:"node"`
	// Grace is for how long a pod that is gone stays known.
	Grace time.Duration `mapstructure:"grace"`
	// Labels and Annotations of pods that records get.
	Labels      []string `mapstructure:"labels"`
	Annotations []string `mapstructure:"annotations"`
	// Flannel says what is read of its network.
	Flannel FlannelConfig `mapstructure:"flannel"`
}

// FlannelConfig says what is read of flannel's network on this host.
type FlannelConfig struct {
	// Host is auto to read it where Node is set and flannel has annotations on it, or off.
	Host string `mapstructure:"host"`
	// Interval is how often that is read, beside soon after changes.
	Interval time.Duration `mapstructure:"interval"`
	// Port is the one that VXLAN is to use; 0 for any, since annotations do not say it.
	Port int `mapstructure:"port"`
}

// What of the host is read.
const (
	hostAuto = "auto"
	hostOff  = "off"
)

var _ confmap.Validator = (*Config)(nil)

const (
	maxGrace    = time.Hour
	minInterval = time.Second
	maxInterval = time.Hour
)

func createDefaultConfig() component.Config {
	return &Config{Scope: scopeCluster, Grace: time.Minute, Flannel: FlannelConfig{Host: hostAuto, Interval: 30 * time.Second}}
}

// Validate names the option in each error, for there may be several.
func (cfg *Config) Validate() error {
	var errs []error
	switch {
	case cfg.Scope != scopeCluster && cfg.Scope != scopeNode:
		errs = append(errs, fmt.Errorf("scope: %q is none of %q", cfg.Scope, []string{scopeCluster, scopeNode}))
	case cfg.Scope == scopeNode && cfg.Node == "":
		errs = append(errs, errors.New("node: is needed for scope node; in a pod give it as ${env:K8S_NODE_NAME} from the field spec.nodeName"))
	}
	if cfg.Context != "" && cfg.Kubeconfig == "" {
		errs = append(errs, errors.New("context: is of a kubeconfig, and there is none"))
	}
	if cfg.Grace < 0 || cfg.Grace > maxGrace {
		errs = append(errs, fmt.Errorf("grace: %s is not from 0s to %s", cfg.Grace, maxGrace))
	}
	if cfg.Flannel.Host != hostAuto && cfg.Flannel.Host != hostOff {
		errs = append(errs, fmt.Errorf("flannel::host: %q is none of %q", cfg.Flannel.Host, []string{hostAuto, hostOff}))
	}
	if cfg.Flannel.Interval < minInterval || cfg.Flannel.Interval > maxInterval {
		errs = append(errs, fmt.Errorf("flannel::interval: %s is not from %s to %s", cfg.Flannel.Interval, minInterval, maxInterval))
	}
	if port := cfg.Flannel.Port; port < 0 || port > math.MaxUint16 {
		errs = append(errs, fmt.Errorf("flannel::port: %d is not from 0, for any, to %d", port, math.MaxUint16))
	}
	errs = append(errs, validateKeys("labels", cfg.Labels), validateKeys("annotations", cfg.Annotations))
	return errors.Join(errs...)
}

func validateKeys(option string, keys []string) error {
	var errs []error
	for i, key := range keys {
		for _, why := range validation.IsQualifiedName(key) {
			errs = append(errs, fmt.Errorf("%s[%d]: %q: %s", option, i, key, why))
		}
		if slices.Contains(keys[:i], key) {
			errs = append(errs, fmt.Errorf("%s[%d]: %q is there twice", option, i, key))
		}
	}
	return errors.Join(errs...)
}
