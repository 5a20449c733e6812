// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package drops

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// Features is what the running kernel tells of a drop.
type Features struct {
	// Reasons: the kernel has reasons (5.17). Where it has none, all drops are of
	// the reason "".
	Reasons bool
	// ReceivingSocket: it also tells which socket did not take the packet (6.11).
	// Where it does not, the namespace of a packet in a socket's queue may be unknown.
	ReceivingSocket bool
}

// reasonType is the kernel's type of reasons, include/net/dropreason-core.h.
const reasonType = "skb_drop_reason"

// reasons are the names of the running kernel's, by number.
type reasons map[uint32]string

// readFeatures looks at the arguments of the tracepoint, which the kernel
// describes as a function that takes a cookie, the packet, the place in the code
// and then what that kernel has.
func readFeatures(kernel *btf.Spec) (Features, error) {
	const name = "btf_trace_kfree_skb"
	var tracepoint *btf.Typedef
	if err := kernel.TypeByName(name, &tracepoint); err != nil {
		return Features{}, fmt.Errorf("find the tracepoint kfree_skb (%s in the kernel's type information): %w", name, err)
	}
	pointer, ok := tracepoint.Type.(*btf.Pointer)
	if !ok {
		return Features{}, fmt.Errorf("the kernel's type %s is no pointer: %v", name, tracepoint.Type)
	}
	proto, ok := pointer.Target.(*btf.FuncProto)
	if !ok {
		return Features{}, fmt.Errorf("the kernel's type %s points at no function: %v", name, pointer.Target)
	}
	if len(proto.Params) < 3 || !pointsAt(proto.Params[1].Type, "sk_buff") {
		return Features{}, errors.New("the tracepoint kfree_skb has other arguments than NetProbe knows: please report it with the kernel version")
	}
	var f Features
	more := proto.Params[3:]
	if len(more) > 0 {
		enum, ok := btf.UnderlyingType(more[0].Type).(*btf.Enum)
		f.Reasons = ok && enum.Name == reasonType
	}
	f.ReceivingSocket = f.Reasons && len(more) > 1 && pointsAt(more[1].Type, "sock")
	return f, nil
}

func pointsAt(typ btf.Type, name string) bool {
	pointer, ok := btf.UnderlyingType(typ).(*btf.Pointer)
	if !ok {
		return false
	}
	target, ok := btf.UnderlyingType(pointer.Target).(*btf.Struct)
	return ok && target.Name == name
}

// readReasons reads the names in the form that the kernel's tracepoint prints.
func readReasons(kernel *btf.Spec) (reasons, error) {
	var enum *btf.Enum
	if err := kernel.TypeByName(reasonType, &enum); err != nil {
		return nil, fmt.Errorf("find the drop reasons (enum %s in the kernel's type information): %w", reasonType, err)
	}
	names := reasons{}
	for _, v := range enum.Values {
		name, ok := strings.CutPrefix(v.Name, "SKB_DROP_REASON_")
		if !ok || name == "MAX" || name == "SUBSYS_MASK" {
			continue // no reasons: SKB_CONSUMED, SKB_NOT_DROPPED_YET and bounds
		}
		names[uint32(v.Value)] = name
	}
	return names, nil
}

// name is what the kernel's tracepoint prints: the number where the reason is one
// of a subsystem (mac80211, Open vSwitch), which number theirs by themselves.
func (r reasons) name(reason uint32) string {
	if r == nil {
		return ""
	}
	if name, ok := r[reason]; ok {
		return name
	}
	return "0x" + strconv.FormatUint(uint64(reason), 16)
}
