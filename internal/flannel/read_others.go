// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package flannel

import "errors"

var errNotLinux = errors.New("reading a host's part of flannel's network needs Linux")

// Read needs Linux.
func Read(Keep) (*Host, error) { return nil, errNotLinux }

// Watcher needs Linux.
type Watcher struct{}

// Watch needs Linux.
func Watch() (*Watcher, error) { return nil, errNotLinux }

// Changes never has any.
func (*Watcher) Changes() <-chan struct{} { return nil }

// Ended is never closed.
func (*Watcher) Ended() <-chan struct{} { return nil }

// Close does nothing.
func (*Watcher) Close() {}
