// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// What a reading of all counters takes where there is nothing to read: most of it is
// to wait for programs that run.
func BenchmarkTick(b *testing.B) {
	for _, drops := range []string{"off", "auto"} {
		b.Run("drops "+drops, func(b *testing.B) {
			bpftest.RequireBPF(b)
			netnstest.Enter(b)
			netnstest.Up(b, "lo")
			cfg := testConfig()
			cfg.Drops.Mode = drops
			s := newSession(testSettings(), cfg)
			sk := &fakeSink{}
			require.NoError(b, s.join(componenttest.NewNopHost(), sk))
			require.Equal(b, drops == "auto", s.drops != nil)
			for b.Loop() {
				s.tick(b.Context())
			}
			require.NoError(b, s.leave(b.Context(), sk))
		})
	}
}
