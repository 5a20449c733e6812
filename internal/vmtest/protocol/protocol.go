// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package protocol is what a machine under test and its host tell each other.
package protocol // import "github.com/netprobe-otel/netprobe/internal/vmtest/protocol"

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Where things are in the guest.
const (
	PlanPath      = "/vmtest/plan.json"
	OutputPort    = "/dev/ttyS1" // the first is the console's
	ModuleDir     = "/vmtest/modules"
	ModuleNeeds   = "/vmtest/needs"   // a module, and those it needs, with commas
	ModuleAliases = "/vmtest/aliases" // a pattern, and a module
)

// Plan is what the guest does.
type Plan struct {
	Steps []Step
}

// Step is a program that the guest runs.
type Step struct {
	Name    string
	Argv    []string
	Env     []string
	Dir     string
	Modules []string // to load before
	Timeout time.Duration
}

// Mark is a line in the guest's output that is for the host.
type Mark struct {
	// Step began, or ended: well where Error is empty.
	Step  string        `json:",omitempty"`
	Began bool          `json:",omitempty"`
	Error string        `json:",omitempty"`
	Took  time.Duration `json:",omitempty"`
	// Feature is one that NetProbe told of.
	Feature *Feature `json:",omitempty"`
	// Done: all steps were run.
	Done bool `json:",omitempty"`
}

// Feature is what NetProbe says of one.
type Feature struct {
	Name, State, Reason string
}

// begin is what no program's output has.
const begin = "\x1evmtest "

// Write writes a mark, also where a line has begun.
func Write(w io.Writer, m Mark) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\n%s%s\n", begin, text)
	return err
}

// Read reads the mark in a line, if it is one.
func Read(line string) (Mark, bool) {
	text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), begin)
	if !ok {
		return Mark{}, false
	}
	var m Mark
	err := json.Unmarshal([]byte(text), &m)
	return m, err == nil
}

// ModuleName is how the kernel writes a module's name.
func ModuleName(s string) string { return strings.ReplaceAll(s, "-", "_") }
