// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/netprobe-otel/netprobe/internal/bpftest/packets"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// requireXDP attaches to an interface and says what became of XDP.
func requireXDP(t *testing.T, p *Probe, iface Interface, want Attachment) {
	t.Helper()
	modes, err := p.Attach(iface)
	require.NoError(t, err)
	for _, m := range modes {
		if m.Hook == HookXDP {
			require.Equal(t, want.Reason == "", m.Err == nil)
			m.Err = nil
			require.Equal(t, want, m)
			return
		}
	}
	require.FailNow(t, "nothing is said of XDP")
}

// Where TC counts, the want of XDP on one interface is not the end of it.
func TestXDPStaysOff(t *testing.T) {
	for _, mode := range []XDPMode{XDPAuto, XDPNative} {
		t.Run(string(mode), func(t *testing.T) {
			l := newLab(t)
			opts := defaults()
			opts.XDP = mode
			p := load(t, opts)

			tun, _ := netnstest.Tun(t, "tun0")
			requireXDP(t, p, Interface{Index: tun.Attrs().Index}, Attachment{Hook: HookXDP, Mode: "off", Reason: "no_ethernet"})

			require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
			bridge, err := netlink.LinkByName("br0")
			require.NoError(t, err)
			requireXDP(t, p, Interface{Index: bridge.Attrs().Index, Ethernet: true}, Attachment{Hook: HookXDP, Mode: "off", Reason: "not_supported"})

			other, err := link.AttachXDP(link.XDPOptions{Interface: l.index(), Program: verdict(t, ebpf.XDP, 2), Flags: link.XDPDriverMode})
			require.NoError(t, err)
			defer other.Close()
			requireXDP(t, p, Interface{Index: l.index(), Ethernet: true}, Attachment{Hook: HookXDP, Mode: "off", Reason: "in_use"})
			frame := udp4(t, packets.SourcePort, 10)
			l.sendAsIngress(t, p, frame)
			got, err := p.InterfaceCounters(l.index())
			require.NoError(t, err)
			require.Equal(t, flow.InterfaceCounters{Rx: volumeOf(frame)}, got)
		})
	}
}

// Where XDP is all that was asked for, it is an error; where it was asked for
// only if possible, it is not.
func TestXDPAlone(t *testing.T) {
	l := newLab(t)
	tun, _ := netnstest.Tun(t, "tun0")
	opts := defaults()
	opts.TC, opts.XDP, opts.Flows = TCOff, XDPNative, false
	p := load(t, opts)
	_, err := p.Attach(Interface{Index: tun.Attrs().Index})
	require.EqualError(t, err, "attach xdp in native mode: the interface has no Ethernet frames")
	modes := l.attach(t, p)
	require.Equal(t, []Attachment{{Hook: HookXDP, Mode: "native"}}, modes)
	frame := udp4(t, packets.SourcePort, 10)
	l.sendAsIngress(t, p, frame)
	got, err := p.InterfaceCounters(l.index())
	require.NoError(t, err)
	want := flow.InterfaceCounters{}
	want.XDP[flow.OutcomeOK] = volumeOf(frame)
	require.Equal(t, want, got)

	opts.XDP = XDPAuto
	p = load(t, opts)
	requireXDP(t, p, Interface{Index: tun.Attrs().Index}, Attachment{Hook: HookXDP, Mode: "off", Reason: "no_ethernet"})
}
