// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Two moments beside each other: what is new, what is gone, what changed.

import { Choice, Empty, Field, Problem, Table, TimeSlider, useAnswer, useMinute, type Column, type Url } from "./common.tsx";
import * as fmt from "./format.ts";
import { format as formatState, levels, query, windows } from "./state.ts";
import type { Diff, Edge } from "./types.ts";

/** shortName makes a name of an id: what is after the kind. */
export function shortName(id: string): string {
  return id.replace(/^[a-z]+:/, "");
}

const defaultWindow = "5m";

export function CompareView({ url }: { url: Url }) {
  const { params } = url.state;
  const now = useMinute() * 60;
  const from = params.from ?? String(now - 3600);
  const to = params.to ?? String(now);
  const window = params.window ?? defaultWindow;
  const path = `api/topology/diff${query({
    from, to, window, level: params.level, namespace: params.namespace, node: params.node, direction: params.direction, q: params.q,
  })}`;
  const { data, failure, loading } = useAnswer<Diff>(path, 60_000);
  const set = (back: number) => url.set({ from: String(now - back), to: "" });
  const seconds = fmt.durationSeconds(window);
  return (
    <>
      <div class="filters" role="search" aria-label="Filters of the comparison">
        <Choice url={url} name="level" label="Level" values={levels} none="default" />
        <Choice url={url} name="window" label="Window" values={windows} none={`${defaultWindow} (default)`} />
        <Field url={url} name="namespace" label="Namespace" />
        <Field url={url} name="node" label="Node" />
        <Field url={url} name="q" label="Name or address" width="wide" />
        <span class="presets">
          Now against: {([["15 min", 900], ["1 h", 3600], ["6 h", 6 * 3600], ["1 day", 86_340]] as const).map(([label, s]) => <button key={s} type="button" onClick={() => set(s)}>{label} ago</button>)}
        </span>
      </div>
      <TimeSlider url={{ ...url, state: { ...url.state, params: { ...params, from } } }} name="from" label="Before" live="Now" />
      <TimeSlider url={url} name="to" label="After" live="Now" />
      <Problem failure={failure} reset={() => url.set({ namespace: "", node: "", q: "", level: "", window: "", direction: "" })} />
      {!data && loading && <Empty title="Reading …" />}
      {data && (
        <>
          <p class="summary" aria-live="polite">
            <span class="tag good">{fmt.count(data.new.length)} new</span> <span class="tag bad">{fmt.count(data.gone.length)} gone</span> <span class="tag">{fmt.count(data.changed.length)} changed</span>
            {" "}between the {window} before {fmt.moment(data.from.to)} and the {window} before {fmt.moment(data.to.to)}
          </p>
          {data.new.length + data.gone.length + data.changed.length === 0 && (
            <Empty title="Nothing differs."><p>The same vertices talked to each other, about as much. Choose moments further apart, or a longer window.</p></Empty>
          )}
          <Part title="New" edges={data.new} seconds={seconds} at={params.to} window={params.window} level={params.level} />
          <Part title="Gone" edges={data.gone} seconds={seconds} at={from} window={params.window} level={params.level} />
          <Changed changed={data.changed} seconds={seconds} />
        </>
      )}
    </>
  );
}

function Part({ title, edges, seconds, at, window, level }: { title: string; edges: Edge[]; seconds: number; at: string | undefined; window: string | undefined; level: string | undefined }) {
  if (edges.length === 0) return null;
  const link = (e: Edge) => {
    const params = Object.fromEntries(Object.entries({ at, window, level, sel: e.id }).filter(([, v]) => v));
    return formatState({ view: "map", params });
  };
  const columns: Column<Edge>[] = [
    { key: "source", title: "From", cell: (e) => <a href={link(e)}>{shortName(e.source)}</a> },
    { key: "target", title: "To", cell: (e) => shortName(e.target) },
    { key: "direction", title: "Direction", cell: (e) => e.direction ?? "–" },
    { key: "bytes", title: "Rate", number: true, cell: (e) => fmt.byteRate(e.total.bytes / seconds) },
    { key: "drops", title: "Drops", number: true, cell: (e) => fmt.count(e.total.drops) },
  ];
  return (
    <section>
      <h2>{title}</h2>
      <Table caption={`${title} edges`} columns={columns} rows={[...edges].sort((a, b) => b.total.bytes - a.total.bytes)} rowKey={(e) => e.id} />
    </section>
  );
}

function Changed({ changed, seconds }: { changed: Diff["changed"]; seconds: number }) {
  if (changed.length === 0) return null;
  const far = (r: number) => Math.abs(Math.log(Math.max(r, 1e-9)));
  const columns: Column<Diff["changed"][number]>[] = [
    { key: "source", title: "From", cell: (c) => shortName(c.edge.source) },
    { key: "target", title: "To", cell: (c) => shortName(c.edge.target) },
    { key: "before", title: "Before", number: true, cell: (c) => fmt.byteRate(c.edge.total.bytes / seconds) },
    { key: "after", title: "After", number: true, cell: (c) => fmt.byteRate(c.after.total.bytes / seconds) },
    { key: "ratio", title: "Change", number: true, cell: (c) => fmt.ratio(c.bytes_ratio) },
    { key: "rtt", title: "Round trip", number: true, cell: (c) => `${fmt.seconds(c.edge.total.rtt_seconds)} → ${fmt.seconds(c.after.total.rtt_seconds)}` },
    { key: "retransmits", title: "Retransmits", number: true, cell: (c) => `${fmt.count(c.edge.total.retransmits)} → ${fmt.count(c.after.total.retransmits)}` },
    { key: "drops", title: "Drops", number: true, cell: (c) => `${fmt.count(c.edge.total.drops)} → ${fmt.count(c.after.total.drops)}` },
  ];
  return (
    <section>
      <h2>Changed</h2>
      <Table caption="Changed edges" columns={columns} rows={[...changed].sort((a, b) => far(b.bytes_ratio) - far(a.bytes_ratio))} rowKey={(c) => c.edge.id} />
    </section>
  );
}
