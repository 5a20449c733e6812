// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// The live map, its details, and the same as a table.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Failure, get } from "./api.ts";
import { announce, Choice, Empty, Field, Problem, Stat, Table, TimeSlider, type Column, type Url } from "./common.tsx";
import { retransmitWorth, trouble } from "./edges.ts";
import * as fmt from "./format.ts";
import { GraphView, hues, palettes } from "./graph.ts";
import { groupOf } from "./layout.ts";
import { follow, type How } from "./live.ts";
import { directions, format as formatState, levels, query, visit, windows } from "./state.ts";
import type { Cluster, Counters, Edge, Topology, Vertex } from "./types.ts";

const defaultWindow = "5m";
// So many are drawn smoothly; the biggest are asked for first.
const mostEdges = "5000";

type Seen = { topology?: Topology; how?: How | "past"; failure?: Failure | undefined };

function useTopology(url: Url, paused: boolean): Seen {
  const [seen, setSeen] = useState<Seen>({});
  const p = url.state.params;
  const q = query({
    level: p.level, window: p.window ?? defaultWindow, namespace: p.namespace, node: p.node,
    direction: p.direction, q: p.q, focus: p.focus, depth: p.focus ? "1" : undefined, limit: mostEdges,
  });
  useEffect(() => {
    if (paused && seen.topology) return;
    if (!p.at) {
      return follow(q, {
        topology: (topology, how) => setSeen({ topology, how }),
        failure: (failure) => setSeen((s) => ({ ...(failure.status === 400 ? {} : s), failure })),
      });
    }
    const abort = new AbortController();
    get<Topology>(`api/topology${q}&mappings=false&at=${p.at}`, abort.signal).then(
      (topology) => setSeen({ topology, how: "past" }),
      (err) => {
        if (!abort.signal.aborted) setSeen({ failure: err instanceof Failure ? err : new Failure(0, String(err)) });
      },
    );
    return () => abort.abort();
  }, [q, p.at, paused]);
  return seen;
}

export function MapView({ url, dark, still, cluster }: { url: Url; dark: boolean; still: boolean; cluster: Cluster | undefined }) {
  const [paused, setPaused] = useState(false);
  const { topology, how, failure } = useTopology(url, paused);
  const { params } = url.state;
  const seconds = topology ? fmt.spanSeconds(topology.window.from, topology.window.to, fmt.durationSeconds(params.window ?? defaultWindow)) : 1;
  const names = useMemo(() => new Map(topology?.nodes.map((n) => [n.id, n])), [topology]);
  const edge = topology?.edges.find((e) => e.id === params.sel);
  const vertex = params.sel ? names.get(params.sel) : undefined;
  const total = topology?.edges.reduce((sum, e) => sum + e.total.bytes, 0) ?? 0;
  const filtered = Boolean(params.namespace || params.node || params.direction || params.q || params.focus);
  const reset = () => url.set({ namespace: "", node: "", direction: "", q: "", focus: "", level: "", window: "" });
  const status = topology
    ? `${fmt.count(topology.nodes.length)} vertices, ${fmt.count(topology.edges.length)} edges, ${fmt.byteRate(total / seconds)}`
    : "Reading …";

  // At most one announcement in ten seconds: the numbers change all the time.
  useEffect(() => {
    if (!topology) return;
    const timer = window.setTimeout(() => announce(status), 1000);
    return () => window.clearTimeout(timer);
  }, [topology?.nodes.length, topology?.edges.length, params.at]);

  return (
    <>
      <div class="filters" role="search" aria-label="Filters of the map">
        <Choice url={url} name="level" label="Level" values={levels} none={params.level || !topology ? "default" : `${topology.level} (default)`} />
        <Choice url={url} name="window" label="Window" values={windows} none={`${defaultWindow} (default)`} />
        <Field url={url} name="namespace" label="Namespace" list={cluster?.namespaces?.map((n) => n.name)} />
        <Field url={url} name="node" label="Node" list={cluster?.nodes?.map((n) => n.name)} />
        <Choice url={url} name="direction" label="Direction" values={directions} none="any" />
        <Field url={url} name="q" label="Name or address" width="wide" />
        {params.focus && <button type="button" onClick={() => url.set({ focus: "" })}>Show all again</button>}
        <span class="status" data-testid="status">{status}</span>
        <span class={`how ${how ?? ""}`}>{how === "stream" ? "live" : how === "polling" ? "polling" : how === "past" ? "past" : "…"}</span>
        <button type="button" aria-pressed={paused} disabled={Boolean(params.at)} onClick={() => setPaused(!paused)}>{paused ? "Go on" : "Pause"}</button>
      </div>
      <Problem failure={failure} reset={reset} />
      <div class="map">
        <div class="map-main">
          {topology && topology.nodes.length === 0 ? (
            filtered ? (
              <Empty title="Nothing matches the filters."><button type="button" onClick={reset}>Clear filters</button></Empty>
            ) : params.at ? (
              <Empty title="Nothing is kept of that time."><p>The history begins when NetProbe starts, and reaches back 24 hours.</p></Empty>
            ) : (
              <Empty title="No traffic has been reported yet.">
                <p>Flows come every few seconds once there is traffic. If none come: the exporter <code>topology</code> has to be in a logs pipeline with the receiver <code>ebpfnet</code>. The view “Health” says how many records came.</p>
              </Empty>
            )
          ) : (
            <Graph topology={topology} selected={params.sel} dark={dark} still={still} select={(sel) => url.set({ sel })} label={status} />
          )}
        </div>
        <aside class="details" aria-label="Details">
          {edge ? <EdgeDetails edge={edge} names={names} seconds={seconds} url={url} />
            : vertex ? <VertexDetails vertex={vertex} edges={topology!.edges} names={names} seconds={seconds} url={url} />
            : params.sel ? <Empty title="What is selected has no traffic in this window."><button type="button" onClick={() => url.set({ sel: "" })}>Clear selection</button></Empty>
            : <Overview topology={topology} seconds={seconds} dark={dark} />}
        </aside>
      </div>
      <TimeSlider url={url} name="at" label="Time" live="Live" />
      {topology && topology.edges.length > 0 && <EdgeTable topology={topology} names={names} seconds={seconds} url={url} />}
    </>
  );
}

function Graph({ topology, selected, dark, still, select, label }: {
  topology: Topology | undefined; selected: string | undefined; dark: boolean; still: boolean;
  select(id: string | undefined): void; label: string;
}) {
  const box = useRef<HTMLDivElement>(null);
  const view = useRef<GraphView | undefined>(undefined);
  const [broken, setBroken] = useState(false);
  const look = { palette: palettes[dark ? "dark" : "light"], selected, still };
  const onSelect = useRef(select);
  onSelect.current = select;
  useEffect(() => {
    try {
      view.current = new GraphView(box.current!, look, (id) => onSelect.current(id));
      // For the tests, which cannot know where on the screen something is drawn.
      (window as unknown as { netprobeGraph?: GraphView }).netprobeGraph = view.current;
    } catch {
      setBroken(true);
    }
    return () => view.current?.close();
  }, []);
  useEffect(() => {
    if (topology) view.current?.show(topology);
  }, [topology, broken]);
  useEffect(() => view.current?.restyle(look), [selected, dark, still]);
  return (
    <>
      <div class="graph" role="img" aria-label={`Service map: ${label}. The table below has the same.`} ref={box} />
      {broken && <Empty title="This browser draws no map."><p>The map needs WebGL 2. The table below has all of it.</p></Empty>}
      {!broken && (
        <div class="graph-buttons">
          <button type="button" aria-label="Zoom in" onClick={() => view.current?.zoom(1.5)}>+</button>
          <button type="button" aria-label="Zoom out" onClick={() => view.current?.zoom(1 / 1.5)}>−</button>
          <button type="button" onClick={() => view.current?.fit()}>Fit</button>
        </div>
      )}
    </>
  );
}

function Swatch({ color, line }: { color: string; line?: boolean }) {
  return <span class={line ? "swatch line" : "swatch"} style={{ background: color }} aria-hidden="true" />;
}

function Overview({ topology, seconds, dark }: { topology: Topology | undefined; seconds: number; dark: boolean }) {
  const palette = palettes[dark ? "dark" : "light"];
  if (!topology) return <Empty title="Reading …" />;
  const sum = (f: (c: Counters) => number) => topology.edges.reduce((s, e) => s + f(e.total), 0);
  const groups = hues([...new Set(topology.nodes.map(groupOf))]);
  const folded = topology.folded;
  return (
    <>
      <h2>All that is shown</h2>
      <dl class="stats">
        <Stat label="Traffic" value={fmt.byteRate(sum((c) => c.bytes) / seconds)} />
        <Stat label="Packets" value={fmt.packetRate(sum((c) => c.packets) / seconds)} />
        <Stat label="Conversations" value={fmt.count(sum((c) => c.flows))} />
        <Stat label="Retransmits" value={fmt.count(sum((c) => c.retransmits))} bad={sum((c) => c.retransmits) > retransmitWorth * sum((c) => c.packets)} />
        <Stat label="Resets" value={fmt.count(sum((c) => c.resets))} />
        <Stat label="Drops" value={fmt.count(sum((c) => c.drops))} bad={sum((c) => c.drops) > 0} />
      </dl>
      <h3>Legend</h3>
      <ul class="legend">
        <li><Swatch line color={palette.edge} /> traffic: the wider, the more (not in proportion)</li>
        <li><Swatch line color={palette.retransmit} /> retransmits: {retransmitWorth * 100} % of packets or more</li>
        <li><Swatch line color={palette.drop} /> drops by the kernel</li>
        {[...groups].slice(0, 12).map(([name, hue]) => <li key={name}><Swatch color={palette.groups[hue % palette.groups.length]!} /> <span class="name">{name}</span></li>)}
        {groups.size > 12 && <li>and {groups.size - 12} more, colours used again</li>}
      </ul>
      {folded && folded.vertices + folded.edges > 0 && (
        <p class="note">{fmt.count(folded.vertices)} vertices and {fmt.count(folded.edges)} edges are folded into “other”: the extension's budget is used up.</p>
      )}
      {topology.left_out && topology.left_out.edges > 0 && (
        <p class="note">{fmt.count(topology.left_out.edges)} smaller edges are not shown: filter, or choose a coarser level, to see them.</p>
      )}
      <p class="note">Select a vertex or an edge, in the map or the table, for its numbers.</p>
    </>
  );
}

const counterRows: [string, (c: Counters, s: number) => string, ((c: Counters) => boolean)?][] = [
  ["Rate", (c, s) => fmt.byteRate(c.bytes / s)],
  ["Bytes", (c) => fmt.bytes(c.bytes)],
  ["Packets", (c) => fmt.count(c.packets)],
  ["Packet rate", (c, s) => fmt.packetRate(c.packets / s)],
  ["Conversations", (c) => fmt.count(c.flows)],
  ["Round trip", (c) => fmt.seconds(c.rtt_seconds)],
  ["Retransmits", (c) => fmt.count(c.retransmits)],
  ["of packets", (c) => fmt.share(c.retransmits, c.packets), (c) => c.packets > 0 && c.retransmits / c.packets >= retransmitWorth],
  ["Resets", (c) => fmt.count(c.resets)],
  ["Drops", (c) => fmt.count(c.drops), (c) => c.drops > 0],
];

function CounterTable({ caption, columns, seconds }: { caption: string; columns: [string, Counters | undefined][]; seconds: number }) {
  return (
    <table class="counters">
      <caption class="unseen">{caption}</caption>
      <thead><tr><td />{columns.map(([name]) => <th key={name} scope="col" class="number">{name}</th>)}</tr></thead>
      <tbody>
        {counterRows.map(([label, text, bad]) => (
          <tr key={label}>
            <th scope="row">{label}</th>
            {columns.map(([name, c]) => <td key={name} class={`number ${c && bad?.(c) ? "bad" : ""}`}>{c ? text(c, seconds) : "–"}</td>)}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function nameOf(names: Map<string, Vertex>, id: string | undefined): string {
  if (!id) return "";
  return names.get(id)?.name ?? id.replace(/^[a-z]+:/, "");
}

function EdgeDetails({ edge, names, seconds, url }: { edge: Edge; names: Map<string, Vertex>; seconds: number; url: Url }) {
  const flows = visit(url.state, "flows");
  const address = names.get(edge.target)?.addresses?.[0];
  const port = edge.protocols?.[0]?.port;
  flows.params = { ...flows.params, q: undefined as never, ...(address ? { address } : {}), ...(port ? { port: String(port) } : {}) };
  return (
    <>
      <div class="details-head">
        <h2>
          <button type="button" class="link" onClick={() => url.set({ sel: edge.source })}>{nameOf(names, edge.source)}</button>
          <span aria-label="to"> → </span>
          <button type="button" class="link" onClick={() => url.set({ sel: edge.target })}>{nameOf(names, edge.target)}</button>
        </h2>
        <button type="button" aria-label="Close details" onClick={() => url.set({ sel: "" })}>×</button>
      </div>
      <p class="tags">
        {edge.direction && <span class="tag">{edge.direction}</span>}
        {edge.service && <span class="tag">through {nameOf(names, edge.service)}</span>}
        {edge.vnis?.map((v) => <span class="tag" key={v}>VNI {v}</span>)}
        {trouble(edge) && <span class="tag bad">{trouble(edge)}</span>}
      </p>
      <CounterTable caption="Numbers of the edge" seconds={seconds} columns={[["to", edge.forward], ["back", edge.reverse], ["both", edge.total]]} />
      {edge.protocols && edge.protocols.length > 0 && (
        <>
          <h3>Protocols</h3>
          <ul class="bars">
            {edge.protocols.map((p) => (
              <li key={`${p.transport}/${p.port}`}>
                <span>{p.transport}{p.port === undefined ? "" : ` ${p.port}`}</span>
                <meter min={0} max={Math.max(1, edge.total.bytes)} value={p.bytes} aria-label={`share of ${p.transport} ${p.port ?? ""}`} />
                <span class="number">{fmt.bytes(p.bytes)}</span>
              </li>
            ))}
          </ul>
        </>
      )}
      <Seen first={edge.first_seen} last={edge.last_seen} />
      <p><a href={formatState(flows)}>Flows of this edge</a></p>
    </>
  );
}

function Seen({ first, last }: { first: string | undefined; last: string | undefined }) {
  return <p class="note">First seen {fmt.moment(first)}, last {fmt.ago(last, Date.now())}.</p>;
}

function VertexDetails({ vertex, edges, names, seconds, url }: { vertex: Vertex; edges: Edge[]; names: Map<string, Vertex>; seconds: number; url: Url }) {
  const own = edges.filter((e) => e.source === vertex.id || e.target === vertex.id).sort((a, b) => b.total.bytes - a.total.bytes);
  const labels = Object.entries(vertex.labels ?? {});
  return (
    <>
      <div class="details-head">
        <h2>{vertex.name}</h2>
        <button type="button" aria-label="Close details" onClick={() => url.set({ sel: "" })}>×</button>
      </div>
      <p class="tags">
        <span class="tag">{vertex.kind}</span>
        {vertex.namespace && <span class="tag">{vertex.namespace}</span>}
        {vertex.node && <span class="tag">on {vertex.node}</span>}
        {vertex.zone && <span class="tag">{vertex.zone}</span>}
        {vertex.folded ? <span class="tag">{fmt.count(vertex.folded)} folded</span> : null}
      </p>
      <CounterTable caption="Numbers of the vertex" seconds={seconds} columns={[["in", vertex.in], ["out", vertex.out]]} />
      <p class="actions">
        <button type="button" onClick={() => url.set({ focus: vertex.id })}>Show only what it talks to</button>
      </p>
      {vertex.addresses && vertex.addresses.length > 0 && <p class="note">Addresses: <code>{vertex.addresses.slice(0, 8).join(", ")}</code>{vertex.addresses.length > 8 ? ` and ${vertex.addresses.length - 8} more` : ""}</p>}
      {labels.length > 0 && (
        <details>
          <summary>{labels.length} labels</summary>
          <ul class="labels">{labels.map(([k, v]) => <li key={k}><code>{k}={v}</code></li>)}</ul>
        </details>
      )}
      <h3>Talks to</h3>
      <ul class="bars">
        {own.slice(0, 12).map((e) => {
          const out = e.source === vertex.id;
          return (
            <li key={e.id}>
              <button type="button" class="link" onClick={() => url.set({ sel: e.id })}><span aria-label={out ? "to" : "from"}>{out ? "→" : "←"}</span> {nameOf(names, out ? e.target : e.source)}</button>
              <span class="number">{fmt.byteRate(e.total.bytes / seconds)}</span>
            </li>
          );
        })}
      </ul>
      <Seen first={vertex.first_seen} last={vertex.last_seen} />
    </>
  );
}

function EdgeTable({ topology, names, seconds, url }: { topology: Topology; names: Map<string, Vertex>; seconds: number; url: Url }) {
  const end = (id: string) => {
    const v = names.get(id);
    return <>{nameOf(names, id)}{v?.namespace && <span class="soft"> {v.namespace}</span>}</>;
  };
  const columns: Column<Edge>[] = [
    {
      key: "source", title: "From", sort: (e) => nameOf(names, e.source),
      cell: (e) => <button type="button" class="link" aria-pressed={e.id === url.state.params.sel} onClick={() => url.set({ sel: e.id })}>{end(e.source)}</button>,
    },
    { key: "target", title: "To", sort: (e) => nameOf(names, e.target), cell: (e) => end(e.target) },
    { key: "protocol", title: "Protocol", cell: (e) => e.protocols?.[0] ? `${e.protocols[0].transport}${e.protocols[0].port === undefined ? "" : ` ${e.protocols[0].port}`}` : "–" },
    { key: "direction", title: "Direction", sort: (e) => e.direction ?? "", cell: (e) => e.direction ?? "–" },
    { key: "bytes", title: "Rate", number: true, sort: (e) => e.total.bytes, cell: (e) => fmt.byteRate(e.total.bytes / seconds) },
    { key: "packets", title: "Packets", number: true, sort: (e) => e.total.packets, cell: (e) => fmt.packetRate(e.total.packets / seconds) },
    { key: "flows", title: "Conv.", number: true, sort: (e) => e.total.flows, cell: (e) => fmt.count(e.total.flows) },
    { key: "rtt", title: "Round trip", number: true, sort: (e) => e.total.rtt_seconds ?? -1, cell: (e) => fmt.seconds(e.total.rtt_seconds) },
    { key: "retransmits", title: "Retrans.", number: true, sort: (e) => e.total.retransmits, cell: (e) => <span class={trouble(e) === "retransmits" ? "warn" : ""}>{fmt.count(e.total.retransmits)}</span> },
    { key: "drops", title: "Drops", number: true, sort: (e) => e.total.drops, cell: (e) => <span class={e.total.drops > 0 ? "bad" : ""}>{fmt.count(e.total.drops)}</span> },
  ];
  return (
    <section aria-labelledby="edges-title" id="edges">
      <h2 id="edges-title">Edges</h2>
      <Table
        caption="Edges of the map" columns={columns} rows={topology.edges} rowKey={(e) => e.id} selected={url.state.params.sel}
        sort={url.state.params.sort ?? "-bytes"} onSort={(sort) => url.set({ sort }, "replace")}
      />
    </section>
  );
}
