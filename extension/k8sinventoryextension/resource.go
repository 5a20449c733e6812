// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// object is what an informer keeps: what tells one from another, and what the
// inventory has of it.
type object[T any] struct {
	metav1.ObjectMeta
	value T
}

// resource follows the objects of one kind.
type resource struct {
	name     string
	informer cache.SharedIndexInformer
	logger   *zap.Logger
	failed   func() // counts a list or watch that failed

	mu     sync.Mutex // guards what follows
	denied bool       // the API does not allow it
	broken bool       // the API cannot be reached, or answers with an error
	// failure is when a list or a watch failed last.
	failure time.Time
}

// follow makes an informer that keeps of each object what convert gives, and tells
// the inventory of it.
func follow[K interface {
	runtime.Object
	metav1.Object
}, T any](
	name string, logger *zap.Logger, failed func(), lw cache.ListerWatcher, example K,
	convert func(K) T, set func(T), remove func(*object[T]),
) (*resource, error) {
	r := &resource{name: name, logger: logger.With(zap.String("resource", name)), failed: failed}
	r.informer = cache.NewSharedIndexInformer(lw, example, 0, cache.Indexers{})
	err := errors.Join(
		r.informer.SetTransform(func(got any) (any, error) {
			k, ok := got.(K)
			if !ok {
				return got, nil // has been transformed already, or stands for one that is gone
			}
			return &object[T]{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: intern(k.GetNamespace()), Name: k.GetName(), UID: k.GetUID(), ResourceVersion: k.GetResourceVersion(),
				},
				value: convert(k),
			}, nil
		}),
		r.informer.SetWatchErrorHandlerWithContext(r.watchError),
	)
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", name, err)
	}
	_, err = r.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(got any) { set(got.(*object[T]).value) },
		UpdateFunc: func(before, now any) {
			old, fresh := before.(*object[T]), now.(*object[T])
			if old.UID != fresh.UID { // deleted and made anew while nobody watched
				remove(old)
			}
			set(fresh.value)
		},
		DeleteFunc: func(got any) {
			if gone, ok := got.(cache.DeletedFinalStateUnknown); ok {
				got = gone.Obj
			}
			if old, ok := got.(*object[T]); ok {
				remove(old)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", name, err)
	}
	return r, nil
}

// watchError says once what is wrong, and counts. The informer tries again by itself,
// ever more slowly.
func (r *resource) watchError(_ context.Context, _ *cache.Reflector, err error) {
	if errors.Is(err, io.EOF) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return // the server ends watches now and then
	}
	r.failed()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failure = time.Now()
	switch {
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		if !r.denied {
			r.denied = true
			r.logger.Warn("The API does not let this resource be read, so it is left out; grant list and watch of it (see the extension's README)", zap.Error(err))
		}
	case !r.broken:
		r.broken = true
		r.logger.Warn("The API cannot be read; trying again. Records go on without what is not known", zap.Error(err))
	}
}

// state says how far the resource is, and why no further.
func (r *resource) state() (synced bool, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.informer.HasSynced():
		return true, ""
	case r.denied:
		return false, "denied"
	case r.broken:
		return false, "unreachable"
	default:
		return false, "reading"
	}
}

// current says whether what is known is what the API has, as far as can be told.
func (r *resource) current(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.informer.HasSynced() && now.Sub(r.failure) > staleNodes
}

// settled says whether there is nothing more to wait for.
func (r *resource) settled() bool {
	synced, reason := r.state()
	return synced || reason == "denied"
}
