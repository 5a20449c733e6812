// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ebpfnetreceiver

import (
	"errors"

	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netdev"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/probe"
)

// openPackets loads the programs that see packets at interfaces. Where they are off,
// or cannot be loaded and error_mode is ignore, the session goes on without: other
// layers may work.
func (s *session) openPackets(opts *probe.Options) error {
	s.packetsErr = nil
	if s.cfg.packetsOff() {
		s.probe = noPackets{}
		return nil
	}
	p, err := s.load(*opts)
	if err == nil {
		s.probe = p
		return nil
	}
	if s.cfg.ErrorMode != ErrorModeIgnore {
		return err
	}
	s.probe, s.packetsErr = noPackets{}, err
	return nil
}

// requireLayer gives an error where no layer works.
func (s *session) requireLayer() error {
	if s.seesPackets() || s.othersWork() {
		return nil
	}
	if s.packetsErr != nil {
		return s.packetsErr
	}
	return errors.New("no layer can be used here: the log says why of each")
}

// othersWork says whether there is a layer beside that of packets at interfaces.
func (s *session) othersWork() bool {
	return s.netfilter != nil || s.drops != nil || s.sockets != nil
}

func (s *session) seesPackets() bool {
	_, none := s.probe.(noPackets)
	return !none
}

// interfaces chooses those that programs are attached to.
func (s *session) interfaces() netdev.Filter {
	if !s.seesPackets() {
		return netdev.Filter{}
	}
	return netdev.Filter{Include: s.cfg.Interfaces.Include, Exclude: s.cfg.Interfaces.Exclude}
}

// warnOfPackets says why packets are not seen, where they should be.
func (s *session) warnOfPackets() {
	if s.packetsErr != nil {
		s.logger.Warn("No packets are seen at interfaces, because the programs cannot be loaded and error_mode is ignore; other layers go on",
			zap.Error(s.packetsErr))
	}
}

// noPackets stands for the probe where there is none.
type noPackets struct{}

func (noPackets) Attach(probe.Interface) ([]probe.Attachment, error) { return nil, nil }
func (noPackets) Remove(int) error                                   { return nil }
func (noPackets) Detach() error                                      { return nil }
func (noPackets) InterfaceCounters(int) (flow.InterfaceCounters, error) {
	return flow.InterfaceCounters{}, nil
}
func (noPackets) DrainFlows(func(*flow.Record)) error { return nil }
func (noPackets) Health() (probe.Health, error)       { return probe.Health{}, nil }
func (noPackets) Features() []probe.Feature           { return nil }
func (noPackets) Close() error                        { return nil }
