/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Per-CPU counters: every packet is in exactly one parse outcome of its hook,
 * and every packet of which there is no flow record is in exactly one place of
 * the hook's ledger.
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
	__uint(max_entries, HOOKS);
	__type(key, __u32);
	__type(value, struct ledger);
} ledgers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TUNNEL_REFUSALS);
	__type(key, __u32);
	__type(value, struct volume);
} tunnel_refusals SEC(".maps");

static __always_inline void volume_add(struct volume *to, const struct volume *v)
{
	to->packets += v->packets;
	to->bytes += v->bytes;
}

static __always_inline struct ledger *ledger_of(enum hook hook)
{
	__u32 key = hook;

	return bpf_map_lookup_elem(&ledgers, &key);
}

static __always_inline void count_loss(enum hook hook, enum loss why, const struct volume *v)
{
	struct ledger *to = ledger_of(hook);

	if (to)
		volume_add(&to->lost[why], v);
}

static __always_inline void count_interface_unknown(enum hook hook, const struct volume *v)
{
	struct ledger *to = ledger_of(hook);

	if (to)
		volume_add(&to->interface_unknown, v);
}

static __always_inline void count_no_flow(enum hook hook, __u32 outcome, const struct volume *v)
{
	struct ledger *to = ledger_of(hook);

	if (to && outcome < PARSE_OUTCOMES)
		volume_add(&to->no_flow[outcome], v);
}

static __always_inline void count_filtered(enum hook hook, const struct volume *v)
{
	struct ledger *to = ledger_of(hook);

	if (to)
		volume_add(&to->filtered, v);
}

static __always_inline void count_sampled_out(enum hook hook, const struct volume *v)
{
	struct ledger *to = ledger_of(hook);

	if (to)
		volume_add(&to->sampled_out, v);
}

static __always_inline void count_refusal(__u32 why, const struct volume *v)
{
	struct volume *to = bpf_map_lookup_elem(&tunnel_refusals, &why);

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
