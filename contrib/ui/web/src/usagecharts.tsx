// Charts of what a pod used.
import { type KubeObject } from "./api";
import { Chart, type Limit, type Named } from "./chart";
import { quantity } from "./format";
import { usePoll } from "./live";
import { ranges } from "./prom";
import { param, setParams } from "./router";
import { Panel } from "./ui";
import { keepsUsage, usageOf, type What } from "./usage";

const most = 240; // values of a chart

interface Used { cpu: Named[]; memory: Named[]; network: Named[] }

/** usedBy asks what a pod used: each container's CPU and memory, and what the pod received and sent. undefined is that nobody keeps it. */
async function usedBy(ns: string, pod: string, seconds: number): Promise<Used | undefined> {
  if (!await keepsUsage()) return undefined;
  const ask = async (what: What, name: string) =>
    (await usageOf(ns, pod, what, { seconds, step: Math.max(30, Math.ceil(seconds / most / 30) * 30) })).map((s) => ({ ...s, name: s.metric.container ?? name }));
  const [cpu, memory, received, sent] = await Promise.all([ask("cpu", "CPU"), ask("memory", "memory"), ask("network-received", "received"), ask("network-sent", "sent")]);
  return { cpu, memory, network: [...received, ...sent] };
}

/** limitsOf are the pod's requests and limits of a resource, as far as it has any. A limit counts if all containers have one. */
export function limitsOf(pod: KubeObject, resource: "cpu" | "memory"): Limit[] {
  const sum = (of: "requests" | "limits") => pod.spec.containers.map((c: any) => quantity(c.resources?.[of]?.[resource]));
  const asked = sum("requests").reduce((a: number, b: number) => a + b, 0), limits: number[] = sum("limits");
  const found: Limit[] = asked ? [{ name: "requested", value: asked }] : [];
  if (limits.length && limits.every(Boolean)) found.push({ name: "limit", value: limits.reduce((a, b) => a + b, 0) });
  return found;
}

/** UsageCharts are charts of a pod's CPU, memory and network, or one sentence why there are none. */
export function UsageCharts({ pod }: { pod: KubeObject }) {
  const ns = pod.metadata.namespace!, name = pod.metadata.name;
  // Of a young pod, the last minutes say more than the last hour.
  const usual = Date.now() - Date.parse(pod.status?.startTime ?? "") < 900_000 ? "15m" : "1h";
  const range = ranges.find(([id]) => id === (param("range") || usual)) ?? ranges[1]!;
  const { value, problem } = usePoll(() => usedBy(ns, name, range[2]).then((used) => ({ used })), 30, `${ns}/${name}/${range[0]}`);
  const used = value?.used;
  const choice = (
    <label class="select"><span>Last</span><select value={range[0]} aria-label="Time of the charts" onChange={(e) => setParams({ range: e.currentTarget.value === usual ? "" : e.currentTarget.value })}>
      {ranges.map(([id, title]) => <option key={id} value={id}>{title}</option>)}</select></label>
  );
  if (!used || ![used.cpu, used.memory, used.network].some((s) => s.length)) {
    return <Panel title="Usage" class="wide" note={used && choice}><p class="muted">{problem ? whyNot(problem, ns) : !value ? "Loading…" : !used
      ? "This cluster keeps no metrics: it was started with --metrics=false, or its API server listens on loopback only."
      : `Nothing was measured in this time. The first values of a new pod come after a minute or two.`}</p></Panel>;
  }
  const charts: [string, Named[], string | undefined, Limit[]][] = [
    ["CPU", used.cpu, "cpus", limitsOf(pod, "cpu")], ["Memory", used.memory, "bytes", limitsOf(pod, "memory")], ["Network", used.network, "Bps", []],
  ];
  return (
    <Panel title="Usage" class="wide" note={choice}>
      <div class="usage">{charts.map(([title, series, of, limits]) => (
        <section key={title} aria-label={title}><h3>{title}</h3>
          {!series.length && title === "Network" ? <div class="chart-empty muted">{pod.spec.hostNetwork ? "It uses its node's network." : "Nothing was measured in this time"}</div>
            : <Chart label={title} series={series} of={of} seconds={range[2]} limits={limits} />}</section>
      ))}</div>
    </Panel>
  );
}

const whyNot = (problem: { code: number; message: string }, ns: string) => (problem.code === 403
  ? `You may not see what pods of ${ns} used: that needs the right to get pods/cpu and the like in the group monitoring.k8sm.io, which the role view includes.`
  : `The metrics server does not answer: ${problem.message}`);
