// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"errors"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// errClosed is what Refresh says after Close.
var errClosed = errors.New("connection tracking table is closed")

// run follows the events until Close.
func (t *Table) run() {
	for {
		err := t.source.setDeadline(t.nextDeadline(time.Now()))
		for err == nil {
			err = t.source.receive(t.apply)
		}
		if t.isClosed() {
			return
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.failed(err)
		}
		t.tick(time.Now())
	}
}

func (t *Table) isClosed() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}

// nextDeadline is when to look up from the events.
func (t *Table) nextDeadline(now time.Time) time.Time {
	next := now.Add(tickInterval)
	if t.dumpAt.Before(next) {
		return t.dumpAt
	}
	return next
}

// failed takes note that events were lost. They still come, but what they say
// has a gap until the next dump.
func (t *Table) failed(err error) {
	t.overflows.Add(1)
	if !t.overflowed {
		t.overflowed = true
		t.dumpAt = time.Now()
		if t.pausedUntil.After(t.dumpAt) {
			t.dumpAt = t.pausedUntil
		}
	}
	if errors.Is(err, unix.ENOBUFS) {
		t.log.Debug("connection tracking events came faster than they were read; reading the table again",
			zap.Time("at", t.dumpAt))
		return
	}
	t.log.Warn("receiving connection tracking events failed; reading the table again",
		zap.Time("at", t.dumpAt), zap.Error(err))
	t.sleep(failurePause)
}

func (t *Table) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.closed:
	}
}

// tick does what is due.
func (t *Table) tick(now time.Time) {
	t.mu.Lock()
	t.index.expire(t.since(now))
	t.mu.Unlock()
	if now.Before(t.dumpAt) || t.isClosed() {
		return
	}
	if err := t.resync(); err != nil && !t.isClosed() {
		t.dumpAt = time.Now().Add(overflowPause)
		t.log.Warn("reading the connection tracking table again failed; retrying", zap.Time("at", t.dumpAt), zap.Error(err))
		return
	}
	t.dumpAt = time.Now().Add(t.dumpInterval)
}

// resync makes good for lost events, if there were any, and for untold ends.
func (t *Table) resync() error {
	if t.overflowed {
		t.pausedUntil = time.Now().Add(overflowPause)
		if err := t.source.subscribe(); err != nil {
			return err
		}
	}
	if err := t.dump(); err != nil {
		return err
	}
	t.overflowed = false
	return nil
}

func (t *Table) since(now time.Time) time.Duration { return now.Sub(t.began) }

// apply takes an event in.
func (t *Table) apply(typ netlink.HeaderType, data []byte) {
	e, err := decode(typ, data)
	now := t.since(time.Now())
	t.feed.Lock()
	defer t.feed.Unlock()
	t.events.Add(1)
	switch {
	case err != nil:
		t.undecodable(err)
	case e.kind == begins:
		t.add(&e.connection, now)
	case e.kind == ends:
		t.mu.Lock()
		t.index.remove(&e.connection, now)
		t.mu.Unlock()
	}
}

func (t *Table) add(c *connection, now time.Duration) {
	t.mu.Lock()
	t.index.add(c, now)
	dropped := t.index.dropped
	t.mu.Unlock()
	if dropped != 0 && !t.loggedDrop {
		t.loggedDrop = true
		t.log.Warn("more translated connections than the table has room for; some are not known, see the statistics and raise the limit",
			zap.Int("limit", t.index.max))
	}
}

func (t *Table) undecodable(err error) {
	if t.undecoded.Add(1) == 1 {
		t.log.Warn("a connection tracking message could not be read and is left out; others are counted only", zap.Error(err))
	}
}

// dump reads the kernel's whole table.
func (t *Table) dump() error {
	t.feed.Lock()
	defer t.feed.Unlock()
	if t.isClosed() {
		return errClosed
	}
	silent := t.source.silent()
	if was := t.polling.Swap(silent); silent && !was {
		t.log.Warn("the kernel tells of no connections, so its table is read for every interval; set the sysctl net.netfilter.nf_conntrack_events to 1 to spare that")
	}
	now := t.since(time.Now())
	t.mu.Lock()
	t.index.beginDump()
	t.mu.Unlock()
	err := t.source.dump(func(typ netlink.HeaderType, data []byte) {
		if e, err := decode(typ, data); err != nil {
			t.undecodable(err)
		} else if e.kind != other {
			t.add(&e.connection, now)
		}
	})
	if err != nil {
		t.failedDumps.Add(1)
		return err
	}
	t.dumps.Add(1)
	t.mu.Lock()
	t.index.endDump(now)
	t.index.expire(now)
	t.mu.Unlock()
	return nil
}
