// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netdev

import (
	"fmt"
	"math"
	"time"

	"github.com/safchain/ethtool"
)

// speedAge is how old a speed may be: links negotiate anew, and nothing tells.
const speedAge = time.Minute

// Speeds knows how fast links are, as far as drivers say.
type Speeds struct {
	tool  *ethtool.Ethtool
	known map[string]speed
}

type speed struct {
	bitsPerSecond float64 // 0 where the driver does not say
	asked         time.Time
}

// OpenSpeeds asks in the network namespace of the caller.
func OpenSpeeds() (*Speeds, error) {
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("open ethtool: %w", err)
	}
	return &Speeds{tool: tool, known: map[string]speed{}}, nil
}

// BitsPerSecond gives the speed of an interface. It is false where the driver
// does not say, as while the link is down. Virtual devices may say what they are
// not held to: a veth pair 10 Gbit/s.
func (s *Speeds) BitsPerSecond(name string, now time.Time) (float64, bool) {
	if s == nil {
		return 0, false
	}
	k, ok := s.known[name]
	if !ok || now.Sub(k.asked) > speedAge {
		k = speed{bitsPerSecond: s.ask(name), asked: now}
		s.known[name] = k
	}
	return k.bitsPerSecond, k.bitsPerSecond > 0
}

// ask gives 0 where there is no answer: most virtual devices have none. It is the
// older of two questions, since for the newer one the library prints a warning.
func (s *Speeds) ask(name string) float64 {
	megabits, err := s.tool.CmdGet(&ethtool.EthtoolCmd{}, name)
	// SPEED_UNKNOWN, include/uapi/linux/ethtool.h
	if err != nil || megabits == math.MaxUint32 {
		return 0
	}
	return float64(megabits) * 1e6
}

// Forget drops an interface that is no more.
func (s *Speeds) Forget(name string) {
	if s != nil {
		delete(s.known, name)
	}
}

// Close may be called for nil.
func (s *Speeds) Close() {
	if s != nil {
		s.tool.Close()
	}
}
