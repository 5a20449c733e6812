// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMarksAmongOutput(t *testing.T) {
	want := []Mark{
		{Step: "bpf", Began: true},
		{Feature: &Feature{Name: "nat", State: "missing", Reason: "not_found"}},
		{Step: "bpf", Error: "exit status 1\nand more", Took: time.Second},
		{Done: true},
	}
	var b strings.Builder
	for _, m := range want {
		b.WriteString("a line without end")
		require.NoError(t, Write(&b, m))
	}
	b.WriteString("\x1evmtest {\n vmtest {}\n")
	var got []Mark
	for line := range strings.Lines(b.String()) {
		if m, ok := Read(line); ok {
			got = append(got, m)
		}
	}
	require.Equal(t, want, got)
}
