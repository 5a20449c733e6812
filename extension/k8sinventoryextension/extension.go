// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/netprobe-otel/netprobe/extension/k8sinventoryextension/internal/metadata"
	"github.com/netprobe-otel/netprobe/internal/inventory"
)

// How often pods whose grace time is over are looked for, and whether all has been read.
const tidyInterval = time.Second

// k8sInventory is the extension. Others find it by its ID, and use it as an
// inventory.Resolver, an inventory.Catalog or an inventory.FlannelSource.
type k8sInventory struct {
	cfg    *Config
	logger *zap.Logger
	set    component.TelemetrySettings
	store  *inventory.Store
	// connect gives clients of the API, which need not be there yet.
	connect func() (clients, error)

	cancel    context.CancelFunc // nil before the start
	running   sync.WaitGroup
	own       *metadata.TelemetryBuilder
	resources []*resource
	// host is nil where this host's part of flannel's network is not read.
	host *hostWatch
}

var (
	_ extension.Extension = (*k8sInventory)(nil)
	_ inventory.Resolver  = (*k8sInventory)(nil)

	_ inventory.FlannelSource = (*k8sInventory)(nil)
	_ inventory.Catalog       = (*k8sInventory)(nil)
)

func newInventory(set component.TelemetrySettings, cfg *Config) (*k8sInventory, error) {
	e := &k8sInventory{cfg: cfg, logger: set.Logger, set: set, store: inventory.NewStore(cfg.Grace)}
	e.connect = func() (clients, error) {
		api, err := e.restConfig()
		if err != nil {
			return clients{}, err
		}
		return newClients(api)
	}
	if cfg.Flannel.Host == hostAuto && cfg.Node != "" {
		e.host = newHostWatch(cfg, set.Logger, e.store, e.nodesCurrent)
	}
	return e, nil
}

// Start begins to read, and does not wait for it: without an API there is nothing
// known until there is one.
func (e *k8sInventory) Start(context.Context, component.Host) error {
	api, err := e.connect()
	if err != nil {
		return err
	}
	if e.own, err = metadata.NewTelemetryBuilder(e.set); err != nil {
		return err
	}
	if e.resources, err = e.followAll(api); err != nil {
		return err
	}
	if err := e.observe(); err != nil {
		return err
	}
	// not the context of Start, which ends with it
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	for _, r := range e.resources {
		e.running.Go(func() { r.informer.RunWithContext(ctx) })
	}
	e.running.Go(func() { e.tidy(ctx) })
	if e.host != nil {
		e.running.Go(func() { e.host.run(ctx) })
	}
	return nil
}

// restConfig says how to reach the API.
func (e *k8sInventory) restConfig() (*rest.Config, error) {
	var cfg *rest.Config
	var err error
	if e.cfg.Kubeconfig == "" {
		cfg, err = rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, fmt.Errorf("find the Kubernetes API: %w; outside of a pod name a file in the option kubeconfig", err)
		}
	} else {
		cfg, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			&clientcmd.ClientConfigLoadingRules{ExplicitPath: e.cfg.Kubeconfig},
			&clientcmd.ConfigOverrides{CurrentContext: e.cfg.Context}).ClientConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("find the Kubernetes API: %w", err)
	}
	cfg.UserAgent = "netprobe-k8s-inventory"
	return cfg, nil
}

// tidy forgets pods whose grace time is over, and says once that all has been read.
func (e *k8sInventory) tidy(ctx context.Context) {
	ticker := time.NewTicker(tidyInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			e.store.Expire(now)
			if !e.store.Ready() && e.settled() {
				sizes := e.store.Sizes()
				e.logger.Info("Read what the cluster has", zap.Int("pods", sizes.Pods), zap.Int("nodes", sizes.Nodes),
					zap.Int("services", sizes.Services), zap.Int("endpoint_slices", sizes.Endpoints))
				e.store.SetReady(true)
			}
		}
	}
}

// nodesCurrent says whether the nodes that are known are those that the API has.
func (e *k8sInventory) nodesCurrent(now time.Time) bool {
	for _, r := range e.resources {
		if r.name == nodes {
			return r.current(now)
		}
	}
	return false
}

func (e *k8sInventory) settled() bool {
	for _, r := range e.resources {
		if !r.settled() {
			return false
		}
	}
	return true
}

// observe registers what the extension tells of itself.
func (e *k8sInventory) observe() error {
	return errors.Join(
		e.own.RegisterExtensionK8sInventoryObjectsCallback(func(_ context.Context, o metric.Int64Observer) error {
			sizes := e.store.Sizes()
			for resource, n := range map[string]int{
				"pods": sizes.Pods, "nodes": sizes.Nodes, "services": sizes.Services, "endpointslices": sizes.Endpoints, "owners": sizes.Owners,
			} {
				o.Observe(int64(n), metric.WithAttributes(attribute.String("resource", resource)))
			}
			return nil
		}),
		e.own.RegisterExtensionK8sInventorySyncedCallback(func(_ context.Context, o metric.Int64Observer) error {
			for _, r := range e.resources {
				synced, reason := r.state()
				var value int64
				if synced {
					value = 1
				}
				o.Observe(value, metric.WithAttributes(attribute.String("resource", r.name), attribute.String("reason", reason)))
			}
			return nil
		}),
		e.own.RegisterExtensionK8sInventoryFlannelDifferencesCallback(e.host.observe),
	)
}

// Shutdown ends the reading.
func (e *k8sInventory) Shutdown(context.Context) error {
	if e.cancel == nil {
		return nil
	}
	e.cancel()
	e.running.Wait()
	e.cancel = nil
	e.own.Shutdown()
	return nil
}

// Resolve implements inventory.Resolver.
func (e *k8sInventory) Resolve(q *inventory.Query, end *inventory.End) bool {
	return e.store.Resolve(q, end)
}

// NodeByTunnelEnd implements inventory.Resolver.
func (e *k8sInventory) NodeByTunnelEnd(addr netip.Addr) *inventory.Node {
	return e.store.NodeByTunnelEnd(addr)
}

// Ready implements inventory.Resolver.
func (e *k8sInventory) Ready() bool { return e.store.Ready() }

// Nodes implements inventory.Catalog.
func (e *k8sInventory) Nodes() []*inventory.Node { return e.store.Nodes() }

// Pods implements inventory.Catalog.
func (e *k8sInventory) Pods() []inventory.ManagedPod { return e.store.Pods() }

// Services implements inventory.Catalog.
func (e *k8sInventory) Services() []*inventory.Service { return e.store.Services() }
