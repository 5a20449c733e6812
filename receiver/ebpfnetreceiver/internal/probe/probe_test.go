// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

// Nobody can tell from the kernel's "operation not permitted" what to do.
func TestLoadWithoutPrivilege(t *testing.T) {
	bpftest.RequireBPF(t)
	bpftest.Without(t, func() {
		_, err := Load(defaults())
		require.ErrorIs(t, err, unix.EPERM)
		require.ErrorContains(t, err, "missing "+"CAP_BPF (loads programs and maps), "+
			"CAP_NET_ADMIN (attaches programs to interfaces), CAP_PERFMON (lets programs read packets directly)"+
			"; run as root, or grant these capabilities (setcap, systemd AmbientCapabilities=, container securityContext)")
	}, unix.CAP_SYS_ADMIN, unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON)
}

func TestReason(t *testing.T) {
	for want, errs := range map[string][]error{
		"no_ethernet":       {errXDPNeedsEthernet},
		"not_supported":     {ebpf.ErrNotSupported, unix.EOPNOTSUPP},
		"in_use":            {unix.EBUSY, unix.EEXIST},
		"refused_by_driver": {unix.EINVAL, unix.ERANGE},
		"not_permitted":     {unix.EPERM, unix.EACCES},
		"no_memory":         {unix.ENOMEM},
		"interface_gone":    {unix.ENODEV},
		"not_found":         {os.ErrNotExist, unix.ENOENT},
		"other":             {unix.EIO, errors.New("anything")},
	} {
		for _, err := range errs {
			require.Equal(t, want, Reason(fmt.Errorf("attach: %w", err)), err.Error())
		}
	}
}
