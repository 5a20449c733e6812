// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// What the page shows is in its URL, behind the #: a link or a reload shows the same again.

import { durationSeconds } from "./format.ts";

export const views = ["map", "compare", "flows", "nodes", "interfaces", "health"] as const;
export type View = (typeof views)[number];

export const levels = ["workload", "service", "node", "pod", "address"] as const;
export const directions = ["intra-node", "inter-node", "ingress", "egress"] as const;
export const windows = ["1m", "5m", "15m", "1h", "6h"] as const;

/** Params are the filters by name; one that is not set is absent. */
export type Params = Partial<Record<ParamName, string>>;
export type ParamName = keyof typeof rules;

export interface State {
  view: View;
  params: Params;
}

const oneOf = (values: readonly string[]) => (v: string) => values.includes(v);
const anything = (v: string) => v.length <= 512;
const unixSeconds = (v: string) => /^\d{1,11}$/.test(v);

// What each parameter may be. What is not, is dropped: a URL is anybody's to write.
const rules = {
  level: oneOf(levels),
  window: (v: string) => durationSeconds(v) > 0,
  at: unixSeconds,
  namespace: anything,
  node: anything,
  direction: oneOf(directions),
  q: anything,
  focus: anything,
  sel: anything,
  from: unixSeconds,
  to: unixSeconds,
  protocol: anything,
  port: (v: string) => /^\d{1,5}$/.test(v) && Number(v) <= 65535,
  address: anything,
  limit: (v: string) => /^\d{1,4}$/.test(v) && Number(v) >= 1 && Number(v) <= 1000,
  cursor: anything,
  sort: (v: string) => /^-?[a-z_]+$/.test(v),
} satisfies Record<string, (v: string) => boolean>;

// Those that stay when the view changes: what one looks at, not how.
const shared: ParamName[] = ["window", "at", "namespace", "node", "direction", "q"];

/** parse reads what is behind the #. */
export function parse(hash: string): State {
  const text = hash.replace(/^#?\/?/, "");
  const cut = text.indexOf("?");
  const name = cut < 0 ? text : text.slice(0, cut);
  const view = (views as readonly string[]).includes(name) ? (name as View) : "map";
  const params: Params = {};
  for (const [key, value] of new URLSearchParams(cut < 0 ? "" : text.slice(cut + 1))) {
    if (Object.hasOwn(rules, key) && value !== "" && rules[key as ParamName](value)) {
      params[key as ParamName] = value;
    }
  }
  return { view, params };
}

/** format writes a state as parse reads it, parameters in a fixed order. */
export function format(state: State): string {
  const query = new URLSearchParams();
  for (const key of Object.keys(rules) as ParamName[]) {
    const value = state.params[key];
    if (value) query.set(key, value);
  }
  const text = query.toString();
  return `#/${state.view}${text ? `?${text}` : ""}`;
}

/** change gives a state with some parameters other; undefined or "" takes one away. */
export function change(state: State, patch: Params): State {
  const params = { ...state.params, ...patch };
  // A cursor continues one list only.
  if (!("cursor" in patch)) delete params.cursor;
  for (const key of Object.keys(params) as ParamName[]) if (!params[key]) delete params[key];
  return { view: state.view, params };
}

/** visit gives the state of another view, with the filters that both have. */
export function visit(state: State, view: View): State {
  if (view === state.view) return state;
  const params: Params = {};
  for (const key of shared) if (state.params[key]) params[key] = state.params[key];
  return { view, params };
}

/** query writes parameters for the API, leaving out those not set. */
export function query(params: Record<string, string | undefined>): string {
  const q = new URLSearchParams();
  for (const [key, value] of Object.entries(params)) if (value) q.set(key, value);
  const text = q.toString();
  return text ? `?${text}` : "";
}
