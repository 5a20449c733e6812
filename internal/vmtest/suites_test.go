// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is where suites' directories are from here.
const root = "../.."

func testFiles(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	require.NoError(t, err)
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		all.Write(text)
	}
	return all.String()
}

// What speaks with the kernel runs on all, or someone has said why not.
func TestNoPackageIsForgotten(t *testing.T) {
	listed := map[string]bool{}
	for i := range testSuites {
		listed[testSuites[i].dir] = true
	}
	for dir := range suitesLeftOut {
		require.False(t, listed[dir], "%s runs and is left out", dir)
		listed[dir] = true
	}
	speaks := regexp.MustCompile(`\bbpftest\.(RequireBPF|New)\(|\bnetnstest\.[A-Z]|"REQUIRE_BPF"`)
	found := map[string]bool{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || !speaks.MatchString(testFiles(t, path)) {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if rel != "internal/vmtest" {
			found[rel] = true
		}
		return err
	}))
	require.Equal(t, found, listed, "each belongs into testSuites, or with a reason into suitesLeftOut")
}

func TestWhatIsLeftOutIsThere(t *testing.T) {
	for i := range testSuites {
		s := &testSuites[i]
		text := testFiles(t, filepath.Join(root, s.dir))
		for _, name := range append(slices.Collect(maps.Keys(s.leftOut)), s.old...) {
			require.Contains(t, text, "\nfunc "+name+"(t *testing.T)", s.dir)
		}
	}
}

func TestPlan(t *testing.T) {
	b := &built{netprobe: "netprobe", suites: []suite{
		{dir: "some/one"},
		{dir: "some/two", leftOut: map[string]string{"TestB": "", "TestA": ""}, old: []string{"TestC", "TestD"}},
	}}
	argv := func(series, run string) [][]string {
		var all [][]string
		for _, step := range b.plan(&kernel{series: series}, run).Steps {
			all = append(all, step.Argv)
		}
		return all
	}
	features := []string{"/init", "features", "/usr/bin/netprobe"}
	one, two := []string{"/test/one/one.test", "-test.v=test2json"}, []string{"/test/two/two.test", "-test.v=test2json"}
	with := func(argv []string, more ...string) []string { return append(slices.Clone(argv), more...) }
	require.Equal(t, [][]string{features, one, with(two, "-test.skip", "^TestA$|^TestB$")}, argv("6.12", ""))
	require.Equal(t, [][]string{features, one, with(two, "-test.skip", "^TestA$|^TestB$")}, argv("sid", ""))
	require.Equal(t, [][]string{features, one, with(two, "-test.run", "^TestC$|^TestD$")}, argv("5.10", ""))
	require.Equal(t, [][]string{features, one, with(two, "-test.run", "^TestC$|^TestD$")}, argv("6.1", ""))
	require.Equal(t, [][]string{features, with(one, "-test.run", "TestX"), with(two, "-test.run", "TestX")}, argv("5.10", "TestX"))

	step := b.plan(&kernel{series: "sid"}, "").Steps[2]
	require.Equal(t, "/test/two", step.Dir)
	require.Equal(t, []string{"REQUIRE_BPF=1"}, step.Env)
	b.netprobe = ""
	require.Equal(t, [][]string{one}, argv("sid", "")[:1])
}

func TestBuildOfNothing(t *testing.T) {
	t.Chdir(root)
	_, err := build(t.TempDir(), "netprobe", regexp.MustCompile("^nothing$"))
	require.ErrorContains(t, err, `matches "^nothing$"`)
}
