import { useMemo } from "preact/hooks";
import { core, hasGroup, k8s, mesos, pathOf, session, type KubeObject } from "../api";
import { EventList, eventFields, lastSeen, newestFirst, type KubeEvent } from "../events";
import { bytes, count, cpus, quantity, tone } from "../format";
import { amount, partsOf, titles, useOf, type MesosState, type QueueReasons } from "../mesos";
import { PodLink } from "./queue";
import { useMesosState, useObjects, usePoll, useTable, type Problem } from "../live";
import { query } from "../prom";
import { link } from "../router";
import { Bar, Empty, PageHead, Panel, Status } from "../ui";
import { machinesUse, type NodeUsage } from "../usage";

export default function Overview() {
  const { state, problem } = useMesosState<MesosState>();
  const waiting = usePoll<QueueReasons | undefined>(async () => (session.value?.mesos ? mesos("queue/reasons") : undefined), 3, "reasons");
  const nodes = useObjects<KubeObject>(pathOf(core("nodes")), ["status.conditions", "status.allocatable", "status.nodeInfo.bootID"]);
  const pods = useTable(pathOf(core("pods")));
  const own = pods.items.value.filter((p) => p.ns !== "kube-system");
  return (
    <>
      <PageHead title="Overview" note="Mesos offers what its agents have. Kubernetes runs pods in those offers." />
      <div class="panels">
        <Mesos state={state} problem={problem} />
        <Kubernetes nodes={nodes.items.value} pods={pods.items.value} denied={pods.problem.value} />
        <Waiting waiting={waiting.value} problem={waiting.problem} />
        <Health state={state} mesos={problem} nodes={nodes.items.value} />
        {pods.state.value === "live" && !own.length && <FirstRun />}
        <Alerts />
        <Panel title="Latest warnings" class="wide" note={<a href={link("/events", { type: "Warning" })}>all events</a>}>
          <Warnings />
        </Panel>
      </div>
    </>
  );
}

/** Alerts are those that fire, for who may read metrics. */
function Alerts() {
  const { value } = usePoll(async () => (await hasGroup("monitoring.k8sm.io") ? query('ALERTS{alertstate="firing"}') : []), 30, "alerts");
  if (!value?.length) return null;
  return (
    <Panel title="Alerts" class="wide" note={<a href={link("/metrics", { tab: "alerts" })}>all rules</a>}>
      <ul class="events">{value.map(({ metric: { alertname = "", alertstate: _, __name__: __, ...labels } }, i) => (
        <li key={alertname + i}><Status text={alertname} tone="bad" /><span class="muted break">{Object.entries(labels).map(([k, v]) => `${k}=${v}`).join(" ")}</span></li>
      ))}</ul>
    </Panel>
  );
}

function Warnings() {
  const feed = useObjects<KubeEvent>(pathOf(core("events")) + "?fieldSelector=type%3DWarning", eventFields);
  const latest = useMemo(() => newestFirst(feed.items.value, lastSeen).slice(0, 8), [feed.items.value]);
  if (!latest.length) return <p class="muted">{feed.problem.value?.message || (feed.state.value === "loading" ? "Loading…" : "No warnings in the last hour")}</p>;
  return <EventList events={latest} objects />;
}

const unknown = "This server knows no scheduler, so it shows Kubernetes only.";

/** Mesos is what the agents have, and who has it. */
function Mesos({ state, problem }: { state: MesosState | undefined; problem: Problem | null }) {
  const agents = (state?.agents ?? []).filter((a) => !a.missing);
  return (
    <Panel title="What Mesos gives" note={agents.length ? count(agents.length, "agent") : undefined}>
      {state && agents.length > 0 ? <>
        {["cpus", "mem"].map((name) => {
          const use = useOf(agents, state.framework, name);
          return <div key={name}><h3>{titles[name]} <span class="muted">{amount(name, use.total)} in all</span></h3><Bar parts={partsOf(use, name)} total={use.total} label={titles[name]!} /></div>;
        })}
        <p class="muted small">Shared with {state.frameworks.filter((f) => f.id !== state.framework && f.active).map((f) => f.name).join(", ") || "no other framework"}.</p>
      </> : <p class="muted">{!session.value?.mesos ? unknown : state?.problem ?? problem?.message ?? (state ? "Mesos has no agents yet." : "Asking the scheduler…")}</p>}
    </Panel>
  );
}

/** useNodeUsage is what each node measured, or undefined where the cluster has no metrics. */
function useNodeUsage() {
  return usePoll(async () => {
    if (!await hasGroup("metrics.k8s.io")) return undefined;
    return (await k8s<{ items: NodeUsage[] }>("/apis/metrics.k8s.io/v1beta1/nodes")).items;
  }, 15, "nodes").value;
}

function Kubernetes({ nodes, pods, denied }: { nodes: KubeObject[]; pods: { cells: unknown[] }[]; denied: Problem | null }) {
  const measured = useNodeUsage(), usage = measured && machinesUse(nodes, measured);
  const states = useMemo(() => {
    const by = new Map<string, number>();
    for (const p of pods) by.set(String(p.cells[2]), (by.get(String(p.cells[2])) ?? 0) + 1);
    return [...by].sort((a, b) => b[1] - a[1]);
  }, [pods]);
  const ready = nodes.filter((n) => n.status?.conditions?.some((c: any) => c.type === "Ready" && c.status === "True"));
  const cpu = nodes.reduce((s, n) => s + quantity(n.status?.allocatable?.cpu), 0), memory = nodes.reduce((s, n) => s + quantity(n.status?.allocatable?.memory), 0);
  return (
    <Panel title="What Kubernetes runs" note={<a href={link("/pods")}>{count(pods.length, "pod")}</a>}>
      {denied?.code === 403 ? <p class="muted">{denied.message}</p> : <ul class="tiles">
        {states.slice(0, 6).map(([state, n]) => <li key={state}><a href={link("/pods", { q: state.toLowerCase() })}><b>{n.toLocaleString("en")}</b><Status text={state} tone={tone(state)} /></a></li>)}
        {!states.length && <li><b>0</b><span class="muted">pods</span></li>}
      </ul>}
      {nodes.length > 0 && <p class="muted">{ready.length} of {count(nodes.length, "node")} ready · {cpus(cpu)} CPUs and {bytes(memory)} for pods{usage && <>; their machines use {cpus(usage.cpu)} and {bytes(usage.memory)}</>}</p>}
    </Panel>
  );
}

function Waiting({ waiting, problem }: { waiting: QueueReasons | undefined; problem: Problem | null }) {
  const most = Math.max(1, ...(waiting?.groups ?? []).map((g) => g.pods));
  return (
    <Panel title="Why pods wait" note={waiting?.pods ? <a href={link("/queue")}>{count(waiting.pods, "pod")} {waiting.pods === 1 ? "waits" : "wait"}</a> : undefined}>
      {!waiting ? <p class="muted">{!session.value?.mesos ? unknown : problem?.message ?? "Asking the scheduler…"}</p>
        : !waiting.pods ? <Empty title="No pod waits"><p>Each pod that needs a Mesos task has one.</p></Empty>
        : <ul class="waiting">{waiting.groups.slice(0, 8).map((g) => (
          <li key={g.reason}><span>{g.reason}</span><b>{g.pods}</b>
            <svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect class="rest" width="100" height="4" /><rect class="warned" width={(g.pods / most) * 100} height="4" /></svg>
            <p class="muted small">{g.examples.slice(0, 3).map((e, i) => <span key={e.pod}>{i > 0 && ", "}<PodLink pod={e.pod} /></span>)}{g.pods > 3 && ` and ${(g.pods - 3).toLocaleString("en")} more`}{g.examples[0]?.detail && ` · ${g.examples[0].detail}`}</p></li>
        ))}</ul>}
    </Panel>
  );
}

/** served are parts of the cluster by the APIs that they serve. */
const served: Record<string, string> = { "v1.logs.k8sm.io": "Log store", "v1.monitoring.k8sm.io": "Metrics", "v1beta1.metrics.k8s.io": "Metrics, current" };

/** Health says of each part of the cluster whether it answers. */
function Health({ state, mesos: problem, nodes }: { state: MesosState | undefined; mesos: Problem | null; nodes: KubeObject[] }) {
  const ready = usePoll(() => k8s("/apis/apiregistration.k8s.io/v1/apiservices").then((l) => l.items.filter((a: any) => a.spec.service).map((a: any): [string, boolean] =>
    [a.metadata.name, a.status?.conditions?.some((c: any) => c.type === "Available" && c.status === "True")])), 15, "apiservices");
  const dns = useObjects<KubeObject>("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkube-dns");
  const version = usePoll(() => k8s("/version"), 60, "version");
  const answers = dns.items.value.some((s) => s.endpoints?.some((e: any) => e.conditions?.ready !== false));
  const bad = nodes.filter((n) => !n.status?.conditions?.some((c: any) => c.type === "Ready" && c.status === "True"));
  const parts: [string, string, string][] = [
    ["API server", version.problem ? version.problem.message : version.value ? version.value.gitVersion : "…", version.problem ? "bad" : version.value ? "ok" : "busy"],
    ["Scheduler", !session.value?.mesos ? "not known here" : state ? "leads" : problem?.message ?? "…", state ? "ok" : problem && session.value?.mesos ? "warn" : "none"],
    ["Mesos master", state?.noMasterSince ? `no master answers since ${new Date(state.noMasterSince).toLocaleTimeString()}` : state?.master ? `${state.master.hostname}, ${state.master.version}` : "not known", state?.noMasterSince ? "bad" : state?.master ? "ok" : "none"],
    ["DNS", answers ? "answers" : dns.state.value === "live" ? "no server is ready" : "not known", answers ? "ok" : dns.state.value === "live" ? "bad" : "none"],
    ["Nodes", !nodes.length ? "none yet: an agent becomes one with its first offer" : bad.length ? `not ready: ${bad.slice(0, 3).map((n) => n.metadata.name).join(", ")}` : "all ready", !nodes.length ? "none" : bad.length ? "bad" : "ok"],
    ...((ready.value ?? []) as [string, boolean][]).map(([name, ok]): [string, string, string] => [served[name] ?? name, ok ? "answers" : "does not answer", ok ? "ok" : "bad"]),
  ];
  return <Panel title="Health"><ul class="health">{parts.map(([name, text, t]) => <li key={name}><Status text={name} tone={t} /><span class="muted">{text}</span></li>)}</ul></Panel>;
}

const FirstRun = () => (
  <Panel title="Try it" class="wide">
    <p>Nothing of yours runs here yet. In a terminal on this machine:</p>
    <pre class="code">{`km kubectl run hello --image=busybox -- sleep 1h     # a pod, which is a Mesos task
km tasks                                             # the task
km kubectl get nodes -o wide                         # Mesos agents as nodes`}</pre>
  </Panel>
);
