/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where drops are counted: by reason, and by flow. The structs here cross to Go,
 * by the same rules as those in types.h.
 *
 * A packet may be freed in a task and, over it, in an interrupt on the same CPU,
 * so additions are atomic also where every CPU has a counter of its own.
 */
#ifndef NETPROBE_DROP_H
#define NETPROBE_DROP_H

#include "types.h"
#include <bpf/bpf_helpers.h>

/* Which way a packet went at the interface. */
enum drop_direction {
	DROP_DIRECTION_UNKNOWN,
	DROP_DIRECTION_INGRESS,
	DROP_DIRECTION_EGRESS,
};

/* What else became of drops. Those of this namespace are as many as
 * drop_counts has and DROP_COUNT_LOST, and as many as the flows have,
 * DROP_NO_FLOW and DROP_FLOW_LOST.
 */
enum drop_ledger {
	/* drop_counts had no room */
	DROP_COUNT_LOST,
	/* the flow map had no room */
	DROP_FLOW_LOST,
	/* there was no IP header to tell the flow by */
	DROP_NO_FLOW,
	/* IP packets of which nothing tells the network namespace; in none of the above */
	DROP_NETNS_UNKNOWN,
	DROP_LEDGERS,
};

struct drop_key {
	/* enum skb_drop_reason of the running kernel; 0 where it has none */
	__u32 reason;
	/* 0 where it is not known */
	__u32 ifindex;
	/* 4 or 6; 0 for what is not IP, or not known to be */
	__u8 ip_version;
	/* IP protocol number of the last header read, where there is a version */
	__u8 protocol;
	/* enum drop_direction */
	__u8 direction;
	__u8 pad;
};
_Static_assert(sizeof(struct drop_key) == 12, "drop_key has padding");

struct drop_flow_key {
	__u8 source[16];
	__u8 destination[16];
	struct drop_key drop;
	__u16 source_port;
	__u16 destination_port;
	/* enum flow_has, combined: ports, fragment */
	__u32 has;
};
_Static_assert(sizeof(struct drop_flow_key) == 52, "drop_flow_key has padding");

struct drop_flow {
	__u64 packets;
	__u64 bytes;
	/* CLOCK_MONOTONIC */
	__u64 first_mono_ns;
};

/* Never emptied but for interfaces that are no more: cumulative counters. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024); /* set before loading */
	__type(key, struct drop_key);
	__type(value, struct volume);
} drop_counts SEC(".maps");

/* Flipped and emptied as the flow maps are (flow.h): to look up and delete in one
 * map would lose what a program adds to an entry that it found just before.
 */
struct drop_flow_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024); /* set before loading */
	__type(key, struct drop_flow_key);
	__type(value, struct drop_flow);
};

struct drop_flow_map drop_flows_0 SEC(".maps");
struct drop_flow_map drop_flows_1 SEC(".maps");

/* Which of them programs write, 0 or 1. Written by user space only. */
volatile __u32 drop_epoch = 0;

/* Never looked up: an update of it waits until the programs that run have ended. */
struct drop_barrier_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct drop_barrier_map);
} drop_barrier SEC(".maps");

/* Names the types that no map mentions, so that they come into the object's type
 * information, which the Go bindings are made from.
 */
struct drop_crossing_types {
	enum drop_direction direction;
	enum drop_ledger ledger;
};

const volatile struct drop_crossing_types drop_crossing_types = {};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_LEDGERS);
	__type(key, __u32);
	__type(value, struct volume);
} drop_ledgers SEC(".maps");

static __always_inline void drop_ledger_add(enum drop_ledger where, __u64 bytes)
{
	__u32 key = where;
	struct volume *to = bpf_map_lookup_elem(&drop_ledgers, &key);

	if (!to)
		return;
	__sync_fetch_and_add(&to->packets, 1);
	__sync_fetch_and_add(&to->bytes, bytes);
}

static __always_inline void drop_count(const struct drop_key *key, __u64 bytes)
{
	struct volume *to = bpf_map_lookup_elem(&drop_counts, key);

	if (!to) {
		struct volume zero = {};

		/* Another CPU may be first, or an interrupt. A new entry is zero on all CPUs. */
		bpf_map_update_elem(&drop_counts, key, &zero, BPF_NOEXIST);
		to = bpf_map_lookup_elem(&drop_counts, key);
	}
	if (!to) {
		drop_ledger_add(DROP_COUNT_LOST, bytes);
		return;
	}
	__sync_fetch_and_add(&to->packets, 1);
	__sync_fetch_and_add(&to->bytes, bytes);
}

static __always_inline void drop_count_flow_in(void *map, const struct drop_flow_key *key,
					       __u64 bytes)
{
	struct drop_flow *to = bpf_map_lookup_elem(map, key);

	if (!to) {
		struct drop_flow fresh = { .first_mono_ns = bpf_ktime_get_ns() };

		bpf_map_update_elem(map, key, &fresh, BPF_NOEXIST);
		to = bpf_map_lookup_elem(map, key);
	}
	if (!to) {
		drop_ledger_add(DROP_FLOW_LOST, bytes);
		return;
	}
	__sync_fetch_and_add(&to->packets, 1);
	__sync_fetch_and_add(&to->bytes, bytes);
}

static __always_inline void drop_count_flow(const struct drop_flow_key *key, __u64 bytes)
{
	/* the verifier wants the map known where it is used */
	if (drop_epoch & 1)
		drop_count_flow_in(&drop_flows_1, key, bytes);
	else
		drop_count_flow_in(&drop_flows_0, key, bytes);
}

#endif
