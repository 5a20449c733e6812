// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Where vertices stand: those of a namespace together in a circle, those who talk near each
// other, and each where it was when the next answer comes.

import { forceCollide, forceLink, forceManyBody, forceSimulation, forceX, forceY, type SimulationNodeDatum } from "d3-force";
import type { Edge, Vertex } from "./types.ts";

export interface Point {
  x: number;
  y: number;
}

export interface Group extends Point {
  name: string;
  radius: number;
}

export interface Layout {
  points: Map<string, Point>;
  groups: Group[];
}

const spacing = 10;

/** groupOf names the circle that a vertex is in. */
export function groupOf(v: Vertex): string {
  if (v.namespace) return v.namespace;
  if (v.kind === "node") return "nodes";
  return "addresses";
}

interface Body extends SimulationNodeDatum {
  id: string;
  radius: number;
}

type Pair = { source: string; target: string; weight: number };

// Few vertices get many steps, many get few: the sum stays under a second.
const steps = (n: number) => Math.max(30, Math.min(200, Math.round(30_000 / Math.max(n, 1))));

function inside(members: Vertex[], pairs: Pair[], old: Map<string, Point>, center: Point | undefined): Body[] {
  const bodies: Body[] = members.map((v, i) => {
    const was = old.get(v.id);
    if (was && center) return { id: v.id, radius: spacing, fx: was.x - center.x, fy: was.y - center.y, x: was.x - center.x, y: was.y - center.y };
    // A sunflower: even, and the same each time.
    const r = spacing * Math.sqrt(i + 0.5);
    return { id: v.id, radius: spacing, x: r * Math.cos(i * 2.399963), y: r * Math.sin(i * 2.399963) };
  });
  if (bodies.every((b) => b.fx !== undefined)) return bodies;
  const simulation = forceSimulation(bodies)
    .force("link", forceLink<Body, never>(pairs as never[]).id((b) => b.id).distance(spacing * 3).strength(0.05))
    .force("charge", forceManyBody().strength(-12).distanceMax(spacing * 12))
    .force("x", forceX(0).strength(0.08))
    .force("y", forceY(0).strength(0.08))
    .force("collide", forceCollide<Body>(spacing * 1.3).strength(0.9))
    .stop();
  simulation.tick(steps(bodies.length));
  return bodies;
}

function append<T>(lists: Map<string, T[]>, name: string, item: T): void {
  const list = lists.get(name);
  if (list) list.push(item);
  else lists.set(name, [item]);
}

/** layout places vertices; those that old knows stay where they are if their group does. */
export function layout(vertices: Vertex[], edges: Edge[], old?: Layout): Layout {
  const members = new Map<string, Vertex[]>();
  const groupName = new Map<string, string>();
  for (const v of [...vertices].sort((a, b) => (a.id < b.id ? -1 : 1))) {
    const name = groupOf(v);
    groupName.set(v.id, name);
    append(members, name, v);
  }
  const within = new Map<string, Pair[]>();
  const between = new Map<string, Pair>();
  for (const e of edges) {
    const a = groupName.get(e.source);
    const b = groupName.get(e.target);
    if (a === undefined || b === undefined) continue;
    if (a === b) {
      append(within, a, { source: e.source, target: e.target, weight: 1 });
    } else {
      const key = JSON.stringify([a, b].sort());
      const pair = between.get(key) ?? { source: a, target: b, weight: 0 };
      pair.weight++;
      between.set(key, pair);
    }
  }

  const oldGroups = new Map(old?.groups.map((g) => [g.name, g]));
  const placed = new Map<string, Body[]>();
  const circles: Body[] = [...members].sort((a, b) => b[1].length - a[1].length || (a[0] < b[0] ? -1 : 1)).map(([name, list], i) => {
    const was = oldGroups.get(name);
    const bodies = inside(list, within.get(name) ?? [], old?.points ?? new Map(), was);
    placed.set(name, bodies);
    let radius = spacing * 2 + Math.max(0, ...bodies.map((b) => Math.hypot(b.x ?? 0, b.y ?? 0)));
    if (was && radius <= was.radius * 1.001) radius = was.radius;
    // A group that outgrew its circle may have to move; the others may not.
    if (was && radius === was.radius) return { id: name, radius, x: was.x, y: was.y, fx: was.x, fy: was.y };
    return { id: name, radius, x: was?.x ?? Math.cos(i * 2.399963) * (20 + i * 60), y: was?.y ?? Math.sin(i * 2.399963) * (20 + i * 60) };
  });
  if (circles.some((c) => c.fx === undefined)) {
    forceSimulation(circles)
      .force("link", forceLink<Body, never>([...between.values()] as never[]).id((c) => c.id).distance(0).strength(0.02))
      .force("x", forceX(0).strength(0.05))
      // Screens are wider than high.
      .force("y", forceY(0).strength(0.09))
      .force("collide", forceCollide<Body>((c) => c.radius + spacing * 2).strength(1).iterations(4))
      .stop()
      .tick(300);
  }

  const points = new Map<string, Point>();
  const groups = circles.map((c): Group => {
    const x = c.x ?? 0;
    const y = c.y ?? 0;
    for (const b of placed.get(c.id) ?? []) points.set(b.id, { x: x + (b.x ?? 0), y: y + (b.y ?? 0) });
    return { name: c.id, x, y, radius: c.radius };
  });
  return { points, groups };
}
