/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whose packet a struct sk_buff is, and which way it went. */
#ifndef NETPROBE_DROP_PLACE_H
#define NETPROBE_DROP_PLACE_H

#include "drop.h"
#include <bpf/bpf_core_read.h>

/* inode number of the network namespace whose drops are counted */
const volatile __u32 cfg_drop_netns = 0;

/* The lowest inode number of a namespace, with room (PROC_DYNAMIC_FIRST,
 * fs/proc/generic.c; PROC_NET_INIT_INO, include/linux/proc_ns.h).
 */
#define MIN_NETNS_INODE 0xefffff00

/* The lower bits of skb->_skb_refdst are flags (SKB_DST_NOREF, include/linux/skbuff.h). */
#define SKB_DST_FLAGS 7UL

#define NO_MAC_HEADER 0xffff

/* drop_netns reads what a member of the kernel's type possible_net_t points at,
 * which may be anything: 0 if it is no namespace.
 */
static __always_inline __u32 drop_netns(const possible_net_t *at)
{
	const struct net *net = NULL;
	__u32 inode = 0;

	if (!bpf_core_field_exists(at->net))
		return cfg_drop_netns; /* no CONFIG_NET_NS: there is one namespace */
	if (bpf_core_read(&net, sizeof(net), &at->net) || !net)
		return 0;
	if (bpf_core_read(&inode, sizeof(inode), &net->ns.inum) || inode < MIN_NETNS_INODE)
		return 0;
	return inode;
}

static __always_inline __u32 drop_netns_of_device(const struct net_device *dev)
{
	return dev ? drop_netns(__builtin_preserve_access_index(&dev->nd_net)) : 0;
}

/* drop_netns_of_socket is 0 also for sockets that send no packets: Unix, netlink, … */
static __always_inline __u32 drop_netns_of_socket(const struct sock *sk)
{
	__u16 family;

	if (!sk)
		return 0;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6 && family != AF_PACKET)
		return 0;
	return drop_netns(__builtin_preserve_access_index(&sk->__sk_common.skc_net));
}

static __always_inline __u32 drop_ifindex(const struct net_device *dev)
{
	return dev ? BPF_CORE_READ(dev, ifindex) : 0;
}

/* drop_route gives the device that a packet is routed to, NULL where it is not. */
static __always_inline const struct net_device *drop_route(const struct sk_buff *skb)
{
	const struct dst_entry *dst = (void *)(BPF_CORE_READ(skb, _skb_refdst) & ~SKB_DST_FLAGS);

	return dst ? BPF_CORE_READ(dst, dev) : NULL;
}

/* drop_leaves says whether a packet is on its way out of a device: it is routed
 * there, or has its link header in front of it again.
 */
static __always_inline bool drop_leaves(const struct sk_buff *skb, const struct net_device *dev,
					const struct net_device *route)
{
	return dev == route || skb->data < skb->head + skb->network_header;
}

/* drop_arrives says the same of a packet that has just come in, of which the stack
 * has not noted that yet: the driver has taken off its link header, and it has no route.
 */
static __always_inline bool drop_arrives(const struct sk_buff *skb, const struct net_device *route)
{
	return !skb->skb_iif && !route && skb->mac_header != NO_MAC_HEADER &&
	       skb->head + skb->mac_header < skb->data;
}

/* drop_set_device notes interface and direction of a packet that is on a device.
 *
 * skb->skb_iif is the interface that it came in by; the stack sets it for each
 * device that it receives the packet on, and clears it where a tunnel or a pair of veth
 * is passed. While the packet is on that same device it is at ingress. On another,
 * or without it, it takes proof that the packet leaves, else the direction stays
 * unknown: drops of the bridge family's forward hook are such.
 */
static __always_inline void drop_set_device(const struct sk_buff *skb, const struct net_device *dev,
					    struct drop_key *key)
{
	const struct net_device *route;

	key->ifindex = drop_ifindex(dev);
	if ((__u32)skb->skb_iif == key->ifindex) {
		key->direction = DROP_DIRECTION_INGRESS;
		return;
	}
	route = drop_route(skb);
	if (drop_arrives(skb, route))
		key->direction = DROP_DIRECTION_INGRESS;
	else if (drop_leaves(skb, dev, route))
		key->direction = DROP_DIRECTION_EGRESS;
}

/* drop_place_without_device does the same as drop_place_of for a packet of which the
 * device is not known. The receiving socket is asked whose it is, then the route,
 * then the packet's own socket. One that came in nowhere was made here.
 */
static __always_inline __u32 drop_place_without_device(const struct sk_buff *skb,
						       const struct sock *rx_sk,
						       struct drop_key *key)
{
	const struct net_device *route = drop_route(skb);
	__u32 of_route = drop_netns_of_device(route);
	__u32 of_socket = drop_netns_of_socket(BPF_CORE_READ(skb, sk));
	__u32 netns = drop_netns_of_socket(rx_sk);

	if (skb->skb_iif) {
		key->ifindex = skb->skb_iif;
		key->direction = DROP_DIRECTION_INGRESS;
	} else if (of_route || of_socket) {
		key->ifindex = of_route ? drop_ifindex(route) : 0;
		key->direction = DROP_DIRECTION_EGRESS;
	}
	if (!netns)
		netns = of_route;
	return netns ? netns : of_socket;
}

/* drop_place_of gives the inode of the packet's network namespace, 0 where nothing
 * tells, and notes interface and direction of a packet of the wanted one. The device says
 * it best: a packet that has gone through a pair of veth may still have its sender's
 * socket. But the kernel keeps other things in the same place while the packet is
 * in a queue of UDP (dev_scratch) or in a tree (rbnode), and TCP clears it on receipt.
 */
static __always_inline __u32 drop_place_of(const struct sk_buff *skb, const struct sock *rx_sk,
					   struct drop_key *key)
{
	const struct net_device *dev = BPF_CORE_READ(skb, dev);
	__u32 netns = drop_netns_of_device(dev);

	if (!netns)
		return drop_place_without_device(skb, rx_sk, key);
	if (netns == cfg_drop_netns)
		drop_set_device(skb, dev, key);
	return netns;
}

#endif
