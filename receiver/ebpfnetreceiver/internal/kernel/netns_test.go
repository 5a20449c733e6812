// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

func TestNetNS(t *testing.T) {
	inode, err := NetNS()
	require.NoError(t, err)
	target, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	require.Equal(t, target, fmt.Sprintf("net:[%d]", inode))
}

// A thread may be in another one than its process.
func TestThreadNetNS(t *testing.T) {
	bpftest.RequireBPF(t)
	process, err := NetNS()
	require.NoError(t, err)
	netnstest.Enter(t)
	inode, err := ThreadNetNS()
	require.NoError(t, err)
	target, err := os.Readlink("/proc/thread-self/ns/net")
	require.NoError(t, err)
	require.Equal(t, target, fmt.Sprintf("net:[%d]", inode))
	require.NotEqual(t, process, inode)
}
