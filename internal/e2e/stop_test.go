// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStopLeavesNothingAttached(t *testing.T) {
	for _, tt := range []struct {
		name     string
		receiver string
		needsTCX bool
		attached func(t *testing.T, a attachments)
		signals  []syscall.Signal
	}{
		{
			"TCX and native XDP", `{tc: {mode: tcx}, xdp: {mode: native}}`, true,
			func(t *testing.T, a attachments) {
				require.Len(t, a.TCXIngress, 1)
				require.Len(t, a.TCXEgress, 1)
				require.Equal(t, uint32(xdpNative), a.XDP.Mode)
			},
			[]syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL},
		},
		{
			"generic XDP", `{tc: {mode: "off"}, xdp: {mode: generic}}`, false,
			func(t *testing.T, a attachments) { require.Equal(t, uint32(xdpGeneric), a.XDP.Mode) },
			[]syscall.Signal{syscall.SIGTERM, syscall.SIGKILL},
		},
		{
			"clsact", `{tc: {mode: clsact}}`, false,
			func(t *testing.T, a attachments) {
				require.Len(t, a.FilterIngress, 1)
				require.Len(t, a.FilterEgress, 1)
				require.Equal(t, []string{"clsact"}, a.Qdiscs)
			},
			[]syscall.Signal{syscall.SIGTERM, syscall.SIGINT},
		},
	} {
		for _, signal := range tt.signals {
			t.Run(fmt.Sprintf("%s and %s", tt.name, signal), func(t *testing.T) {
				l := newLab(t)
				k := l.link(t, "np0")
				if tt.needsTCX {
					requireTCX(t, k)
				}
				k.up(t)
				a := start(t, l.near, tt.receiver)
				tt.attached(t, k.attached(t))

				state := a.stop(t, signal)
				if signal != syscall.SIGKILL {
					require.True(t, state.Success(), state)
				}
				require.Equal(t, attachments{}, k.attached(t))
				k.pairings()[0].ping(t, 1, 56)
			})
		}
	}
}

func TestStopExportsWhatWasCountedLast(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			l := newLab(t)
			k := l.link(t, "np0")
			// nothing is read before the end
			a := start(t, l.near, `{interval: 1h}`)
			k.up(t)
			frames := k.capture(t)
			client, server := k.pairings()[0].connect(t)
			exchange(t, client, server, 100<<10)
			toServer := stream{netip.MustParseAddrPort(client.LocalAddr().String()), netip.MustParseAddrPort(client.RemoteAddr().String())}
			// the counters stand still
			k.down(t)
			frames.requireComplete(t)
			require.Empty(t, a.sink.stream(toServer))
			require.Equal(t, counters{}, a.sink.counters("np0"))

			require.True(t, a.stop(t, signal).Success())
			require.Equal(t, k.kernel(t), a.sink.counters("np0"))
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				for _, s := range []stream{toServer, {toServer.destination, toServer.source}} {
					assert.Equal(c, frames.stream(s), sumRecords(a.sink.stream(s)), "%v", s)
				}
			}, patience, glance)
			require.Greater(t, frames.stream(toServer).bytes, uint64(100<<10))
		})
	}
}

func TestKilledClsactFiltersAreReplaced(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	k.up(t)
	const receiver = `{tc: {mode: clsact}, interval: 200ms}`
	first := start(t, l.near, receiver)
	before := k.attached(t)
	first.stop(t, syscall.SIGKILL)
	require.Equal(t, before, k.attached(t), "a filter outlives its process")
	k.traffic(t)

	// the ports are free again, as the process is gone
	second := &agent{host: l.near, sink: first.sink}
	second.process = l.near.launch(t, command(config(receiver)))
	second.waitReady(t)
	after := k.attached(t)
	require.Len(t, after.FilterIngress, 1)
	require.Len(t, after.FilterEgress, 1)
	require.NotEqual(t, before.FilterIngress[0].Program, after.FilterIngress[0].Program)
	require.NotEqual(t, before.FilterEgress[0].Program, after.FilterEgress[0].Program)
	k.pairings()[0].ping(t, 1, 56)

	require.True(t, second.stop(t, syscall.SIGTERM).Success())
	last := k.attached(t)
	require.Empty(t, last.FilterIngress)
	require.Empty(t, last.FilterEgress)
}
