// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

func TestOpenWithoutConnectionTracking(t *testing.T) {
	_, err := openKernel(t.TempDir(), DefaultReceiveBuffer)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "load the module nf_conntrack")
}

func TestOpenWithoutPrivilege(t *testing.T) {
	netnstest.Enter(t)
	restore := withoutNetAdmin(t)
	_, err := Open(Options{})
	restore()
	require.ErrorIs(t, err, unix.EPERM)
	require.ErrorContains(t, err, "CAP_NET_ADMIN")
}

// withoutNetAdmin takes the capability from this thread, which the test is on.
func withoutNetAdmin(t *testing.T) (restore func()) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData // the kernel writes 64 bits as two
	require.NoError(t, unix.Capget(&header, &had[0]))
	without := had
	without[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	require.NoError(t, unix.Capset(&header, &without[0]))
	return func() { require.NoError(t, unix.Capset(&header, &had[0])) }
}

func TestEachMessage(t *testing.T) {
	one := message(t, created, fakeConnection)
	one.Data = append(one.Data, 0) // padded
	one.Header.Length = uint32(unix.NLMSG_HDRLEN + len(one.Data))
	header := make([]byte, unix.NLMSG_HDRLEN)
	binary.NativeEndian.PutUint32(header, one.Header.Length)
	binary.NativeEndian.PutUint16(header[4:], uint16(one.Header.Type))
	whole := append(append(header, one.Data...), 0, 0, 0)
	for _, tt := range []struct {
		name string
		data []byte
		want [][]byte
	}{
		{"none", nil, nil},
		{"one", whole, [][]byte{one.Data}},
		{"one, not padded", whole[:one.Header.Length], [][]byte{one.Data}},
		{"two", append(slices.Clone(whole), whole...), [][]byte{one.Data, one.Data}},
		{"cut short", whole[:one.Header.Length-1], [][]byte{nil}},
		{"less than a header", whole[:unix.NLMSG_HDRLEN-1], nil},
		{"no length", make([]byte, 2*unix.NLMSG_HDRLEN), [][]byte{nil}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got [][]byte
			eachMessage(tt.data, func(_ netlink.HeaderType, data []byte) { got = append(got, data) })
			require.Equal(t, tt.want, got)
		})
	}
}

// A kernel without events has no such sysctl.
func TestSilent(t *testing.T) {
	netnstest.Enter(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nf_conntrack_max"), []byte("1\n"), 0o600))
	events := filepath.Join(dir, "nf_conntrack_events")
	silent := func() bool {
		k, err := openKernel(dir, DefaultReceiveBuffer)
		require.NoError(t, err)
		defer func() {
			require.NoError(t, k.stop())
			require.NoError(t, k.close())
		}()
		return k.silent()
	}
	require.True(t, silent())
	for value, want := range map[string]bool{"0\n": true, "1\n": false, "2\n": false, "": true} {
		require.NoError(t, os.WriteFile(events, []byte(value), 0o600))
		require.Equal(t, want, silent(), "%q", value)
	}
}
