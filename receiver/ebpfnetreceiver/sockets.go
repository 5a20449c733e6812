// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/connections"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/metadata"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/sockets"
)

// socketProber is what a session needs of the probe of sockets.
type socketProber interface {
	Features() []sockets.Feature
	Read() (sockets.Reading, error)
	Counters() (map[flow.Protocol]sockets.Counters, error)
	Health() (sockets.Health, error)
	Close() error
}

// watchedSockets is what a session has of sockets.
type watchedSockets struct {
	probe     socketProber
	table     *connections.Table
	durations *aggregate.Durations
	roles     [flow.Roles]metric.MeasurementOption
	// as last read, so that no total goes back where a reading fails
	counters map[flow.Protocol]sockets.Counters
	health   sockets.Health
	udp      bool // is watched
	// remainder is what no connection gained, where gains are wanted by connection.
	remainder connections.Remainder
}

// socketWindow is what one reading gave of sockets; nil where none are watched.
type socketWindow struct {
	counters map[flow.Protocol]sockets.Counters
	totals   map[connections.Kind]connections.Totals
	// synACKs is how many answers to connects were sent again.
	synACKs    uint64
	listeners  []connections.Listener
	histograms map[string]metricdata.Aggregation
	ends       connections.Ends
	// gains has what connections gained with their ends, and what nobody did without;
	// nothing where flows::identify_ends is off.
	gains []connections.Gain
}

func (s *session) socketOptions() sockets.Options {
	opts := sockets.Options{MaxEntries: uint32(s.cfg.Sockets.MaxEntries), RingBufferBytes: uint32(s.cfg.RingBufferBytes)}
	if s.cfg.Sockets.Namespaces == "own" {
		opts.NetNS = uint32(s.netns)
	}
	return opts
}

// openSockets begins to watch connections, as far as the kernel lets it.
func (s *session) openSockets() error {
	if s.cfg.Sockets.Mode == "off" {
		return nil
	}
	p, err := sockets.Load(s.socketOptions())
	s.features.add(featureSockets, err)
	if err != nil {
		s.logger.Warn("No connections are watched; to do without them, set sockets::mode to off", zap.Error(err))
		return nil
	}
	addFeatures(s.features, featureSockets, socketFeatures(p.Features()))
	for _, f := range p.Features() {
		if f.Err != nil {
			s.logger.Warn("A part of connections is not watched", zap.String("part", f.Name), zap.Error(f.Err))
		}
	}
	return s.useSockets(p)
}

func (s *session) useSockets(p socketProber) error {
	cfg := &s.cfg.Sockets
	buckets := cfg.Histograms.buckets()
	var names []string
	if s.totalHistograms() {
		names = []string{roundTrips, connectLatencies}
	}
	durations, err := aggregate.NewDurations(buckets, names...)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	w := &watchedSockets{probe: p, table: connections.New(uint32(s.netns), cfg.MaxListeners), durations: durations}
	w.table.Identify = s.cfg.Flows.IdentifyEnds
	for role := range w.roles {
		w.roles[role] = aggregate.AttributeOption(netattr.ConnectionRole, flow.Role(role).String())
	}
	for _, f := range p.Features() {
		if f.Name == sockets.UDP {
			w.udp = f.Err == nil
		}
	}
	s.sockets = w
	return nil
}

// totalHistograms says whether durations of all connections are put into one histogram. By
// their ends each sink does it.
func (s *session) totalHistograms() bool {
	return s.cfg.Sockets.Histograms.Type != "off" && !s.cfg.Flows.IdentifyEnds
}

// buckets are those that are configured.
func (cfg *HistogramsConfig) buckets() aggregate.Buckets {
	buckets := aggregate.Buckets{MaxSize: cfg.MaxSize}
	if cfg.Type == "explicit" {
		buckets.Boundaries = cfg.Boundaries
	}
	return buckets
}

func (s *session) closeSockets() error {
	if s.sockets == nil {
		return nil
	}
	w := s.sockets
	s.sockets = nil
	return errors.Join(w.durations.Close(), w.probe.Close())
}

// readSockets gives what became of connections, and notes what happened to them.
func (s *session) readSockets(w *window) {
	if s.sockets == nil {
		return
	}
	own := s.sockets
	var before sockets.Counters // what connections gained is in the reading
	if s.cfg.Flows.IdentifyEnds {
		s.readSocketCounters()
		before = own.counters[flow.TCP]
	}
	reading, err := own.probe.Read()
	if err != nil {
		s.logger.Error("Could not read all connections; those not read stay for the next interval", zap.Error(err))
	}
	in := own.table.Update(reading.Live, reading.Closed)
	for _, e := range in.Events {
		w.events = append(w.events, convert.ConnectionEvent{Event: e})
	}
	if s.totalHistograms() {
		own.record(roundTrips, in.RTTs)
		own.record(connectLatencies, in.Latencies)
	}
	s.readSocketCounters()
	if health, err := own.probe.Health(); err != nil {
		s.logger.Error("Could not read how many connections were lost; the last numbers stand", zap.Error(err))
	} else {
		own.health = health
	}
	histograms, err := own.durations.Collect()
	if err != nil {
		s.logger.Error("Could not read the histograms of connections", zap.Error(err))
	}
	w.sockets = &socketWindow{
		counters: own.counters, totals: own.table.Totals(), synACKs: own.health.SYNACKRetransmits,
		listeners: own.table.Listeners(), histograms: histograms, ends: in.Ends,
	}
	if s.cfg.Flows.IdentifyEnds {
		if w.leaving != nil && len(s.members) == 1 { // no reading comes after this one
			before = own.counters[flow.TCP]
		}
		totals := w.sockets.tcpTotals(&before)
		w.sockets.gains = append(in.Gains, own.remainder.Take(&totals, in.Gains)...)
	}
	if !own.udp {
		delete(w.sockets.counters, flow.UDP)
	}
}

// readSocketCounters reads how many connections there were.
func (s *session) readSocketCounters() {
	counters, err := s.sockets.probe.Counters()
	if err != nil {
		s.logger.Error("Could not read how many connections there were; the last numbers stand", zap.Error(err))
		return
	}
	s.sockets.counters = counters
}

// tcpTotals gives, by role, what metrics of TCP have of all connections.
func (w *socketWindow) tcpTotals(counters *sockets.Counters) [flow.Roles]connections.Counts {
	var all [flow.Roles]connections.Counts
	for role := range all {
		all[role][connections.Retransmits] = w.totals[connections.Kind{Protocol: flow.TCP, Role: flow.Role(role)}].Retransmits
		all[role][connections.ResetsSent] = counters.ResetSent[role]
		all[role][connections.ResetsReceived] = counters.ResetReceived[role]
	}
	all[flow.Server][connections.Retransmits] += w.synACKs
	for failure, n := range counters.Failed {
		if flow.Failure(failure) != flow.NotFailed {
			all[flow.Client][connections.FailedBy(flow.Failure(failure))] = n
		}
	}
	return all
}

// recordSocketHealth records which connections were not followed to their ends.
func (s *session) recordSocketHealth(ctx context.Context) {
	if s.sockets != nil {
		s.telemetry.sockets(ctx, s.sockets.table.Len(), s.sockets.table.Forgotten(), s.sockets.health)
	}
}

func (w *watchedSockets) record(name string, samples []connections.Sample) {
	for _, sample := range samples {
		w.durations.Record(name, sample.Value, w.roles[sample.Role])
	}
}

// translateConnections adds to what connections tell the other side of their translations.
func (s *session) translateConnections(w *window) {
	translations := s.joiner.Translations
	if translations == nil || w.sockets == nil {
		return
	}
	for i := range w.events {
		if e, ok := w.events[i].(convert.ConnectionEvent); ok {
			if nat, ok := translations.Lookup(e.Tuple()); ok {
				e.NAT = &nat
				w.events[i] = e
			}
		}
	}
	for i := range w.sockets.gains {
		gain := &w.sockets.gains[i]
		if nat, ok := translations.Lookup(gain.Sent); ok && gain.Client.IsValid() {
			gain.Translate(gain.Sent, &nat)
		}
	}
}

// completeFlows adds to the records that are counted what the sockets at their ends
// know, and what was dropped of them. Drops that no record has are kept for one more
// reading: a packet may be counted as dropped in this one, and in its flow in the next.
func (s *session) completeFlows(w *window) {
	if w.sockets != nil {
		for i := range w.flows {
			w.sockets.ends.Complete(&w.flows[i])
		}
	}
	dropped, kept := map[flow.Tuple]uint64{}, s.droppedBefore
	for _, e := range w.events {
		if drop, ok := e.(convert.DropEvent); ok {
			dropped[drop.Key.Tuple()] += drop.Packets
		}
	}
	if len(dropped)+len(kept) > 0 {
		for i := range w.flows {
			giveDrops(&w.flows[i], dropped, kept)
		}
	}
	s.droppedBefore = dropped
}

// giveDrops gives a record what was dropped of its flow, which no other record has then.
func giveDrops(rec *flow.Record, drops ...map[flow.Tuple]uint64) {
	tuples := rec.Tuples()
	for _, dropped := range drops {
		for _, tuple := range tuples {
			rec.Dropped += dropped[tuple]
			delete(dropped, tuple)
		}
	}
}

// Histograms. They are not in metadata.yaml, of which mdatagen would make code that
// does not compile (v0.159.0: data points of histograms have no value to set);
// README.md describes them.
const (
	roundTrips       = "netprobe.tcp.rtt"
	connectLatencies = "netprobe.tcp.connect.latency"
)

var connectionRoles = [flow.Roles]metadata.AttributeNetprobeConnectionRole{
	flow.Client: metadata.AttributeNetprobeConnectionRoleClient,
	flow.Server: metadata.AttributeNetprobeConnectionRoleServer,
}

// recordSockets records what the kernel counted of connections.
func (m *metricsSink) recordSockets(at pcommon.Timestamp, w *socketWindow) {
	for protocol, counters := range w.counters {
		for role, attr := range connectionRoles {
			m.recordConnections(at, protocol, flow.Role(role), attr, &counters)
			total := w.totals[connections.Kind{Protocol: protocol, Role: flow.Role(role)}]
			m.builder.RecordNetprobeSocketBytesSentDataPoint(at, int64(total.BytesSent), protocol.String(), attr)
			m.builder.RecordNetprobeSocketBytesRecvDataPoint(at, int64(total.BytesReceived), protocol.String(), attr)
		}
		if protocol == flow.TCP && m.connections == nil {
			m.recordTCP(at, w.tcpTotals(&counters))
		}
	}
}

func (m *metricsSink) recordConnections(at pcommon.Timestamp, protocol flow.Protocol, role flow.Role, attr metadata.AttributeNetprobeConnectionRole, c *sockets.Counters) {
	opened := metadata.AttributeNetprobeConnectionPhaseConnect
	if role == flow.Server {
		opened = metadata.AttributeNetprobeConnectionPhaseAccept
	}
	m.builder.RecordNetprobeSocketConnectionsDataPoint(at, int64(c.Opened[role]), protocol.String(), attr)
	m.builder.RecordNetprobeSocketEventsDataPoint(at, int64(c.Opened[role]), protocol.String(), attr, opened)
	m.builder.RecordNetprobeSocketEventsDataPoint(at, int64(c.Closed[role]), protocol.String(), attr, metadata.AttributeNetprobeConnectionPhaseClose)
	if protocol == flow.TCP && role == flow.Client {
		var failed uint64
		for _, n := range c.Failed {
			failed += n
		}
		m.builder.RecordNetprobeSocketEventsDataPoint(at, int64(failed), protocol.String(), attr, metadata.AttributeNetprobeConnectionPhaseFailed)
	}
}

func (m *metricsSink) recordTCP(at pcommon.Timestamp, totals [flow.Roles]connections.Counts) {
	for role, attr := range connectionRoles {
		m.builder.RecordNetprobeTCPRetransmitsDataPoint(at, int64(totals[role][connections.Retransmits]), attr)
		m.builder.RecordNetprobeTCPResetsDataPoint(at, int64(totals[role][connections.ResetsSent]), attr, metadata.AttributeNetprobeTCPResetByLocal)
		m.builder.RecordNetprobeTCPResetsDataPoint(at, int64(totals[role][connections.ResetsReceived]), attr, metadata.AttributeNetprobeTCPResetByRemote)
	}
	for failure := range flow.Failures {
		if reason, ok := metadata.MapAttributeErrorType[flow.Failure(failure).String()]; ok {
			m.builder.RecordNetprobeTCPFailedConnectionsDataPoint(at, int64(totals[flow.Client][connections.FailedBy(flow.Failure(failure))]),
				metadata.AttributeNetprobeConnectionRoleClient, reason)
		}
	}
}

// appendSockets adds the metrics of connections that are made by hand.
func (m *metricsSink) appendSockets(to pmetric.MetricSlice, w *window) {
	enabled := &m.cfg.MetricsBuilderConfig.Metrics
	if enabled.NetprobeTCPListenOverflows.Enabled {
		convert.AppendListenMetric(to, listenOverflows, w.sockets.listeners, m.began, w.end)
	}
	for _, name := range []string{roundTrips, connectLatencies} {
		if data, ok := w.sockets.histograms[name]; ok {
			convert.AppendHistogram(to, name, durationDescriptions[name], data)
		}
	}
}

// appendConnections adds the metrics of TCP by ends. Each is a delta: who had an address is
// known for a while only.
func (m *metricsSink) appendConnections(to pmetric.MetricSlice, points []*aggregate.ConnectionPoint, now time.Time) {
	enabled := &m.cfg.MetricsBuilderConfig.Metrics
	if enabled.NetprobeTCPRetransmits.Enabled {
		convert.AppendConnectionMetric(to, tcpRetransmits, []convert.ConnectionCount{{Place: connections.Retransmits}}, points, now)
	}
	if enabled.NetprobeTCPResets.Enabled {
		convert.AppendConnectionMetric(to, tcpResets, []convert.ConnectionCount{
			{Place: connections.ResetsSent, Key: netattr.TCPResetBy, Value: metadata.AttributeNetprobeTCPResetByLocal.String()},
			{Place: connections.ResetsReceived, Key: netattr.TCPResetBy, Value: metadata.AttributeNetprobeTCPResetByRemote.String()},
		}, points, now)
	}
	if enabled.NetprobeTCPFailedConnections.Enabled {
		convert.AppendConnectionMetric(to, tcpFailedConnections, failureCounts(), points, now)
	}
	convert.AppendDistributions(to, roundTrips, durationDescriptions[roundTrips], points,
		func(p *aggregate.ConnectionPoint) *aggregate.Distribution { return p.RTTs }, now)
	convert.AppendDistributions(to, connectLatencies, durationDescriptions[connectLatencies], points,
		func(p *aggregate.ConnectionPoint) *aggregate.Distribution { return p.Latencies }, now)
}

func failureCounts() []convert.ConnectionCount {
	var all []convert.ConnectionCount
	for i := range flow.Failures {
		if failure := flow.Failure(i); failure != flow.NotFailed {
			all = append(all, convert.ConnectionCount{Place: connections.FailedBy(failure), Key: netattr.ErrorType, Value: failure.String()})
		}
	}
	return all
}

var (
	tcpRetransmits = convert.Metric{
		Name: metadata.MetricsInfo.NetprobeTCPRetransmits.Name, Unit: "{segment}", Value: packetsOf,
		Description: "Segments sent again, of the handshake too.",
	}
	tcpResets = convert.Metric{
		Name: metadata.MetricsInfo.NetprobeTCPResets.Name, Unit: "{connection}", Value: packetsOf,
		Description: "Established connections that were broken off.",
	}
	tcpFailedConnections = convert.Metric{
		Name: metadata.MetricsInfo.NetprobeTCPFailedConnections.Name, Unit: "{connection}", Value: packetsOf,
		Description: "Connections that were never established, by the reason.",
	}
)

var durationDescriptions = map[string]string{
	roundTrips:       "Smoothed round trip times as the kernel keeps them, one sample of each connection that got something in an interval.",
	connectLatencies: "How long connects took, from the first SYN to the end of the handshake.",
}

var listenOverflows = convert.Metric{
	Name: metadata.MetricsInfo.NetprobeTCPListenOverflows.Name, Unit: "{connection}", Value: packetsOf,
	Description: "Connections that a listening socket did not take, because its queue was full or for want of memory.",
}
