// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyexporter

import (
	"errors"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
)

// Config of the exporter.
type Config struct {
	// Topology is the ID of the extension that has the graph.
	Topology component.ID `mapstructure:"topology"`
	// Queue is what waits while the graph takes records; without it the pipeline waits.
	Queue configoptional.Optional[exporterhelper.QueueBatchConfig] `mapstructure:"sending_queue"`
}

var _ confmap.Validator = (*Config)(nil)

func createDefaultConfig() component.Config {
	return &Config{
		Topology: component.MustNewID("topology"),
		Queue:    configoptional.Default(exporterhelper.NewDefaultQueueConfig()),
	}
}

// Validate names the option in an error.
func (cfg *Config) Validate() error {
	if cfg.Topology == (component.ID{}) {
		return errors.New("topology: is the ID of an extension, as topology, and is empty")
	}
	return nil
}
