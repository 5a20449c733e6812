/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the parsers find in one packet. */
#ifndef NETPROBE_PACKET_H
#define NETPROBE_PACKET_H

#include "types.h"
#include <bpf/bpf_endian.h>
#include "cursor.h"

struct packet {
	struct flow_key key;
	/* where the IP datagram ends by its own length, from the start of the packet, or
	 * before that, where the tunnel's does; 0 where it has none and ends with the packet
	 */
	__u32 end;
	/* the same by its own length alone */
	__u32 own_end;
	/* bytes up to the end of the transport header; what every GSO segment repeats */
	__u32 header_len;
	/* bytes up to the frame or packet in the tunnel, and how many that has */
	__u32 inner_off;
	__u32 inner_len;
	/* of the wire's bytes those that are not of the packet in the tunnel */
	__u64 tunnel_bytes;
	/* bytes of an IPv6 jumbo payload option, which a super-packet of the kernel has
	 * and its segments on the wire have not
	 */
	__u32 jumbo_len;
	/* enum tunnel_refusal */
	__u32 refused;
	__u8 tcp_flags;
	/* a tunnel was opened: it is in the scratch */
	bool tunnelled;
	/* first fragment of several: lengths in the transport header speak of the whole datagram */
	bool more_fragments;
	/* what it is in is the first fragment of several */
	bool continued;
	/* it is longer by its own length than the tunnel's datagram that it is in */
	bool cut_by_tunnel;
	/* the transport header is there, or the packet has none that is read */
	bool has_transport;
	/* the addresses were read: the key is valid as far as key.has says */
	bool has_flow;
};

/* A packet in a tunnel on its way through the functions that open it. The
 * verifier reads each of them by itself, once, where it would read the inner
 * headers anew for every way through the outer ones. Kernels before 5.13 pass
 * them no pointers but the context, so the rest goes through here. Programs on
 * one CPU do not nest.
 */
struct tunnel_scratch {
	struct tunnel_key tunnel;
	struct packet pkt;
	__u32 off;
	__u32 len;
	/* enum parse_outcome of the outer headers */
	__u32 outcome;
	/* enum tunnel_type */
	__u32 type;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tunnel_scratch);
} tunnel_scratch SEC(".maps");

static __always_inline struct tunnel_scratch *scratch(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&tunnel_scratch, &key);
}

/* need says whether size bytes at the cursor belong to the datagram and are
 * there: a header that the datagram's own length cuts off is malformed, one
 * that the frame cuts off is truncated.
 */
static __always_inline enum parse_outcome need(const struct cursor *cur, const struct packet *pkt,
					       __u32 size)
{
	if (pkt->end && cur->off + size > pkt->end)
		return PARSE_MALFORMED;
	if (cur->off + size > cur->len)
		return PARSE_TRUNCATED;
	return PARSE_OK;
}

/* load_header reads size bytes at the cursor, which stays. */
static __always_inline enum parse_outcome
load_header(const struct cursor *cur, const struct packet *pkt, void *to, const __u32 size)
{
	enum parse_outcome outcome = need(cur, pkt, size);

	if (outcome != PARSE_OK)
		return outcome;
	return load(cur, cur->off, to, size) ? PARSE_OK : PARSE_TRUNCATED;
}

/* end_at notes where a datagram ends by its own length: own, or 0 if it does not
 * say. What stands in pkt->end is where the tunnel around it does: what is longer
 * was cut on its way into the tunnel, or goes on in the tunnel's next fragment.
 */
static __always_inline void end_at(struct packet *pkt, __u32 own)
{
	pkt->own_end = own;
	if (!own)
		return;
	if (pkt->end && own > pkt->end)
		pkt->cut_by_tunnel = !pkt->continued;
	else
		pkt->end = own;
}

/* whole is the outcome of a packet whose headers were all fine. */
static __always_inline enum parse_outcome whole(const struct cursor *cur, const struct packet *pkt)
{
	return pkt->cut_by_tunnel || pkt->end > cur->len ? PARSE_TRUNCATED : PARSE_OK;
}

/* add_vlan notes one more tag, from the outside in; deeper ones only count as bytes. */
static __always_inline void add_vlan(struct flow_key *key, __u16 tci)
{
	__u16 id = tci & 0x0fff;

	if (!(key->has & FLOW_HAS_VLAN)) {
		key->vlan_id = id;
		key->has |= FLOW_HAS_VLAN;
	} else if (!(key->has & FLOW_HAS_INNER_VLAN)) {
		key->inner_vlan_id = id;
		key->has |= FLOW_HAS_INNER_VLAN;
	}
}

#endif
