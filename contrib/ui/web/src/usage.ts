// What pods used over a time: the metrics server's fixed queries for a namespace (docs/metrics.md), which those may ask who see its pods.
import { signal, type Signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { backOff, hasGroup, k8s, type KubeObject } from "./api";
import { quantity } from "./format";
import { usePoll } from "./live";
import type { Series } from "./prom";

export type What = "cpu" | "memory" | "network-received" | "network-sent";

const group = "monitoring.k8sm.io";

/** Span is a time up to now, and how far the values in it are apart, in seconds. */
interface Span { seconds: number; step: number }

/** usageOf asks what a pod used, or each of a namespace by "*": cpus, bytes, or bytes a second. */
export async function usageOf(ns: string, pod: string, what: What, { seconds, step }: Span): Promise<Series[]> {
  const end = Math.floor(Date.now() / 15_000) * 15; // as often as there are new values
  const query = new URLSearchParams({ start: String(end - seconds), end: String(end), step: String(step) });
  const answer = await k8s<{ data: { result: Series[] } }>(`/apis/${group}/v1/namespaces/${encodeURIComponent(ns)}/pods/${pod === "*" ? pod : encodeURIComponent(pod)}/${what}?${query}`);
  return answer.data.result;
}

/** keepsUsage tells whether the cluster keeps what pods used. */
export const keepsUsage = (): Promise<boolean> => hasGroup(group);

export interface NodeUsage { metadata: { name: string }; usage: { cpu: string; memory: string } }

/** machinesUse is what the machines of nodes use. Each of the nodes of one machine has measured all of it: what its kernel calls this boot
 * says which they are. */
export function machinesUse(nodes: KubeObject[], measured: NodeUsage[]): { cpu: number; memory: number } {
  const machine = new Map(nodes.map((n) => [n.metadata.name, n.status?.nodeInfo?.bootID || n.metadata.name]));
  const each = [...new Map(measured.map((m) => [machine.get(m.metadata.name) ?? m.metadata.name, m.usage])).values()];
  return { cpu: each.reduce((sum, u) => sum + quantity(u.cpu), 0), memory: each.reduce((sum, u) => sum + quantity(u.memory), 0) };
}

/** Line is a small line: its values from old to new, null where nothing was measured. */
type Line = (number | null)[];

/** lineSpan is what a small line shows. */
const lineSpan: Span = { seconds: 1800, step: 90 };
const fresh = 60_000, refused = 300_000; // milliseconds until a namespace is asked again
const atOnce = 4; // requests

/** Lines are those of a namespace's pods. They are asked for by one request, while a pod of it is in sight. */
class Lines {
  readonly of: Signal<Map<string, Line>> = signal(new Map());
  users = 0;
  next = 0; // when to ask again
  asking = false;
  failed = 0;
  constructor(readonly ns: string, readonly what: What) {}

  async ask() {
    this.asking = true;
    let wait = fresh;
    try {
      if (!await keepsUsage()) wait = refused;
      else this.of.value = linesOf(await usageOf(this.ns, "*", this.what, lineSpan), lineSpan);
      this.failed = 0;
    } catch (error: any) {
      if (error.code === 403 || error.code === 404) { wait = refused; this.of.value = new Map(); } else wait = backOff(this.failed++, fresh);
    }
    this.next = Date.now() + wait;
    this.asking = false;
  }
}

/** linesOf puts series of pods into as many places as a span has. */
export function linesOf(series: Series[], { seconds, step }: Span): Map<string, Line> {
  const end = Math.max(0, ...series.map((s) => s.values[s.values.length - 1]?.[0] ?? 0)), places = Math.floor(seconds / step) + 1;
  return new Map(series.map((s) => {
    const line: Line = new Array(places).fill(null);
    for (const [t, v] of s.values) {
      const at = places - 1 - Math.round((end - t) / step), value = Number(v);
      if (at >= 0 && Number.isFinite(value)) line[at] = value;
    }
    return [s.metric.pod ?? "", line];
  }));
}

const all = new Map<string, Lines>();
let timer = 0;

/** ask asks for what is in sight and old, and forgets what has been out of sight for long. */
function ask() {
  timer = 0;
  if (document.visibilityState !== "visible") return;
  const now = Date.now();
  for (const l of all.values()) if (!l.users && l.next && l.next < now) { l.next = 0; l.of.value = new Map(); }
  const used = [...all.values()].filter((l) => l.users), busy = used.filter((l) => l.asking).length;
  if (!used.length) return;
  for (const l of used.filter((u) => !u.asking && u.next <= now).slice(0, atOnce - busy)) void l.ask().then(() => soon(0));
  soon(Math.max(500, Math.min(10_000, ...used.filter((u) => !u.asking).map((u) => u.next - now))));
}

function soon(milliseconds: number) {
  clearTimeout(timer);
  timer = window.setTimeout(ask, milliseconds);
}

document.addEventListener("visibilitychange", ask);

/** useLine is the small line of a pod; undefined while or where there is none. */
export function useLine(ns: string, pod: string, what: What): Line | undefined {
  const key = `${what} ${ns}`;
  const lines = useMemo(() => {
    const found = all.get(key) ?? new Lines(ns, what);
    all.set(key, found);
    return found;
  }, [key]);
  useEffect(() => {
    lines.users++;
    soon(150); // rows that are only scrolled past are gone by then
    return () => { lines.users--; };
  }, [lines]);
  return lines.of.value.get(pod);
}

/** useKeepsUsage is false until it is known. */
export const useKeepsUsage = (): boolean => usePoll(keepsUsage, 300, group).value ?? false;
