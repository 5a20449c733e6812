// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	ctnetlink "github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// fake is a kernel whose every word the test says.
type fake struct {
	events   chan any // a netlink.Message or an error
	stopped  chan struct{}
	deadline atomic.Pointer[time.Time]

	table        []netlink.Message
	subscribeErr error
	dumpErr      error
	steps        []string
}

func newFake() *fake {
	return &fake{events: make(chan any, 100), stopped: make(chan struct{})}
}

func (f *fake) subscribe() error {
	f.steps = append(f.steps, "subscribe")
	return f.subscribeErr
}

func (f *fake) receive(each func(netlink.HeaderType, []byte)) error {
	timer := time.NewTimer(time.Until(*f.deadline.Load()))
	defer timer.Stop()
	select {
	case <-f.stopped:
		return os.ErrClosed
	case <-timer.C:
		return os.ErrDeadlineExceeded
	case e := <-f.events:
		if err, ok := e.(error); ok {
			return err
		}
		m := e.(netlink.Message)
		each(m.Header.Type, m.Data)
		return nil
	}
}

func (f *fake) setDeadline(t time.Time) error {
	f.deadline.Store(&t)
	return nil
}

func (f *fake) dump(each func(netlink.HeaderType, []byte)) error {
	f.steps = append(f.steps, "dump")
	for _, m := range f.table {
		each(m.Header.Type, m.Data)
	}
	return f.dumpErr
}

func (f *fake) silent() bool { return false }

func (f *fake) stop() error {
	close(f.stopped)
	return nil
}

func (f *fake) close() error { return nil }

// Attributes of ctnetlink: enum ctattr_type and those below it in
// include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	attrTupleOriginal = 1
	attrTupleReply    = 2
	attrStatus        = 3
	attrTimeout       = 7
	attrID            = 12
	attrZone          = 18
)

func tupleAttribute(typ uint16, t Tuple) netfilter.Attribute {
	addressType := uint16(1) // CTA_IP_V4_SRC, then DST and the same for IPv6
	if !t.Source.Is4() {
		addressType = 3
	}
	protocol := []netfilter.Attribute{{Type: 1, Data: []byte{byte(t.Protocol)}}}
	if t.Protocol.IsICMP() {
		typ := byte(8)
		if t.SourcePort == 8 {
			typ = 0
		}
		protocol = append(protocol, netfilter.Attribute{Type: 4, Data: []byte{0, 1}}, // CTA_PROTO_ICMP_ID, _TYPE, _CODE
			netfilter.Attribute{Type: 5, Data: []byte{typ}}, netfilter.Attribute{Type: 6, Data: []byte{0}})
	} else {
		protocol = append(protocol, netfilter.Attribute{Type: 2, Data: netfilter.Uint16Bytes(t.SourcePort)},
			netfilter.Attribute{Type: 3, Data: netfilter.Uint16Bytes(t.DestinationPort)})
	}
	return netfilter.Attribute{Type: typ, Nested: true, Children: []netfilter.Attribute{
		{Type: 1, Nested: true, Children: []netfilter.Attribute{
			{Type: addressType, Data: t.Source.AsSlice()}, {Type: addressType + 1, Data: t.Destination.AsSlice()},
		}},
		{Type: 2, Nested: true, Children: protocol},
	}}
}

type messageKind struct {
	typ   netlink.HeaderType
	flags netlink.HeaderFlags
}

var (
	created   = messageKind{messageNew, netlink.Create | netlink.Excl}
	dumped    = messageKind{messageNew, netlink.Multi}
	destroyed = messageKind{messageDestroy, 0}
)

func message(tb testing.TB, kind messageKind, c *connection, extra ...netfilter.Attribute) netlink.Message {
	tb.Helper()
	attributes := append([]netfilter.Attribute{
		tupleAttribute(attrTupleOriginal, c.original.tuple()),
		tupleAttribute(attrTupleReply, c.reply.tuple()),
		{Type: attrID, Data: netfilter.Uint32Bytes(c.id)},
		{Type: attrTimeout, Data: netfilter.Uint32Bytes(120)},
	}, extra...)
	if c.zone != 0 {
		attributes = append(attributes, netfilter.Attribute{Type: attrZone, Data: netfilter.Uint16Bytes(c.zone)})
	}
	m, err := netfilter.MarshalNetlink(netfilter.Header{
		SubsystemID: netfilter.NFSubsysCTNetlink, MessageType: netfilter.MessageType(kind.typ & 0xff),
		Family: netfilter.ProtoIPv4, Flags: kind.flags,
	}, attributes)
	require.NoError(tb, err)
	return m
}

func status(s ctnetlink.Status) netfilter.Attribute {
	return netfilter.Attribute{Type: attrStatus, Data: netfilter.Uint32Bytes(uint32(s))}
}

func TestDecode(t *testing.T) {
	zoned := conn(7, tcp(client, service), tcp(client, backend))
	zoned.zone = 9
	six := conn(8, tcp("[fd00:1::2]:40000", "[fd00:96::1]:80"), tcp("[fd00:1::2]:40000", "[fd00:2::2]:8080"))
	echo := conn(9, ping("10.1.0.2", "10.96.0.1"), ping("10.1.0.2", "10.2.0.2"))
	for name, tt := range map[string]struct {
		message netlink.Message
		want    event
	}{
		"new":            {message(t, created, zoned), event{begins, *zoned}},
		"dumped":         {message(t, dumped, zoned), event{begins, *zoned}},
		"ended":          {message(t, destroyed, zoned, status(ctnetlink.StatusDying)), event{ends, *zoned}},
		"dumped, ending": {message(t, dumped, zoned, status(ctnetlink.StatusDying)), event{}},
		"ipv6":           {message(t, created, six), event{begins, *six}},
		"echo":           {message(t, created, echo), event{begins, *echo}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decode(tt.message.Header.Type, tt.message.Data)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
	for name, bad := range map[string]netlink.Message{
		"empty":      {},
		"no tuples":  {Header: netlink.Header{Type: messageNew}, Data: make([]byte, 4)},
		"route":      {Header: netlink.Header{Type: 16}, Data: make([]byte, 16)},
		"half tuple": {Header: netlink.Header{Type: messageNew}, Data: message(t, created, zoned).Data[:40]},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decode(bad.Header.Type, bad.Data)
			require.Error(t, err)
		})
	}
}

// What later kernels may say more of is skipped.
func TestDecodeSkipsWhatItDoesNotKnow(t *testing.T) {
	unknown := netfilter.Attribute{Type: 1000, Data: []byte{1, 2, 3}}
	m := message(t, created, fakeConnection, unknown)
	got, err := decode(m.Header.Type, m.Data)
	require.NoError(t, err)
	require.Equal(t, event{begins, *fakeConnection}, got)

	tuple := tupleAttribute(attrTupleOriginal, fakeConnection.original.tuple())
	tuple.Children = append(tuple.Children, unknown)
	tuple.Children[1].Children = append(tuple.Children[1].Children, unknown)
	m = message(t, created, fakeConnection, tuple)
	got, err = decode(m.Header.Type, m.Data)
	require.NoError(t, err)
	require.Equal(t, event{begins, *fakeConnection}, got)
}

// What the library reads of a message is what we do, and whatever comes leaves
// the index whole. The library is stricter.
func FuzzDecode(f *testing.F) {
	for _, c := range []*connection{
		conn(7, tcp(client, service), tcp(client, backend)),
		conn(8, tcp("[fd00:1::2]:40000", "[fd00:96::1]:80"), tcp("[fd00:1::2]:40000", "[fd00:2::2]:8080")),
		conn(9, ping("10.1.0.2", "10.96.0.1"), ping("10.1.0.2", "10.2.0.2")),
	} {
		for _, kind := range []messageKind{created, dumped, destroyed} {
			m := message(f, kind, c, status(ctnetlink.StatusConfirmed))
			f.Add(uint16(m.Header.Type), uint16(m.Header.Flags), m.Data)
		}
	}
	f.Fuzz(func(t *testing.T, typ, flags uint16, data []byte) {
		m := netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.HeaderFlags(flags)}, Data: data}
		e, err := decode(m.Header.Type, m.Data)
		if err != nil {
			require.Zero(t, e)
			return
		}
		requireAgreesWithLibrary(t, m, e)
		if e.kind == other {
			require.Zero(t, e)
			return
		}
		x := newIndex(2, time.Second)
		x.add(&e.connection, 0)
		x.remove(&e.connection, 0)
		check(t, x)
	})
}

// hasLargeTypes says whether there are attributes that the library takes for
// others: it keeps eight bits of their types, which have fourteen.
func hasLargeTypes(data []byte) bool {
	if len(data) < 4 {
		return false
	}
	attributes, err := netlink.NewAttributeDecoder(data[4:]) // behind struct nfgenmsg
	return err != nil || anyLargeType(attributes)
}

func anyLargeType(attributes *netlink.AttributeDecoder) bool {
	for attributes.Next() {
		if attributes.Type() > 0xff {
			return true
		}
		inner, err := netlink.NewAttributeDecoder(attributes.Bytes())
		if err == nil && attributes.TypeFlags()&netlink.Nested != 0 && anyLargeType(inner) {
			return true
		}
	}
	return false
}

func requireAgreesWithLibrary(t *testing.T, m netlink.Message, e event) {
	t.Helper()
	var theirs ctnetlink.Event
	if e.kind == other || hasLargeTypes(m.Data) || theirs.Unmarshal(m) != nil || theirs.Flow == nil {
		return
	}
	require.Equal(t, e.kind == ends, theirs.Type == ctnetlink.EventDestroy)
	for _, one := range []struct {
		ours   key
		theirs ctnetlink.Tuple
	}{{e.connection.original, theirs.Flow.TupleOrig}, {e.connection.reply, theirs.Flow.TupleReply}} {
		ours := one.ours.tuple()
		require.Equal(t, one.theirs.IP.SourceAddress, ours.Source)
		require.Equal(t, one.theirs.IP.DestinationAddress, ours.Destination)
		require.EqualValues(t, one.theirs.Proto.Protocol, ours.Protocol)
		if hasPorts(ours.Protocol) {
			require.Equal(t, one.theirs.Proto.SourcePort, ours.SourcePort)
			require.Equal(t, one.theirs.Proto.DestinationPort, ours.DestinationPort)
		}
		if ours.Protocol.IsICMP() {
			source, destination, ok := icmpPorts(ours.Protocol, uint16(one.theirs.Proto.ICMPType))
			require.True(t, ok)
			require.Equal(t, [2]uint16{source, destination}, [2]uint16{ours.SourcePort, ours.DestinationPort})
		}
	}
	require.Equal(t, theirs.Flow.ID, e.connection.id)
}

func startFake(t *testing.T, f *fake, opts Options) *Table {
	t.Helper()
	table, err := start(f, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, table.Close()) })
	return table
}

var fakeConnection = conn(1, tcp(client, service), tcp(client, backend))

func TestSubscribesBeforeTheDump(t *testing.T) {
	f := newFake()
	f.table = []netlink.Message{message(t, dumped, fakeConnection)}
	// told while the dump went on, read after it
	f.events <- message(t, destroyed, fakeConnection)
	table := startFake(t, f, Options{})
	netnstest.Eventually(t, func() bool { return table.Stats().Gone == 1 }, "end of the connection")
	require.NoError(t, table.Close())
	require.Equal(t, []string{"subscribe", "dump"}, f.steps)
}

func TestOpenFailsWhereTheSourceDoes(t *testing.T) {
	f := newFake()
	f.subscribeErr = errors.New("no groups")
	_, err := start(f, Options{})
	require.ErrorIs(t, err, f.subscribeErr)

	f = newFake()
	f.dumpErr = errors.New("no table")
	_, err = start(f, Options{})
	require.ErrorIs(t, err, f.dumpErr)
}

func TestLostEventsAreMadeGoodByADump(t *testing.T) {
	for name, cause := range map[string]error{
		"overflow":      unix.ENOBUFS,
		"anything else": errors.New("surprise"),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			table := startFake(t, f, Options{})
			second := conn(2, tcp("10.1.0.2:2", service), tcp("10.1.0.2:2", backend))
			f.events <- message(t, created, fakeConnection)
			netnstest.Eventually(t, func() bool { return table.Stats().Entries == 1 }, "new connection")
			f.table = []netlink.Message{message(t, dumped, second)} // read after the event below
			f.events <- cause
			netnstest.Eventually(t, func() bool { return table.Stats().Dumps == 2 }, "dump")
			require.Equal(t, Stats{Entries: 1, Gone: 1, Events: 1, Overflows: 1, Dumps: 2}, table.Stats())
			f.events <- message(t, destroyed, second)
			netnstest.Eventually(t, func() bool { return table.Stats().Gone == 2 }, "end of the connection")
			require.NoError(t, table.Close())
			require.Equal(t, []string{"subscribe", "dump", "subscribe", "dump"}, f.steps)
		})
	}
}

// A host with more events than can be read is not read anew all the time.
func TestOverflowsOneAfterTheOther(t *testing.T) {
	f := newFake()
	table := newTable(f, Options{})
	table.failed(unix.ENOBUFS)
	first := table.dumpAt
	require.WithinDuration(t, time.Now(), first, time.Second)
	table.tick(time.Now())
	require.Equal(t, []string{"subscribe", "dump"}, f.steps)

	table.failed(unix.ENOBUFS)
	due := table.dumpAt
	require.WithinDuration(t, first.Add(overflowPause), due, time.Second)
	table.failed(unix.ENOBUFS) // does not put it off
	require.Equal(t, due, table.dumpAt)
	require.Equal(t, due, table.nextDeadline(due.Add(-time.Second)))
	table.tick(due.Add(-time.Nanosecond))
	require.Len(t, f.steps, 2)
	table.tick(due)
	require.Equal(t, []string{"subscribe", "dump", "subscribe", "dump"}, f.steps)
	require.EqualValues(t, 3, table.Stats().Overflows)

	table.tick(table.dumpAt) // the usual one needs no new subscription
	require.Equal(t, []string{"subscribe", "dump", "subscribe", "dump", "dump"}, f.steps)
}

func TestAFailedDumpIsRepeatedAndEndsNothing(t *testing.T) {
	f := newFake()
	core, logs := observer.New(zap.WarnLevel)
	table := newTable(f, Options{Logger: zap.New(core)})
	f.table = []netlink.Message{message(t, dumped, fakeConnection)}
	require.NoError(t, table.dump())

	f.table, f.dumpErr = nil, errors.New("no table")
	table.tick(time.Now())
	require.Equal(t, Stats{Entries: 1, Dumps: 1, FailedDumps: 1}, table.Stats())
	require.Equal(t, 1, logs.FilterMessageSnippet("failed").Len())
	require.WithinDuration(t, time.Now().Add(overflowPause), table.dumpAt, time.Second)

	f.subscribeErr = errors.New("no groups")
	table.failed(unix.ENOBUFS)
	table.tick(table.dumpAt)
	require.True(t, table.overflowed)
	f.subscribeErr, f.dumpErr = nil, nil
	table.tick(table.dumpAt)
	require.False(t, table.overflowed)
	require.Equal(t, Stats{Gone: 1, Overflows: 1, Dumps: 2, FailedDumps: 1}, table.Stats())
}

func TestWhatCannotBeReadIsLeftOut(t *testing.T) {
	f := newFake()
	core, logs := observer.New(zap.WarnLevel)
	table := startFake(t, f, Options{Logger: zap.New(core)})
	for range 3 {
		f.events <- netlink.Message{Header: netlink.Header{Type: messageNew}, Data: []byte{1}}
	}
	f.events <- message(t, created, fakeConnection)
	netnstest.Eventually(t, func() bool { return table.Stats().Entries == 1 }, "new connection")
	require.Equal(t, Stats{Entries: 1, Events: 4, Undecoded: 3, Dumps: 1}, table.Stats())
	require.Equal(t, 1, logs.Len())
}

func TestAFullTableIsLoggedOnce(t *testing.T) {
	f := newFake()
	core, logs := observer.New(zap.WarnLevel)
	for id := range uint32(4) {
		from := tcp(client, service)
		from.SourcePort += uint16(id)
		to := tcp(client, backend)
		to.SourcePort = from.SourcePort
		f.table = append(f.table, message(t, dumped, conn(id, from, to)))
	}
	table := startFake(t, f, Options{Logger: zap.New(core), MaxEntries: 2})
	require.Equal(t, Stats{Entries: 2, Dropped: 2, Dumps: 1}, table.Stats())
	require.Equal(t, 1, logs.FilterMessageSnippet("room").Len())
}
