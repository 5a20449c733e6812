//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Packets and bytes per interface and per flow, at ingress and egress of an
 * interface (TCX, or a clsact filter). Every program answers TC_ACT_UNSPEC,
 * which is also TCX_NEXT: the packet goes on as if nobody had looked.
 *
 * Limits of this place: what a queueing discipline drops after egress is
 * counted as sent, and packet sockets with PACKET_QDISC_BYPASS are not seen.
 */
#include "lib/flow.h"
#include "lib/parse.h"

#define VLAN_TAG_LEN 4

/* One entry per attached interface, made by user space before it attaches. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024); /* set before loading */
	__type(key, __u32);
	__type(value, struct interface_counters);
} interfaces SEC(".maps");

static __always_inline void count_interface(__u32 ifindex, enum direction direction,
					    const struct volume *v)
{
	struct interface_counters *to = bpf_map_lookup_elem(&interfaces, &ifindex);

	if (to)
		volume_add(&to->direction[direction], v);
	else
		count_loss(LOSS_INTERFACE_UNKNOWN, v);
}

/* wire_volume is what the packet is on the wire: as many frames as it has
 * segments, each with its own headers, and a VLAN tag that the kernel keeps in
 * metadata where it belongs, in the frame.
 */
static __always_inline struct volume wire_volume(const struct __sk_buff *skb,
						 const struct packet *pkt)
{
	__u32 tag = skb->vlan_present ? VLAN_TAG_LEN : 0;
	__u32 segments = skb->gso_segs;
	struct volume v;

	/* a guest or a tun user may give a segment size and no count */
	if (!segments && skb->gso_size && skb->len > pkt->header_len)
		segments = (skb->len - pkt->header_len + skb->gso_size - 1) / skb->gso_size;
	if (!segments)
		segments = 1;
	v.packets = segments;
	v.bytes = skb->len + tag + (__u64)(segments - 1) * (pkt->header_len + tag);
	return v;
}

static __always_inline int count_skb(struct __sk_buff *skb, enum direction direction,
				     enum source source)
{
	struct cursor cur = { .ctx = skb, .source = source, .len = skb->len };
	struct packet pkt = {};
	enum parse_outcome outcome;
	struct volume v;

	pkt.key.ifindex = skb->ifindex;
	pkt.key.direction = direction;
	if (skb->vlan_present)
		add_vlan(&pkt.key, skb->vlan_tci);

	outcome = parse_packet(&cur, &pkt, bpf_ntohs(skb->protocol));
	v = wire_volume(skb, &pkt);
	count_interface(skb->ifindex, direction, &v);
	count_outcome(direction == DIRECTION_INGRESS ? HOOK_TC_INGRESS : HOOK_TC_EGRESS, outcome,
		      &v);
	if (cfg_flows && pkt.has_flow)
		flow_count(&pkt, &v);
	return TC_ACT_UNSPEC;
}

/* Interfaces with Ethernet frames. */
SEC("classifier/ingress")
int tc_ingress(struct __sk_buff *skb)
{
	return count_skb(skb, DIRECTION_INGRESS, SOURCE_SKB);
}

SEC("classifier/egress")
int tc_egress(struct __sk_buff *skb)
{
	return count_skb(skb, DIRECTION_EGRESS, SOURCE_SKB);
}

/* Interfaces whose packets begin with the network header: tun, WireGuard, PPP, IP tunnels. */
SEC("classifier/ingress_l3")
int tc_ingress_l3(struct __sk_buff *skb)
{
	return count_skb(skb, DIRECTION_INGRESS, SOURCE_SKB_L3);
}

SEC("classifier/egress_l3")
int tc_egress_l3(struct __sk_buff *skb)
{
	return count_skb(skb, DIRECTION_EGRESS, SOURCE_SKB_L3);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
