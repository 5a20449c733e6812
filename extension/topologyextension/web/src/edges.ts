// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// How an edge is drawn.

import type { Edge } from "./types.ts";

/** retransmitWorth is the share of packets sent again from which an edge is coloured. */
export const retransmitWorth = 0.001;

/** trouble says what an edge suffers from; drops come before retransmits. */
export function trouble(e: Edge): "drops" | "retransmits" | undefined {
  if (e.total.drops > 0) return "drops";
  if (e.total.packets > 0 && e.total.retransmits / e.total.packets >= retransmitWorth) return "retransmits";
  return undefined;
}

/** width grows more slowly than traffic, which spans nine orders of magnitude. */
export function width(bytes: number, most: number): number {
  return bytes > 0 && most > 0 ? 0.8 + 4.2 * Math.pow(Math.min(1, bytes / most), 0.4) : 0.8;
}
