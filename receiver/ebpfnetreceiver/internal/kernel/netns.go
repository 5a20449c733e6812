// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"os"

	"golang.org/x/sys/unix"
)

// NetNS gives the inode number of the network namespace of this process.
func NetNS() (uint64, error) {
	return inode("/proc/self/ns/net")
}

// ThreadNetNS gives that of this thread, which may have entered another. Like
// all of them it is 32 bits wide (struct ns_common, include/linux/ns_common.h).
func ThreadNetNS() (uint64, error) {
	return inode("/proc/thread-self/ns/net")
}

// FirstPIDNS is the inode number of the PID namespace that has all processes
// (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const FirstPIDNS = 0xEFFFFFFC

// PIDNS gives the inode number of the PID namespace of this process.
func PIDNS() (uint64, error) {
	return inode("/proc/self/ns/pid")
}

func inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}
