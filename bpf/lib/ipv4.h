/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef NETPROBE_IPV4_H
#define NETPROBE_IPV4_H

#include "l4.h"

#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_FRAGMENT_OFFSET 0x1fff

/* RFC 791, section 3.1 */
struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_len;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__u8 source[4];
	__u8 destination[4];
};

static __always_inline void set_v4mapped(__u8 to[16], const __u8 from[4])
{
	__builtin_memset(to, 0, 10);
	to[10] = 0xff;
	to[11] = 0xff;
	__builtin_memcpy(to + 12, from, 4);
}

/* parse_ipv4 reads the IPv4 header at the cursor and what follows it.
 *
 * Options are skipped by the header length. A fragment other than the first
 * has no transport header, so no ports. A total length of 0 is what the kernel
 * leaves where a super-packet is longer than the field can say (BIG TCP): the
 * datagram then ends with the frame.
 */
static __always_inline enum parse_outcome parse_ipv4(struct cursor *cur, struct packet *pkt)
{
	struct flow_key *key = &pkt->key;
	struct ipv4_header ip;
	enum parse_outcome outcome;
	__u32 header_len, total;
	__u16 fragment;

	outcome = load_header(cur, pkt, &ip, sizeof(ip));
	if (outcome != PARSE_OK)
		return outcome;
	header_len = (ip.version_ihl & 0x0f) * 4;
	if (ip.version_ihl >> 4 != 4 || header_len < sizeof(ip))
		return PARSE_MALFORMED;

	set_v4mapped(key->source, ip.source);
	set_v4mapped(key->destination, ip.destination);
	key->ip_version = 4;
	key->protocol = ip.protocol;
	pkt->has_flow = true;

	fragment = bpf_ntohs(ip.fragment);
	if (fragment & IPV4_FRAGMENT_OFFSET)
		key->has |= FLOW_IS_FRAGMENT;
	pkt->more_fragments = fragment & IPV4_MORE_FRAGMENTS;

	total = bpf_ntohs(ip.total_len);
	end_at(pkt, total ? cur->off + total : 0);
	if (total && total < header_len)
		return PARSE_MALFORMED;
	/* the options may be too long for the tunnel's datagram that all is in */
	outcome = need(cur, pkt, header_len);
	advance(cur, header_len);
	pkt->header_len = cur->off;
	if (outcome != PARSE_OK)
		return outcome;
	if (key->has & FLOW_IS_FRAGMENT)
		return whole(cur, pkt);
	return parse_l4(cur, pkt);
}

#endif
