//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What netfilter's hooks see and what they drop.
 *
 * What enters a hook and does not leave it need not have been dropped: the
 * reassembly before connection tracking takes fragments and gives one packet,
 * IPVS takes packets and sends them on elsewhere, a queue gives them back later.
 * So nothing is subtracted here. The program at a hook's first priority counts a
 * packet and notes that it is in this hook, the one at the last priority takes
 * the note away, and a packet that the kernel frees as dropped (kfree_skb, not
 * consume_skb) while its note is there is one that the hook dropped. The note is
 * found by the packet's address and not by its CPU: what is sent by a process may
 * be interrupted or move to another CPU in the middle of a hook.
 */
#include "lib/netfilter.h"

SEC("netfilter")
int netfilter_first(struct bpf_nf_ctx *ctx)
{
	enter_hook(ctx);
	return NF_ACCEPT;
}

SEC("netfilter")
int netfilter_last(struct bpf_nf_ctx *ctx)
{
	leave_hook(ctx);
	return NF_ACCEPT;
}

/* Arguments: the packet, who frees it, why. */
SEC("tp_btf/kfree_skb")
int netfilter_freed(__u64 *args)
{
	free_packet((struct sk_buff *)args[0], args[2]);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
