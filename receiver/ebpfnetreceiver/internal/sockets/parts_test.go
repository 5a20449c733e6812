// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sockets

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

// typesWith gives the type information of a kernel that has these tracepoints.
func typesWith(t testing.TB, tracepoints ...string) *btf.Spec {
	var types []btf.Type
	for _, name := range tracepoints {
		types = append(types, &btf.Typedef{Name: "btf_trace_" + name, Type: &btf.Pointer{Target: &btf.Void{}}})
	}
	types = append(types, &btf.Int{Name: "int", Size: 4})
	builder, err := btf.NewBuilder(types, nil)
	require.NoError(t, err)
	raw, err := builder.Marshal(nil, nil)
	require.NoError(t, err)
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	require.NoError(t, err)
	return spec
}

func TestMissingTracepoint(t *testing.T) {
	types := typesWith(t, "inet_sock_set_state")
	require.NoError(t, haveTracepoint(types, "inet_sock_set_state", ""))
	require.EqualError(t, haveTracepoint(types, "tcp_send_reset", ""), "not supported: the kernel has no tracepoint tcp_send_reset")
	require.EqualError(t, haveTracepoint(types, "sock_send_length", "6.3"),
		"not supported: the kernel has no tracepoint sock_send_length (Linux 6.3 and later have)")
	require.Error(t, haveTracepoint(types, "set_state", ""), "part of a name")
}

// Without the tracepoints of TCP nothing works, and it is said which is missing.
func TestNothingWithoutTCP(t *testing.T) {
	bpftest.RequireBPF(t)
	spec, err := configured(Options{MaxEntries: 10, RingBufferBytes: 4096})
	require.NoError(t, err)
	p := &Probe{maps: map[string]*ebpf.Map{}, programs: map[string]*ebpf.Program{}}
	err = p.loadParts(typesWith(t, "inet_sock_set_state"), spec, nil)
	require.ErrorContains(t, err, "the kernel has no tracepoint tcp_destroy_sock")
	require.Empty(t, p.closers)
}

// Every part but TCP may be missing: this kernel has no tracepoint for it, or does not
// take one of its programs. The others work.
func TestPartsAlone(t *testing.T) {
	inNamespace(t)
	all := load(t)
	for i := range parts {
		part := &parts[i]
		if part.name == TCP || all.feature(part.name).Err != nil {
			continue
		}
		spec, err := configured(Options{MaxEntries: 100, RingBufferBytes: 4096, NetNS: netNS(t)})
		require.NoError(t, err)
		bad := spec.Programs[part.programs[len(part.programs)-1]]
		bad.Instructions = asm.Instructions{asm.Mov.Reg(asm.R0, asm.R9), asm.Return()} // R9 is nothing
		testPartMissing(t, all, spec, part.name, part.programs)
	}
}

func testPartMissing(t *testing.T, all *Probe, spec *ebpf.CollectionSpec, missing string, programs []string) {
	p := &Probe{maps: map[string]*ebpf.Map{}, programs: map[string]*ebpf.Program{}}
	defer func() { require.NoError(t, p.Close()) }()
	require.NoError(t, p.loadSpec(spec, Options{MaxEntries: 100}, nil))
	for _, f := range p.Features() {
		if f.Name == missing {
			require.ErrorContains(t, f.Err, "which is a bug in NetProbe")
			var verifier *ebpf.VerifierError
			require.True(t, errors.As(f.Err, &verifier))
		} else {
			require.Equal(t, all.feature(f.Name).Err, f.Err, f.Name)
		}
	}
	for name := range p.programs {
		require.False(t, slices.Contains(programs, name), "%s is of a part that is missing", name)
	}

	l := listen(t, "127.0.0.1:0")
	client, server := dial(t, l)
	send(t, client, server, 10)
	require.NoError(t, client.SetLinger(0))
	require.NoError(t, client.Close())
	_, err := server.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
	c, s := byRole(t, ends(t, p, 2))
	require.EqualValues(t, 10, c.Now.BytesSent)
	require.EqualValues(t, 10, s.Now.BytesReceived)
	require.Equal(t, missing != Resets, c.ResetSent)
	require.Equal(t, missing != Resets, s.ResetReceived)
	_, err = p.Health()
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// What is asked of Load.
func TestLoadRefuses(t *testing.T) {
	_, err := Load(Options{RingBufferBytes: 4096})
	require.EqualError(t, err, "watch sockets: room for at least one socket is needed")
	bpftest.RequireBPF(t)
	_, err = Load(Options{MaxEntries: 1, RingBufferBytes: 5000})
	require.ErrorContains(t, err, "watch sockets: load programs: ")
	bpftest.Without(t, func() {
		_, err = Load(Options{MaxEntries: 1, RingBufferBytes: 4096})
	}, unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_ADMIN)
	require.ErrorContains(t, err, "missing CAP_BPF (loads programs and maps), CAP_PERFMON (attaches to tracepoints and reads the kernel's sockets); run as root")
}

// It may be closed twice, and nothing is watched after that.
func TestClose(t *testing.T) {
	inNamespace(t)
	p, err := Load(Options{MaxEntries: 10, RingBufferBytes: 4096, NetNS: netNS(t)})
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	_, err = p.Read()
	require.Error(t, err)
}

// The memory that is said to be needed is what the kernel takes, about.
func TestMapBytes(t *testing.T) {
	inNamespace(t)
	opts := Options{MaxEntries: 65536, RingBufferBytes: 1 << 20}
	p := loadWith(t, opts)
	var locked uint64
	for name, m := range p.maps {
		info, err := m.Info()
		require.NoError(t, err)
		bytes, ok := info.Memlock()
		if !ok {
			t.Skip("the kernel does not tell")
		}
		locked += bytes
		t.Logf("%s %d", name, bytes)
	}
	require.InEpsilon(t, locked, opts.MapBytes(), 0.1)
}
