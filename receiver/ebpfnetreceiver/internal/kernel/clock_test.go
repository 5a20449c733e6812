// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClockSync(t *testing.T) {
	var c Clock
	before := time.Now()
	c.Sync()
	got := c.Wall(uint64(monotonic()))
	after := time.Now()
	// the wall clock may be slewed meanwhile, by far less than this
	const slack = 10 * time.Millisecond
	require.False(t, got.Before(before.Add(-slack)))
	require.False(t, got.After(after.Add(slack)))
}

func TestClockAt(t *testing.T) {
	at := time.Unix(1_700_000_000, 1)
	c := ClockAt(at)
	require.Equal(t, at.Add(2), c.Wall(2))
}
