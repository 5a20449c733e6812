// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Under the page's policy whatever is not a file of its own is not loaded.
func TestIndexAsksForItsOwnFilesOnly(t *testing.T) {
	index, err := fs.ReadFile(FS(), "index.html")
	require.NoError(t, err)

	refs := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllSubmatch(index, -1)
	require.NotEmpty(t, refs)
	for _, ref := range refs {
		require.Regexp(t, `^assets/[a-z.]+$`, string(ref[1]))
		_, err := fs.Stat(FS(), string(ref[1]))
		require.NoError(t, err)
	}
	require.NotRegexp(t, `<style|<script>|<script [^>]*>[^<]| style=| on[a-z]+=`, string(index), "inline code or style")

	css, err := fs.ReadFile(FS(), "assets/style.css")
	require.NoError(t, err)
	require.NotRegexp(t, `url\(|@import`, string(css))
}

// The page is committed as it was built, and tests run where there is no Node: the list of
// sums, which a build writes, tells whether somebody changed a source and did not build.
func TestBuiltFromTheseSources(t *testing.T) {
	const build = "run 'make page' and commit what it changes"
	list, err := os.Open("page.sha256")
	require.NoError(t, err)
	defer list.Close()

	listed := map[string]bool{}
	for lines := bufio.NewScanner(list); lines.Scan(); {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		require.True(t, ok, lines.Text())
		data, err := os.ReadFile(filepath.FromSlash(name))
		require.NoError(t, err, build)
		got := sha256.Sum256(data)
		require.Equal(t, sum, hex.EncodeToString(got[:]), "%s was changed: %s", name, build)
		listed[name] = true
	}
	for _, dir := range []string{"src", "dist"} {
		require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				require.True(t, listed[filepath.ToSlash(path)], "%s is new: %s", path, build)
			}
			return err
		}))
	}
	require.True(t, listed["dist/assets/app.js"] && listed["src/main.tsx"] && listed["package-lock.json"])
}

// Who builds takes packages from the registry that npm is set to, with the sums of the lock.
func TestLockNamesNoDownloadAddress(t *testing.T) {
	data, err := os.ReadFile("package-lock.json")
	require.NoError(t, err)
	var lock struct {
		Packages map[string]struct {
			Resolved  string `json:"resolved"`
			Integrity string `json:"integrity"`
		} `json:"packages"`
	}
	require.NoError(t, json.Unmarshal(data, &lock))
	require.Greater(t, len(lock.Packages), 10)
	for name, p := range lock.Packages {
		require.Empty(t, p.Resolved, name)
		if name != "" {
			require.NotEmpty(t, p.Integrity, name)
		}
	}
}
