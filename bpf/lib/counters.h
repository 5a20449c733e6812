/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Per-CPU counters: every packet is in exactly one parse outcome of its hook,
 * and every packet that could not be recorded is in exactly one loss.
 *
 * All writers run with bottom halves disabled on their CPU and do not nest,
 * so plain additions suffice.
 */
#ifndef NETPROBE_COUNTERS_H
#define NETPROBE_COUNTERS_H

#include "types.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOOKS);
	__type(key, __u32);
	__type(value, struct parse_counters);
} parse_outcomes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOSSES);
	__type(key, __u32);
	__type(value, struct volume);
} losses SEC(".maps");

static __always_inline void volume_add(struct volume *to, const struct volume *v)
{
	to->packets += v->packets;
	to->bytes += v->bytes;
}

static __always_inline void count_loss(enum loss why, const struct volume *v)
{
	__u32 key = why;
	struct volume *to = bpf_map_lookup_elem(&losses, &key);

	if (to)
		volume_add(to, v);
}

static __always_inline void count_outcome(enum hook hook, __u32 outcome, const struct volume *v)
{
	__u32 key = hook;
	struct parse_counters *to = bpf_map_lookup_elem(&parse_outcomes, &key);

	if (to && outcome < PARSE_OUTCOMES)
		volume_add(&to->outcome[outcome], v);
}

#endif
