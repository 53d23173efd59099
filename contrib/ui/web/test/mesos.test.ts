import { agentState, amounts, offered, order, partsOf, podPath, useOf, type Agent } from "../src/mesos";
import { same, test } from "./check";

const agent = (a: Partial<Agent>): Agent => ({ id: "a", hostname: "h", active: true, total: { cpus: 8, mem: 1024 }, allocated: {}, frameworks: {}, tasks: 0, ...a } as Agent);

test("what an agent has is Kubernetes', others', offered or free, and no more than all", () => {
  const a = agent({ frameworks: { us: { cpus: 2 } }, allocated: { ours: { cpus: 2 }, theirs: { cpus: 1 } }, offered: { cpus: 9 } });
  const use = useOf([a, agent({})], "us", "cpus");
  same(use, { total: 16, ours: 2, others: 1, offered: 9, free: 4 });
  same(useOf([a], "us", "cpus"), { total: 8, ours: 2, others: 1, offered: 5, free: 0 });
  same(partsOf(use, "cpus").map((p) => `${p.name} ${p.text}`), ["Kubernetes 2", "others 1", "offered 9", "free 4"]);
});

test("offers are written in words", () => {
  same(offered("cpus:1.5;mem:512;ports:[31000-31009,32000-32000]"), "1.5 CPU, 512 MiB memory, 11 ports");
  same(offered("cpus:1;cpus:1;cpus{REV}:2"), "2 CPU, 2 revocable CPU");
  same(offered(""), "");
  same(amounts({ gpus: 1, licenses: 3, cpus: 2 }), "2 CPU, 1 GPU, 3 licenses");
  same(order(["z", "disk", "a", "cpus"]), ["cpus", "disk", "a", "z"]);
});

test("the worst that is known of an agent is its state", () => {
  const node = { node: "h", ready: true, tasks: 0 } as Agent["node"];
  same(agentState(agent({ node })).text, "Ready");
  same(agentState(agent({})).text, "No node yet");
  same(agentState(agent({ node, missing: true, draining: { state: "DRAINING" } as any })).text, "Unreachable");
  same(agentState(agent({ node: { ...node!, ready: false, cordonedFor: "somebody" } })).text, "NotReady");
  same(agentState(agent({ node: { ...node!, cordonedFor: "somebody" } })).text, "Cordoned");
});

test("a pod's name is split from its namespace", () => same(podPath("shop/web-1"), ["shop", "web-1"]));
