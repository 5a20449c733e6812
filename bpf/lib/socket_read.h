/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a struct sock tells. All is read as memory that may have become something
 * else meanwhile: who asks has to look afterwards whether the socket is still his.
 */
#ifndef NETPROBE_SOCKET_READ_H
#define NETPROBE_SOCKET_READ_H

#include "socket.h"
#include "../include/kernel_sock.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

static __always_inline __u32 socket_netns(const struct sock *sk)
{
	if (!bpf_core_field_exists(sk->__sk_common.skc_net.net))
		return cfg_socket_netns; /* no CONFIG_NET_NS: there is one namespace */
	return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

/* socket_wanted says whether a socket is one that is watched. */
static __always_inline bool socket_wanted(const struct sock *sk)
{
	return !cfg_socket_netns || socket_netns(sk) == cfg_socket_netns;
}

/* socket_map writes an IPv4 address as IPv6 maps it (RFC 4291, section 2.5.5.2). */
static __always_inline void socket_map(__u8 *to, __be32 address)
{
	__builtin_memset(to, 0, 10);
	to[10] = to[11] = 0xff;
	__builtin_memcpy(to + 12, &address, sizeof(address));
}

/* socket_read_address reads the socket's own address. */
static __always_inline void socket_read_address(const struct sock *sk, __u8 *to)
{
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET)
		socket_map(to, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
	else if (bpf_core_field_exists(sk->__sk_common.skc_v6_rcv_saddr))
		bpf_core_read(to, sizeof(struct in6_addr), &sk->__sk_common.skc_v6_rcv_saddr);
}

/* socket_read_addresses reads both ends. */
static __always_inline void socket_read_addresses(const struct sock *sk, struct socket_conn *to)
{
	const struct inet_sock *inet = (const void *)sk;

	socket_read_address(sk, to->local);
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET)
		socket_map(to->remote, BPF_CORE_READ(sk, __sk_common.skc_daddr));
	else if (bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
		BPF_CORE_READ_INTO(&to->remote, sk, __sk_common.skc_v6_daddr);
	/* skc_num is 0 again when a socket that chose its port by itself is closed */
	to->local_port = bpf_ntohs(BPF_CORE_READ(inet, inet_sport));
	to->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
}

static __always_inline bool socket_flag(const struct sock *sk, __u32 bit)
{
	return BPF_CORE_READ(sk, __sk_common.skc_flags) >> bit & 1;
}

/* socket_fin_received says whether the other end has said that it sends no more. */
static __always_inline bool socket_fin_received(const struct sock *sk)
{
	return socket_flag(sk, SOCK_DONE);
}

/* socket_is_orphan says whether no program has a socket any more. */
static __always_inline bool socket_is_orphan(const struct sock *sk)
{
	return socket_flag(sk, SOCK_DEAD);
}

/* socket_read_tcp reads what ss(8) shows. The kernel counts bytes that it sends
 * again once more in bytes_sent, and a FIN as a byte received, since it takes a
 * sequence number (tcp_rcv_nxt_update, net/ipv4/tcp_input.c).
 */
static __always_inline void socket_read_tcp(const struct sock *sk, struct socket_numbers *to)
{
	const struct tcp_sock *tp = (const void *)sk;
	__u64 received = BPF_CORE_READ(tp, bytes_received);

	if (received && socket_fin_received(sk))
		received--;
	to->bytes_received = received;
	to->bytes_sent = BPF_CORE_READ(tp, bytes_sent) - BPF_CORE_READ(tp, bytes_retrans);
	to->segments_sent = BPF_CORE_READ(tp, segs_out);
	to->segments_received = BPF_CORE_READ(tp, segs_in);
	to->retransmits = BPF_CORE_READ(tp, total_retrans);
	to->rtt_us = BPF_CORE_READ(tp, srtt_us) >> 3; /* it has three bits of fraction */
}

static __always_inline __u32 socket_listen_drops(const struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_drops.counter);
}

#endif
