//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Connections: who has them with whom, how they begin and end, and how well they
 * go. Everything is by tracepoints and iterators; nothing here can refuse or change
 * what a program asks of its socket.
 */
#include "lib/socket_conn.h"
#include "lib/socket_udp.h"
#include "lib/socket_iter.h"

/* Of each event there are two programs that do the same: see lib/socket_conn.h. */

SEC("tp_btf/inet_sock_set_state")
int socket_state_first(__u64 *ctx)
{
	socket_state((const void *)ctx[0], ctx[1], ctx[2]);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int socket_state_second(__u64 *ctx)
{
	socket_state((const void *)ctx[0], ctx[1], ctx[2]);
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int socket_reset_sent_first(__u64 *ctx)
{
	socket_reset_sent((const void *)ctx[0]);
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int socket_reset_sent_second(__u64 *ctx)
{
	socket_reset_sent((const void *)ctx[0]);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int socket_reset_received_first(__u64 *ctx)
{
	socket_reset_received((const void *)ctx[0]);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int socket_reset_received_second(__u64 *ctx)
{
	socket_reset_received((const void *)ctx[0]);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int socket_destroyed_first(__u64 *ctx)
{
	socket_gone((const void *)ctx[0]);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int socket_destroyed_second(__u64 *ctx)
{
	socket_gone((const void *)ctx[0]);
	return 0;
}

/* A program has read from a TCP socket (tcp_recvmsg, net/ipv4/tcp.c). What reads for
 * itself in the kernel, as TLS and sockmaps do, may do so in an interrupt over
 * any other task.
 */
SEC("tp_btf/tcp_rcv_space_adjust")
int socket_read(__u64 *ctx)
{
	const struct sock *sk = (const void *)ctx[0];
	struct socket_conn *conn = socket_lookup(sk);

	if (conn && conn->process.pid && !(conn->flags & SOCKET_OF_LISTENER))
		return 0;
	if (BPF_CORE_READ(sk, sk_user_data) ||
	    BPF_CORE_READ((const struct inet_connection_sock *)sk, icsk_ulp_ops))
		return 0;
	if (conn)
		socket_use(conn);
	return 0;
}

SEC("tp_btf/tcp_retransmit_synack")
int socket_synack_again(__u64 *ctx)
{
	if (socket_wanted((const void *)ctx[0]))
		socket_ledger_add(SOCKET_SYNACK_RETRANSMITS);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
