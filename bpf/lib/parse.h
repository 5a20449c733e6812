/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef NETPROBE_PARSE_H
#define NETPROBE_PARSE_H

#include "eth.h"
#include "ipv4.h"
#include "ipv6.h"
#include "tunnel.h"

static __always_inline enum parse_outcome parse_ip(struct cursor *cur, struct packet *pkt,
						   __u16 ethertype)
{
	switch (ethertype) {
	case ETH_P_IP:
		return parse_ipv4(cur, pkt);
	case ETH_P_IPV6:
		return parse_ipv6(cur, pkt);
	default:
		return PARSE_NOT_IP;
	}
}

/* parse_packet reads a packet from its first byte, without opening tunnels.
 * ethertype is what the device says the packet is, where it has no link header
 * to read it from.
 */
static __always_inline enum parse_outcome parse_packet(struct cursor *cur, struct packet *pkt,
						       __u16 ethertype)
{
	enum parse_outcome outcome = parse_link(cur, pkt, &ethertype);

	if (outcome != PARSE_OK)
		return outcome;
	return parse_ip(cur, pkt, ethertype);
}

/* What the packet in a tunnel overwrites of the tunnel's own. */
struct outer {
	__u32 header_len;
	__u32 jumbo_len;
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;
	__u8 ip_version;
	__u8 has;
};

/* begin_inner makes room in the packet for what is in the tunnel. */
static __always_inline struct outer begin_inner(struct packet *pkt, __u32 off)
{
	struct flow_key *key = &pkt->key;
	struct outer outer = { pkt->header_len,	 pkt->jumbo_len,
			       key->source_port, key->destination_port,
			       key->protocol,	 key->ip_version,
			       key->has };

	pkt->inner_off = off;
	pkt->jumbo_len = 0;
	pkt->continued = pkt->more_fragments;
	pkt->more_fragments = false;
	pkt->has_flow = false;
	key->has &= ~(FLOW_HAS_PORTS | FLOW_IS_FRAGMENT);
	key->source_port = 0;
	key->destination_port = 0;
	return outer;
}

/* restore_outer makes the packet the tunnel's own again. */
static __always_inline void restore_outer(struct tunnel_scratch *s, const struct outer *outer)
{
	struct packet *pkt = &s->pkt;
	struct flow_key *key = &pkt->key;

	pkt->header_len = outer->header_len;
	pkt->jumbo_len = outer->jumbo_len;
	pkt->inner_off = 0;
	pkt->tcp_flags = 0;
	pkt->has_flow = true;
	__builtin_memcpy(key->source, s->tunnel.source, sizeof(key->source));
	__builtin_memcpy(key->destination, s->tunnel.destination, sizeof(key->destination));
	key->source_port = outer->source_port;
	key->destination_port = outer->destination_port;
	key->protocol = outer->protocol;
	key->ip_version = outer->ip_version;
	key->has = outer->has | FLOW_IS_TUNNEL;
}

/* parse_inner reads the packet in the tunnel whose header the cursor is behind,
 * and makes the key that packet's, or, where there is no IP packet to be read,
 * leaves it the tunnel's. What was wrong with the tunnel's packet stays wrong.
 */
static __always_inline enum parse_outcome parse_inner(struct cursor *cur, struct tunnel_scratch *s,
						      const struct tunnel_payload *payload)
{
	struct packet *pkt = &s->pkt;
	__u32 limit = pkt->end && pkt->end < cur->len ? pkt->end : cur->len;
	struct outer outer = begin_inner(pkt, cur->off);
	__u16 ethertype = payload->ethertype;
	enum parse_outcome outcome = PARSE_OK;

	if (payload->ethernet)
		outcome = parse_inner_link(cur, pkt, &ethertype);
	if (outcome == PARSE_OK)
		outcome = parse_ip(cur, pkt, ethertype);
	if (pkt->has_flow) {
		pkt->key.has |= FLOW_IN_TUNNEL;
		if (tunnel_of(&pkt->key) != TUNNEL_NONE)
			pkt->key.has |= FLOW_IS_NESTED;
		/* a frame ends where the tunnel does, a packet where it says itself */
		if (!payload->ethernet && pkt->end && pkt->end < limit)
			limit = pkt->end;
		pkt->inner_len = limit > pkt->inner_off ? limit - pkt->inner_off : 0;
	} else {
		restore_outer(s, &outer);
	}
	return outcome == PARSE_OK || outcome == PARSE_NOT_IP ? s->outcome : outcome;
}

static __always_inline __u32 parse_tunnel(struct __sk_buff *skb, enum source source)
{
	struct tunnel_scratch *s = scratch();
	struct tunnel_payload payload = {};
	enum parse_outcome opened;
	struct cursor cur = { .ctx = skb, .source = source };

	if (!s)
		return PARSE_OK;
	cur.off = s->off;
	cur.len = s->len;
	begin_tunnel(s);
	opened = open_tunnel(&cur, s, &payload);
	if (opened != PARSE_OK)
		return opened;
	if (s->pkt.refused)
		return s->outcome;
	s->pkt.tunnelled = true;
	return parse_inner(&cur, s, &payload);
}

__noinline __u32 parse_tunnel_frame(struct __sk_buff *skb)
{
	return parse_tunnel(skb, SOURCE_SKB_COPIED);
}

__noinline __u32 parse_tunnel_packet(struct __sk_buff *skb)
{
	return parse_tunnel(skb, SOURCE_SKB_L3);
}

/* parse_tunnelled does what parse_packet does, and opens a tunnel. */
static __always_inline __u32 parse_tunnelled(struct cursor *cur, struct packet *pkt,
					     __u16 ethertype)
{
	enum parse_outcome outcome = parse_packet(cur, pkt, ethertype);
	enum tunnel_type type = tunnel_of(&pkt->key);
	struct tunnel_scratch *s;
	__u32 opened;

	if (type == TUNNEL_NONE || !pkt->has_transport ||
	    (outcome != PARSE_OK && outcome != PARSE_TRUNCATED))
		return outcome;
	s = scratch();
	if (!s)
		return outcome;
	s->pkt = *pkt;
	s->off = cur->off;
	s->len = cur->len;
	s->outcome = outcome;
	s->type = type;
	opened = cur->source == SOURCE_SKB_L3 ? parse_tunnel_packet(cur->ctx)
					      : parse_tunnel_frame(cur->ctx);
	*pkt = s->pkt;
	return opened;
}

#endif
