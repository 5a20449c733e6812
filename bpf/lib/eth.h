/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From the frame's first byte to the network header: Ethernet, IEEE 802.1Q and
 * 802.1ad tags, IEEE 802.3 with SNAP (RFC 1042), PPPoE sessions (RFC 2516), MPLS label stacks (RFC
 * 3032).
 */
#ifndef NETPROBE_ETH_H
#define NETPROBE_ETH_H

#include "packet.h"

#define ETH_HEADER_LEN 14

#define ETH_P_IP 0x0800
#define ETH_P_8021Q 0x8100
#define ETH_P_IPV6 0x86dd
#define ETH_P_MPLS_UC 0x8847
#define ETH_P_MPLS_MC 0x8848
#define ETH_P_PPP_SES 0x8864
#define ETH_P_8021AD 0x88a8
#define ETH_P_QINQ1 0x9100 /* 802.1ad before it was one */

/* Up to here the field is the length of an IEEE 802.3 frame, not a type; the kernel then
 * gives ETH_P_802_2, which is no more either.
 */
#define ETH_MAX_LEN 1500

#define PPP_IP 0x0021
#define PPP_IPV6 0x0057

#define MAX_VLAN_TAGS 4
#define MAX_MPLS_LABELS 8

#define MPLS_BOTTOM_OF_STACK 0x100

static __always_inline bool is_vlan(__u16 ethertype)
{
	return ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD || ethertype == ETH_P_QINQ1;
}

static __always_inline enum parse_outcome parse_vlans(struct cursor *cur, struct packet *pkt,
						      __u16 *ethertype)
{
	__be16 tag[2]; /* control information, then the type of what follows */
	int i;

	for (i = 0; i < MAX_VLAN_TAGS && is_vlan(*ethertype); i++) {
		if (!load(cur, cur->off, tag, sizeof(tag)))
			return PARSE_TRUNCATED;
		add_vlan(&pkt->key, bpf_ntohs(tag[0]));
		*ethertype = bpf_ntohs(tag[1]);
		advance(cur, sizeof(tag));
	}
	return is_vlan(*ethertype) ? PARSE_UNSUPPORTED : PARSE_OK;
}

/* parse_snap reads what stands in place of a type in an IEEE 802.3 frame: an
 * LLC header, which for IP is that of SNAP with RFC 1042's organization code 0.
 */
static __always_inline enum parse_outcome parse_snap(struct cursor *cur, __u16 *ethertype)
{
	__u8 llc[3], snap[5];

	if (!load(cur, cur->off, llc, sizeof(llc)))
		return PARSE_TRUNCATED;
	if (llc[0] != 0xaa || llc[1] != 0xaa || llc[2] != 0x03)
		return PARSE_NOT_IP;
	advance(cur, sizeof(llc));
	if (!load(cur, cur->off, snap, sizeof(snap)))
		return PARSE_TRUNCATED;
	if (snap[0] || snap[1] || snap[2])
		return PARSE_NOT_IP;
	advance(cur, sizeof(snap));
	*ethertype = snap[3] << 8 | snap[4];
	return PARSE_OK;
}

static __always_inline enum parse_outcome parse_pppoe(struct cursor *cur, __u16 *ethertype)
{
	__be16 session[4]; /* version and code, session, length, then the PPP protocol */

	if (!load(cur, cur->off, session, sizeof(session)))
		return PARSE_TRUNCATED;
	if (bpf_ntohs(session[0]) != 0x1100)
		return PARSE_MALFORMED;
	advance(cur, sizeof(session));
	switch (bpf_ntohs(session[3])) {
	case PPP_IP:
		*ethertype = ETH_P_IP;
		return PARSE_OK;
	case PPP_IPV6:
		*ethertype = ETH_P_IPV6;
		return PARSE_OK;
	default:
		return PARSE_NOT_IP;
	}
}

/* parse_mpls walks the label stack. Nothing in it names what lies below: as
 * routers do, the first nibble tells IPv4 and IPv6 from the rest (RFC 4928,
 * section 3), which is left alone.
 */
static __always_inline enum parse_outcome parse_mpls(struct cursor *cur, struct packet *pkt,
						     __u16 *ethertype)
{
	__u32 entry = 0;
	__u8 version;
	int i;

	for (i = 0; i < MAX_MPLS_LABELS && !(entry & MPLS_BOTTOM_OF_STACK); i++) {
		if (!load(cur, cur->off, &entry, sizeof(entry)))
			return PARSE_TRUNCATED;
		entry = bpf_ntohl(entry);
		advance(cur, sizeof(entry));
		if (!i)
			pkt->key.mpls_label = entry >> 12;
	}
	pkt->key.has |= FLOW_HAS_MPLS;
	if (!(entry & MPLS_BOTTOM_OF_STACK))
		return PARSE_UNSUPPORTED;

	if (!load(cur, cur->off, &version, sizeof(version)))
		return PARSE_TRUNCATED;
	switch (version >> 4) {
	case 4:
		*ethertype = ETH_P_IP;
		return PARSE_OK;
	case 6:
		*ethertype = ETH_P_IPV6;
		return PARSE_OK;
	default:
		return PARSE_NOT_IP;
	}
}

/* parse_link moves the cursor to the network header and says what it is. */
static __always_inline enum parse_outcome parse_link(struct cursor *cur, struct packet *pkt,
						     __u16 *ethertype)
{
	enum parse_outcome outcome;
	__be16 type;

	if (cur->source != SOURCE_SKB_L3) {
		/* after two addresses of six bytes */
		if (!load(cur, 12, &type, sizeof(type)))
			return PARSE_TRUNCATED;
		advance(cur, ETH_HEADER_LEN);
		*ethertype = bpf_ntohs(type);
	}

	outcome = parse_vlans(cur, pkt, ethertype);
	if (outcome == PARSE_OK && *ethertype <= ETH_MAX_LEN)
		outcome = parse_snap(cur, ethertype);
	if (outcome == PARSE_OK && *ethertype == ETH_P_PPP_SES)
		outcome = parse_pppoe(cur, ethertype);
	if (outcome == PARSE_OK && (*ethertype == ETH_P_MPLS_UC || *ethertype == ETH_P_MPLS_MC))
		outcome = parse_mpls(cur, pkt, ethertype);
	return outcome;
}

#endif
