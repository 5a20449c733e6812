// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/internal/netnstest"
)

// What a copy of this program does instead of the tests: what it is told to by the
// environment, and then wait to be told to end.
const (
	helperReads    = "TEST_READS"    // it reads a byte from the connection that it has inherited
	helperConnects = "TEST_CONNECTS" // to this address
	helperListens  = "TEST_LISTENS"  // at this address, and accepts
	helperEnters   = "TEST_ENTERS"   // this control group, first
)

func TestMain(m *testing.M) {
	if os.Getenv(helperReads)+os.Getenv(helperConnects)+os.Getenv(helperListens) == "" {
		os.Exit(m.Run())
	}
	if err := help(); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

func help() error {
	if group := os.Getenv(helperEnters); group != "" {
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
			return err
		}
	}
	if os.Getenv(helperReads) != "" {
		if _, err := io.ReadFull(os.NewFile(3, "inherited"), make([]byte, 1)); err != nil {
			return err
		}
	}
	if address := os.Getenv(helperConnects); address != "" {
		if _, err := net.Dial("tcp", address); err != nil {
			return err
		}
	}
	if address := os.Getenv(helperListens); address != "" {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = c.Write([]byte("x"))
			}
		}()
	}
	os.Stdout.WriteString("ready\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// helper starts a copy of this program in the thread's network namespace, and returns
// when it has done what it was told to. Its executable has a long name.
func helper(t testing.TB, inherits *os.File, env ...string) *exec.Cmd {
	name := filepath.Join(t.TempDir(), helperName)
	self, err := os.Executable()
	require.NoError(t, err)
	program, err := os.ReadFile(self)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name, program, 0o755))
	cmd := exec.Command(name)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	if inherits != nil {
		cmd.ExtraFiles = []*os.File{inherits}
	}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	ready := make([]byte, len("ready\n"))
	_, err = io.ReadFull(stdout, ready)
	require.NoError(t, err)
	return cmd
}

const helperName = "longer-than-what-the-kernel-has-of-it-for-a-task"

// The executable's name is cut where there is no more room.
var helperShown = helperName[:47]

func TestProcessThatConnects(t *testing.T) {
	p := here(t)
	l := listen(t, "127.0.0.1:0")
	cmd := helper(t, nil, helperConnects+"="+l.Addr().String())
	server := accept(t, l)
	c, s := byRole(t, live(t, p))
	require.Equal(t, flow.Process{PID: uint32(cmd.Process.Pid), Name: helperShown}, c.Process)
	require.EqualValues(t, os.Getpid(), s.Process.PID)
	require.Contains(t, s.Process.Name, ".test")

	require.NoError(t, cmd.Process.Kill())
	readEnd(t, server)
	require.NoError(t, server.Close())
	c, _ = byRole(t, ends(t, p, 2))
	require.Equal(t, flow.Process{PID: uint32(cmd.Process.Pid), Name: helperShown}, c.Process, "also when it was killed")
}

// A server that is killed before it has read: when its sockets are closed it has no
// executable any more.
func TestProcessThatIsKilled(t *testing.T) {
	p := here(t)
	const address = "127.0.0.1:5555"
	cmd := helper(t, nil, helperListens+"="+address)
	client, err := net.Dial("tcp", address)
	require.NoError(t, err)
	_, err = io.ReadFull(client, make([]byte, 1)) // it has been accepted
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	readEnd(t, client)
	require.NoError(t, client.Close())
	_, s := byRole(t, ends(t, p, 2))
	require.Equal(t, flow.Process{PID: uint32(cmd.Process.Pid), Name: helperShown}, s.Process)
}

// A server that hands what it accepts to others: they are whose it is when they read.
func TestProcessThatReads(t *testing.T) {
	p := here(t)
	l := listen(t, "127.0.0.1:0")
	client, server := dial(t, l)
	_, s := byRole(t, live(t, p))
	require.EqualValues(t, os.Getpid(), s.Process.PID)
	_, err := client.Write([]byte("x"))
	require.NoError(t, err)
	file, err := server.File()
	require.NoError(t, err)
	require.NoError(t, server.Close())
	cmd := helper(t, file, helperReads+"=1")
	require.NoError(t, file.Close())

	c, s := byRole(t, live(t, p))
	require.Equal(t, flow.Process{PID: uint32(cmd.Process.Pid), Name: helperShown}, s.Process)
	require.EqualValues(t, os.Getpid(), c.Process.PID)
	require.NoError(t, cmd.Process.Kill())
	readEnd(t, client)
	require.NoError(t, client.Close())
	_, s = byRole(t, ends(t, p, 2))
	require.Equal(t, flow.Process{PID: uint32(cmd.Process.Pid), Name: helperShown}, s.Process)
}

// A process that has a connection open but has not read from it yet when the probe
// comes.
func TestProcessBefore(t *testing.T) {
	inNamespace(t)
	l := listen(t, "127.0.0.1:0")
	cmd := helper(t, nil, helperConnects+"="+l.Addr().String())
	accept(t, l)
	p := load(t)
	need(t, p, Existing)
	c, s := byRole(t, live(t, p))
	require.Equal(t, flow.Process{PID: uint32(cmd.Process.Pid), Name: helperShown}, c.Process)
	require.EqualValues(t, os.Getpid(), s.Process.PID)
}

// hierarchies gives where control groups of version 2, and those of the memory
// controller of version 1, can be made.
func hierarchies(t testing.TB) (places []string) {
	for _, path := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"} {
		if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); err == nil {
			places = append(places, path)
		}
	}
	if len(places) == 0 {
		t.Skip("no control groups here")
	}
	return places
}

func TestContainers(t *testing.T) {
	p := here(t)
	l := listen(t, "127.0.0.1:0")
	id := strings.Repeat("0123456789abcdef", 4)
	for _, place := range hierarchies(t) {
		place = filepath.Join(place, "netprobe-test-"+strconv.Itoa(os.Getpid()))
		require.NoError(t, os.Mkdir(place, 0o755))
		t.Cleanup(func() { removeGroups(t, place) })
		for _, test := range []struct{ group, want string }{
			{id, id},
			{"docker-" + id + ".scope", id},
			{"cri-containerd-" + id + ".scope", id},
			{"libpod-" + id + ".scope/init", id},
			{id[:63], ""},
			{"pod-" + id[:36] + ".slice", ""},
		} {
			group := filepath.Join(place, test.group)
			require.NoError(t, os.MkdirAll(group, 0o755))
			cmd := helper(t, nil, helperConnects+"="+l.Addr().String(), helperEnters+"="+group)
			server := accept(t, l)
			c := at(t, server.RemoteAddr(), live(t, p))
			require.Equal(t, flow.Process{PID: uint32(cmd.Process.Pid), Name: helperShown, ContainerID: test.want}, c.Process, group)
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait()
		}
	}
}

// removeGroups removes all groups from top on.
func removeGroups(t testing.TB, top string) {
	entries, err := os.ReadDir(top)
	require.NoError(t, err)
	for _, entry := range entries {
		if entry.IsDir() {
			removeGroups(t, filepath.Join(top, entry.Name()))
		}
	}
	netnstest.Eventually(t, func() bool { return os.Remove(top) == nil }, "the control group to be empty")
}
