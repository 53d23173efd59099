import type { ComponentChildren } from "preact";
import type { TableColumn } from "../table";
import { useMemo } from "preact/hooks";
import { core, hasGroup, k8s, mesos, pathOf, session } from "../api";
import { bytes, cpus, quantity, tone } from "../format";
import { usePoll, useTable, type Row } from "../live";
import type { WaitingPod } from "../mesos";
import { param } from "../router";
import { Ready, ResourceTable } from "../resourcetable";
import { Empty, PageHead, Spark, Status } from "../ui";
import { useKeepsUsage, useLine, type What } from "../usage";

const pods = { ...core("pods"), namespaced: true };
const taskID = "k8sm.io/task-id", annotations = [taskID];

interface Usage { cpu: number; memory: number }

const sum = (metrics: any): Usage => ({
  cpu: metrics.containers.reduce((s: number, c: any) => s + quantity(c.usage.cpu), 0),
  memory: metrics.containers.reduce((s: number, c: any) => s + quantity(c.usage.memory), 0),
});

const metricsOf = (ns: string) => `/apis/metrics.k8s.io/v1beta1/${ns ? `namespaces/${encodeURIComponent(ns)}/` : ""}pods`;

/** usePodUsage is what a pod uses now; undefined where that is not known. */
export const usePodUsage = (ns: string, name: string): Usage | undefined =>
  usePoll(async () => (await hasGroup("metrics.k8s.io") ? sum(await k8s(`${metricsOf(ns)}/${encodeURIComponent(name)}`)) : undefined), 15, `${ns}/${name}`).value;

/** useUsage is what pods use now, by namespace/name; empty where the cluster has no metrics. */
function useUsage(ns: string): Map<string, Usage> {
  const { value } = usePoll(async () => {
    if (!await hasGroup("metrics.k8s.io")) return none;
    const list = await k8s(metricsOf(ns));
    return new Map<string, Usage>(list.items.map((p: any) => [`${p.metadata.namespace}/${p.metadata.name}`, sum(p)]));
  }, 15, ns);
  return value ?? none;
}

const none = new Map<string, Usage>();

const nodeOf = (r: Row) => String(r.cells[6] ?? "").replace("<none>", "");

/** useWaiting is why pods wait, by namespace/name, as the scheduler says. It asks while there is a pod without a node. */
function useWaiting(ns: string, query: string): Map<string, string> {
  const feed = useTable(pathOf(pods, ns) + (query && `?${query}`), annotations);
  const some = !!session.value?.mesos && feed.items.value.some((r) => r.cells[2] === "Pending" && !nodeOf(r));
  const { value } = usePoll(async () => (some ? new Map((await mesos<WaitingPod[]>("queue")).map((p) => [p.pod, `waits: ${p.reasons.join(", ")}`])) : nobody), 10, some);
  return value ?? nobody;
}

const nobody = new Map<string, string>();

/** usePodColumns are columns that say more of pods than the API's own. query is what selects the pods. */
function usePodColumns(ns: string, query: string): TableColumn<Row>[] {
  const usage = useUsage(ns), lines = useKeepsUsage(), waits = useWaiting(ns, query);
  return useMemo((): TableColumn<Row>[] => {
    const of = (r: Row) => usage.get(`${r.ns}/${r.name}`);
    // The small line of the last half hour is before the number.
    const used = (id: keyof Usage, title: string, write: (n: number) => string, width: number): TableColumn<Row> => {
      const text = (r: Row) => (of(r) ? write(of(r)![id]) : "");
      return {
        id, title, text, order: (r) => of(r)?.[id] ?? -1, keep: id === "cpu" ? 35 : 34, numeric: true, width: lines ? width : undefined,
        show: lines ? (r) => <span class="trend"><Trend row={r} what={id} />{text(r)}</span> : undefined,
      };
    };
    return [
      { id: "ready", title: "Ready", text: (r) => String(r.cells[1] ?? ""), keep: 45, show: (r) => <Ready cell={String(r.cells[1] ?? "")} ended={tone(String(r.cells[2])) === "done"} /> },
      { id: "status", title: "Status", text: (r) => String(r.cells[2] ?? ""), keep: 90, show: (r) => <Status text={String(r.cells[2] ?? "")} /> },
      { id: "restarts", title: "Restarts", text: (r) => String(parseInt(String(r.cells[3]), 10) || 0), order: (r) => parseInt(String(r.cells[3]), 10) || 0, keep: 38, numeric: true },
      ...(usage.size ? [
        used("cpu", "CPU", cpus, 12), used("memory", "Memory", bytes, 15),
      ] : []),
      {
        id: "node", title: "Node", keep: 39, width: 12, hidden: false, text: (r) => nodeOf(r) || (waits.get(`${r.ns}/${r.name}`) ?? ""),
        // There is little room: the first reason, without the number of nodes.
        show: (r) => nodeOf(r) || <span class="muted">{waits.get(`${r.ns}/${r.name}`)?.replace(/^waits: \d+ /, "")}</span>,
      },
      { id: "task", title: "Task", text: (r) => r.annotations?.[taskID] ?? "", mono: true, hidden: true, keep: 5 },
      { id: "controller", title: "Controller", text: (r) => r.owner ?? "", hidden: true, keep: 6 },
    ];
  }, [usage, lines, waits]);
}

/** PodTable is the list of pods, all of a namespace or those that a query selects. */
export const PodTable = ({ ns, query = "", empty }: { ns: string; query?: string; empty: ComponentChildren }) => (
  <ResourceTable of={pods} ns={ns} name="pods" more={usePodColumns(ns, query)} annotations={annotations} query={query} empty={empty} />
);

export default function Pods() {
  const ns = param("ns");
  return (
    <>
      <PageHead title="Pods" note="Each pod is a Mesos task with its own resources." />
      <PodTable ns={ns}
        empty={<Empty title={ns ? `No pods in ${ns}` : "No pods yet"}>
          <p>Run one:</p>
          <pre class="code">km kubectl run hello --image=busybox -- sleep 1h{ns ? ` --namespace=${ns}` : ""}</pre>
          {session.value?.readOnly && <p class="muted">This page only reads.</p>}
        </Empty>} />
    </>
  );
}

function Trend({ row, what }: { row: Row; what: What }) {
  const line = useLine(row.ns ?? "", row.name, what);
  return line ? <Spark line={line} /> : null;
}
