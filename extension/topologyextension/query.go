// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/netprobe-otel/netprobe/internal/topology"
)

// apiError is an answer that says what is wrong with a request.
type apiError struct {
	Code      int    `json:"code"`
	Message   string `json:"message"`
	Parameter string `json:"parameter,omitempty"`
}

func (e *apiError) Error() string { return e.Message }

func notFound(format string, args ...any) *apiError {
	return &apiError{Code: http.StatusNotFound, Message: fmt.Sprintf(format, args...)}
}

// query reads the parameters of a request, and keeps the first that is wrong.
type query struct {
	values url.Values
	now    time.Time
	err    *apiError
}

// maxValue is the longest value of a parameter.
const maxValue = 512

// newQuery checks that there are only parameters that the path has, each once.
func newQuery(raw string, allowed []string, now time.Time) *query {
	q := &query{now: now}
	values, err := url.ParseQuery(raw)
	if err != nil {
		q.err = &apiError{Code: http.StatusBadRequest, Message: "the query cannot be read: " + err.Error()}
		return q
	}
	q.values = values
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch got := values[name]; {
		case !slices.Contains(allowed, name):
			if len(allowed) == 0 {
				q.fail(name, "there are no parameters here")
			} else {
				q.fail(name, "there is no such parameter here; there are %s", strings.Join(allowed, ", "))
			}
		case len(got) > 1:
			q.fail(name, "it is given %d times", len(got))
		case len(got[0]) > maxValue:
			q.fail(name, "it is longer than %d bytes", maxValue)
		case !utf8.ValidString(got[0]):
			q.fail(name, "it is no UTF-8")
		}
	}
	return q
}

func (q *query) fail(name, format string, args ...any) {
	if q.err == nil {
		if len(name) > 64 {
			name = name[:64]
		}
		name = strings.ToValidUTF8(name, "\uFFFD")
		q.err = &apiError{http.StatusBadRequest, fmt.Sprintf("%s: %s", name, fmt.Sprintf(format, args...)), name}
	}
}

// text gives a parameter's value, and whether it has one that is not empty.
func (q *query) text(name string) (string, bool) {
	v := q.values.Get(name)
	return v, v != ""
}

func (q *query) str(name string) string { return q.values.Get(name) }

func (q *query) integer(name string, fallback, lo, hi int64) int64 {
	v, ok := q.text(name)
	if !ok {
		return fallback
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < lo || n > hi {
		q.fail(name, "%q is no number from %d to %d", v, lo, hi)
		return fallback
	}
	return n
}

func (q *query) float(name string, fallback, lo, hi float64) float64 {
	v, ok := q.text(name)
	if !ok {
		return fallback
	}
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || math.IsNaN(n) || n < lo || n > hi {
		q.fail(name, "%q is no number from %g to %g", v, lo, hi)
		return fallback
	}
	return n
}

func (q *query) boolean(name string, fallback bool) bool {
	switch v, ok := q.text(name); {
	case !ok:
		return fallback
	case v == "true":
		return true
	case v == "false":
		return false
	default:
		q.fail(name, "%q is none of true, false", v)
		return fallback
	}
}

func (q *query) oneOf(name, fallback string, values ...string) string {
	v, ok := q.text(name)
	if !ok {
		return fallback
	}
	if !slices.Contains(values, v) {
		q.fail(name, "%q is none of %s", v, strings.Join(values, ", "))
		return fallback
	}
	return v
}

const maxWindow = 31 * 24 * time.Hour

func (q *query) window() time.Duration {
	v, ok := q.text("window")
	if !ok {
		return 5 * time.Minute
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < time.Second || d > maxWindow {
		q.fail("window", "%q is no duration from 1s to %s, as 5m", v, maxWindow)
		return time.Minute
	}
	return d
}

// time gives a time, zero where there is none.
func (q *query) time(name string) time.Time {
	v, ok := q.text(name)
	if !ok {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		s, numErr := strconv.ParseFloat(v, 64)
		if numErr != nil || math.IsNaN(s) || s < 0 || s > 1<<33 {
			q.fail(name, "%q is neither a time as 2026-01-02T15:04:05Z nor seconds since 1970", v)
			return time.Time{}
		}
		whole, part := math.Modf(s)
		at = time.Unix(int64(whole), int64(part*1e9)).UTC()
	}
	if at.Year() < 1970 || at.Year() > 2200 {
		q.fail(name, "%q is not from 1970 to 2200", v)
		return time.Time{}
	}
	return at
}

// at gives the time that is asked for; zero for now, and for what is to come.
func (q *query) at() time.Time {
	if at := q.time("at"); at.Before(q.now) {
		return at
	}
	return time.Time{}
}

func (q *query) level(kubernetes bool) topology.Level {
	fallback := topology.LevelAddress
	if kubernetes {
		fallback = topology.LevelWorkload
	}
	level, _ := topology.ParseLevel(q.oneOf("level", fallback.String(), topology.LevelNames[:]...))
	return level
}

var classNames = []string{topology.IntraNode.String(), topology.InterNode.String(), topology.Ingress.String(), topology.Egress.String()}

func (q *query) class() topology.Class {
	class, _ := topology.ParseClass(q.oneOf("direction", "", classNames...))
	return class
}

// addr gives an address. One is needed where it must be there.
func (q *query) addr(name string, needed bool) netip.Addr {
	v, ok := q.text(name)
	if !ok {
		if needed {
			q.fail(name, "is needed, as 10.1.2.3")
		}
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" {
		q.fail(name, "%q is no address, as 10.1.2.3 or fd00::1", v)
		return netip.Addr{}
	}
	return a.Unmap()
}
