// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package conntrack knows the address translations (NAT) of this network
// namespace, as the kernel's connection tracking tells them. It knows nothing
// of who is behind an address, and never changes what the kernel tracks.
//
// The kernel tells of every new connection and of every end (ctnetlink, groups
// NEW and DESTROY); what a connection is translated to is settled before it is
// told and does not change later. A dump gives those that were there before.
// What has the translation differs by its tuples: the status bits would not do,
// since IPVS sets none (net/netfilter/ipvs/ip_vs_nfct.c).
//
// What it costs the host: while someone listens, the kernel allots each new
// connection some bytes for events and builds two messages in its life. All
// connections are told, not only those that are translated, and each message
// takes this process some 2.5 µs. A socket filter could not spare that: it sees
// no more than the status bits. Messages that find the receive buffer full are
// lost here and delay no packet.
//
// Not known: translations of ICMP errors, which belong to the connection whose
// packet they quote, and those of other namespaces, by eBPF or by a device.
package conntrack // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/conntrack"

import (
	"cmp"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"go.uber.org/zap"
)

// Defaults of Options.
const (
	// DefaultMaxEntries is what the kernel tracks by default on a host with
	// 4 GiB or more (Documentation/networking/nf_conntrack-sysctl.rst).
	DefaultMaxEntries = 262144
	// DefaultKeepGone outlasts the reading of flows that ended.
	DefaultKeepGone = 2 * time.Minute
	// DefaultReceiveBuffer holds some thirteen thousand messages: the kernel
	// doubles it, and counts the room that a message takes.
	DefaultReceiveBuffer = 8 << 20
	// DefaultDumpInterval finds in good time what ended untold.
	DefaultDumpInterval = 10 * time.Minute
)

// Options of a Table. What is zero has its default.
type Options struct {
	Logger *zap.Logger
	// MaxEntries bounds the connections known, those that are gone included.
	// One takes some 330 bytes.
	MaxEntries int
	// KeepGone is how long a connection is found after its end.
	KeepGone time.Duration
	// ReceiveBuffer of the event socket in bytes. It is the kernel's memory,
	// taken only as messages wait.
	ReceiveBuffer int
	// DumpInterval is how often the kernel's table is read anew. Ends of
	// connections that began before Open are not always told: with
	// nf_conntrack_events=2, the default since Linux 5.19, only connections
	// that begin while someone listens have events. A dump takes some 3 µs for
	// each connection of the kernel.
	DumpInterval time.Duration
}

// Translation is what the connection of a packet says of its tuple.
type Translation struct {
	// Other is the tuple of the same packet on the other side of the
	// translation, in the same direction as the one looked up.
	Other Tuple
	// Original is the tuple, in this packet's direction, as the connection's
	// initiator sees it. It equals the one looked up or Other.
	Original Tuple
	// Reply: the packet goes from the responder to the initiator.
	Reply bool
}

// Stats of a Table, since Open where they count.
type Stats struct {
	Entries int // connections that are there
	Gone    int // connections that ended and are still found
	Events  uint64
	// Undecoded events are those that could not be read.
	Undecoded uint64
	// Overflows of the receive buffer, and other failures of the subscription:
	// an unknown number of events was lost. A dump follows.
	Overflows   uint64
	Dumps       uint64
	FailedDumps uint64
	// Dropped connections found no room under MaxEntries.
	Dropped uint64
	// Crowded connections without ports were more than 256 between the same
	// two addresses, which are not found then.
	Crowded uint64
	// Evicted connections were gone, and forgotten before KeepGone to make room.
	Evicted uint64
	// Polling: the kernel sends no events, and only Refresh brings news.
	Polling bool
}

// source is where connections come from: the kernel, or a test.
type source interface {
	// subscribe begins anew: what was received and not read is lost.
	subscribe() error
	// receive waits for messages and gives them out; they are valid during the
	// call. It fails with os.ErrDeadlineExceeded, with unix.ENOBUFS for an
	// overflow, or otherwise.
	receive(each func(netlink.HeaderType, []byte)) error
	setDeadline(time.Time) error
	dump(each func(netlink.HeaderType, []byte)) error
	// silent says that the kernel is set to send no events.
	silent() bool
	// stop makes receive fail, now and ever after.
	stop() error
	// close follows stop, once nothing uses the source any more.
	close() error
}

const (
	// tickInterval is how often gone connections are forgotten.
	tickInterval = 5 * time.Second
	// overflowPause between the dumps for overflows, and between those that
	// failed, keeps a host with more events than can be read from being loaded
	// with dumps as well.
	overflowPause = 10 * time.Second
	// failurePause follows what is no overflow and may fail again at once.
	failurePause = time.Second
)

// Table is what is known. Its methods may be called concurrently.
type Table struct {
	log          *zap.Logger
	source       source
	dumpInterval time.Duration
	began        time.Time

	// feed lets one at a time change the table, or a dump would bring back
	// what an event took out meanwhile.
	feed sync.Mutex
	// mu guards what readers see; it is held for one connection at a time.
	mu    sync.RWMutex
	index *index

	// of run alone
	dumpAt      time.Time // when to dump next
	overflowed  bool      // subscribe anew before that
	pausedUntil time.Time // no dump for an overflow before then

	loggedDrop bool // guarded by feed

	events, undecoded, overflows, dumps, failedDumps atomic.Uint64
	polling                                          atomic.Bool

	closed chan struct{}
	once   sync.Once
	done   sync.WaitGroup
}

// Open reads the table of this network namespace and follows it until Close.
func Open(opts Options) (*Table, error) {
	src, err := openKernel(sysctls, cmp.Or(opts.ReceiveBuffer, DefaultReceiveBuffer))
	if err != nil {
		return nil, err
	}
	t, err := start(src, opts)
	if err != nil {
		return nil, errors.Join(err, src.stop(), src.close())
	}
	return t, nil
}

func newTable(src source, opts Options) *Table {
	return &Table{
		log:          cmp.Or(opts.Logger, zap.NewNop()),
		source:       src,
		dumpInterval: cmp.Or(opts.DumpInterval, DefaultDumpInterval),
		began:        time.Now(),
		index:        newIndex(cmp.Or(opts.MaxEntries, DefaultMaxEntries), cmp.Or(opts.KeepGone, DefaultKeepGone)),
		closed:       make(chan struct{}),
	}
}

func start(src source, opts Options) (*Table, error) {
	t := newTable(src, opts)
	// The subscription first: what begins during the dump is told.
	if err := src.subscribe(); err != nil {
		return nil, err
	}
	if err := t.dump(); err != nil {
		return nil, err
	}
	t.dumpAt = time.Now().Add(t.dumpInterval)
	t.done.Go(t.run)
	return t, nil
}

// Lookup finds the translation of a packet with that tuple. It is false for a
// packet that is not translated, and for one of which it cannot be told because
// several connections claim it.
func (t *Table) Lookup(tuple Tuple) (Translation, bool) {
	k, ok := tuple.key()
	if !ok {
		return Translation{}, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.index.lookup(&k)
}

// Refresh brings the table up to date where events do not (see Stats.Polling),
// which takes the time of a dump. Else it has nothing to do. Call it before the
// lookups for an interval's flows.
func (t *Table) Refresh() error {
	// It may be set while we run, either way.
	if !t.polling.Load() && (t.isClosed() || !t.source.silent()) {
		return nil
	}
	return t.dump()
}

// Stats gives what is counted.
func (t *Table) Stats() Stats {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return Stats{
		Entries:     t.index.live,
		Gone:        t.index.gone,
		Events:      t.events.Load(),
		Undecoded:   t.undecoded.Load(),
		Overflows:   t.overflows.Load(),
		Dumps:       t.dumps.Load(),
		FailedDumps: t.failedDumps.Load(),
		Dropped:     t.index.dropped,
		Crowded:     t.index.crowded,
		Evicted:     t.index.evicted,
		Polling:     t.polling.Load(),
	}
}

// Close ends the subscription. What is known can still be looked up.
func (t *Table) Close() error {
	var err error
	t.once.Do(func() {
		close(t.closed)
		err = t.source.stop()
		t.done.Wait()
		t.feed.Lock() // Refresh may be in a dump
		defer t.feed.Unlock()
		err = errors.Join(err, t.source.close())
	})
	return err
}
