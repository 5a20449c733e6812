//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Packets that the kernel drops: those freed by kfree_skb and its like, with the
 * kernel's own reason where it has one (5.17, c504e5c2f964). What it is done with it
 * frees by consume_skb, which is another tracepoint.
 *
 * One freed buffer is one drop, as for counters of nftables and /proc/net/snmp: a
 * super-packet is one, not its segments. Bytes are those of the IP packet, or of
 * what was left of the buffer where that is not known.
 */
#include "lib/drop.h"
#include "lib/drop_once.h"
#include "lib/drop_packet.h"
#include "lib/drop_place.h"

/* The arguments of the tracepoint: skb, location, then these. */
const volatile bool cfg_drop_has_reason = false; /* 5.17, c504e5c2f964 */
const volatile bool cfg_drop_has_rx_sk = false;	 /* 6.11, c53795d48ee8 */

/* is_drop says whether a reason is one. 0 was NOT_SPECIFIED before 5.18 gave it to
 * what is not dropped (SKB_NOT_DROPPED_YET), so the number alone does not tell.
 */
static __always_inline bool is_drop(__u32 reason)
{
	if (bpf_core_enum_value_exists(enum skb_drop_reason, SKB_NOT_DROPPED_YET) &&
	    reason == bpf_core_enum_value(enum skb_drop_reason, SKB_NOT_DROPPED_YET))
		return false;
	if (bpf_core_enum_value_exists(enum skb_drop_reason, SKB_CONSUMED) &&
	    reason == bpf_core_enum_value(enum skb_drop_reason, SKB_CONSUMED))
		return false;
	return true;
}

static __always_inline bool is_ip(const struct sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
}

/* is_taken says whether TCP took a segment, and frees it with its socket: a FIN that
 * came after the program had closed waits in the queue, without payload, for
 * nobody to read it. Every connection ends so at the end that closes first.
 */
static __always_inline bool is_taken(const struct sk_buff *skb, const struct drop_key *drop)
{
	if (skb->len || !drop->ip_version || drop->protocol != IPPROTO_TCP)
		return false;
	/* before 6.2 the reason is none that would tell */
	if (bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_QUEUE_PURGE))
		return drop->reason ==
		       bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_QUEUE_PURGE);
	return true;
}

static __always_inline void count_if_drop(const __u64 *ctx)
{
	const struct sk_buff *skb = (void *)ctx[0];
	struct drop_flow_key key = {};
	const struct sock *rx_sk = NULL;
	__u64 bytes = skb->len;
	bool has_flow;
	__u32 netns;

	if (cfg_drop_has_reason) {
		key.drop.reason = ctx[2];
		if (!is_drop(key.drop.reason))
			return;
	}
	if (cfg_drop_has_rx_sk)
		rx_sk = (void *)ctx[3];

	netns = drop_place_of(skb, rx_sk, &key.drop);
	if (netns != cfg_drop_netns) {
		if (!netns && is_ip(skb))
			drop_ledger_add(DROP_NETNS_UNKNOWN, bytes);
		return;
	}
	has_flow = drop_read_flow(skb, &key, &bytes);
	if (is_taken(skb, &key.drop))
		return;
	drop_count(&key.drop, bytes);
	if (has_flow)
		drop_count_flow(&key, bytes);
	else
		drop_ledger_add(DROP_NO_FLOW, bytes);
}

SEC("tp_btf/kfree_skb")
int kfree_skb(__u64 *ctx)
{
	enter_first();
	count_if_drop(ctx);
	leave_first();
	return 0;
}

/* Attached after the other one, which the kernel calls first then. */
SEC("tp_btf/kfree_skb")
int kfree_skb_nested(__u64 *ctx)
{
	if (first_is_busy())
		count_if_drop(ctx);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
