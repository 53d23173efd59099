// The kinds of workloads, and what can be done with them.
import { pathOf, send, type KubeObject } from "./api";
import { go, link } from "./router";

export interface WorkloadKind { group: string; version: string; plural: string; kind: string; title: string; namespaced: true; scales?: boolean; restarts?: boolean }

const apps = { group: "apps", version: "v1", namespaced: true as const };
const batch = { group: "batch", version: "v1", namespaced: true as const };

export const kinds: WorkloadKind[] = [
  { ...apps, plural: "deployments", kind: "Deployment", title: "Deployments", scales: true, restarts: true },
  { ...apps, plural: "statefulsets", kind: "StatefulSet", title: "StatefulSets", scales: true, restarts: true },
  { ...apps, plural: "daemonsets", kind: "DaemonSet", title: "DaemonSets", restarts: true },
  { ...apps, plural: "replicasets", kind: "ReplicaSet", title: "ReplicaSets", scales: true },
  { group: "", version: "v1", namespaced: true, plural: "replicationcontrollers", kind: "ReplicationController", title: "ReplicationControllers", scales: true },
  { ...batch, plural: "jobs", kind: "Job", title: "Jobs" },
  { ...batch, plural: "cronjobs", kind: "CronJob", title: "CronJobs" },
  { group: "autoscaling", version: "v2", namespaced: true, plural: "horizontalpodautoscalers", kind: "HorizontalPodAutoscaler", title: "Autoscalers" },
];

export const workloadPage = (plural: string, ns: string, name: string) => `/workloads/${plural}/${encodeURIComponent(ns)}/${encodeURIComponent(name)}`;

const at = (k: WorkloadKind, o: KubeObject) => pathOf(k, o.metadata.namespace, o.metadata.name);

/** scale asks for a number of replicas. */
export const scale = (k: WorkloadKind, o: KubeObject, replicas: number) => send("PATCH", `${at(k, o)}/scale`, { spec: { replicas } });

/** restart replaces the pods as a rollout does (kubectl rollout restart). */
export const restart = (k: WorkloadKind, o: KubeObject) =>
  send("PATCH", at(k, o), { spec: { template: { metadata: { annotations: { "kubectl.kubernetes.io/restartedAt": new Date().toISOString() } } } } });

/** set changes fields of the spec. */
export const set = (k: WorkloadKind, o: KubeObject, spec: Record<string, unknown>) => send("PATCH", at(k, o), { spec });

/** run makes a Job of a CronJob now (kubectl create job --from). */
export async function run(o: KubeObject) {
  const name = `${o.metadata.name.slice(0, 40)}-${Date.now().toString(36)}`;
  const template = o.spec.jobTemplate;
  await send("POST", pathOf({ ...batch, plural: "jobs" }, o.metadata.namespace), {
    apiVersion: "batch/v1", kind: "Job", spec: template.spec,
    metadata: {
      name, namespace: o.metadata.namespace, labels: template.metadata?.labels, annotations: { ...template.metadata?.annotations, "cronjob.kubernetes.io/instantiate": "manual" },
      ownerReferences: [{ apiVersion: "batch/v1", kind: "CronJob", name: o.metadata.name, uid: o.metadata.uid, controller: true }],
    },
  });
  go(link(workloadPage("jobs", o.metadata.namespace!, name)));
}

/** Revision is an earlier state of a workload's pods. */
export interface Revision { number: number; object: KubeObject; template: Record<string, any>; now: boolean }

/** undo goes back to a revision (kubectl rollout undo). */
export const undo = (k: WorkloadKind, o: KubeObject, to: Revision) => (k.kind === "Deployment"
  ? send("PATCH", at(k, o), [{ op: "replace", path: "/spec/template", value: to.template }], "application/json-patch+json")
  : send("PATCH", at(k, o), to.object.data, "application/strategic-merge-patch+json"));

/** revisionsOf are those that the controller has kept, newest first. Of Deployments they are ReplicaSets, of others ControllerRevisions. */
export function revisionsOf(k: WorkloadKind, o: KubeObject, kept: KubeObject[]): Revision[] {
  const own = kept.filter((r) => r.metadata.ownerReferences?.some((ref) => ref.uid === o.metadata.uid));
  const all = own.map((r): Revision => {
    if (k.kind !== "Deployment") return { number: r.revision, object: r, template: r.data?.spec?.template ?? {}, now: false };
    const template = structuredClone(r.spec.template);
    delete template.metadata?.labels?.["pod-template-hash"];
    return { number: Number(r.metadata.annotations?.["deployment.kubernetes.io/revision"] ?? 0), object: r, template, now: false };
  }).sort((a, b) => b.number - a.number);
  if (all[0]) all[0].now = true;
  return all;
}

const all = (n: number, what: string) => (n === 0 ? "No pods are asked for" : n === 1 ? `The pod is ${what}` : `All ${n} pods are ${what}`);

/** generationless are the kinds whose controllers do not say which generation they have seen. */
const generationless = new Set(["Job", "CronJob", "HorizontalPodAutoscaler"]);

/** rollout says how far a change has come, as kubectl rollout status does. */
export function rollout(o: KubeObject): { text: string; tone: string } | null {
  const s = o.status ?? {}, want = o.spec?.replicas ?? 1;
  if (!generationless.has(o.kind ?? "") && (s.observedGeneration ?? 0) < (o.metadata.generation ?? 0)) return { text: "The controller has not seen the change yet", tone: "busy" };
  switch (o.kind) {
    case "Deployment": {
      const stuck = s.conditions?.find((c: any) => c.type === "Progressing" && c.reason === "ProgressDeadlineExceeded");
      if (stuck) return { text: stuck.message, tone: "bad" };
      if (o.spec.paused) return { text: "Rollouts are paused", tone: "warn" };
      if ((s.updatedReplicas ?? 0) < want) return { text: `${s.updatedReplicas ?? 0} of ${want} pods are new`, tone: "busy" };
      if ((s.replicas ?? 0) > (s.updatedReplicas ?? 0)) return { text: `${s.replicas - s.updatedReplicas} old pods are about to end`, tone: "busy" };
      if ((s.availableReplicas ?? 0) < want) return { text: `${s.availableReplicas ?? 0} of ${want} pods are available`, tone: "busy" };
      return { text: all(want, "available"), tone: "ok" };
    }
    case "StatefulSet":
      if ((s.readyReplicas ?? 0) < want) return { text: `${s.readyReplicas ?? 0} of ${want} pods are ready`, tone: "busy" };
      if (s.updateRevision && s.currentRevision !== s.updateRevision && (s.updatedReplicas ?? 0) < want) return { text: `${s.updatedReplicas ?? 0} of ${want} pods are new`, tone: "busy" };
      return { text: all(want, "ready"), tone: "ok" };
    case "DaemonSet":
      if ((s.updatedNumberScheduled ?? 0) < (s.desiredNumberScheduled ?? 0)) return { text: `${s.updatedNumberScheduled ?? 0} of ${s.desiredNumberScheduled} pods are new`, tone: "busy" };
      if ((s.numberAvailable ?? 0) < (s.desiredNumberScheduled ?? 0)) return { text: `${s.numberAvailable ?? 0} of ${s.desiredNumberScheduled} pods are available`, tone: "busy" };
      return { text: all(s.desiredNumberScheduled ?? 0, "available"), tone: "ok" };
    case "Job": {
      const end = s.conditions?.find((c: any) => (c.type === "Complete" || c.type === "Failed") && c.status === "True");
      if (end) return { text: end.type === "Complete" ? "Complete" : end.message ?? "Failed", tone: end.type === "Complete" ? "done" : "bad" };
      return { text: `${s.succeeded ?? 0} of ${o.spec.completions ?? 1} pods have succeeded, ${s.active ?? 0} run`, tone: "busy" };
    }
    case "CronJob":
      return o.spec.suspend ? { text: "Suspended", tone: "warn" } : { text: `Runs at ${o.spec.schedule}`, tone: "ok" };
    case "ReplicaSet": case "ReplicationController":
      return { text: `${s.readyReplicas ?? 0} of ${want} pods are ready`, tone: (s.readyReplicas ?? 0) < want ? "busy" : "ok" };
  }
  return null;
}

/** selectorOf selects a workload's pods in a query. */
export function selectorOf(o: KubeObject): string {
  const s = o.spec?.selector;
  const labels: Record<string, string> = s?.matchLabels ?? (s && !s.matchExpressions ? s : {});
  const parts = Object.entries(labels).map(([k, v]) => `${k}=${v}`);
  for (const e of s?.matchExpressions ?? []) {
    if (e.operator === "In") parts.push(`${e.key} in (${e.values.join(",")})`);
    else if (e.operator === "NotIn") parts.push(`${e.key} notin (${e.values.join(",")})`);
    else parts.push(e.operator === "Exists" ? e.key : `!${e.key}`);
  }
  return parts.join(",");
}

/** ownersOf is a regular expression for the controllers of all pods that a workload ever had, in the log store. */
export function ownersOf(o: KubeObject): string {
  const name = o.metadata.name.replaceAll(".", "\\.");
  switch (o.kind) {
    case "Deployment": return `ReplicaSet/${name}-[a-z0-9]+`;
    case "CronJob": return `Job/${name}-[a-z0-9]+`;
    case "HorizontalPodAutoscaler": return "";
  }
  return `${o.kind}/${name}`;
}
