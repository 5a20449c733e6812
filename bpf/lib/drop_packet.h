/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What flow a struct sk_buff is of, wherever in the kernel it is.
 *
 * The kernel notes where the network header lies, but from the driver up to
 * __netif_receive_skb_core (net/core/dev.c), and in a transport protocol on the way
 * out, the note is missing or an old one, and points at anything. So nothing is
 * believed that does not prove itself: skb->protocol and the header agree in the
 * version, the lengths fit the packet, and an IPv4 header's checksum is right,
 * which it is from __ip_local_out on (net/ipv4/ip_output.c). A packet whose header
 * is in fragments, or which was dropped for its IPv4 header, has no flow.
 */
#ifndef NETPROBE_DROP_PACKET_H
#define NETPROBE_DROP_PACKET_H

#include "drop.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

#define IPV4_HEADER_LEN 20
#define IPV6_HEADER_LEN 40
#define IP_MAX_LEN 65535
#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV6_EXTENSION_LEN 8
#define MAX_EXTENSION_HEADERS 8

struct drop_span {
	/* the network header, and where the linear part of the packet ends */
	__u64 start;
	__u64 linear_end;
	/* bytes from the network header to the packet's end; later, of the IP packet */
	__u64 len;
};

static __always_inline bool drop_load(const struct drop_span *span, __u64 off, void *to,
				      const __u32 size)
{
	if (off + size > span->len || span->start + off + size > span->linear_end)
		return false;
	return bpf_probe_read_kernel(to, size, (void *)(span->start + off)) == 0;
}

static __always_inline bool drop_span_of(const struct sk_buff *skb, struct drop_span *span)
{
	__u64 data = (__u64)skb->data, end = data + skb->len;

	/* 0 is what a new packet has; there is headroom in all that may get a header */
	if (!skb->network_header)
		return false;
	span->start = (__u64)skb->head + skb->network_header;
	span->linear_end = end - skb->data_len;
	if (span->start > span->linear_end)
		return false;
	span->len = end - span->start;
	return true;
}

/* drop_ports reads what stands in the first four bytes of a transport header. */
static __always_inline void drop_ports(const struct drop_span *span, __u64 off,
				       struct drop_flow_key *key)
{
	__u8 head[4];

	switch (key->drop.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		if (!drop_load(span, off, head, sizeof(head)))
			return;
		key->source_port = head[0] << 8 | head[1];
		key->destination_port = head[2] << 8 | head[3];
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (!drop_load(span, off, head, sizeof(head)))
			return;
		key->source_port = head[0];
		key->destination_port = head[1];
		break;
	default:
		return;
	}
	key->has |= FLOW_HAS_PORTS;
}

/* drop_checksum_ok sums up an IPv4 header (RFC 1071), whose words are in wire
 * order: the sum is all ones in either byte order.
 */
static __always_inline bool drop_checksum_ok(const struct drop_span *span, const __u16 header[10],
					     __u32 header_len)
{
	__u32 sum = 0;
	__u16 option[2];
	__u32 i;

	for (i = 0; i < IPV4_HEADER_LEN / 2; i++)
		sum += header[i];
	for (i = 0; i < 10 && IPV4_HEADER_LEN + i * 4 < header_len; i++) {
		if (!drop_load(span, IPV4_HEADER_LEN + i * 4, option, sizeof(option)))
			return false;
		sum += option[0] + option[1];
	}
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

static __always_inline bool drop_read_ipv4(struct drop_span *span, struct drop_flow_key *key)
{
	/* RFC 791, section 3.1 */
	union {
		struct {
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
		__u16 words[IPV4_HEADER_LEN / 2];
	} ip;
	__u32 header_len, total;

	if (!drop_load(span, 0, &ip, sizeof(ip)))
		return false;
	header_len = (ip.version_ihl & 0x0f) * 4;
	total = bpf_ntohs(ip.total_len);
	/* a super-packet that is longer than the field can say (BIG TCP) */
	if (!total && span->len > IP_MAX_LEN)
		total = span->len;
	if (ip.version_ihl >> 4 != 4 || header_len < IPV4_HEADER_LEN || total < header_len ||
	    total > span->len || !drop_checksum_ok(span, ip.words, header_len))
		return false;
	span->len = total;

	key->source[10] = key->source[11] = 0xff;
	__builtin_memcpy(key->source + 12, ip.source, sizeof(ip.source));
	key->destination[10] = key->destination[11] = 0xff;
	__builtin_memcpy(key->destination + 12, ip.destination, sizeof(ip.destination));
	key->drop.ip_version = 4;
	key->drop.protocol = ip.protocol;
	if (bpf_ntohs(ip.fragment) & IPV4_FRAGMENT_OFFSET)
		key->has |= FLOW_IS_FRAGMENT;
	else
		drop_ports(span, header_len, key);
	return true;
}

/* drop_is_extension says the same as is_extension of ipv6.h, which comes with maps. */
static __always_inline bool drop_is_extension(__u8 next_header)
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

static __always_inline __u32 drop_extension_len(__u8 kind, const __u8 ext[IPV6_EXTENSION_LEN])
{
	switch (kind) {
	case IPPROTO_FRAGMENT:
		return IPV6_EXTENSION_LEN;
	case IPPROTO_AH: /* RFC 4302, section 2.2: 4-byte units, minus 2 */
		return (ext[1] + 2) * 4;
	default:
		return (ext[1] + 1) * 8;
	}
}

/* drop_walk_ipv6 steps over extension headers up to one that has ports, or has none. */
static __always_inline void drop_walk_ipv6(const struct drop_span *span, struct drop_flow_key *key)
{
	__u8 ext[IPV6_EXTENSION_LEN];
	__u64 off = IPV6_HEADER_LEN;
	__u8 kind;
	int i;

	for (i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		kind = key->drop.protocol;
		if (!drop_is_extension(kind)) {
			drop_ports(span, off, key);
			return;
		}
		if (!drop_load(span, off, ext, sizeof(ext)))
			return;
		key->drop.protocol = ext[0];
		/* 12 bytes of it are always there: behind eight is no header */
		if (kind == IPPROTO_AH && !ext[1])
			return;
		if (kind == IPPROTO_FRAGMENT && (ext[2] | (ext[3] & 0xf8))) {
			key->has |= FLOW_IS_FRAGMENT;
			return;
		}
		off += drop_extension_len(kind, ext);
	}
}

static __always_inline bool drop_read_ipv6(struct drop_span *span, struct drop_flow_key *key)
{
	/* RFC 8200, section 3 */
	struct {
		__u8 version_class_flow[4];
		__be16 payload_len;
		__u8 next_header;
		__u8 hop_limit;
		__u8 source[16];
		__u8 destination[16];
	} ip;
	__u32 total;

	if (!drop_load(span, 0, &ip, sizeof(ip)))
		return false;
	total = IPV6_HEADER_LEN + bpf_ntohs(ip.payload_len);
	/* a jumbogram (RFC 2675), or a super-packet */
	if (!ip.payload_len && span->len > IPV6_HEADER_LEN + IP_MAX_LEN)
		total = span->len;
	if (ip.version_class_flow[0] >> 4 != 6 || total > span->len)
		return false;
	span->len = total;

	__builtin_memcpy(key->source, ip.source, sizeof(ip.source));
	__builtin_memcpy(key->destination, ip.destination, sizeof(ip.destination));
	key->drop.ip_version = 6;
	key->drop.protocol = ip.next_header;
	drop_walk_ipv6(span, key);
	return true;
}

/* drop_read_flow fills the key with the packet's flow and sets bytes to the length
 * of its IP packet. Where it cannot tell the flow it does neither.
 */
static __always_inline bool drop_read_flow(const struct sk_buff *skb, struct drop_flow_key *key,
					   __u64 *bytes)
{
	struct drop_span span;
	bool read = false;

	if (!drop_span_of(skb, &span))
		return false;
	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_IP:
		read = drop_read_ipv4(&span, key);
		break;
	case ETH_P_IPV6:
		read = drop_read_ipv6(&span, key);
		break;
	}
	if (read)
		*bytes = span.len;
	return read;
}

#endif
