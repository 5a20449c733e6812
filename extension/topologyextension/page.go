// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topologyextension

import (
	_ "embed"
	"net/http"

	"sigs.k8s.io/yaml"
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
	writeError(w, r, notFound("there is nothing at this path; /api/openapi.json says what there is"))
}
