// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/drops"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadatatest"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netfilter"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

// everythingOn asks for all features.
func everythingOn() *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.XDP.Mode, cfg.Netfilter.Mode, cfg.Drops.Mode = "auto", "auto", "auto"
	return cfg
}

// said are features of which each layer has said that it is there, but for those
// in errs.
func said(cfg *Config, errs map[string]error) *features {
	f := newFeatures(cfg, nil)
	for _, kind := range featureKinds {
		f.add(kind.name, errs[kind.name])
	}
	return f
}

// tcxAndXDP is how programs are attached where nothing is missing.
var tcxAndXDP = map[int][]probe.Attachment{2: {
	{Hook: probe.HookTCIngress, Mode: "tcx"}, {Hook: probe.HookTCEgress, Mode: "tcx"}, {Hook: probe.HookXDP, Mode: "native"},
}}

// notOn gives the rows that are something else than on, as text.
func notOn(rows []featureRow) map[string]string {
	out := map[string]string{}
	for _, row := range rows {
		if row.state != featureOn {
			out[row.name] = row.String()
		}
	}
	return out
}

func featureNames() []string {
	var names []string
	for _, kind := range featureKinds {
		names = append(names, kind.name)
	}
	return names
}

func TestFeaturesAreOffByAnOption(t *testing.T) {
	const off = "off: "
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   map[string]string
	}{
		{"nothing", func(*Config) {}, map[string]string{}},
		{"the default", func(cfg *Config) { *cfg = *createDefaultConfig().(*Config) }, map[string]string{
			"xdp": off + "xdp::mode", "xdp_frags": off + "xdp::mode",
			"netfilter": off + "netfilter::mode", "netfilter_ipv4": off + "netfilter::mode",
			"netfilter_ipv6": off + "netfilter::mode", "netfilter_drops": off + "netfilter::mode",
		}},
		{"drops", func(cfg *Config) { cfg.Drops.Mode = "off" }, map[string]string{
			"drops": off + "drops::mode", "drops_reasons": off + "drops::mode", "drops_receiving_socket": off + "drops::mode",
		}},
		{"sockets", func(cfg *Config) { cfg.Sockets.Mode = "off" }, map[string]string{
			"sockets": off + "sockets::mode", "sockets_resets": off + "sockets::mode", "sockets_udp": off + "sockets::mode",
			"sockets_readers": off + "sockets::mode", "sockets_synack_retransmits": off + "sockets::mode",
			"sockets_existing": off + "sockets::mode", "sockets_existing_here": off + "sockets::mode",
		}},
		{"TC", func(cfg *Config) { cfg.TC.Mode = "off" }, map[string]string{
			"tcx": off + "tc::mode", "batch_drain": off + "tc::mode", "coarse_clock": off + "tc::mode", "nat": off + "tc::mode",
		}},
		{"TCX alone", func(cfg *Config) { cfg.TC.Mode = "clsact" }, map[string]string{"tcx": off + "tc::mode"}},
		{"generic XDP", func(cfg *Config) { cfg.XDP.Mode = "generic" }, map[string]string{"xdp_frags": off + "xdp::mode"}},
		{"flows", func(cfg *Config) { cfg.Flows.Enabled = false }, map[string]string{
			"batch_drain": off + "flows::enabled", "coarse_clock": off + "flows::enabled", "nat": off + "flows::enabled",
		}},
		{"NAT", func(cfg *Config) { cfg.Flows.NAT = "off" }, map[string]string{"nat": off + "flows::nat"}},
		{"joining", func(cfg *Config) { cfg.Flows.PerInterface = true }, map[string]string{"nat": off + "flows::per_interface"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := everythingOn()
			tt.change(cfg)
			rows := said(cfg, nil).rows(tcxAndXDP)
			require.Equal(t, tt.want, notOn(rows))
			var names []string
			for _, row := range rows {
				names = append(names, row.name)
			}
			require.Equal(t, featureNames(), names)
		})
	}
}

func TestFeaturesAreMissing(t *testing.T) {
	f := said(everythingOn(), map[string]error{
		"coarse_clock":    fmt.Errorf("helper: %w", ebpf.ErrNotSupported),
		"nat":             fmt.Errorf("nf_conntrack_max: %w", os.ErrNotExist),
		"drops_reasons":   ebpf.ErrNotSupported,
		"netfilter_drops": unix.EPERM,
		"link_speeds":     errTest,
	})
	require.Equal(t, map[string]string{
		"coarse_clock": "missing: not_supported", "nat": "missing: not_found", "drops_reasons": "missing: not_supported",
		"netfilter_drops": "missing: not_permitted", "link_speeds": "missing: other",
	}, notOn(f.rows(tcxAndXDP)))
}

// Of a layer that could not be loaded nothing works, for the reason that it has.
func TestFeaturesOfAMissingLayer(t *testing.T) {
	f := newFeatures(everythingOn(), nil)
	f.add("netfilter", ebpf.ErrNotSupported)
	f.add("drops", unix.EPERM)
	require.Equal(t, []featureRow{
		{"netfilter", featureMissing, "not_supported"}, {"netfilter_ipv4", featureMissing, "not_supported"},
		{"netfilter_ipv6", featureMissing, "not_supported"}, {"netfilter_drops", featureMissing, "not_supported"},
		{"drops", featureMissing, "not_permitted"}, {"drops_reasons", featureMissing, "not_permitted"},
		{"drops_receiving_socket", featureMissing, "not_permitted"},
	}, f.rows(nil), "what nothing is known of has no row")
}

// One hook that does not work is enough for those of its IP version to be missing.
func TestFeaturesOfNetfilterAndDrops(t *testing.T) {
	f := newFeatures(everythingOn(), nil)
	f.add("netfilter", nil)
	addFeatures(f, "netfilter", netfilterFeatures([]netfilter.Feature{
		{Name: "drops"}, {Name: "ipv4 prerouting"}, {Name: "ipv4 forward", Err: unix.EBUSY}, {Name: "ipv4 local_in"}, {Name: "ipv6 prerouting"},
	}))
	f.add("drops", nil)
	addFeatures(f, "drops", dropFeatures(drops.Features{Reasons: true}))
	require.Equal(t, []featureRow{
		{"netfilter", featureOn, ""}, {"netfilter_ipv4", featureMissing, "in_use"},
		{"netfilter_ipv6", featureOn, ""}, {"netfilter_drops", featureOn, ""},
		{"drops", featureOn, ""}, {"drops_reasons", featureOn, ""}, {"drops_receiving_socket", featureMissing, "not_supported"},
	}, f.rows(nil))
}

func TestFeaturesOfAttachments(t *testing.T) {
	noXDP := func(reason string) []probe.Attachment {
		return []probe.Attachment{{Hook: probe.HookXDP, Mode: "off", Reason: reason, Err: errTest}}
	}
	for _, tt := range []struct {
		name     string
		attached map[int][]probe.Attachment
		want     []featureRow
	}{
		{"no interface yet", nil, nil},
		{"all there is", tcxAndXDP, []featureRow{{"tcx", featureOn, ""}, {"xdp", featureOn, ""}}},
		{"clsact in TCX's place", map[int][]probe.Attachment{2: {
			{Hook: probe.HookTCIngress, Mode: "clsact", Reason: "not_supported"}, {Hook: probe.HookTCEgress, Mode: "clsact", Reason: "not_supported"},
		}}, []featureRow{{"tcx", featureMissing, "not_supported"}}},
		{"XDP on one of three", map[int][]probe.Attachment{
			2: noXDP("no_ethernet"), 3: {{Hook: probe.HookXDP, Mode: "native"}}, 4: noXDP("in_use"),
		}, []featureRow{{"xdp", featureOn, ""}}},
		{"XDP on none, for several reasons", map[int][]probe.Attachment{
			2: noXDP("not_supported"), 3: noXDP("in_use"), 4: noXDP("no_ethernet"),
		}, []featureRow{{"xdp", featureMissing, "in_use"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, newFeatures(everythingOn(), nil).rows(tt.attached))
		})
	}
}

func TestFeaturesAreRecorded(t *testing.T) {
	own, tt := newTestTelemetry(t, true)
	cfg := createDefaultConfig().(*Config)
	f := newFeatures(cfg, own.builder)
	f.add("coarse_clock", ebpf.ErrNotSupported)
	f.add("link_speeds", nil)
	want := map[string]int64{
		"coarse_clock missing: not_supported": 1, "link_speeds on": 1,
		"xdp off: xdp::mode": 1, "xdp_frags off: xdp::mode": 1,
		"netfilter off: netfilter::mode": 1, "netfilter_ipv4 off: netfilter::mode": 1,
		"netfilter_ipv6 off: netfilter::mode": 1, "netfilter_drops off: netfilter::mode": 1,
	}
	requireFeatures := func(attached map[int][]probe.Attachment) {
		t.Helper()
		f.record(context.Background(), attached)
		var dps []metricdata.DataPoint[int64]
		for row, value := range want {
			name, state, _ := strings.Cut(row, " ")
			state, reason, _ := strings.Cut(state, ": ")
			dps = append(dps, metricdata.DataPoint[int64]{Value: value, Attributes: attribute.NewSet(
				attribute.String("feature", name), attribute.String("state", state), attribute.String("reason", reason))})
		}
		metadatatest.AssertEqualReceiverEbpfnetFeature(t, tt, dps, metricdatatest.IgnoreTimestamp())
	}
	requireFeatures(nil)
	want["tcx missing: not_supported"] = 1
	requireFeatures(map[int][]probe.Attachment{2: {{Hook: probe.HookTCIngress, Mode: "clsact", Reason: "not_supported"}}})
	want["tcx missing: not_supported"], want["tcx on"] = 0, 1
	requireFeatures(tcxAndXDP)
}

// What is missing is one warning and a part of the status, which is no error.
func TestSessionSaysWhatIsMissing(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	s, f := newTestSession(testConfig())
	s.logger = zap.New(core)
	f.modes = []probe.Attachment{{Hook: probe.HookTCIngress, Mode: "tcx"}}
	f.features = []probe.Feature{{Name: probe.BatchDrain}, {Name: probe.CoarseClock, Err: fmt.Errorf("the clock: %w", ebpf.ErrNotSupported)}}
	hosts, sinks := [2]*statusHost{newStatusHost(), newStatusHost()}, [2]*fakeSink{{}, {}}
	for i, host := range hosts {
		require.NoError(t, s.join(host, sinks[i]))
		require.Len(t, host.events, 1)
		require.Equal(t, componentstatus.StatusOK, host.events[0].Status())
		attributes := host.events[0].Attributes().AsRaw()
		require.Equal(t, "on", attributes["feature.tcx"])
		require.Equal(t, "on", attributes["feature.batch_drain"])
		require.Equal(t, "missing: not_supported", attributes["feature.coarse_clock"])
		require.Equal(t, "off: flows::nat", attributes["feature.nat"])
	}
	warnings := logs.TakeAll()
	require.Len(t, warnings, 1)
	require.Equal(t, []any{"coarse_clock"}, warnings[0].ContextMap()["features"])
	require.Equal(t, "the clock: not supported", warnings[0].ContextMap()["error"])
	for _, sk := range sinks {
		require.NoError(t, s.leave(context.Background(), sk))
	}
}

func TestSessionWhereNothingIsMissing(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	s, f := newTestSession(testConfig())
	s.logger = zap.New(core)
	f.features = []probe.Feature{{Name: probe.BatchDrain}, {Name: probe.CoarseClock}}
	sk := &fakeSink{}
	require.NoError(t, s.join(componenttest.NewNopHost(), sk))
	require.Empty(t, logs.All())
	require.NoError(t, s.leave(context.Background(), sk))
}

// Each feature is one that some layer speaks of, and each that a layer speaks of
// is there, whatever this kernel has of it.
func TestFeaturesOfThisKernel(t *testing.T) {
	bpftest.RequireBPF(t)
	netnstest.Enter(t)
	netnstest.Veth(t, "near", "far")
	s := newSession(testSettings(), everythingOn())
	require.NoError(t, s.open())
	t.Cleanup(func() { require.NoError(t, s.close()) })
	var names []string
	for _, row := range s.features.rows(s.telemetry.modes) {
		names = append(names, row.name)
		require.NotEqual(t, featureOff, row.state, row.name)
	}
	require.Equal(t, featureNames(), names)
	for name := range s.features.errs {
		require.Contains(t, featureNames(), name)
	}
}

// featureLine is one of the README's table of features by kernel.
var featureLine = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([^|]+) \\|((?: [+–] \\|){4})$")

func TestTableOfKernelsHasAllFeatures(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(readme), "\n## Kernels\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	var names []string
	for _, line := range featureLine.FindAllStringSubmatch(section, -1) {
		names = append(names, line[1])
	}
	require.Equal(t, featureNames(), names, "run make test-vm UPDATE=1, and say what goes without a new feature")
}
