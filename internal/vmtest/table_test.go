// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const document = "Words before.\n\n" +
	"| `feature` | without it | 5.10 | sid |\n" +
	"|---|---|---|---|\n" +
	"| release | of the kernel | 5.10.0-1 | |\n" +
	"| `tcx` | a filter, `clsact` | – | + |\n" +
	"| `nat` | two flows | + | + |\n" +
	"\nWords after.\n\n| `other` | table |\n"

func writeDocument(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "doc.md")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestCheckOfATable(t *testing.T) {
	documented, err := readTable(writeDocument(t, document))
	require.NoError(t, err)
	for _, tt := range []struct {
		name, series string
		found        support
		lost, gained []string
	}{
		{"all as it says", "5.10", support{"tcx": false, "nat": true}, nil, nil},
		{"less", "sid", support{"tcx": false, "nat": true}, []string{"tcx"}, nil},
		{"nothing said of one", "sid", support{"tcx": true}, []string{"nat"}, nil},
		{"more", "5.10", support{"tcx": true, "nat": true}, nil, []string{"tcx"}},
		{"a feature that is not in it", "5.10", support{"nat": true, "xdp": false}, nil, []string{"xdp"}},
		{"a kernel that is not in it", "6.6", support{"tcx": false}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lost, gained := documented.check(tt.series, tt.found)
			require.Equal(t, tt.lost, lost)
			require.Equal(t, tt.gained, gained)
		})
	}
}

// What is not the kernel's own column stays.
func TestUpdateOfATable(t *testing.T) {
	file := writeDocument(t, document)
	documented, err := readTable(file)
	require.NoError(t, err)
	require.NoError(t, documented.update(&kernel{series: "sid", release: "7.3"}, support{"tcx": true, "nat": false, "xdp": true}))
	require.Error(t, documented.update(&kernel{series: "6.6"}, support{}))
	require.NoError(t, documented.write())
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "Words before.\n\n"+
		"| `feature` | without it | 5.10 | sid |\n"+
		"|---|---|---|---|\n"+
		"| release | of the kernel | 5.10.0-1 | 7.3 |\n"+
		"| `tcx` | a filter, `clsact` | – | + |\n"+
		"| `nat` | two flows | + | – |\n"+
		"| `xdp` |  | – | + |\n"+
		"\nWords after.\n\n| `other` | table |\n", string(text))
}

func TestReadTableThatIsNone(t *testing.T) {
	_, err := readTable(filepath.Join(t.TempDir(), "nothing"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = readTable(writeDocument(t, "no table\n"))
	require.ErrorContains(t, err, "has no table")
	_, err = readTable(writeDocument(t, "| `feature` | without it | sid |\n|---|---|---|\n| `tcx` | a \\| b | + |\n"))
	require.ErrorContains(t, err, "line 3: 4 cells and not 3")
}
