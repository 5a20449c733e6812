// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"errors"

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
	buckets := aggregate.Buckets{MaxSize: cfg.Histograms.MaxSize}
	if cfg.Histograms.Type == "explicit" {
		buckets.Boundaries = cfg.Histograms.Boundaries
	}
	names := []string{roundTrips, connectLatencies}
	if cfg.Histograms.Type == "off" {
		names = nil
	}
	durations, err := aggregate.NewDurations(buckets, names...)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	w := &watchedSockets{probe: p, table: connections.New(uint32(s.netns), cfg.MaxListeners), durations: durations}
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
	reading, err := own.probe.Read()
	if err != nil {
		s.logger.Error("Could not read all connections; those not read stay for the next interval", zap.Error(err))
	}
	in := own.table.Update(reading.Live, reading.Closed)
	for _, e := range in.Events {
		w.events = append(w.events, convert.ConnectionEvent{Event: e})
	}
	if s.cfg.Sockets.Histograms.Type != "off" {
		own.record(roundTrips, in.RTTs)
		own.record(connectLatencies, in.Latencies)
	}
	if counters, err := own.probe.Counters(); err != nil {
		s.logger.Error("Could not read how many connections there were; the last numbers stand", zap.Error(err))
	} else {
		own.counters = counters
	}
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
	if !own.udp {
		delete(w.sockets.counters, flow.UDP)
	}
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
		if protocol == flow.TCP {
			m.recordTCP(at, w, &counters)
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

func (m *metricsSink) recordTCP(at pcommon.Timestamp, w *socketWindow, c *sockets.Counters) {
	for role, attr := range connectionRoles {
		retransmits := w.totals[connections.Kind{Protocol: flow.TCP, Role: flow.Role(role)}].Retransmits
		if flow.Role(role) == flow.Server {
			retransmits += w.synACKs
		}
		m.builder.RecordNetprobeTCPRetransmitsDataPoint(at, int64(retransmits), attr)
		m.builder.RecordNetprobeTCPResetsDataPoint(at, int64(c.ResetSent[role]), attr, metadata.AttributeNetprobeTCPResetByLocal)
		m.builder.RecordNetprobeTCPResetsDataPoint(at, int64(c.ResetReceived[role]), attr, metadata.AttributeNetprobeTCPResetByRemote)
	}
	for failure, n := range c.Failed {
		if reason, ok := metadata.MapAttributeErrorType[flow.Failure(failure).String()]; ok {
			m.builder.RecordNetprobeTCPFailedConnectionsDataPoint(at, int64(n), metadata.AttributeNetprobeConnectionRoleClient, reason)
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

var durationDescriptions = map[string]string{
	roundTrips:       "Smoothed round trip times as the kernel keeps them, one sample of each connection that got something in an interval.",
	connectLatencies: "How long connects took, from the first SYN to the end of the handshake.",
}

var listenOverflows = convert.Metric{
	Name: metadata.MetricsInfo.NetprobeTCPListenOverflows.Name, Unit: "{connection}", Value: packetsOf,
	Description: "Connections that a listening socket did not take, because its queue was full or for want of memory.",
}
