// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/csv"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Beside the list stands why, under the word that a row ends with.
const differencesFile, explanationsFile = capturesDir + "/differences.csv", capturesDir + "/DIFFERENCES.md"

// readDifferences reads the frames in which the programs are known to find
// something else than the truth says, by capture and frame.
func readDifferences(t *testing.T) map[string]map[int]difference {
	t.Helper()
	file, err := os.Open(differencesFile)
	require.NoError(t, err)
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	require.NoError(t, err)
	require.NotEmpty(t, rows)
	require.Equal(t, []string{"capture", "frame", "truth", "netprobe", "why"}, rows[0])

	explanations, err := os.ReadFile(explanationsFile)
	require.NoError(t, err)

	listed := make(map[string]map[int]difference)
	for _, row := range rows[1:] {
		capture := row[0]
		frame, err := strconv.Atoi(row[1])
		require.NoError(t, err)
		if listed[capture] == nil {
			listed[capture] = make(map[int]difference)
		}
		require.NotContains(t, listed[capture], frame, "%s, frame %d is listed twice", capture, frame)
		why := "`" + row[4] + "`: "
		require.True(t, bytes.Contains(explanations, []byte(why)), "%s has no %s", explanationsFile, why)
		listed[capture][frame] = difference{truth: row[2], programs: row[3]}
	}
	return listed
}
