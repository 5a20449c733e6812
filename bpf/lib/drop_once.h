/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which of two programs counts a drop.
 *
 * The kernel does not run a program on a CPU that is in the middle of it already
 * (bpf_prog.active; for tracepoints since 6.1, 05b24ff9b2cf), so it does not see a
 * drop in an interrupt that came in the middle of another. A second program, which
 * counts just what interrupts the first, is told of those. Where it sees that the
 * first is in the middle of another drop, the kernel has not run the first for this
 * one: nobody else counts it. Where it sees that it is not, the first has counted
 * this one, or will.
 *
 * What comes between the kernel's own note that the first runs and the first's
 * instruction that says so here is lost all the same, as what comes in the middle
 * of both. It is the difference of the kernel's count of runs that it skipped and
 * of the count here.
 */
#ifndef NETPROBE_DROP_ONCE_H
#define NETPROBE_DROP_ONCE_H

#include "types.h"
#include <bpf/bpf_helpers.h>

struct drop_first {
	/* how many drops the first program is in the middle of, on this CPU */
	__u64 busy;
	/* it was run in the middle of itself: this kernel skips none */
	__u64 reentered;
	/* drops, and what is freed without being one, that the second program was given */
	__u64 caught;
};

/* Per-CPU. The kernel lets programs not move to another CPU. What interrupts an
 * addition leaves the number as it was, so it need not be atomic; it is, because
 * later kernels may let tasks take turns there.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct drop_first);
} drop_first_state SEC(".maps");

static __always_inline struct drop_first *drop_first(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&drop_first_state, &key);
}

static __always_inline void enter_first(void)
{
	struct drop_first *first = drop_first();

	if (!first)
		return;
	/* before the second program is told of the same drop */
	if (*(volatile __u64 *)&first->busy)
		*(volatile __u64 *)&first->reentered = 1;
	__sync_fetch_and_add(&first->busy, 1);
}

static __always_inline void leave_first(void)
{
	struct drop_first *first = drop_first();

	if (first)
		__sync_fetch_and_add(&first->busy, -1);
}

static __always_inline bool first_is_busy(void)
{
	struct drop_first *first = drop_first();

	if (!first || !*(volatile __u64 *)&first->busy || *(volatile __u64 *)&first->reentered)
		return false;
	__sync_fetch_and_add(&first->caught, 1);
	return true;
}

#endif
