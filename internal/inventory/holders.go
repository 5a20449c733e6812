// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"slices"
	"time"
)

// holding is that a pod has, or had, an address or a port.
type holding struct {
	pod *Pod
	// after is when those who had it before had it no more, in nanoseconds of Unix time.
	// It is left of them when they are forgotten.
	after int64
}

// Values of after where there is no such time.
const (
	// nobodyBefore: nobody is known to have had it before.
	nobodyBefore = 0
	// stillKnown: who had it before is in the same list.
	stillKnown = 1
)

// hold notes that a pod has what the key says. It takes the place of what it was before.
func hold[K comparable](in map[K][]holding, key K, p, old *Pod) {
	list := in[key]
	for i := range list {
		if list[i].pod == p {
			return // which may name a port twice
		}
		if list[i].pod == old {
			list[i].pod = p
			return
		}
	}
	after := int64(nobodyBefore)
	if len(list) > 0 {
		after = stillKnown
	}
	in[key] = append(list, holding{pod: p, after: after})
}

// release forgets that, if nothing has come into its place.
func release[K comparable](in map[K][]holding, key K, p *Pod) {
	list := in[key]
	at := slices.IndexFunc(list, func(h holding) bool { return h.pod == p })
	if at < 0 {
		return
	}
	list = slices.Delete(list, at, at+1)
	if len(list) == 0 {
		delete(in, key)
		return
	}
	for i := range list {
		if h := &list[i]; !p.Until.IsZero() && !h.pod.From.Before(p.From) {
			h.after = max(h.after, p.Until.UnixNano())
		}
	}
	in[key] = list
}

// The API tells times in whole seconds, cut, by its own clock or a node's.
const (
	// untilSlack is how much later than Until an end may have been.
	untilSlack = time.Second
	// fromSlack is how much earlier than From a beginning may have been, where nobody
	// else can have sent.
	fromSlack = 30 * time.Second
)

// holderAt gives the pod that had what several had in turn while packets were seen.
// Nil where nobody had it, or two may have.
func holderAt(list []holding, first, last time.Time) *Pod {
	var found *Pod
	for _, h := range list {
		p := h.pod
		if !p.Until.IsZero() && !p.Until.Add(untilSlack).After(first) {
			continue // it had ended
		}
		if h.after > first.Add(-untilSlack).UnixNano() {
			continue // another may have had it, who is forgotten
		}
		from := p.From
		if h.after == nobodyBefore && len(list) == 1 {
			from = from.Add(-fromSlack)
		}
		if from.After(last) {
			continue // another had it before, or nobody
		}
		if found != nil {
			return nil
		}
		found = p
	}
	return found
}

// holders has who holds a key. There may be several: services share an address, and a
// node that is gone stays in the API for a while beside the one with its address.
type holders[K comparable, V any] map[K][]*V

// put adds who came last, or puts it into the place of what it was before.
func (h holders[K, V]) put(key K, v, old *V) {
	list := h[key]
	if slices.Contains(list, v) {
		return
	}
	if at := slices.Index(list, old); at >= 0 {
		list[at] = v
		return
	}
	h[key] = append(list, v)
}

// drop forgets one.
func (h holders[K, V]) drop(key K, v *V) {
	list := slices.DeleteFunc(h[key], func(have *V) bool { return have == v })
	if len(list) == 0 {
		delete(h, key)
		return
	}
	h[key] = list
}

// get gives who came last, nil for nobody.
func (h holders[K, V]) get(key K) *V {
	list := h[key]
	if len(list) == 0 {
		return nil
	}
	return list[len(list)-1]
}
