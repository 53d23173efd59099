// What the scheduler tells of Mesos (package scheduler/status), and how the pages write it.
import { bytes, cpus } from "./format";
import type { Part } from "./ui";

/** Amounts are scalars by name: cpus in cores, mem and disk in MB. Those that are missing are 0. */
export type Amounts = Record<string, number>;

export interface Rollout { state: string; target?: string; reason?: string }

export interface LiveNode {
  node: string; minion: boolean; km?: string; since?: string; kubelet?: string; tasks: number; warm?: boolean; ready: boolean;
  cordonedFor?: string; rollout?: Rollout; failing?: string;
}

export interface Agent {
  id: string; hostname: string; address?: string; version?: string; region?: string; zone?: string; attributes?: Record<string, string>;
  registered?: string; active: boolean; deactivated?: boolean; missing?: boolean; recovering?: boolean;
  draining?: { state: string; since?: string; maxGraceSeconds?: number; markGone?: boolean };
  maintenance?: { start: string; end?: string; mode: string };
  total: Amounts; reserved?: Record<string, Amounts>; allocated: Record<string, Amounts>; offered: Amounts; frameworks: Record<string, Amounts>;
  tasks: number; node?: LiveNode;
}

export interface Framework {
  id: string; name: string; principal?: string; user?: string; roles: string[]; hostname?: string; webui?: string;
  active: boolean; connected: boolean; recovered?: boolean; registered?: string; allocated: Amounts; offered: Amounts; tasks: number;
}

export interface Role {
  name: string; weight: number; quota?: { guarantee?: Amounts; limit?: Amounts }; allocated: Amounts; offered: Amounts;
  dominantShare: number; dominantResource?: string; frameworks: string[];
}

export interface Window { machines: { hostname?: string; ip?: string; agents?: string[]; mode: string }[]; start: string; end?: string }

export interface MesosState {
  noMasterSince?: string; problem?: string; framework?: string;
  master?: { id: string; hostname?: string; address: string; version?: string; started?: string; elected?: string; region?: string; zone?: string };
  masters: string[]; agents: Agent[]; frameworks: Framework[]; roles: Role[]; maintenance: Window[]; unknown: { call: string; reason: string }[];
}

const MB = 2 ** 20;

/** amount writes an amount of a resource. */
export function amount(name: string, n: number): string {
  if (name === "mem" || name === "disk") return n ? bytes(n * MB) : "0";
  return cpus(n);
}

export const titles: Record<string, string> = { cpus: "CPU", mem: "Memory", disk: "Disk", gpus: "GPU" };

/** amounts writes several as "1.5 CPU, 2 GiB memory"; "" for none. */
export const amounts = (a: Amounts | undefined): string =>
  order(Object.keys(a ?? {})).map((name) => `${amount(name, a![name]!)} ${titles[name] === "CPU" || titles[name] === "GPU" ? titles[name] : (titles[name] ?? name).toLowerCase()}`).join(", ");

/** order puts the usual resources first. */
export function order(names: string[]): string[] {
  const usual = ["cpus", "mem", "disk", "gpus"];
  return [...usual.filter((n) => names.includes(n)), ...names.filter((n) => !usual.includes(n)).sort()];
}

export const sum = (list: (Amounts | undefined)[], name: string): number => list.reduce((s, a) => s + (a?.[name] ?? 0), 0);

export interface Use { total: number; ours: number; others: number; offered: number; free: number }

/** useOf is who has a resource of agents. What was offered when the master was asked last may have been taken since. */
export function useOf(agents: Agent[], ours: string | undefined, name: string): Use {
  const total = sum(agents.map((a) => a.total), name);
  const mine = sum(agents.map((a) => a.frameworks[ours ?? ""]), name);
  const all = agents.reduce((s, a) => s + sum(Object.values(a.allocated), name), 0);
  const others = Math.max(0, all - mine);
  const offered = Math.max(0, Math.min(sum(agents.map((a) => a.offered), name), total - mine - others));
  return { total, ours: mine, others, offered, free: Math.max(0, total - mine - others - offered) };
}

/** partsOf are the parts of a Bar. */
export function partsOf(use: Use, name: string): Part[] {
  return [
    { name: "Kubernetes", value: use.ours, tone: "ours", text: amount(name, use.ours) },
    { name: "others", value: use.others, tone: "others", text: amount(name, use.others) },
    { name: "offered", value: use.offered, tone: "offered", text: amount(name, use.offered) },
    { name: "free", value: 0, tone: "rest", text: amount(name, use.free) },
  ];
}

/** resources are those that agents have. */
export const resources = (agents: Agent[]): string[] => order([...new Set(agents.flatMap((a) => Object.keys(a.total)))]);

/** agentState says in a word or two how an agent and its node are. */
export function agentState(a: Agent): { text: string; tone: "ok" | "busy" | "warn" | "bad" | "none" } {
  const n = a.node;
  if (a.missing) return { text: "Unreachable", tone: "bad" };
  if (a.recovering) return { text: "Recovering", tone: "busy" };
  if (a.draining) return { text: a.draining.state === "DRAINED" ? "Drained" : "Draining", tone: "warn" };
  if (a.deactivated) return { text: "Deactivated", tone: "warn" };
  if (!a.active) return { text: "Disconnected", tone: "bad" };
  if (n?.failing) return { text: "Failing", tone: "bad" };
  if (n && !n.ready) return { text: "NotReady", tone: "bad" };
  if (n?.cordonedFor) return { text: "Cordoned", tone: "warn" };
  return n ? { text: "Ready", tone: "ok" } : { text: "No node yet", tone: "none" };
}

/** minionText is the version of a node's minion, or when it starts. */
export const minionText = (a: Agent): string => (a.node?.minion ? a.node.km || "runs" : a.node && !a.missing ? "with its first pod" : "");

/** rolloutText says how far the replacement of a minion is. */
export function rolloutText(r: Rollout | undefined): string {
  if (!r) return "";
  return [r.state, r.target && `to ${r.target}`].filter(Boolean).join(" ") + (r.reason ? `: ${r.reason}` : "");
}

export interface LiveOffer { id: string; agent: string; hostname: string; node?: string; role: string; resources: string; since: string; until: string; unavailable?: string }

export interface EndedOffer {
  id: string; agent: string; hostname: string; role: string; resources: string; arrived: string; ended: string; end: string;
  tasks?: number; pods?: string[]; reason?: string; refuseSeconds?: number; refused?: string;
}

export interface OfferHistory {
  since?: string; lastOffer?: string; held: number; totals: Record<string, number>; minutes: { at: string; ends: Record<string, number> }[]; offers: EndedOffer[];
}

export interface QueueReasons {
  pods: number;
  groups: { reason: string; pods: number; oldest: string; agents?: number; examples: { pod: string; since: string; attempts: number; agents?: number; detail?: string }[] }[];
}

export interface WaitingPod { pod: string; since: string; attempts: number; reasons: string[] }

export interface LiveTask { id: string; pod?: string; agent: string; node?: string; state: string; message?: string; since: string; bound: boolean; warm?: boolean; killing: boolean }

/** offered writes what an offer has, "cpus:1.5;mem:512;ports:[31000-32000]", for people. */
export function offered(text: string): string {
  const out: Amounts = {};
  const rest: string[] = [];
  for (const part of text.split(";")) {
    const [name = "", value = ""] = part.split(/:(.*)/s);
    if (name === "ports") rest.push(portCount(value));
    else if (name.startsWith("cpus{")) rest.push(`${value} revocable CPU`);
    else if (value && !value.startsWith("[")) out[name] = (out[name] ?? 0) + Number(value);
  }
  return [amounts(out), ...rest].filter(Boolean).join(", ");
}

function portCount(ranges: string): string {
  const n = [...ranges.matchAll(/(\d+)-(\d+)/g)].reduce((s, m) => s + Number(m[2]) - Number(m[1]) + 1, 0);
  return n ? `${n.toLocaleString("en")} port${n === 1 ? "" : "s"}` : "";
}

/** podPath splits "namespace/name". */
export function podPath(pod: string): [ns: string, name: string] {
  const at = pod.indexOf("/");
  return [pod.slice(0, at), pod.slice(at + 1)];
}
