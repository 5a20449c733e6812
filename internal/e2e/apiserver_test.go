// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// object is one of Kubernetes, as JSON.
type object = map[string]any

// collection is what an API path has.
type collection struct {
	apiVersion, kind string
	items            []object
}

const apiAddress = "127.0.0.1:6443"

// serveKubernetes is as much of an API server as a client that follows objects needs:
// objects that never change. It gives the kubeconfig.
func (n *namespace) serveKubernetes(t *testing.T, all map[string]collection) string {
	t.Helper()
	mux := http.NewServeMux()
	for path, c := range all {
		mux.HandleFunc("GET "+path, c.serve)
	}
	n.serve(t, apiAddress, mux)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(file, []byte(`{apiVersion: v1, kind: Config, current-context: test,
contexts: [{name: test, context: {cluster: test, user: test}}], users: [{name: test, user: {}}],
clusters: [{name: test, cluster: {server: "http://`+apiAddress+`"}}]}`), 0o600))
	return file
}

func (c *collection) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	if r.URL.Query().Get("watch") == "" {
		_ = out.Encode(object{
			"apiVersion": c.apiVersion, "kind": c.kind + "List", "metadata": object{"resourceVersion": "1"}, "items": c.items,
		})
		return
	}
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, item := range c.items {
			_ = out.Encode(object{"type": "ADDED", "object": item})
		}
		_ = out.Encode(object{"type": "BOOKMARK", "object": c.object("", object{
			"resourceVersion": "1", "annotations": object{"k8s.io/initial-events-end": "true"},
		}, nil)})
	}
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done() // nothing changes
}

// object makes one, with what stands beside its metadata.
func (c *collection) object(name string, metadata, more object) object {
	o := object{"apiVersion": c.apiVersion, "kind": c.kind, "metadata": metadata}
	if name != "" {
		metadata["name"], metadata["uid"], metadata["resourceVersion"] = name, "uid-"+name, "1"
	}
	for key, value := range more {
		o[key] = value
	}
	return o
}

func (c *collection) add(name string, metadata, more object) {
	c.items = append(c.items, c.object(name, metadata, more))
}
