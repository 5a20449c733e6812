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
	// fromCut is how much later than From a beginning may have been.
	fromCut = time.Second
	// lingering is for how long after its last container a pod's network may be there yet:
	// until then what others send to its address is not for the next pod.
	lingering = 5 * time.Second
	// readyLag is how long before From a pod's network may have been there: the kubelet looks
	// every second.
	readyLag = 2 * time.Second
)

// holderAt gives the pod that had what several had in turn while packets were seen.
// Nil where nobody had it, or two may have.
func holderAt(list []holding, first, last time.Time) *Pod {
	var found *Pod
	for i, h := range list {
		p := h.pod
		if !p.Until.IsZero() && !endOf(list, i).After(first) {
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
		if found != nil || first.Before(p.From.Add(fromCut)) && followsClosely(list, i) {
			return nil
		}
		found = p
	}
	return found
}

// endOf gives from when on what begins is not of a pod that has ended.
func endOf(list []holding, i int) time.Time {
	ended := list[i].pod
	end := ended.Until.Add(untilSlack)
	for j := range list {
		next := list[j].pod
		if j != i && !next.From.Before(ended.From) && lingers(ended.Until, next) {
			if ready := next.From.Add(-readyLag); ready.Before(end) {
				end = ready
			}
		}
	}
	if end.Before(ended.Until) {
		end = ended.Until
	}
	return end
}

// followsClosely says whether the network of who had it before a pod may have been there
// until the pod's own was.
func followsClosely(list []holding, i int) bool {
	p := list[i].pod
	if list[i].after > stillKnown && lingers(time.Unix(0, list[i].after), p) {
		return true
	}
	for j := range list {
		before := list[j].pod
		if j != i && !before.From.After(p.From) && !before.Until.IsZero() && lingers(before.Until, p) {
			return true
		}
	}
	return false
}

// lingers says whether the network of a pod that has ended may have been there until the
// next one's was.
func lingers(until time.Time, next *Pod) bool { return next.From.Sub(until) < lingering }

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
