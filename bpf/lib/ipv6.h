/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef NETPROBE_IPV6_H
#define NETPROBE_IPV6_H

#include "l4.h"

#define IPV6_MORE_FRAGMENTS 0x1

/* RFC 8200, section 4.1 lists seven in order and lets each but one come once;
 * the rest is room for senders that repeat some.
 */
#define MAX_EXTENSION_HEADERS 12

/* RFC 8200, section 3 */
struct ipv6_header {
	__u8 version_class_flow[4];
	__be16 payload_len;
	__u8 next_header;
	__u8 hop_limit;
	__u8 source[16];
	__u8 destination[16];
};

/* the first eight bytes of an extension header; none is shorter */
struct ipv6_extension {
	__u8 next_header;
	__u8 len;
	__be16 fragment;
	__u8 rest[4];
};

static __always_inline bool is_extension(__u8 next_header)
{
	switch (next_header) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_AH:
	case IPPROTO_DSTOPTS:
		return true;
	default:
		return false;
	}
}

static __always_inline __u32 extension_len(__u8 kind, const struct ipv6_extension *ext)
{
	switch (kind) {
	case IPPROTO_FRAGMENT:
		return sizeof(*ext);
	case IPPROTO_AH: /* RFC 4302, section 2.2: 4-byte units, minus 2 */
		return (ext->len + 2) * 4;
	default:
		return (ext->len + 1) * 8;
	}
}

#define IPV6_TLV_JUMBO 0xc2

/* is_jumbo says whether a hop-by-hop options header has nothing but a jumbo
 * payload option (RFC 2675, section 2), as the kernel puts into super-packets of
 * over 64 KiB and takes out again (ipv6_hopopt_jumbo_remove, net/ipv6/ip6_offload.c).
 */
static __always_inline bool is_jumbo(const struct ipv6_extension *ext)
{
	return !ext->len && bpf_ntohs(ext->fragment) == (IPV6_TLV_JUMBO << 8 | 4);
}

/* walk_extension steps over one extension header; key->protocol names the
 * header at the cursor before and after. A non-first fragment ends the walk:
 * what follows it is payload.
 */
static __always_inline enum parse_outcome walk_extension(struct cursor *cur, struct packet *pkt)
{
	struct flow_key *key = &pkt->key;
	__u8 kind = key->protocol;
	enum parse_outcome outcome;
	struct ipv6_extension ext;
	__u32 len;

	outcome = load_header(cur, pkt, &ext, sizeof(ext));
	if (outcome != PARSE_OK)
		return outcome;

	key->protocol = ext.next_header;
	/* 12 bytes of it are always there (RFC 4302, section 2): behind eight is no header */
	if (kind == IPPROTO_AH && !ext.len)
		return PARSE_MALFORMED;
	len = extension_len(kind, &ext);
	if (kind == IPPROTO_HOPOPTS && is_jumbo(&ext))
		pkt->jumbo_len = sizeof(ext);
	if (kind == IPPROTO_FRAGMENT) {
		if (bpf_ntohs(ext.fragment) >> 3)
			key->has |= FLOW_IS_FRAGMENT;
		else /* where a fragment was cut up again, either header may say so */
			pkt->more_fragments |= bpf_ntohs(ext.fragment) & IPV6_MORE_FRAGMENTS;
	}
	outcome = need(cur, pkt, len);
	advance(cur, len);
	return outcome;
}

/* parse_ipv6 reads the IPv6 header at the cursor, its extension headers and
 * what follows. A payload length of 0 stands for a jumbogram (RFC 2675) or a
 * super-packet of the kernel: the datagram then ends with the frame.
 */
static __always_inline enum parse_outcome parse_ipv6(struct cursor *cur, struct packet *pkt)
{
	struct flow_key *key = &pkt->key;
	enum parse_outcome outcome;
	struct ipv6_header ip;
	__u32 payload;
	int i;

	outcome = load_header(cur, pkt, &ip, sizeof(ip));
	if (outcome != PARSE_OK)
		return outcome;
	if (ip.version_class_flow[0] >> 4 != 6)
		return PARSE_MALFORMED;

	__builtin_memcpy(key->source, ip.source, sizeof(ip.source));
	__builtin_memcpy(key->destination, ip.destination, sizeof(ip.destination));
	key->ip_version = 6;
	key->protocol = ip.next_header;
	pkt->has_flow = true;

	advance(cur, sizeof(ip));
	payload = bpf_ntohs(ip.payload_len);
	end_at(pkt, payload ? cur->off + payload : 0);
	pkt->jumbo_len = 0;
	pkt->header_len = cur->off;

	for (i = 0; i < MAX_EXTENSION_HEADERS && is_extension(key->protocol); i++) {
		outcome = walk_extension(cur, pkt);
		if (outcome != PARSE_OK)
			return outcome;
		pkt->header_len = cur->off;
		if (key->has & FLOW_IS_FRAGMENT)
			return whole(cur, pkt);
	}
	if (is_extension(key->protocol))
		return PARSE_UNSUPPORTED;
	return parse_l4(cur, pkt);
}

#endif
