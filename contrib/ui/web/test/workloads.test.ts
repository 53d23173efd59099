import { ownersOf, revisionsOf, rollout, selectorOf, kinds } from "../src/workloads";
import { same, test } from "./check";

const object = (kind: string, spec: any, status: any = {}, generation = 1): any => ({ kind, metadata: { name: "web", uid: "u", generation }, spec, status: { observedGeneration: 1, ...status } });

test("a rollout says how far it is", () => {
  const of = (status: any, spec: any = { replicas: 3 }) => rollout(object("Deployment", spec, status))?.text;
  same(of({ replicas: 3, updatedReplicas: 1, availableReplicas: 3 }), "1 of 3 pods are new");
  same(of({ replicas: 4, updatedReplicas: 3, availableReplicas: 3 }), "1 old pods are about to end");
  same(of({ replicas: 3, updatedReplicas: 3, availableReplicas: 2 }), "2 of 3 pods are available");
  same(of({ replicas: 3, updatedReplicas: 3, availableReplicas: 3 }), "All 3 pods are available");
  same(of({ replicas: 0 }, { replicas: 0 }), "No pods are asked for");
  same(rollout(object("Deployment", { replicas: 3 }, {}, 2))?.text, "The controller has not seen the change yet");
  same(rollout(object("Job", { completions: 2 }, { observedGeneration: undefined, conditions: [{ type: "Failed", status: "True", message: "it gave up" }] }))?.tone, "bad");
});

test("a CronJob is not waited for, whose controller tells of no generation", () => {
  same(rollout({ kind: "CronJob", metadata: { name: "a", uid: "u", generation: 3 }, spec: { schedule: "@daily" }, status: {} })?.text, "Runs at @daily");
});

test("selectors are written for a query", () => {
  same(selectorOf({ spec: { selector: { matchLabels: { app: "web" }, matchExpressions: [{ key: "tier", operator: "In", values: ["a", "b"] }, { key: "old", operator: "DoesNotExist" }] } } } as any), "app=web,tier in (a,b),!old");
  same(selectorOf({ spec: { selector: { app: "web" } } } as any), "app=web");
  same(selectorOf({ spec: {} } as any), "");
});

test("the log store finds pods of earlier revisions, and of no other workload", () => {
  const owners = new RegExp(`^(${ownersOf(object("Deployment", {}))})$`);
  same(["ReplicaSet/web-5d9f8c", "ReplicaSet/web-old-5d9f8c", "ReplicaSet/webx", "Job/web-5d9f8c"].map((o) => owners.test(o)), [true, false, false, false]);
});

test("revisions are those of the workload itself, newest first", () => {
  const set = (revision: string, uid: string): any => ({ metadata: { name: "r" + revision, uid: "r", annotations: { "deployment.kubernetes.io/revision": revision }, ownerReferences: [{ uid }] }, spec: { template: { metadata: { labels: { "pod-template-hash": "x", app: "web" } } } } });
  const found = revisionsOf(kinds[0]!, object("Deployment", {}), [set("2", "u"), set("10", "u"), set("11", "other")]);
  same(found.map((r) => [r.number, r.now]), [[10, true], [2, false]]);
  same(found[0]!.template, { metadata: { labels: { app: "web" } } });
});
