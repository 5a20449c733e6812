// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// The map: sigma draws vertices and edges by WebGL; the circles of the namespaces are on a
// canvas behind it. It only shows: what it shows can be reached in the table too.

import { MultiDirectedGraph } from "graphology";
import Sigma from "sigma";
import { EdgeArrowProgram, EdgeRectangleProgram } from "sigma/rendering";
import { trouble, width } from "./edges.ts";
import { groupOf, layout, type Layout } from "./layout.ts";
import type { Topology } from "./types.ts";

export interface Palette {
  text: string;
  halo: string;
  muted: string;
  edge: string;
  faint: string;
  accent: string;
  drop: string;
  retransmit: string;
  groups: string[];
  groupFill: string;
  groupLine: string;
}

export const palettes: Record<"light" | "dark", Palette> = {
  light: {
    text: "#1c2430", halo: "#ffffff", muted: "#566072", edge: "#a9b3c1", faint: "#e3e7ec", accent: "#1f5fbf",
    drop: "#c62f2f", retransmit: "#b86e00",
    groups: ["#2f6fd0", "#1d8a78", "#8a5bc7", "#b5478a", "#5c7f1f", "#a0632a", "#3a7ca5", "#7a6a3d"],
    groupFill: "rgba(70,90,120,0.05)", groupLine: "rgba(70,90,120,0.28)",
  },
  dark: {
    text: "#e3e8ef", halo: "#12161c", muted: "#9aa5b4", edge: "#495464", faint: "#262d37", accent: "#6ea8ff",
    drop: "#ff6b6b", retransmit: "#f0a43a",
    groups: ["#6ea8ff", "#4cc9b0", "#b794f4", "#f08bc2", "#a6cf5a", "#e0a070", "#7cc4e8", "#cbb97a"],
    groupFill: "rgba(160,180,210,0.05)", groupLine: "rgba(160,180,210,0.25)",
  },
};

/** hue is the number of a group's colour, by order of name. */
export function hues(groups: string[]): Map<string, number> {
  return new Map([...groups].sort().map((g, i) => [g, i]));
}

export interface Look {
  palette: Palette;
  selected: string | undefined;
  still: boolean; // no animation
}

export class GraphView {
  private readonly graph = new MultiDirectedGraph();
  private readonly sigma: Sigma;
  private readonly back: HTMLCanvasElement;
  private layout: Layout | undefined;
  private look: Look;
  private hovered: string | undefined;
  private watching = false;
  private slow = 0;
  private near: Set<string> | undefined;
  private fontFamily: string;

  /** It throws where the browser has no WebGL. */
  constructor(container: HTMLElement, look: Look, select: (id: string | undefined) => void) {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("no WebGL");
    this.look = look;
    this.fontFamily = getComputedStyle(container).fontFamily;
    this.back = document.createElement("canvas");
    this.back.className = "graph-back";
    container.append(this.back);
    this.sigma = new Sigma(this.graph, container, {
      allowInvalidContainer: true,
      defaultEdgeType: "line",
      edgeProgramClasses: { line: EdgeRectangleProgram, arrow: EdgeArrowProgram },
      enableEdgeEvents: true,
      labelFont: this.fontFamily,
      labelSize: 12,
      labelDensity: 0.7,
      labelGridCellSize: 90,
      labelRenderedSizeThreshold: 5,
      labelColor: { attribute: "labelColor", color: look.palette.text },
      minEdgeThickness: 0.5,
      minCameraRatio: 0.02,
      maxCameraRatio: 3,
      stagePadding: 24,
      zIndex: true,
      nodeReducer: (id, data) => this.reduceNode(id, data),
      edgeReducer: (id, data) => this.reduceEdge(id, data),
      defaultDrawNodeLabel: (context, data) => this.drawLabel(context, data),
      defaultDrawNodeHover: (context, data) => this.drawLabel(context, data),
    });
    this.sigma.on("clickNode", ({ node }) => select(node));
    this.sigma.on("clickEdge", ({ edge }) => select(edge));
    this.sigma.on("clickStage", () => select(undefined));
    this.sigma.on("enterNode", ({ node }) => this.hover(node));
    this.sigma.on("leaveNode", () => this.hover(undefined));
    this.sigma.on("enterEdge", ({ edge }) => this.hover(edge));
    this.sigma.on("leaveEdge", () => this.hover(undefined));
    this.sigma.on("afterRender", () => this.drawGroups());
    this.sigma.getCamera().on("updated", () => this.watchSpeed());
  }

  /** show takes the place of what was shown; what stays keeps its place. */
  show(t: Topology): void {
    const begin = performance.now();
    this.layout = layout(t.nodes, t.edges, this.layout);
    const g = this.graph;
    const vertices = new Set(t.nodes.map((n) => n.id));
    const edges = new Set(t.edges.map((e) => e.id));
    for (const id of g.edges()) if (!edges.has(id)) g.dropEdge(id);
    for (const id of g.nodes()) if (!vertices.has(id)) g.dropNode(id);

    const most = Math.max(0, ...t.edges.map((e) => e.total.bytes));
    // Where there are many, each is smaller.
    const small = Math.min(1, (120 / Math.max(1, t.nodes.length)) ** 0.35);
    const thin = Math.min(1, (300 / Math.max(1, t.edges.length)) ** 0.5);
    const hue = hues(this.layout.groups.map((group) => group.name));
    for (const v of t.nodes) {
      const p = this.layout.points.get(v.id)!;
      const traffic = (v.in?.bytes ?? 0) + (v.out?.bytes ?? 0);
      g.mergeNode(v.id, { x: p.x, y: p.y, label: v.name, size: small * (3.5 + width(traffic, most * 2) * 1.3), hue: hue.get(groupOf(v)) ?? 0 });
    }
    // Arrow heads say nothing where there are so many that none can be told from another.
    const type = t.edges.length > 800 ? "line" : "arrow";
    for (const e of t.edges) {
      const attributes = { size: thin * width(e.total.bytes, most), trouble: trouble(e), type };
      if (g.hasEdge(e.id)) {
        g.mergeEdgeAttributes(e.id, attributes);
      } else if (g.hasNode(e.source) && g.hasNode(e.target)) {
        g.addEdgeWithKey(e.id, e.source, e.target, attributes);
      }
    }
    this.sigma.setSetting("labelRenderedSizeThreshold", 5 * small);
    this.frame();
    this.restyle(this.look);
    performance.measure("netprobe map", { start: begin });
  }

  /** restyle draws the same with other colours or another selection. */
  restyle(look: Look): void {
    this.look = look;
    this.near = this.around(this.hovered ?? look.selected);
    this.sigma.refresh({ skipIndexation: false });
  }

  zoom(by: number): void {
    const camera = this.sigma.getCamera();
    this.move({ ratio: camera.getBoundedRatio(camera.ratio / by) });
  }

  fit(): void {
    this.move({ x: 0.5, y: 0.5, ratio: 1, angle: 0 });
  }

  /** place says where a vertex, or the middle of an edge, is on the screen. */
  place(id: string): { x: number; y: number } | undefined {
    const ends = this.graph.hasNode(id) ? [id, id] : this.graph.hasEdge(id) ? this.graph.extremities(id) : undefined;
    if (!ends) return undefined;
    const [a, b] = ends.map((n) => this.sigma.graphToViewport(this.layout!.points.get(n)!));
    const box = this.sigma.getContainer().getBoundingClientRect();
    return { x: box.x + (a!.x + b!.x) / 2, y: box.y + (a!.y + b!.y) / 2 };
  }

  /** slowly says whether edges and labels are left out while the map moves, or sets it. */
  slowly(set?: boolean): boolean {
    if (set !== undefined) {
      this.sigma.setSettings({ hideEdgesOnMove: set, hideLabelsOnMove: set });
      this.slow = set ? 5 : -Infinity;
    }
    return this.sigma.getSetting("hideEdgesOnMove");
  }

  /** draw draws at once, and says how many milliseconds the page worked on it. */
  draw(): number {
    const begin = performance.now();
    this.sigma.refresh({ skipIndexation: true, schedule: false });
    return performance.now() - begin;
  }

  close(): void {
    this.sigma.kill();
    this.back.remove();
  }

  private move(to: { x?: number; y?: number; ratio?: number; angle?: number }): void {
    const camera = this.sigma.getCamera();
    if (this.look.still) camera.setState(to);
    else void camera.animate(to, { duration: 200 });
  }

  private hover(id: string | undefined): void {
    this.hovered = id;
    this.near = this.around(id ?? this.look.selected);
    this.sigma.getContainer().classList.toggle("pointing", id !== undefined);
    this.sigma.refresh({ skipIndexation: true });
  }

  // around is what stays bright beside a vertex or an edge; undefined means everything does.
  private around(id: string | undefined): Set<string> | undefined {
    if (id === undefined) return undefined;
    if (this.graph.hasEdge(id)) return new Set([id, ...this.graph.extremities(id)]);
    if (this.graph.hasNode(id)) return new Set([id, ...this.graph.neighbors(id), ...this.graph.edges(id)]);
    return undefined;
  }

  // Without a GPU thousands of edges take longer than an eye forgives: then they and the
  // labels are left out while the map moves, and are back when it rests.
  private watchSpeed(): void {
    if (this.watching) return;
    this.watching = true;
    requestAnimationFrame((begin) => requestAnimationFrame((end) => {
      this.watching = false;
      this.slow = Math.max(Math.min(this.slow, 0), this.slow + (end - begin > 60 ? 1 : -1));
      if (this.slow >= 3 && !this.slowly()) this.slowly(true);
    }));
  }

  // The circles are the frame: sigma would else fit the vertices alone.
  private frame(): void {
    const groups = this.layout?.groups ?? [];
    if (!groups.length) return this.sigma.setCustomBBox(null), undefined;
    this.sigma.setCustomBBox({
      x: [Math.min(...groups.map((g) => g.x - g.radius)), Math.max(...groups.map((g) => g.x + g.radius))],
      y: [Math.min(...groups.map((g) => g.y - g.radius)), Math.max(...groups.map((g) => g.y + g.radius))],
    });
  }

  private reduceNode(id: string, data: Record<string, unknown>) {
    const { palette, selected } = this.look;
    const bright = !this.near || this.near.has(id);
    const color = palette.groups[(data.hue as number) % palette.groups.length]!;
    return {
      ...data,
      color: bright ? color : palette.faint,
      labelColor: palette.text,
      label: bright ? (data.label as string) : null,
      zIndex: bright ? 1 : 0,
      highlighted: id === selected,
      forceLabel: id === selected || (this.near !== undefined && bright && this.near.size < 40),
    };
  }

  private reduceEdge(id: string, data: Record<string, unknown>) {
    const { palette, selected } = this.look;
    const bright = !this.near || this.near.has(id);
    const t = data.trouble as ReturnType<typeof trouble>;
    let color = t === "drops" ? palette.drop : t === "retransmits" ? palette.retransmit : palette.edge;
    if (id === selected) color = palette.accent;
    else if (!bright) color = palette.faint;
    const size = data.size as number;
    return { ...data, color, size: id === selected ? size + 2 : size, zIndex: id === selected ? 3 : !bright ? 0 : t ? 2 : 1 };
  }

  // Labels are drawn with a halo: edges run under them.
  private drawLabel(context: CanvasRenderingContext2D, data: { label?: string | null; x: number; y: number; size: number }): void {
    if (!data.label) return;
    const text = data.label.length > 40 ? `${data.label.slice(0, 39)}…` : data.label;
    context.font = `12px ${this.fontFamily}`;
    context.lineJoin = "round";
    context.lineWidth = 3;
    context.strokeStyle = this.look.palette.halo;
    context.fillStyle = this.look.palette.text;
    context.strokeText(text, data.x + data.size + 3, data.y + 4);
    context.fillText(text, data.x + data.size + 3, data.y + 4);
  }

  private drawGroups(): void {
    const { width: w, height: h } = this.sigma.getDimensions();
    const scale = window.devicePixelRatio || 1;
    if (this.back.width !== Math.round(w * scale) || this.back.height !== Math.round(h * scale)) {
      this.back.width = Math.round(w * scale);
      this.back.height = Math.round(h * scale);
    }
    const context = this.back.getContext("2d");
    if (!context) return;
    const { palette } = this.look;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, w, h);
    context.font = `600 12px ${this.fontFamily}`;
    context.textAlign = "center";
    for (const g of this.layout?.groups ?? []) {
      const c = this.sigma.graphToViewport(g);
      const side = this.sigma.graphToViewport({ x: g.x + g.radius, y: g.y });
      const r = Math.hypot(side.x - c.x, side.y - c.y);
      context.beginPath();
      context.arc(c.x, c.y, r, 0, 2 * Math.PI);
      context.fillStyle = palette.groupFill;
      context.fill();
      context.strokeStyle = palette.groupLine;
      context.stroke();
      context.fillStyle = palette.muted;
      context.fillText(g.name.length > 40 ? `${g.name.slice(0, 39)}…` : g.name, c.x, c.y - r - 5);
    }
  }
}
