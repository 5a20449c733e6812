// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clock turns the kernel's monotonic times into wall time.
type Clock struct {
	offset int64 // wall minus monotonic, ns
}

// ClockAt is a clock that was at this wall time when the monotonic one was at 0.
func ClockAt(wall time.Time) Clock {
	return Clock{offset: wall.UnixNano()}
}

// Sync reads both clocks. Steps of the wall clock thus show from the next
// reading on.
func (c *Clock) Sync() {
	c.offset = time.Now().UnixNano() - monotonic()
}

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot be: the clock exists and the pointer is good
	}
	return ts.Nano()
}

// Wall is the wall time at a monotonic time, as of the last Sync.
func (c *Clock) Wall(monoNs uint64) time.Time {
	return time.Unix(0, int64(monoNs)+c.offset)
}
