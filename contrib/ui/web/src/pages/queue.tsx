import { useMemo } from "preact/hooks";
import { core, mesos, pageOf, session } from "../api";
import { count, span } from "../format";
import { usePoll } from "../live";
import { podPath, type LiveTask, type QueueReasons, type WaitingPod } from "../mesos";
import { link, param } from "../router";
import { Table, type TableColumn } from "../table";
import { Age, Empty, Failure, now, PageHead, Panel, Status, Tabs } from "../ui";

export default function Queue() {
  const view = param("view") || "reasons";
  const reasons = usePoll<QueueReasons>(() => mesos("queue/reasons"), 2, "reasons");
  if (!session.value?.mesos) return <><PageHead title="Tasks and queue" /><Empty title="This server knows no scheduler"><p>It shows Kubernetes only.</p></Empty></>;
  return (
    <>
      <PageHead title="Tasks and queue" note={reasons.value ? (reasons.value.pods ? `${count(reasons.value.pods, "pod")} ${reasons.value.pods === 1 ? "waits" : "wait"} for a task.` : "No pod waits.") : "Each pod is a Mesos task."} />
      <Tabs now={view} tabs={[["reasons", "Why pods wait"], ["pods", "Waiting pods"], ["tasks", "Tasks"]]} href={(v) => link("/queue", { view: v === "reasons" ? "" : v })} />
      {view === "tasks" ? <Tasks /> : view === "pods" ? <Waiting /> : reasons.problem && !reasons.value ? <Failure problem={reasons.problem} what="the queue" /> : <Reasons reasons={reasons.value} />}
    </>
  );
}

/** PodLink leads to the page of a pod, written as namespace/name. */
export const PodLink = ({ pod }: { pod: string }) => { const [ns, name] = podPath(pod); return <a href={link(pageOf(core("pods"), ns, name))}>{pod}</a>; };

function Reasons({ reasons }: { reasons: QueueReasons | undefined }) {
  if (!reasons) return <p class="muted">Asking the scheduler…</p>;
  if (!reasons.pods) return <Empty title="No pod waits"><p>Each pod that needs a task has one.</p></Empty>;
  return (
    <div class="panels">{reasons.groups.map((g) => (
      <Panel key={g.reason} title={g.reason} class="reason" note={count(g.pods, "pod")}>
        <svg class="bar thin" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect class="rest" width="100" height="4" /><rect class="warned" width={(g.pods / reasons.pods) * 100} height="4" /></svg>
        <p class="muted small">{g.agents ? `${count(g.agents, "agent")} · ` : ""}the oldest waits for <Age since={g.oldest} /></p>
        <ul class="examples">{g.examples.map((e) => (
          <li key={e.pod}><PodLink pod={e.pod} /><span class="muted small">{e.detail ? `${e.detail}, ` : ""}<Age since={e.since} />{e.attempts > 0 && `, ${count(e.attempts, "attempt")}`}</span></li>))}
          {g.pods > g.examples.length && <li><a href={link("/queue", { view: "pods", q: g.reason })}>all {g.pods.toLocaleString("en")}</a></li>}</ul>
      </Panel>))}</div>
  );
}

function Waiting() {
  const ns = param("ns");
  const { value, problem } = usePoll<WaitingPod[]>(() => mesos("queue"), 5, "queue");
  const columns = useMemo((): TableColumn<WaitingPod>[] => [
    { id: "pod", title: "Pod", text: (p) => podPath(p.pod)[1], keep: 100 },
    { id: "namespace", title: "Namespace", text: (p) => podPath(p.pod)[0], keep: 40 },
    { id: "reasons", title: "Why it waits", text: (p) => p.reasons.join(", "), keep: 90 },
    { id: "since", title: "Waits for", text: (p) => span((now.peek() - Date.parse(p.since)) / 1000), width: 8, order: (p) => p.since, show: (p) => <Age since={p.since} />, keep: 60, numeric: true },
    { id: "attempts", title: "Attempts", text: (p) => String(p.attempts), order: (p) => p.attempts, keep: 20, numeric: true },
  ], []);
  if (problem && !value) return <Failure problem={problem} what="the queue" />;
  return <Table label="waiting pods" items={(value ?? []).filter((p) => !ns || podPath(p.pod)[0] === ns)} columns={columns} keyOf={(p) => p.pod} loading={!value}
    href={(p) => { const [pns, name] = podPath(p.pod); return link(pageOf(core("pods"), pns, name)); }} empty={<Empty title={ns ? `No pod of ${ns} waits` : "No pod waits"} />} />;
}

const taskState = (t: LiveTask) => (t.killing && t.state !== "TASK_KILLING" ? "being killed" : t.state.replace("TASK_", "").toLowerCase());

function Tasks() {
  const ns = param("ns");
  const { value, problem } = usePoll<LiveTask[]>(() => mesos("tasks"), 3, "tasks");
  const columns = useMemo((): TableColumn<LiveTask>[] => [
    { id: "pod", title: "Pod", text: (t) => (t.pod ? podPath(t.pod)[1] : t.warm ? "none: it keeps the node warm" : "its pod is gone"), keep: 100 },
    { id: "namespace", title: "Namespace", text: (t) => (t.pod ? podPath(t.pod)[0] : ""), keep: 40 },
    { id: "state", title: "State", text: taskState, show: (t) => <Status text={taskState(t)} tone={t.killing ? "warn" : /running/i.test(t.state) ? "ok" : /staging|starting/i.test(t.state) ? "busy" : "warn"} />, keep: 90 },
    { id: "node", title: "Node", text: (t) => t.node ?? "", show: (t) => (t.node ? <a href={link(`/nodes/${encodeURIComponent(t.agent)}`)}>{t.node}</a> : ""), keep: 70 },
    { id: "since", title: "Age", text: (t) => span((now.peek() - Date.parse(t.since)) / 1000), width: 8, order: (t) => t.since, show: (t) => <Age since={t.since} />, keep: 50, numeric: true },
    { id: "task", title: "Task", text: (t) => t.id, mono: true, keep: 30 },
    { id: "message", title: "Message", text: (t) => t.message ?? "", keep: 10, sparse: true },
    { id: "agent", title: "Agent", text: (t) => t.agent, mono: true, hidden: true },
  ], []);
  if (problem && !value) return <Failure problem={problem} what="tasks" />;
  return <Table label="tasks" items={(value ?? []).filter((t) => !ns || (t.pod ? podPath(t.pod)[0] === ns : false))} columns={columns} keyOf={(t) => t.id} loading={!value}
    href={(t) => { if (!t.pod) return link(`/nodes/${encodeURIComponent(t.agent)}`); const [pns, name] = podPath(t.pod); return link(pageOf(core("pods"), pns, name)); }}
    empty={<Empty title="No tasks"><p>A pod that is placed becomes one.</p></Empty>} />;
}
