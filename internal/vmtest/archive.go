// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// archive writes a cpio archive of the kind that the kernel unpacks as its first
// file system ("newc", Documentation/driver-api/early-userspace/buffer-format.rst).
// Errors of writing come with close.
type archive struct {
	w       *bufio.Writer
	written int
	entries int
	dirs    map[string]bool
	files   map[string]bool
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), dirs: map[string]bool{".": true, "/": true}, files: map[string]bool{}}
}

// File modes of cpio.
const (
	modeDir       = 0o040755
	modeFile      = 0o100000
	modeLink      = 0o120777
	modeCharacter = 0o020600
)

// The writer keeps its first error for close.
func (a *archive) write(s string) {
	n, _ := a.w.WriteString(s)
	a.written += n
}

func (a *archive) pad(to int) {
	for a.written%to != 0 {
		a.write("\x00")
	}
}

func (a *archive) entry(name string, mode int, data string, major, minor int) {
	a.entries++
	a.write(fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.entries, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0))
	a.write(name + "\x00")
	a.pad(4)
	a.write(data)
	a.pad(4)
}

// place gives a path as it is in the archive, with its directory there before it.
func (a *archive) place(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if dir := path.Dir(name); !a.dirs[dir] {
		a.dir(dir)
	}
	return name
}

func (a *archive) dir(name string) {
	name = a.place(name)
	if !a.dirs[name] {
		a.dirs[name] = true
		a.entry(name, modeDir, "", 0, 0)
	}
}

// file puts a file in, the first of a name.
func (a *archive) file(name string, mode int, data string) {
	name = a.place(name)
	if !a.files[name] {
		a.files[name] = true
		a.entry(name, modeFile|mode, data, 0, 0)
	}
}

func (a *archive) link(name, to string) { a.entry(a.place(name), modeLink, to, 0, 0) }

func (a *archive) device(name string, major, minor int) {
	a.entry(a.place(name), modeCharacter, "", major, minor)
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, "", 0, 0)
	a.pad(512)
	return a.w.Flush()
}
