// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8stest

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// askEtcd calls etcd by JSON, which needs no client of its own.
func (c *Cluster) askEtcd(t testing.TB, path, body string, into any) {
	t.Helper()
	answer, err := fetch(http.DefaultClient, http.MethodPost, c.etcdURL+path, []byte(body))
	require.NoError(t, err)
	if into != nil {
		require.NoError(t, json.Unmarshal(answer, into), "%s", answer)
	}
}
