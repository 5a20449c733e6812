// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// The topology of now, followed: by the stream of changes, or by asking again and again
// where no stream comes through.

import { get, Failure } from "./api.ts";
import type { Change, Topology } from "./types.ts";

/** merge gives a topology with a change in it. Both are left as they are. */
export function merge(t: Topology, c: Change): Topology {
  const nodes = new Map(t.nodes.map((n) => [n.id, n]));
  for (const n of c.nodes ?? []) nodes.set(n.id, n);
  const edges = new Map(t.edges.map((e) => [e.id, e]));
  for (const e of c.edges ?? []) if (nodes.has(e.source) && nodes.has(e.target)) edges.set(e.id, e);
  const moved = Date.parse(c.at) - Date.parse(t.window.to);
  const window = moved > 0
    ? { from: new Date(Date.parse(t.window.from) + moved).toISOString(), to: c.at }
    : t.window;
  return { ...t, window, nodes: [...nodes.values()], edges: [...edges.values()] };
}

export type How = "stream" | "polling";

export interface Listener {
  topology(t: Topology, how: How): void;
  failure(f: Failure): void;
}

const pollMs = 5000;
// What left the window is in no change: it goes when the whole is read again.
const wholeMs = 60_000;
const streamAgainMs = 30_000;

/** follow calls the listener until the function that it gives back is called. */
export function follow(query: string, listener: Listener): () => void {
  const abort = new AbortController();
  const timers = new Set<number>();
  let source: EventSource | undefined;
  let streaming = false;
  let current: Topology | undefined;

  const later = (ms: number, f: () => void) => {
    const id = window.setTimeout(() => {
      timers.delete(id);
      f();
    }, ms);
    timers.add(id);
  };

  const whole = async () => {
    try {
      current = await get<Topology>(`api/topology${query ? `${query}&` : "?"}mappings=false`, abort.signal);
      listener.topology(current, streaming ? "stream" : "polling");
    } catch (err) {
      if (abort.signal.aborted) return;
      listener.failure(err instanceof Failure ? err : new Failure(0, String(err)));
    }
    if (!abort.signal.aborted) later(streaming ? wholeMs : pollMs, whole);
  };

  const stream = () => {
    source = new EventSource(`api/stream${query}`);
    source.addEventListener("open", () => {
      streaming = true;
    });
    source.addEventListener("topology", (event) => {
      streaming = true;
      if (!current) return;
      try {
        current = merge(current, JSON.parse((event as MessageEvent<string>).data) as Change);
      } catch {
        return; // cut off on the way; the next whole has it
      }
      listener.topology(current, "stream");
    });
    source.addEventListener("error", () => {
      if (streaming) {
        streaming = false;
        later(pollMs, whole);
      }
      source?.close();
      later(streamAgainMs, stream);
    });
  };

  void whole();
  stream();
  return () => {
    abort.abort();
    source?.close();
    for (const id of timers) window.clearTimeout(id);
  };
}
