// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package kernel has what every user of eBPF programs here needs of the kernel: its
// clock, two maps written in turn, its network namespaces, what its errors mean and
// what maps take of its memory. It knows no programs.
package kernel // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"

import (
	"errors"
	"io"
	"slices"
)

// Closers close in reverse order, all of them even after a failure.
type Closers []io.Closer

// Close may be called twice.
func (c *Closers) Close() error {
	var errs []error
	for _, cl := range slices.Backward(*c) {
		errs = append(errs, cl.Close())
	}
	*c = nil
	return errors.Join(errs...)
}
