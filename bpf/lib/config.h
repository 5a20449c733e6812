/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What user space sets before the programs are loaded, and never after: the
 * verifier takes these as constants and drops the code they switch off.
 */
#ifndef NETPROBE_CONFIG_H
#define NETPROBE_CONFIG_H

#include "kernel.h"

/* count flows, not only interfaces */
const volatile bool cfg_flows = true;
/* the flow maps are per-CPU, so entries need no atomic operations */
const volatile bool cfg_flows_per_cpu = false;

#endif
