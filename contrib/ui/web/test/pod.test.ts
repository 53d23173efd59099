import { ownerPage, podState, reasonsOf } from "../src/pages/pod";
import { same, table, test } from "./check";

const pod = (status: any, metadata: any = {}) => ({ metadata: { name: "a", uid: "u", ...metadata }, spec: { containers: [] }, status });

test("a pod's state is the one that kubectl shows", () => {
  table(podState, [
    [pod({ phase: "Running", containerStatuses: [{ state: { running: {} } }] }), "Running"],
    [pod({ phase: "Running", containerStatuses: [{ state: { waiting: { reason: "CrashLoopBackOff" } } }] }), "CrashLoopBackOff"],
    [pod({ phase: "Pending", initContainerStatuses: [{ state: { running: {} } }], containerStatuses: [{ state: { waiting: { reason: "PodInitializing" } } }] }), "Pending"],
    [pod({ phase: "Failed", containerStatuses: [{ state: { terminated: { exitCode: 3, reason: "OOMKilled" } } }] }), "OOMKilled"],
    [pod({ phase: "Failed", reason: "Evicted" }), "Evicted"],
    [pod({ phase: "Succeeded", containerStatuses: [{ state: { terminated: { exitCode: 0 } } }] }), "Completed"],
    [pod({ phase: "Running" }, { deletionTimestamp: "2026-12-01T00:00:00Z" }), "Terminating"],
  ]);
});

test("why a pod waits is a list, not one long sentence", () => {
  same(reasonsOf("0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {a: b, c}."), ["0/3 nodes are available", "1 Insufficient cpu", "2 node(s) had untolerated taint {a: b, c}"]);
  same(reasonsOf("no offers"), ["no offers"]);
});

test("owners lead to their pages", () => {
  same(ownerPage({ apiVersion: "apps/v1", kind: "ReplicaSet", name: "web-1" }, "shop"), "/workloads/replicasets/shop/web-1");
  same(ownerPage({ apiVersion: "v1", kind: "Node", name: "a" }, ""), "/resources/core/v1/nodes/-/a");
});
