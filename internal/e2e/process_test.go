// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// process is a program that runs in a namespace, not longer than its test.
type process struct {
	cmd    *exec.Cmd
	output *output
	exited chan struct{}
}

// output collects what a process writes, for readers while it still does.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// execute runs a command in the namespace until it ends well. Until then the namespace
// does nothing else that it is asked for.
func (n *namespace) execute(t *testing.T, input, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	require.NoError(t, n.in(func() error {
		output, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", cmd, err, output)
		}
		return nil
	}))
}

// launch starts cmd in the namespace.
func (n *namespace) launch(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, output: &output{}, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// the parent is the namespace's thread, which lives as long as the test
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	require.NoError(t, n.in(cmd.Start))
	go func() {
		_ = cmd.Wait() // an error of the process is in its state
		close(p.exited)
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); !errors.Is(err, os.ErrProcessDone) {
			require.NoError(t, err)
		}
		<-p.exited
		if t.Failed() {
			t.Logf("%s wrote:\n%s", cmd, p.output)
		}
	})
	return p
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// wait waits until the process has ended.
func (p *process) wait(t *testing.T) *os.ProcessState {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		require.FailNow(t, "still running", "%s", p.cmd)
	}
	return p.cmd.ProcessState
}

// stop sends a signal and waits until the process has ended.
func (p *process) stop(t *testing.T, signal syscall.Signal) *os.ProcessState {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(signal))
	return p.wait(t)
}
