// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzhttp"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.uber.org/zap"
)

// maxHeaderBytes is how much a request may have; it has no body.
const maxHeaderBytes = 32 << 10

// route is a path of the API that answers with JSON.
type route struct {
	path string
	// parameters that it has; others get 400
	parameters []string
	answer     func(*query) (any, error)
	// shared: clients that ask the same may have the same answer, as old as the graph may be.
	shared bool
}

// filters are those of the graph.
var filters = []string{"level", "window", "at", "namespace", "node", "direction", "q", "min_bytes", "limit", "focus", "depth"}

func with(names []string, more ...string) []string {
	return append(append([]string(nil), names...), more...)
}

func (e *topologyExtension) routes() []route {
	return []route{
		{"/api/cluster", nil, e.cluster, true},
		{"/api/topology", with(filters, "mappings"), e.topology, true},
		{"/api/topology/diff", []string{"from", "to", "window", "level", "namespace", "node", "direction", "q", "min_bytes", "min_ratio", "limit"}, e.diff, true},
		{"/api/topology/critical-path", []string{"from", "window", "at"}, e.criticalPath, true},
		{"/api/flannel", nil, e.flannelView, false},
		{"/api/stats", []string{"window", "at"}, e.stats, true},
		{"/api/flows", []string{"direction", "namespace", "node", "limit", "cursor", "q", "protocol", "port", "address"}, e.flowRecords, false},
		{"/api/query/pod", []string{"ip", "at"}, e.queryPod, false},
		{"/api/query/service", []string{"ip", "port", "at"}, e.queryService, false},
		{"/api/query/node", []string{"ip", "at"}, e.queryNode, false},
		{"/api/interfaces", []string{"window", "limit", "cursor"}, e.interfaces, false},
		{"/api/health", nil, e.health, false},
		{"/api/report", []string{"window"}, e.report, true},
	}
}

// handler serves all that needs the credentials that are configured.
func (e *topologyExtension) handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range e.routes() {
		mux.Handle("GET "+r.path, e.json(r))
	}
	mux.HandleFunc("GET /api/topology/export", e.export)
	mux.HandleFunc("GET /api/openapi.json", e.openAPI)
	mux.HandleFunc("GET /api/stream", e.stream)
	mux.HandleFunc("/", e.page)
	compressed, err := gzhttp.NewWrapper(gzhttp.MinSize(1024), gzhttp.CompressionLevel(1), gzhttp.SuffixETag("-gzip"),
		gzhttp.ExceptContentTypes([]string{"text/event-stream"}))
	if err != nil {
		panic(err) // the options are constants
	}
	gz := compressed(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/stream" {
			mux.ServeHTTP(w, r) // it is flushed after each event
			return
		}
		gz.ServeHTTP(w, r)
	})
}

// outermost is around what confighttp has: probes need no credentials, and everything has
// the headers that a browser is to heed.
func (e *topologyExtension) outermost(next http.Handler) http.Handler {
	probes := http.NewServeMux()
	probes.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, nil, http.StatusOK, probe{"ok"}) })
	probes.HandleFunc("GET /readyz", e.readyz)
	probes.Handle("/", next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		defer e.recover(w, r)
		probes.ServeHTTP(w, r)
	})
}

// Nothing from elsewhere, no script or style in the page itself, and no frame around it.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// recover answers 500 for a fault, and says where it was.
func (e *topologyExtension) recover(w http.ResponseWriter, r *http.Request) {
	fault := recover()
	if fault == nil {
		return
	}
	if err, ok := fault.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(fault) // which is how an answer is broken off
	}
	e.own.ExtensionTopologyPanics.Add(r.Context(), 1)
	e.set.Logger.Error("A request met a fault; please report it", zap.String("path", r.URL.Path), zap.Any("fault", fault), zap.ByteString("stack", debug.Stack()))
	writeError(w, r, &apiError{Code: http.StatusInternalServerError, Message: "there is a fault in the program, which its log tells of"})
}

// serverOptions let confighttp answer as the API does.
func serverOptions() []confighttp.ToServerOption {
	return []confighttp.ToServerOption{confighttp.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, message string, code int) {
		writeError(w, r, &apiError{Code: code, Message: message})
	})}
}

// json answers a request with what a route gives.
func (e *topologyExtension) json(route route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var refused *apiError
		make := func() []byte {
			var body []byte
			body, refused = e.answer(&route, r.URL.RawQuery)
			return body
		}
		var body []byte
		if route.shared {
			body = e.answers.get(route.path+"?"+r.URL.RawQuery, e.cfg.Graph.Refresh, make)
		} else {
			body = make()
		}
		if refused != nil {
			writeError(w, r, refused)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		write(w, r, http.StatusOK, body)
	})
}

// answer makes the body of an answer, or says why there is none.
func (e *topologyExtension) answer(route *route, raw string) ([]byte, *apiError) {
	q := newQuery(raw, route.parameters, e.Now())
	if q.err != nil {
		return nil, q.err
	}
	answer, err := route.answer(q)
	if q.err != nil {
		return nil, q.err
	}
	var refused *apiError
	if errors.As(err, &refused) {
		return nil, refused
	}
	var body []byte
	if err == nil {
		body, err = json.Marshal(answer)
	}
	if err != nil {
		return nil, &apiError{Code: http.StatusInternalServerError, Message: err.Error()}
	}
	return append(body, '\n'), nil
}

func writeError(w http.ResponseWriter, _ *http.Request, err *apiError) {
	if err.Code == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
		w.Header().Set("WWW-Authenticate", `Bearer realm="netprobe", Basic realm="netprobe"`)
	}
	writeJSON(w, nil, err.Code, map[string]*apiError{"error": err})
}

// writeJSON writes an answer. With a request it has an ETag, and is left out where the
// client has it.
func writeJSON(w http.ResponseWriter, r *http.Request, code int, answer any) {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(answer); err != nil {
		code = http.StatusInternalServerError
		body.Reset()
		fmt.Fprintf(&body, `{"error":{"code":500,"message":%q}}`, err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	write(w, r, code, body.Bytes())
}

func write(w http.ResponseWriter, r *http.Request, code int, body []byte) {
	w.Header().Set("Cache-Control", "no-cache")
	if r == nil || code != http.StatusOK {
		w.WriteHeader(code)
		_, _ = w.Write(body) // a client that is gone needs none
		return
	}
	sum := fnv.New64a()
	_, _ = sum.Write(body)
	w.Header().Set("ETag", `W/"`+strconv.FormatUint(sum.Sum64(), 36)+`"`)
	// Compression adds to the tag; what is the same is the same either way.
	r = r.Clone(r.Context())
	if tags := r.Header.Get("If-None-Match"); tags != "" {
		r.Header.Set("If-None-Match", withoutSuffix.Replace(tags))
	}
	r.Header.Del("Range") // what is asked for anew is another
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

var withoutSuffix = strings.NewReplacer(`-gzip"`, `"`, `-zstd"`, `"`)

type probe struct {
	Status string `json:"status"`
}

// ready says whether all that is to be known is, or why not.
func (e *topologyExtension) ready() (bool, string) {
	if e.resolver != nil && !e.cfg.ReadyWithoutInventory && !e.resolver.Ready() {
		return false, "the inventory has not been read whole"
	}
	return true, ""
}

func (e *topologyExtension) readyz(w http.ResponseWriter, _ *http.Request) {
	if ok, why := e.ready(); !ok {
		writeJSON(w, nil, http.StatusServiceUnavailable, map[string]*apiError{"error": {Code: http.StatusServiceUnavailable, Message: why}})
		return
	}
	writeJSON(w, nil, http.StatusOK, probe{"ready"})
}
