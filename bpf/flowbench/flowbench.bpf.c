//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The TC program as it is, but that each run takes its packet for one of
 * another flow, picked at random; and, to compare with, the same picking alone,
 * and with one bare lookup and addition. A test run of the real program could
 * only repeat one flow, or pay for a system call for each packet.
 */
#include "lib/skb.h"

/* how many flows there are */
const volatile __u32 bench_flows = 1;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOW_MAP_ENTRIES);
	__type(key, struct flow_key);
	__type(value, struct flow_stats);
} bare SEC(".maps");

static __always_inline void pick_flow(struct flow_key *key)
{
	__u32 n = bpf_get_prandom_u32() % bench_flows;

	__builtin_memcpy(key->source + 12, &n, sizeof(n));
}

SEC("classifier/flow")
int bench_flow(struct __sk_buff *skb)
{
	struct packet pkt = {};
	struct volume v;
	__u32 outcome;

	outcome = see_skb(skb, DIRECTION_INGRESS, SOURCE_SKB, &pkt, &v);
	pick_flow(&pkt.key);
	count_flow(HOOK_TC_INGRESS, outcome, &pkt, &v);
	return TC_ACT_UNSPEC;
}

/* one lookup, and one addition in place, or an insertion the first time */
SEC("classifier/bare")
int bench_bare(struct __sk_buff *skb)
{
	struct flow_key key = { .ifindex = skb->ifindex, .protocol = IPPROTO_TCP };
	struct flow_stats *stats;

	pick_flow(&key);
	stats = bpf_map_lookup_elem(&bare, &key);
	if (stats) {
		if (cfg_flows_per_cpu) {
			stats->packets++;
			stats->bytes += skb->len;
		} else {
			__sync_fetch_and_add(&stats->packets, 1);
			__sync_fetch_and_add(&stats->bytes, skb->len);
		}
	} else {
		struct flow_stats fresh = { .packets = 1, .bytes = skb->len };

		bpf_map_update_elem(&bare, &key, &fresh, BPF_NOEXIST);
	}
	return TC_ACT_UNSPEC;
}

/* picking alone */
SEC("classifier/pick")
int bench_pick(struct __sk_buff *skb)
{
	struct flow_key key = { .ifindex = skb->ifindex };

	pick_flow(&key);
	asm volatile("" : : "r"(&key) : "memory");
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
