// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component/componentstatus"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netdev"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

// watchList is which interfaces are watched, and which could not be.
type watchList struct {
	filter   netdev.Filter
	attached map[int]netdev.Interface
	failed   map[int]failure
	// xdp says which of the attached have the XDP program too.
	xdp map[int]bool
	// removed keeps the names of interfaces whose last flows are still to be read.
	removed map[int]string
	// links has all interfaces, watched or not, and those that are gone as long as
	// removed would.
	links map[int]netdev.Interface
	gone  map[int]bool
	// graph says which of them counts a packet; nil where what it was made of has
	// changed. before is the last one.
	graph, before *netdev.Graph
	// warned has the fall-backs that were already logged.
	warned map[string]bool
}

type failure struct {
	iface netdev.Interface
	err   error
}

func newWatchList(filter netdev.Filter) *watchList {
	return &watchList{
		filter:   filter,
		attached: map[int]netdev.Interface{},
		failed:   map[int]failure{},
		xdp:      map[int]bool{},
		removed:  map[int]string{},
		links:    map[int]netdev.Interface{},
		gone:     map[int]bool{},
		warned:   map[string]bool{},
	}
}

func (l *watchList) name(index int) string {
	if iface, ok := l.attached[index]; ok {
		return iface.Name
	}
	return l.removed[index]
}

func (l *watchList) forgetRemoved() {
	if len(l.removed)+len(l.gone) == 0 {
		return
	}
	clear(l.removed)
	for index := range l.gone {
		delete(l.links, index)
	}
	clear(l.gone)
	l.stale()
}

// stale notes that interfaces have changed.
func (l *watchList) stale() {
	if l.graph != nil {
		l.before, l.graph = l.graph, nil
	}
}

func (l *watchList) link(iface netdev.Interface) {
	delete(l.gone, iface.Index)
	if l.links[iface.Index] != iface {
		l.links[iface.Index] = iface
		l.stale()
	}
}

func (l *watchList) unlink(index int) {
	if _, ok := l.links[index]; ok {
		l.gone[index] = true
	}
}

// owners gives who counts what, as of now.
func (l *watchList) owners(o netdev.Options) *netdev.Graph {
	if l.graph == nil {
		watched := func(index int) bool {
			_, now := l.attached[index]
			_, before := l.removed[index]
			return now || before
		}
		l.graph = netdev.NewGraph(l.links, watched, o, l.before)
	}
	return l.graph
}

// reconcile makes the watched interfaces those of a full list.
func (s *session) reconcile(all map[int]netdev.Interface) {
	for index, iface := range s.watched.attached {
		if _, ok := all[index]; !ok {
			s.unwatch(iface)
		}
	}
	for index := range s.watched.failed {
		if _, ok := all[index]; !ok {
			delete(s.watched.failed, index)
		}
	}
	for index := range s.watched.links {
		if _, ok := all[index]; !ok {
			s.watched.unlink(index)
		}
	}
	for _, iface := range all {
		s.upsert(iface)
	}
	s.reportStatus()
}

// handle follows one change.
func (s *session) handle(e netdev.Event) {
	switch {
	case e.Resync:
		s.resync()
		return
	case e.Gone:
		s.watched.unlink(e.Interface.Index)
		delete(s.watched.failed, e.Interface.Index)
		if iface, ok := s.watched.attached[e.Interface.Index]; ok {
			s.unwatch(iface)
		}
	default:
		s.upsert(e.Interface)
	}
	s.reportStatus()
}

// subscribe begins to follow changes, and lists what is there: in this order
// nothing falls between the two. Without an error there is a watcher, with one none.
func (s *session) subscribe() (map[int]netdev.Interface, error) {
	watcher, err := netdev.Watch()
	if err != nil {
		return nil, err
	}
	all, err := netdev.List()
	if err != nil {
		watcher.Close()
		return nil, err
	}
	s.watcher = watcher
	return all, nil
}

// resync subscribes anew after the kernel had more changes than it could tell.
// Where that fails, the next interval tries again.
func (s *session) resync() {
	s.watcher.Close()
	s.watcher = nil
	all, err := s.subscribe()
	if err != nil {
		s.logger.Error("Lost track of interfaces; trying again at the next interval", zap.Error(err))
		return
	}
	s.reconcile(all)
}

// upsert follows an interface that is new, renamed, or otherwise changed.
func (s *session) upsert(iface netdev.Interface) {
	s.watched.link(iface)
	was, attached := s.watched.attached[iface.Index]
	wanted := s.watched.filter.Match(iface.Name)
	switch {
	case attached && !wanted:
		s.unwatch(was)
	case attached && was.Name != iface.Name:
		s.observe(iface.Index)
		s.totals.Rename(iface.Index, iface.Name, time.Now())
		s.watched.attached[iface.Index] = iface
		s.logger.Info("Interface renamed", zap.String("from", was.Name), zap.String("to", iface.Name))
	case !attached && wanted:
		s.watch(iface)
	case !attached:
		delete(s.watched.failed, iface.Index)
	}
}

func (s *session) watch(iface netdev.Interface) {
	modes, err := s.probe.Attach(probe.Interface{Index: iface.Index, Ethernet: iface.Ethernet})
	if errors.Is(err, unix.ENODEV) {
		return // gone again; its end is announced too
	}
	if err != nil {
		err = fmt.Errorf("watch interface %s: %w", iface.Name, err)
		if last, ok := s.watched.failed[iface.Index]; !ok || last.err.Error() != err.Error() {
			s.logger.Warn("Cannot watch an interface; trying again at every interval", zap.Error(err))
		}
		s.watched.failed[iface.Index] = failure{iface: iface, err: err}
		return
	}
	delete(s.watched.failed, iface.Index)
	delete(s.watched.removed, iface.Index)
	s.watched.attached[iface.Index] = iface
	s.watched.stale()
	for _, m := range modes {
		if m.Hook == probe.HookXDP && m.Mode != string(probe.XDPOff) {
			s.watched.xdp[iface.Index] = true
		}
	}
	s.totals.Appear(iface.Index, iface.Name, time.Now())
	s.telemetry.attached(iface.Index, modes)
	s.logModes(iface, modes)
}

// logModes says once for each hook and reason that a better mode is not used.
func (s *session) logModes(iface netdev.Interface, modes []probe.Attachment) {
	for _, m := range modes {
		s.logger.Debug("Attached a program", zap.String("interface", iface.Name),
			zap.Stringer("hook", m.Hook), zap.String("mode", m.Mode), zap.String("reason", m.Reason))
		key := m.Hook.String() + m.Reason
		if m.Reason == "" || s.watched.warned[key] {
			continue
		}
		s.watched.warned[key] = true
		s.logger.Warn("A program is not attached in the best mode; said once, the count is in otelcol_receiver_ebpfnet_programs",
			zap.String("interface", iface.Name), zap.Stringer("hook", m.Hook),
			zap.String("mode", m.Mode), zap.String("reason", m.Reason), zap.Error(m.Err))
	}
}

// unwatch takes the last counts of an interface and lets go of it.
func (s *session) unwatch(iface netdev.Interface) {
	s.observe(iface.Index)
	if err := s.probe.Remove(iface.Index); err != nil {
		s.logger.Warn("Could not detach from an interface", zap.String("interface", iface.Name), zap.Error(err))
	}
	s.totals.Vanish(iface.Index, time.Now())
	s.speeds.Forget(iface.Name)
	s.telemetry.detached(iface.Index)
	delete(s.watched.attached, iface.Index)
	delete(s.watched.xdp, iface.Index)
	s.watched.removed[iface.Index] = iface.Name
}

func (s *session) retryFailed() {
	for _, f := range s.watched.failed {
		s.watch(f.iface)
	}
	s.reportStatus()
}

// reportStatus reports when interfaces begin or cease to be out of reach.
func (s *session) reportStatus() {
	degraded := len(s.watched.failed) > 0
	was := s.status != nil && s.status.Status() != componentstatus.StatusOK
	if degraded == was {
		return
	}
	if !degraded {
		s.report(s.statusOK())
		return
	}
	for _, f := range s.watched.failed {
		s.report(componentstatus.NewRecoverableErrorEvent(f.err))
		return
	}
}

func (s *session) report(e *componentstatus.Event) {
	s.status = e
	for _, m := range s.members {
		componentstatus.ReportStatus(m.host, e)
	}
}
