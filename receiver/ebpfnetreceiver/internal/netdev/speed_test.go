// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

func TestSpeeds(t *testing.T) {
	bpftest.RequireBPF(t)
	netnstest.Enter(t)
	s, err := OpenSpeeds()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	now := time.Now()
	_, ok := s.BitsPerSecond("lo", now)
	require.False(t, ok, "lo has no speed")
	_, ok = s.BitsPerSecond("va", now)
	require.False(t, ok, "there is no such interface yet")

	netnstest.Veth(t, "va", "vb")
	_, ok = s.BitsPerSecond("va", now.Add(speedAge))
	require.False(t, ok, "what was learned is not asked for again so soon")
	got, ok := s.BitsPerSecond("va", now.Add(speedAge+1))
	require.True(t, ok)
	require.InDelta(t, 10e9, got, 0, "veth_get_link_ksettings, drivers/net/veth.c")

	link, err := netlink.LinkByName("va")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkDel(link))
	got, ok = s.BitsPerSecond("va", now.Add(2*speedAge))
	require.True(t, ok)
	require.InDelta(t, 10e9, got, 0, "remembered")
	s.Forget("va")
	_, ok = s.BitsPerSecond("va", now.Add(2*speedAge))
	require.False(t, ok)
}

func TestNoSpeeds(t *testing.T) {
	var s *Speeds
	_, ok := s.BitsPerSecond("lo", time.Now())
	require.False(t, ok)
	s.Forget("lo")
	s.Close()
}
