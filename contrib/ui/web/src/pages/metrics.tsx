import { useEffect, useMemo, useState } from "preact/hooks";
import cluster from "../../../../dashboards/cluster.json";
import dns from "../../../../dashboards/dns.json";
import etcd from "../../../../dashboards/etcd.json";
import mesos from "../../../../dashboards/mesos.json";
import nodes from "../../../../dashboards/nodes.json";
import pods from "../../../../dashboards/pods.json";
import scheduler from "../../../../dashboards/scheduler.json";
import { hasGroup } from "../api";
import { PromChart } from "../chart";
import { usePoll } from "../live";
import { named, prom, query, ranges, unit } from "../prom";
import { link, param, setParams } from "../router";
import { Table, type TableColumn } from "../table";
import { Age, Button, Empty, Failure, Loading, PageHead, Panel, Status, Tabs } from "../ui";

interface DashboardPanel { type: string; title: string; description?: string; fieldConfig?: { defaults?: { unit?: string } }; targets?: { expr: string; legendFormat?: string }[] }
interface Dashboard { title: string; description?: string; panels: DashboardPanel[] }

/** dashboards are those that km ships for Grafana. */
const dashboards: [string, string, Dashboard][] = [
  ["cluster", "Cluster", cluster as Dashboard], ["nodes", "Nodes", nodes as Dashboard], ["pods", "Pods", pods as Dashboard], ["scheduler", "Scheduler", scheduler as Dashboard], ["mesos", "Mesos", mesos as Dashboard],
  ["dns", "DNS", dns as Dashboard], ["etcd", "etcd", etcd as Dashboard],
];

export default function Metrics() {
  const tab = param("tab") || "cluster", seconds = (ranges.find(([id]) => id === (param("range") || "1h")) ?? ranges[1]!)[2];
  const [there, setThere] = useState<boolean | null>(null);
  useEffect(() => { hasGroup("monitoring.k8sm.io").then(setThere, () => setThere(true)); }, []);
  const dashboard = dashboards.find(([id]) => id === tab)?.[2];
  return (
    <>
      <PageHead title="Metrics" note={dashboard?.description ?? (tab === "query" ? "Ask in PromQL." : tab === "alerts" ? "What needs somebody, and the rules that say so." : "What is read every 30 seconds, and what does not answer.")}>
        {(dashboard || tab === "query") && <label class="select"><span>Last</span><select value={param("range") || "1h"} onChange={(e) => setParams({ range: e.currentTarget.value === "1h" ? "" : e.currentTarget.value })}>{ranges.map(([id, name]) => <option key={id} value={id}>{name}</option>)}</select></label>}
      </PageHead>
      <Tabs now={tab} tabs={[...dashboards.map(([id, name]): [string, string] => [id, name]), ["query", "Query"], ["alerts", "Alerts"], ["targets", "Targets"]]}
        href={(t) => link("/metrics", { tab: t === "cluster" ? "" : t, range: param("range") })} />
      {there === false ? <Empty title="This cluster keeps no metrics"><p>It was started with <code>--metrics=false</code>, or its API server listens on loopback only.</p></Empty>
        : there === null ? <Loading />
        : dashboard ? <Shown key={tab} dashboard={dashboard} seconds={seconds} /> : tab === "query" ? <Query seconds={seconds} /> : tab === "alerts" ? <Alerts /> : <Targets />}
    </>
  );
}

function Shown({ dashboard, seconds }: { dashboard: Dashboard; seconds: number }) {
  const stats = dashboard.panels.filter((p) => p.type === "stat"), charts = dashboard.panels.filter((p) => p.type === "timeseries");
  const first = usePoll(() => query("vector(1)"), 60, "may");
  if (first.problem && !first.value) return <Failure problem={first.problem} what="metrics">{first.problem.code === 403 && <p>An administrator can bind you to the ClusterRole <code>k8sm:prometheus-reader</code>.</p>}</Failure>;
  return (
    <>
      <ul class="stats">{stats.map((p) => <Stat key={p.title} panel={p} />)}</ul>
      <div class="panels charts">{charts.map((p) => (
        <PromChart key={p.title} title={p.title} of={p.fieldConfig?.defaults?.unit} seconds={seconds} targets={(p.targets ?? []).map((t) => ({ expr: t.expr, legend: t.legendFormat }))} />
      ))}</div>
    </>
  );
}

function Stat({ panel }: { panel: DashboardPanel }) {
  const { value, problem } = usePoll(() => query(panel.targets![0]!.expr), 30, panel.targets![0]!.expr);
  const shown = value?.[0] ? unit(panel.fieldConfig?.defaults?.unit, Number(value[0].value[1])) : value || problem ? "–" : "…";
  return <li title={problem?.message ?? panel.description}><b>{shown}</b><span>{panel.title}</span></li>;
}

/** Query takes PromQL. It offers names of metrics for the last word. */
function Query({ seconds }: { seconds: number }) {
  const asked = param("expr");
  const [text, setText] = useState(asked);
  const names = usePoll(() => prom<string[]>("label/__name__/values"), 300, "names").value ?? [];
  const word = /[a-zA-Z_:][\w:]*$/.exec(text)?.[0] ?? "";
  const offered = useMemo(() => (word.length < 2 ? [] : names.filter((n) => n.includes(word) && n !== word).slice(0, 8)), [word, names]);
  const result = usePoll(async () => (asked ? query(asked) : []), 30, asked);
  const columns: TableColumn<{ name: string; value: number }>[] = [
    { id: "series", title: "Series", text: (r) => r.name, keep: 100, mono: true }, { id: "value", title: "Value", text: (r) => String(r.value), order: (r) => r.value, numeric: true, keep: 90 },
  ];
  return (
    <div class="edit">
      <form class="toolbar" onSubmit={(e) => { e.preventDefault(); setParams({ expr: text }, true); }}>
        <label class="filter wide"><input aria-label="PromQL" placeholder='sum by (namespace) (container_memory_working_set_bytes{container!=""})' value={text} spellcheck={false} autocomplete="off" autocapitalize="off"
          onInput={(e) => setText(e.currentTarget.value)} onKeyDown={(e) => { if (e.key === "Tab" && offered[0]) { e.preventDefault(); setText(text.slice(0, text.length - word.length) + offered[0]); } }} /></label>
        <Button type="submit" kind="primary" disabled={!text}>Ask</Button>
      </form>
      {offered.length > 0 && <ul class="suggested" aria-label="Metrics of this name">{offered.map((n) => <li key={n}><button type="button" class="button" onClick={() => setText(text.slice(0, text.length - word.length) + n)}>{n}</button></li>)}</ul>}
      {!asked ? <Empty title="Ask something"><p>Such as <a href={link("/metrics", { tab: "query", expr: "up" })}>up</a>, or <a href={link("/metrics", { tab: "query", expr: "sum by (pod) (rate(container_cpu_usage_seconds_total{container!=\"\"}[5m]))" })}>CPU by pod</a>.</p></Empty>
        : result.problem && !result.value ? <Failure problem={result.problem} what="that" />
        : <>
          <PromChart title={asked} targets={[{ expr: asked }]} seconds={seconds} />
          <Table label="series" items={(result.value ?? []).map((r) => ({ name: named(r.metric), value: Number(r.value[1]) }))} columns={columns} keyOf={(r) => r.name} loading={!result.value} empty={<Empty title="Nothing has that name now" />} />
        </>}
    </div>
  );
}

interface Rule { name: string; state?: string; health: string; lastError?: string; query: string; type: string; labels?: Record<string, string>; annotations?: Record<string, string>; alerts?: { state: string; activeAt: string; labels: Record<string, string>; annotations: Record<string, string>; value: string }[] }

function Alerts() {
  const { value, problem } = usePoll(() => prom<{ groups: { name: string; rules: Rule[] }[] }>("rules"), 15, "rules");
  if (problem && !value) return <Failure problem={problem} what="alerts" />;
  if (!value) return <p class="muted">Loading…</p>;
  const rules = value.groups.flatMap((g) => g.rules.filter((r) => r.type === "alerting"));
  const order: Record<string, number> = { firing: 0, pending: 1, inactive: 2 };
  const sorted = [...rules].sort((a, b) => (order[a.state ?? ""] ?? 3) - (order[b.state ?? ""] ?? 3) || a.name.localeCompare(b.name));
  const active = sorted.filter((r) => r.alerts?.length);
  return (
    <div class="panels">
      <Panel title="Now" class="wide">
        {active.length ? <ul class="events">{active.flatMap((r) => r.alerts!.map((a, i) => (
          <li key={r.name + i}><Status text={r.name} tone={a.state === "firing" ? "bad" : "warn"} /><span class="muted">{a.state}</span><span class="muted right"><Age since={a.activeAt} /></span>
            <p>{a.annotations?.summary ?? a.annotations?.description ?? r.query}</p></li>
        )))}</ul> : <Empty title="No alert fires" />}
      </Panel>
      <Panel title="Rules" class="wide"><div class="scroll" tabIndex={0} role="region" aria-label="Rules"><table class="plain">
        <thead><tr><th scope="col">Rule</th><th scope="col">State</th><th scope="col">Expression</th></tr></thead>
        <tbody>{sorted.map((r) => <tr key={r.name + r.query}><td>{r.name}</td><td><Status text={r.health === "err" ? r.lastError ?? "cannot be evaluated" : r.state ?? ""} tone={r.health === "err" || r.state === "firing" ? "bad" : r.state === "pending" ? "warn" : "ok"} /></td><td class="mono break">{r.query}</td></tr>)}</tbody>
      </table></div></Panel>
    </div>
  );
}

interface ScrapeTarget { labels: Record<string, string>; scrapePool: string; scrapeUrl: string; lastError: string; lastScrape: string; lastScrapeDuration: number; health: string }

function Targets() {
  const { value, problem } = usePoll(() => prom<{ activeTargets: ScrapeTarget[] }>("targets", { state: "active" }), 15, "targets");
  const columns = useMemo((): TableColumn<ScrapeTarget>[] => [
    { id: "state", title: "State", text: (t) => t.health, show: (t) => <Status text={t.health} tone={t.health === "up" ? "ok" : t.health === "down" ? "bad" : "busy"} />, order: (t) => (t.health === "up" ? 1 : 0), keep: 90 },
    { id: "job", title: "Job", text: (t) => t.labels.job ?? t.scrapePool, keep: 80 },
    { id: "target", title: "Target", text: (t) => [t.labels.namespace, t.labels.pod].filter(Boolean).join("/") || t.labels.node || t.labels.instance || t.scrapeUrl, keep: 100 },
    { id: "path", title: "Path", text: (t) => t.labels.metrics_path ?? "", mono: true, keep: 20 },
    { id: "error", title: "Why not", text: (t) => (t.health === "up" ? "" : t.lastError), keep: 60, sparse: true },
    { id: "took", title: "Took", text: (t) => unit("s", t.lastScrapeDuration), order: (t) => t.lastScrapeDuration, numeric: true, keep: 10 },
  ], []);
  if (problem && !value) return <Failure problem={problem} what="targets" />;
  const list = [...(value?.activeTargets ?? [])].sort((a, b) => Number(a.health === "up") - Number(b.health === "up"));
  return <Table label="targets" items={list} columns={columns} keyOf={(t) => t.scrapeUrl + t.labels.job + (t.labels.metrics_path ?? "")} loading={!value} empty={<Empty title="Nothing is read" />} />;
}
