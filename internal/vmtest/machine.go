// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/netprobe-otel/netprobe/internal/vmtest/protocol"
)

// machine is one that is emulated: it needs no privilege and no support by the
// processor, and is some ten times slower than this one.
type machine struct {
	image, initrd string
	timeout       time.Duration
}

const (
	memoryMiB = "2048"
	cpus      = "2"
)

// run boots the machine, and hands on the lines of its output until it is off.
func (m *machine) run(ctx context.Context, each func(line string)) error {
	console, err := os.CreateTemp("", "vmtest-console-")
	if err != nil {
		return err
	}
	defer os.Remove(console.Name())
	defer console.Close()

	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", memoryMiB, "-smp", cpus,
		"-kernel", m.image, "-initrd", m.initrd,
		"-append", "console=ttyS0 panic=-1 loglevel=5 mitigations=off random.trust_cpu=on",
		"-serial", "file:"+console.Name(), "-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	done := false
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if mark, ok := protocol.Read(line); ok && mark.Done {
			done = true
		} else if line != "" {
			each(line)
		}
		if err != nil {
			break // it is off
		}
	}
	err = cmd.Wait()
	if done {
		return nil
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("the machine was still running after %s", m.timeout)
	}
	return fmt.Errorf("the machine did not come to its end (%w); its console ends with:\n%s", orUnknown(err), tail(console))
}

func orUnknown(err error) error {
	if err == nil {
		return errors.New("it went off by itself")
	}
	return err
}

// tail is the last of what a file has.
func tail(f *os.File) string {
	const length = 4000
	if st, err := f.Stat(); err == nil && st.Size() > length {
		if _, err := f.Seek(-length, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// initrd makes what the machine starts with.
func (k *kernel) initrd(dir string, b *built, plan *protocol.Plan) (string, error) {
	file := filepath.Join(dir, "initrd-"+k.series)
	return file, writeArchive(file, func(a *archive) error {
		if err := k.writeBase(a, b.guest); err != nil {
			return err
		}
		if err := b.addTo(a); err != nil {
			return err
		}
		return a.addPlan(plan)
	})
}
