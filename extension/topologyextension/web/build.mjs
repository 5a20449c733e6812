// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Builds the page into dist/, byte for byte the same from the same sources and lock file.
// With --check it builds elsewhere and says whether dist/ is what came out.

import { createHash } from "node:crypto";
import { mkdtemp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = dirname(fileURLToPath(import.meta.url));
const check = process.argv.includes("--check");
const out = check ? await mkdtemp(join(tmpdir(), "page-")) : join(root, "dist");

async function filesUnder(dir) {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  return entries
    .filter((e) => e.isFile())
    .map((e) => relative(root, join(e.parentPath ?? e.path, e.name)))
    .sort();
}

// The licences of what the bundle has inside, which ask to be kept with it.
async function licences(metafile) {
  const names = new Set();
  for (const input of Object.keys(metafile.inputs)) {
    const m = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (m) names.add(m[1]);
  }
  const parts = [];
  for (const name of [...names].sort()) {
    const dir = join(root, "node_modules", name);
    const { version } = JSON.parse(await readFile(join(dir, "package.json"), "utf8"));
    const file = (await readdir(dir)).find((f) => /^licen[cs]e/i.test(f));
    if (!file) throw new Error(`${name} has no licence file: find out what it asks for`);
    parts.push(`${name} ${version}\n\n${(await readFile(join(dir, file), "utf8")).trim()}\n`);
  }
  return parts.join("\n----\n\n");
}

await rm(out, { recursive: true, force: true });
await mkdir(join(out, "assets"), { recursive: true });
const result = await build({
  absWorkingDir: root,
  entryPoints: { app: "src/main.tsx", style: "src/style.css" },
  outdir: join(out, "assets"),
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome123", "firefox121", "safari17.5"],
  legalComments: "none",
  define: { "process.env.NODE_ENV": '"production"' },
  metafile: true,
  logLevel: "warning",
});
await writeFile(join(out, "assets", "licenses.txt"), await licences(result.metafile));
for (const name of ["index.html", "assets/icon.svg"]) {
  await writeFile(join(out, name), await readFile(join(root, "src", name.replace("assets/", ""))));
}

if (check) {
  const names = async (dir) => (await readdir(dir, { recursive: true, withFileTypes: true }))
    .filter((e) => e.isFile()).map((e) => relative(dir, join(e.parentPath ?? e.path, e.name))).sort();
  const built = await names(out);
  const committed = await names(join(root, "dist"));
  const differing = [];
  for (const name of new Set([...built, ...committed])) {
    const [a, b] = await Promise.all([join(out, name), join(root, "dist", name)].map((p) => readFile(p).catch(() => null)));
    if (!a || !b || !a.equals(b)) differing.push(name);
  }
  await rm(out, { recursive: true });
  if (differing.length) {
    console.error(`dist/ is not what the sources give (${differing.join(", ")}): run 'make page' and commit`);
    process.exit(1);
  }
  console.log(`dist/ is what the sources give: ${built.length} files`);
} else {
  // Lets a test that has no Node tell that dist/ was not built anew after a change.
  const inputs = ["build.mjs", "package-lock.json", "package.json", ...await filesUnder(join(root, "src")), ...await filesUnder(out)];
  const sums = await Promise.all(inputs.map(async (f) =>
    `${createHash("sha256").update(await readFile(join(root, f))).digest("hex")}  ${f}\n`));
  await writeFile(join(root, "page.sha256"), sums.join(""));
}
