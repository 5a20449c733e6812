// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cache is a directory with what was downloaded: kernels stay as they are until
// they are removed from it.
type cache string

func openCache() (cache, error) {
	dir := os.Getenv("VMTEST_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find a place for kernels (or set VMTEST_CACHE): %w", err)
		}
		dir = filepath.Join(base, "netprobe-vmtest")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return cache(dir), os.MkdirAll(dir, 0o755)
}

func (c cache) path(elem ...string) string {
	return filepath.Join(append([]string{string(c)}, elem...)...)
}

// Suites of Debian that have a kernel of each series.
var suites = []string{"bullseye", "bookworm", "trixie", "sid"}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Where Debian is, for a system that does not say.
const (
	mirror         = "http://deb.debian.org/debian"
	securityMirror = "http://deb.debian.org/debian-security"
)

// systemMirrors gives the mirrors that this system takes its packages from, that
// of security updates last.
func systemMirrors() (main, security string) {
	main, security = mirror, securityMirror
	var files []string
	for _, pattern := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"} {
		found, err := filepath.Glob(pattern)
		if err == nil {
			files = append(files, found...)
		}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it is as if it were not there
		}
		for _, uri := range regexp.MustCompile(`(?m)^(?:URIs:|deb(?: \[[^]]*\])?)\s+(\S+)`).FindAllStringSubmatch(string(text), -1) {
			switch at := strings.TrimSuffix(uri[1], "/"); {
			case strings.HasSuffix(at, "/debian-security"):
				security = at
			case strings.HasSuffix(at, "/debian"):
				main = at
			}
		}
	}
	return main, security
}

// apt runs one of apt's programs on package lists of our own: those of the system
// have its own release only.
func (c cache) apt(dir string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+c.path("apt", "apt.conf"), "DEBIAN_FRONTEND=noninteractive")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// listAge is how old lists of packages may be for a kernel that is not there yet.
const listAge = 24 * time.Hour

func (c cache) updateLists() error {
	stamp := c.path("apt", "updated")
	if st, err := os.Stat(stamp); err == nil && time.Since(st.ModTime()) < listAge {
		return nil
	}
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("kernels are checked with Debian's keys (package debian-archive-keyring): %w", err)
	}
	for _, dir := range []string{"parts", "preferences", "lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(c.path("apt", dir), 0o755); err != nil {
			return err
		}
	}
	main, security := systemMirrors()
	var sources strings.Builder
	for _, suite := range suites {
		fmt.Fprintf(&sources, "deb [signed-by=%s] %s %s main\n", keyring, main, suite)
		if suite != "sid" {
			fmt.Fprintf(&sources, "deb [signed-by=%s] %s %s-security main\n", keyring, security, suite)
		}
	}
	conf := fmt.Sprintf(`Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "%[1]s/parts";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "%[1]s/preferences";
Dir::State::lists "%[1]s/lists";
Dir::Cache "%[1]s/cache";
APT::Sandbox::User "root";
APT::Architecture "amd64";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
`, c.path("apt"))
	for name, text := range map[string]string{"sources.list": sources.String(), "apt.conf": conf} {
		if err := os.WriteFile(c.path("apt", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if _, err := c.apt("", "apt-get", "-qq", "update"); err != nil {
		return err
	}
	return os.WriteFile(stamp, nil, 0o644)
}

// kernelPattern matches Debian's packages of a series: those for virtual machines,
// which are small.
func kernelPattern(series string) (*regexp.Regexp, error) {
	if series == "sid" {
		return regexp.MustCompile(`^linux-image-[0-9.]+\+deb[0-9]+-cloud-amd64$`), nil
	}
	if !regexp.MustCompile(`^[0-9]+\.[0-9]+$`).MatchString(series) {
		return nil, fmt.Errorf("kernel %q is neither a series, such as 6.12, nor sid", series)
	}
	return regexp.MustCompile(`^linux-image-` + regexp.QuoteMeta(series) + `\.[0-9]+(-[0-9]+|\+deb[0-9]+)-cloud-amd64$`), nil
}

// newest gives the name of the highest version, numbers in it compared as such.
func newest(names []string) string {
	return slices.MaxFunc(names, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
}

func numbers(s string) []int {
	var all []int
	for _, digits := range regexp.MustCompile(`[0-9]+`).FindAllString(s, -1) {
		n, err := strconv.Atoi(digits)
		if err == nil {
			all = append(all, n)
		}
	}
	return all
}

// kernel is one that was unpacked.
type kernel struct {
	series  string
	release string // as Debian names it, such as 6.1.0-56
	tree    string
	image   string
}

// kernel gives the newest of a series, downloaded if there is none yet.
func (c cache) kernel(series string) (*kernel, error) {
	dir := c.path(series)
	named := filepath.Join(dir, "package")
	name, err := os.ReadFile(named)
	if errors.Is(err, os.ErrNotExist) {
		if err = c.downloadKernel(series, dir); err == nil {
			name, err = os.ReadFile(named)
		}
	}
	if err != nil {
		return nil, err
	}
	release := strings.TrimSuffix(strings.TrimPrefix(string(name), "linux-image-"), "-cloud-amd64")
	k := &kernel{series: series, release: release, tree: filepath.Join(dir, "tree")}
	err = filepath.WalkDir(k.tree, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), "vmlinuz") {
			k.image = path
		}
		return err
	})
	if err == nil && k.image == "" {
		err = fmt.Errorf("find vmlinuz in %s: %w", dir, os.ErrNotExist)
	}
	return k, err
}

// downloadKernel leaves the name of the package when all else is done.
func (c cache) downloadKernel(series, dir string) error {
	pattern, err := kernelPattern(series)
	if err != nil {
		return err
	}
	if err := c.updateLists(); err != nil {
		return err
	}
	all, err := c.apt("", "apt-cache", "pkgnames", "linux-")
	if err != nil {
		return err
	}
	names := strings.Fields(all)
	images := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !pattern.MatchString(name) })
	if len(images) == 0 {
		return fmt.Errorf("Debian's %s have no kernel %s", strings.Join(suites, ", "), series)
	}
	image := newest(images)
	fmt.Fprintf(os.Stderr, "vmtest: downloading %s\n", image)
	packages := []string{image}
	// newer packages of kernels are in parts
	for _, part := range []string{"binary", "modules", "base"} {
		name := strings.Replace(image, "image", part, 1)
		if slices.Contains(names, name) {
			packages = append(packages, name)
		}
	}
	tree := filepath.Join(dir, "tree")
	if err := c.unpack(packages, tree); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "package"), []byte(image), 0o644)
}

// unpack makes a tree of the files of packages.
func (c cache) unpack(packages []string, tree string) error {
	debs, err := os.MkdirTemp(string(c), "debs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(debs)
	if _, err := c.apt(debs, append([]string{"apt-get", "-qq", "download"}, packages...)...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(tree), os.MkdirAll(tree, 0o755)); err != nil {
		return err
	}
	for _, file := range files {
		if out, err := exec.Command("dpkg-deb", "-x", file, tree).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", filepath.Base(file), err, out)
		}
	}
	return nil
}

// missing are programs that are needed and not here, by their packages.
func missing(programs map[string]string) error {
	var packages []string
	for program, pkg := range programs {
		if _, err := exec.LookPath(program); err != nil && !slices.Contains(packages, pkg) {
			packages = append(packages, pkg)
		}
	}
	if len(packages) == 0 {
		return nil
	}
	slices.SortFunc(packages, cmp.Compare[string])
	return fmt.Errorf("these packages are missing, install them as root: apt-get install %s", strings.Join(packages, " "))
}
