// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/drops"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netfilter"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/sockets"
)

// featureState says whether a feature works.
type featureState string

const (
	featureOn      featureState = "on"
	featureOff     featureState = "off" // by configuration
	featureMissing featureState = "missing"
)

// Names of features that are a layer, and of which others may be parts.
const (
	featurePackets    = "packets"
	featureTCX        = "tcx"
	featureXDP        = "xdp"
	featureNAT        = "nat"
	featureNetfilter  = "netfilter"
	featureDrops      = "drops"
	featureSockets    = "sockets"
	featureLinkSpeeds = "link_speeds"
)

// featureKind is a feature that there is, whether it works or not.
type featureKind struct {
	name string
	// offBy gives the option that switches it off, empty where none does.
	offBy func(*Config) string
	// unsaid: nothing else warns where it is missing.
	unsaid bool
}

// featureKinds has all of them: a layer before its parts, whose names begin with
// the layer's and an underscore. A layer that joins adds itself here, and says how
// it is by add and addFeatures where it is opened.
var featureKinds = []featureKind{
	{featurePackets, (*Config).packetsOffBy, false},
	{featureTCX, (*Config).tcxOffBy, false},
	{probe.BatchDrain, (*Config).flowsOffBy, true},
	{probe.CoarseClock, (*Config).flowsOffBy, true},
	{featureXDP, (*Config).xdpOffBy, false},
	{probe.XDPFrags, (*Config).xdpFragsOffBy, true},
	{featureNAT, (*Config).natOffBy, false},
	{featureNetfilter, (*Config).netfilterOffBy, false},
	{featureNetfilter + "_ipv4", (*Config).netfilterOffBy, false},
	{featureNetfilter + "_ipv6", (*Config).netfilterOffBy, false},
	{featureNetfilter + "_" + netfilter.Drops, (*Config).netfilterOffBy, false},
	{featureDrops, (*Config).dropsOffBy, false},
	{featureDrops + "_reasons", (*Config).dropsOffBy, true},
	{featureDrops + "_receiving_socket", (*Config).dropsOffBy, true},
	{featureSockets, (*Config).socketsOffBy, false},
	{featureSockets + "_" + sockets.Resets, (*Config).socketsOffBy, false},
	{featureSockets + "_" + sockets.UDP, (*Config).socketsOffBy, false},
	{featureSockets + "_" + sockets.Readers, (*Config).socketsOffBy, false},
	{featureSockets + "_" + sockets.SYNACKs, (*Config).socketsOffBy, false},
	{featureSockets + "_" + sockets.Existing, (*Config).socketsOffBy, false},
	{featureSockets + "_" + sockets.ExistingHere, (*Config).socketsOffBy, false},
	{featureLinkSpeeds, func(*Config) string { return "" }, false},
}

func offIf(off bool, option string) string {
	if off {
		return option
	}
	return ""
}

func (cfg *Config) packetsOffBy() string { return offIf(cfg.packetsOff(), "tc::mode") }

func (cfg *Config) tcxOffBy() string {
	return offIf(cfg.TC.Mode == "off" || cfg.TC.Mode == string(probe.TCClsact), "tc::mode")
}

func (cfg *Config) flowsOffBy() string {
	if cfg.TC.Mode == "off" {
		return "tc::mode"
	}
	return offIf(!cfg.Flows.Enabled, "flows::enabled")
}

func (cfg *Config) natOffBy() string {
	if option := cfg.flowsOffBy(); option != "" {
		return option
	}
	if cfg.Flows.NAT == "off" {
		return "flows::nat"
	}
	return offIf(cfg.Flows.PerInterface, "flows::per_interface")
}

func (cfg *Config) xdpOffBy() string { return offIf(cfg.XDP.Mode == "off", "xdp::mode") }

// xdpFragsOffBy: in generic mode it would do harm.
func (cfg *Config) xdpFragsOffBy() string {
	return offIf(cfg.XDP.Mode == "off" || cfg.XDP.Mode == string(probe.XDPGeneric), "xdp::mode")
}

func (cfg *Config) netfilterOffBy() string {
	return offIf(cfg.Netfilter.Mode == "off", "netfilter::mode")
}

func (cfg *Config) dropsOffBy() string { return offIf(cfg.Drops.Mode == "off", "drops::mode") }

func (cfg *Config) socketsOffBy() string { return offIf(cfg.Sockets.Mode == "off", "sockets::mode") }

// featureRow is what a feature is now.
type featureRow struct {
	name  string
	state featureState
	// reason is empty where it is on, the option that switches it off, or a short
	// name out of few of why it is missing.
	reason string
}

func (r featureRow) String() string {
	if r.reason == "" {
		return string(r.state)
	}
	return string(r.state) + ": " + r.reason
}

// features are what the layers said of themselves as they were opened.
type features struct {
	builder  *metadata.TelemetryBuilder
	offBy    map[string]string
	errs     map[string]error        // a feature that nothing was said of is not in it
	recorded map[featureRow]struct{} // since the beginning
}

func newFeatures(cfg *Config, builder *metadata.TelemetryBuilder) *features {
	f := &features{builder: builder, offBy: map[string]string{}, errs: map[string]error{}, recorded: map[featureRow]struct{}{}}
	for _, kind := range featureKinds {
		if option := kind.offBy(cfg); option != "" {
			f.offBy[kind.name] = option
		}
	}
	return f
}

// add notes that a feature works, or why not.
func (f *features) add(name string, err error) {
	if known, ok := f.errs[name]; !ok || known == nil {
		f.errs[name] = err
	}
}

// layerFeature is a part of a layer, as each layer's package has it.
type layerFeature struct {
	Name string
	Err  error
}

// addFeatures notes what the parts of a layer are. Of several of one name that
// work or not, those that do not count.
func addFeatures[F ~struct {
	Name string
	Err  error
}](f *features, layer string, parts []F) {
	for _, p := range parts {
		part := layerFeature(p)
		if layer != "" {
			part.Name = layer + "_" + part.Name
		}
		f.add(part.Name, part.Err)
	}
}

// netfilterFeatures has all hooks of an IP version in one: they are the same
// kernel feature, and one fails alone only where others' programs are in its way.
func netfilterFeatures(parts []netfilter.Feature) []netfilter.Feature {
	out := make([]netfilter.Feature, len(parts))
	for i, part := range parts {
		part.Name, _, _ = strings.Cut(part.Name, " ")
		out[i] = part
	}
	return out
}

// socketFeatures leaves out TCP, without which the layer is not there.
func socketFeatures(parts []sockets.Feature) []sockets.Feature {
	return slices.DeleteFunc(slices.Clone(parts), func(part sockets.Feature) bool { return part.Name == sockets.TCP })
}

func dropFeatures(has drops.Features) []layerFeature {
	not := func(there bool, what string) error {
		if there {
			return nil
		}
		return fmt.Errorf("%w: %s", ebpf.ErrNotSupported, what)
	}
	return []layerFeature{
		{"reasons", not(has.Reasons, "the kernel has no reasons, as Linux 5.17 and later do")},
		{"receiving_socket", not(has.ReceivingSocket, "the kernel does not tell which socket did not take a packet, as Linux 6.11 and later do")},
	}
}

// rows says what each feature is, with how programs are attached now. TCX and XDP
// are not in it before there is an interface to attach to.
func (f *features) rows(attached map[int][]probe.Attachment) []featureRow {
	attachments := attachmentRows(attached)
	var rows []featureRow
	for _, kind := range featureKinds {
		if option := f.offBy[kind.name]; option != "" {
			rows = append(rows, featureRow{kind.name, featureOff, option})
		} else if row, ok := attachments[kind.name]; ok {
			rows = append(rows, row)
		} else if err, ok := f.err(kind.name); ok {
			rows = append(rows, newFeatureRow(kind.name, err))
		}
	}
	return rows
}

// err is why a feature does not work: where its layer does not, for that reason.
func (f *features) err(name string) (error, bool) {
	layer, _, _ := strings.Cut(name, "_")
	if err := f.errs[layer]; err != nil {
		return err, true
	}
	err, ok := f.errs[name]
	return err, ok
}

func newFeatureRow(name string, err error) featureRow {
	switch {
	case err == nil:
		return featureRow{name: name, state: featureOn}
	case errors.Is(err, sockets.ErrPIDNamespace):
		return featureRow{name, featureMissing, "pid_namespace"}
	default:
		return featureRow{name, featureMissing, probe.Reason(err)}
	}
}

// attachmentRows tells what the kernel and the drivers have by how programs are
// attached. TCX is the kernel's: missing on one interface it is on all. XDP is a
// driver's: it is on if one has it.
func attachmentRows(attached map[int][]probe.Attachment) map[string]featureRow {
	rows := map[string]featureRow{}
	for _, modes := range attached {
		for _, m := range modes {
			name, on := featureTCX, m.Mode == string(probe.TCX)
			if m.Hook == probe.HookXDP {
				name, on = featureXDP, m.Mode != string(probe.XDPOff)
			}
			row := featureRow{name: name, state: featureOn}
			if !on {
				row.state, row.reason = featureMissing, m.Reason
			}
			last, have := rows[name]
			if !have || last.state == featureMissing && (on || row.reason < last.reason) {
				rows[name] = row
			}
		}
	}
	return rows
}

// record says what each feature is, and ends the series of what it was.
func (f *features) record(ctx context.Context, attached map[int][]probe.Attachment) {
	now := map[featureRow]struct{}{}
	for _, row := range f.rows(attached) {
		now[row], f.recorded[row] = struct{}{}, struct{}{}
	}
	for row := range f.recorded {
		var value int64
		if _, is := now[row]; is {
			value = 1
		}
		f.builder.ReceiverEbpfnetFeature.Record(ctx, value, metric.WithAttributes(
			attribute.String("feature", row.name),
			attribute.String("state", string(row.state)),
			attribute.String("reason", row.reason)))
	}
}

// warnOfMissing warns once of what is missing and nothing else warns of.
func (s *session) warnOfMissing() {
	var missing []string
	var errs []error
	for _, kind := range featureKinds {
		if err := s.features.errs[kind.name]; err != nil && kind.unsaid {
			missing = append(missing, kind.name)
			errs = append(errs, err)
		}
	}
	if len(missing) > 0 {
		s.logger.Warn("Features are missing here; what goes without them is under Kernels in the receiver's README",
			zap.Strings("features", missing), zap.Error(errors.Join(errs...)))
	}
}

// statusOK is the status while all interfaces can be watched: a feature that is
// missing is said in it and is no error, for all else works.
func (s *session) statusOK() *componentstatus.Event {
	attributes := pcommon.NewMap()
	for _, row := range s.features.rows(s.telemetry.modes) {
		attributes.PutStr("feature."+row.name, row.String())
	}
	return componentstatus.NewEvent(componentstatus.StatusOK, componentstatus.WithAttributes(attributes))
}
