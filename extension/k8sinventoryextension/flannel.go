// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/flannel"
	"github.com/netprobe-otel/netprobe/internal/inventory"
)

const (
	// settleTime is for how long a difference must be there before it is one: flannel
	// hears of a node's changes when this extension does, and then takes a moment.
	settleTime = 10 * time.Second
	// changeDelay is how long after the host's first change it is read: more follow.
	changeDelay = 5 * time.Second
	// staleNodes is for how long after a failure to watch nodes they may not be those
	// that there are. The informer tries again more often than that.
	staleNodes = 2 * time.Minute
	// formerNodes is how many nodes that are gone are remembered.
	formerNodes = 1000
	// warningsAtOnce is how many differences of a kind one reading names.
	warningsAtOnce = 10
)

// changes is what tells that the host has changed.
type changes interface {
	Changes() <-chan struct{}
	Ended() <-chan struct{}
	Close()
}

// hostWatch reads what this host shows of flannel's network, and tells where that is not
// what the node's annotations say.
type hostWatch struct {
	node     string
	port     uint16
	interval time.Duration
	logger   *zap.Logger
	store    *inventory.Store
	// current says whether the store's nodes are those of the API.
	current func(now time.Time) bool
	read    func(flannel.Keep) (*flannel.Host, error)
	watch   func() (changes, error)
	settle  time.Duration
	delay   time.Duration

	// announced are the nodes as they were told last, for the goroutine that is told of
	// them; news has something in it after what flannel says of one has changed.
	announced map[string]*inventory.Node
	news      chan struct{}

	// for the goroutine that reads
	tracker *flannel.Tracker
	nodes   map[string]*inventory.Node // of the reading before
	former  []*inventory.Node
	said    string // what was said last of why there is no reading

	mu   sync.Mutex // guards view
	view inventory.FlannelView
}

func newHostWatch(cfg *Config, logger *zap.Logger, store *inventory.Store, current func(time.Time) bool) *hostWatch {
	return &hostWatch{
		node: cfg.Node, port: uint16(cfg.Flannel.Port), interval: cfg.Flannel.Interval, logger: logger, store: store, current: current,
		read:   flannel.Read,
		watch:  func() (changes, error) { return flannel.Watch() },
		settle: settleTime, delay: changeDelay,
		announced: map[string]*inventory.Node{}, news: make(chan struct{}, 1),
	}
}

// nodeSet hears of a node. Only what flannel makes something of is news.
func (w *hostWatch) nodeSet(n *inventory.Node) {
	if w == nil {
		return
	}
	old, ok := w.announced[n.Name]
	w.announced[n.Name] = n
	if !ok || !slices.Equal(old.PodCIDRs, n.PodCIDRs) || !reflect.DeepEqual(old.Flannel, n.Flannel) {
		w.hasNews()
	}
}

// nodeGone hears that there is a node no more.
func (w *hostWatch) nodeGone(name string) {
	if w == nil {
		return
	}
	delete(w.announced, name)
	w.hasNews()
}

func (w *hostWatch) hasNews() {
	select {
	case w.news <- struct{}{}:
	default: // it is known already
	}
}

// run reads again and again, and soon after changes of the host or the nodes.
func (w *hostWatch) run(ctx context.Context) {
	w.tracker = flannel.NewTracker(w.settle)
	due := time.NewTimer(0)
	defer due.Stop()
	next := time.Now()
	at := func(t time.Time) { next = t; due.Reset(time.Until(t)) }
	sooner := func(wait time.Duration) {
		if soon := time.Now().Add(wait); soon.Before(next) {
			at(soon)
		}
	}
	var heard changes
	defer func() { closeChanges(heard) }()
	for {
		changed, ended := channelsOf(heard)
		select {
		case <-ctx.Done():
			return
		case <-changed:
			sooner(w.delay)
		case <-w.news:
			sooner(w.delay)
		case <-ended: // what was missed is read, after the next subscription
			closeChanges(heard)
			heard = nil
			sooner(w.delay)
		case now := <-due.C:
			if heard == nil {
				heard = w.subscribe()
			}
			wait := w.interval
			if w.look(now) {
				wait = min(wait, w.settle)
			}
			at(now.Add(wait))
		}
	}
}

func closeChanges(c changes) {
	if c != nil {
		c.Close()
	}
}

// channelsOf gives nil ones, on which nothing comes, for nil.
func channelsOf(c changes) (changed, ended <-chan struct{}) {
	if c == nil {
		return nil, nil
	}
	return c.Changes(), c.Ended()
}

// look reads once, and says whether something must be read again soon.
func (w *hostWatch) look(now time.Time) (pending bool) {
	if !w.current(now) {
		return true // what is known stays
	}
	nodes := w.store.Nodes()
	w.remember(nodes)
	own := w.nodes[w.node]
	switch {
	case own == nil:
		w.without("The node that the option node names is not in the cluster: this host's part of flannel's network is not compared")
		return false
	case own.Flannel == nil:
		w.without("")
		return false
	}
	host, err := w.read(flannel.KeepFor(nodes))
	switch {
	case err != nil:
		w.without("This host's part of flannel's network cannot be read, and is not compared", zap.Error(err))
		return false
	case !host.IsNodes(own):
		w.without("None of the node's addresses is here: this is not the network namespace of its host, and flannel's network is not compared. Run the collector in the host's network (hostNetwork), or set flannel::host to off")
		return false
	}
	w.said = ""
	return w.tell(now, flannel.Reconcile(flannel.Input{Own: own, Nodes: nodes, Former: w.former, Host: host, Port: w.port}))
}

// subscribe gives nil where that is not possible: there is the interval, too.
func (w *hostWatch) subscribe() changes {
	heard, err := w.watch()
	if err != nil {
		w.logger.Debug("Changes of this host's part of flannel's network are seen at the interval only", zap.Error(err))
		return nil
	}
	return heard
}

// without says once why there is no reading, if there is something to say.
func (w *hostWatch) without(why string, fields ...zap.Field) {
	if why != w.said && why != "" {
		w.logger.Warn(why, append(fields, zap.String("node", w.node))...)
	}
	w.said = why
	w.tracker = flannel.NewTracker(w.settle)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = inventory.FlannelView{}
}

// remember keeps the nodes that are gone.
func (w *hostWatch) remember(nodes []*inventory.Node) {
	before := w.nodes
	w.nodes = make(map[string]*inventory.Node, len(nodes))
	for _, n := range nodes {
		w.nodes[n.Name] = n
	}
	for name, n := range before {
		if w.nodes[name] == nil {
			w.former = append(w.former, n)
		}
	}
	w.former = slices.DeleteFunc(w.former, func(n *inventory.Node) bool { return w.nodes[n.Name] != nil })
	w.former = slices.Delete(w.former, 0, max(0, len(w.former)-formerNodes))
}

// tell takes a reading, and says what is new.
func (w *hostWatch) tell(now time.Time, result flannel.Result) (pending bool) {
	c := w.tracker.Update(now, result.Differences)
	w.mu.Lock()
	w.view = inventory.FlannelView{
		Host: w.node, Read: now, Devices: result.Devices, FDB: result.FDB, Neighbours: result.Neighbours, Routes: result.Routes, Differences: c.Lasting,
	}
	w.mu.Unlock()

	byKind := map[string]int{}
	for _, d := range c.Appeared {
		if byKind[d.Kind]++; byKind[d.Kind] <= warningsAtOnce {
			w.logger.Warn("This host's part of flannel's network is not what annotations say", append(fieldsOf(&d), zap.String("host", d.Host), zap.String("what_to_do", flannel.Kinds[d.Kind]))...)
		}
	}
	for kind, n := range byKind {
		if n > warningsAtOnce {
			w.logger.Warn("More of this host's part of flannel's network is not what annotations say", zap.String("kind", kind), zap.Int("more", n-warningsAtOnce))
		}
	}
	clear(byKind)
	for _, d := range c.Gone {
		if byKind[d.Kind]++; byKind[d.Kind] <= warningsAtOnce {
			w.logger.Info("This host's part of flannel's network is what annotations say again", append(fieldsOf(&d), zap.String("host_was", d.Host))...)
		}
	}
	for kind, n := range byKind {
		if n > warningsAtOnce {
			w.logger.Info("More of this host's part of flannel's network is what annotations say again", zap.String("kind", kind), zap.Int("more", n-warningsAtOnce))
		}
	}
	return c.Pending
}

func fieldsOf(d *inventory.FlannelDifference) []zap.Field {
	return []zap.Field{
		zap.String("kind", d.Kind), zap.String("node", d.Node), zap.String("subject", d.Subject), zap.String("annotation", d.Annotation),
	}
}

// last gives what was read last.
func (w *hostWatch) last() inventory.FlannelView {
	if w == nil {
		return inventory.FlannelView{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

// observe counts differences by kind, once there was a reading.
func (w *hostWatch) observe(_ context.Context, o metric.Int64Observer) error {
	view := w.last()
	if view.Host == "" {
		return nil
	}
	count := map[string]int64{}
	for i := range view.Differences {
		count[view.Differences[i].Kind]++
	}
	for kind := range flannel.Kinds {
		o.Observe(count[kind], metric.WithAttributes(attribute.String("kind", kind)))
	}
	return nil
}

// Flannel implements inventory.FlannelSource.
func (e *k8sInventory) Flannel() inventory.FlannelView {
	view := e.host.last()
	view.Nodes = slices.DeleteFunc(e.store.Nodes(), func(n *inventory.Node) bool { return n.Flannel == nil })
	return view
}
