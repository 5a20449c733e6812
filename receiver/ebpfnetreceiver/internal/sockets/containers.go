// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
)

// maxContainers bounds what is remembered of control groups.
const maxContainers = 16384

// containerID is what container runtimes name: 32 bytes in hexadecimal digits, bare
// (cgroupfs) or as cri-containerd-….scope, docker-….scope, crio-….scope or
// libpod-….scope (systemd).
var containerID = regexp.MustCompile(`(?:^|[-_])([0-9a-f]{64})(?:\.scope)?$`)

// container gives the ID of the container that a control group is of; "" for
// none. A process may be in a group below its container's.
func (d *decoder) container(cgroup uint64) string {
	if cgroup == 0 {
		return ""
	}
	if id, ok := d.containers[cgroup]; ok {
		return id
	}
	var names bpf.SocketsSocketCgroup
	if err := d.cgroups.Lookup(cgroup, &names); err != nil {
		return "" // displaced by others; asked again next time
	}
	id := containerOf(unix.ByteSliceToString(bytesOf(names.Name[:])), unix.ByteSliceToString(bytesOf(names.Parent[:])))
	if d.containers == nil || len(d.containers) >= maxContainers {
		d.containers = map[uint64]string{}
	}
	d.containers[cgroup] = id
	return id
}

func containerOf(names ...string) string {
	for _, name := range names {
		if m := containerID.FindStringSubmatch(name); m != nil {
			return m[1]
		}
	}
	return ""
}
