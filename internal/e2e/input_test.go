// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestBadConfigurationIsRefusedByItsPath(t *testing.T) {
	l := newLab(t)
	for _, tt := range []struct {
		name     string
		receiver string
		want     []string // all of it is in the error, after the receiver's own path
	}{
		{"bad include pattern", `{interfaces: {include: [np0, "[a"]}}`,
			[]string{`interfaces::include[1]: "[a": syntax error in pattern`}},
		{"bad exclude pattern", `{interfaces: {exclude: ["a\\"]}}`,
			[]string{`interfaces::exclude[0]: "a\\": syntax error in pattern`}},
		{"empty pattern", `{interfaces: {include: [""]}}`,
			[]string{`interfaces::include[0]: is empty`}},
		{"no pattern", `{interfaces: {include: []}}`,
			[]string{`interfaces::include: needs at least one pattern`}},
		{"no interfaces", `{interfaces: {max_entries: 0}}`,
			[]string{`interfaces::max_entries: 0 is not from 1 to 1048576`}},
		{"short interval", `{interval: 99ms}`,
			[]string{`interval: 99ms is under the minimum of 100ms`}},
		{"negative interval", `{interval: -5s}`,
			[]string{`interval: -5s is under the minimum of 100ms`}},
		{"interval that is none", `{interval: soon}`,
			[]string{"'interval' time: invalid duration"}},
		{"unknown TC mode", `{tc: {mode: fast}}`,
			[]string{`tc::mode: "fast" is none of ["off" "auto" "tcx" "clsact"]`}},
		{"unknown XDP mode", `{xdp: {mode: tcx}}`,
			[]string{`xdp::mode: "tcx" is none of ["off" "auto" "native" "generic"]`}},
		{"nothing to do", `{tc: {mode: "off"}, sockets: {mode: "off"}, drops: {mode: "off"}}`,
			[]string{`tc::mode, xdp::mode, sockets::mode, drops::mode and netfilter::mode: all are off`}},
		{"no flows", `{flows: {max_entries: 0}}`,
			[]string{`flows::max_entries: 0 is not from 1 to 16777216`}},
		{"unknown flow map", `{flows: {map: lru}}`,
			[]string{`flows::map: "lru" is none of ["auto" "shared" "per_cpu"]`}},
		{"no series", `{flows: {max_series: -1}}`,
			[]string{`flows::max_series: -1 is not at least 1`}},
		{"odd ring buffer", `{ring_buffer_bytes: 5000}`,
			[]string{`ring_buffer_bytes: 5000 is not a power of two from 4096 to 1073741824`}},
		{"unknown error mode", `{error_mode: panic}`,
			[]string{`error_mode: "panic" is none of ["propagate" "ignore"]`}},
		{"unknown key", `{intervall: 5s}`,
			[]string{"invalid keys: intervall"}},
		{"unknown metric", `{metrics: {netprobe.interface.rx.frames: {enabled: true}}}`,
			[]string{"invalid keys: netprobe.interface.rx.frames"}},
		{"several at once", `{interval: 1ms, xdp: {mode: fast}, interfaces: {include: ["["]}}`,
			[]string{`interval: 1ms`, `xdp::mode: "fast"`, `interfaces::include[0]: "["`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := l.near.launch(t, command(config(tt.receiver)))
			require.Equal(t, 1, p.wait(t).ExitCode())
			// the collector's own words where the configuration cannot even be read
			require.Regexp(t, `receivers::ebpfnet: |error reading configuration for "ebpfnet": `, p.output.String())
			for _, want := range tt.want {
				require.Contains(t, p.output.String(), want)
			}
		})
	}
}

func TestPatternThatMatchesNothingYet(t *testing.T) {
	l := newLab(t)
	a := start(t, l.near, `{interfaces: {include: ["np*", lo], exclude: []}, interval: 200ms}`)
	require.Contains(t, a.output.String(), "No interface matches yet; waiting for one")
	require.Contains(t, a.output.String(), `"interfaces::include": "np*"`)
	require.NotContains(t, a.output.String(), `"interfaces::include": "lo"`)

	k := l.link(t, "np0")
	k.waitWatched(t)
	k.up(t)
	k.traffic(t)
	a.requireAgreement(t, "np0", k.kernel)
}

// nobody is who runs a command without privileges; the binary is handed to it
// open, as it may lie where only root may look.
func nobody(t *testing.T, cmd *exec.Cmd, capabilities ...uintptr) *exec.Cmd {
	t.Helper()
	binary, err := os.Open(cmd.Path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, binary.Close()) })
	cmd.Path = "/proc/self/fd/3"
	cmd.ExtraFiles = []*os.File{binary}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: 65534, Gid: 65534},
		AmbientCaps: capabilities,
	}
	return cmd
}

const (
	missingBPF      = "CAP_BPF (loads programs and maps)"
	missingNetAdmin = "CAP_NET_ADMIN (attaches programs to interfaces)"
	missingPerfmon  = "CAP_PERFMON (lets programs read packets directly)"
	whatToDo        = "; run as root, or grant these capabilities (setcap, systemd AmbientCapabilities=, container securityContext)"
)

func TestMissingPrivilegeIsNamed(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	k.up(t)
	for _, tt := range []struct {
		name    string
		command func(t *testing.T, cmd *exec.Cmd) *exec.Cmd
		want    string
	}{
		{"user without capabilities", func(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
			return nobody(t, cmd)
		}, "missing " + missingBPF + ", " + missingNetAdmin + ", " + missingPerfmon + whatToDo},
		{"root without capabilities", func(_ *testing.T, cmd *exec.Cmd) *exec.Cmd {
			dropped := exec.Command("setpriv", append([]string{"--bounding-set=-all", "--inh-caps=-all"}, cmd.Args...)...)
			dropped.Env = cmd.Env
			return dropped
		}, "missing " + missingBPF + ", " + missingNetAdmin + ", " + missingPerfmon + whatToDo},
		{"no CAP_BPF", func(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
			return nobody(t, cmd, unix.CAP_NET_ADMIN, unix.CAP_PERFMON)
		}, "missing " + missingBPF + whatToDo},
		{"no CAP_NET_ADMIN", func(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
			return nobody(t, cmd, unix.CAP_BPF, unix.CAP_PERFMON)
		}, "missing " + missingNetAdmin + whatToDo},
		{"no CAP_PERFMON", func(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
			return nobody(t, cmd, unix.CAP_BPF, unix.CAP_NET_ADMIN)
		}, "missing " + missingPerfmon + whatToDo},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := l.near.launch(t, tt.command(t, command(config(`{}`))))
			require.Equal(t, 1, p.wait(t).ExitCode())
			require.Contains(t, p.output.String(), ": "+tt.want)
			require.Equal(t, attachments{}, k.attached(t))
		})
	}
}

func TestNamedPrivilegesAreEnough(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	a := &agent{host: l.near, sink: newSink(t, l.near)}
	a.process = l.near.launch(t, nobody(t, command(config(`{interval: 200ms, xdp: {mode: native}}`)),
		unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON))
	a.waitReady(t)
	k.waitWatched(t)
	require.Equal(t, uint32(xdpNative), k.attached(t).XDP.Mode)
	for _, missing := range []string{"No connections are watched", "A part of connections is not watched", "Nothing that the kernel drops is counted"} {
		require.NotContains(t, a.output.String(), missing)
	}
	// processes of other users too
	k.up(t)
	k.pairings()[0].tcp(t, 10)
	r := a.sink.connection(t, l.near, map[string]any{"destination.address": k.far4.String(), "netprobe.connection.phase": "close"})
	requireProcess(t, r, executable(t), os.Getpid())
	require.True(t, a.stop(t, syscall.SIGTERM).Success())
	require.Equal(t, attachments{}, k.attached(t))
}

func TestErrorModeIgnoreGoesOnWithoutPrivilege(t *testing.T) {
	l := newLab(t)
	l.link(t, "np0").up(t)
	a := &agent{host: l.near, sink: newSink(t, l.near)}
	a.process = l.near.launch(t, nobody(t, command(config(`{error_mode: ignore}`))))
	a.waitReady(t)
	require.Contains(t, a.output.String(), "Receives nothing, because eBPF cannot be used here and error_mode is ignore")
	require.Contains(t, a.output.String(), "missing "+missingBPF)
	for name := range l.near.scrape(t, prometheusURL) {
		require.NotContains(t, name, "netprobe")
	}
	require.True(t, a.stop(t, syscall.SIGTERM).Success())
}

// configFiles are those that come with NetProbe.
func configFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../config/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

// onTopOf are the files that are given after another one.
var onTopOf = map[string]string{"gateway-kubernetes.yaml": "../../config/gateway.yaml"}

func TestConfigFilesAreValid(t *testing.T) {
	l := newLab(t)
	for _, file := range configFiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			args := []string{"validate"}
			if base, ok := onTopOf[filepath.Base(file)]; ok {
				args = append(args, "--config="+base)
			}
			cmd := exec.Command(os.Getenv("NETPROBE_BIN"), append(args, "--config="+file)...)
			cmd.Env = append(os.Environ(), "K8S_NODE_NAME=n1") // as in each pod
			p := l.near.launch(t, cmd)
			require.True(t, p.wait(t).Success())
		})
	}
}

func TestDefaultConfigFileDoesAsItSays(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	cmd := exec.Command(os.Getenv("NETPROBE_BIN"), "--config=../../config/netprobe.yaml", "--set=receivers::ebpfnet::interval=200ms")
	a := &agent{host: l.near, process: l.near.launch(t, cmd)}
	a.waitReady(t)
	k.up(t)
	k.traffic(t)
	a.requireAgreement(t, "np0", k.kernel)
	requireNothingLost(t, a)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.Positive(c, l.near.scrape(c, prometheusURL).sum("netprobe_flow_bytes_total", nil))
	}, patience, glance)
}
