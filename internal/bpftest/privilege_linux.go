// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// With takes all capabilities but these away from this goroutine until fn has
// returned.
func With(tb testing.TB, fn func(), capabilities ...int) {
	tb.Helper()
	var others []int
	for c := range unix.CAP_LAST_CAP + 1 {
		if !slices.Contains(capabilities, c) {
			others = append(others, c)
		}
	}
	Without(tb, fn, others...)
}

// Without takes capabilities, by their bits, away from this goroutine until fn
// has returned.
func Without(tb testing.TB, fn func(), capabilities ...int) {
	tb.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData // the kernel writes 64 bits as two
	require.NoError(tb, unix.Capget(&header, &all[0]))
	fewer := all
	for _, c := range capabilities {
		fewer[c/32].Effective &^= 1 << (c % 32)
	}
	require.NoError(tb, unix.Capset(&header, &fewer[0]))
	defer func() { require.NoError(tb, unix.Capset(&header, &all[0])) }()
	fn()
}
