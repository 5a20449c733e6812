// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
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
	// handler has synced when the inventory has been told all of the first list; the
	// informer has when it knows it.
	handler cache.ResourceEventHandlerRegistration
	logger  *zap.Logger
	count   func() // of lists and watches that failed

	mu sync.Mutex // guards what follows
	// failing has what fails, until it does so no more.
	failing map[verb]failure
	told    string // the reason that a warning told of
	// failed is when a list or a watch failed last.
	failed time.Time
}

// verb is what is asked of the API.
type verb string

const (
	verbList  verb = "list"
	verbWatch verb = "watch"
)

// Why a resource cannot be read.
const (
	reasonDenied      = "denied"
	reasonUnreachable = "unreachable"
	reasonReading     = "reading" // it can, as far as is known
)

// denialPatience is for how long an API must have denied something to be believed: one
// that has just started denies all, until it has read who may do what.
const denialPatience = 5 * time.Second

type failure struct {
	reason string
	since  time.Time // when the API began to deny it; zero if it does not
}

// failed gives what a failure has become by another one.
func (f failure) failed(err error, now time.Time) failure {
	if !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) {
		return failure{reason: reasonUnreachable}
	}
	if f.since.IsZero() {
		return failure{reason: reasonReading, since: now}
	}
	if now.Sub(f.since) >= denialPatience {
		f.reason = reasonDenied
	}
	return f
}

// follow makes an informer that keeps of each object what convert gives, and tells
// the inventory of it.
func follow[K interface {
	runtime.Object
	metav1.Object
}, T any](
	r *resource, lw cache.ListerWatcher, example K,
	convert func(K) T, set func(T), remove func(*object[T]),
) (*resource, error) {
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
		// what goes wrong has been told already, where the API was asked
		r.informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {}),
	)
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", r.name, err)
	}
	r.handler, err = r.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
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
		return nil, fmt.Errorf("follow %s: %w", r.name, err)
	}
	return r, nil
}

// listed takes how a list went.
func (r *resource) listed(ctx context.Context, err error) {
	r.asked(ctx, err, verbList)
}

// watched takes how the beginning of a watch went.
func (r *resource) watched(ctx context.Context, o metav1.ListOptions, err error) {
	switch all := o.SendInitialEvents != nil && *o.SendInitialEvents; {
	case !all:
		r.asked(ctx, err, verbWatch)
	case err == nil:
		r.asked(ctx, nil, verbList, verbWatch)
	case utilnet.IsConnectionRefused(err) || apierrors.IsTooManyRequests(err):
		r.asked(ctx, err, verbWatch) // the informer tries the same again
	default:
		// the informer lists instead, for the API may be older than such watches
	}
}

// asked says once what is wrong, and when it is so no more. The informer tries again
// by itself, ever more slowly.
func (r *resource) asked(ctx context.Context, err error, verbs ...verb) {
	if ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return // nobody asks any more; or all is to be listed anew, which happens
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.succeeded(verbs)
		return
	}
	r.count()
	r.failed = time.Now()
	for _, v := range verbs {
		r.failing[v] = r.failing[v].failed(err, time.Now())
		r.tell(r.failing[v].reason, err)
	}
}

// tell warns once for each reason.
func (r *resource) tell(reason string, err error) {
	if reason == reasonReading || reason == r.told {
		return
	}
	r.told = reason
	if reason == reasonDenied {
		r.logger.Warn("The API does not let this resource be read, so it is left out; grant list and watch of it (see the extension's README)", zap.Error(err))
		return
	}
	r.logger.Warn("The API cannot be read; trying again. Records go on without what is not known", zap.Error(err))
}

func (r *resource) succeeded(verbs []verb) {
	for _, v := range verbs {
		delete(r.failing, v)
	}
	if r.told != "" && len(r.failing) == 0 {
		r.told = ""
		r.logger.Info("The API can be read now")
	}
}

// state says how far the resource is, and why no further.
func (r *resource) state() (synced bool, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.handler.HasSynced() {
		return true, ""
	}
	reason = reasonReading
	for _, f := range r.failing {
		switch f.reason {
		case reasonDenied:
			return false, reasonDenied
		case reasonUnreachable:
			reason = reasonUnreachable
		}
	}
	return false, reason
}

// current says whether what is known is what the API has, as far as can be told.
func (r *resource) current(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.handler.HasSynced() && now.Sub(r.failed) > staleNodes
}

// settled says whether there is nothing more to wait for.
func (r *resource) settled() bool {
	synced, reason := r.state()
	return synced || reason == reasonDenied
}
