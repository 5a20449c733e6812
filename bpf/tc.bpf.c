//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Packets and bytes per interface and per flow, at ingress and egress of an
 * interface (TCX, or a clsact filter). Every program answers TC_ACT_UNSPEC,
 * which is also TCX_NEXT: the packet goes on as if nobody had looked.
 *
 * Limits of this place: what a queueing discipline drops after egress is
 * counted as sent, and packet sockets with PACKET_QDISC_BYPASS are not seen.
 */
#include "lib/skb.h"

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
