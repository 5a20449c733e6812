/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Reading a packet, the same way from every hook. */
#ifndef NETPROBE_CURSOR_H
#define NETPROBE_CURSOR_H

#include "types.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* How the bytes of a packet are reached; always a compile-time constant. */
enum source {
	/* struct __sk_buff of a device with Ethernet frames: offset 0 is the frame's first byte */
	SOURCE_SKB,
	/* the same, but read by copying alone: slower, and with half the ways through
	 * the parsers for the verifier to follow
	 */
	SOURCE_SKB_COPIED,
	/* struct __sk_buff of a device without a link header: offset 0 is the network header */
	SOURCE_SKB_L3,
	/* struct xdp_md */
	SOURCE_XDP,
};

struct cursor {
	void *ctx;
	enum source source;
	/* next byte to read, from the start of the packet */
	__u32 off;
	/* length of the packet, also where its data is not linear */
	__u32 len;
};

/* forget returns value, of which the verifier then knows nothing. Where paths
 * meet that differ only in how many headers they passed, it takes them for the
 * same state and follows one: without this, tags times labels times extension
 * headers exceed its million instructions.
 */
static __always_inline __u32 forget(__u32 value, __u32 unknown)
{
	asm volatile("%0 += %1; %0 -= %1" : "+r"(value) : "r"(unknown));
	return value;
}

/* advance moves the cursor over size bytes. */
static __always_inline void advance(struct cursor *cur, __u32 size)
{
	cur->off = forget(cur->off + size, cur->len);
}

/* Packet memory is read directly up to here, which bounds the offset for the
 * verifier. It is a page, because before 5.18 no helper reads a frame for XDP:
 * drivers keep those in one page then.
 */
#define MAX_HEADER_OFF 4096

static __always_inline bool load_direct(const void *data, const void *data_end, __u32 off, void *to,
					const __u32 size)
{
	const void *p;

	/* keeps the bound and the use in one register, else the verifier loses it */
	asm volatile("" : "+r"(off));
	if (off > MAX_HEADER_OFF)
		return false;
	p = data + off;
	if (p + size > data_end)
		return false;
	__builtin_memcpy(to, p, size);
	return true;
}

static __always_inline bool load_skb(struct __sk_buff *skb, __u32 off, void *to, const __u32 size)
{
	if (load_direct((void *)(long)skb->data, (void *)(long)skb->data_end, off, to, size))
		return true;
	return bpf_skb_load_bytes(skb, off, to, size) == 0;
}

static __always_inline bool load_xdp(struct xdp_md *xdp, __u32 off, void *to, const __u32 size)
{
	if (load_direct((void *)(long)xdp->data, (void *)(long)xdp->data_end, off, to, size))
		return true;
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_xdp_load_bytes))
		return bpf_xdp_load_bytes(xdp, off, to, size) == 0;
	return false;
}

/* load reads size bytes at off; false if the packet does not hold them. */
static __always_inline bool load(const struct cursor *cur, __u32 off, void *to, const __u32 size)
{
	if (off + size > cur->len)
		return false;
	switch (cur->source) {
	case SOURCE_SKB:
		return load_skb(cur->ctx, off, to, size);
	case SOURCE_SKB_COPIED:
		return bpf_skb_load_bytes(cur->ctx, off, to, size) == 0;
	case SOURCE_SKB_L3:
		return bpf_skb_load_bytes_relative(cur->ctx, off, to, size, BPF_HDR_START_NET) == 0;
	case SOURCE_XDP:
		return load_xdp(cur->ctx, off, to, size);
	}
	return false;
}

#endif
