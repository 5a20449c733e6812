// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Interfaces with what they carried over time, and NetProbe's own health.

import { Choice, Empty, Problem, Sparkline, Stat, Table, useAnswer, type Column, type Url } from "./common.tsx";
import * as fmt from "./format.ts";
import { query, windows } from "./state.ts";
import type { Health, Interface, Page } from "./types.ts";

/** rates makes bytes per second of the bytes between points; the first has none before it. */
export function rates(series: NonNullable<Interface["series"]>, of: "rx_bytes" | "tx_bytes"): number[] {
  return series.slice(1).map((p, i) => {
    const s = (Date.parse(p.t) - Date.parse(series[i]!.t)) / 1000;
    return s > 0 ? p[of] / s : 0;
  });
}

export function InterfacesView({ url }: { url: Url }) {
  const window = url.state.params.window ?? "15m";
  const { data, failure, loading } = useAnswer<Page<Interface>>(`api/interfaces${query({ window })}`, 5000);
  const columns: Column<Interface>[] = [
    { key: "name", title: "Interface", sort: (i) => i.name, cell: (i) => i.name },
    { key: "node", title: "Node", sort: (i) => i.node ?? "", cell: (i) => i.node ?? "–" },
    { key: "series", title: "Received, sent over time", cell: (i) => i.series && i.series.length > 2 ? <Sparkline first={rates(i.series, "rx_bytes")} second={rates(i.series, "tx_bytes")} /> : <span class="soft">not enough points yet</span> },
    { key: "rx_now", title: "Receives", number: true, sort: (i) => rates(i.series ?? [], "rx_bytes").at(-1) ?? -1, cell: (i) => fmt.byteRate(rates(i.series ?? [], "rx_bytes").at(-1)) },
    { key: "tx_now", title: "Sends", number: true, sort: (i) => rates(i.series ?? [], "tx_bytes").at(-1) ?? -1, cell: (i) => fmt.byteRate(rates(i.series ?? [], "tx_bytes").at(-1)) },
    { key: "rx", title: "Received", number: true, sort: (i) => i.rx.bytes, cell: (i) => <>{fmt.bytes(i.rx.bytes)} <span class="soft">{fmt.count(i.rx.packets)} packets</span></> },
    { key: "tx", title: "Sent", number: true, sort: (i) => i.tx.bytes, cell: (i) => <>{fmt.bytes(i.tx.bytes)} <span class="soft">{fmt.count(i.tx.packets)} packets</span></> },
    { key: "utilization", title: "Of link speed", number: true, sort: (i) => i.utilization ?? -1, cell: (i) => i.utilization === undefined ? "–" : <span class={i.utilization > 0.8 ? "bad" : ""}>{fmt.share(i.utilization, 1)}</span> },
  ];
  return (
    <>
      <div class="filters" role="search" aria-label="Filters of the interfaces">
        <Choice url={url} name="window" label="Window" values={windows} none="15m (default)" />
        <span class="status"><span class="key first" aria-hidden="true" /> received <span class="key second" aria-hidden="true" /> sent</span>
      </div>
      <Problem failure={failure} />
      {!data && loading && <Empty title="Reading …" />}
      {data && data.items.length === 0 && (
        <Empty title="No interface metrics have come.">
          <p>The exporter <code>topology</code> has to be in a metrics pipeline with the receiver <code>ebpfnet</code> too, not only in a logs pipeline.</p>
        </Empty>
      )}
      {data && data.items.length > 0 && <Table caption="Interfaces" columns={columns} rows={data.items} rowKey={(i) => `${i.node} ${i.name}`} sort={url.state.params.sort ?? "-rx"} onSort={(sort) => url.set({ sort }, "replace")} />}
    </>
  );
}

/** closes says whether what was seen is what became of it. */
export function closes(ledger: NonNullable<Health["ledger"]>): { seen: number; other: number } {
  let seen = 0;
  let other = 0;
  for (const l of ledger) {
    if (l.outcome === "seen") seen += l.packets;
    else other += l.packets;
  }
  return { seen, other };
}

const words = (key: string) => key.replaceAll("_", " ");

/** figures makes label and value of numbers, those that have a "max_" with it. */
export function figures(numbers: Record<string, unknown> | undefined): { label: string; value: string; full: boolean }[] {
  const all = new Map(Object.entries(numbers ?? {}).filter((e): e is [string, number] => typeof e[1] === "number"));
  return [...all].filter(([k]) => !(k.startsWith("max_") && all.has(k.slice(4)))).map(([k, v]) => {
    const text = k.endsWith("bytes") ? fmt.bytes : fmt.count;
    const most = all.get(`max_${k}`);
    return { label: words(k), value: most ? `${text(v)} of ${text(most)}` : text(v), full: most !== undefined && most > 0 && v >= most };
  });
}

export function HealthView() {
  const { data, failure, loading } = useAnswer<Health>("api/health", 5000);
  const sum = data?.ledger ? closes(data.ledger) : undefined;
  return (
    <>
      <Problem failure={failure} />
      {!data && loading && <Empty title="Reading …" />}
      {data && (
        <>
          <section>
            <h2>NetProbe {data.version ?? ""}</h2>
            <dl class="stats">
              <Stat label="Started" value={fmt.moment(data.started)} />
              {data.ready !== undefined && <Stat label="Ready" value={data.ready ? "yes" : data.reason || "not yet"} bad={!data.ready} />}
              {figures(data.records).map((f) => <Stat key={f.label} label={`records ${f.label}`} value={f.value} bad={f.label === "invalid" && f.value !== "0"} />)}
            </dl>
          </section>
          <section>
            <h2>The graph</h2>
            <dl class="stats">
              {figures(data.graph).map((f) => <Stat key={f.label} label={f.label} value={f.value} bad={f.full} />)}
            </dl>
          </section>
          <section>
            <h2>The ledger</h2>
            {!data.ledger || data.ledger.length === 0 || !sum ? (
              <Empty title="The ledger has not been given to this page.">
                <p>It is in the collector's own metrics, <code>otelcol_receiver_ebpfnet_packets</code>. Scrape those into a metrics pipeline with the exporter <code>topology</code>, and they are here.</p>
              </Empty>
            ) : (
              <>
                <p class="summary">
                  {sum.seen === sum.other
                    ? <span class="tag good">closes: every packet seen is accounted for</span>
                    : <span class="tag">{fmt.count(Math.abs(sum.seen - sum.other))} packets {sum.seen > sum.other ? "are still on their way" : "more than seen: read between two scrapes"}</span>}
                </p>
                <Table
                  caption="What became of the packets" rows={data.ledger} rowKey={(_, i) => String(i)}
                  columns={[
                    { key: "outcome", title: "Outcome", cell: (l) => <span class={l.outcome === "lost" && l.packets > 0 ? "bad" : ""}>{words(l.outcome)}</span> },
                    { key: "cause", title: "Cause", cell: (l) => l.cause ? words(l.cause) : "–" },
                    { key: "packets", title: "Packets", number: true, cell: (l) => fmt.count(l.packets) },
                    { key: "share", title: "Of seen", number: true, cell: (l) => fmt.share(l.packets, sum.seen) },
                    { key: "bytes", title: "Bytes", number: true, cell: (l) => fmt.bytes(l.bytes) },
                  ]}
                />
              </>
            )}
          </section>
        </>
      )}
    </>
  );
}
