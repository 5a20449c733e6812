// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/vmtest/protocol"
)

// modprobe loads modules by name or alias, as the kernel asks for them.
func modprobe(args []string) int {
	code := 0
	for _, name := range args {
		if strings.HasPrefix(name, "-") {
			continue
		}
		if err := loadModule(name); err != nil {
			fmt.Fprintf(os.Stderr, "modprobe %s: %v\n", name, err)
			code = 1
		}
	}
	return code
}

// loadModule loads the modules that a name or an alias stands for, with those
// that they need.
func loadModule(name string) error {
	needs := map[string]string{}
	for _, line := range table(protocol.ModuleNeeds) {
		needs[line[0]] = line[1]
	}
	name = protocol.ModuleName(name)
	if _, ok := needs[name]; ok {
		return insert(name, needs, map[string]bool{})
	}
	var errs []error
	found := false
	for _, line := range table(protocol.ModuleAliases) {
		if is, err := path.Match(line[0], name); is && err == nil || line[0] == name {
			found = true
			errs = append(errs, insert(line[1], needs, map[string]bool{}))
		}
	}
	if !found && !builtIn(name) {
		return errors.New("there is no such module")
	}
	return errors.Join(errs...)
}

// table reads lines of two columns.
func table(file string) [][2]string {
	text, err := os.ReadFile(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "modprobe:", err)
		return nil
	}
	var lines [][2]string
	for line := range strings.Lines(string(text)) {
		if left, right, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			lines = append(lines, [2]string{left, right})
		}
	}
	return lines
}

func insert(name string, needs map[string]string, seen map[string]bool) error {
	if seen[name] {
		return nil
	}
	seen[name] = true
	for need := range strings.SplitSeq(needs[name], ",") {
		if need == "" {
			continue
		}
		if err := insert(need, needs, seen); err != nil {
			return err
		}
	}
	f, err := os.Open(filepath.Join(protocol.ModuleDir, name+".ko"))
	if errors.Is(err, os.ErrNotExist) && builtIn(name) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	return nil
}

func builtIn(name string) bool {
	_, err := os.Stat(filepath.Join("/sys/module", name))
	return err == nil
}
