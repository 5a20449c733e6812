// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/bpf"
)

// objects are all that NetProbe loads.
var objects = map[string]func() (*ebpf.CollectionSpec, error){
	"tc": bpf.LoadTC, "xdp": bpf.LoadXDP, "netfilter": bpf.LoadNetfilter, "drops": bpf.LoadDrops,
	"sockets": bpf.LoadSockets,
}

// forEachProgram runs a subtest for every program in every object.
func forEachProgram(t *testing.T, test func(*testing.T, *ebpf.ProgramSpec)) {
	for name, load := range objects {
		spec, err := load()
		require.NoError(t, err)
		require.NotEmpty(t, spec.Programs)
		for _, prog := range spec.Programs {
			t.Run(name+"/"+prog.Name, func(t *testing.T) { test(t, prog) })
		}
	}
}

const nfAccept = 1

// No program has a way to end but with the answer that lets the packet go on.
func TestProgramsOnlyPass(t *testing.T) {
	pass := map[ebpf.ProgramType]answer{
		ebpf.SchedCLS:  {constant: true, value: tcUnspec},
		ebpf.XDP:       {constant: true, value: xdpPass},
		ebpf.Netfilter: {constant: true, value: nfAccept},
		ebpf.Tracing:   {constant: true, value: 0}, // of which a tracepoint takes no notice
	}
	forEachProgram(t, func(t *testing.T, prog *ebpf.ProgramSpec) {
		require.Contains(t, pass, prog.Type, "say here what such a program may answer")
		got, err := answers(prog.Instructions)
		require.NoError(t, err)
		require.Equal(t, []answer{pass[prog.Type]}, got)
	})
}

// No program calls anything that could change, send, drop or delay a packet.
func TestProgramsOnlyLook(t *testing.T) {
	harmless := []asm.BuiltinFunc{
		asm.FnMapLookupElem, asm.FnMapUpdateElem,
		asm.FnRingbufReserve, asm.FnRingbufSubmit,
		asm.FnKtimeGetNs, asm.FnKtimeGetCoarseNs,
		asm.FnSpinLock, asm.FnSpinUnlock, asm.FnGetPrandomU32,
		asm.FnSkbLoadBytes, asm.FnSkbLoadBytesRelative,
		asm.FnXdpGetBuffLen, asm.FnXdpLoadBytes,
		asm.FnProbeReadKernel, asm.FnProbeReadKernelStr,
		asm.FnMapDeleteElem, asm.FnRingbufQuery, asm.FnSeqWrite,
		asm.FnGetCurrentTask, asm.FnGetSocketCookie,
	}
	forEachProgram(t, func(t *testing.T, prog *ebpf.ProgramSpec) {
		calls := 0
		for _, ins := range prog.Instructions {
			assert.False(t, ins.IsKfuncCall(), "%v", ins)
			if ins.IsBuiltinCall() {
				calls++
				assert.Contains(t, harmless, asm.BuiltinFunc(ins.Constant))
			}
		}
		assert.NotZero(t, calls)
	})
}

// answer is what register 0 holds: a constant, or what nobody knows beforehand.
type answer struct {
	constant bool
	value    uint32
}

// answers returns what a program may answer, in no order and each once. It
// follows every branch, whether or not its condition can come true.
func answers(insns asm.Instructions) ([]answer, error) {
	index := make(map[int64]int) // by offset in raw instructions
	offsets := make([]int64, len(insns))
	for it := insns.Iterate(); it.Next(); {
		offsets[it.Index] = int64(it.Offset)
		index[int64(it.Offset)] = it.Index
	}

	type state struct {
		at int
		r0 answer
	}
	var found []answer
	given := make(map[answer]bool)
	seen := map[state]bool{}
	for todo := []state{{}}; len(todo) > 0; {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[s] {
			continue
		}
		seen[s] = true

		ins := insns[s.at]
		if ins.OpCode.JumpOp() == asm.Exit {
			if !given[s.r0] {
				found = append(found, s.r0)
				given[s.r0] = true
			}
			continue
		}
		targets, err := successors(ins, offsets[s.at])
		if err != nil {
			return nil, err
		}
		for _, target := range targets {
			at, ok := index[target]
			if !ok {
				return nil, fmt.Errorf("instruction %d goes to %d, where none begins", offsets[s.at], target)
			}
			todo = append(todo, state{at, register0(ins, s.r0)})
		}
	}
	return found, nil
}

// successors are the offsets of the instructions that may come after one that is no exit.
func successors(ins asm.Instruction, offset int64) ([]int64, error) {
	next := offset + int64(ins.Width())
	class := ins.OpCode.Class()
	if !class.IsJump() {
		return []int64{next}, nil
	}
	switch ins.OpCode.JumpOp() {
	case asm.Call:
		if ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == asm.FnTailCall {
			return nil, fmt.Errorf("instruction %d calls another program", offset)
		}
		return []int64{next}, nil
	case asm.Ja:
		if class == asm.Jump32Class { // the distance is too long for the other field
			return []int64{next + ins.Constant}, nil
		}
		return []int64{next + int64(ins.Offset)}, nil
	default:
		return []int64{next, next + int64(ins.Offset)}, nil
	}
}

// register0 is what an instruction leaves in register 0 that held before.
func register0(ins asm.Instruction, before answer) answer {
	class := ins.OpCode.Class()
	switch {
	case class.IsJump():
		if ins.OpCode.JumpOp() == asm.Call {
			return answer{}
		}
	case class.IsALU():
		if ins.Dst == asm.R0 {
			if ins.OpCode.ALUOp() == asm.Mov && ins.OpCode.Source() == asm.ImmSource {
				return answer{constant: true, value: uint32(ins.Constant)}
			}
			return answer{}
		}
	case class.IsLoad():
		// those of classic BPF write register 0 without naming it
		if ins.Dst == asm.R0 {
			return answer{}
		}
	case ins.OpCode.Mode() == asm.AtomicMode:
		// some of them return what was there, in this register
		if ins.Src == asm.R0 || ins.OpCode.AtomicOp() == asm.CmpXchg {
			return answer{}
		}
	}
	return before
}

// What the two tests above rest on.
func TestAnswers(t *testing.T) {
	minusOne := asm.Mov.Imm(asm.R0, -1)
	for _, tc := range []struct {
		name  string
		insns asm.Instructions
		want  []answer
	}{
		{"constant", asm.Instructions{minusOne, asm.Return()}, []answer{{true, tcUnspec}}},
		{
			"32-bit constant", asm.Instructions{asm.Mov.Imm32(asm.R0, 2), asm.Return()},
			[]answer{{true, 2}},
		},
		{
			"one of two constants",
			asm.Instructions{minusOne, jump(asm.JEq, 1), asm.Mov.Imm(asm.R0, 2), asm.Return()},
			[]answer{{true, tcUnspec}, {true, 2}},
		},
		{
			"changed before a jump back",
			asm.Instructions{minusOne, jump(asm.JEq, 1), asm.Return(), asm.Mov.Imm(asm.R0, 7), jump(asm.Ja, -3)},
			[]answer{{true, 7}, {true, tcUnspec}},
		},
		{
			"over a double-wide instruction",
			asm.Instructions{
				minusOne, jump(asm.JEq, 3), asm.LoadImm(asm.R1, 1<<40, asm.DWord), asm.Return(),
				asm.Mov.Imm(asm.R0, 2), asm.Return(),
			},
			[]answer{{true, 2}, {true, tcUnspec}},
		},
		{"helper", asm.Instructions{minusOne, asm.FnKtimeGetNs.Call(), asm.Return()}, []answer{{}}},
		{"register", asm.Instructions{minusOne, asm.Mov.Reg(asm.R0, asm.R6), asm.Return()}, []answer{{}}},
		{"sum", asm.Instructions{minusOne, asm.Add.Imm(asm.R0, 1), asm.Return()}, []answer{{}}},
		{"memory", asm.Instructions{minusOne, asm.LoadMem(asm.R0, asm.R1, 0, asm.Word), asm.Return()}, []answer{{}}},
		{
			"other registers",
			asm.Instructions{
				minusOne, asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), asm.Add.Imm(asm.R2, 1),
				asm.StoreMem(asm.R10, -8, asm.R0, asm.DWord), asm.Return(),
			},
			[]answer{{true, tcUnspec}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := answers(tc.insns)
			require.NoError(t, err)
			require.ElementsMatch(t, tc.want, got)
		})
	}

	_, err := answers(asm.Instructions{minusOne, asm.FnTailCall.Call(), asm.Return()})
	require.EqualError(t, err, "instruction 1 calls another program")
	_, err = answers(asm.Instructions{minusOne, jump(asm.Ja, 5), asm.Return()})
	require.EqualError(t, err, "instruction 1 goes to 7, where none begins")
}

// jump is a jump over distance instructions, on a condition of register 1 where
// the operation has one.
func jump(op asm.JumpOp, distance int16) asm.Instruction {
	return asm.Instruction{OpCode: op.Op(asm.ImmSource), Dst: asm.R1, Offset: distance}
}
