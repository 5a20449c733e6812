/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef NETPROBE_PARSE_H
#define NETPROBE_PARSE_H

#include "eth.h"
#include "ipv4.h"
#include "ipv6.h"

/* parse_packet reads a packet from its first byte. ethertype is what the
 * device says the packet is, where it has no link header to read it from.
 */
static __always_inline enum parse_outcome parse_packet(struct cursor *cur, struct packet *pkt,
						       __u16 ethertype)
{
	enum parse_outcome outcome = parse_link(cur, pkt, &ethertype);

	if (outcome != PARSE_OK)
		return outcome;
	switch (ethertype) {
	case ETH_P_IP:
		return parse_ipv4(cur, pkt);
	case ETH_P_IPV6:
		return parse_ipv6(cur, pkt);
	default:
		return PARSE_NOT_IP;
	}
}

#endif
