/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Events that come in the middle of others.
 *
 * Since 6.2 (05b24ff9b2cf) the kernel does not run a program on a CPU that is in
 * the middle of it already: what happens in an interrupt over a system call's event is
 * missed. So there are two programs for an event, and the second does the work if
 * the first is at work below it on the same CPU, and was thus missed. Older kernels
 * run the first one twice, which shows by the first such case, and the second does
 * nothing there.
 *
 * What comes in an interrupt between the kernel's entry into the first program and its
 * note of it, or between the end of that and of the program, is still missed, and
 * that may be several connections' events. Where one CPU hands all packets to
 * another it is some of 10,000. The kernel counts how often it did not run the first
 * program, and SOCKET_SECOND_TURNS how often the second one did: the difference is
 * what is missed, as far as the kernel counts it. Of a connection whose beginning or
 * end is missed at its client what comes after it tells; of a server's it does not.
 */
#ifndef NETPROBE_SOCKET_TURN_H
#define NETPROBE_SOCKET_TURN_H

#include "socket.h"

enum socket_turn {
	TURN_STATE,
	TURN_RESET_SENT,
	TURN_RESET_RECEIVED,
	TURNS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TURNS);
	__type(key, __u32);
	__type(value, __u32);
} socket_turns SEC(".maps");

/* the first programs were seen to nest */
volatile __u32 socket_nests = 0;

static __always_inline volatile __u32 *socket_turn_of(enum socket_turn turn)
{
	__u32 key = turn;

	return bpf_map_lookup_elem(&socket_turns, &key);
}

static __always_inline void socket_begin(volatile __u32 *running)
{
	if (*running)
		socket_nests = 1;
	*running += 1;
}

static __always_inline void socket_end(volatile __u32 *running)
{
	*running -= 1;
}

static __always_inline bool socket_second_turn(enum socket_turn turn)
{
	volatile __u32 *running = socket_turn_of(turn);

	if (!running || !*running || socket_nests)
		return false;
	socket_ledger_add(SOCKET_SECOND_TURNS);
	return true;
}

#endif
