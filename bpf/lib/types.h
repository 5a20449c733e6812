/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Every struct and enum that crosses to Go, and nothing else.
 *
 * Integers are in host order; addresses are bytes in wire order, IPv4 as
 * ::ffff:a.b.c.d. No member is padded by the compiler.
 */
#ifndef NETPROBE_TYPES_H
#define NETPROBE_TYPES_H

#include "kernel.h"

/* Direction of a packet at the interface that the hook is on. */
enum direction {
	DIRECTION_INGRESS,
	DIRECTION_EGRESS,
	DIRECTIONS,
};

/* Where a program sits. */
enum hook {
	HOOK_XDP,
	HOOK_TC_INGRESS,
	HOOK_TC_EGRESS,
	HOOKS,
};

/* How parsing a packet ended. A packet whose addresses were read is counted
 * as a flow whatever the outcome; the outcome says what was wrong with it.
 */
enum parse_outcome {
	PARSE_OK,
	/* the frame ends before its own headers or lengths say it does */
	PARSE_TRUNCATED,
	/* a header contradicts itself or the one around it */
	PARSE_MALFORMED,
	/* well-formed as far as read, but beyond a bound or of an unknown link type */
	PARSE_UNSUPPORTED,
	/* not IP: ARP, LLDP, LLC, PPP control, … */
	PARSE_NOT_IP,
	PARSE_OUTCOMES,
};

/* Why a packet that has a flow key is in no flow record. */
enum loss {
	/* the flow map was full and so was the ring buffer that takes what overflows */
	LOSS_RINGBUF_FULL,
	/* the map refused the entry for another reason */
	LOSS_MAP_UPDATE,
	/* the interface has no counter entry: interface counters miss this packet */
	LOSS_INTERFACE_UNKNOWN,
	LOSSES,
};

struct volume {
	__u64 packets;
	__u64 bytes;
};

struct interface_counters {
	struct volume direction[DIRECTIONS];
};

struct xdp_counters {
	struct volume outcome[PARSE_OUTCOMES];
};

struct parse_counters {
	struct volume outcome[PARSE_OUTCOMES];
};

/* which parts of a flow key the packets had */
enum flow_has {
	/* TCP, UDP, UDP-Lite, SCTP, DCCP: ports. ICMP, ICMPv6: type and code in their place. */
	FLOW_HAS_PORTS = 1 << 0,
	FLOW_HAS_VLAN = 1 << 1,
	FLOW_HAS_INNER_VLAN = 1 << 2,
	FLOW_HAS_MPLS = 1 << 3,
	/* not the first fragment of its datagram */
	FLOW_IS_FRAGMENT = 1 << 4,
};

/* One direction of a conversation as one interface sees it. */
struct flow_key {
	__u8 source[16];
	__u8 destination[16];
	__u32 ifindex;
	/* outermost label */
	__u32 mpls_label;
	__u16 source_port;
	__u16 destination_port;
	/* outermost tag and the one inside it */
	__u16 vlan_id;
	__u16 inner_vlan_id;
	/* IP protocol number of the last header read */
	__u8 protocol;
	/* 4 or 6 */
	__u8 ip_version;
	/* enum direction */
	__u8 direction;
	/* enum flow_has, combined */
	__u8 has;
};
_Static_assert(sizeof(struct flow_key) == 52, "flow_key has padding");

struct flow_stats {
	__u64 packets;
	__u64 bytes;
	/* CLOCK_MONOTONIC */
	__u64 first_mono_ns;
	__u64 last_mono_ns;
	/* one byte a TCP flag, FIN first: each is only ever set to 1, so CPUs
	 * that share the entry lose none (an OR into one byte could)
	 */
	__u8 tcp_flag_seen[8];
	/* the same flags OR-ed, a hint only: a bit set here is set above too */
	__u8 tcp_flags_hint;
	/* a SYN without ACK was seen: the source opened the connection */
	__u8 syn_seen;
	/* a SYN with ACK was seen: the destination did */
	__u8 syn_ack_seen;
	__u8 pad[5];
};
_Static_assert(sizeof(struct flow_stats) == 48, "flow_stats has padding");

/* A packet that found the flow map full. */
struct flow_event {
	struct flow_key key;
	__u8 tcp_flags;
	__u8 pad[3];
	__u64 packets;
	__u64 bytes;
	__u64 mono_ns;
};
_Static_assert(sizeof(struct flow_event) == 80, "flow_event has padding");

#endif
