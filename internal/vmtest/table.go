// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// support is which features a kernel has, by name; those that NetProbe told of.
type support map[string]bool

// table is that of features by kernel in a document. Each line of it is in one
// piece; what is not ours in it stays as it is.
type table struct {
	file  string
	lines []string // of the document
	head  int      // which of lines has the names of kernels
	names []string // in the columns behind the first two
	rows  map[string]int
	// release is which line has the releases that the kernels are.
	release int
}

const (
	headCell    = "| `feature` |"
	releaseCell = "release"
	has, hasNot = "+", "–"
	fixed       = 2 // columns before those of kernels
)

var rowName = regexp.MustCompile("^\\| `([a-z0-9_]+)` \\|")

func readTable(file string) (*table, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	t := &table{file: file, lines: strings.Split(string(text), "\n"), rows: map[string]int{}}
	t.head = slices.IndexFunc(t.lines, func(line string) bool { return strings.HasPrefix(line, headCell) })
	if t.head < 0 {
		return nil, fmt.Errorf("%s has no table that begins with %q", file, headCell)
	}
	columns := cells(t.lines[t.head])
	t.names = columns[min(fixed, len(columns)):]
	for i := t.head + 2; i < len(t.lines) && strings.HasPrefix(t.lines[i], "|"); i++ {
		if len(cells(t.lines[i])) != len(columns) {
			return nil, fmt.Errorf("%s, line %d: %d cells and not %d", file, i+1, len(cells(t.lines[i])), len(columns))
		}
		if name := rowName.FindStringSubmatch(t.lines[i]); name != nil {
			t.rows[name[1]] = i
		} else if cells(t.lines[i])[0] == releaseCell {
			t.release = i
		}
	}
	return t, nil
}

// cells are those of a line.
func cells(line string) []string {
	all := strings.Split(strings.Trim(line, "|"), "|")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all
}

func (t *table) set(line, column int, value string) {
	all := cells(t.lines[line])
	all[fixed+column] = value
	t.lines[line] = "| " + strings.Join(all, " | ") + " |"
}

// check says what the table has otherwise than a kernel: lost is what the kernel
// should have.
func (t *table) check(series string, found support) (lost, gained []string) {
	column := slices.Index(t.names, series)
	if column < 0 {
		return nil, nil
	}
	for name, line := range t.rows {
		said := cells(t.lines[line])[fixed+column] == has
		switch {
		case said && !found[name]:
			lost = append(lost, name)
		case !said && found[name]:
			gained = append(gained, name)
		}
	}
	for name := range found {
		if _, ok := t.rows[name]; !ok {
			gained = append(gained, name)
		}
	}
	slices.Sort(lost)
	slices.Sort(gained)
	return lost, gained
}

// update writes what was found of a kernel. A feature that the table does not have
// comes at its end, without words.
func (t *table) update(k *kernel, found support) error {
	column := slices.Index(t.names, k.series)
	if column < 0 {
		return fmt.Errorf("%s has no column %q", t.file, k.series)
	}
	for name := range found {
		if _, ok := t.rows[name]; !ok {
			t.add(name)
		}
	}
	for name, line := range t.rows {
		value := hasNot
		if found[name] {
			value = has
		}
		t.set(line, column, value)
	}
	if t.release > 0 {
		t.set(t.release, column, k.release)
	}
	return nil
}

func (t *table) add(name string) {
	at := t.head + 2
	for _, line := range t.rows {
		at = max(at, line+1)
	}
	row := "| `" + name + "` | |" + strings.Repeat(" "+hasNot+" |", len(t.names))
	t.lines = slices.Insert(t.lines, at, row)
	t.rows[name] = at
	if t.release >= at {
		t.release++
	}
}

func (t *table) write() error {
	return os.WriteFile(t.file, []byte(strings.Join(t.lines, "\n")), 0o644)
}
