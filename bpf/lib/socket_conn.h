/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The life of a connection.
 *
 * Since 6.2 (05b24ff9b2cf) the kernel does not run a program on a CPU that is in the
 * middle of it already, so that it misses what happens in an interrupt over it: and
 * an interrupt may be the whole life of a connection. So two programs watch each
 * event, of which the interrupt can be over one only. Mostly both run, one after the
 * other: all that is done here is done once, and the second time it changes nothing.
 */
#ifndef NETPROBE_SOCKET_CONN_H
#define NETPROBE_SOCKET_CONN_H

#include "socket.h"
#include "socket_read.h"
#include "socket_task.h"

static __always_inline struct socket_conn *socket_lookup(const struct sock *sk)
{
	__u64 key = (__u64)sk;

	return bpf_map_lookup_elem(&socket_conns, &key);
}

/* socket_replace ends an entry of which the end was not seen. */
static __always_inline void socket_replace(__u64 key, struct socket_conn *conn)
{
	if (!conn->closed_ns) {
		conn->closed_ns = bpf_ktime_get_ns();
		conn->flags |= SOCKET_VANISHED;
		if (!(conn->flags & SOCKET_ESTABLISHED))
			conn->failure = SOCKET_OTHER_FAILURE;
	}
	socket_count_end(conn);
	socket_send(key, conn);
}

/* socket_try_make gives a new entry in place of one that is there: the end of that
 * one's socket was missed. NULL if there is no room.
 */
static __always_inline struct socket_conn *socket_try_make(const struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct socket_conn *conn = bpf_map_lookup_elem(&socket_conns, &key);

	if (conn)
		socket_replace(key, conn);
	bpf_map_update_elem(&socket_conns, &key, &socket_fresh, BPF_NOEXIST);
	conn = bpf_map_lookup_elem(&socket_conns, &key);
	if (!conn)
		return NULL;
	conn->netns = socket_netns(sk);
	conn->protocol = BPF_CORE_READ(sk, sk_protocol);
	return conn;
}

/* What is known of a socket for which there is no room. */
enum socket_roomless {
	ROOMLESS_NOTED = 1,
	ROOMLESS_OPENED,
};

/* socket_note_roomless notes that, and says whether it was not noted before. */
static __always_inline bool socket_note_roomless(const struct sock *sk, __u32 what)
{
	__u64 key = (__u64)sk;

	if (bpf_map_update_elem(&socket_roomless, &key, &what, BPF_NOEXIST))
		return false;
	socket_ledger_add(SOCKET_UNTRACKED);
	return true;
}

/* socket_ports tells the connections that are in the same memory one after the other. */
static __always_inline __u32 socket_ports(const struct sock *sk)
{
	const struct inet_sock *inet = (const void *)sk;

	return (__u32)BPF_CORE_READ(inet, inet_sport) << 16 |
	       BPF_CORE_READ(sk, __sk_common.skc_dport);
}

static __always_inline bool socket_is_done(const struct sock *sk)
{
	__u64 key = (__u64)sk;
	__u32 *ports = bpf_map_lookup_elem(&socket_done, &key);

	return ports && *ports == socket_ports(sk);
}

/* socket_claim says whether the end of a connection has not been told of yet, and
 * that it is now.
 */
static __always_inline bool socket_claim(const struct sock *sk)
{
	__u32 ports = socket_ports(sk);
	__u64 key = (__u64)sk;

	if (socket_is_done(sk))
		return false;
	bpf_map_update_elem(&socket_done, &key, &ports, BPF_ANY);
	return true;
}

/* socket_begins forgets that a socket, or another in the same memory, has ended. */
static __always_inline void socket_begins(const struct sock *sk)
{
	__u64 key = (__u64)sk;

	bpf_map_delete_elem(&socket_done, &key);
}

/* socket_made ends the making of an entry. */
static __always_inline void socket_made(struct socket_conn *conn, __u64 now)
{
	conn->made_ns = now;
}

static __always_inline struct socket_listener *
socket_listener_at(const struct socket_listener_key *key)
{
	return bpf_map_lookup_elem(&socket_listeners, key);
}

static __always_inline bool socket_is_mapped(const __u8 *address)
{
	static const __u8 prefix[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

	return !__builtin_memcmp(address, prefix, sizeof(prefix));
}

/* socket_listener_for gives who listens where a key says: at its address, at all
 * of IPv4, or at all of IPv6, which may include those. The key becomes that.
 */
static __always_inline struct socket_listener *socket_listener_for(struct socket_listener_key *key)
{
	struct socket_listener *found = socket_listener_at(key);

	if (found)
		return found;
	if (socket_is_mapped(key->address)) {
		__builtin_memset(key->address + 12, 0, 4);
		found = socket_listener_at(key);
		if (found)
			return found;
	}
	__builtin_memset(key->address, 0, sizeof(key->address));
	return socket_listener_at(key);
}

/* socket_find_listener gives who listens where a connection's local end is. */
static __always_inline struct socket_listener *socket_find_listener(const struct socket_conn *conn)
{
	struct socket_listener_key key = { .netns = conn->netns, .port = conn->local_port };

	__builtin_memcpy(key.address, conn->local, sizeof(key.address));
	return socket_listener_for(&key);
}

/* socket_local_key is where a socket's local end is, as a listener's key. */
static __always_inline void socket_local_key(const struct sock *sk, struct socket_listener_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	socket_read_address(sk, key->address);
	key->netns = socket_netns(sk);
	key->port = bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
}

static __always_inline void socket_copy_listener(struct socket_conn *conn)
{
	struct socket_listener *listener = socket_find_listener(conn);

	if (!listener)
		return;
	conn->process = listener->process;
	conn->flags |= SOCKET_OF_LISTENER;
}

/* socket_use notes the current task as the one that uses a connection, unless
 * that is known. Only where the kernel works for the task that called it.
 */
static __always_inline void socket_use(struct socket_conn *conn)
{
	const struct task_struct *task = socket_current();

	if (conn->process.pid && !(conn->flags & SOCKET_OF_LISTENER))
		return;
	if (BPF_CORE_READ(task, flags) & PF_KTHREAD)
		return;
	socket_set_process(&conn->process, task);
	conn->flags &= ~SOCKET_OF_LISTENER;
}

/* socket_adopt makes an entry of a connection that was there before. What it has
 * sent and received is not of now; where somebody listens at its own end it
 * is the server.
 */
static __always_inline struct socket_conn *socket_adopt(const struct sock *sk, bool established)
{
	struct socket_conn *conn = socket_try_make(sk);

	if (!conn)
		return NULL;
	conn->flags = SOCKET_ADOPTED | (established ? SOCKET_ESTABLISHED : 0);
	socket_read_addresses(sk, conn);
	socket_read_tcp(sk, &conn->begin);
	conn->now = conn->begin;
	conn->role = established && socket_find_listener(conn) ? SOCKET_SERVER : SOCKET_CLIENT;
	return conn;
}

static __always_inline void socket_connects(const struct sock *sk)
{
	struct socket_conn *conn = socket_lookup(sk);
	__u64 now = bpf_ktime_get_ns();

	if (conn && conn->connect_ns && !conn->closed_ns && !(conn->flags & SOCKET_ESTABLISHED))
		return;
	socket_begins(sk);
	conn = socket_try_make(sk);
	if (!conn) {
		socket_note_roomless(sk, ROOMLESS_NOTED);
		return;
	}
	conn->role = SOCKET_CLIENT;
	conn->connect_ns = now;
	socket_set_process(&conn->process, socket_current());
	socket_made(conn, now);
}

/* socket_note_listener notes who listens where a socket does. */
static __always_inline void socket_note_listener(const struct sock *sk,
						 const struct socket_listener_key *key,
						 const struct task_struct *task)
{
	struct socket_listener listener = { .sock = (__u64)sk };

	socket_set_process(&listener.process, task);
	bpf_map_update_elem(&socket_listeners, key, &listener, BPF_ANY);
}

/* socket_listens makes an entry of a socket that listens. Without a task whoever
 * is known to listen there is its process.
 */
static __always_inline void socket_listens(const struct sock *sk, const struct task_struct *task)
{
	struct socket_conn *conn = socket_lookup(sk);
	struct socket_listener_key key = {};
	struct socket_listener *listener;

	if (conn && conn->flags & SOCKET_LISTENS && !conn->closed_ns)
		return;
	socket_begins(sk);
	conn = socket_try_make(sk);
	if (!conn) {
		socket_note_roomless(sk, ROOMLESS_NOTED);
		return;
	}
	conn->role = SOCKET_SERVER;
	conn->flags = SOCKET_LISTENS;
	socket_read_addresses(sk, conn);
	conn->begin.listen_drops = socket_listen_drops(sk);
	conn->now = conn->begin;

	__builtin_memcpy(key.address, conn->local, sizeof(key.address));
	key.netns = conn->netns;
	key.port = conn->local_port;
	if (task)
		socket_note_listener(sk, &key, task);
	listener = socket_listener_at(&key);
	if (listener)
		conn->process = listener->process;
	socket_made(conn, bpf_ktime_get_ns());
}

/* socket_stops forgets a listener, if another has not taken its place. */
static __always_inline void socket_stops(const struct sock *sk, struct socket_conn *conn)
{
	struct socket_listener_key key = { .netns = conn->netns, .port = conn->local_port };
	struct socket_listener *listener;

	__builtin_memcpy(key.address, conn->local, sizeof(key.address));
	listener = socket_listener_at(&key);
	if (listener && listener->sock == (__u64)sk)
		bpf_map_delete_elem(&socket_listeners, &key);
	socket_read_addresses(sk, conn); /* see socket_refresh */
	conn->now.listen_drops = socket_listen_drops(sk);
	conn->closed_ns = bpf_ktime_get_ns();
	socket_send((__u64)sk, conn);
}

static __always_inline void socket_opened(__u8 role)
{
	struct socket_counters *counters = socket_counters_of(SOCKET_TCP);

	if (counters)
		socket_count(&counters->opened[role & 1]);
}

static __always_inline void socket_accepted(const struct sock *sk)
{
	struct socket_conn *conn;
	__u64 now = bpf_ktime_get_ns();

	socket_begins(sk);
	conn = socket_try_make(sk);
	if (!conn) {
		if (socket_note_roomless(sk, ROOMLESS_OPENED))
			socket_opened(SOCKET_SERVER);
		return;
	}
	socket_opened(SOCKET_SERVER);
	conn->role = SOCKET_SERVER;
	conn->flags = SOCKET_ESTABLISHED;
	conn->established_ns = now;
	/* SYN-ACKs that were sent again; SOCKET_SYNACK_RETRANSMITS has them */
	conn->begin.retransmits = BPF_CORE_READ((const struct tcp_sock *)sk, total_retrans);
	socket_read_addresses(sk, conn);
	socket_copy_listener(conn);
	socket_made(conn, now);
}

/* socket_is_that says whether an entry is of the connection that a socket has now. */
static __always_inline bool socket_is_that(const struct socket_conn *conn, const struct sock *sk)
{
	const struct inet_sock *inet = (const void *)sk;

	return conn->local_port == bpf_ntohs(BPF_CORE_READ(inet, inet_sport)) &&
	       conn->remote_port == bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
}

/* socket_connected is a connect that has come about, for which there may be no room. */
static __always_inline void socket_connected(const struct sock *sk, struct socket_conn *conn)
{
	__u32 opened = ROOMLESS_OPENED;
	__u64 key = (__u64)sk;
	__u32 *noted;

	if (conn) {
		socket_opened(SOCKET_CLIENT);
		socket_read_addresses(sk, conn);
		conn->established_ns = bpf_ktime_get_ns();
		conn->flags |= SOCKET_ESTABLISHED;
		return;
	}
	noted = bpf_map_lookup_elem(&socket_roomless, &key);
	if (noted && *noted == ROOMLESS_OPENED)
		return;
	socket_opened(SOCKET_CLIENT);
	bpf_map_update_elem(&socket_roomless, &key, &opened, BPF_ANY);
}

static __always_inline void socket_established(const struct sock *sk, int before)
{
	struct socket_conn *conn = socket_lookup(sk);

	if (conn && !conn->closed_ns && conn->flags & SOCKET_ESTABLISHED &&
	    socket_is_that(conn, sk))
		return;
	/* of a connection that both ends open at once there is an entry */
	if (before == TCP_SYN_RECV && (!conn || conn->closed_ns || !conn->connect_ns))
		socket_accepted(sk);
	else
		socket_connected(sk, conn);
}

/* socket_gave_up is for where there is no error. A program that gives up does so
 * because it waited too long if the kernel has begun to send again. Where nothing was
 * sent at all it was the kernel that gave up: it found no port (tcp_v4_connect,
 * net/ipv4/tcp_ipv4.c). And older kernels tell the program of
 * what ICMP says before they close: that the program has taken the error shows by
 * it not being the one that closes, which would have shut both directions down.
 */
static __always_inline enum socket_failure socket_gave_up(const struct sock *sk)
{
	const struct tcp_sock *tp = (const void *)sk;

	if (!BPF_CORE_READ(tp, segs_out))
		return SOCKET_OTHER_FAILURE;
	if (BPF_CORE_READ(tp, total_retrans))
		return SOCKET_TIMED_OUT;
	return BPF_CORE_READ(sk, sk_shutdown) == SHUTDOWN_MASK ? SOCKET_CANCELED
							       : SOCKET_UNREACHABLE;
}

/* socket_failure_of says why no connection came about. The kernel notes the
 * error first; a program that gives up has none.
 */
static __always_inline enum socket_failure socket_failure_of(const struct sock *sk)
{
	int error = BPF_CORE_READ(sk, sk_err);

	if (!error)
		error = BPF_CORE_READ(sk, sk_err_soft);
	switch (error) {
	case 0:
		return socket_gave_up(sk);
	case ECONNREFUSED:
		return SOCKET_REFUSED;
	case ETIMEDOUT:
		return SOCKET_TIMED_OUT;
	case ECONNRESET:
		return SOCKET_RESET;
	/* what ICMP says (icmp_err_convert, net/ipv4/icmp.c; tab_unreach, net/ipv6/icmp.c) */
	case EACCES:
	case ENETDOWN:
	case ENETUNREACH:
	case EHOSTDOWN:
	case EHOSTUNREACH:
	case ENONET:
	case ENOPROTOOPT:
		return SOCKET_UNREACHABLE;
	default:
		return SOCKET_OTHER_FAILURE;
	}
}

static __always_inline void socket_finish(const struct sock *sk, struct socket_conn *conn)
{
	socket_claim(sk);
	socket_count_end(conn);
	socket_send((__u64)sk, conn);
}

/* socket_resets_next says whether the kernel closes a connection before it sends
 * the reset: a program closed it with data unread, or wanted it so (tcp_close and
 * tcp_disconnect, net/ipv4/tcp.c). From FIN_WAIT2 one that has had the other end's
 * FIN, or that no program has any more, goes on to TIME_WAIT.
 */
static __always_inline bool socket_resets_next(const struct sock *sk,
					       const struct socket_conn *conn, int before)
{
	if (conn->error || conn->flags & (SOCKET_RESET_SENT | SOCKET_RESET_RECEIVED) ||
	    socket_is_orphan(sk))
		return false;
	if (before == TCP_FIN_WAIT2)
		return !socket_fin_received(sk);
	return before == TCP_ESTABLISHED || before == TCP_CLOSE_WAIT || before == TCP_FIN_WAIT1;
}

/* socket_note_close notes how a connection is at its end. */
static __always_inline void socket_note_close(const struct sock *sk, struct socket_conn *conn)
{
	socket_read_tcp(sk, &conn->now);
	conn->closed_ns = bpf_ktime_get_ns();
	conn->error = BPF_CORE_READ(sk, sk_err);
	if (!(conn->flags & SOCKET_ESTABLISHED)) {
		socket_read_addresses(sk, conn);
		conn->failure = socket_failure_of(sk);
	}
}

/* socket_count_untracked counts the end of a connection that has no entry. */
static __always_inline void socket_count_untracked(const struct sock *sk, int before)
{
	struct socket_counters *counters = socket_counters_of(SOCKET_TCP);
	struct socket_listener_key key;
	__u8 role;

	if (!counters)
		return;
	if (before == TCP_SYN_SENT) {
		socket_count(&counters->failed[socket_failure_of(sk)]);
		return;
	}
	socket_local_key(sk, &key);
	role = socket_listener_for(&key) ? SOCKET_SERVER : SOCKET_CLIENT;
	socket_count(&counters->closed[role]);
}

/* socket_was_established: that a connection came about was missed, but it has gone on
 * from there.
 */
static __always_inline void socket_was_established(struct socket_conn *conn)
{
	if (conn->flags & SOCKET_ESTABLISHED)
		return;
	conn->flags |= SOCKET_ESTABLISHED;
	socket_opened(conn->role);
}

/* socket_late makes an entry of a connection of which the beginning was missed, as it
 * ends. NULL if it was there was no room for it then, or is none now.
 */
static __always_inline struct socket_conn *socket_late(const struct sock *sk)
{
	struct socket_conn *conn;
	__u64 key = (__u64)sk;

	if (!bpf_map_delete_elem(&socket_roomless, &key))
		return NULL;
	conn = socket_try_make(sk);
	if (!conn)
		return NULL;
	socket_read_addresses(sk, conn);
	conn->role = socket_find_listener(conn) ? SOCKET_SERVER : SOCKET_CLIENT;
	socket_copy_listener(conn);
	socket_was_established(conn);
	socket_made(conn, bpf_ktime_get_ns());
	return conn;
}

/* socket_closed_unknown is the end of a socket that has no entry. */
static __always_inline struct socket_conn *socket_closed_unknown(const struct sock *sk, int before)
{
	struct socket_conn *conn = NULL;
	__u64 key = (__u64)sk;

	if (before == TCP_LISTEN || before == TCP_SYN_RECV || !socket_claim(sk))
		return NULL;
	if (before == TCP_SYN_SENT)
		bpf_map_delete_elem(&socket_roomless, &key);
	else
		conn = socket_late(sk);
	if (!conn)
		socket_count_untracked(sk, before);
	return conn;
}

static __always_inline void socket_closed_from(const struct sock *sk, int before)
{
	struct socket_conn *conn = socket_lookup(sk);

	if (!conn) {
		conn = socket_closed_unknown(sk, before);
		if (!conn)
			return;
	}
	if (conn->closed_ns)
		return;
	if (conn->flags & SOCKET_LISTENS) {
		socket_stops(sk, conn);
		return;
	}
	if (before != TCP_SYN_SENT && before != TCP_SYN_RECV)
		socket_was_established(conn);
	socket_note_close(sk, conn);
	if (!(conn->flags & SOCKET_MAY_ANSWER) && !socket_resets_next(sk, conn, before))
		socket_finish(sk, conn);
}

/* socket_gone is the last that is heard of a socket. If that it was closed was
 * missed, this is as good. A round trip is measured when a handshake ends, and not
 * before.
 */
static __always_inline void socket_gone(const struct sock *sk)
{
	struct socket_conn *conn = socket_lookup(sk);
	bool connected;

	if (!socket_wanted(sk) || socket_is_done(sk))
		return;
	connected = BPF_CORE_READ((const struct tcp_sock *)sk, srtt_us);
	if (!conn && connected && socket_claim(sk)) {
		conn = socket_late(sk);
		if (!conn)
			socket_count_untracked(sk, TCP_ESTABLISHED);
	}
	if (!conn || conn->flags & SOCKET_MAY_ANSWER)
		return;
	if (conn->flags & SOCKET_LISTENS) {
		socket_stops(sk, conn);
		return;
	}
	if (!conn->closed_ns) {
		if (connected)
			socket_was_established(conn);
		socket_note_close(sk, conn);
	}
	socket_finish(sk, conn);
}

/* socket_state is what the kernel tells of a TCP socket whose state changes. */
static __always_inline void socket_state(const struct sock *sk, int before, int now)
{
	struct socket_conn *conn;

	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP || !socket_wanted(sk))
		return;
	switch (now) {
	case TCP_SYN_SENT:
		socket_connects(sk);
		break;
	case TCP_LISTEN:
		socket_listens(sk, socket_current());
		break;
	case TCP_ESTABLISHED:
		socket_established(sk, before);
		break;
	case TCP_FIN_WAIT1:
	case TCP_LAST_ACK:
		/* a program calls close or shutdown */
		conn = socket_lookup(sk);
		if (conn)
			socket_use(conn);
		break;
	case TCP_CLOSE:
		socket_closed_from(sk, before);
		break;
	}
}

static __always_inline void socket_reset_sent(const struct sock *sk)
{
	struct socket_conn *conn = sk ? socket_lookup(sk) : NULL;

	if (!conn || conn->flags & SOCKET_LISTENS)
		return;
	if (conn->flags & SOCKET_MAY_ANSWER)
		conn->flags &= ~(SOCKET_MAY_ANSWER | SOCKET_RESET_RECEIVED);
	conn->flags |= SOCKET_RESET_SENT;
	if (conn->closed_ns)
		socket_finish(sk, conn);
}

/* socket_reset_received: the kernel says so also of data that comes for a connection
 * which no program has any more and that was closed by this end alone. It ends
 * that one first, and sends a reset then (tcp_rcv_state_process,
 * net/ipv4/tcp_input.c). If it does not, reading the table ends the entry.
 */
static __always_inline void socket_reset_received(const struct sock *sk)
{
	struct socket_conn *conn = socket_lookup(sk);
	__u8 state;

	if (!conn || conn->flags & SOCKET_LISTENS)
		return;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	conn->flags |= SOCKET_RESET_RECEIVED;
	if ((state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2) && socket_is_orphan(sk))
		conn->flags |= SOCKET_MAY_ANSWER;
}

#endif
