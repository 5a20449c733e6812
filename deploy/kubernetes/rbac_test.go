// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/extension/extensiontest"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/netprobe-otel/netprobe/extension/k8sinventoryextension"
)

// api is as much of a Kubernetes API as an informer needs to go on, and notes what it
// was asked for, as a ClusterRole would have to allow it.
type api struct {
	mu    sync.Mutex // guards asked
	asked map[string]bool
}

// kinds of what lists are of
var kinds = map[string]string{
	"pods": "PodList", "nodes": "NodeList", "services": "ServiceList", "endpointslices": "EndpointSliceList",
	"replicasets": "PartialObjectMetadataList", "jobs": "PartialObjectMetadataList",
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// /api/v1/RESOURCE or /apis/GROUP/VERSION/RESOURCE, of all namespaces
	part := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	group, version := "", part[1]
	if part[0] == "apis" {
		group, version = part[1], part[1]+"/"+part[2]
	}
	resource := part[len(part)-1]
	verb := "list"
	if r.URL.Query().Get("watch") != "" {
		verb = "watch"
	}
	if r.Method != http.MethodGet {
		verb = r.Method
	}
	a.mu.Lock()
	a.asked[verb+" "+qualified(group, resource)] = true
	a.mu.Unlock()

	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.URL.Query().Get("sendInitialEvents") != "":
		w.WriteHeader(http.StatusUnprocessableEntity) // as an API server that cannot; then it is listed
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": http.StatusUnprocessableEntity})
	case verb == "watch":
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	default:
		if kinds[resource] == "PartialObjectMetadataList" {
			version = "meta.k8s.io/v1"
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": kinds[resource], "apiVersion": version, "metadata": map[string]any{"resourceVersion": "1"}, "items": []any{}})
	}
}

func (a *api) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.asked))
}

func qualified(group, resource string) string {
	if group == "" {
		return resource
	}
	return resource + "." + group
}

// allowed is what the ClusterRole allows.
func allowed(t *testing.T) []string {
	t.Helper()
	role, ok := render(t)["ClusterRole /netprobe"].(*rbacv1.ClusterRole)
	require.True(t, ok)
	require.Nil(t, role.AggregationRule)
	var all []string
	for _, rule := range role.Rules {
		require.Empty(t, rule.NonResourceURLs)
		require.Empty(t, rule.ResourceNames)
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					all = append(all, verb+" "+qualified(group, resource))
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

func TestClusterRoleIsWhatTheInventoryAsksFor(t *testing.T) {
	a := &api{asked: map[string]bool{}}
	server := httptest.NewServer(a)
	defer server.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(kubeconfig, fmt.Appendf(nil, `
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q}}]
users: [{name: test, user: {}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`, server.URL), 0o600))

	factory := k8sinventoryextension.NewFactory()
	cfg := factory.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(map[string]any{"kubeconfig": kubeconfig}).Unmarshal(cfg))
	inventory, err := factory.Create(t.Context(), extensiontest.NewNopSettings(factory.Type()), cfg)
	require.NoError(t, err)
	require.NoError(t, inventory.Start(t.Context(), componenttest.NewNopHost()))
	defer func() { require.NoError(t, inventory.Shutdown(context.WithoutCancel(t.Context()))) }()

	want := allowed(t)
	require.EventuallyWithT(t, func(c *assert.CollectT) { assert.Equal(c, want, a.all()) }, 30*time.Second, 20*time.Millisecond)
}

func TestClusterRoleIsWhatIsDocumented(t *testing.T) {
	section := strings.Join(strings.Fields(documentedIn(t, "../../extension/k8sinventoryextension/README.md", "Privileges")), " ")
	sentence, _, found := strings.Cut(section, "in all namespaces")
	require.True(t, found)
	var verbs, resources, documented []string
	for _, word := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(sentence, -1) {
		if word[1] == "list" || word[1] == "watch" {
			verbs = append(verbs, word[1])
		} else {
			resources = append(resources, word[1])
		}
	}
	for _, verb := range verbs {
		for _, resource := range resources {
			documented = append(documented, verb+" "+resource)
		}
	}
	require.ElementsMatch(t, documented, allowed(t))
}
