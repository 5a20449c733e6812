// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// What the API answers, as far as the page reads it.

export interface Counters {
  bytes: number;
  packets: number;
  flows: number;
  retransmits: number;
  resets: number;
  drops: number;
  rtt_seconds?: number;
}

export interface Vertex {
  id: string;
  kind: string;
  name: string;
  namespace?: string;
  node?: string;
  zone?: string;
  labels?: Record<string, string>;
  addresses?: string[];
  workload?: { kind: string; name: string };
  first_seen?: string;
  last_seen?: string;
  folded?: number;
  in?: Counters;
  out?: Counters;
}

export interface Edge {
  id: string;
  source: string;
  target: string;
  service?: string;
  direction?: string;
  protocols?: { transport: string; port?: number; bytes: number }[];
  vnis?: number[];
  forward: Counters;
  reverse: Counters;
  total: Counters;
  first_seen?: string;
  last_seen?: string;
}

export interface Span {
  from: string;
  to: string;
}

export interface Topology {
  window: Span;
  level: string;
  nodes: Vertex[];
  edges: Edge[];
  folded?: { vertices: number; edges: number; records: number };
  /** What is there and not in this answer, because of the limit. */
  left_out?: { nodes: number; edges: number };
}

export interface Change {
  at: string;
  edges: Edge[];
  nodes: Vertex[];
}

export interface Diff {
  from: Span;
  to: Span;
  new: Edge[];
  gone: Edge[];
  changed: { edge: Edge; after: Edge; bytes_ratio: number }[];
}

export interface End {
  address: string;
  port?: number;
  pod?: string;
  namespace?: string;
  workload?: string | { kind: string; name: string };
  service?: string;
  node?: string;
}

export interface Flow {
  time: string;
  start?: string;
  source: End;
  destination: End;
  transport?: string;
  direction?: string;
  bytes: number;
  packets: number;
  rtt_seconds?: number;
  retransmits?: number;
  drops?: number;
  community_id?: string;
  interface?: string;
  tunnel?: { type: string; id?: number; source?: string; destination?: string };
  process?: { pid?: number; name?: string };
}

export interface Page<T> {
  items: T[];
  next_cursor?: string;
  total?: number;
}

export interface Cluster {
  name?: string;
  nodes?: { name: string; zone?: string; addresses?: string[]; pod_cidrs?: string[]; ready?: boolean }[];
  counts?: Record<string, number>;
  namespaces?: { name: string; pods: number; services: number }[];
  inventory?: string;
}

export interface FlannelNode {
  name: string;
  backend?: string;
  pod_cidrs?: string[];
  public_ip?: string;
  vni?: number;
  vtep_mac?: string;
  v6?: { public_ip?: string; vni?: number; vtep_mac?: string };
}

export interface Flannel {
  nodes?: FlannelNode[];
  vxlan_port?: number;
  differences?: { kind: string; node?: string; subject?: string; annotation?: string; host?: string; since?: string }[];
}

export interface Stats {
  totals?: Counters;
  by_direction?: Record<string, Counters>;
  by_protocol?: Record<string, Counters>;
  node_matrix?: (Counters & { source: string; target: string })[];
}

export interface Interface {
  name: string;
  node?: string;
  rx: { bytes: number; packets: number };
  tx: { bytes: number; packets: number };
  utilization?: number;
  series?: { t: string; rx_bytes: number; tx_bytes: number }[];
}

export interface Health {
  started?: string;
  version?: string;
  ready?: boolean;
  reason?: string;
  records?: Record<string, unknown>;
  graph?: Record<string, unknown>;
  ledger?: { outcome: string; cause?: string; packets: number; bytes: number }[];
}
