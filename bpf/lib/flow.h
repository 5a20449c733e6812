/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The flow table: one entry per flow key and interval.
 *
 * There are two maps. Programs write the one that flow_epoch names; user space
 * flips it, waits until no program can still be writing the other (an update
 * of an array of maps does that, see below) and empties it. An entry is thus
 * never read or deleted while it can change, and no packet is lost between.
 */
#ifndef NETPROBE_FLOW_H
#define NETPROBE_FLOW_H

#include "config.h"
#include <bpf/bpf_core_read.h>
#include "counters.h"
#include "l4.h"

/* Type and size are set before loading; these are for tests and other loaders. */
#define FLOW_MAP_ENTRIES 1024
#define FLOW_EVENTS_BYTES (256 * 1024)

struct flow_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOW_MAP_ENTRIES);
	__type(key, struct flow_key);
	__type(value, struct flow_stats);
};

struct flow_map flows_0 SEC(".maps");
struct flow_map flows_1 SEC(".maps");

/* Names the types that no map mentions, so that they come into the object's
 * type information, which the Go bindings are made from.
 */
struct crossing_types {
	struct flow_event flow_event;
	enum direction direction;
	enum hook hook;
	enum parse_outcome parse_outcome;
	enum loss loss;
	enum flow_has flow_has;
	enum tunnel_type tunnel_type;
	enum tunnel_refusal tunnel_refusal;
};

/* Packets of flows that the full map had no entry for. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, FLOW_EVENTS_BYTES);
	__type(value, struct crossing_types);
} flow_events SEC(".maps");

/* Never looked up. Updating an array of maps makes the kernel wait until every
 * program that runs has ended (maybe_wait_bpf_programs, kernel/bpf/syscall.c):
 * the barrier after a flip.
 */
struct barrier_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct barrier_map);
} barrier SEC(".maps");

/* Which map programs write, 0 or 1. A variable and not a map entry: reading it
 * costs one load. Written by user space only.
 */
volatile __u32 flow_epoch = 0;

/* The tunnels that flows were in. User space deletes those that are no more. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096); /* set before loading */
	__type(key, struct tunnel_key);
	__type(value, struct tunnel_value);
} tunnels SEC(".maps");

struct tunnel_handles {
	struct bpf_spin_lock lock;
	__u32 last;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tunnel_handles);
} tunnel_handles SEC(".maps");

/* next_handle gives a number that no tunnel has had, or 0 where there is none left. */
static __always_inline __u32 next_handle(void)
{
	struct tunnel_handles *handles;
	__u32 key = 0, handle = 0;

	handles = bpf_map_lookup_elem(&tunnel_handles, &key);
	if (!handles)
		return 0;
	bpf_spin_lock(&handles->lock);
	if (handles->last != (__u32)-1)
		handle = ++handles->last;
	bpf_spin_unlock(&handles->lock);
	return handle;
}

/* return_handle takes back a number that no tunnel got, unless there are later
 * ones: a full table would else use them up, packet by packet.
 */
static __always_inline void return_handle(__u32 handle)
{
	struct tunnel_handles *handles;
	__u32 key = 0;

	handles = bpf_map_lookup_elem(&tunnel_handles, &key);
	if (!handles)
		return;
	bpf_spin_lock(&handles->lock);
	if (handles->last == handle)
		handles->last--;
	bpf_spin_unlock(&handles->lock);
}

/* tunnel_handle gives the number that stands for a tunnel in flow keys, or 0 if
 * the table of tunnels is full.
 */
static __always_inline __u32 tunnel_handle(const struct tunnel_key *key)
{
	struct tunnel_value *known = bpf_map_lookup_elem(&tunnels, key);
	struct tunnel_value fresh;

	if (known)
		return known->handle;
	fresh.handle = next_handle();
	if (!fresh.handle)
		return 0;
	if (!bpf_map_update_elem(&tunnels, key, &fresh, BPF_NOEXIST))
		return fresh.handle;
	return_handle(fresh.handle);
	/* another CPU may have been first */
	known = bpf_map_lookup_elem(&tunnels, key);
	return known ? known->handle : 0;
}

static __always_inline __u64 now_mono_ns(void)
{
	/* a third of the cost; its steps of a timer tick are fine for flow times */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ktime_get_coarse_ns))
		return bpf_ktime_get_coarse_ns();
	return bpf_ktime_get_ns();
}

static __always_inline void note_tcp_flags(struct flow_stats *stats, __u8 flags)
{
	int i;

	/* handshakes are rare: what follows a flow's first packets ends at the next line */
	if ((stats->tcp_flags_hint & flags) == flags && !(flags & TCP_SYN))
		return;
	if (flags & TCP_SYN) {
		if (flags & TCP_ACK)
			stats->syn_ack_seen = 1;
		else
			stats->syn_seen = 1;
	}
	for (i = 0; i < 8; i++)
		if (flags & (1 << i))
			stats->tcp_flag_seen[i] = 1;
	stats->tcp_flags_hint |= flags;
}

static __always_inline void flow_add(struct flow_stats *stats, const struct packet *pkt,
				     const struct volume *v, __u64 now)
{
	if (cfg_flows_per_cpu) {
		stats->packets += v->packets;
		stats->bytes += v->bytes;
	} else {
		__sync_fetch_and_add(&stats->packets, v->packets);
		__sync_fetch_and_add(&stats->bytes, v->bytes);
	}
	if (pkt->tunnel_bytes) {
		if (cfg_flows_per_cpu)
			stats->tunnel_bytes += pkt->tunnel_bytes;
		else
			__sync_fetch_and_add(&stats->tunnel_bytes, pkt->tunnel_bytes);
	}
	stats->last_mono_ns = now;
	note_tcp_flags(stats, pkt->tcp_flags);
}

static __always_inline void note_tunnel(struct tunnel_key *to, const struct packet *pkt)
{
	struct tunnel_scratch *s = pkt->tunnelled ? scratch() : NULL;

	if (s)
		*to = s->tunnel;
	else
		__builtin_memset(to, 0, sizeof(*to));
}

/* flow_overflow hands one packet to user space when a map has no room. */
static __always_inline void flow_overflow(enum hook hook, const struct packet *pkt,
					  const struct volume *v, __u64 now)
{
	struct flow_event *event = bpf_ringbuf_reserve(&flow_events, sizeof(*event), 0);

	if (!event) {
		count_loss(hook, LOSS_RINGBUF_FULL, v);
		return;
	}
	event->key = pkt->key;
	note_tunnel(&event->tunnel, pkt);
	event->tcp_flags = pkt->tcp_flags;
	__builtin_memset(event->pad, 0, sizeof(event->pad));
	event->packets = v->packets;
	event->bytes = v->bytes;
	event->tunnel_bytes = pkt->tunnel_bytes;
	event->mono_ns = now;
	bpf_ringbuf_submit(event, 0);
}

#define E2BIG 7
#define ENOMEM 12
#define EEXIST 17

static __always_inline void flow_insert(void *map, enum hook hook, const struct packet *pkt,
					const struct volume *v, __u64 now)
{
	struct flow_stats fresh = {
		.packets = v->packets,
		.bytes = v->bytes,
		.tunnel_bytes = pkt->tunnel_bytes,
		.first_mono_ns = now,
		.last_mono_ns = now,
	};
	struct flow_stats *stats;
	/* not long: kernels before 6.4 (d7ba4cc900bf) return an int, not sign-extended */
	int err;

	note_tcp_flags(&fresh, pkt->tcp_flags);
	err = bpf_map_update_elem(map, &pkt->key, &fresh, BPF_NOEXIST);
	if (!err)
		return;
	if (err == -EEXIST) {
		/* another CPU was first */
		stats = bpf_map_lookup_elem(map, &pkt->key);
		if (stats) {
			flow_add(stats, pkt, v, now);
			return;
		}
	}
	if (err == -E2BIG || err == -ENOMEM)
		flow_overflow(hook, pkt, v, now);
	else
		count_loss(hook, LOSS_MAP_UPDATE, v);
}

static __always_inline void flow_count_in(void *map, enum hook hook, const struct packet *pkt,
					  const struct volume *v, __u64 now)
{
	struct flow_stats *stats = bpf_map_lookup_elem(map, &pkt->key);

	if (stats)
		flow_add(stats, pkt, v, now);
	else
		flow_insert(map, hook, pkt, v, now);
}

static __always_inline void flow_count(enum hook hook, struct packet *pkt, const struct volume *v)
{
	struct tunnel_scratch *s = pkt->tunnelled ? scratch() : NULL;
	__u64 now = now_mono_ns();

	if (s) {
		pkt->key.tunnel = tunnel_handle(&s->tunnel);
		if (!pkt->key.tunnel) {
			flow_overflow(hook, pkt, v, now);
			return;
		}
	}
	/* the verifier wants the map known where it is used */
	if (flow_epoch & 1)
		flow_count_in(&flows_1, hook, pkt, v, now);
	else
		flow_count_in(&flows_0, hook, pkt, v, now);
}

#endif
