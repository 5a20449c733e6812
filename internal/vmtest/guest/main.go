// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Guest is the whole userland of a kernel under test: PID 1 and modprobe in one
// static program. As PID 1 it mounts what eBPF tests want, runs the steps of
// the plan one after the other with their output on the second serial port,
// and powers the machine off. It also runs NetProbe, and tells its features.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/vmtest/protocol"
)

func main() {
	switch {
	case os.Getpid() == 1:
		pidOne()
	case filepath.Base(os.Args[0]) == "modprobe":
		os.Exit(modprobe(os.Args[1:]))
	case len(os.Args) == 3 && os.Args[1] == "features":
		if err := features(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "guest:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "guest: runs as PID 1, as modprobe, or as: guest features NETPROBE")
		os.Exit(2)
	}
}

// pidOne never returns: the end of PID 1 is a kernel panic.
func pidOne() {
	if err := boot(); err != nil {
		fmt.Println("guest:", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("guest: power off:", err)
	}
	select {}
}

func boot() error {
	if err := mountAll(); err != nil {
		return err
	}
	if err := settle(); err != nil {
		return err
	}
	text, err := os.ReadFile(protocol.PlanPath)
	if err != nil {
		return err
	}
	var plan protocol.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return fmt.Errorf("read %s: %w", protocol.PlanPath, err)
	}
	out, err := openSerial(protocol.OutputPort)
	if err != nil {
		return err
	}
	defer drain(out)
	for i := range plan.Steps {
		run(out, &plan.Steps[i])
		drain(out)
	}
	return protocol.Write(out, protocol.Mark{Done: true})
}

func mountAll() error {
	for _, m := range []struct{ fs, at, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
		{"devpts", "/dev/pts", ""},
		{"tmpfs", "/dev/shm", ""},
		{"tmpfs", "/run", ""},
		{"tmpfs", "/tmp", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
		{"bpf", "/sys/fs/bpf", "mode=0700"},
		{"tracefs", "/sys/kernel/tracing", ""},
		{"debugfs", "/sys/kernel/debug", ""},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.at, m.fs, 0, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fs, m.at, err)
		}
	}
	return nil
}

// settle makes the rest of what programs expect of a machine that is up.
func settle() error {
	errs := []error{
		os.Symlink("/proc/self/fd", "/dev/fd"),
		os.MkdirAll("/run/netns", 0o755),
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 65536, Max: 65536}),
		unix.Sethostname([]byte("vmtest")),
		os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
		os.Setenv("HOME", "/root"),
		loopbackUp(),
		loadModule("tun"), // nothing else makes /dev/net/tun
	}
	return errors.Join(errs...)
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(req))); errno != 0 {
		return fmt.Errorf("bring up the loopback: %w", errno)
	}
	return nil
}

// run runs a step and says how it ended.
func run(out *os.File, step *protocol.Step) {
	ctx, cancel := context.WithTimeout(context.Background(), step.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, step.Argv[0], step.Argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, step.Dir
	cmd.Env = append(os.Environ(), step.Env...)
	// What it started goes with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }

	began := time.Now()
	say(out, protocol.Mark{Step: step.Name, Began: true})
	end := protocol.Mark{Step: step.Name}
	if err := prepare(step); err != nil {
		end.Error = err.Error()
	} else if err := cmd.Run(); err != nil {
		end.Error = err.Error()
		if ctx.Err() != nil {
			end.Error = fmt.Sprintf("still running after %s", step.Timeout)
		}
	}
	end.Took = time.Since(began)
	say(out, end)
}

func prepare(step *protocol.Step) error {
	for _, name := range step.Modules {
		if err := loadModule(name); err != nil {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

// say tells the console where the host can no longer be told.
func say(out *os.File, m protocol.Mark) {
	if err := protocol.Write(out, m); err != nil {
		fmt.Println("guest:", err)
	}
}

// openSerial opens a serial port so that bytes arrive as they were written.
func openSerial(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err == nil {
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB|unix.CBAUD) | unix.CS8 | unix.CLOCAL | unix.B115200
		err = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up %s: %w", path, err), f.Close())
	}
	return f, nil
}

// drain waits until all has left the port.
func drain(f *os.File) {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1); err != nil {
		fmt.Println("guest: drain the serial port:", err)
	}
}
