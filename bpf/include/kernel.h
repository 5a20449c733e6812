/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The few kernel definitions that the programs use, written out so that the
 * objects depend on no header of the build machine.
 *
 * Contexts (struct __sk_buff, struct xdp_md) and map types are user ABI
 * (include/uapi/linux/bpf.h): the kernel translates each access, their layout
 * is fixed. Enum values that a kernel may lack are resolved at load time (CO-RE).
 */
#ifndef NETPROBE_KERNEL_H
#define NETPROBE_KERNEL_H

typedef signed char __s8;
typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_RINGBUF = 27,
};

/* protocols of IP (include/uapi/linux/in.h, in6.h), and families of sockets
 * (include/linux/socket.h) */
#define IPPROTO_HOPOPTS 0
#define IPPROTO_ICMP 1
#define IPPROTO_IPIP 4
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_DCCP 33
#define IPPROTO_IPV6 41
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_GRE 47
#define IPPROTO_AH 51
#define IPPROTO_ICMPV6 58
#define IPPROTO_DSTOPTS 60
#define IPPROTO_SCTP 132
#define IPPROTO_UDPLITE 136
#define IPPROTO_MPTCP 262

#define AF_INET 2
#define AF_INET6 10
#define AF_PACKET 17

/* flags of bpf_map_update_elem */
#define BPF_ANY 0
#define BPF_NOEXIST 1

/* flags of bpf_ringbuf_submit, and of bpf_ringbuf_query */
#define BPF_RB_NO_WAKEUP 1
#define BPF_RB_FORCE_WAKEUP 2
#define BPF_RB_AVAIL_DATA 0

/* bpf_skb_load_bytes_relative: offsets count from the network header */
#define BPF_HDR_START_NET 1

/* __sk_buff.pkt_type (include/uapi/linux/if_packet.h) */
#define PACKET_LOOPBACK 5

/* what a classifier and an XDP program may answer here: nothing but "go on" */
#define TC_ACT_UNSPEC (-1)
#define XDP_PASS 2

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	__u64 sk;
	__u32 gso_size;
};

struct bpf_spin_lock {
	__u32 val;
};

struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};

/* Of the kernel's own structs only the members that are read. Where they lie is
 * resolved at load time (CO-RE), also within anonymous structs and unions.
 */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

/* without CONFIG_NET_NS it is empty */
typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
};

struct dst_entry {
	struct net_device *dev;
};

struct in6_addr {
	__u8 bytes[16];
};

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic64_t;

typedef struct refcount_struct {
	atomic_t refs;
} refcount_t;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr; /* not without CONFIG_IPV6 */
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	unsigned long skc_flags;
	refcount_t skc_refcnt;
};

struct sock {
	struct sock_common __sk_common;
	atomic_t sk_drops;
	int sk_err;
	int sk_err_soft;
	__u16 sk_protocol;
	__u8 sk_shutdown;
	__u8 sk_userlocks; /* a bit-field before 6.1 or so */
	void *sk_user_data;
};

struct sk_buff {
	struct sk_buff *next;
	struct net_device *dev;
	struct sock *sk;
	unsigned long _skb_refdst;
	unsigned int len;
	unsigned int data_len;
	int skb_iif;
	__be16 protocol;
	__u16 inner_transport_header;
	__u16 network_header;
	__u16 mac_header;
	unsigned int end; /* an offset from head, as on all 64-bit machines */
	unsigned char *head;
	unsigned char *data;
};

struct skb_shared_info {
	unsigned short gso_size;
	unsigned short gso_segs;
	unsigned int gso_type;
	struct sk_buff *frag_list;
};

/* include/linux/netfilter.h */
struct nf_hook_state {
	__u8 hook;
	__u8 pf;
};

/* the context of a netfilter program (include/net/netfilter/nf_bpf_link.h) */
struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
};

#pragma clang attribute pop

/* Why a packet was freed (include/net/dropreason-core.h). The numbers are those
 * of no kernel: they are resolved at load time.
 */
enum skb_drop_reason {
	SKB_NOT_DROPPED_YET = 0x7ffffff0,
	SKB_CONSUMED,
	SKB_DROP_REASON_NETFILTER_DROP,
	SKB_DROP_REASON_QUEUE_PURGE,
};

/* skb_shared_info.gso_type (include/linux/skbuff.h) */
#define SKB_GSO_TCPV4 (1 << 0)
#define SKB_GSO_TCPV6 (1 << 4)
#define SKB_GSO_TUNNELS (0x3f << 6) /* GRE, IPIP and UDP tunnels, with and without checksum */
#define SKB_GSO_SCTP (1 << 14)
#define SKB_GSO_UDP_L4 (1 << 17)

/* the only answer of a netfilter program here (include/uapi/linux/netfilter.h) */
#define NF_ACCEPT 1
#define NFPROTO_IPV6 10

/* Helpers that not every kernel has; asked for with bpf_core_enum_value_exists. */
enum bpf_func_id {
	BPF_FUNC_ktime_get_coarse_ns = 160, /* 5.11, d05512618056 */
	BPF_FUNC_xdp_get_buff_len = 188,    /* 5.18, 0165cc817075 */
	BPF_FUNC_xdp_load_bytes = 189,	    /* 5.18, 3f364222d032 */
};

#endif
