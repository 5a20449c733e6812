// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";
import { Failure } from "../src/api.ts";
import * as fmt from "../src/format.ts";
import { filterOf } from "../src/flows.tsx";
import { trouble, width } from "../src/edges.ts";
import { layout } from "../src/layout.ts";
import { merge } from "../src/live.ts";
import { closes, figures, rates } from "../src/machine.tsx";
import { usual } from "../src/nodes.tsx";
import { change, format, parse, query, visit } from "../src/state.ts";
import type { Counters, Edge, Vertex } from "../src/types.ts";

const counters = (c: Partial<Counters> = {}): Counters => ({ bytes: 0, packets: 0, flows: 0, retransmits: 0, resets: 0, drops: 0, ...c });
const vertex = (id: string, namespace?: string): Vertex => ({ id, kind: "workload", name: id, ...(namespace ? { namespace } : {}) });
const edge = (source: string, target: string, total: Partial<Counters> = {}): Edge => ({
  id: `${source}~${target}`, source, target, forward: counters(), reverse: counters(), total: counters(total),
});

test("sizes and rates keep three figures and leave a unit in time", () => {
  const cases: [string, string][] = [
    [fmt.bytes(0), "0 B"], [fmt.bytes(1023), "1023 B"], [fmt.bytes(1024), "1.00 KiB"], [fmt.bytes(1536), "1.50 KiB"], [fmt.bytes(5 * 1024 ** 3), "5.00 GiB"], [fmt.bytes(1e30).slice(-3), "PiB"],
    [fmt.bytes(undefined), "–"], [fmt.bytes(NaN), "–"],
    [fmt.byteRate(999), "999 B/s"], [fmt.byteRate(999.9), "1.00 kB/s"], [fmt.byteRate(999_960), "1.00 MB/s"], [fmt.byteRate(12_345_678), "12.3 MB/s"], [fmt.byteRate(250e6), "250 MB/s"],
    [fmt.packetRate(0), "0 pps"], [fmt.packetRate(0.25), "0.25 pps"], [fmt.packetRate(1500), "1.50 kpps"],
    [fmt.count(1234567), "1\u2009234\u2009567"],
  ];
  for (const [got, want] of cases) assert.equal(got, want);
});

test("durations, shares and times", () => {
  const cases: [string | number, string | number][] = [
    [fmt.seconds(0), "0 s"], [fmt.seconds(0.00025), "250 µs"], [fmt.seconds(0.0042), "4.20 ms"], [fmt.seconds(0.25), "250 ms"], [fmt.seconds(2.5), "2.50 s"],
    [fmt.share(0, 10), "0 %"], [fmt.share(1, 1e6), "<0.01 %"], [fmt.share(1, 3), "33 %"], [fmt.share(1, 0), "–"],
    [fmt.ratio(2), "×2.0"], [fmt.ratio(0.25), "÷4.0"], [fmt.ratio(0), "×0"],
    [fmt.ago("2026-01-01T00:00:00Z", Date.parse("2026-01-01T01:02:00Z")), "1 h 2 min ago"], [fmt.ago("nonsense", 0), "–"],
    [fmt.durationSeconds("1h30m"), 5400], [fmt.durationSeconds("5m"), 300], [fmt.durationSeconds("x"), NaN], [fmt.durationSeconds(""), NaN],
    [fmt.address("2001:db8::1", 443), "[2001:db8::1]:443"], [fmt.address("10.0.0.1"), "10.0.0.1"],
    [fmt.spanSeconds("2026-01-01T00:00:00.000000000Z", "2026-01-01T00:05:00.000000000Z", 1), 300], [fmt.spanSeconds(undefined, undefined, 7), 7],
  ];
  for (const [got, want] of cases) assert.equal(got, want);
});

test("a state survives its URL", () => {
  const state = { view: "flows" as const, params: { namespace: "a&b=c#d", q: "<img src=x>", port: "443", sort: "-bytes", cursor: "x/y" } };
  assert.deepEqual(parse(format(state)), state);
  assert.equal(format({ view: "map", params: {} }), "#/map");
});

test("what a URL may not say is dropped", () => {
  for (const hash of ["", "#", "#/", "#/nowhere?x=1", "#/__proto__?__proto__=1&constructor=2&toString=3"]) assert.deepEqual(parse(hash), { view: "map", params: {} });
  assert.deepEqual(parse("#/map?level=galaxy&direction=up&window=-1m&at=now&port=70000&limit=0&sort=a;b&namespace=ok").params, { namespace: "ok" });
  assert.deepEqual(parse(`#/map?q=${"a".repeat(513)}`).params, {});
});

test("a change of the filters begins the list anew, and empties are gone", () => {
  const state = parse("#/flows?namespace=a&cursor=100");
  assert.deepEqual(change(state, { node: "n1", namespace: "" }).params, { node: "n1" });
  assert.deepEqual(change(state, { cursor: "200" }).params, { namespace: "a", cursor: "200" });
  assert.deepEqual(visit(parse("#/map?namespace=a&sel=x&level=pod&at=5"), "flows"), { view: "flows", params: { namespace: "a", at: "5" } });
  assert.equal(query({ a: "1 2", b: undefined, c: "" }), "?a=1+2");
});

test("a change of the stream replaces what it names and moves the window", () => {
  const t = {
    window: { from: "2026-01-01T00:00:00Z", to: "2026-01-01T00:05:00Z" }, level: "workload",
    nodes: [vertex("a"), vertex("b")], edges: [edge("a", "b", { bytes: 1 })],
  };
  const next = merge(t, { at: "2026-01-01T00:05:10Z", nodes: [vertex("c")], edges: [edge("a", "b", { bytes: 9 }), edge("b", "c"), edge("c", "nobody")] });
  assert.deepEqual(next.edges.map((e) => [e.id, e.total.bytes]), [["a~b", 9], ["b~c", 0]]);
  assert.equal(next.nodes.length, 3);
  assert.equal(fmt.spanSeconds(next.window.from, next.window.to, 0), 300);
  assert.equal(t.edges[0]!.total.bytes, 1, "what was given is left as it was");
});

test("groups do not overlap, hold their members, and what stays keeps its place", () => {
  const vertices = Array.from({ length: 90 }, (_, i) => vertex(`v${i}`, `ns${i % 3}`));
  const edges = vertices.slice(1).map((v, i) => edge(v.id, vertices[i >> 1]!.id));
  const first = layout(vertices, edges);
  for (const a of first.groups) {
    for (const b of first.groups) if (a !== b) assert.ok(Math.hypot(a.x - b.x, a.y - b.y) > (a.radius + b.radius) * 0.98, `${a.name} and ${b.name} overlap`);
  }
  for (const v of vertices) {
    const g = first.groups.find((x) => x.name === v.namespace)!;
    const p = first.points.get(v.id)!;
    assert.ok(Math.hypot(p.x - g.x, p.y - g.y) <= g.radius, `${v.id} is outside of its group`);
  }
  assert.deepEqual(layout([...vertices].reverse(), edges), first, "the order of the answer does not matter");
  const second = layout([...vertices.slice(0, 80), vertex("new", "other")], edges, first);
  for (const v of vertices.slice(0, 80)) {
    const [a, b] = [first.points.get(v.id)!, second.points.get(v.id)!];
    assert.ok(Math.hypot(a.x - b.x, a.y - b.y) < 1e-6, `${v.id} moved`);
  }
  assert.ok(second.points.has("new"));
});

test("edges", () => {
  assert.equal(trouble(edge("a", "b", { packets: 100, drops: 1, retransmits: 50 })), "drops");
  assert.equal(trouble(edge("a", "b", { packets: 1000, retransmits: 1 })), "retransmits");
  assert.equal(trouble(edge("a", "b", { packets: 10_000, retransmits: 1 })), undefined);
  assert.ok(width(10, 1000) < width(100, 1000) && width(100, 1000) < width(1000, 1000));
  assert.equal(width(0, 0), 0.8);
});

test("what views make of answers", () => {
  assert.deepEqual(filterOf({ time: "", source: { address: "10.0.0.1", port: 40000 }, destination: { address: "10.0.0.2", port: 53 }, transport: "udp", bytes: 1, packets: 1 }), { address: "10.0.0.2", protocol: "udp", port: "53" });
  assert.deepEqual(filterOf({ time: "", source: { address: "10.0.0.1" }, destination: { address: "10.0.0.2" }, bytes: 1, packets: 1 }), { address: "10.0.0.2" });
  const series = [0, 10, 20].map((s) => ({ t: new Date(s * 1000).toISOString(), rx_bytes: s * 100, tx_bytes: 50 }));
  assert.deepEqual(rates(series, "rx_bytes"), [100, 200]);
  assert.deepEqual(rates([], "rx_bytes"), []);
  assert.deepEqual(closes([{ outcome: "seen", packets: 5, bytes: 0 }, { outcome: "exported", packets: 3, bytes: 0 }, { outcome: "lost", packets: 2, bytes: 0 }]), { seen: 5, other: 5 });
  assert.deepEqual(figures({ edges: 5, max_edges: 5, history_bytes: 2048, folded: { edges: 1 } }), [{ label: "edges", value: "5 of 5", full: true }, { label: "history bytes", value: "2.00 KiB", full: false }]);
  assert.equal(usual([1, 1, 7, undefined]), 1);
  assert.equal(usual([1, 1]), undefined);
});

test("failures say what to do", () => {
  assert.match(new Failure(0, "x").advice, /running/);
  assert.match(new Failure(401, "x").advice, /credentials/);
  assert.match(new Failure(400, "x", "window").advice, /“window”/);
});
