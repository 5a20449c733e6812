// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// What the views have in common: the URL's state, answers of the API, tables and controls.
// Names come from the cluster and may be anybody's: they are only ever text.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Failure, get } from "./api.ts";
import { clock, moment } from "./format.ts";
import { change, format, parse, type ParamName, type Params, type State } from "./state.ts";

export interface Url {
  state: State;
  set(patch: Params, how?: "replace"): void;
}

/** useUrl is the state in the URL, and how to change it. */
export function useUrl(): Url {
  const [state, setState] = useState(() => parse(location.hash));
  useEffect(() => {
    const read = () => setState(parse(location.hash));
    window.addEventListener("hashchange", read);
    window.addEventListener("popstate", read);
    return () => {
      window.removeEventListener("hashchange", read);
      window.removeEventListener("popstate", read);
    };
  }, []);
  const set: Url["set"] = (patch, how) => {
    // Not of state: several changes may come before it is drawn anew.
    const next = change(parse(location.hash), patch);
    const url = format(next);
    if (how === "replace") history.replaceState(null, "", url);
    else if (url !== location.hash) history.pushState(null, "", url);
    setState(next);
  };
  return { state, set };
}

export interface Answer<T> {
  data: T | undefined;
  failure: Failure | undefined;
  loading: boolean;
}

/** useAnswer reads a path, and again every so many milliseconds; what was read stays until the next. */
export function useAnswer<T>(path: string | undefined, everyMs = 10_000): Answer<T> {
  const [answer, setAnswer] = useState<Answer<T>>({ data: undefined, failure: undefined, loading: true });
  useEffect(() => {
    if (path === undefined) return;
    const abort = new AbortController();
    let timer = 0;
    const read = async () => {
      try {
        const data = await get<T>(path, abort.signal);
        setAnswer({ data, failure: undefined, loading: false });
      } catch (err) {
        if (abort.signal.aborted) return;
        const failure = err instanceof Failure ? err : new Failure(0, String(err));
        setAnswer((a) => ({ data: failure.status === 400 ? undefined : a.data, failure, loading: false }));
      }
      if (!abort.signal.aborted && everyMs > 0) timer = window.setTimeout(read, everyMs);
    };
    setAnswer((a) => ({ ...a, loading: true }));
    void read();
    return () => {
      abort.abort();
      window.clearTimeout(timer);
    };
  }, [path, everyMs]);
  return answer;
}

export function Problem({ failure, reset }: { failure: Failure | undefined; reset?: () => void }) {
  if (!failure) return null;
  return (
    <div class="problem" role="alert">
      <strong>{failure.message}</strong> <span>{failure.advice}</span>
      {failure.status === 400 && reset && <button type="button" onClick={reset}>Clear filters</button>}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children}
    </div>
  );
}

export function Stat({ label, value, bad }: { label: string; value: string; bad?: boolean | undefined }) {
  return (
    <div class={bad ? "stat bad" : "stat"}>
      <dt>{label}</dt>
      <dd>{value}</dd>
    </div>
  );
}

/** Field is a text filter; it is taken when typing pauses. */
export function Field({ url, name, label, width, list }: { url: Url; name: ParamName; label: string; width?: "wide" | "narrow"; list?: string[] | undefined }) {
  const value = url.state.params[name] ?? "";
  const [text, setText] = useState(value);
  const timer = useRef(0);
  useEffect(() => setText(value), [value]);
  useEffect(() => () => window.clearTimeout(timer.current), []);
  const listId = `list-${name}`;
  return (
    <label class={`field ${width ?? ""}`}>
      <span>{label}</span>
      <input
        type="search"
        name={name}
        value={text}
        autocomplete="off"
        spellcheck={false}
        list={list?.length ? listId : undefined}
        onInput={(e) => {
          const v = e.currentTarget.value;
          setText(v);
          window.clearTimeout(timer.current);
          timer.current = window.setTimeout(() => url.set({ [name]: v }, "replace"), 300);
        }}
      />
      {list?.length ? <datalist id={listId}>{list.map((v) => <option key={v} value={v} />)}</datalist> : null}
    </label>
  );
}

/** Choice is a filter with few values; without a name for none, the first is the default. */
export function Choice({ url, name, label, values, none }: { url: Url; name: ParamName; label: string; values: readonly string[]; none?: string }) {
  const value = url.state.params[name] ?? (none === undefined ? values[0] : "");
  return (
    <label class="field">
      <span>{label}</span>
      <select name={name} value={value} onChange={(e) => url.set({ [name]: e.currentTarget.value })}>
        {none !== undefined && <option value="">{none}</option>}
        {values.map((v) => <option key={v} value={v}>{v}</option>)}
      </select>
    </label>
  );
}

export interface Column<T> {
  key: string;
  title: string;
  number?: boolean;
  cell(row: T): ComponentChildren;
  sort?: (row: T) => number | string;
}

const pageRows = 100;

/** Table sorts by what the URL says, and shows as many rows as one asked for. */
export function Table<T>({ caption, columns, rows, rowKey, sort, onSort, selected }: {
  caption: string;
  columns: Column<T>[];
  rows: T[];
  rowKey(row: T, i: number): string;
  sort?: string | undefined;
  onSort?: (sort: string) => void;
  selected?: string | undefined;
}) {
  const [shown, setShown] = useState(pageRows);
  const key = sort?.replace(/^-/, "");
  const by = columns.find((c) => c.key === key)?.sort;
  const sign = sort?.startsWith("-") ? -1 : 1;
  const sorted = by
    ? rows.map((row) => ({ row, v: by(row) })).sort((a, b) => sign * (a.v < b.v ? -1 : a.v > b.v ? 1 : 0)).map((r) => r.row)
    : rows;
  return (
    <div class="table-box" role="region" aria-label={caption} tabIndex={0}>
      <table>
        <caption class="unseen">{caption}</caption>
        <thead>
          <tr>
            {columns.map((c) => (
              <th key={c.key} scope="col" class={c.number ? "number" : ""} aria-sort={c.sort && key === c.key ? (sign < 0 ? "descending" : "ascending") : undefined}>
                {c.sort && onSort ? (
                  <button type="button" class="sort" onClick={() => onSort(key === c.key ? (sign < 0 ? c.key : `-${c.key}`) : c.number ? `-${c.key}` : c.key)}>
                    {c.title}<span aria-hidden="true">{key === c.key ? (sign < 0 ? " ↓" : " ↑") : ""}</span>
                  </button>
                ) : c.title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {sorted.slice(0, shown).map((row, i) => {
            const id = rowKey(row, i);
            return (
              <tr key={id} class={id === selected ? "selected" : ""}>
                {columns.map((c) => <td key={c.key} class={c.number ? "number" : ""}>{c.cell(row)}</td>)}
              </tr>
            );
          })}
        </tbody>
      </table>
      {sorted.length > shown && (
        <button type="button" class="more" onClick={() => setShown(shown + pageRows)}>
          Show {Math.min(pageRows, sorted.length - shown)} more of {sorted.length - shown}
        </button>
      )}
    </div>
  );
}

const day = 24 * 60;

/** useMinute is now, cut to the minute. */
export function useMinute(): number {
  const read = () => Math.floor(Date.now() / 60_000);
  const [minute, setMinute] = useState(read);
  useEffect(() => {
    const timer = window.setInterval(() => setMinute(read()), 5000);
    return () => window.clearInterval(timer);
  }, []);
  return minute;
}

/** TimeSlider sets a moment of the last 24 hours; at its right end it is now. */
export function TimeSlider({ url, name, label, live }: { url: Url; name: "at" | "from" | "to"; label: string; live: string }) {
  const now = useMinute();
  const value = url.state.params[name];
  const back = value ? Math.max(0, Math.min(day, now - Math.floor(Number(value) / 60))) : 0;
  const [moving, setMoving] = useState<number | undefined>();
  const timer = useRef(0);
  useEffect(() => () => window.clearTimeout(timer.current), []);
  const shown = moving ?? back;
  const when = (now - shown) * 60_000;
  const say = shown === 0 ? live : `${moment(when)}, ${Math.floor(shown / 60)} h ${shown % 60} min ago`;
  const go = (minutes: number) => {
    setMoving(minutes);
    window.clearTimeout(timer.current);
    timer.current = window.setTimeout(() => {
      setMoving(undefined);
      // Without "from" a comparison begins an hour ago, so there now has to be said.
      url.set({ [name]: minutes === 0 && name !== "from" ? "" : String((now - minutes) * 60) }, "replace");
    }, 150);
  };
  return (
    <div class="time">
      <label for={`time-${name}`}>{label}</label>
      <input
        id={`time-${name}`}
        type="range"
        min={0}
        max={day}
        step={1}
        value={day - shown}
        aria-valuetext={say}
        onInput={(e) => go(day - Number(e.currentTarget.value))}
      />
      <output for={`time-${name}`}>{shown === 0 ? live : `${clock(when, false)} · −${Math.floor(shown / 60)} h ${shown % 60} min`}</output>
      <button type="button" disabled={shown === 0} onClick={() => go(0)}>{live}</button>
    </div>
  );
}

/** Sparkline draws two lines in one scale; the numbers are beside it, so it is hidden from readers. */
export function Sparkline({ first, second }: { first: number[]; second: number[] }) {
  const w = 160;
  const h = 28;
  const most = Math.max(1, ...first, ...second);
  const line = (values: number[]) =>
    values.map((v, i) => `${i ? "L" : "M"}${((i * w) / Math.max(1, values.length - 1)).toFixed(1)} ${(h - 1 - (v / most) * (h - 2)).toFixed(1)}`).join("");
  return (
    <svg class="spark" viewBox={`0 0 ${w} ${h}`} width={w} height={h} aria-hidden="true">
      <path d={line(first)} class="spark-first" />
      <path d={line(second)} class="spark-second" />
    </svg>
  );
}

/** announce has screen readers say something, once it has rested. */
export function announce(text: string): void {
  const live = document.getElementById("live");
  if (live && live.textContent !== text) live.textContent = text;
}
