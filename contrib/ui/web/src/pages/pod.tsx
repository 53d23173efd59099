import { useMemo } from "preact/hooks";
import { core, pageOf, pathOf, send, session, type KubeObject } from "../api";
import { Events } from "../events";
import { bytes, command, count, cpus, quantity, tone } from "../format";
import { useKey } from "../keys";
import { useObject } from "../live";
import { LogView } from "../logview";
import { TerminalView } from "../terminal";
import type { PageProps } from "../pages";
import { useRights } from "../rights";
import { go, link, param } from "../router";
import { Age, Button, confirm, copy, Copyable, Empty, Facts, Failure, Live, Loading, PageHead, Panel, Status, Tabs } from "../ui";
import { visible, YAMLView } from "../yaml";
import { UsageCharts } from "../usagecharts";
import { usePodUsage } from "./pods";

export default function Pod({ params }: PageProps) {
  const ns = params.ns!, name = params.name!;
  const { object: pod, feed } = useObject<KubeObject>(pathOf(core("pods"), ns), name);
  const can = useRights(ns);
  const tab = param("tab") || "overview";
  const above = <><a href={link("/pods", { ns: "" })}>Pods</a> / <a href={link("/pods", { ns })}>{ns}</a></>;
  const runs = pod?.status?.phase === "Running";
  const tabs: [string, string][] = [["overview", "Overview"]];
  if (can("get", { group: "", plural: "pods/log" })) tabs.push(["logs", "Logs"]);
  if (runs && !session.value?.readOnly && can("create", { group: "", plural: "pods/exec" })) tabs.push(["terminal", "Terminal"]);
  tabs.push(["yaml", "YAML"]);
  const href = (t: string) => link(pageOf(core("pods"), ns, name), { tab: t === "overview" ? "" : t });
  const has = (t: string) => (pod && tabs.some(([id]) => id === t) ? () => go(href(t)) : null);
  useKey("l", has("logs"));
  useKey("s", has("terminal"));
  useKey("e", has("yaml"));
  const problem = feed.problem.value;
  if (feed.state.value === "ended" && problem) return <><PageHead above={above} title={name} /><Failure problem={problem} what={`pod ${name}`} /></>;
  if (pod === null) return <><PageHead above={above} title={name} /><Empty title="This pod is gone"><p>It was deleted, or there never was one of this name in {ns}.</p><p><a class="button" href={link("/pods", { ns })}>Pods of {ns}</a> <a class="button" href={link("/logs", { ns, pod: name, range: "7d" })}>Its log, if it was kept</a></p></Empty></>;
  if (!pod) return <><PageHead above={above} title={name} /><Loading /></>;

  const state = podState(pod);
  const containers = containerNames(pod);
  return (
    <>
      <PageHead above={above} title={name} note={<><Status text={state} /> <span class="muted">for <Age since={pod.status?.startTime ?? pod.metadata.creationTimestamp} /></span> <Live feed={feed} /></>}>
        <Button icon="copy" onClick={() => copy(command("km", "kubectl", "--namespace", ns, "describe", "pod", name), "the kubectl command")}>kubectl</Button>
        {can("create", { group: "", plural: "pods/eviction" }) && runs && <Button icon="evict" onClick={() => evict(pod)}>Evict</Button>}
        {can("delete", core("pods"), name) && <Button icon="trash" kind="danger" onClick={() => remove(pod)}>Delete</Button>}
      </PageHead>
      <Tabs now={tab} tabs={tabs} href={href} />
      {tab === "logs" ? <LogView ns={ns} pod={name} containers={containers} ended={/^(Succeeded|Failed)$/.test(pod.status?.phase)} restarted={restarts(pod) > 0} />
        : tab === "terminal" ? <TerminalView ns={ns} pod={name} containers={containers} />
        : tab === "yaml" ? <YAMLView object={{ apiVersion: "v1", kind: "Pod", ...pod }} path={can("update", core("pods"), name) ? pathOf(core("pods"), ns, name) : undefined} />
        : <Overview pod={pod} />}
    </>
  );
}

const containerNames = (pod: KubeObject): string[] =>
  [...(pod.spec.containers ?? []), ...(pod.spec.initContainers ?? []), ...(pod.spec.ephemeralContainers ?? [])].map((c: any) => c.name);

const statuses = (pod: KubeObject): any[] => [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? []), ...(pod.status?.ephemeralContainerStatuses ?? [])];

const restarts = (pod: KubeObject): number => statuses(pod).reduce((sum, s) => sum + (s.restartCount ?? 0), 0);

/** podState is the state that kubectl shows, as far as the status has it. */
export function podState(pod: KubeObject): string {
  if (pod.metadata.deletionTimestamp) return "Terminating";
  for (const s of statuses(pod)) {
    const reason = s.state?.waiting?.reason;
    if (reason && reason !== "PodInitializing") return reason;
    if (s.state?.terminated && s.state.terminated.exitCode !== 0) return s.state.terminated.reason ?? "Error";
  }
  return pod.status?.reason ?? (pod.status?.phase === "Succeeded" ? "Completed" : pod.status?.phase ?? "Unknown");
}

function Overview({ pod }: { pod: KubeObject }) {
  const ns = pod.metadata.namespace!, name = pod.metadata.name, notes = pod.metadata.annotations ?? {};
  const usage = usePodUsage(ns, name);
  const scheduled = pod.status?.conditions?.find((c: any) => c.type === "PodScheduled");
  const asked = useMemo(() => ({
    cpu: pod.spec.containers.reduce((s: number, c: any) => s + quantity(c.resources?.requests?.cpu), 0),
    memory: pod.spec.containers.reduce((s: number, c: any) => s + quantity(c.resources?.requests?.memory), 0),
  }), [pod]);
  const owner = pod.metadata.ownerReferences?.find((o) => o.controller);
  return (
    <div class="panels">
      {scheduled?.status === "False" && (
        <Panel title="Why it waits" class="wide attention-panel"><ul class="reasons">{reasonsOf(scheduled.message ?? scheduled.reason).map((r) => <li key={r}>{r}</li>)}</ul></Panel>
      )}
      <Panel title="Where it runs">
        <Facts facts={[
          ["Node", !pod.spec.nodeName ? <span class="muted">none yet</span> : <a href={link(pageOf(core("nodes"), "", pod.spec.nodeName))}>{pod.spec.nodeName}</a>],
          ["Address", (pod.status?.podIPs ?? []).map((i: any) => i.ip).join(", ")],
          ["Mesos task", notes["k8sm.io/task-id"] && <Copyable text={notes["k8sm.io/task-id"]} what="the task's id" />],
          ["Agent", notes["k8sm.io/agent-id"] && <Copyable text={notes["k8sm.io/agent-id"]} what="the agent's id" />],
          ["Offer", notes["k8sm.io/offer-id"] && <Copyable text={notes["k8sm.io/offer-id"]} what="the offer's id" />],
          ["Controller", owner && <a href={link(ownerPage(owner, ns))}>{owner.kind} {owner.name}</a>],
          ["Service account", pod.spec.serviceAccountName],
          ["Priority", pod.spec.priorityClassName],
        ]} />
      </Panel>
      <Panel title="What it needs">
        <Facts facts={[
          ["CPU", `${usage ? `${cpus(usage.cpu)} used, ` : ""}${asked.cpu ? cpus(asked.cpu) : "none"} requested`],
          ["Memory", `${usage ? `${bytes(usage.memory)} used, ` : ""}${asked.memory ? bytes(asked.memory) : "none"} requested`],
          ["QoS class", pod.status?.qosClass],
          ["Restarts", String(restarts(pod))],
          ["Created", <Age since={pod.metadata.creationTimestamp} />],
        ]} />
      </Panel>
      <Panel title="Containers" class="wide"><Containers pod={pod} /></Panel>
      {pod.spec.nodeName && <UsageCharts pod={pod} />}
      <Panel title="Conditions"><Conditions of={pod} /></Panel>
      <Panel title="Events"><Events of={pod} /></Panel>
      <Labels of={pod} />
    </div>
  );
}

/** ownerPage is the page of an owner. */
export function ownerPage(owner: { apiVersion: string; kind: string; name: string }, ns: string): string {
  const [version, group = ""] = owner.apiVersion.split("/").reverse();
  return pageOf({ group, version: version!, plural: `${owner.kind.toLowerCase()}s` }, ns, owner.name);
}

/** reasonsOf splits "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had …" into its reasons. */
export function reasonsOf(message: string): string[] {
  const [head, rest] = message.split(/: (.*)/s);
  if (!rest) return [message];
  return [head!, ...rest.replace(/\.$/, "").split(/, (?=\d+ |it )/)];
}

function Containers({ pod }: { pod: KubeObject }) {
  const all = [...(pod.spec.initContainers ?? []).map((c: any) => [c, "init"]), ...(pod.spec.containers ?? []).map((c: any) => [c, ""])] as [any, string][];
  const by = new Map(statuses(pod).map((s) => [s.name, s]));
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Containers"><table class="plain">
      <thead><tr><th scope="col">Name</th><th scope="col">State</th><th scope="col">Image</th><th scope="col">Ports</th><th scope="col" class="numeric">Restarts</th></tr></thead>
      <tbody>{all.map(([c, kind]) => {
        const s = by.get(c.name), [[which, detail] = ["waiting", {}]] = Object.entries<any>(s?.state ?? {});
        const text = which === "running" ? (s.ready ? "Running" : "Running, not ready") : detail?.reason ?? (which === "terminated" ? `Exited ${detail.exitCode}` : "Waiting");
        const t = which === "running" ? (s.ready ? "ok" : "warn") : which === "terminated" ? (detail.exitCode === 0 ? "done" : "bad") : tone(text);
        return (
          <tr key={c.name}>
            <td>{c.name}{kind && <small class="tag">{c.restartPolicy === "Always" ? "sidecar" : kind}</small>}</td>
            <td><Status text={text} tone={t} />{detail?.message && <p class="muted small">{detail.message}</p>}
              {s?.lastState?.terminated && <p class="muted small">before: {s.lastState.terminated.reason}, exit code {s.lastState.terminated.exitCode}, <Age since={s.lastState.terminated.finishedAt} /> ago</p>}</td>
            <td class="mono break">{c.image}</td>
            <td class="mono">{(c.ports ?? []).map((p: any) => `${p.containerPort}/${p.protocol ?? "TCP"}`).join(" ")}</td>
            <td class="numeric">{s?.restartCount ?? 0}</td>
          </tr>
        );
      })}</tbody>
    </table></div>
  );
}

/** good are conditions whose truth is bad news. */
const badIfTrue = /Pressure$|^NetworkUnavailable$|Problem$|Failure|^Failed$|^PodFailed|DisruptionTarget|Stalled|Degraded|NamesNotAccepted|^ScalingLimited$/;

export function Conditions({ of }: { of: KubeObject }) {
  const list: any[] = of.status?.conditions ?? [], ended = of.status?.phase === "Succeeded";
  if (!list.length) return <p class="muted">None</p>;
  return (
    <ul class="conditions">{list.map((c) => {
      const good = badIfTrue.test(c.type) ? c.status === "False" : c.status === "True";
      return <li key={c.type}><Status text={c.type} tone={c.status === "Unknown" ? "warn" : good ? "ok" : ended ? "none" : "bad"} /><span class="muted">{c.status}</span>
        <span class="muted right"><Age since={c.lastTransitionTime} /></span>{(c.message || c.reason) && !good && <p>{c.message || c.reason}</p>}</li>;
    })}</ul>
  );
}

export function Labels({ of }: { of: KubeObject }) {
  const labels = Object.entries(of.metadata.labels ?? {}), notes = Object.entries(visible(of).metadata.annotations ?? {});
  return (
    <Panel title="Labels and annotations" class="wide">
      {labels.length > 0 && <ul class="labels">{labels.map(([k, v]) => <li key={k}><code>{k}={v}</code></li>)}</ul>}
      {notes.length > 0 && <details><summary>{count(notes.length, "annotation")}</summary><Facts facts={notes.map(([k, v]) => [k, <code class="break">{v.length > 400 ? v.slice(0, 400) + "…" : v}</code>])} /></details>}
      {!labels.length && !notes.length && <p class="muted">None</p>}
    </Panel>
  );
}

function remove(pod: KubeObject) {
  const ns = pod.metadata.namespace!, name = pod.metadata.name, owner = pod.metadata.ownerReferences?.find((o) => o.controller);
  confirm({
    title: `Delete pod ${name}?`, action: "Delete", danger: true, done: `Pod ${name} is being deleted`,
    says: <><p>Its containers get SIGTERM, and {pod.spec.terminationGracePeriodSeconds ?? 30} s later SIGKILL. What they have written to their own files is lost.</p>
      <p>{owner ? `${owner.kind} ${owner.name} will make another pod in its place.` : "Nothing will make it again."}</p></>,
    do: () => send("DELETE", pathOf(core("pods"), ns, name), { preconditions: { uid: pod.metadata.uid } }).then(() => { go(link("/pods", { ns })); }),
  });
}

function evict(pod: KubeObject) {
  const ns = pod.metadata.namespace!, name = pod.metadata.name, owner = pod.metadata.ownerReferences?.find((o) => o.controller);
  confirm({
    title: `Evict pod ${name}?`, action: "Evict", danger: true, done: `Pod ${name} is being evicted`,
    says: <p>As deleting it, but not while a PodDisruptionBudget forbids it. {owner ? `${owner.kind} ${owner.name} will make another pod.` : "Nothing will make it again."}</p>,
    do: () => send("POST", `${pathOf(core("pods"), ns, name)}/eviction`, { apiVersion: "policy/v1", kind: "Eviction", metadata: { name, namespace: ns } }),
  });
}
