// Questions to the cluster's history of metrics (https://prometheus.io/docs/prometheus/latest/querying/api/).
import { k8s } from "./api";
import { bytes, cpus, span } from "./format";

const base = "/apis/monitoring.k8sm.io/v1/prometheus/api/v1/";

/** prom asks the API; the answer is what is below "data". */
export async function prom<T>(path: string, query: Record<string, string> = {}): Promise<T> {
  const answer = await k8s<{ data: T }>(`${base}${path}?${new URLSearchParams(query)}`);
  return answer.data;
}

export interface Series { metric: Record<string, string>; values: [number, string][] }
export interface Instant { metric: Record<string, string>; value: [number, string] }

/** Range is the time that charts show, in seconds up to now. */
export const ranges: [string, string, number][] = [["15m", "15 minutes", 900], ["1h", "1 hour", 3600], ["6h", "6 hours", 21600], ["1d", "1 day", 86400], ["7d", "7 days", 604800]];

const stepOf = (seconds: number) => Math.max(15, Math.ceil(seconds / 240 / 15) * 15);

/** filled replaces what dashboards for Grafana leave open. */
const filled = (expr: string, step: number, values: Record<string, string> = {}) =>
  expr.replaceAll("$__rate_interval", `${Math.max(120, 4 * step)}s`).replace(/\$(\w+)/g, (_, name) => values[name] ?? ".*");

export async function queryRange(expr: string, seconds: number): Promise<Series[]> {
  const end = Math.floor(Date.now() / 1000), step = stepOf(seconds);
  const found = await prom<{ result: Series[] }>("query_range", { query: filled(expr, step), start: String(end - seconds), end: String(end), step: String(step) });
  return found.result;
}

export async function query(expr: string): Promise<Instant[]> {
  const found = await prom<{ resultType: string; result: any }>("query", { query: filled(expr, 30) });
  if (found.resultType === "scalar" || found.resultType === "string") return [{ metric: {}, value: found.result }];
  return found.resultType === "matrix" ? found.result.map((s: Series) => ({ metric: s.metric, value: s.values[s.values.length - 1] })) : found.result;
}

/** named writes a series' name by a legend such as {{node}}, or by its labels. */
export function named(metric: Record<string, string>, legend?: string): string {
  if (legend) return legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => metric[name] ?? "").trim();
  const { __name__: name = "", ...labels } = metric;
  const text = Object.entries(labels).map(([k, v]) => `${k}="${v}"`).join(", ");
  return text ? `${name}{${text}}` : name || "value";
}

/** unit writes a value in the unit of a dashboard. */
export function unit(name: string | undefined, n: number): string {
  if (!Number.isFinite(n)) return "–";
  switch (name) {
    case "cpus": return cpus(n);
    case "bytes": return bytes(n);
    case "mbytes": return bytes(n * 2 ** 20);
    case "Bps": return `${bytes(n)}/s`;
    case "percentunit": return `${(n * 100).toFixed(n < 0.1 ? 1 : 0)} %`;
    case "s": return n >= 120 ? span(n) : n >= 1 ? `${cpus(n)} s` : `${cpus(n * 1000)} ms`;
    case "ms": return `${cpus(n)} ms`;
    case "reqps": case "ops": return `${n >= 0.1 || n === 0 ? cpus(n) : n.toPrecision(2)}/s`;
  }
  return Math.abs(n) >= 1e6 ? n.toExponential(2) : Number.isInteger(n) ? n.toLocaleString("en") : String(Number(n.toPrecision(3)));
}
