// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// The page: its head, the view that the URL names, and dark or light.

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { useAnswer, useUrl } from "./common.tsx";
import { CompareView } from "./compare.tsx";
import { FlowsView } from "./flows.tsx";
import { HealthView, InterfacesView } from "./machine.tsx";
import { MapView } from "./map.tsx";
import { NodesView } from "./nodes.tsx";
import { format, views, visit, type View } from "./state.ts";
import type { Cluster } from "./types.ts";

const titles: Record<View, string> = {
  map: "Map",
  compare: "Compare",
  flows: "Flows",
  nodes: "Nodes & VXLAN",
  interfaces: "Interfaces",
  health: "Health",
};

function useMedia(text: string): boolean {
  const [matches, setMatches] = useState(() => matchMedia(text).matches);
  useEffect(() => {
    const list = matchMedia(text);
    const read = () => setMatches(list.matches);
    list.addEventListener("change", read);
    return () => list.removeEventListener("change", read);
  }, [text]);
  return matches;
}

type Theme = "auto" | "light" | "dark";

// A browser may forbid storage: the choice then lasts as long as the page.
function storedTheme(): Theme {
  try {
    const t = localStorage.getItem("netprobe-theme");
    return t === "light" || t === "dark" ? t : "auto";
  } catch {
    return "auto";
  }
}

function useTheme(): [Theme, (t: Theme) => void, boolean] {
  const [theme, setTheme] = useState<Theme>(storedTheme);
  const system = useMedia("(prefers-color-scheme: dark)");
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("netprobe-theme", theme);
    } catch {
      // see storedTheme
    }
  }, [theme]);
  return [theme, setTheme, theme === "auto" ? system : theme === "dark"];
}

function App() {
  const url = useUrl();
  const [theme, setTheme, dark] = useTheme();
  const still = useMedia("(prefers-reduced-motion: reduce)");
  const { data: cluster } = useAnswer<Cluster>("api/cluster", 60_000);
  const { view } = url.state;
  useEffect(() => {
    document.title = `${titles[view]} · NetProbe`;
  }, [view]);
  return (
    <>
      <header>
        <a class="skip" href={format(url.state)} onClick={(e) => { e.preventDefault(); document.getElementById("main")?.focus(); }}>Skip to the content</a>
        <span class="brand"><img src="assets/icon.svg" alt="" width={20} height={20} /> NetProbe{cluster?.name && <span class="soft"> {cluster.name}</span>}</span>
        <nav aria-label="Views">
          {views.map((v) => <a key={v} href={format(visit(url.state, v))} aria-current={v === view ? "page" : undefined}>{titles[v]}</a>)}
        </nav>
        <label class="field theme">
          <span>Theme</span>
          <select value={theme} onChange={(e) => setTheme(e.currentTarget.value as Theme)}>
            <option value="auto">as the system</option>
            <option value="light">light</option>
            <option value="dark">dark</option>
          </select>
        </label>
      </header>
      <main id="main" tabIndex={-1} class={`view-${view}`}>
        <h1 class="unseen">{titles[view]}</h1>
        {view === "map" && <MapView url={url} dark={dark} still={still} cluster={cluster} />}
        {view === "compare" && <CompareView url={url} />}
        {view === "flows" && <FlowsView url={url} cluster={cluster} />}
        {view === "nodes" && <NodesView url={url} />}
        {view === "interfaces" && <InterfacesView url={url} />}
        {view === "health" && <HealthView />}
      </main>
      <div id="live" class="unseen" role="status" aria-live="polite" />
    </>
  );
}

render(<App />, document.getElementById("app")!);
