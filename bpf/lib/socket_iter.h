/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is asked for, where tracepoints tell of what happens. */
#ifndef NETPROBE_SOCKET_ITER_H
#define NETPROBE_SOCKET_ITER_H

#include "socket_conn.h"

/* A connection that has been closed, and of which nothing more was heard for so
 * long, has been missed.
 */
#define SOCKET_PATIENCE_NS 1000000000ULL

/* Addresses in the kernel have the uppermost bit set; parked records' keys have not. */
static __always_inline bool socket_is_parked(__u64 key)
{
	return !(key >> 63);
}

/* socket_udp_lives: a closed socket has no port any more (udp_lib_unhash), another
 * one in the same memory has another cookie, or none.
 */
static __always_inline bool socket_udp_lives(const struct sock *sk, const struct socket_conn *conn)
{
	return BPF_CORE_READ(sk, __sk_common.skc_num) == conn->local_port &&
	       BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) == (__s64)conn->cookie;
}

/* socket_tcp_lives: its end is told, and if that is missed its destruction. If that is
 * too, nobody holds the socket any more, or another is in its memory.
 */
static __always_inline bool socket_tcp_lives(const struct sock *sk, const struct socket_conn *conn)
{
	const struct inet_sock *inet = (const void *)sk;

	if (conn->closed_ns)
		return false;
	if (!BPF_CORE_READ(sk, __sk_common.skc_refcnt.refs.counter))
		return false;
	/* which comes after SYN_SENT */
	if (!conn->local_port)
		return true;
	return bpf_ntohs(BPF_CORE_READ(inet, inet_sport)) == conn->local_port;
}

/* What is being written: a copy, because the entry may be removed meanwhile, and
 * its memory be another one's. Only one dump runs at a time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct socket_record);
} socket_shown SEC(".maps");

/* socket_refresh brings a copy up to date. */
static __always_inline void socket_refresh(const struct sock *sk, struct socket_conn *conn)
{
	if (conn->flags & SOCKET_LISTENS) {
		socket_read_addresses(sk, conn); /* the kernel chose the port after the event */
		conn->now.listen_drops = socket_listen_drops(sk);
	} else if (conn->protocol == IPPROTO_TCP) {
		if (!(conn->flags & SOCKET_ESTABLISHED))
			socket_read_addresses(sk, conn);
		socket_read_tcp(sk, &conn->now);
	} else {
		socket_read_addresses(sk, conn); /* it may be connected anew */
	}
}

/* socket_look brings a copy up to date, and says whether it is the last of it. */
static __always_inline bool socket_look(const struct sock *sk, struct socket_conn *conn)
{
	__u64 now = bpf_ktime_get_ns();
	bool lives;

	if (conn->closed_ns)
		return now - conn->closed_ns > SOCKET_PATIENCE_NS;
	if (conn->protocol == IPPROTO_UDP)
		lives = socket_udp_lives(sk, conn);
	else
		lives = socket_tcp_lives(sk, conn);
	if (lives) {
		socket_refresh(sk, conn);
		return false;
	}
	/* its making, or its end, may be going on elsewhere */
	if (conn->protocol == IPPROTO_TCP && now - conn->made_ns < SOCKET_PATIENCE_NS)
		return false;
	conn->closed_ns = now;
	if (conn->protocol == IPPROTO_TCP) {
		conn->flags |= SOCKET_VANISHED;
		if (!(conn->flags & SOCKET_ESTABLISHED))
			conn->failure = SOCKET_OTHER_FAILURE;
	}
	return true;
}

/* socket_still says whether an entry is the one that was copied. */
static __always_inline bool socket_still(const struct socket_record *copy)
{
	__u64 key = copy->sock;
	struct socket_conn *conn = bpf_map_lookup_elem(&socket_conns, &key);

	return conn && conn->made_ns == copy->conn.made_ns;
}

/* socket_dump writes every entry, and removes those that have ended. */
SEC("iter/bpf_map_elem")
int socket_dump(struct bpf_iter__bpf_map_elem *ctx)
{
	struct socket_conn *conn = ctx->value;
	struct socket_record *copy;
	__u64 *address = ctx->key;
	bool parked, last;
	__u32 zero = 0;
	__u64 key;

	copy = bpf_map_lookup_elem(&socket_shown, &zero);
	if (!address || !conn || !copy)
		return 0;
	key = *address;
	parked = socket_is_parked(key);
	copy->sock = key;
	copy->conn = *conn;
	if (!copy->conn.made_ns)
		return 0;
	last = parked || socket_look((const void *)key, &copy->conn);
	if (!socket_still(copy))
		return 0;
	if (last)
		copy->conn.flags |= SOCKET_CLOSED;
	if (bpf_seq_write(ctx->meta->seq, copy, sizeof(*copy)) || !last)
		return 0; /* where there was no room it is shown again */
	if (!parked) {
		if (copy->conn.protocol == IPPROTO_TCP && !(copy->conn.flags & SOCKET_MAY_ANSWER))
			socket_claim((const void *)key);
		socket_count_end(&copy->conn);
	}
	bpf_map_delete_elem(&socket_conns, &key);
	return 0;
}

/* Which sockets socket_find is to look at: those that listen, or the others, for
 * which it matters who listens. Written by user space.
 */
volatile __u32 socket_find_listening = 0;

/* socket_found makes an entry of a TCP socket that has none. */
static __always_inline void socket_found(const struct sock *sk, const struct task_struct *task)
{
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	struct socket_conn *conn = socket_lookup(sk);

	if (conn || !socket_wanted(sk) || state == TCP_CLOSE || state == TCP_TIME_WAIT ||
	    state == TCP_NEW_SYN_RECV || state == TCP_SYN_RECV ||
	    (state == TCP_LISTEN) != !!socket_find_listening)
		return;
	if (state == TCP_LISTEN) {
		socket_listens(sk, task);
		return;
	}
	conn = socket_adopt(sk, state != TCP_SYN_SENT);
	if (!conn) {
		socket_note_roomless(sk, ROOMLESS_OPENED);
		return;
	}
	if (task)
		socket_set_process(&conn->process, task);
	else
		socket_copy_listener(conn);
	socket_made(conn, bpf_ktime_get_ns());
}

/* socket_mptcp_first: what a program has open is the whole of an MPTCP connection,
 * or what listens for such. What the kernel has it do is TCP sockets of its own, of
 * which this is the first.
 */
static __always_inline const struct sock *socket_mptcp_first(const struct sock *sk)
{
	const struct mptcp_sock *msk = (const void *)sk;

	if (!bpf_core_field_exists(msk->first))
		return NULL;
	return BPF_CORE_READ(msk, first);
}

/* socket_find looks at all files that processes have open. */
SEC("iter/task_file")
int socket_find(struct bpf_iter__task_file *ctx)
{
	const struct file *file = ctx->file;
	const struct task_struct *task = ctx->task;
	const struct socket *socket;
	const struct sock *sk;
	__u16 family, protocol;

	if (!file || !task || BPF_CORE_READ(file, f_inode, i_sb, s_magic) != SOCKFS_MAGIC)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	if (!sk)
		return 0;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return 0;
	protocol = BPF_CORE_READ(sk, sk_protocol);
	if (protocol == IPPROTO_MPTCP)
		sk = socket_mptcp_first(sk);
	else if (protocol != IPPROTO_TCP)
		return 0;
	if (sk)
		socket_found(sk, task);
	return 0;
}

/* socket_find_rest looks at the TCP sockets of one network namespace, also at
 * those that no process has open: not accepted yet, or closed and not done.
 */
SEC("iter/tcp")
int socket_find_rest(struct bpf_iter__tcp *ctx)
{
	const struct sock_common *common = ctx->sk_common;
	__u8 state;

	if (!common)
		return 0;
	/* of those in TIME_WAIT and NEW_SYN_RECV there is no more than this */
	state = BPF_CORE_READ(common, skc_state);
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		return 0;
	socket_found((const void *)common, NULL);
	return 0;
}

#endif
