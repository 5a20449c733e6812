// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/netprobe-otel/netprobe/extension/topologyextension/internal/metadata"
	"github.com/netprobe-otel/netprobe/internal/inventory"
	"github.com/netprobe-otel/netprobe/internal/topology"
)

// topologyExtension has the graph. Exporters find it by its ID, as a topology.Sink.
type topologyExtension struct {
	*topology.Graph
	cfg *Config
	set extension.Settings

	own     *metadata.TelemetryBuilder // nil before the start
	server  *http.Server
	address net.Addr
	store   storage.Client // nil for none
	cancel  context.CancelFunc
	running sync.WaitGroup
	// stopping is closed, once, when streams are to end.
	stopping chan struct{}
	stop     sync.Once
	streams  chan struct{} // has a place for each client
	answers  answers

	// What is nil is not there.
	resolver inventory.Resolver
	catalog  inventory.Catalog
	flannel  inventory.FlannelSource
}

var (
	_ extension.Extension             = (*topologyExtension)(nil)
	_ extensioncapabilities.Dependent = (*topologyExtension)(nil)
	_ topology.Sink                   = (*topologyExtension)(nil)
)

func newExtension(set extension.Settings, cfg *Config) (*topologyExtension, error) {
	return &topologyExtension{
		Graph: topology.New(cfg.options()), cfg: cfg, set: set,
		streams: make(chan struct{}, cfg.Stream.MaxClients), stopping: make(chan struct{}), answers: answers{all: map[string]*answered{}},
	}, nil
}

// Dependencies are started before.
func (e *topologyExtension) Dependencies() (ids []component.ID) {
	for _, id := range []*component.ID{e.cfg.Inventory, e.cfg.Storage} {
		if id != nil {
			ids = append(ids, *id)
		}
	}
	return ids
}

// Start serves, and reads history first. History that cannot be read is said, and is no
// reason not to start.
func (e *topologyExtension) Start(ctx context.Context, host component.Host) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Shutdown(ctx))
		}
	}()
	if e.own, err = metadata.NewTelemetryBuilder(e.set.TelemetrySettings); err != nil {
		return err
	}
	if err := e.observe(); err != nil {
		return err
	}
	if err := e.findInventory(host); err != nil {
		return err
	}
	if err := e.openStorage(ctx, host); err != nil {
		return err
	}
	if err := e.serve(ctx, host); err != nil {
		return err
	}
	// not the context of Start, which ends with it
	running, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	e.running.Go(func() {
		e.Run(running, e.cfg.History.FlushInterval, func(err error) {
			e.own.ExtensionTopologyHistoryErrors.Add(running, 1)
			e.set.Logger.Error("History is not stored; trying again with the next", zap.Error(err))
		})
	})
	return nil
}

func (e *topologyExtension) findInventory(host component.Host) error {
	if e.cfg.Inventory == nil {
		return nil
	}
	ext, ok := host.GetExtensions()[*e.cfg.Inventory]
	if !ok {
		return fmt.Errorf("inventory: there is no extension %q; configure one of type k8s_inventory and name it under service::extensions", *e.cfg.Inventory)
	}
	if e.resolver, ok = ext.(inventory.Resolver); !ok {
		return fmt.Errorf("inventory: the extension %q does not know who has an address; name one of type k8s_inventory", *e.cfg.Inventory)
	}
	e.catalog, _ = ext.(inventory.Catalog)
	e.flannel, _ = ext.(inventory.FlannelSource)
	return nil
}

func (e *topologyExtension) openStorage(ctx context.Context, host component.Host) error {
	if e.cfg.Storage == nil {
		return nil
	}
	ext, ok := host.GetExtensions()[*e.cfg.Storage]
	if !ok {
		return fmt.Errorf("storage: there is no extension %q; configure one, as file_storage, and name it under service::extensions", *e.cfg.Storage)
	}
	keeper, ok := ext.(storage.Extension)
	if !ok {
		return fmt.Errorf("storage: the extension %q stores nothing; name one that does, as file_storage", *e.cfg.Storage)
	}
	client, err := keeper.GetClient(ctx, component.KindExtension, e.set.ID, "history")
	if err != nil {
		return fmt.Errorf("storage: open %q: %w", *e.cfg.Storage, err)
	}
	e.store = client
	if err := e.Keep(ctx, keptIn{client}); err != nil {
		e.own.ExtensionTopologyHistoryErrors.Add(ctx, 1)
		e.set.Logger.Error("Not all of history could be read; going on without the rest", zap.Error(err))
	}
	return nil
}

// keptIn is a store of history.
type keptIn struct{ client storage.Client }

func (k keptIn) Get(ctx context.Context, key string) ([]byte, error) { return k.client.Get(ctx, key) }

func (k keptIn) Apply(ctx context.Context, changes map[string][]byte) error {
	ops := make([]*storage.Operation, 0, len(changes))
	for key, value := range changes {
		if value == nil {
			ops = append(ops, storage.DeleteOperation(key))
		} else {
			ops = append(ops, storage.SetOperation(key, value))
		}
	}
	return k.client.Batch(ctx, ops...)
}

func (e *topologyExtension) serve(ctx context.Context, host component.Host) error {
	listener, err := e.cfg.ServerConfig.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("endpoint: listen on %s: %w", e.cfg.ServerConfig.NetAddr.Endpoint, err)
	}
	e.address = listener.Addr()
	e.server, err = e.cfg.ServerConfig.ToServer(ctx, host.GetExtensions(), e.set.TelemetrySettings, e.handler(), serverOptions()...)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	e.server.Handler = e.outermost(e.server.Handler)
	e.server.MaxHeaderBytes = maxHeaderBytes
	server := e.server
	e.running.Go(func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(err))
		}
	})
	e.set.Logger.Info("Serving the topology", zap.Stringer("address", e.address))
	return nil
}

// observe registers what the extension tells of itself.
func (e *topologyExtension) observe() error {
	gauge := func(value func(topology.Status) int64) metric.Int64Callback {
		return func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(value(e.Status()))
			return nil
		}
	}
	labelled := func(label string, values func(topology.Status) map[string]int64) metric.Int64Callback {
		return func(_ context.Context, o metric.Int64Observer) error {
			for name, value := range values(e.Status()) {
				o.Observe(value, metric.WithAttributes(attribute.String(label, name)))
			}
			return nil
		}
	}
	return errors.Join(
		e.own.RegisterExtensionTopologyVerticesCallback(gauge(func(s topology.Status) int64 { return int64(s.Vertices) })),
		e.own.RegisterExtensionTopologyEdgesCallback(gauge(func(s topology.Status) int64 { return int64(s.Edges) })),
		e.own.RegisterExtensionTopologyHistorySizeCallback(gauge(func(s topology.Status) int64 { return s.HistoryBytes })),
		e.own.RegisterExtensionTopologyStreamClientsCallback(gauge(func(topology.Status) int64 { return int64(len(e.streams)) })),
		e.own.RegisterExtensionTopologyFoldedCallback(labelled("kind", func(s topology.Status) map[string]int64 {
			return map[string]int64{"vertices": s.Folded.Vertices, "edges": s.Folded.Edges}
		})),
		e.own.RegisterExtensionTopologyFlowRecordsCallback(labelled("outcome", func(s topology.Status) map[string]int64 {
			return map[string]int64{"counted": s.Received - s.LeftOut, "left_out": s.LeftOut, "invalid": s.Invalid}
		})),
	)
}

// Shutdown ends streams, answers what has been asked, and stores what there is.
func (e *topologyExtension) Shutdown(ctx context.Context) error {
	var errs []error
	e.stop.Do(func() { close(e.stopping) })
	if e.server != nil {
		errs = append(errs, e.server.Shutdown(ctx))
		e.server = nil
	}
	if e.cancel != nil {
		e.cancel()
		e.cancel = nil
	}
	e.running.Wait()
	if e.store != nil {
		errs = append(errs, e.store.Close(ctx))
		e.store = nil
	}
	if e.own != nil {
		e.own.Shutdown()
		e.own = nil
	}
	return errors.Join(errs...)
}
