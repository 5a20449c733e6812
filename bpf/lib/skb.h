/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the TC programs do with a packet. */
#ifndef NETPROBE_SKB_H
#define NETPROBE_SKB_H

#include "filter.h"
#include "flow.h"
#include "parse.h"

#define VLAN_TAG_LEN 4

/* One entry per attached interface, made by user space before it attaches. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024); /* set before loading */
	__type(key, __u32);
	__type(value, struct interface_counters);
} interfaces SEC(".maps");

static __always_inline void count_interface(__u32 ifindex, enum direction direction, enum hook hook,
					    const struct volume *v)
{
	struct interface_counters *to = bpf_map_lookup_elem(&interfaces, &ifindex);

	if (to)
		volume_add(&to->direction[direction], v);
	else
		count_interface_unknown(hook, v);
}

/* wire_volume is what the packet is on the wire: as many frames as it has
 * segments, each with its own headers, and a VLAN tag that the kernel keeps in
 * metadata where it belongs, in the frame.
 */
static __always_inline struct volume wire_volume(const struct __sk_buff *skb, struct packet *pkt)
{
	__u32 tag = skb->vlan_present ? VLAN_TAG_LEN : 0;
	__u32 jumbo = skb->gso_size ? pkt->jumbo_len : 0;
	__u32 segments = skb->gso_segs;
	struct volume v;

	/* a guest or a tun user may give a segment size and no count */
	if (!segments && skb->gso_size && skb->len > pkt->header_len)
		segments = (skb->len - pkt->header_len + skb->gso_size - 1) / skb->gso_size;
	if (!segments)
		segments = 1;
	v.packets = segments;
	v.bytes = skb->len + tag - jumbo + (__u64)(segments - 1) * (pkt->header_len + tag - jumbo);
	if (pkt->inner_off)
		pkt->tunnel_bytes = skb->len + tag - pkt->inner_len +
				    (__u64)(segments - 1) * (pkt->inner_off + tag);
	return v;
}

/* count_flow puts a packet that was parsed into the flow table, or into the
 * ledger if it does not belong there.
 */
static __always_inline void count_flow(enum hook hook, __u32 outcome, struct packet *pkt,
				       const struct volume *v)
{
	if (!pkt->has_flow)
		count_no_flow(hook, outcome, v);
	else if (cfg_filter_len && !is_wanted(&pkt->key))
		count_filtered(hook, v);
	else if (cfg_sampling > 1 && bpf_get_prandom_u32() % cfg_sampling)
		count_sampled_out(hook, v);
	else
		flow_count(hook, pkt, v);
}

static __always_inline enum hook hook_of(enum direction direction)
{
	return direction == DIRECTION_INGRESS ? HOOK_TC_INGRESS : HOOK_TC_EGRESS;
}

/* is_forgotten says whether a packet without a note of where it came in did come
 * in: where the kernel cuts an IPv6 packet into fragments by copying, it does not
 * copy the note (ip6_copy_metadata, net/ipv6/ip6_output.c), but it does copy the
 * socket, which the fragments of what was made here have (ip6_frag_next's caller).
 */
static __always_inline bool is_forgotten(const struct __sk_buff *skb, const struct packet *pkt)
{
	return pkt->key.ip_version == 6 && !pkt->tunnelled &&
	       (pkt->more_fragments || pkt->key.has & FLOW_IS_FRAGMENT) && !skb->sk;
}

/* see_skb finds out what a packet is, and counts it for its interface. */
static __always_inline __u32 see_skb(struct __sk_buff *skb, enum direction direction,
				     enum source source, struct packet *pkt, struct volume *v)
{
	struct cursor cur = { .ctx = skb, .source = source, .len = skb->len };
	enum hook hook = hook_of(direction);
	__u32 outcome;

	pkt->key.ifindex = skb->ifindex;
	pkt->key.direction = direction;
	if (direction == DIRECTION_EGRESS)
		pkt->key.from = skb->ingress_ifindex;
	if (skb->vlan_present)
		add_vlan(&pkt->key, skb->vlan_tci);

	outcome = parse_tunnelled(&cur, pkt, bpf_ntohs(skb->protocol));
	if (direction == DIRECTION_EGRESS && !pkt->key.from && is_forgotten(skb, pkt))
		pkt->key.from = FROM_FORGOTTEN;
	*v = wire_volume(skb, pkt);
	count_interface(skb->ifindex, direction, hook, v);
	count_outcome(hook, outcome, v);
	if (pkt->refused)
		count_refusal(pkt->refused, v);
	return outcome;
}

static __always_inline int count_skb(struct __sk_buff *skb, enum direction direction,
				     enum source source)
{
	struct packet pkt = {};
	struct volume v;
	__u32 outcome;

	/* A copy of a multicast packet sent from here, for listeners that are here too
	 * (ip_mc_output, net/ipv4/ip_output.c): it never was on the wire, and the
	 * interface's own counters do not have it either.
	 */
	if (direction == DIRECTION_INGRESS && skb->pkt_type == PACKET_LOOPBACK)
		return TC_ACT_UNSPEC;
	outcome = see_skb(skb, direction, source, &pkt, &v);
	if (cfg_flows)
		count_flow(hook_of(direction), outcome, &pkt, &v);
	return TC_ACT_UNSPEC;
}

#endif
