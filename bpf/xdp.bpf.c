//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The earliest look at received frames, before the kernel has built a packet
 * of them: how many there are and how many are damaged. It keeps series of its
 * own and adds to none of those that the TC programs keep.
 */
#include "lib/counters.h"
#include "lib/parse.h"

/* One entry per attached interface, made by user space before it attaches. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024); /* set before loading */
	__type(key, __u32);
	__type(value, struct xdp_counters);
} xdp_interfaces SEC(".maps");

static __always_inline __u32 xdp_len(struct xdp_md *xdp)
{
	/* a frame in several buffers is longer than the first of them */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_xdp_get_buff_len))
		return bpf_xdp_get_buff_len(xdp);
	return xdp->data_end - xdp->data;
}

SEC("xdp")
int xdp_count(struct xdp_md *xdp)
{
	struct cursor cur = { .ctx = xdp, .source = SOURCE_XDP, .len = xdp_len(xdp) };
	__u32 ifindex = xdp->ingress_ifindex;
	struct xdp_counters *to;
	struct packet pkt = {};
	struct volume v = { .packets = 1, .bytes = cur.len };
	__u32 outcome;

	outcome = parse_packet(&cur, &pkt, 0);
	count_outcome(HOOK_XDP, outcome, &v);
	to = bpf_map_lookup_elem(&xdp_interfaces, &ifindex);
	if (!to)
		count_interface_unknown(HOOK_XDP, &v);
	else if (outcome < PARSE_OUTCOMES)
		volume_add(&to->outcome[outcome], &v);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
