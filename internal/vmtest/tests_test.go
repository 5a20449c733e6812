// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/vmtest/protocol"
)

func TestSortTests(t *testing.T) {
	got, err := sortTests(json.NewDecoder(strings.NewReader(`
{"Action":"start"}
{"Action":"run","Test":"TestA"}
{"Action":"run","Test":"TestA/in"}
{"Action":"output","Test":"TestA/in","Output":"=== RUN   TestA/in\n"}
{"Action":"output","Test":"TestA/in","Output":"    a_test.go:1: no such device\n"}
{"Action":"output","Test":"TestA/in","Output":"    --- SKIP: TestA/in (0.00s)\n"}
{"Action":"skip","Test":"TestA/in"}
{"Action":"pass","Test":"TestA"}
{"Action":"output","Test":"TestB","Output":"wrong\n"}
{"Action":"fail","Test":"TestB"}
{"Action":"output","Test":"TestC","Output":"waits"}
{"Action":"fail"}
`)))
	require.NoError(t, err)
	require.Len(t, got.passed, 1)
	require.Equal(t, "TestA", got.passed[0].name)
	require.Len(t, got.skipped, 1)
	require.Equal(t, "TestA/in", got.skipped[0].name)
	require.Equal(t, "a_test.go:1: no such device", got.skipped[0].lastWords())
	require.Equal(t, map[string][]string{"no such device": {"TestA/in"}}, got.skippedBy())
	require.Equal(t, []*testRun{{"TestB", "wrong\n"}}, got.failed)
	require.Equal(t, []*testRun{{"TestC", "waits"}}, got.cut)
	_, err = sortTests(json.NewDecoder(strings.NewReader("no JSON")))
	require.Error(t, err)
	require.Empty(t, (&testRun{output: "=== RUN   TestA\n--- FAIL: TestA\n"}).lastWords())
}

func newResult(steps int) *result { return &result{series: "sid", left: steps} }

func (r *result) step(name, errorText, output string) {
	r.mark(&protocol.Mark{Step: name, Began: true})
	r.output = append(r.output, output...)
	r.mark(&protocol.Mark{Step: name, Error: errorText})
}

func TestJudge(t *testing.T) {
	documented, err := readTable(writeDocument(t, document))
	require.NoError(t, err)
	sid := &kernel{series: "sid"}
	tell := func(r *result, states map[string]string) {
		for name, state := range states {
			r.mark(&protocol.Mark{Feature: &protocol.Feature{Name: name, State: state}})
		}
	}
	const passes = "=== RUN   TestA\n--- PASS: TestA (0.00s)\nPASS\n"

	good := newResult(2)
	tell(good, map[string]string{"tcx": "on", "nat": "on"})
	good.step("features", "", "")
	good.step("bpf", "", passes)
	require.NoError(t, good.judge(sid, documented, false))

	failed := newResult(2)
	failed.step("features", "exit status 1", "NetProbe says why\n")
	failed.step("bpf", "exit status 1", "=== RUN   TestA\n    a_test.go:1: is wrong\n--- FAIL: TestA (0.00s)\nFAIL\n")
	err = failed.judge(sid, documented, false)
	require.ErrorContains(t, err, "features: exit status 1\nNetProbe says why")
	require.ErrorContains(t, err, "bpf: exit status 1\nTestA:")
	require.ErrorContains(t, err, "a_test.go:1: is wrong")

	short := newResult(2)
	short.step("bpf", "", passes)
	require.ErrorContains(t, short.judge(sid, documented, false), "1 steps did not end")

	lost := newResult(1)
	tell(lost, map[string]string{"tcx": "missing", "nat": "off"})
	lost.step("features", "", "")
	require.ErrorContains(t, lost.judge(sid, documented, false), "says that it has nat, tcx")
	require.NoError(t, lost.judge(sid, documented, true))
	require.Contains(t, documented.lines, "| `tcx` | a filter, `clsact` | – | – |")
}
