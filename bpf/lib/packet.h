/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the parsers find in one packet. */
#ifndef NETPROBE_PACKET_H
#define NETPROBE_PACKET_H

#include "types.h"
#include <bpf/bpf_endian.h>
#include "cursor.h"

struct packet {
	struct flow_key key;
	/* where the IP datagram ends by its own length, from the start of the packet;
	 * 0 where it has none and ends with the packet
	 */
	__u32 end;
	/* bytes up to the end of the transport header; what every GSO segment repeats */
	__u32 header_len;
	__u8 tcp_flags;
	/* first fragment of several: lengths in the transport header speak of the whole datagram */
	bool more_fragments;
	/* the addresses were read: the key is valid as far as key.has says */
	bool has_flow;
};

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

/* whole is the outcome of a packet whose headers were all fine. */
static __always_inline enum parse_outcome whole(const struct cursor *cur, const struct packet *pkt)
{
	return pkt->end > cur->len ? PARSE_TRUNCATED : PARSE_OK;
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
