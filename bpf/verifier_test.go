// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/bpftest"
)

var (
	stackDepths = regexp.MustCompile(`(?m)^stack depth ([0-9+]+)`)
	processed   = regexp.MustCompile(`(?m)^processed ([0-9]+) insns`)
)

// Newer kernels take a program that older ones refuse: those round what each
// function takes of the stack up to 32 bytes (round_up_stack_depth,
// kernel/bpf/verifier.c) and allow 512 in all. And they follow more instructions
// of the million that they allow: 5.10 and 6.1 up to nine times as many as 6.18.
func TestProgramsFitOldVerifiers(t *testing.T) {
	bpftest.RequireBPF(t)
	for _, load := range objects {
		spec, err := load()
		require.NoError(t, err)
		removeMissing(t, spec)
		testFitsOldVerifiers(t, spec)
	}
}

// removeMissing leaves what this kernel can load: those before 6.4 have no programs
// at netfilter's hooks, those before 6.3 not all tracepoints.
func removeMissing(t *testing.T, spec *ebpf.CollectionSpec) {
	t.Helper()
	err := features.HaveProgramType(ebpf.Netfilter)
	if err != nil {
		require.ErrorIs(t, err, ebpf.ErrNotSupported)
	}
	kernel, btfErr := btf.LoadKernelSpec()
	require.NoError(t, btfErr)
	maps.DeleteFunc(spec.Programs, func(_ string, p *ebpf.ProgramSpec) bool {
		if p.AttachType == ebpf.AttachTraceRawTp {
			var tracepoint *btf.Typedef
			return kernel.TypeByName("btf_trace_"+p.AttachTo, &tracepoint) != nil
		}
		return p.Type == ebpf.Netfilter && err != nil
	})
}

func testFitsOldVerifiers(t *testing.T, spec *ebpf.CollectionSpec) {
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	require.NoError(t, err)
	defer collection.Close()
	most := 100_000
	if errors.Is(features.HaveProgramType(ebpf.Netfilter), ebpf.ErrNotSupported) {
		most = 500_000 // before 6.4: this is one of those itself
	}
	require.NotEmpty(t, collection.Programs)
	for name, prog := range collection.Programs {
		t.Run(name, func(t *testing.T) {
			depths := stackDepths.FindStringSubmatch(prog.VerifierLog)
			require.NotNil(t, depths, "%s", prog.VerifierLog)
			sum := 0
			for _, text := range strings.Split(depths[1], "+") {
				depth, err := strconv.Atoi(text)
				require.NoError(t, err)
				sum += (max(depth, 1) + 31) / 32 * 32
			}
			require.LessOrEqual(t, sum, 512, "stack of %s, were all its functions called from each other: %s", name, depths[1])

			count := processed.FindStringSubmatch(prog.VerifierLog)
			require.NotNil(t, count, "%s", prog.VerifierLog)
			instructions, err := strconv.Atoi(count[1])
			require.NoError(t, err)
			require.Less(t, instructions, most, "of a million")
			t.Logf("%d instructions, stack %s", instructions, depths[1])
		})
	}
}
