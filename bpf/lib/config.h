/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What user space sets before the programs are loaded, and never after: the
 * verifier takes these as constants and drops the code they switch off.
 */
#ifndef NETPROBE_CONFIG_H
#define NETPROBE_CONFIG_H

#include "types.h"

/* count flows, not only interfaces */
const volatile bool cfg_flows = true;
/* the flow maps are per-CPU, so entries need no atomic operations */
const volatile bool cfg_flows_per_cpu = false;

/* UDP destination ports whose packets are opened; 0 is none */
#define MAX_TUNNEL_PORTS 8
const volatile __u16 cfg_vxlan_ports[MAX_TUNNEL_PORTS] = { 4789, 8472 };
const volatile __u16 cfg_geneve_ports[MAX_TUNNEL_PORTS] = { 6081 };
/* open packets with a tunnel's IP protocol */
const volatile bool cfg_gre = true;
const volatile bool cfg_ipip = true;

/* Which flows are counted: those that an including rule matches, or all where
 * there is none, without those that an excluding rule matches.
 */
#define MAX_FILTER_RULES 32
const volatile struct filter_rule cfg_filter[MAX_FILTER_RULES];
const volatile __u32 cfg_filter_len = 0;
const volatile bool cfg_filter_includes = false;

/* one packet in so many is counted as a flow; 1 is all */
const volatile __u32 cfg_sampling = 1;

#endif
