/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Tunnel headers: VXLAN (RFC 7348, with the group policy extension that Linux
 * knows), Geneve (RFC 8926), GRE (RFC 2784 and 2890), and IP in IP (RFC 2003,
 * 2473, 4213), which has none.
 */
#ifndef NETPROBE_TUNNEL_H
#define NETPROBE_TUNNEL_H

#include "config.h"
#include "eth.h"
#include "l4.h"

#define ETH_P_TEB 0x6558 /* an Ethernet frame, "transparent Ethernet bridging" */
#define ETH_P_ERSPAN 0x88be
#define ETH_P_ERSPAN2 0x22eb

/* What follows a tunnel's header. */
struct tunnel_payload {
	/* an Ethernet frame; else the packet that ethertype says */
	bool ethernet;
	__u16 ethertype;
};

static __always_inline bool is_port_of(const volatile __u16 ports[MAX_TUNNEL_PORTS], __u16 port)
{
	int i;

#pragma unroll
	for (i = 0; i < MAX_TUNNEL_PORTS; i++)
		if (ports[i] && ports[i] == port)
			return true;
	return false;
}

/* tunnel_of says by protocol and port which tunnel's packets a flow's are. */
static __always_inline enum tunnel_type tunnel_of(const struct flow_key *key)
{
	if (key->has & FLOW_IS_FRAGMENT)
		return TUNNEL_NONE;
	switch (key->protocol) {
	case IPPROTO_UDP:
		if (!(key->has & FLOW_HAS_PORTS))
			return TUNNEL_NONE;
		if (is_port_of(cfg_vxlan_ports, key->destination_port))
			return TUNNEL_VXLAN;
		if (is_port_of(cfg_geneve_ports, key->destination_port))
			return TUNNEL_GENEVE;
		return TUNNEL_NONE;
	case IPPROTO_GRE:
		return cfg_gre ? TUNNEL_GRE : TUNNEL_NONE;
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
		return cfg_ipip ? TUNNEL_IPIP : TUNNEL_NONE;
	default:
		return TUNNEL_NONE;
	}
}

/* begin_tunnel makes the addresses read so far those of the tunnel. */
static __always_inline void begin_tunnel(struct tunnel_scratch *s)
{
	const struct flow_key *key = &s->pkt.key;

	__builtin_memcpy(s->tunnel.source, key->source, sizeof(key->source));
	__builtin_memcpy(s->tunnel.destination, key->destination, sizeof(key->destination));
	s->tunnel.ip_version = key->ip_version;
	s->tunnel.type = s->type;
	s->tunnel.id = 0;
	s->tunnel.has_id = 0;
}

static __always_inline void set_tunnel_id(struct tunnel_scratch *s, __u32 id)
{
	s->tunnel.id = id;
	s->tunnel.has_id = 1;
}

/* skip_udp moves the cursor into a UDP datagram, which may end before the IP
 * datagram does. The length in a first fragment is that of all fragments.
 */
static __always_inline enum parse_outcome skip_udp(struct cursor *cur, struct packet *pkt)
{
	__be16 wire_len;
	__u32 len;

	if (!load(cur, cur->off + 4, &wire_len, sizeof(wire_len)))
		return PARSE_TRUNCATED;
	len = bpf_ntohs(wire_len);
	if (len && (!pkt->end || cur->off + len < pkt->end))
		pkt->end = cur->off + len;
	advance(cur, UDP_HEADER_LEN);
	return PARSE_OK;
}

#define VXLAN_VNI 0x08		/* I: there is an identifier */
#define VXLAN_GROUP 0x80	/* G: there is a group policy (draft-smith-vxlan-group-policy) */
#define VXLAN_GPE 0x04		/* P: there is a protocol (draft-ietf-nvo3-vxlan-gpe) */
#define VXLAN_GPE_RESERVED 0xf0 /* bits that GPE reserves, and its version */
#define VXLAN_GROUP_FLAGS 0x48	/* D: do not learn, A: policy applied */
#define VXLAN_GPE_NSH 0x04

static __always_inline __u32 vxlan_refusal(const __u8 header[8])
{
	__u8 flags = header[0];
	__u8 reserved;

	if (!(flags & VXLAN_VNI))
		return REFUSED_VXLAN_NO_VNI;
	if (flags & VXLAN_GPE && !(flags & VXLAN_GPE_RESERVED) && !header[1] && !header[2] &&
	    !header[7])
		return header[3] == VXLAN_GPE_NSH ? REFUSED_VXLAN_NSH : REFUSED_VXLAN_GPE;
	reserved = (flags & ~(VXLAN_VNI | VXLAN_GROUP)) | header[7];
	if (flags & VXLAN_GROUP)
		reserved |= header[1] & ~VXLAN_GROUP_FLAGS;
	else
		reserved |= header[1] | header[2] | header[3];
	return reserved ? REFUSED_VXLAN_RESERVED_BITS : TUNNEL_NOT_REFUSED;
}

static __always_inline enum parse_outcome open_vxlan(struct cursor *cur, struct tunnel_scratch *s,
						     struct tunnel_payload *payload)
{
	struct packet *pkt = &s->pkt;
	enum parse_outcome outcome;
	__u8 header[8]; /* flags, 3 reserved, identifier of 3, reserved */

	outcome = load_header(cur, pkt, header, sizeof(header));
	if (outcome != PARSE_OK)
		return outcome;
	pkt->refused = vxlan_refusal(header);
	set_tunnel_id(s, header[4] << 16 | header[5] << 8 | header[6]);
	payload->ethernet = true;
	advance(cur, sizeof(header));
	return PARSE_OK;
}

#define GENEVE_VERSION 0xc0
#define GENEVE_CONTROL 0x80
/* The length counts four bytes in six bits, and no option is shorter. */
#define GENEVE_MAX_OPTIONS 63

/* walk_geneve_options says whether options from off on, of so many words, end
 * where they are said to. The verifier reads a function that is not static by
 * itself, once.
 */
__noinline __u32 walk_geneve_options(struct __sk_buff *skb, __u32 off, __u32 words,
				     __u32 from_network)
{
	__u8 option[4]; /* class of 2, type, length in words without these */
	__u32 len;
	int i;

	for (i = 0; i < GENEVE_MAX_OPTIONS && words; i++) {
		if (from_network ? bpf_skb_load_bytes_relative(skb, off, option, sizeof(option),
							       BPF_HDR_START_NET)
				 : bpf_skb_load_bytes(skb, off, option, sizeof(option)))
			return PARSE_TRUNCATED;
		len = 1 + (option[3] & 0x1f);
		if (len > words)
			return PARSE_MALFORMED;
		words -= len;
		off += len * 4;
	}
	return PARSE_OK;
}

static __always_inline enum parse_outcome skip_geneve_options(struct cursor *cur,
							      struct packet *pkt, __u32 words)
{
	enum parse_outcome outcome = need(cur, pkt, words * 4);
	__u32 last;

	if (outcome != PARSE_OK || !words)
		return outcome;
	if (!load(cur, cur->off + words * 4 - sizeof(last), &last, sizeof(last)))
		return PARSE_TRUNCATED;
	outcome = walk_geneve_options(cur->ctx, cur->off, words, cur->source == SOURCE_SKB_L3);
	advance(cur, words * 4);
	return outcome;
}

static __always_inline enum parse_outcome open_geneve(struct cursor *cur, struct tunnel_scratch *s,
						      struct tunnel_payload *payload)
{
	struct packet *pkt = &s->pkt;
	enum parse_outcome outcome;
	__u8 header[8]; /* version and length, flags, protocol of 2, identifier of 3, reserved */

	outcome = load_header(cur, pkt, header, sizeof(header));
	if (outcome != PARSE_OK)
		return outcome;
	if (header[0] & GENEVE_VERSION)
		pkt->refused = REFUSED_GENEVE_VERSION;
	else if (header[1] & GENEVE_CONTROL)
		pkt->refused = REFUSED_GENEVE_CONTROL;
	if (pkt->refused)
		return PARSE_OK;
	set_tunnel_id(s, header[4] << 16 | header[5] << 8 | header[6]);
	payload->ethertype = header[2] << 8 | header[3];
	payload->ethernet = payload->ethertype == ETH_P_TEB;
	advance(cur, sizeof(header));
	return skip_geneve_options(cur, pkt, header[0] & 0x3f);
}

#define GRE_CHECKSUM 0x8000
#define GRE_ROUTING 0x4000
#define GRE_KEY 0x2000
#define GRE_SEQUENCE 0x1000
#define GRE_VERSION 0x0007

static __always_inline enum parse_outcome open_gre(struct cursor *cur, struct tunnel_scratch *s,
						   struct tunnel_payload *payload)
{
	struct packet *pkt = &s->pkt;
	enum parse_outcome outcome;
	__be16 header[2]; /* flags and version, then the protocol */
	__u32 len = sizeof(header);
	__u16 flags;
	__be32 key;

	outcome = load_header(cur, pkt, header, sizeof(header));
	if (outcome != PARSE_OK)
		return outcome;
	flags = bpf_ntohs(header[0]);
	payload->ethertype = bpf_ntohs(header[1]);
	payload->ethernet = payload->ethertype == ETH_P_TEB;
	if (flags & GRE_VERSION)
		pkt->refused = REFUSED_GRE_VERSION;
	else if (flags & GRE_ROUTING)
		pkt->refused = REFUSED_GRE_ROUTING;
	else if (payload->ethertype == ETH_P_ERSPAN || payload->ethertype == ETH_P_ERSPAN2)
		pkt->refused = REFUSED_ERSPAN;
	if (pkt->refused)
		return PARSE_OK;

	len += flags & GRE_CHECKSUM ? 4 : 0;
	if (flags & GRE_KEY) {
		outcome = need(cur, pkt, len + sizeof(key));
		if (outcome != PARSE_OK)
			return outcome;
		if (!load(cur, cur->off + len, &key, sizeof(key)))
			return PARSE_TRUNCATED;
		set_tunnel_id(s, bpf_ntohl(key));
		len += sizeof(key);
	}
	len += flags & GRE_SEQUENCE ? 4 : 0;
	outcome = need(cur, pkt, len);
	if (outcome == PARSE_OK && !load(cur, cur->off + len - sizeof(key), &key, sizeof(key)))
		outcome = PARSE_TRUNCATED;
	advance(cur, len);
	return outcome;
}

/* open_tunnel moves the cursor behind the tunnel's header and says what follows
 * it. pkt->refused says why it did not.
 */
static __always_inline enum parse_outcome open_tunnel(struct cursor *cur, struct tunnel_scratch *s,
						      struct tunnel_payload *payload)
{
	enum parse_outcome outcome;

	switch (s->type) {
	case TUNNEL_VXLAN:
	case TUNNEL_GENEVE:
		outcome = skip_udp(cur, &s->pkt);
		if (outcome != PARSE_OK)
			return outcome;
		return s->type == TUNNEL_VXLAN ? open_vxlan(cur, s, payload)
					       : open_geneve(cur, s, payload);
	case TUNNEL_GRE:
		return open_gre(cur, s, payload);
	case TUNNEL_IPIP:
		payload->ethertype = s->pkt.key.protocol == IPPROTO_IPIP ? ETH_P_IP : ETH_P_IPV6;
		return PARSE_OK;
	default:
		return PARSE_OK;
	}
}

/* parse_inner_link moves the cursor over the Ethernet header of a frame in a
 * tunnel. Its tags are not noted: those in the key are the underlay's.
 */
static __always_inline enum parse_outcome parse_inner_link(struct cursor *cur, struct packet *pkt,
							   __u16 *ethertype)
{
	enum parse_outcome outcome;
	__be16 tag[2];
	__be16 type;
	int i;

	outcome = need(cur, pkt, ETH_HEADER_LEN);
	if (outcome != PARSE_OK)
		return outcome;
	if (!load(cur, cur->off + 12, &type, sizeof(type)))
		return PARSE_TRUNCATED;
	*ethertype = bpf_ntohs(type);
	advance(cur, ETH_HEADER_LEN);
	for (i = 0; i < MAX_VLAN_TAGS && is_vlan(*ethertype); i++) {
		outcome = load_header(cur, pkt, tag, sizeof(tag));
		if (outcome != PARSE_OK)
			return outcome;
		*ethertype = bpf_ntohs(tag[1]);
		advance(cur, sizeof(tag));
	}
	return is_vlan(*ethertype) ? PARSE_UNSUPPORTED : PARSE_OK;
}

#endif
