// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// The newest flow records, filtered by the URL.

import { announce, Choice, Empty, Field, Problem, Table, useAnswer, type Column, type Url } from "./common.tsx";
import * as fmt from "./format.ts";
import { change, directions, format as formatState, query, type Params } from "./state.ts";
import type { Cluster, End, Flow, Page } from "./types.ts";

const filterNames = ["namespace", "node", "direction", "q", "protocol", "port", "address"] as const;

/** filterOf gives the filters that show a flow's conversation, and little else. */
export function filterOf(f: Flow): Params {
  // The lower port is the server's, nearly always; the other one is new each time.
  const ports = [f.source.port, f.destination.port].filter((p): p is number => p !== undefined);
  return {
    address: f.destination.address,
    ...(f.transport ? { protocol: f.transport } : {}),
    ...(ports.length ? { port: String(Math.min(...ports)) } : {}),
  };
}

function endName(e: End): string | undefined {
  if (e.pod) return e.pod;
  if (typeof e.workload === "string") return e.workload;
  return e.workload?.name ?? e.node;
}

function EndCell({ end, url }: { end: End; url: Url }) {
  const name = endName(end);
  return (
    <>
      {name && <span class="name">{name}</span>} {end.namespace && <span class="soft">{end.namespace} </span>}
      <button type="button" class="link mono" title="Only this address" onClick={() => url.set({ address: end.address })}>{fmt.address(end.address, end.port)}</button>
    </>
  );
}

export function FlowsView({ url, cluster }: { url: Url; cluster: Cluster | undefined }) {
  const { params } = url.state;
  const path = `api/flows${query({
    ...Object.fromEntries(filterNames.map((n) => [n, params[n]])), limit: params.limit ?? "100", cursor: params.cursor,
  })}`;
  // Further pages are of the past and do not change.
  const { data, failure, loading } = useAnswer<Page<Flow>>(path, params.cursor ? 0 : 5000);
  const reset = () => url.set(Object.fromEntries(filterNames.map((n) => [n, ""])));
  const filtered = filterNames.some((n) => params[n]);
  const link = (f: Flow) => formatState(change(url.state, { ...filterOf(f), q: "" }));
  const copy = async (f: Flow) => {
    const text = new URL(link(f), location.href).href;
    try {
      await navigator.clipboard.writeText(text);
      announce("Link copied");
    } catch {
      announce("The browser does not let the page copy: copy the link “Filter” instead");
    }
  };
  const columns: Column<Flow>[] = [
    { key: "time", title: "Time", sort: (f) => f.time, cell: (f) => <time dateTime={f.time}>{fmt.clock(f.time)}</time> },
    { key: "source", title: "Source", sort: (f) => endName(f.source) ?? f.source.address, cell: (f) => <EndCell end={f.source} url={url} /> },
    { key: "destination", title: "Destination", sort: (f) => endName(f.destination) ?? f.destination.address, cell: (f) => <EndCell end={f.destination} url={url} /> },
    { key: "transport", title: "Protocol", sort: (f) => f.transport ?? "", cell: (f) => f.transport ?? "–" },
    { key: "direction", title: "Direction", sort: (f) => f.direction ?? "", cell: (f) => f.direction ?? "–" },
    { key: "bytes", title: "Bytes", number: true, sort: (f) => f.bytes, cell: (f) => fmt.bytes(f.bytes) },
    { key: "packets", title: "Packets", number: true, sort: (f) => f.packets, cell: (f) => fmt.count(f.packets) },
    { key: "rtt", title: "Round trip", number: true, sort: (f) => f.rtt_seconds ?? -1, cell: (f) => fmt.seconds(f.rtt_seconds) },
    { key: "retransmits", title: "Retrans.", number: true, sort: (f) => f.retransmits ?? 0, cell: (f) => fmt.count(f.retransmits ?? 0) },
    { key: "drops", title: "Drops", number: true, sort: (f) => f.drops ?? 0, cell: (f) => <span class={f.drops ? "bad" : ""}>{fmt.count(f.drops ?? 0)}</span> },
    { key: "where", title: "Where", cell: (f) => <>{f.interface ?? "–"}{f.tunnel && <span class="soft"> {f.tunnel.type} {f.tunnel.id}</span>}{f.process?.name && <span class="soft"> {f.process.name}</span>}</> },
    { key: "actions", title: "As filter", cell: (f) => <span class="row-actions"><a href={link(f)}>Filter</a> <button type="button" class="link" onClick={() => copy(f)}>Copy link</button></span> },
  ];
  return (
    <>
      <div class="filters" role="search" aria-label="Filters of the flows">
        <Field url={url} name="namespace" label="Namespace" list={cluster?.namespaces?.map((n) => n.name)} />
        <Field url={url} name="node" label="Node" list={cluster?.nodes?.map((n) => n.name)} />
        <Choice url={url} name="direction" label="Direction" values={directions} none="any" />
        <Choice url={url} name="protocol" label="Protocol" values={["tcp", "udp", "sctp", "icmp", "ipv6-icmp"]} none="any" />
        <Field url={url} name="port" label="Port" width="narrow" />
        <Field url={url} name="address" label="Address" />
        <Field url={url} name="q" label="Name or address" width="wide" />
        <Choice url={url} name="limit" label="A page" values={["50", "100", "250", "500", "1000"]} none="100 (default)" />
        {filtered && <button type="button" onClick={reset}>Clear filters</button>}
      </div>
      <Problem failure={failure} reset={reset} />
      {!data && loading && <Empty title="Reading …" />}
      {data && data.items.length === 0 && (filtered || params.cursor
        ? <Empty title="No flow matches the filters."><button type="button" onClick={reset}>Clear filters</button></Empty>
        : <Empty title="No flow has been reported yet."><p>Records come every few seconds once there is traffic. If none come, look at “Health”.</p></Empty>)}
      {data && data.items.length > 0 && (
        <>
          <Table caption="Flows, newest first" columns={columns} rows={data.items} rowKey={(f, i) => `${f.time} ${f.community_id} ${i}`} sort={params.sort} onSort={(sort) => url.set({ sort, cursor: params.cursor! }, "replace")} />
          <nav class="pager" aria-label="Pages of flows">
            <span class="status">{fmt.count(data.items.length)} of {data.total === undefined ? "–" : fmt.count(data.total)}{params.sort ? "; sorted within the page" : ""}</span>
            <button type="button" disabled={!params.cursor} onClick={() => url.set({ cursor: "" })}>Newest</button>
            <button type="button" disabled={!data.next_cursor} onClick={() => url.set({ cursor: data.next_cursor! })}>Older</button>
          </nav>
        </>
      )}
    </>
  );
}
