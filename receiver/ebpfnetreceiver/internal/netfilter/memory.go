// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netfilter

// MapBytes is about the kernel memory that the maps take: it is that of the notes.
func (p *Probe) MapBytes() uint64 {
	return uint64(p.programs.Notes.MaxEntries()) * uint64(p.programs.Notes.ValueSize())
}
