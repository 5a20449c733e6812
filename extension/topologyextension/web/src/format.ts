// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// How numbers and times are written. Nothing here touches the document.

const absent = "–";

function scaled(n: number, base: number, units: string[]): string {
  let i = 0;
  let v = Math.abs(n);
  // 999.95 would be written as 1000 of the unit that it should leave.
  while (v >= base * 0.9995 && i < units.length - 1) {
    v /= base;
    i++;
  }
  const text = i === 0 ? String(Math.round(v)) : v < 10 ? v.toFixed(2) : v < 100 ? v.toFixed(1) : v.toFixed(0);
  return `${n < 0 ? "-" : ""}${text} ${units[i]}`;
}

function known(n: number | undefined | null): n is number {
  return typeof n === "number" && Number.isFinite(n);
}

/** bytes writes a size in binary units: 1536 is 1.50 KiB. */
export function bytes(n?: number | null): string {
  return known(n) ? scaled(n, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]) : absent;
}

/** byteRate writes bytes per second in decimal units, as links are sold. */
export function byteRate(n?: number | null): string {
  return known(n) ? scaled(n, 1000, ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"]) : absent;
}

/** packetRate writes packets per second. */
export function packetRate(n?: number | null): string {
  if (!known(n)) return absent;
  if (n > 0 && n < 1) return `${n.toFixed(2)} pps`;
  return scaled(n, 1000, ["pps", "kpps", "Mpps"]);
}

/** count writes a number with its thousands apart. */
export function count(n?: number | null): string {
  return known(n) ? Math.round(n).toLocaleString("en-GB").replaceAll(",", "\u2009") : absent;
}

/** seconds writes a duration: round trip times are micro- to milliseconds. */
export function seconds(n?: number | null): string {
  if (!known(n)) return absent;
  if (n === 0) return "0 s";
  if (n < 0.001) return `${(n * 1e6).toFixed(0)} µs`;
  if (n < 1) return `${(n * 1e3).toFixed(n < 0.01 ? 2 : n < 0.1 ? 1 : 0)} ms`;
  return `${n.toFixed(n < 10 ? 2 : 0)} s`;
}

/** share writes a part of a whole as a percentage, "0 %" only where it is nothing. */
export function share(part: number, whole: number): string {
  if (!whole) return absent;
  const p = (100 * part) / whole;
  if (p === 0) return "0 %";
  return p < 0.01 ? "<0.01 %" : `${p.toFixed(p < 10 ? 2 : 0)} %`;
}

/** ratio writes how many times more or less something became. */
export function ratio(n?: number | null): string {
  if (!known(n)) return absent;
  if (n >= 1) return `×${n < 10 ? n.toFixed(1) : n.toFixed(0)}`;
  return n > 0 ? `÷${(1 / n).toFixed(1 / n < 10 ? 1 : 0)}` : "×0";
}

/** ago writes how long before now a time is. */
export function ago(t: string | undefined, now: number): string {
  const ms = t ? Date.parse(t) : NaN;
  if (Number.isNaN(ms)) return absent;
  const s = Math.max(0, Math.round((now - ms) / 1000));
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min ago`;
  return `${Math.floor(s / 86400)} d ago`;
}

const two = (n: number) => String(n).padStart(2, "0");

/** clock writes the time of day, in the reader's zone. */
export function clock(t: string | number | undefined, withSeconds = true): string {
  const d = new Date(t ?? NaN);
  if (Number.isNaN(d.getTime())) return absent;
  return `${two(d.getHours())}:${two(d.getMinutes())}${withSeconds ? `:${two(d.getSeconds())}` : ""}`;
}

/** moment writes day and time of day, in the reader's zone. */
export function moment(t: string | number | undefined): string {
  const d = new Date(t ?? NaN);
  if (Number.isNaN(d.getTime())) return absent;
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock(t, false)}`;
}

/** spanSeconds is how long a window is, never 0: rates are divided by it. */
export function spanSeconds(from: string | undefined, to: string | undefined, fallback: number): number {
  const s = (Date.parse(to ?? "") - Date.parse(from ?? "")) / 1000;
  return s > 0 ? s : fallback;
}

/** durationSeconds reads a Go duration of hours, minutes and seconds; NaN if it is none. */
export function durationSeconds(text: string): number {
  const m = /^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$/.exec(text);
  if (!m || text === "") return NaN;
  return Number(m[1] ?? 0) * 3600 + Number(m[2] ?? 0) * 60 + Number(m[3] ?? 0);
}

/** address writes an address with its port; IPv6 gets brackets. */
export function address(addr: string, port?: number): string {
  if (port === undefined) return addr;
  return addr.includes(":") ? `[${addr}]:${port}` : `${addr}:${port}`;
}
