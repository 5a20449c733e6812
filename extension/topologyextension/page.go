// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	_ "embed"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/netprobe-otel/netprobe/extension/topologyextension/web"
)

//go:embed openapi.yaml
var openAPIDocument []byte

// openAPI gives the document that describes the API.
func (e *topologyExtension) openAPI(w http.ResponseWriter, r *http.Request) {
	if q := newQuery(r.URL.RawQuery, nil, e.Now()); q.err != nil {
		writeError(w, r, q.err)
		return
	}
	document, err := yaml.YAMLToJSON(openAPIDocument)
	if err != nil {
		writeError(w, r, &apiError{Code: http.StatusInternalServerError, Message: err.Error()})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	write(w, r, http.StatusOK, document)
}

// page answers what no other path does.
func (e *topologyExtension) page(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, r, &apiError{Code: http.StatusMethodNotAllowed, Message: "only GET and HEAD are answered"})
		return
	}
	name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
	if name == "" {
		name = "index.html"
	}
	if name == "index.html" || strings.HasPrefix(name, "assets/") {
		if body, err := fs.ReadFile(web.FS(), name); err == nil {
			kind := mime.TypeByExtension(path.Ext(name))
			if kind == "" {
				kind = "application/octet-stream"
			}
			w.Header().Set("Content-Type", kind)
			write(w, r, http.StatusOK, body)
			return
		}
	}
	writeError(w, r, notFound("there is nothing at this path; /api/openapi.json says what there is"))
}
