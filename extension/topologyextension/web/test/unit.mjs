// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Runs the unit tests: they are in TypeScript, which Node 20 does not read itself.

import { spawnSync } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = await mkdtemp(join(here, "..", "output-unit-"));
try {
  const tests = (await readdir(here)).filter((f) => f.endsWith(".test.ts")).map((f) => join(here, f));
  await build({ entryPoints: tests, outdir: out, outExtension: { ".js": ".mjs" }, bundle: true, platform: "node", format: "esm", jsx: "automatic", jsxImportSource: "preact", logLevel: "warning" });
  const files = (await readdir(out)).map((f) => join(out, f));
  process.exitCode = spawnSync(process.execPath, ["--test", ...files], { stdio: "inherit" }).status ?? 1;
} finally {
  await rm(out, { recursive: true });
}
