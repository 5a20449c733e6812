// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package ebpfnetreceiver

import (
	"errors"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
)

var errLinuxOnly = errors.New("the ebpfnet receiver works on Linux only")

type sharedReceivers struct{}

func newSharedReceivers() *sharedReceivers {
	return &sharedReceivers{}
}

func (*sharedReceivers) metrics(receiver.Settings, *Config, consumer.Metrics) (receiver.Metrics, error) {
	return nil, errLinuxOnly
}

func (*sharedReceivers) logs(receiver.Settings, *Config, consumer.Logs) (receiver.Logs, error) {
	return nil, errLinuxOnly
}
