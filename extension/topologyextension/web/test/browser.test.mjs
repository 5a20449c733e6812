// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Opens the page in Chromium and uses it: against the made-up cluster of mock.mjs, and against
// a real NetProbe where NETPROBE_URL says where one answers, traffic going. What it saw is in
// output/: screenshots, and the frame times with 1,000 vertices.

import { test } from "node:test";
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { hostile, startMock } from "./mock.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const dist = join(root, "dist");
const output = process.env.PAGE_OUTPUT ?? join(root, "output");
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
await mkdir(output, { recursive: true });

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // There is no GPU where tests run: WebGL is drawn by the processor.
  args: ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--disable-dev-shm-usage"],
});
test.after(() => browser.close());

// open gives a page that notes everything it may not do.
async function open(url, { scheme = "light", width = 1440, height = 1000, reduced = "no-preference", hash = "" } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, reducedMotion: reduced });
  const page = await context.newPage();
  const complaints = [];
  const expected = [];
  page.on("console", (m) => {
    if (["error", "warning"].includes(m.type()) && !expected.some((e) => m.text().includes(e))
      // Chromium's own words on drawing without a GPU, of which the page knows nothing.
      && !/GPU stall due to ReadPixels|Automatic fallback to software WebGL/.test(m.text())) complaints.push(`console: ${m.text()}`);
  });
  page.on("pageerror", (e) => complaints.push(`error: ${e.message}`));
  page.on("dialog", (d) => {
    complaints.push(`dialog: ${d.message()}`);
    void d.dismiss();
  });
  const origin = new URL(url).origin;
  page.on("request", (r) => {
    if (new URL(r.url()).origin !== origin && !r.url().startsWith("data:")) complaints.push(`outside request: ${r.url()}`);
  });
  await page.goto(url + hash);
  return {
    page, expected, complaints,
    async done() {
      assert.deepEqual(complaints, []);
      await context.close();
    },
  };
}

async function accessible(page, what) {
  // Through the debugger, which the page's policy does not bind.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const seen = violations.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => `${n.target.join(" ")} (${n.failureSummary})`).join("; ")}`);
  assert.deepEqual(seen, [], `axe-core on ${what}`);
}

const status = (page) => page.getByTestId("status");
const vertices = async (page) => Number(/^([\d\u2009]+) vertices/.exec(await status(page).textContent())?.[1].replaceAll("\u2009", "") ?? NaN);
const shot = (page, name) => page.screenshot({ path: join(output, `${name}.png`) });

// until waits for a condition of the page, and says which when it does not come.
async function until(what, condition, ms = 10_000) {
  const end = Date.now() + ms;
  for (;;) {
    if (await condition()) return;
    assert.ok(Date.now() < end, `timed out: ${what}`);
    await new Promise((r) => setTimeout(r, 50));
  }
}

async function ready(page) {
  await until("the map has vertices", async () => (await vertices(page)) > 0);
}

async function withMock(options, run) {
  const mock = await startMock({ dist, ...options });
  try {
    await run(mock);
  } finally {
    await mock.close();
  }
}

test("the map opens, filters, selects, goes back in time, and its numbers move", () => withMock({}, async (mock) => {
  const p = await open(mock.url);
  const { page } = p;
  await ready(page);
  assert.equal(await vertices(page), 42);
  await until("the stream is used", async () => (await page.locator(".how").textContent()) === "live");
  const before = await status(page).textContent();
  await until("numbers change by themselves", async () => (await status(page).textContent()) !== before);

  await page.getByLabel("Namespace").fill("monitoring");
  await until("the filter holds", async () => (await vertices(page)) > 0 && page.url().includes("namespace=monitoring"));
  await until("only edges of the namespace", async () => {
    const rows = await page.locator("#edges tbody tr").allTextContents();
    return rows.length > 0 && rows.every((r) => r.includes("monitoring"));
  });
  await page.reload();
  await ready(page);
  assert.equal(await page.getByLabel("Namespace").inputValue(), "monitoring", "a reload keeps the filter");
  await page.goBack().catch(() => {});
  await page.goto(`${mock.url}#/map?namespace=shop`);
  await ready(page);

  // In the map itself, where the middle of an edge is that nothing lies on.
  await page.goto(`${mock.url}#/map`);
  const long = "external:203.0.113.9~workload:kube-system/Deployment/ingress-nginx~443";
  const place = () => page.evaluate((id) => globalThis.netprobeGraph?.place(id), long);
  await until("the edge is drawn", async () => (await vertices(page)) === 42 && Boolean(await place()));
  await page.waitForTimeout(300);
  const at = await place();
  await page.mouse.move(at.x, at.y);
  await page.mouse.click(at.x, at.y);
  await until("the edge is selected", async () => /203\.0\.113\.9.*→.*ingress-nginx/.test(await page.locator(".details h2").textContent()));
  assert.match(page.url(), /sel=external/);
  const edge = "workload:shop/Deployment/web~workload:shop/Deployment/catalog~8080";
  await page.goto(`${mock.url}#/map?namespace=shop&sel=${encodeURIComponent(edge)}`);
  const details = page.locator(".details");
  await until("the edge's numbers are there", async () => /web.*→.*catalog/.test(await details.locator("h2").textContent()));
  const row = (name) => details.getByRole("row", { name }).textContent();
  assert.match(await row(/^Rate/), /\d.*B\/s/);
  const rate = await row(/^Bytes/);
  await until("the edge's numbers change", async () => (await row(/^Bytes/)) !== rate);

  const slider = page.getByLabel("Time", { exact: true });
  const now = await row(/^Bytes/);
  await slider.focus();
  for (let i = 0; i < 5; i++) await page.keyboard.press("PageDown");
  await until("the URL has the moment", async () => /at=\d+/.test(page.url()));
  await until("the past is shown", async () => (await page.locator(".how").textContent()) === "past");
  assert.notEqual(await row(/^Bytes/), now, "the past has other numbers");
  assert.match(await slider.getAttribute("aria-valuetext"), /h \d+ min ago/);
  await page.locator(".time").getByRole("button", { name: "Live" }).click();
  await until("it is live again", async () => (await page.locator(".how").textContent()) === "live" && !page.url().includes("at="));
  await p.done();
}));

test("without a stream the map polls, and says so", () => withMock({}, async (mock) => {
  mock.control.stream = false;
  const p = await open(mock.url);
  p.expected.push("404");
  await ready(p.page);
  await until("it polls", async () => (await p.page.locator(".how").textContent()) === "polling");
  const before = await status(p.page).textContent();
  await until("numbers change", async () => (await status(p.page).textContent()) !== before, 15_000);
  await p.done();
}));

test("each view shows what the API says", () => withMock({}, async (mock) => {
  const p = await open(mock.url, { hash: "#/flows" });
  const { page } = p;
  const go = async (name) => page.getByRole("navigation", { name: "Views" }).getByRole("link", { name }).click();
  const rows = () => page.locator("tbody tr");
  await until("flows", async () => (await rows().count()) === 100);
  await page.getByRole("button", { name: "Older" }).click();
  await until("the next page", async () => page.url().includes("cursor=100"));
  await page.goBack();
  await until("back to the first", async () => !page.url().includes("cursor="));
  await page.getByRole("button", { name: "Bytes" }).click();
  const cells = async () => (await page.locator("tbody tr td:nth-child(6)").allTextContents());
  const size = (t) => parseFloat(t) * { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 }[t.split(" ")[1]];
  await until("sorted by bytes", async () => {
    const sizes = (await cells()).map(size);
    return sizes.length === 100 && sizes.every((s, i) => i === 0 || s <= sizes[i - 1] * 1.01);
  });
  await page.locator("tbody tr").filter({ hasText: "6379" }).first().getByRole("link", { name: "Filter" }).click();
  await until("only that conversation's server", async () => {
    const text = await rows().allTextContents();
    return text.length > 0 && text.length < 100 && text.every((t) => t.includes("6379"));
  });
  await page.goto(`${mock.url}#/flows?port=1`);
  await until("nothing matches", async () => (await page.locator(".empty-title").textContent()) === "No flow matches the filters.");
  await page.locator(".empty").getByRole("button", { name: "Clear filters" }).click();
  await until("all again", async () => (await rows().count()) === 100);

  await go("Nodes & VXLAN");
  await until("nodes", async () => (await page.getByText("differs").count()) === 1);
  assert.match(await page.getByRole("table", { name: "Differences" }).textContent(), /flannel\.7/);
  assert.equal(await page.locator(".matrix tbody tr").count(), 4);
  await go("Interfaces");
  await until("sparklines", async () => (await page.locator(".spark").count()) === 5);
  assert.ok((await page.locator(".spark-first").first().getAttribute("d")).split("L").length > 50);
  await go("Health");
  await until("the ledger closes", async () => (await page.getByText("closes: every packet").count()) === 1);
  await go("Compare");
  await until("a comparison", async () => (await page.locator(".summary").textContent()).includes("3 new"));
  assert.match(await page.locator(".summary").textContent(), /2 gone/);
  const changed = await page.getByRole("table", { name: "Changed edges" }).textContent();
  const from = page.getByLabel("Before");
  await from.focus();
  await page.keyboard.press("PageDown");
  await until("another moment, other changes", async () => page.url().includes("from=") && (await page.getByRole("table", { name: "Changed edges" }).textContent()) !== changed);
  await p.done();
}));

test("errors and emptiness say what to do", () => withMock({}, async (mock) => {
  mock.control.empty = true;
  const p = await open(mock.url);
  const { page } = p;
  p.expected.push("400", "503", "ERR_CONNECTION", "Failed to load resource");
  await until("no traffic yet", async () => (await page.locator(".empty-title").first().textContent()) === "No traffic has been reported yet.");
  for (const [view, words] of [["nodes", "No nodes are known."], ["interfaces", "No interface metrics have come."], ["flows", "No flow has been reported yet."]]) {
    await page.goto(`${mock.url}#/${view}`);
    await until(`${view} is empty`, async () => (await page.locator(".empty-title").allTextContents()).includes(words));
  }
  mock.control.empty = false;
  mock.control.fail = true;
  await page.goto(`${mock.url}#/health`);
  await until("the server's words", async () => /inventory is not complete.*tries again/.test(await page.locator(".problem").textContent().catch(() => "")));
  mock.control.fail = false;
  await until("it recovers by itself", async () => (await page.locator(".problem").count()) === 0, 12_000);
  await page.goto(`${mock.url}#/map?namespace=${encodeURIComponent("\u0000")}`);
  await until("which filter is wrong", async () => (await page.locator(".problem").textContent().catch(() => "")).includes("“namespace”"));
  await page.locator(".problem").getByRole("button", { name: "Clear filters" }).click();
  await ready(page);
  await p.done();
}));

test("hostile names are text", () => withMock({}, async (mock) => {
  const name = encodeURIComponent(hostile);
  const p = await open(mock.url, { hash: `#/map?q=${name}&sel=${encodeURIComponent("workload:shop/Deployment/postgres")}` });
  const { page } = p;
  await ready(page);
  assert.ok((await page.locator("#edges").textContent()).includes(hostile));
  await page.goto(`${mock.url}#/map?sel=${encodeURIComponent("workload:shop/Deployment/mail")}`);
  await until("the vertex has the name", async () => (await page.locator(".details h2").textContent().catch(() => "")) === hostile);
  for (const view of ["flows", "nodes", "interfaces"]) {
    await page.goto(`${mock.url}#/${view}`);
    await until(`${view} shows it`, async () => (await page.locator("main").textContent()).includes(hostile));
  }
  assert.equal(await page.locator("img[src='x']").count(), 0);
  // And the policy would have stopped it.
  p.expected.push("Content Security Policy");
  assert.equal(await page.evaluate(() => new Promise((resolve) => {
    document.addEventListener("securitypolicyviolation", (e) => resolve(e.effectiveDirective), { once: true });
    const s = document.createElement("script");
    s.textContent = "globalThis.broken = true";
    document.head.append(s);
  })), "script-src-elem");
  await p.done();
}));

test("all of it can be reached by keyboard", () => withMock({}, async (mock) => {
  const p = await open(mock.url, { reduced: "reduce" });
  const { page } = p;
  await ready(page);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  const reached = new Set();
  let outlined = true;
  for (let i = 0; i < 45; i++) {
    await page.keyboard.press("Tab");
    const seen = await page.evaluate(() => {
      const e = document.activeElement;
      const name = e.getAttribute("name") ?? e.id ?? "";
      return { name: name || e.getAttribute("aria-label") || e.textContent, outline: getComputedStyle(e).outlineStyle, edge: Boolean(e.closest("#edges tbody")) };
    });
    reached.add(seen.name);
    outlined &&= seen.outline !== "none";
    if (seen.edge) break;
  }
  for (const name of ["level", "window", "namespace", "node", "direction", "q", "time-at", "Zoom in", "Fit"]) assert.ok(reached.has(name), `${name} is reached, of ${[...reached].join(", ")}`);
  assert.ok(outlined, "the focus is visible everywhere");
  await page.keyboard.press("Enter");
  await until("Enter selects the edge", async () => (await page.locator(".details h2").textContent()).includes("→"));
  await until("a reader hears of the map", async () => /vertices/.test(await page.locator("#live").textContent()));
  await p.done();
}));

for (const scheme of ["light", "dark"]) {
  test(`axe-core finds nothing, ${scheme}`, () => withMock({}, async (mock) => {
    const p = await open(mock.url, { scheme });
    const { page } = p;
    await ready(page);
    await page.waitForTimeout(500);
    await shot(page, `map-${scheme}`);
    await accessible(page, `map, ${scheme}`);
    const edge = page.locator("#edges tbody tr button").first();
    await edge.click();
    await until("details", async () => (await page.locator(".counters").count()) === 1);
    await shot(page, `edge-${scheme}`);
    await accessible(page, `edge, ${scheme}`);
    for (const view of ["compare", "flows", "nodes", "interfaces", "health"]) {
      await page.goto(`${mock.url}#/${view}`);
      await until(`${view} has rows`, async () => (await page.locator("tbody tr").count()) > 0);
      await shot(page, `${view}-${scheme}`);
      await accessible(page, `${view}, ${scheme}`);
    }
    await p.done();
  }));
}

test("the switch overrides the system's scheme, and is kept", () => withMock({}, async (mock) => {
  const p = await open(mock.url, { scheme: "light", hash: "#/health" });
  const ground = () => p.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await p.page.getByLabel("Theme").selectOption("dark");
  await until("dark", async () => (await ground()) !== light);
  await p.page.reload();
  await until("dark after a reload", async () => (await ground()) !== light);
  await p.done();
}));

test("1,000 vertices and 3,000 edges are drawn in time", () => withMock({ size: { nodes: 1000, edges: 3000 } }, async (mock) => {
  const p = await open(mock.url);
  const { page } = p;
  await until("all are there", async () => (await vertices(page)) > 950);
  await page.waitForTimeout(1000);
  const drag = async () => {
    // Frames as the browser shows them, while the map is dragged about.
    const frames = page.evaluate(() => new Promise((resolve) => {
      const times = [];
      const begin = performance.now();
      let last = begin;
      const next = (now) => {
        times.push(now - last);
        last = now;
        if (now - begin < 3000) requestAnimationFrame(next);
        else resolve(times);
      };
      requestAnimationFrame(next);
    }));
    const box = await page.locator(".graph").boundingBox();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    await page.mouse.move(x, y);
    await page.mouse.down();
    const end = Date.now() + 3000;
    for (let i = 1; Date.now() < end; i++) await page.mouse.move(x + 150 * Math.sin(i / 10), y + 90 * Math.cos(i / 13));
    await page.mouse.up();
    const sorted = (await frames).slice(2).sort((a, b) => a - b);
    const at = (q) => Math.round(10 * sorted[Math.floor(sorted.length * q)]) / 10;
    return { frames: sorted.length, p50_ms: at(0.5), p95_ms: at(0.95) };
  };
  await drag(); // the page sees here how fast this machine is
  const moving = await drag();
  const updates = (await page.evaluate(() => performance.getEntriesByName("netprobe map").map((e) => Math.round(e.duration)))).slice(1).sort((a, b) => a - b);
  const edgesHidden = await page.evaluate(() => globalThis.netprobeGraph.slowly());
  await page.evaluate(() => globalThis.netprobeGraph.slowly(false));
  const all = await drag();
  const works = (await page.evaluate(() => Array.from({ length: 30 }, () => globalThis.netprobeGraph.draw()))).sort((a, b) => a - b);
  const tenth = (n) => Math.round(10 * n) / 10;
  const report = {
    vertices: 1000, edges: 3000, drawn_by: "SwiftShader (processor, no GPU)",
    // What the page does itself for a frame and for an answer; the rest is the drawing, which a GPU does elsewhere.
    page_works_ms: { p50: tenth(works[15]), p95: tenth(works[28]) }, update_ms_p50: updates[updates.length >> 1],
    shown_while_dragged: moving, edges_left_out_while_dragged: edgesHidden, shown_with_all_edges: all,
  };
  await writeFile(join(output, "frame-times.json"), `${JSON.stringify(report, null, 2)}\n`);
  console.log(JSON.stringify(report));
  await page.getByRole("button", { name: "Fit" }).click();
  await page.waitForTimeout(1500);
  await shot(page, "map-1000");
  // Not of the frames shown, which are of the processor that draws and of who else uses it.
  assert.ok(works[15] < 50, `the page works ${works[15]} ms on a frame`);
  assert.ok(updates[updates.length >> 1] < 500, `the page works ${updates} ms on an answer`);
  await p.done();
}));

test("a real NetProbe", { skip: process.env.NETPROBE_URL ? false : "NETPROBE_URL is not set" }, async () => {
  const url = process.env.NETPROBE_URL.replace(/\/?$/, "/");
  for (const scheme of ["light", "dark"]) {
    const p = await open(url, { scheme });
    const { page } = p;
    await until("the map has vertices", async () => (await vertices(page)) > 0, 60_000);
    const before = await status(page).textContent();
    await until("numbers change by themselves", async () => (await status(page).textContent()) !== before, 60_000);
    await page.locator("#edges tbody tr button").first().click();
    await until("an edge's numbers", async () => /B\/s/.test(await page.locator(".counters").textContent().catch(() => "")));
    await accessible(page, `real map, ${scheme}`);
    await shot(page, `real-map-${scheme}`);
    const all = await vertices(page);
    const address = (await page.locator("#edges tbody tr button").first().textContent()).trim().split(" ")[0];
    await page.getByLabel("Name or address").fill(address);
    await until("the filter narrows or keeps", async () => page.url().includes("q=") && (await vertices(page)) <= all);
    for (const view of ["compare", "flows", "nodes", "interfaces", "health"]) {
      await page.goto(`${url}#/${view}`);
      await until(`${view} answers`, async () => (await page.locator("tbody tr, .empty-title, .stat").count()) > 0 && (await page.locator(".problem").count()) === 0, 20_000);
      await accessible(page, `real ${view}, ${scheme}`);
      await shot(page, `real-${view}-${scheme}`);
    }
    await p.done();
  }

  // A minute that is over has to be there before one can go back to it.
  const { started } = await (await fetch(`${url}api/health`)).json();
  await until("there is a past", () => Date.now() - Date.parse(started) > 130_000, 140_000);
  const p = await open(url);
  const { page } = p;
  await until("the map has vertices", async () => (await vertices(page)) > 0, 30_000);
  await page.getByLabel("Time", { exact: true }).focus();
  await page.keyboard.press("ArrowLeft");
  await until("the past is shown", async () => (await page.locator(".how").textContent()) === "past" && (await vertices(page)) > 0, 20_000);
  const past = await status(page).textContent();
  await page.locator(".time").getByRole("button", { name: "Live" }).click();
  await until("now has other numbers", async () => (await page.locator(".how").textContent()) !== "past" && (await status(page).textContent()) !== past, 20_000);
  await shot(page, "real-live");
  await p.done();
});
