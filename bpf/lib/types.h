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

/* What a tunnel is. */
enum tunnel_type {
	TUNNEL_NONE,
	TUNNEL_VXLAN,
	TUNNEL_GENEVE,
	TUNNEL_GRE,
	TUNNEL_IPIP,
	TUNNEL_TYPES,
};

/* Why a packet that looks like a tunnel's was not opened. It is counted as the
 * flow that its outer headers say.
 */
enum tunnel_refusal {
	TUNNEL_NOT_REFUSED,
	/* the bit that says that there is an identifier is not set (RFC 7348, section 5) */
	REFUSED_VXLAN_NO_VNI,
	/* bits are set that RFC 7348 and its group policy extension reserve */
	REFUSED_VXLAN_RESERVED_BITS,
	/* the generic protocol extension, whose header means something else */
	REFUSED_VXLAN_GPE,
	/* the same with a network service header inside (RFC 8300) */
	REFUSED_VXLAN_NSH,
	REFUSED_GENEVE_VERSION,
	/* a control message of the tunnel, not a packet in it (RFC 8926, section 3.4) */
	REFUSED_GENEVE_CONTROL,
	/* version 1 is that of PPTP (RFC 2637) */
	REFUSED_GRE_VERSION,
	/* source routes (RFC 1701), which RFC 2784 has deprecated */
	REFUSED_GRE_ROUTING,
	/* mirrored copies of packets that travel elsewhere */
	REFUSED_ERSPAN,
	TUNNEL_REFUSALS,
};

/* Why a packet that has a flow key is in no flow record. */
enum loss {
	/* the flow map was full and so was the ring buffer that takes what overflows */
	LOSS_RINGBUF_FULL,
	/* the map refused the entry for another reason */
	LOSS_MAP_UPDATE,
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

/* What became of the packets that are in no flow record. With those that are,
 * these are all packets of a hook.
 */
struct ledger {
	/* no addresses could be read, by how parsing ended */
	struct volume no_flow[PARSE_OUTCOMES];
	struct volume lost[LOSSES];
	/* the filter did not want them */
	struct volume filtered;
	struct volume sampled_out;
	/* not part of the above: the interface has no counters, which miss these */
	struct volume interface_unknown;
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
	/* the packets were in a tunnel: addresses and ports are those inside */
	FLOW_IN_TUNNEL = 1 << 5,
	/* the packets were a tunnel's, with no IP packet inside that could be read:
	 * addresses and ports are the tunnel's
	 */
	FLOW_IS_TUNNEL = 1 << 6,
	/* what was in the tunnel is a tunnel's packet too, and was not opened */
	FLOW_IS_NESTED = 1 << 7,
};

#define FROM_FORGOTTEN 0xffffffff

/* One direction of a tunnel. */
struct tunnel_key {
	/* the tunnel's end points */
	__u8 source[16];
	__u8 destination[16];
	/* VXLAN and Geneve: network identifier. GRE: key, where there is one. */
	__u32 id;
	/* enum tunnel_type */
	__u8 type;
	/* 4 or 6 */
	__u8 ip_version;
	/* 1 where there is an identifier */
	__u8 has_id;
	__u8 pad;
};
_Static_assert(sizeof(struct tunnel_key) == 40, "tunnel_key has padding");

struct tunnel_value {
	/* what flow keys have in place of the tunnel_key; never 0, never used again */
	__u32 handle;
};

/* One direction of a conversation as one interface sees it. */
struct flow_key {
	__u8 source[16];
	__u8 destination[16];
	__u32 ifindex;
	/* at egress: the interface that the packet last came in on, 0 if it was made
	 * here or a tunnel has encapsulated it, FROM_FORGOTTEN if it came in somewhere
	 */
	__u32 from;
	/* handle of the tunnel, 0 where there is none or it has none */
	__u32 tunnel;
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
_Static_assert(sizeof(struct flow_key) == 60, "flow_key has padding");

struct flow_stats {
	__u64 packets;
	/* of whole frames, the tunnel's headers included */
	__u64 bytes;
	/* how much of it is not of the packet in the tunnel */
	__u64 tunnel_bytes;
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
_Static_assert(sizeof(struct flow_stats) == 56, "flow_stats has padding");

/* A packet that found the flow map, or the table of tunnels, full. */
struct flow_event {
	struct flow_key key;
	/* of type TUNNEL_NONE where there is none */
	struct tunnel_key tunnel;
	__u8 tcp_flags;
	__u8 pad[3];
	__u64 packets;
	__u64 bytes;
	__u64 tunnel_bytes;
	__u64 mono_ns;
};
_Static_assert(sizeof(struct flow_event) == 136, "flow_event has padding");

/* A rule of the filter: what is said matches all at once. */
struct filter_rule {
	/* either address is in the network */
	__u32 network[4];
	__u32 mask[4];
	/* either port is in the range; 0 to 0 means any, also none */
	__u16 port_min;
	__u16 port_max;
	/* 0 means any */
	__u8 protocol;
	/* 1 where packets that match are not wanted */
	__u8 exclude;
	/* 1 where protocol is to match, which may be 0 */
	__u8 has_protocol;
	/* 4 or 6; 0 means either. IPv4 addresses are in networks of IPv6 by their form. */
	__u8 ip_version;
};
_Static_assert(sizeof(struct filter_rule) == 40, "filter_rule has padding");

#endif
