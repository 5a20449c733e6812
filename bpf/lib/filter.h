/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef NETPROBE_FILTER_H
#define NETPROBE_FILTER_H

#include "config.h"
#include "l4.h"

static __always_inline bool in_network(const volatile struct filter_rule *rule,
				       const __u8 address[16])
{
	const __u32 *word = (const __u32 *)address;
	int i;

#pragma unroll
	for (i = 0; i < 4; i++)
		if ((word[i] & rule->mask[i]) != rule->network[i])
			return false;
	return true;
}

static __always_inline bool in_ports(const volatile struct filter_rule *rule, __u16 port)
{
	return port >= rule->port_min && port <= rule->port_max;
}

static __always_inline bool has_transport_ports(const struct flow_key *key)
{
	return key->has & FLOW_HAS_PORTS && key->protocol != IPPROTO_ICMP &&
	       key->protocol != IPPROTO_ICMPV6;
}

static __always_inline bool rule_matches(const volatile struct filter_rule *rule,
					 const struct flow_key *key)
{
	if (rule->ip_version && key->ip_version != rule->ip_version)
		return false;
	if (rule->has_protocol && key->protocol != rule->protocol)
		return false;
	if (rule->port_max &&
	    !(has_transport_ports(key) &&
	      (in_ports(rule, key->source_port) || in_ports(rule, key->destination_port))))
		return false;
	return in_network(rule, key->source) || in_network(rule, key->destination);
}

/* is_wanted says whether the filter lets a flow be counted. */
static __always_inline bool is_wanted(const struct flow_key *key)
{
	bool included = !cfg_filter_includes;
	__u32 i;

	for (i = 0; i < MAX_FILTER_RULES && i < cfg_filter_len; i++) {
		if (!rule_matches(&cfg_filter[i], key))
			continue;
		if (cfg_filter[i].exclude)
			return false;
		included = true;
	}
	return included;
}

#endif
