/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* UDP, which has no connections: a socket that sends or receives counts as one.
 * The kernel counts nothing for it, so it is done here, by the lengths that
 * system calls return (6.3, 6e6eda44b939). Nothing is told when a socket is closed:
 * the iterator finds that out.
 */
#ifndef NETPROBE_SOCKET_UDP_H
#define NETPROBE_SOCKET_UDP_H

#include "socket_conn.h"

/* socket_udp_role: who asked for a port, and sends to anyone, serves; and who is
 * sent to before it sends.
 */
static __always_inline __u8 socket_udp_role(const struct sock *sk, bool receives)
{
	__u64 locks = BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks);

	if (BPF_CORE_READ(sk, __sk_common.skc_dport))
		return SOCKET_CLIENT;
	return receives || locks & SOCK_BINDPORT_LOCK ? SOCKET_SERVER : SOCKET_CLIENT;
}

static __always_inline void socket_udp_opened(__u8 role)
{
	struct socket_counters *counters = socket_counters_of(SOCKET_UDP);

	if (counters)
		socket_count(&counters->opened[role & 1]);
}

/* socket_udp_roomless counts a socket for which there is no room, once. */
static __always_inline void socket_udp_roomless(__u64 cookie, __u8 role)
{
	__u32 once = 1;

	if (bpf_map_update_elem(&socket_roomless, &cookie, &once, BPF_NOEXIST))
		return;
	socket_ledger_add(SOCKET_UNTRACKED);
	socket_udp_opened(role);
}

static __always_inline struct socket_conn *socket_udp_make(struct sock *sk, __u64 cookie,
							   bool receives)
{
	__u8 role = socket_udp_role(sk, receives);
	struct socket_conn *conn = socket_try_make(sk);
	__u64 now = bpf_ktime_get_ns();

	if (!conn) {
		socket_udp_roomless(cookie, role);
		return NULL;
	}
	/* it is counted if there was no room before */
	if (bpf_map_delete_elem(&socket_roomless, &cookie))
		socket_udp_opened(role);
	conn->cookie = cookie;
	conn->role = role;
	conn->flags = SOCKET_ESTABLISHED;
	conn->established_ns = now;
	socket_read_addresses(sk, conn);
	socket_set_process(&conn->process, socket_current());
	socket_made(conn, now);
	return conn;
}

/* socket_udp_entry gives the entry of a UDP socket that a program uses. One that
 * is of a socket which was in the same memory before ends here.
 */
static __always_inline struct socket_conn *socket_udp_entry(struct sock *sk, bool receives)
{
	__u64 cookie;
	struct socket_conn *conn;

	if (sk->sk_protocol != IPPROTO_UDP || !socket_wanted(sk))
		return NULL;
	cookie = bpf_get_socket_cookie(sk);
	conn = socket_lookup(sk);
	if (conn && conn->cookie == cookie) {
		/* it may be connected after it was used, and closed before it is looked at */
		if (!conn->remote_port && sk->__sk_common.skc_dport)
			socket_read_addresses(sk, conn);
		return conn;
	}
	if (conn)
		conn->closed_ns = bpf_ktime_get_ns();
	return socket_udp_make(sk, cookie, receives);
}

SEC("tp_btf/sock_send_length")
int socket_sent(__u64 *ctx)
{
	int length = ctx[1];
	struct socket_conn *conn;

	if (length < 0)
		return 0;
	conn = socket_udp_entry((struct sock *)ctx[0], false);
	if (conn)
		__sync_fetch_and_add(&conn->now.bytes_sent, length);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int socket_received(__u64 *ctx)
{
	int length = ctx[1];
	struct socket_conn *conn;

	if (length < 0 || ctx[2] & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	conn = socket_udp_entry((struct sock *)ctx[0], true);
	if (conn)
		__sync_fetch_and_add(&conn->now.bytes_received, length);
	return 0;
}

#endif
