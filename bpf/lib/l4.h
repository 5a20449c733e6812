/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP (RFC 9293), UDP (RFC 768), UDP-Lite (RFC 3828), SCTP (RFC 9260), DCCP
 * (RFC 4340), ICMP (RFC 792) and ICMPv6 (RFC 4443).
 */
#ifndef NETPROBE_L4_H
#define NETPROBE_L4_H

#include "packet.h"

#define UDP_HEADER_LEN 8
#define TCP_HEADER_LEN 20
#define TCP_SYN 0x02
#define TCP_ACK 0x10
/* where data offset and flags lie in a TCP header */
#define TCP_OFFSET_FLAGS 12

/* l4_header_len is the shortest header of a protocol, 0 for one that is not read. */
static __always_inline __u32 l4_header_len(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return TCP_HEADER_LEN;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
		return UDP_HEADER_LEN;
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		return 12;
	case IPPROTO_ICMP:
		return 8;
	case IPPROTO_ICMPV6:
		return 4;
	default:
		return 0;
	}
}

static __always_inline enum parse_outcome parse_tcp(struct cursor *cur, struct packet *pkt)
{
	__u8 offset_flags[2];
	__u32 len;

	if (!load(cur, cur->off + TCP_OFFSET_FLAGS, offset_flags, sizeof(offset_flags)))
		return PARSE_TRUNCATED;
	pkt->tcp_flags = offset_flags[1];
	len = (offset_flags[0] >> 4) * 4;
	if (len < TCP_HEADER_LEN)
		return PARSE_MALFORMED;
	pkt->header_len = cur->off + len;
	return need(cur, pkt, len);
}

/* parse_udp judges the length of a UDP datagram, and what a UDP-Lite checksum
 * covers, which stands in its place and has the same bounds (RFC 3828, section 3.1).
 */
static __always_inline enum parse_outcome parse_udp(struct cursor *cur, struct packet *pkt)
{
	__be16 wire_len;
	__u32 len;

	if (!load(cur, cur->off + 4, &wire_len, sizeof(wire_len)))
		return PARSE_TRUNCATED;
	len = bpf_ntohs(wire_len);
	/* Of UDP-Lite 0 covers all. Of UDP it stands for a length that the field cannot
	 * say (RFC 2675, section 4), which no datagram has that says its own.
	 */
	if (!len && (pkt->key.protocol == IPPROTO_UDPLITE || !pkt->own_end))
		return PARSE_OK;
	if (len < UDP_HEADER_LEN)
		return PARSE_MALFORMED;
	if (pkt->more_fragments)
		return PARSE_OK;
	if (pkt->own_end && cur->off + len > pkt->own_end)
		return PARSE_MALFORMED;
	if (pkt->continued)
		return PARSE_OK;
	return cur->off + len > cur->len || (pkt->end && cur->off + len > pkt->end)
		       ? PARSE_TRUNCATED
		       : PARSE_OK;
}

/* parse_l4 reads the transport header at the cursor. Ports stand in the first
 * four bytes; where only those are there, they are noted and the outcome says
 * what is missing.
 */
static __always_inline enum parse_outcome parse_l4(struct cursor *cur, struct packet *pkt)
{
	struct flow_key *key = &pkt->key;
	__u32 min = l4_header_len(key->protocol);
	enum parse_outcome outcome;
	__u8 head[4];

	pkt->header_len = cur->off + min;
	if (!min) {
		pkt->has_transport = true;
		return whole(cur, pkt);
	}

	outcome = load_header(cur, pkt, head, sizeof(head));
	if (outcome != PARSE_OK)
		return outcome;
	if (key->protocol == IPPROTO_ICMP || key->protocol == IPPROTO_ICMPV6) {
		key->source_port = head[0];
		key->destination_port = head[1];
	} else {
		key->source_port = head[0] << 8 | head[1];
		key->destination_port = head[2] << 8 | head[3];
	}
	key->has |= FLOW_HAS_PORTS;

	outcome = need(cur, pkt, min);
	if (outcome != PARSE_OK)
		return outcome;
	pkt->has_transport = true;
	if (key->protocol == IPPROTO_TCP)
		outcome = parse_tcp(cur, pkt);
	else if (key->protocol == IPPROTO_UDP || key->protocol == IPPROTO_UDPLITE)
		outcome = parse_udp(cur, pkt);
	return outcome == PARSE_OK ? whole(cur, pkt) : outcome;
}

#endif
