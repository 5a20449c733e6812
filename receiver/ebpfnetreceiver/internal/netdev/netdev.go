// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package netdev follows the network interfaces of this network namespace as
// they come, go and are renamed, knows how packets get from one to the next, and
// so which of several sightings of a packet is the one that counts. It knows
// nothing of programs, routes or addresses.
package netdev // import "github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/netdev"

import (
	"errors"
	"fmt"
	"path"

	"github.com/vishvananda/netlink"
)

// List gives all interfaces by index.
func List() (map[int]Interface, error) {
	var links []netlink.Link
	var err error
	// A dump that changes met is cut short and says so; the next one will do.
	for range 10 {
		links, err = netlink.LinkList()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	all := make(map[int]Interface, len(links))
	for _, l := range links {
		iface := fromLink(l)
		all[iface.Index] = iface
	}
	return all, nil
}

// Filter chooses interfaces by the name. Patterns are those of path.Match.
type Filter struct {
	Include []string
	Exclude []string
}

// Match says whether the name matches an included pattern and no excluded one.
// A bad pattern matches nothing.
func (f Filter) Match(name string) bool {
	return matchAny(f.Include, name) && !matchAny(f.Exclude, name)
}

// Unmatched gives the included patterns that none of the names match.
func (f Filter) Unmatched(all map[int]Interface) []string {
	var unmatched []string
	for _, pattern := range f.Include {
		found := false
		for _, iface := range all {
			found = found || f.Match(iface.Name) && matchAny([]string{pattern}, iface.Name)
		}
		if !found {
			unmatched = append(unmatched, pattern)
		}
	}
	return unmatched
}

func matchAny(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return false
}
