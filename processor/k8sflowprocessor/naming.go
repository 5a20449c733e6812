// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sflowprocessor

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/ends"
	"github.com/netprobe-otel/netprobe/processor/k8sflowprocessor/internal/metadata"
)

// naming is what logs and metrics have in common.
type naming struct {
	cfg      *Config
	logger   *zap.Logger
	own      *metadata.TelemetryBuilder
	resolver inventory.Resolver
	results  [results]metric.MeasurementOption
	workers  sync.Pool // of *worker
	checked  sync.Once // whether the cluster has the node
}

// worker names the flows of a batch.
type worker struct {
	ends.Namer
	seen  seen
	names ends.Names
	// counts of this batch
	results [results]int64
}

func newNaming(set component.TelemetrySettings, cfg *Config, signal string) (*naming, error) {
	own, err := metadata.NewTelemetryBuilder(set)
	if err != nil {
		return nil, err
	}
	n := &naming{cfg: cfg, logger: set.Logger, own: own}
	for r := range n.results {
		n.results[r] = metric.WithAttributeSet(attribute.NewSet(attribute.String("signal", signal), attribute.String("result", result(r).String())))
	}
	return n, nil
}

// find finds the inventory, and waits for it to be complete if it is to.
func (n *naming) find(ctx context.Context, host component.Host) error {
	ext, ok := host.GetExtensions()[n.cfg.Inventory]
	if !ok {
		return fmt.Errorf("inventory: there is no extension %q; configure one of type k8s_inventory and name it under service::extensions", n.cfg.Inventory)
	}
	if n.resolver, ok = ext.(inventory.Resolver); !ok {
		return fmt.Errorf("inventory: the extension %q does not know who has an address; name one of type k8s_inventory", n.cfg.Inventory)
	}
	n.workers.New = func() any { return &worker{Namer: ends.Namer{Resolver: n.resolver}} }
	return n.wait(ctx)
}

// pollInterval is how often the start asks whether the inventory is complete.
const pollInterval = 20 * time.Millisecond

// waits are when it was first waited for an inventory.
var waits sync.Map // of time.Time, by inventory.Resolver

func (n *naming) wait(ctx context.Context) error {
	if n.cfg.WaitTimeout == 0 || n.resolver.Ready() {
		return nil
	}
	// pipelines start one after the other, and have one wait between them
	began, _ := waits.LoadOrStore(n.resolver, time.Now())
	ctx, cancel := context.WithDeadline(ctx, began.(time.Time).Add(n.cfg.WaitTimeout))
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for !n.resolver.Ready() {
		select {
		case <-ctx.Done():
			n.logger.Warn("The inventory is not complete; going on, with ends that have no names until it is",
				zap.Stringer("inventory", n.cfg.Inventory), zap.Duration("waited", n.cfg.WaitTimeout))
			return nil
		case <-ticker.C:
		}
	}
	return nil
}

func (n *naming) begin() *worker {
	w := n.workers.Get().(*worker)
	w.Incomplete = !n.resolver.Ready()
	w.results = [results]int64{}
	if !w.Incomplete {
		n.checked.Do(n.checkNode)
	}
	return w
}

// checkNode says where the cluster has no node of the name that these flows are said to be
// of: each is left then to nodes that do not see it.
func (n *naming) checkNode() {
	catalog, ok := n.resolver.(inventory.Catalog)
	if !ok || n.cfg.Node == "" {
		return
	}
	if !slices.ContainsFunc(catalog.Nodes(), func(node *inventory.Node) bool { return node.Name == n.cfg.Node }) {
		n.logger.Warn("The cluster has no node of the name in the option node, so flows may be counted by two nodes or by none; give the pod's spec.nodeName",
			zap.String("node", n.cfg.Node))
	}
}

func (n *naming) end(ctx context.Context, w *worker) {
	for r, count := range w.results {
		if count > 0 {
			n.own.ProcessorK8sFlowEnds.Add(ctx, count, n.results[r])
		}
	}
	n.workers.Put(w)
}

// name finds who is at the ends that attributes tell of, which are of packets from a
// time up to another. False if they tell of none.
func (w *worker) name(attrs pcommon.Map, first, last time.Time) bool {
	w.seen.read(attrs)
	if !w.seen.hasEnds {
		return false
	}
	if w.seen.First.IsZero() {
		w.seen.First = first
	}
	w.seen.Last = last
	w.Name(&w.seen.Flow, &w.names)
	w.results[resultOf(&w.names.Source)]++
	w.results[resultOf(&w.names.Destination)]++
	return true
}

// nodeOf is the node that reported what has a resource.
func (n *naming) nodeOf(resource pcommon.Resource) string {
	if node, ok := resource.Attributes().Get(netattr.K8sNodeName); ok {
		return node.Str()
	}
	return n.cfg.Node
}
