/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Packets in netfilter's hooks: their volume, and notes of which hook they are in. */
#ifndef NETPROBE_NETFILTER_H
#define NETPROBE_NETFILTER_H

#include "ipv4.h"
#include "ipv6.h"
#include "types.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* A place is a hook, in netfilter's own order (enum nf_inet_hooks,
 * include/uapi/linux/netfilter.h), of IPv4 or, NETFILTER_HOOKS further on, of IPv6.
 */
#define NETFILTER_HOOKS 5
#define NETFILTER_PLACES (2 * NETFILTER_HOOKS)

/* Per-CPU, indexed by place. Additions are atomic all the same: a hook of what
 * a process sends runs with interrupts enabled, and one of what is received may
 * run in the middle of it on the same CPU.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NETFILTER_PLACES);
	__type(key, __u32);
	__type(value, struct volume);
} netfilter_seen SEC(".maps"), netfilter_dropped SEC(".maps");

/* Packets that found no room for their note by pushing out another's. If that
 * one's packet is dropped later, it is not counted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} netfilter_evicted SEC(".maps");

/* A note is one word, so that it is written and taken away at once: bits 3 to 47
 * of the packet's address, which tell any two packets apart, what of the packet
 * nothing in a hook changes (identity), whether it may be a fragment, and the
 * place. It is never 0: no packet is at the address 0.
 */
#define NOTE_IDENTITY_SHIFT 5
#define NOTE_IDENTITY_MASK 0x3fff
#define NOTE_FRAGMENT 0x10
#define NOTE_ADDRESS_SHIFT 19
#define NOTE_PLACE_MASK 0xf
_Static_assert(NETFILTER_PLACES <= NOTE_PLACE_MASK + 1, "places do not fit into a note");

#define NOTE_WAYS 4
#define NOTE_BUCKETS_LOG2 14

/* Half a cache line of notes, which are looked through one by one. */
struct note_bucket {
	__u64 way[NOTE_WAYS];
};

/* There is a note of every packet that is in a hook or in its queue, and of some
 * that were taken out of it without being dropped, until another packet is at
 * their address. That is far fewer than have room here.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << NOTE_BUCKETS_LOG2);
	__type(key, __u32);
	__type(value, struct note_bucket);
} netfilter_notes SEC(".maps");

/* A packet from its network header on, which is where it begins in every hook. */
struct nf_packet {
	const unsigned char *start;
	const unsigned char *shared_info;
	__u32 len;
	bool is_v6;
	union {
		struct ipv4_header v4;
		struct ipv6_header v6;
	};
};

static __always_inline bool read_packet(const struct sk_buff *skb, bool is_v6,
					struct nf_packet *pkt)
{
	pkt->start = skb->data;
	pkt->shared_info = skb->head + skb->end;
	pkt->len = skb->len;
	pkt->is_v6 = is_v6;
	if (is_v6)
		return !bpf_probe_read_kernel(&pkt->v6, sizeof(pkt->v6), pkt->start) &&
		       pkt->v6.version_class_flow[0] >> 4 == 6;
	return !bpf_probe_read_kernel(&pkt->v4, sizeof(pkt->v4), pkt->start) &&
	       pkt->v4.version_ihl >> 4 == 4;
}

/* identity is what a packet keeps in a hook, also when it is reassembled of its
 * fragments and when its addresses are translated: the identification (RFC 791)
 * or the flow label (RFC 8200).
 */
static __always_inline __u32 identity(const struct nf_packet *pkt)
{
	const __u8 *flow = pkt->v6.version_class_flow;
	__u32 label;

	if (!pkt->is_v6)
		return bpf_ntohs(pkt->v4.id) & NOTE_IDENTITY_MASK;
	label = (flow[1] & 0x0f) << 16 | flow[2] << 8 | flow[3];
	return (label ^ label >> 14) & NOTE_IDENTITY_MASK;
}

/* may_be_fragment is true of every fragment, and of packets with other extension
 * headers that one may have before that of fragments.
 */
static __always_inline bool may_be_fragment(const struct nf_packet *pkt)
{
	if (pkt->is_v6)
		return is_extension(pkt->v6.next_header);
	return pkt->v4.fragment & bpf_htons(IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET);
}

/* What each segment of a super-packet has for itself. */
struct segment_header {
	/* from the network header to the payload */
	__u32 len;
	/* how much of it is not on the wire */
	__u32 jumbo;
};

/* transport_offset steps over the IP headers of a packet without tunnel. A packet
 * that is received has its transport header at the first extension header, so the
 * kernel's note of it does not serve (ip6_rcv_core, net/ipv6/ip6_input.c).
 */
static __always_inline __u32 transport_offset(const struct nf_packet *pkt,
					      struct segment_header *header)
{
	__u32 off = sizeof(pkt->v6);
	__u8 next = pkt->v6.next_header;
	struct ipv6_extension ext;

	if (!pkt->is_v6)
		return (pkt->v4.version_ihl & 0x0f) * 4;
	for (int i = 0; i < MAX_EXTENSION_HEADERS && is_extension(next); i++) {
		if (bpf_probe_read_kernel(&ext, sizeof(ext), pkt->start + off))
			break;
		if (next == IPPROTO_HOPOPTS && is_jumbo(&ext))
			header->jumbo = sizeof(ext);
		off += extension_len(next, &ext);
		next = ext.next_header;
	}
	return off;
}

/* segment_header says what qdisc_pkt_len_init (net/core/dev.c) takes for it. */
static __always_inline struct segment_header
segment_header(const struct sk_buff *skb, const struct nf_packet *pkt, __u32 gso_type)
{
	struct segment_header header = {};
	__u8 offset = 0;

	if (gso_type & SKB_GSO_TUNNELS)
		header.len = skb->inner_transport_header - (__u32)(skb->data - skb->head);
	else
		header.len = transport_offset(pkt, &header);

	if (gso_type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6)) {
		bpf_probe_read_kernel(&offset, sizeof(offset),
				      pkt->start + header.len + TCP_OFFSET_FLAGS);
		header.len += (offset >> 4) * 4;
	} else if (gso_type & SKB_GSO_UDP_L4) {
		header.len += UDP_HEADER_LEN;
	} else if (gso_type & SKB_GSO_SCTP) {
		header.len += l4_header_len(IPPROTO_SCTP);
	}
	return header;
}

/* wire_volume is what a packet is on the wire: as many packets as it has segments,
 * each with its own headers. Bytes count from the network header on.
 */
static __always_inline struct volume wire_volume(const struct sk_buff *skb,
						 const struct nf_packet *pkt)
{
	struct skb_shared_info *shared = (void *)pkt->shared_info;
	struct volume v = { .packets = 1, .bytes = pkt->len };
	__u16 size = BPF_CORE_READ(shared, gso_size);
	struct segment_header header;
	__u32 segments;

	if (!size)
		return v;
	segments = BPF_CORE_READ(shared, gso_segs);
	header = segment_header(skb, pkt, BPF_CORE_READ(shared, gso_type));
	/* a guest or a tun user may give a segment size and no count */
	if (!segments && pkt->len > header.len)
		segments = (pkt->len - header.len + size - 1) / size;
	if (!segments)
		segments = 1;
	v.packets = segments;
	v.bytes = pkt->len - header.jumbo + (__u64)(segments - 1) * (header.len - header.jumbo);
	return v;
}

static __always_inline void nf_count(void *counters, __u32 place, const struct volume *v)
{
	struct volume *to = bpf_map_lookup_elem(counters, &place);

	if (!to)
		return;
	__sync_fetch_and_add(&to->packets, v->packets);
	__sync_fetch_and_add(&to->bytes, v->bytes);
}

static __always_inline __u64 address_bits(__u64 address)
{
	return address >> 3 << NOTE_ADDRESS_SHIFT;
}

/* note_address gives the bits of a note that say of which packet it is. The
 * verifier lets no program compute with an address that it knows to be one, and
 * forgets it of what an atomic addition has changed. Asking the kernel to copy the
 * address (bpf_probe_read_kernel) takes thrice the time.
 */
static __always_inline __u64 note_address(const struct sk_buff *skb)
{
	__u64 address = 0;

	__sync_fetch_and_add(&address, (__u64)skb);
	return address_bits(*(volatile __u64 *)&address);
}

static __always_inline struct note_bucket *bucket_of(__u64 address)
{
	/* Fibonacci hashing: the golden ratio's bits spread what differs in few */
	__u32 key = address * 0x9e3779b97f4a7c15 >> (64 - NOTE_BUCKETS_LOG2);

	return bpf_map_lookup_elem(&netfilter_notes, &key);
}

static __always_inline __u64 *find_note(struct note_bucket *bucket, __u64 address)
{
	for (int i = 0; i < NOTE_WAYS; i++)
		if (bucket->way[i] >> NOTE_ADDRESS_SHIFT == address >> NOTE_ADDRESS_SHIFT)
			return &bucket->way[i];
	return NULL;
}

static __always_inline void count_evicted(void)
{
	__u32 key = 0;
	__u64 *evicted = bpf_map_lookup_elem(&netfilter_evicted, &key);

	if (evicted)
		__sync_fetch_and_add(evicted, 1);
}

/* write_note leaves one note of the packet, this. Nobody else writes one of the
 * same packet meanwhile: it is in one place at a time.
 */
static __always_inline void write_note(__u64 note)
{
	__u64 address = note >> NOTE_ADDRESS_SHIFT << NOTE_ADDRESS_SHIFT;
	struct note_bucket *bucket = bucket_of(address);
	__u64 *old;

	if (!bucket)
		return;
	old = find_note(bucket, address);
	if (old) {
		*(volatile __u64 *)old = note;
		return;
	}
	for (int i = 0; i < NOTE_WAYS; i++)
		if (!bucket->way[i] && !__sync_val_compare_and_swap(&bucket->way[i], 0, note))
			return;
	*(volatile __u64 *)&bucket->way[note >> NOTE_IDENTITY_SHIFT & (NOTE_WAYS - 1)] = note;
	count_evicted();
}

/* take_note returns the packet's note and takes it away, or 0 where there is none. */
static __always_inline __u64 take_note(__u64 address)
{
	struct note_bucket *bucket = bucket_of(address);
	__u64 *way = bucket ? find_note(bucket, address) : NULL;
	__u64 note;

	if (!way)
		return 0;
	note = *(volatile __u64 *)way;
	*(volatile __u64 *)way = 0;
	return note;
}

static __always_inline void enter_hook(struct bpf_nf_ctx *ctx)
{
	const struct nf_hook_state *state = ctx->state;
	const struct sk_buff *skb = ctx->skb;
	bool is_v6 = state->pf == NFPROTO_IPV6;
	__u32 place = state->hook + (is_v6 ? NETFILTER_HOOKS : 0);
	struct nf_packet pkt = {};
	struct volume v;
	__u64 note;

	if (place >= NETFILTER_PLACES || !read_packet(skb, is_v6, &pkt))
		return;
	v = wire_volume(skb, &pkt);
	nf_count(&netfilter_seen, place, &v);
	note = note_address(skb) | identity(&pkt) << NOTE_IDENTITY_SHIFT | place;
	if (may_be_fragment(&pkt))
		note |= NOTE_FRAGMENT;
	write_note(note);
}

/* An IPv6 datagram of 64 KiB has 53 fragments, one of IPv4 over Ethernet 45. */
#define MAX_FRAGMENTS 128

/* leave_parts takes away the notes of the fragments that a packet was reassembled
 * of in this hook. They may become packets again, fragments that are sent on (the
 * fast path of ip_do_fragment, net/ipv4/ip_output.c), and be dropped elsewhere.
 */
static __always_inline void leave_parts(const struct sk_buff *skb)
{
	struct skb_shared_info *shared = (void *)(skb->head + skb->end);
	struct sk_buff *part = BPF_CORE_READ(shared, frag_list);

	for (int i = 0; i < MAX_FRAGMENTS && part; i++) {
		take_note(address_bits((__u64)part));
		part = BPF_CORE_READ(part, next);
	}
}

static __always_inline void leave_hook(struct bpf_nf_ctx *ctx)
{
	__u64 note = take_note(note_address(ctx->skb));

	if (note & NOTE_FRAGMENT)
		leave_parts(ctx->skb);
}

/* was_cut says whether a packet that no rule drops is freed because a queue has
 * its segments instead (nfqnl_enqueue_packet, net/netfilter/nfnetlink_queue.c).
 * Cutting it has moved its link-layer header (__skb_gso_segment, net/core/gso.c).
 * Super-packets of devices without such a header look the same, so one of these
 * that a queue did not take is missed.
 */
static __always_inline bool was_cut(const struct sk_buff *skb, const struct nf_packet *pkt,
				    __u32 reason)
{
	struct skb_shared_info *shared = (void *)pkt->shared_info;

	return reason !=
		       bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_NETFILTER_DROP) &&
	       skb->mac_header == skb->network_header && BPF_CORE_READ(shared, gso_size);
}

/* free_packet counts a packet that is freed as dropped while it is in a hook.
 *
 * Three kinds of packet are none of it though they have a note. A fragment that was
 * taken for reassembly begins behind its headers from then on (ip_frag_queue,
 * net/ipv4/ip_fragment.c; nf_ct_frag6_queue, net/ipv6/netfilter/nf_conntrack_reasm.c):
 * when the packet that it became a part of is dropped, the kernel says so of each
 * part. What a note is of may be gone unheard, and another packet be at its address.
 * And a super-packet may have been cut.
 */
static __always_inline void free_packet(const struct sk_buff *skb, __u32 reason)
{
	__u64 note = take_note(note_address(skb));
	struct nf_packet pkt = {};
	struct volume v;
	__u32 place;

	if (!note)
		return;
	place = note & NOTE_PLACE_MASK;
	if (skb->data != skb->head + skb->network_header ||
	    !read_packet(skb, place >= NETFILTER_HOOKS, &pkt) ||
	    identity(&pkt) != (note >> NOTE_IDENTITY_SHIFT & NOTE_IDENTITY_MASK) ||
	    was_cut(skb, &pkt, reason))
		return;
	v = wire_volume(skb, &pkt);
	nf_count(&netfilter_dropped, place, &v);
}

#endif
