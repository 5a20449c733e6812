/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is known of sockets. The structs here cross to Go, by the same rules as
 * those in types.h.
 *
 * A socket has an entry from its first event to its last, by the address of its
 * struct sock. That, and when it was made, is the identity of a connection. What
 * the kernel counts itself (bytes, segments, round trips) is read from it when
 * somebody asks, and once more at the end.
 */
#ifndef NETPROBE_SOCKET_H
#define NETPROBE_SOCKET_H

#include "types.h"
#include "../include/kernel_sock.h"
#include <bpf/bpf_helpers.h>

enum socket_role {
	SOCKET_CLIENT,
	SOCKET_SERVER,
	SOCKET_ROLES,
};

enum socket_flag {
	/* it waits for connections, and is none */
	SOCKET_LISTENS = 1 << 0,
	/* the handshake was seen to end, or had before */
	SOCKET_ESTABLISHED = 1 << 1,
	/* it was there before it was watched: how it began is not known */
	SOCKET_ADOPTED = 1 << 2,
	/* this end sent a reset, or got one */
	SOCKET_RESET_SENT = 1 << 3,
	SOCKET_RESET_RECEIVED = 1 << 4,
	/* the connection has ended: this is the last of it */
	SOCKET_CLOSED = 1 << 5,
	/* its end was not seen: the numbers are as of when it was last looked at */
	SOCKET_VANISHED = 1 << 6,
	/* the process is the listener's, which may hand connections to others */
	SOCKET_OF_LISTENER = 1 << 7,
	/* what looks like a reset that came may be data to which this end sends one */
	SOCKET_MAY_ANSWER = 1 << 8,
};

/* Why a connection was not made. */
enum socket_failure {
	SOCKET_NOT_FAILED,
	SOCKET_REFUSED,
	SOCKET_TIMED_OUT,
	SOCKET_RESET,
	SOCKET_UNREACHABLE,
	/* the program gave up before anything had been sent again */
	SOCKET_CANCELED,
	SOCKET_OTHER_FAILURE,
	SOCKET_FAILURES,
};

struct socket_process {
	/* of the namespace that has all processes; 0 where it is not known */
	__u32 pid;
	__u32 pad;
	/* see socket_cgroup_id */
	__u64 cgroup;
	/* of the executable, cut; of the task where there is none */
	char name[48];
};

/* What the kernel counts of a socket. */
struct socket_numbers {
	/* payload, each byte once, however often it was sent */
	__u64 bytes_sent;
	__u64 bytes_received;
	__u32 segments_sent;
	__u32 segments_received;
	__u32 retransmits;
	/* smoothed round trip time */
	__u32 rtt_us;
	/* what a listening socket had no room for */
	__u32 listen_drops;
	__u32 pad;
};

struct socket_conn {
	/* All times are CLOCK_MONOTONIC, and 0 where it is not known. This one is
	 * written last: before that the rest is not there yet.
	 */
	__u64 made_ns;
	/* the first SYN was sent */
	__u64 connect_ns;
	__u64 established_ns;
	__u64 closed_ns;
	__u64 cookie; /* of UDP's */
	struct socket_process process;
	struct socket_numbers begin; /* as it was when the entry was made */
	struct socket_numbers now;
	__u8 local[16];
	__u8 remote[16];
	__u16 local_port;
	__u16 remote_port;
	/* inode number */
	__u32 netns;
	/* enum socket_flag, combined */
	__u32 flags;
	/* errno that it ended by, positive */
	__u16 error;
	__u8 protocol;
	/* enum socket_role */
	__u8 role;
	/* enum socket_failure, where it was closed before it was established */
	__u8 failure;
	__u8 pad[7];
};
_Static_assert(sizeof(struct socket_conn) == 240, "socket_conn has padding");

/* What the ring buffer takes, and iterators write. */
struct socket_record {
	__u64 sock;
	struct socket_conn conn;
};

/* Of one transport protocol. A connection is counted whether there is room for
 * an entry or not.
 */
struct socket_counters {
	__u64 opened[SOCKET_ROLES];
	__u64 closed[SOCKET_ROLES];
	__u64 failed[SOCKET_FAILURES];
	/* connections that this end reset, or the other */
	__u64 reset_sent[SOCKET_ROLES];
	__u64 reset_received[SOCKET_ROLES];
};

enum socket_protocol {
	SOCKET_TCP,
	SOCKET_UDP,
	SOCKET_PROTOCOLS,
};

/* What else happened. */
enum socket_ledger {
	/* there was no room for an entry: the connection is counted, and that is all */
	SOCKET_UNTRACKED,
	/* the ring buffer was full: the record waits in the table for the next reading */
	SOCKET_PARKED,
	/* the table was full too */
	SOCKET_RECORD_LOST,
	/* SYN-ACK segments sent again, before there is a connection */
	SOCKET_SYNACK_RETRANSMITS,
	SOCKET_LEDGERS,
};

/* Name of a control group and of the one that it is in. */
struct socket_cgroup {
	char name[96];
	char parent[96];
};

/* Who listens. */
struct socket_listener_key {
	__u8 address[16];
	__u32 netns;
	__u16 port;
	__u16 pad;
};

struct socket_listener {
	__u64 sock;
	struct socket_process process;
};

/* Names the types that no map mentions, so that they come into the object's type
 * information, which the Go bindings are made from.
 */
struct socket_crossing_types {
	enum socket_role role;
	enum socket_flag flag;
	enum socket_failure failure;
	enum socket_protocol protocol;
	enum socket_ledger ledger;
	struct socket_record record;
};

const volatile struct socket_crossing_types socket_crossing_types = {};

/* inode number of the only network namespace whose sockets are watched; 0 for all */
const volatile __u32 cfg_socket_netns = 0;
/* bytes in the ring buffer from which on its reader is woken */
const volatile __u32 cfg_socket_wakeup_bytes = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024); /* set before loading */
	__type(key, __u64);
	__type(value, struct socket_conn);
} socket_conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct socket_listener_key);
	__type(value, struct socket_listener);
} socket_listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct socket_cgroup);
} socket_cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SOCKET_PROTOCOLS);
	__type(key, __u32);
	__type(value, struct socket_counters);
} socket_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SOCKET_LEDGERS);
	__type(key, __u32);
	__type(value, __u64);
} socket_ledgers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* set before loading */
} socket_closed SEC(".maps");

/* The sockets for which there was no room, those of UDP by cookie and those of TCP
 * by address: they have been counted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} socket_roomless SEC(".maps");

/* The TCP sockets whose end has been told of, until another is in the same memory.
 * What has no entry and is not here has been missed.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024); /* set before loading */
	__type(key, __u64);
	__type(value, __u32);
} socket_done SEC(".maps");

/* What a new entry begins as; it is too large for the stack. */
const struct socket_conn socket_fresh = {};
const struct socket_cgroup socket_no_cgroup = {};

/* Programs may nest on a CPU, so that additions are atomic. */
static __always_inline void socket_count(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

static __always_inline void socket_ledger_add(enum socket_ledger where)
{
	__u32 key = where;
	__u64 *to = bpf_map_lookup_elem(&socket_ledgers, &key);

	if (to)
		socket_count(to);
}

static __always_inline struct socket_counters *socket_counters_of(enum socket_protocol protocol)
{
	__u32 key = protocol;

	return bpf_map_lookup_elem(&socket_counts, &key);
}

static __always_inline __u8 socket_role_of(const struct socket_conn *conn)
{
	return conn->role & 1; /* the verifier wants to know */
}

static __always_inline void socket_count_resets(const struct socket_conn *conn,
						struct socket_counters *counters)
{
	__u8 role = socket_role_of(conn);

	if (conn->flags & SOCKET_RESET_SENT)
		socket_count(&counters->reset_sent[role]);
	if (conn->flags & SOCKET_RESET_RECEIVED)
		socket_count(&counters->reset_received[role]);
}

/* socket_count_end counts an entry that is about to be handed on. */
static __always_inline void socket_count_end(const struct socket_conn *conn)
{
	struct socket_counters *counters =
		socket_counters_of(conn->protocol == IPPROTO_UDP ? SOCKET_UDP : SOCKET_TCP);
	__u8 failure = conn->failure;

	if (!counters || conn->flags & SOCKET_LISTENS)
		return;
	if (conn->flags & SOCKET_ESTABLISHED) {
		socket_count(&counters->closed[socket_role_of(conn)]);
		socket_count_resets(conn, counters);
	} else if (failure < SOCKET_FAILURES) {
		socket_count(&counters->failed[failure]);
	}
}

/* how many CPUs may end a connection in the same nanosecond */
#define SOCKET_PARK_TRIES 4

/* socket_park leaves a record for which the ring buffer has no room in the table,
 * by a key that is no address in the kernel.
 */
static __always_inline void socket_park(const struct socket_conn *conn)
{
	__u64 key = conn->closed_ns;

	socket_ledger_add(SOCKET_PARKED);
	for (int i = 0; i < SOCKET_PARK_TRIES; i++, key++) {
		long err = bpf_map_update_elem(&socket_conns, &key, conn, BPF_NOEXIST);

		if (!err)
			return;
		if (err != -EEXIST)
			break;
	}
	socket_ledger_add(SOCKET_RECORD_LOST);
}

static __always_inline __u64 socket_wakeup(void)
{
	__u64 waiting = bpf_ringbuf_query(&socket_closed, BPF_RB_AVAIL_DATA);

	return waiting >= cfg_socket_wakeup_bytes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

/* socket_send hands on the last of an entry, and removes it: after that its memory
 * may be another one's.
 */
static __always_inline void socket_send(__u64 sock, struct socket_conn *conn)
{
	struct socket_record *record;

	conn->flags |= SOCKET_CLOSED;
	record = bpf_ringbuf_reserve(&socket_closed, sizeof(*record), 0);
	if (record) {
		record->sock = sock;
		record->conn = *conn;
		bpf_ringbuf_submit(record, socket_wakeup());
	} else {
		socket_park(conn);
	}
	bpf_map_delete_elem(&socket_conns, &sock);
}

#endif
