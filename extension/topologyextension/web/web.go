// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package web has the page that the topology extension serves, as it was built. It knows
// nothing of the API that the page reads.
package web

import (
	"embed"
	"io/fs"
)

// all: because the bundler may name a file with a leading underscore, which is else left out.
//
//go:embed all:dist
var dist embed.FS

// FS gives the page's files: index.html, and what it asks for below assets/.
func FS() fs.FS {
	sub, err := fs.Sub(dist, "dist")
	if err != nil { // only for a name that is not a path
		panic(err)
	}
	return sub
}
