// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Nodes, what flannel says of them, and what they send each other.

import { Choice, Empty, Problem, Table, useAnswer, type Column, type Url } from "./common.tsx";
import * as fmt from "./format.ts";
import { format as formatState, query, windows } from "./state.ts";
import type { Cluster, Flannel, FlannelNode, Stats } from "./types.ts";

/** usual is the value that most have, where there are two different ones at least. */
export function usual<T>(values: (T | undefined)[]): T | undefined {
  const counts = new Map<T, number>();
  for (const v of values) if (v !== undefined) counts.set(v, (counts.get(v) ?? 0) + 1);
  if (counts.size < 2) return undefined;
  return [...counts].sort((a, b) => b[1] - a[1])[0]![0];
}

type Row = FlannelNode & { zone?: string | undefined; ready?: boolean | undefined; addresses?: string[] | undefined; known: boolean };

function rowsOf(cluster: Cluster | undefined, flannel: Flannel | undefined): Row[] {
  const rows = new Map<string, Row>();
  for (const n of cluster?.nodes ?? []) rows.set(n.name, { ...n, known: false });
  for (const f of flannel?.nodes ?? []) rows.set(f.name, { ...rows.get(f.name), ...f, known: true });
  return [...rows.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

export function NodesView({ url }: { url: Url }) {
  const window = url.state.params.window ?? "5m";
  const cluster = useAnswer<Cluster>("api/cluster");
  const flannel = useAnswer<Flannel>("api/flannel");
  const stats = useAnswer<Stats>(`api/stats${query({ window })}`);
  const rows = rowsOf(cluster.data, flannel.data);
  const differences = flannel.data?.differences ?? [];
  const accused = new Set(differences.map((d) => d.node));
  const most = { backend: usual(rows.map((r) => r.backend)), vni: usual(rows.map((r) => r.vni)) };
  const odd = (value: string | number | undefined, normal: string | number | undefined) =>
    normal !== undefined && value !== undefined && value !== normal
      ? <strong class="bad">{value} <span class="tag bad">differs</span></strong>
      : <>{value ?? "–"}</>;
  const columns: Column<Row>[] = [
    { key: "name", title: "Node", cell: (r) => <a href={formatState({ view: "map", params: { node: r.name } })}>{r.name}</a> },
    { key: "ready", title: "State", cell: (r) => r.ready === false ? <span class="tag bad">not ready</span> : accused.has(r.name) ? <span class="tag bad">difference</span> : r.ready ? "ready" : "–" },
    { key: "zone", title: "Zone", cell: (r) => r.zone ?? "–" },
    { key: "public_ip", title: "Public address", cell: (r) => <code>{[r.public_ip ?? r.addresses?.[0], r.v6?.public_ip].filter(Boolean).join(", ") || "–"}</code> },
    { key: "pod_cidrs", title: "Pod networks", cell: (r) => <code>{r.pod_cidrs?.join(", ") || "–"}</code> },
    { key: "backend", title: "Backend", cell: (r) => odd(r.backend, most.backend) },
    { key: "vni", title: "VNI", number: true, cell: (r) => odd(r.vni, most.vni) },
    { key: "vtep_mac", title: "VTEP MAC address", cell: (r) => <code>{[r.vtep_mac, r.v6?.vtep_mac].filter(Boolean).join(", ") || "–"}</code> },
  ];
  const counts = cluster.data?.counts ?? {};
  return (
    <>
      <Problem failure={cluster.failure ?? flannel.failure ?? stats.failure} />
      {cluster.data && (
        <p class="summary">
          {["nodes", "namespaces", "pods", "services"].map((k) => counts[k] === undefined ? null : <span class="tag" key={k}>{fmt.count(counts[k])} {k}</span>)}
          {flannel.data?.vxlan_port ? <span class="tag">VXLAN on UDP {flannel.data.vxlan_port}</span> : null}
          {cluster.data.inventory === "incomplete" && <span class="tag bad">the inventory is not complete yet</span>}
        </p>
      )}
      {cluster.data && rows.length === 0 ? (
        <Empty title="No nodes are known.">
          <p>Without Kubernetes that is as it should be: the map shows addresses. With it, name the extension <code>k8s_inventory</code> in the topology extension's option <code>inventory</code>.</p>
        </Empty>
      ) : (
        <section>
          <h2>Nodes</h2>
          <Table caption="Nodes and their part of flannel's network" columns={columns} rows={rows} rowKey={(r) => r.name} />
        </section>
      )}
      {differences.length > 0 && (
        <section>
          <h2>Differences between the annotations and the host</h2>
          <Table
            caption="Differences" rows={differences} rowKey={(_, i) => String(i)}
            columns={[
              { key: "kind", title: "What", cell: (d) => <strong class="bad">{d.kind}</strong> },
              { key: "node", title: "Node", cell: (d) => d.node || "–" },
              { key: "subject", title: "Of", cell: (d) => <code>{d.subject || "–"}</code> },
              { key: "annotation", title: "Annotations say", cell: (d) => <code>{d.annotation || "nothing"}</code> },
              { key: "host", title: "The host shows", cell: (d) => <code>{d.host || "nothing"}</code> },
              { key: "since", title: "Since", cell: (d) => fmt.ago(d.since, Date.now()) },
            ]}
          />
        </section>
      )}
      {flannel.data && flannel.data.nodes?.length && differences.length === 0 ? <p class="note">Annotations and host agree.</p> : null}
      <Matrix stats={stats.data} url={url} seconds={fmt.durationSeconds(window)} />
    </>
  );
}

// Beyond this many a matrix is a carpet: the busiest nodes are shown.
const mostNodes = 24;

function Matrix({ stats, url, seconds }: { stats: Stats | undefined; url: Url; seconds: number }) {
  const cells = stats?.node_matrix ?? [];
  const traffic = new Map<string, number>();
  for (const c of cells) for (const n of [c.source, c.target]) traffic.set(n, (traffic.get(n) ?? 0) + c.bytes);
  const nodes = [...traffic].sort((a, b) => b[1] - a[1]).slice(0, mostNodes).map(([n]) => n).sort();
  const by = new Map(cells.map((c) => [JSON.stringify([c.source, c.target]), c]));
  const most = Math.max(1, ...cells.map((c) => c.bytes));
  return (
    <section>
      <div class="section-head">
        <h2>From node to node</h2>
        <Choice url={url} name="window" label="Window" values={windows} none="5m (default)" />
      </div>
      {stats && nodes.length === 0 && <Empty title="No traffic between nodes in this window." />}
      {nodes.length > 0 && (
        <div class="table-box" role="region" aria-label="Traffic from node to node" tabIndex={0}>
          <table class="matrix">
            <caption class="unseen">Rows send, columns receive</caption>
            <thead><tr><th scope="col">from \ to</th>{nodes.map((n) => <th key={n} scope="col" class="number">{n}</th>)}</tr></thead>
            <tbody>
              {nodes.map((s) => (
                <tr key={s}>
                  <th scope="row">{s}</th>
                  {nodes.map((t) => {
                    const c = by.get(JSON.stringify([s, t]));
                    return (
                      <td key={t} class="number">
                        {c ? <><span class={c.drops ? "bad" : ""}>{fmt.byteRate(c.bytes / seconds)}</span><span class="cell-bar" style={{ width: `${(100 * c.bytes) / most}%` }} aria-hidden="true" />{c.drops ? <span class="soft"> {fmt.count(c.drops)} drops</span> : null}</> : <span class="soft">–</span>}
                      </td>
                    );
                  })}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {traffic.size > mostNodes && <p class="note">The {mostNodes} busiest of {traffic.size} nodes.</p>}
    </section>
  );
}
