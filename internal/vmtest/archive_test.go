// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// member is what the archive has under a name.
type member struct {
	name, data string
	mode       int
}

// members reads an archive as the kernel's description of the format has it.
func members(t *testing.T, b []byte) []member {
	t.Helper()
	var all []member
	aligned := func(n int) int { return (n + 3) &^ 3 }
	for at := 0; ; {
		header := string(b[at : at+110])
		require.True(t, strings.HasPrefix(header, "070701"), "at %d", at)
		field := func(i int) int {
			n, err := strconv.ParseInt(header[6+8*i:14+8*i], 16, 64)
			require.NoError(t, err)
			return int(n)
		}
		name := string(b[at+110 : at+110+field(11)-1])
		data := aligned(at + 110 + field(11))
		if name == "TRAILER!!!" {
			return all
		}
		all = append(all, member{name, string(b[data : data+field(6)]), field(1)})
		at = aligned(data + field(6))
	}
}

func TestArchive(t *testing.T) {
	var b bytes.Buffer
	a := newArchive(&b)
	a.link("lib", "usr/lib")
	a.file("/usr/lib/a", 0o644, "12345")
	a.file("usr/lib/a", 0o644, "the second of its name")
	a.file("usr/bin/b", 0o755, "")
	a.dir("/usr/bin")
	a.device("dev/null", 1, 3)
	require.NoError(t, a.close())
	require.Zero(t, b.Len()%512)
	require.Equal(t, []member{
		{"lib", "usr/lib", 0o120777},
		{"usr", "", 0o040755}, {"usr/lib", "", 0o040755}, {"usr/lib/a", "12345", 0o100644},
		{"usr/bin", "", 0o040755}, {"usr/bin/b", "", 0o100755},
		{"dev", "", 0o040755}, {"dev/null", "", 0o020600},
	}, members(t, b.Bytes()))
}
