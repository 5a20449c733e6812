// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/conntrack"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/convert"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/join"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/listeners"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netdev"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netfilter"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

// prober is what a session needs of the probe.
type prober interface {
	Attach(probe.Interface) ([]probe.Attachment, error)
	Remove(index int) error
	Detach() error
	InterfaceCounters(index int) (flow.InterfaceCounters, error)
	DrainFlows(func(*flow.Record)) error
	Health() (probe.Health, error)
	Features() []probe.Feature
	Close() error
}

// window is what one reading of the counters gave. Sinks must not keep it.
type window struct {
	start, end time.Time
	interfaces []aggregate.InterfacePoint
	// xdp has the names of interfaces that the XDP program is attached to.
	xdp map[string]bool
	// speeds has those of links, in bits per second, where they are known.
	speeds map[string]float64
	// flows has the records that are counted, each packet in one of them.
	flows []flow.Record
	// accountant is the sink that tells the ledger what became of them.
	accountant sink
	// tunnels and networks are totals, by tunnel and by VXLAN identifier.
	tunnels, networks []aggregate.TunnelPoint
	tunnelsActive     int
	netfilter         []netfilter.Count
	netfilterDrops    bool
	noPackets         bool // are seen at interfaces
	drops             []convert.DropPoint
	sockets           *socketWindow // nil where none are watched
	// events have log records of their own.
	events []convert.Event
	// leaving is the sink that gets no more after this: it hands on what it has
	// before it returns. Nil for none.
	leaving sink
}

// sink takes windows to one signal's consumer. It handles the consumer's
// errors itself.
type sink interface {
	start(began time.Time, netns uint64, ledger *ledger)
	// accounts says whether the sink hands on flows, so that it can tell the ledger
	// what became of them.
	accounts() bool
	consume(ctx context.Context, w *window)
	stop(ctx context.Context)
}

// member is a signal's part in a session.
type member struct {
	sink sink
	host component.Host
}

// session owns the loaded programs of one component ID and reads them at every
// interval, for all signals at once: they then speak of the same span of time,
// and of each packet once.
type session struct {
	cfg    *Config
	logger *zap.Logger
	set    component.TelemetrySettings
	load   func(probe.Options) (prober, error)
	// chooseOwners gives who counts what as of now, or nil for everyone.
	chooseOwners func() join.Owners

	mu       sync.Mutex // guards all that follows
	started  bool
	startErr error
	idle     bool // could not load, and error_mode says to go on
	members  []member
	status   *componentstatus.Event // as last reported, nil before
	cancel   context.CancelFunc
	done     chan struct{}

	netns uint64
	probe prober
	// packetsErr is why there is none that sees packets, where that is no choice.
	packetsErr error
	watcher    *netdev.Watcher
	watched    *watchList
	totals     *aggregate.Interfaces
	telemetry  *telemetry
	features   *features
	joiner     *join.Joiner
	listeners  *listeners.Table // nil without flows
	speeds     *netdev.Speeds   // nil where they cannot be asked for
	netfilter  netfilterProber  // nil where it is off or the kernel has none
	drops      dropProber       // the same
	sockets    *watchedSockets  // the same

	netfilterDrops bool // are counted
	dropNames      map[uint32]string
	dropTotals     *dropTotals
	droppedBefore  map[flow.Tuple]uint64 // at the last reading, and in no flow's record
	nat            *conntrack.Table      // nil where it is off or the kernel has none
	// graphOptions are for the graph of interfaces.
	graphOptions netdev.Options
	tunnels      *aggregate.Tunnels
	lastRead     time.Time
	flows        []flow.Record // reused
}

func newSession(set receiver.Settings, cfg *Config) *session {
	s := &session{
		cfg:    cfg,
		logger: set.Logger,
		set:    set.TelemetrySettings,
		load: func(opts probe.Options) (prober, error) {
			p, err := probe.Load(opts)
			if err != nil {
				return nil, err
			}
			return p, nil
		},
	}
	s.chooseOwners = func() join.Owners {
		if cfg.Flows.PerInterface {
			return nil
		}
		return owners{s.owners()}
	}
	return s
}

func (s *session) options() probe.Options {
	return probe.Options{
		TC:              probe.TCMode(s.cfg.TC.Mode),
		XDP:             probe.XDPMode(s.cfg.XDP.Mode),
		Flows:           s.cfg.flowsEnabled(),
		FlowMap:         probe.FlowMap(s.cfg.Flows.Map),
		FlowEntries:     uint32(s.cfg.Flows.MaxEntries),
		RingBufferBytes: uint32(s.cfg.RingBufferBytes),
		MaxInterfaces:   uint32(s.cfg.Interfaces.MaxEntries),
		Tunnels: probe.TunnelOptions{
			VXLANPorts: ports(s.cfg.Tunnels.VXLANPorts), GenevePorts: ports(s.cfg.Tunnels.GenevePorts),
			GRE: s.cfg.Tunnels.GRE, IPIP: s.cfg.Tunnels.IPIP, MaxEntries: uint32(s.cfg.Tunnels.MaxEntries),
		},
		Filter:   s.cfg.Flows.filter(),
		Sampling: uint32(s.cfg.Flows.Sampling),
	}
}

// ports are as the programs take them. They were validated.
func ports(list []int) []uint16 {
	out := make([]uint16, len(list))
	for i, port := range list {
		out[i] = uint16(port)
	}
	return out
}

// join adds a sink and starts the session for the first. Its host is told what
// is wrong already.
func (s *session) join(host component.Host, sk sink) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		s.started = true
		s.startErr = s.start()
	}
	if s.startErr != nil {
		return s.startErr
	}
	if s.status != nil && s.status.Status() != componentstatus.StatusOK {
		componentstatus.ReportStatus(host, s.status)
	} else {
		componentstatus.ReportStatus(host, s.statusOK())
	}
	if s.idle {
		return nil
	}
	sk.start(s.lastRead, s.netns, s.telemetry.ledger)
	s.members = append(s.members, member{sink: sk, host: host})
	return nil
}

func (s *session) start() error {
	err := s.open()
	if err == nil {
		// not the context of Start, which ends with it
		ctx, cancel := context.WithCancel(context.Background())
		s.cancel, s.done = cancel, make(chan struct{})
		s.lastRead = time.Now()
		go s.run(ctx)
		return nil
	}
	err = errors.Join(err, s.close())
	if s.cfg.ErrorMode != ErrorModeIgnore {
		return err
	}
	s.idle = true
	s.logger.Warn("Receives nothing, because eBPF cannot be used here and error_mode is ignore", zap.Error(err))
	s.report(componentstatus.NewPermanentErrorEvent(err))
	return nil
}

// open loads the programs and attaches them to the interfaces that are there.
func (s *session) open() error {
	opts := s.options()
	var err error
	if s.netns, err = kernel.NetNS(); err != nil {
		return err
	}
	if err := s.openPackets(&opts); err != nil {
		return err
	}
	if s.telemetry, err = newTelemetry(s.set, opts.Flows); err != nil {
		return err
	}
	s.features = newFeatures(s.cfg, s.telemetry.builder)
	s.features.add(featurePackets, s.packetsErr)
	addFeatures(s.features, "", s.probe.Features())
	s.totals = aggregate.NewInterfaces()
	s.tunnels = aggregate.NewTunnels(s.cfg.Tunnels.MaxEntries, s.cfg.Tunnels.IdleTimeout, time.Now())
	s.joiner = join.New(s.cfg.Flows.MaxEntries)
	if opts.Flows {
		s.listeners = &listeners.Table{}
		s.joiner.Listeners = s.listeners
	}
	s.openNAT()
	s.openNetfilter()
	s.openDrops()
	if err := s.openSockets(); err != nil {
		return err
	}
	if err := s.requireLayer(); err != nil {
		return err
	}
	s.warnOfPackets()
	s.logger.Info("Loaded the eBPF programs", zap.Uint64("kernel_memory_estimate_bytes", s.mapBytes(&opts)))
	s.speeds, err = netdev.OpenSpeeds()
	s.features.add(featureLinkSpeeds, err)
	if err != nil {
		s.logger.Warn("No utilization, because the speeds of links cannot be asked for", zap.Error(err))
	}
	s.graphOptions = netdev.Options{VXLANPorts: opts.Tunnels.VXLANPorts, GenevePorts: opts.Tunnels.GenevePorts, GRE: s.cfg.Tunnels.GRE, IPIP: s.cfg.Tunnels.IPIP}
	s.watched = newWatchList(s.interfaces())
	all, err := s.subscribe()
	if err != nil {
		return err
	}
	for _, pattern := range s.watched.filter.Unmatched(all) {
		s.logger.Warn("No interface matches yet; waiting for one", zap.String("interfaces::include", pattern))
	}
	s.reconcile(all)
	if len(s.watched.attached) == 0 && len(s.watched.failed) > 0 {
		errs := []error{errors.New("no interface could be watched")}
		for _, f := range s.watched.failed {
			errs = append(errs, f.err)
		}
		err := errors.Join(errs...)
		if s.cfg.ErrorMode != ErrorModeIgnore || !s.othersWork() {
			return err
		}
		s.logger.Warn("No packets are seen at interfaces; trying again. Other layers go on", zap.Error(err))
	}
	s.warnOfMissing()
	return nil
}

// mapBytes estimates the kernel memory that all that is loaded takes.
func (s *session) mapBytes(opts *probe.Options) uint64 {
	var total uint64
	if s.seesPackets() {
		total = opts.MapBytes()
	}
	if s.netfilter != nil {
		total += s.netfilter.MapBytes()
	}
	if s.drops != nil {
		dropped := s.dropOptions()
		total += dropped.MapBytes()
	}
	if s.sockets != nil {
		watched := s.socketOptions()
		total += watched.MapBytes()
	}
	return total
}

func (s *session) run(ctx context.Context) {
	defer close(s.done)
	ticker := time.NewTicker(s.cfg.Interval)
	defer ticker.Stop()
	updates := s.watcher.Updates()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.tick(ctx)
		case u, ok := <-updates:
			s.update(u, ok)
		}
		// nil, which never delivers, while there is no subscription
		updates = s.watcher.Updates()
	}
}

func (s *session) tick(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watcher == nil {
		s.resync()
	}
	s.retryFailed()
	s.collect(ctx, nil)
}

func (s *session) update(u netlink.LinkUpdate, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, have := netdev.ReadEvent(u, ok); have {
		s.handle(e)
	}
}

// flushTimeout bounds how long the end of a receiver waits for a pipeline to take
// what is left: an exporter without a queue may try again for minutes, and whoever
// ends the process kills it before that.
const flushTimeout = 5 * time.Second

// leave hands what was counted until now to the sinks and removes one. The last
// one ends the session, which a later join would start anew.
func (s *session) leave(ctx context.Context, sk sink) error {
	s.mu.Lock()
	at := slices.IndexFunc(s.members, func(m member) bool { return m.sink == sk })
	if at < 0 {
		s.mu.Unlock()
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if len(s.members) > 1 {
		defer s.mu.Unlock()
		s.collect(ctx, sk)
		s.members = slices.Delete(s.members, at, at+1)
		sk.stop(ctx)
		return nil
	}
	s.mu.Unlock()

	s.cancel()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	// What the programs count between the last reading and their end would be lost.
	err := s.probe.Detach()
	s.collect(ctx, sk)
	s.members, s.started, s.status = nil, false, nil
	sk.stop(ctx)
	return errors.Join(err, s.close())
}

func (s *session) close() error {
	s.watcher.Close()
	s.watcher = nil
	if s.telemetry != nil {
		s.telemetry.close()
	}
	errNAT := errors.Join(s.closeNAT(), s.closeNetfilter(), s.closeDrops(), s.closeSockets())
	s.speeds.Close()
	s.speeds = nil
	if s.probe == nil {
		return errNAT
	}
	if err := s.probe.Close(); err != nil {
		return errors.Join(errNAT, fmt.Errorf("unload programs: %w", err))
	}
	return errNAT
}

// collect reads all counters once and gives them to all sinks.
func (s *session) collect(ctx context.Context, leaving sink) {
	w := window{start: s.lastRead, end: time.Now(), xdp: map[string]bool{}, speeds: map[string]float64{}, leaving: leaving, noPackets: !s.seesPackets()}
	for index, iface := range s.watched.attached {
		s.observe(index)
		if speed, ok := s.speeds.BitsPerSecond(iface.Name, w.end); ok {
			w.speeds[iface.Name] = speed
		}
		if s.watched.xdp[index] {
			w.xdp[iface.Name] = true
		}
	}
	// Both wait for running programs, and the kernel lets them wait together.
	dropped := s.collectDrops()
	s.flows = s.flows[:0]
	err := s.probe.DrainFlows(func(rec *flow.Record) {
		rec.Interface = s.watched.name(int(rec.InterfaceIndex))
		rec.SampledFrom = uint32(s.cfg.Flows.Sampling)
		s.flows = append(s.flows, *rec)
	})
	if err != nil {
		s.logger.Error("Could not read all flows; they stay for the next interval", zap.Error(err))
	}
	s.totals.Collect(w.end, func(p aggregate.InterfacePoint) { w.interfaces = append(w.interfaces, p) })
	s.lastRead = w.end
	w.netfilter, w.netfilterDrops = s.readNetfilter(), s.netfilterDrops
	s.readDrops(&w, <-dropped)
	s.readSockets(&w)
	s.joinFlows(ctx, &w)
	if err == nil {
		// not before: what they saw had to be judged by what they were
		s.watched.forgetRemoved()
		s.forgetDrops(w.start, w.end)
	}

	if health, err := s.probe.Health(); err != nil {
		s.logger.Error("Could not read the health counters", zap.Error(err))
	} else if s.seesPackets() {
		s.logLosses(&health)
		s.telemetry.record(ctx, health)
	}
	s.recordDrops(ctx)
	s.recordNetfilterHealth(ctx)
	s.recordSocketHealth(ctx)
	s.features.record(ctx, s.telemetry.modes)
	for _, m := range s.members {
		m.sink.consume(ctx, &w)
	}
}

// logLosses says what was lost since the last reading of packets that have a flow.
func (s *session) logLosses(h *probe.Health) {
	for loss := range probe.Losses {
		var lost flow.Volume
		for hook := range h.Hooks {
			lost.Add(h.Hooks[hook].Lost[loss].Sub(s.telemetry.last.Hooks[hook].Lost[loss]))
		}
		if lost.Packets > 0 {
			s.logger.Error("Packets are in no flow record; what to do about it is in the receiver's README",
				zap.Uint64("packets", lost.Packets), zap.Stringer("cause", probe.Loss(loss)))
		}
	}
}

// joinFlows makes of what the interfaces saw records that have each packet once, and
// adds up the tunnels.
func (s *session) joinFlows(ctx context.Context, w *window) {
	if s.listeners != nil {
		if err := s.listeners.Refresh(); err != nil {
			s.logger.Warn("Could not ask for sockets that wait; who opened a flow may be guessed in this interval", zap.Error(err))
		}
		s.refreshNAT(ctx)
	}
	s.joiner.Owners = s.chooseOwners()
	for i := range s.flows {
		if rec := &s.flows[i]; rec.Tunnel != nil && s.ownsOuter(&rec.Key) {
			s.tunnels.Add(rec)
		}
	}
	s.translateConnections(w)
	counted, noted := s.joiner.Join(s.flows, w.end)
	w.flows = counted
	s.completeFlows(w)
	s.telemetry.ledger.addTally(ctx, outcomeFiltered, causeElsewhere, tallyOf(noted))
	w.tunnels, w.networks = s.tunnels.Collect(w.end)
	for _, e := range s.tunnels.Events(w.end) {
		w.events = append(w.events, convert.TunnelEvent{TunnelEvent: e})
	}
	w.tunnelsActive = s.tunnels.Active()

	for _, m := range s.members {
		// the one of logs, where there is one: it has every flow by itself
		if _, isLogs := m.sink.(*logsSink); m.sink.accounts() && (w.accountant == nil || isLogs) {
			w.accountant = m.sink
		}
	}
	if w.accountant == nil {
		s.telemetry.ledger.addTally(ctx, outcomeFiltered, causeNoConsumer, tallyOf(counted))
	}
}

// owners gives who counts what as of now, and says once each what only some of
// the interfaces being watched leaves open.
func (s *session) owners() *netdev.Graph {
	known := s.watched.graph != nil
	graph := s.watched.owners(s.graphOptions)
	if known {
		return graph
	}
	for _, doubt := range graph.Doubts() {
		if key := doubt.Name + doubt.Why; !s.watched.warned[key] {
			s.watched.warned[key] = true
			s.logger.Warn("Some packets may be counted twice or not at all", zap.String("interface", doubt.Name), zap.String("why", doubt.Why))
		}
	}
	return graph
}

// owners asks the graph of interfaces who counts.
type owners struct{ graph *netdev.Graph }

// Owns implements join.Owners.
func (o owners) Owns(key *flow.Key) bool {
	observed := netdev.Observation{Interface: int(key.InterfaceIndex), Direction: key.Direction, From: int(key.From)}
	if key.Tunnel != nil {
		observed.Tunnel, observed.TunnelID, observed.HasID = key.Tunnel.Type, key.Tunnel.ID, key.Tunnel.HasID
	}
	return o.graph.Owns(observed)
}

// OwnsOuter implements join.Owners.
func (o owners) OwnsOuter(key *flow.Key) bool {
	return o.graph.OwnsOuter(int(key.InterfaceIndex), key.Direction, int(key.From))
}

func (s *session) ownsOuter(key *flow.Key) bool {
	return s.joiner.Owners == nil || s.joiner.Owners.OwnsOuter(key)
}

// observe adds what an interface's counters gained to the totals of its name.
func (s *session) observe(index int) {
	counters, err := s.probe.InterfaceCounters(index)
	if err != nil {
		s.logger.Error("Could not read the counters of an interface",
			zap.String("interface", s.watched.name(index)), zap.Error(err))
		return
	}
	s.totals.Observe(index, counters)
}
