// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// tests are those of a package, as they ended.
type tests struct {
	passed, skipped, failed []*testRun
	// cut did not end.
	cut []*testRun
}

// skippedBy gives the names of those that were skipped, by why.
func (t *tests) skippedBy() map[string][]string {
	by := map[string][]string{}
	for _, one := range t.skipped {
		_, why, found := strings.Cut(one.lastWords(), ": ") // behind the place in the source
		if !found {
			why = "it does not say"
		}
		by[why] = append(by[why], one.name)
	}
	return by
}

// testRun is a test, or one within it.
type testRun struct {
	name, output string
}

// lastWords is the last line of what a test wrote itself.
func (t *testRun) lastWords() string {
	lines := slices.DeleteFunc(strings.Split(t.output, "\n"), func(line string) bool {
		line = strings.TrimSpace(line)
		return line == "" || strings.HasPrefix(line, "--- ") || strings.HasPrefix(line, "=== ")
	})
	if len(lines) == 0 {
		return ""
	}
	return strings.TrimSpace(lines[len(lines)-1])
}

// readTests reads what a test binary wrote with -test.v=test2json.
func readTests(output []byte) (*tests, error) {
	cmd := exec.Command("go", "tool", "test2json")
	cmd.Stdin = bytes.NewReader(output)
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read the output of tests: %w", err)
	}
	return sortTests(json.NewDecoder(bytes.NewReader(text)))
}

func sortTests(events *json.Decoder) (*tests, error) {
	all := &tests{}
	running := map[string]*testRun{}
	for {
		var e struct{ Action, Test, Output string }
		err := events.Decode(&e)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the output of tests: %w", err)
		}
		if e.Test == "" {
			continue
		}
		t := running[e.Test]
		if t == nil {
			t = &testRun{name: e.Test}
			running[e.Test] = t
		}
		switch e.Action {
		case "output":
			t.output += e.Output
			continue
		case "pass":
			all.passed = append(all.passed, t)
		case "skip":
			all.skipped = append(all.skipped, t)
		case "fail":
			all.failed = append(all.failed, t)
		default:
			continue
		}
		delete(running, e.Test)
	}
	for _, t := range running {
		all.cut = append(all.cut, t)
	}
	return all, nil
}
