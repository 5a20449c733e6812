// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// A server for the page's tests that answers as the extension does, with a cluster made up:
// the same one each time, whose traffic moves with the time asked for.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join } from "node:path";

export const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
export const hostile = "<img src=x onerror=alert(1)>";

const types = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8" };

// mulberry32: small, and the same everywhere.
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const shops = {
  shop: ["web", "cart", "checkout", "catalog", "search", "payments", "orders", "users", "reviews", "images", "mail", "redis", "postgres", "kafka"],
  monitoring: ["prometheus", "grafana", "loki", "alertmanager", "otel-gateway", "node-exporter", "tempo", "kube-state-metrics", "thanos-query", "thanos-store", "pushgateway", "blackbox"],
  "kube-system": ["coredns", "metrics-server", "kube-proxy", "flannel", "ingress-nginx", "cert-manager", "external-dns", "autoscaler", "snapshotter", "csi-driver", "descheduler", "registry", "dashboard", "konnectivity"],
};
const nodes = ["n1", "n2", "n3", "n4"];

function smallWorld() {
  const vertices = [];
  for (const [namespace, names] of Object.entries(shops)) {
    for (const name of names) {
      vertices.push({
        id: `workload:${namespace}/Deployment/${name}`, kind: "workload", name, namespace, node: nodes[vertices.length % 4], zone: "zone-a",
        addresses: [`10.244.${vertices.length % 4}.${10 + vertices.length}`], labels: { app: name, evil: hostile }, workload: { kind: "Deployment", name },
      });
    }
  }
  vertices[10].name = hostile;
  vertices.push({ id: "external:203.0.113.9", kind: "external", name: "203.0.113.9", addresses: ["203.0.113.9"] });
  vertices.push({ id: "external:2001:db8::7", kind: "external", name: "2001:db8::7", addresses: ["2001:db8::7"] });
  const at = (ns, name) => vertices.find((v) => v.id === `workload:${ns}/Deployment/${name}`);
  const pairs = [];
  const link = (a, b, port, big) => pairs.push({ a, b, port, big });
  const shop = (n) => at("shop", n);
  link(vertices.at(-2), at("kube-system", "ingress-nginx"), 443, 8);
  link(vertices.at(-1), at("kube-system", "ingress-nginx"), 443, 3);
  link(at("kube-system", "ingress-nginx"), shop("web"), 8080, 8);
  for (const n of ["cart", "catalog", "search", "users", "reviews", "images"]) link(shop("web"), shop(n), 8080, 4);
  for (const [a, b, p] of [["cart", "redis", 6379], ["cart", "checkout", 8080], ["checkout", "payments", 8443], ["checkout", "orders", 8080], ["orders", "postgres", 5432], ["users", "postgres", 5432], ["catalog", "postgres", 5432], ["orders", "kafka", 9092], ["mail", "kafka", 9092], ["search", "redis", 6379], ["images", "redis", 6379]]) link(shop(a), shop(b), p, 5);
  link(shop("payments"), vertices.at(-2), 443, 1);
  for (const v of vertices) {
    if (v.kind !== "workload") continue;
    if (v.namespace !== "monitoring") link(at("monitoring", "prometheus"), v, 9090, 1);
    if (v.namespace === "shop") link(v, at("monitoring", "otel-gateway"), 4317, 1);
    if (!["coredns", "kube-proxy"].includes(v.name)) link(v, at("kube-system", "coredns"), 53, 0.1);
  }
  link(at("monitoring", "grafana"), at("monitoring", "prometheus"), 9090, 1);
  link(at("monitoring", "otel-gateway"), at("monitoring", "tempo"), 4317, 3);
  link(at("monitoring", "loki"), at("monitoring", "thanos-store"), 10901, 2);
  return { vertices, pairs };
}

function bigWorld(n, m) {
  const rnd = random(7);
  const vertices = Array.from({ length: n }, (_, i) => {
    const namespace = `team-${String(Math.floor(Math.sqrt(i) * 0.63)).padStart(2, "0")}`;
    return { id: `workload:${namespace}/Deployment/app-${i}`, kind: "workload", name: `app-${i}`, namespace, node: nodes[i % 4], addresses: [`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`], labels: {} };
  });
  const pairs = [];
  const seen = new Set();
  while (pairs.length < m) {
    const i = Math.floor(rnd() * n);
    // Most talk to their neighbours, which are in the same namespace.
    const j = rnd() < 0.8 ? Math.min(n - 1, Math.max(0, i + Math.floor((rnd() - 0.5) * 40))) : Math.floor(rnd() * n);
    if (i === j || seen.has(i * n + j)) continue;
    seen.add(i * n + j);
    pairs.push({ a: vertices[i], b: vertices[j], port: 8080, big: rnd() * 5 });
  }
  return { vertices, pairs };
}

const none = () => ({ bytes: 0, packets: 0, flows: 0, retransmits: 0, resets: 0, drops: 0 });
const add = (a, b) => {
  for (const k of Object.keys(a)) if (typeof a[k] === "number" && k !== "rtt_seconds") a[k] += b[k] ?? 0;
  return a;
};

function counters(bytes, i, share) {
  const packets = Math.ceil(bytes / 900);
  return {
    bytes: Math.round(bytes), packets, flows: Math.ceil(packets / 400),
    retransmits: i % 17 === 3 ? Math.ceil(packets * 0.004) : 0, resets: i % 23 === 0 ? 2 : 0, drops: i % 29 === 5 ? 7 : 0, rtt_seconds: 0.0002 * (1 + (i % 9)) * share,
  };
}

const iso = (ms) => new Date(ms).toISOString().replace("Z", "000000Z");
const moment = (text, otherwise) => (!text ? otherwise : /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text));
const windowMs = (text) => {
  const m = /^(\d+)([smh])/.exec(text ?? "5m");
  return m ? Number(m[1]) * { s: 1000, m: 60_000, h: 3_600_000 }[m[2]] : NaN;
};

function edgesAt(world, to, window) {
  // A tick of 2 s, so that one sees the numbers move.
  const t = Math.floor(to / 2000);
  return world.pairs.map(({ a, b, port, big }, i) => {
    const wave = 1 + 0.5 * Math.sin(t / 40 + i) + 0.1 * Math.sin(t * 1.7 + i);
    const bytes = (window / 1000) * big * 40_000 * wave * (1 + (i % 5));
    const forward = counters(bytes, i, 1);
    const reverse = counters(bytes * 0.3, i + 1, 1);
    return {
      id: `${a.id}~${b.id}~${port}`, source: a.id, target: b.id, direction: a.kind === "external" ? "ingress" : b.kind === "external" ? "egress" : a.node === b.node ? "intra-node" : "inter-node",
      protocols: [{ transport: port === 53 ? "udp" : "tcp", port, bytes: Math.round(bytes * 1.2) }, { transport: "icmp", bytes: Math.round(bytes * 0.1) }],
      ...(a.node !== b.node && a.node && b.node ? { vnis: [1] } : {}),
      forward, reverse, total: { ...add({ ...forward }, reverse), rtt_seconds: forward.rtt_seconds }, first_seen: iso(to - 7_200_000), last_seen: iso(to),
    };
  });
}

function topology(world, p, now) {
  const to = moment(p.get("at"), now);
  const window = windowMs(p.get("window"));
  let edges = edgesAt(world, to, window);
  const by = new Map(world.vertices.map((v) => [v.id, v]));
  const ends = (e, f) => [by.get(e.source), by.get(e.target)].some(f);
  const q = p.get("q")?.toLowerCase();
  if (p.get("namespace")) edges = edges.filter((e) => ends(e, (v) => v.namespace === p.get("namespace")));
  if (p.get("node")) edges = edges.filter((e) => ends(e, (v) => v.node === p.get("node")));
  if (p.get("direction")) edges = edges.filter((e) => e.direction === p.get("direction"));
  if (q) edges = edges.filter((e) => ends(e, (v) => v.name.toLowerCase().includes(q) || v.addresses.some((x) => x.includes(q))));
  if (p.get("focus")) edges = edges.filter((e) => ends(e, (v) => v.id === p.get("focus")));
  const sums = new Map();
  for (const e of edges) {
    for (const [id, way, back] of [[e.source, "out", "in"], [e.target, "in", "out"]]) {
      const v = sums.get(id) ?? { in: none(), out: none() };
      add(v[way], e.forward);
      add(v[back], e.reverse);
      sums.set(id, v);
    }
  }
  const vertices = [...sums].map(([id, c]) => ({ ...by.get(id), ...c, first_seen: iso(to - 7_200_000), last_seen: iso(to) }));
  return { window: { from: iso(to - window), to: iso(to) }, level: p.get("level") ?? "workload", nodes: vertices, edges, folded: { vertices: 0, edges: 0, records: 0 } };
}

function flows(world, p, now) {
  let items = edgesAt(world, now, 5000).flatMap((e, i) => {
    const [a, b] = [e.source, e.target].map((id) => world.vertices.find((v) => v.id === id));
    const end = (v, port) => ({ address: v.addresses[0], port, ...(v.namespace ? { pod: `${v.name}-7d9f-${i}`, namespace: v.namespace, workload: `Deployment/${v.name}`, node: v.node } : {}) });
    return [0, 1, 2].map((n) => ({
      time: iso(now - n * 5000 - i * 13), start: iso(now - n * 5000 - 4000), source: end(a, 40_000 + i), destination: end(b, e.protocols[0].port), transport: e.protocols[0].transport,
      direction: e.direction, bytes: e.forward.bytes, packets: e.forward.packets, rtt_seconds: e.forward.rtt_seconds, retransmits: e.forward.retransmits, drops: e.forward.drops,
      community_id: `1:${i}`, interface: "cni0", ...(e.vnis ? { tunnel: { type: "vxlan", id: 1 } } : {}), process: { pid: 100 + i, name: i % 7 ? a.name : hostile },
    }));
  }).sort((a, b) => (a.time < b.time ? 1 : -1));
  const ends = (f) => [f.source, f.destination];
  if (p.get("namespace")) items = items.filter((f) => ends(f).some((e) => e.namespace === p.get("namespace")));
  if (p.get("node")) items = items.filter((f) => ends(f).some((e) => e.node === p.get("node")));
  if (p.get("direction")) items = items.filter((f) => f.direction === p.get("direction"));
  if (p.get("protocol")) items = items.filter((f) => f.transport === p.get("protocol"));
  if (p.get("port")) items = items.filter((f) => ends(f).some((e) => e.port === Number(p.get("port"))));
  if (p.get("address")) items = items.filter((f) => ends(f).some((e) => e.address === p.get("address")));
  if (p.get("q")) items = items.filter((f) => ends(f).some((e) => (e.pod ?? e.address).includes(p.get("q"))));
  const start = Number(p.get("cursor") ?? 0);
  const limit = Number(p.get("limit") ?? 100);
  return { items: items.slice(start, start + limit), total: items.length, ...(start + limit < items.length ? { next_cursor: String(start + limit) } : {}) };
}

function diff(world, p) {
  const [from, to] = ["from", "to"].map((k) => moment(p.get(k)));
  const window = windowMs(p.get("window"));
  const before = edgesAt(world, from, window);
  const after = edgesAt(world, to, window);
  return {
    from: { from: iso(from - window), to: iso(from) }, to: { from: iso(to - window), to: iso(to) },
    new: after.slice(0, 3), gone: before.slice(3, 5),
    changed: before.slice(5).map((edge, i) => ({ edge, after: after[i + 5], bytes_ratio: after[i + 5].total.bytes / edge.total.bytes })).filter((c) => Math.abs(Math.log(c.bytes_ratio)) > 0.3),
  };
}

function others(world, path, p, now) {
  switch (path) {
    case "/api/cluster":
      return {
        name: "lab", inventory: "complete", counts: { nodes: 4, namespaces: 3, pods: 96, services: 31 }, nodes: nodes.map((name, i) => ({ name, zone: "zone-a", addresses: [`192.0.2.${i + 1}`], pod_cidrs: [`10.244.${i}.0/24`], ready: i !== 3 })),
        namespaces: Object.keys(shops).map((name) => ({ name, pods: 30, services: 10 })),
      };
    case "/api/flannel":
      return {
        nodes: nodes.map((name, i) => ({ name, backend: "vxlan", pod_cidrs: [`10.244.${i}.0/24`], public_ip: `192.0.2.${i + 1}`, vni: i === 2 ? 7 : 1, vtep_mac: `5a:00:00:00:00:0${i + 1}` })),
        vxlan_port: 8472, subnets: nodes.map((_, i) => `10.244.${i}.0/24`), differences: [{ kind: "vni", node: "n3", subject: "flannel.7", annotation: "7", host: hostile, since: iso(now - 90_000) }],
      };
    case "/api/stats": {
      const matrix = new Map();
      for (const e of edgesAt(world, now, windowMs(p.get("window")))) {
        const [a, b] = [e.source, e.target].map((id) => world.vertices.find((v) => v.id === id).node);
        if (!a || !b) continue;
        const c = matrix.get(`${a} ${b}`) ?? { source: a, target: b, ...none() };
        add(c, e.total);
        matrix.set(`${a} ${b}`, c);
      }
      return { totals: none(), by_direction: {}, by_protocol: {}, by_port: [], node_matrix: [...matrix.values()] };
    }
    case "/api/interfaces":
      return {
        items: ["eth0", "cni0", "flannel.1", "vethb41f", hostile].map((name, i) => ({
          name, node: nodes[i % 4], rx: { bytes: 3e9 / (i + 1), packets: 4e6 }, tx: { bytes: 1e9 / (i + 1), packets: 2e6 }, ...(i === 0 ? { utilization: 0.42 } : {}),
          series: Array.from({ length: 60 }, (_, k) => ({ t: iso(now - (60 - k) * 15_000), rx_bytes: 4e7 * (1 + Math.sin(k / 6 + i)), tx_bytes: 2e7 * (1 + Math.cos(k / 5 + i)) })),
        })),
        total: 5,
      };
    case "/api/health":
      return {
        started: iso(now - 4e6), version: "0.1.0", records: { received: 812_345, dropped: 0 }, graph: { vertices: 42, edges: 130, max_vertices: 10_000, max_edges: 100_000, history_bytes: 7_400_000 },
        ledger: [{ outcome: "seen", packets: 1_000_000, bytes: 9e8 }, { outcome: "exported", packets: 999_000, bytes: 8.99e8 }, { outcome: "filtered", packets: 990, bytes: 9e5 }, { outcome: "lost", cause: "map_full", packets: 10, bytes: 1e4 }],
      };
  }
  return undefined;
}

/** startMock serves the files of dist and an API. It says where, and how to change what it does. */
export async function startMock({ dist, size }) {
  const control = { stream: true, fail: false, empty: false };
  const world = size ? bigWorld(size.nodes, size.edges) : smallWorld();
  const requests = [];
  const server = createServer(async (req, res) => {
    const { pathname: path, searchParams: p } = new URL(req.url, "http://localhost");
    requests.push(req.url);
    res.setHeader("Content-Security-Policy", policy);
    res.setHeader("X-Content-Type-Options", "nosniff");
    res.setHeader("Cache-Control", "no-cache");
    const json = (status, body) => {
      res.writeHead(status, { "Content-Type": "application/json" });
      res.end(JSON.stringify(body));
    };
    const bad = (parameter) => json(400, { error: { code: 400, message: `${parameter}: no such value`, parameter } });
    const now = Date.now();
    if (!path.startsWith("/api/")) {
      const file = path === "/" ? "index.html" : path.slice(1);
      if (file.includes("..")) return bad("path");
      try {
        const body = await readFile(join(dist, file));
        res.writeHead(200, { "Content-Type": types[extname(file)] ?? "application/octet-stream" });
        return res.end(body);
      } catch {
        return json(404, { error: { code: 404, message: "not found" } });
      }
    }
    if (control.fail) return json(503, { error: { code: 503, message: "the inventory is not complete yet" } });
    if (p.has("window") && !(windowMs(p.get("window")) > 0)) return bad("window");
    if (p.get("namespace")?.includes("\u0000")) return bad("namespace");
    if (path === "/api/stream") {
      if (!control.stream) return json(404, { error: { code: 404, message: "no stream" } });
      res.writeHead(200, { "Content-Type": "text/event-stream" });
      res.write("retry: 2000\n\n");
      const timer = setInterval(() => {
        if (control.empty) return;
        const t = topology(world, p, Date.now());
        res.write(`id: ${Date.now()}\nevent: topology\ndata: ${JSON.stringify({ at: t.window.to, nodes: t.nodes, edges: t.edges })}\n\n`);
      }, 2000);
      return req.on("close", () => clearInterval(timer));
    }
    if (path === "/api/topology") {
      const t = topology(world, p, now);
      return json(200, control.empty ? { ...t, nodes: [], edges: [] } : t);
    }
    if (path === "/api/topology/diff") return json(200, diff(world, p));
    if (path === "/api/flows") return json(200, control.empty ? { items: [], total: 0 } : flows(world, p, now));
    const body = control.empty ? { items: [], nodes: [] } : others(world, path, p, now);
    return body ? json(200, body) : json(404, { error: { code: 404, message: `${path}: no such path` } });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}/`, control, requests,
    close: () => new Promise((resolve) => {
      server.closeAllConnections();
      server.close(resolve);
    }),
  };
}
