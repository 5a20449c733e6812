// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKernelPattern(t *testing.T) {
	for series, want := range map[string]map[string]bool{
		"5.10": {
			"linux-image-5.10.0-46-cloud-amd64": true, "linux-image-5.10.0-46-amd64": false,
			"linux-image-5.100.0-46-cloud-amd64": false, "linux-image-5.10.0-46-cloud-amd64-dbg": false,
			"linux-headers-5.10.0-46-cloud-amd64": false,
		},
		"6.12": {
			"linux-image-6.12.118+deb13-cloud-amd64": true, "linux-image-6.12.117+deb12-cloud-amd64": true,
			"linux-image-6.12.118+deb13-cloud-amd64-unsigned": false, "linux-image-6.12.118+deb13-rt-amd64": false,
		},
		"sid": {"linux-image-7.2.13+deb14-cloud-amd64": true, "linux-image-6.1.0-56-cloud-amd64": false},
	} {
		pattern, err := kernelPattern(series)
		require.NoError(t, err)
		for name, is := range want {
			require.Equal(t, is, pattern.MatchString(name), "%s %s", series, name)
		}
	}
	for _, series := range []string{"", "6", "6.1.0", "6.*", "trixie"} {
		_, err := kernelPattern(series)
		require.Error(t, err, series)
	}
}

func TestNewest(t *testing.T) {
	require.Equal(t, "linux-image-6.1.0-103-cloud-amd64", newest([]string{
		"linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-103-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64",
	}))
	require.Equal(t, "linux-image-6.12.100+deb13-cloud-amd64", newest([]string{
		"linux-image-6.12.100+deb13-cloud-amd64", "linux-image-6.12.99+deb14-cloud-amd64", "linux-image-6.12.100+deb12-cloud-amd64",
	}))
}

func TestMissing(t *testing.T) {
	require.NoError(t, missing(map[string]string{"go": "golang"}))
	err := missing(map[string]string{"go": "golang", "no-such-program": "some-package", "nor-this": "another", "nor-that": "another"})
	require.EqualError(t, err, "these packages are missing, install them as root: apt-get install another some-package")
}

func TestPlaceOfTheCache(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", dir)
	t.Setenv("VMTEST_CACHE", "")
	c, err := openCache()
	require.NoError(t, err)
	require.Equal(t, cache(dir+"/netprobe-vmtest"), c)
	require.DirExists(t, c.path())

	t.Setenv("VMTEST_CACHE", dir+"/mine")
	c, err = openCache()
	require.NoError(t, err)
	require.Equal(t, dir+"/mine/5.10/tree", c.path("5.10", "tree"))
}
