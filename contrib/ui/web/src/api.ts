// Calls of the server, which sends them on to the API server and to the scheduler as the user who has logged in.
import { signal } from "@preact/signals";

export interface Session {
  user: string;
  groups?: string[];
  expires: string;
  readOnly: boolean;
  version: string;
  server: string;
  mesos: boolean;
}

/** session is undefined until the server has told, and null if nobody has logged in. */
export const session = signal<Session | null | undefined>(undefined);

/** ApiError is an answer that says no. Its message is a sentence for people. */
export class ApiError extends Error {
  constructor(readonly code: number, message: string, readonly status?: Status) { super(message); }
}

export interface Status {
  message?: string;
  reason?: string;
  code?: number;
  details?: { causes?: { field?: string; message?: string; reason?: string }[] };
}

/** pause waits before what has failed so many times before is tried again: half a second, and twice as long each time. */
export const pause = (failed: number, most = 30_000) => new Promise<void>((done) => { setTimeout(done, backOff(failed, most)); });

/** backOff is for how long, in milliseconds. Pages that lost the same server don't come back all at once. */
export const backOff = (failed: number, most = 30_000): number => Math.min(most, 500 * 2 ** failed) * (0.75 + Math.random() / 2);

const attempts = 3; // for a question
const patience = 60_000; // milliseconds for an answer to a question

/** call asks the server, and returns its answer; undefined if that is empty. A browser breaks off what is under way when the machine's
 * network changes, so what has no method, and changes nothing, is asked again. What may change something is sent once. */
export async function call<T = void>(path: string, init: RequestInit = {}): Promise<T> {
  for (let failed = 0; ; failed++) {
    try {
      const response = await fetch(path, init.method ? init : { ...init, signal: AbortSignal.timeout(patience) });
      const text = await response.text();
      if (!response.ok) throw refusal(path, response, text);
      return (text ? JSON.parse(text) : undefined) as T;
    } catch (error) {
      if (!(error instanceof TypeError) && (error as Error).name !== "TimeoutError") throw error;
      if (init.method) throw new ApiError(0, "The connection broke off before the answer came. Perhaps it was done all the same: look before you try again.");
      if (!(error instanceof TypeError) || failed + 1 === attempts) throw new ApiError(0, "The web page's server does not answer. Is km still running?");
      await pause(failed);
    }
  }
}

function refusal(path: string, response: Response, text: string): ApiError {
  let status: Status = {};
  try { status = JSON.parse(text); } catch { /* the status line says it */ }
  if (response.status === 401 && path.startsWith("/api/")) session.value = null;
  return new ApiError(response.status, status.message || `The server answers ${response.status} ${response.statusText}`, status);
}

const json = <T>(path: string, init: RequestInit = {}): Promise<T> => call<T>(path, { ...init, headers: { Accept: "application/json", ...init.headers } });

/** k8s calls the API server. */
export const k8s = <T = any>(path: string, init?: RequestInit): Promise<T> => json<T>("/api/k8s" + path, init);

/** send sends an object to the API server; a patch is a strategic or merge patch. */
export function send<T = any>(method: "POST" | "PUT" | "PATCH" | "DELETE", path: string, body?: unknown, type?: string): Promise<T> {
  return k8s<T>(path, {
    method,
    headers: { "Content-Type": type ?? (method === "PATCH" ? "application/merge-patch+json" : "application/json") },
    body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body),
  });
}

/** mesos asks the scheduler: state, offers, offers/ended, tasks, queue, queue/reasons, nodes. */
export const mesos = <T = any>(name: string): Promise<T> => json<T>("/api/mesos/" + name);

export interface Meta {
  name: string;
  namespace?: string;
  uid: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: { kind: string; name: string; uid: string; apiVersion: string; controller?: boolean }[];
  finalizers?: string[];
}

export interface KubeObject {
  apiVersion?: string;
  kind?: string;
  metadata: Meta;
  [field: string]: any;
}

/** Resource is a kind of objects in the API. The core group is "". */
export interface Resource {
  group: string;
  version: string;
  plural: string;
  kind: string;
  namespaced: boolean;
  verbs: string[];
  short: string[];
}

/** pathOf is the path of a resource: of all, of a namespace, or of an object. */
export function pathOf(r: { group: string; version: string; plural: string }, ns = "", name = ""): string {
  let path = r.group ? `/apis/${r.group}/${r.version}` : `/api/${r.version}`;
  if (ns) path += `/namespaces/${encodeURIComponent(ns)}`;
  path += `/${r.plural}`;
  if (name) path += `/${encodeURIComponent(name)}`;
  return path;
}

export const core = (plural: string) => ({ group: "", version: "v1", plural });

const workloads = new Set(["deployments.apps", "statefulsets.apps", "daemonsets.apps", "replicasets.apps", "replicationcontrollers.", "jobs.batch", "cronjobs.batch", "horizontalpodautoscalers.autoscaling"]);

/** pageOf is the path of this page for a resource or an object. */
export function pageOf(r: { group: string; version: string; plural: string }, ns = "", name = ""): string {
  if (r.group === "" && r.plural === "pods") return name ? `/pods/${encodeURIComponent(ns)}/${encodeURIComponent(name)}` : "/pods";
  if (name && workloads.has(`${r.plural}.${r.group}`)) return `/workloads/${r.plural}/${encodeURIComponent(ns)}/${encodeURIComponent(name)}`;
  const path = `/resources/${r.group || "core"}/${r.version}/${r.plural}`;
  return name ? `${path}/${encodeURIComponent(ns || "-")}/${encodeURIComponent(name)}` : path;
}

let discovered: Promise<Resource[]> | undefined;
const groups = new Set<string>(); // also those whose servers do not answer now

/** discover lists the kinds that the API server has, once. */
export function discover(): Promise<Resource[]> {
  discovered ??= Promise.all(["/api", "/apis"].map((path) =>
    k8s(path, { headers: { Accept: "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" } }))).then((lists) => {
    const found: Resource[] = [];
    for (const group of lists.flatMap((l) => l.items ?? [])) {
      groups.add(group.metadata.name ?? "");
      const preferred = group.versions?.[0];
      for (const r of preferred?.resources ?? []) {
        found.push({
          group: group.metadata.name ?? "", version: preferred.version, plural: r.resource, kind: r.responseKind?.kind ?? r.resource,
          namespaced: r.scope === "Namespaced", verbs: r.verbs ?? [], short: r.shortNames ?? [],
        });
      }
    }
    return found;
  }).catch((error) => { discovered = undefined; throw error; });
  return discovered;
}

/** hasGroup tells whether the API server has an API group, such as metrics.k8s.io. */
export const hasGroup = (group: string): Promise<boolean> => discover().then(() => groups.has(group));

/** loadSession asks who has logged in. */
export async function loadSession() {
  try {
    session.value = await json<Session>("/api/session");
  } catch (error) {
    if (!(error instanceof ApiError && error.code === 401)) throw error;
    session.value = null;
  }
}

export async function logIn(way: "key" | "token", secret: string) {
  try {
    await call("/auth/" + way, { method: "POST", body: JSON.stringify({ secret }) });
  } catch (error) {
    if ((error as ApiError).code) throw error;
    throw new ApiError(0, "The connection broke off while you were logged in. Try again.");
  }
  await loadSession();
}

export async function logOut() {
  await call("/auth/logout", { method: "POST" });
  location.assign("/");
}
