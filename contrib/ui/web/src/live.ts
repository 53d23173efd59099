// What the page follows, over one WebSocket: tables, objects and lines. Hooks give components what is there now.
import { batch, computed, signal, type Signal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { backOff, session } from "./api";

export interface Column { name: string; type: string; priority?: number; help?: string }

/** Row is what a table has of an object. */
export interface Row {
  uid: string;
  ns?: string;
  name: string;
  cells: unknown[];
  created?: string;
  deleting?: boolean;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  owner?: string;
}

export type State = "loading" | "live" | "reconnecting" | "ended";

interface Frame {
  id: number;
  state?: "live" | "reconnecting" | "ended";
  message?: string;
  code?: number;
  reset?: boolean;
  columns?: Column[];
  rows?: Row[];
  objects?: any[];
  gone?: string[];
  lines?: string;
}

interface Call { mode: "table" | "objects" | "lines"; path: string; annotations?: string[]; fields?: string[] }

const broken = signal(false); // the socket, once it has been open
const failing = signal<ReadonlySet<Signal<Problem | null>>>(new Set()); // polls whose values are old

/** old is why something that is shown may be old; null if nothing is. */
export const old = computed<Problem | null>(() => (broken.value ? { code: 0, message: "The connection to km broke off." } : [...failing.value][0]?.value ?? null));

/** markOld notes whether there is a problem beside a value. */
function markOld(problem: Signal<Problem | null>, is: boolean) {
  if (failing.peek().has(problem) === is) return;
  const next = new Set(failing.peek());
  if (is) next.add(problem); else next.delete(problem);
  failing.value = next;
}

let socket: WebSocket | undefined;
let last = 0;
let retry = 0;
let opened = false; // the socket, or the one before if there is none
const open = new Map<number, { call: Call; on: (f: Frame) => void }>();
let pending: Frame[] = [];
let heard = 0; // when the server last sent something
let due = 0; // from when the page may be drawn anew

// The server sends something every 20 seconds. If it does not, the connection is gone, though the browser does not know it.
const silence = 50_000;
const slowest = 15_000; // milliseconds until a connection is there
setInterval(() => { if (socket && Date.now() - heard > (socket.readyState === WebSocket.OPEN ? silence : slowest)) void lose(); }, 5000);

// What was open on the network before does not work on this one.
addEventListener("online", () => { if (socket) void lose(); else connect(); });

function connect() {
  if (socket || !open.size || !session.value) return;
  const mine = new WebSocket(`wss://${location.host}/api/watch`);
  socket = mine;
  heard = Date.now();
  opened = false;
  mine.onopen = () => {
    opened = true;
    broken.value = false;
    heard = Date.now();
    retry = 0;
    for (const [id, { call }] of open) mine.send(JSON.stringify({ op: "open", id, ...call }));
  };
  mine.onmessage = (event) => {
    heard = Date.now();
    if (!pending.length) requestFlush();
    pending.push(JSON.parse(event.data));
    if (pending.length >= mostPending && document.visibilityState !== "visible") flush();
  };
  mine.onclose = lose;
}

/** lose gives the socket up, and opens another soon. */
async function lose() {
  const mine = socket!;
  socket = undefined;
  mine.onopen = mine.onclose = mine.onmessage = null;
  mine.close();
  flush();
  broken.value = open.size > 0;
  for (const [id, { on }] of open) on({ id, state: "reconnecting", message: "The connection to km broke off." });
  // A server that refuses may have ended the session: a plain call finds out.
  if (!opened) await fetch("/api/session", { signal: AbortSignal.timeout(slowest) }).then((r) => { if (r.status === 401) session.value = null; }).catch(() => {});
  setTimeout(connect, backOff(retry++, 15_000));
}

// A hidden page draws no frames, and its timers may wait for a minute, so many frames are taken without either.
const mostPending = 50;

function requestFlush() {
  if (document.visibilityState !== "visible") setTimeout(flush, 250);
  else if (due > performance.now()) setTimeout(() => requestAnimationFrame(flush), due - performance.now());
  else requestAnimationFrame(flush);
}

function flush() {
  const frames = pending, began = performance.now();
  pending = [];
  // Who is known to nobody any more logs in again, and is back here then.
  if (frames.some((f) => f.code === 401)) { session.value = null; return; }
  batch(() => { for (const f of frames) open.get(f.id)?.on(f); });
  // Thousands of rows that change all the time take long to draw. At least half of the time is for the user.
  setTimeout(() => { due = performance.now() + (performance.now() - began); });
}

function subscribe(call: Call, on: (f: Frame) => void): () => void {
  const id = ++last;
  open.set(id, { call, on });
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ op: "open", id, ...call }));
  else connect();
  return () => {
    open.delete(id);
    if (!open.size) broken.value = false;
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ op: "close", id }));
  };
}

export interface Problem { code: number; message: string }

/** Feed is what is known of a path. items are in order of name; all signals change together. */
export interface Feed<T> {
  items: Signal<T[]>;
  columns: Signal<Column[]>;
  state: Signal<State>;
  problem: Signal<Problem | null>;
}

/** Order is what items are known by, and what they are sorted by, which stays. */
interface Order<T> { uid: (item: T) => string; key: (item: T) => string }

class Following<T> implements Feed<T> {
  items = signal<T[]>([]);
  columns = signal<Column[]>([]);
  state = signal<State>("loading");
  problem = signal<Problem | null>(null);
  users = 0;
  private fresh: T[] | undefined; // what a new list has had so far
  private stop: (() => void) | undefined;
  private closing = 0;

  constructor(private call: Call, private of: Order<T>) {}

  use(): () => void {
    clearTimeout(this.closing);
    if (!this.users++ && this.state.value === "ended") { // what was refused may be allowed now
      this.stop?.();
      this.stop = undefined;
      this.state.value = "loading";
    }
    this.stop ??= subscribe(this.call, (f) => this.take(f));
    return () => {
      if (--this.users) return;
      this.closing = window.setTimeout(() => { this.stop?.(); feeds.delete(keyOf(this.call)); }, 5000);
    };
  }

  private take(f: Frame) {
    if (f.columns) this.columns.value = f.columns;
    if (f.reset) this.fresh = [];
    const items = merged(this.fresh ?? this.items.value, (f.rows ?? f.objects ?? []) as T[], f.gone ?? [], this.of);
    // The first list shows as it comes; a later one replaces the one before when it is whole.
    if (!this.fresh || f.state === "live" || this.state.value === "loading") this.items.value = items;
    if (this.fresh) this.fresh = f.state === "live" ? undefined : items;
    if (f.state) {
      this.state.value = f.state === "reconnecting" && this.state.value === "loading" && !f.message ? "loading" : f.state;
      this.problem.value = f.state === "live" ? null : { code: f.code ?? 0, message: f.message ?? "" };
    }
  }
}

/** merged are items with those that came, and without those that are gone, in order of key. The items are in that order. */
export function merged<T>(items: T[], came: T[], gone: string[], of: Order<T>): T[] {
  if (!came.length && !gone.length) return items;
  const away = new Set(gone);
  for (const item of came) away.add(of.uid(item));
  const sorted = came.map((item): [string, T] => [of.key(item), item]).sort(([a], [b]) => compare(a, b));
  const all: T[] = [];
  let next = 0;
  for (const item of items) {
    if (away.has(of.uid(item))) continue;
    for (const key = of.key(item); next < sorted.length && sorted[next]![0] < key; next++) all.push(sorted[next]![1]);
    all.push(item);
  }
  for (; next < sorted.length; next++) all.push(sorted[next]![1]);
  return all;
}

const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);

const feeds = new Map<string, Following<any>>();
const keyOf = (c: Call) => JSON.stringify([c.mode, c.path, c.annotations, c.fields]);
const nothing: Feed<any> = { items: signal([]), columns: signal([]), state: signal<State>("loading"), problem: signal(null) };

function feed<T>(call: Call, of: Order<T>): Following<T> {
  const k = keyOf(call);
  let found = feeds.get(k);
  if (!found) feeds.set(k, found = new Following<T>(call, of));
  return found;
}

function useFeed<T>(call: Call | null, of: Order<T>): Feed<T> {
  const k = call ? keyOf(call) : "";
  const found = useMemo(() => (call ? feed(call, of) : null), [k]);
  useEffect(() => found?.use(), [found]);
  return found ?? nothing;
}

const rowOrder: Order<Row> = { uid: (r) => r.uid || `${r.ns}/${r.name}`, key: (r) => `${r.ns ?? ""}/${r.name}` };
const objectOrder: Order<any> = { uid: (o) => o.metadata?.uid, key: (o) => `${o.metadata?.namespace ?? ""}/${o.metadata?.name}` };

/** useTable follows a list as the API server's table. null follows nothing. */
export const useTable = (path: string | null, annotations?: string[]): Feed<Row> =>
  useFeed(path ? { mode: "table", path, annotations } : null, rowOrder);

/** useObjects follows objects: ask for few, by a field or label selector, or for some fields such as "status.conditions". */
export const useObjects = <T = any>(path: string | null, fields?: string[]): Feed<T> =>
  useFeed<any>(path ? { mode: "objects", path, fields } : null, objectOrder);

/** edited is the UID of the object that somebody edits now. Its page stays when it is gone, or what was written would be lost. */
export const edited = signal("");

/** useObject follows one object; undefined until it is there, null if it is gone. */
export function useObject<T = any>(collection: string | null, name: string): { object: T | undefined | null; feed: Feed<T> } {
  const found = useObjects<T>(collection && `${collection}?fieldSelector=metadata.name%3D${encodeURIComponent(name)}`);
  const last = useRef<T | undefined>(undefined);
  last.current = found.items.value[0] ?? (edited.value && (last.current as any)?.metadata?.uid === edited.value ? last.current : undefined);
  return { object: last.current ?? (found.state.value === "live" ? null : undefined), feed: found };
}

/** follow streams the text of a log or of a path of /api/mesos until the returned function is called. */
export function follow(path: string, on: { text: (piece: string) => void; state: (state: State, problem: Problem | null) => void }): () => void {
  return subscribe({ mode: "lines", path }, (f) => {
    if (f.lines) on.text(f.lines);
    if (f.state) on.state(f.state, f.message ? { code: f.code ?? 0, message: f.message } : null);
  });
}

/** cutter cuts the pieces of a text into lines. A line may come in many pieces: the state of a large Mesos has megabytes. */
export function cutter(): { cut: (piece: string) => string[]; rest: () => string } {
  let open: string[] = [];
  const rest = () => { const line = open.join(""); open = []; return line; };
  return {
    rest,
    cut: (piece) => {
      const lines = piece.split("\n"), last = lines.pop()!;
      if (lines.length) lines[0] = rest() + lines[0]!;
      open.push(last);
      return lines;
    },
  };
}

/** useTail follows a text line by line, and keeps the last lines. read makes of a line what is kept. */
export function useTail<T>(path: string, most: number, read: (line: string) => T) {
  const tail = useMemo(() => ({ lines: signal<T[]>([]), state: signal<State>("loading"), problem: signal<Problem | null>(null) }), [path]);
  useEffect(() => {
    let fresh: T[] = [], timer = 0;
    const text = cutter();
    const flush = () => {
      timer = 0;
      const all = tail.lines.value.concat(fresh);
      fresh = [];
      tail.lines.value = all.length > most ? all.slice(-most) : all;
    };
    const stop = follow(path, {
      text: (piece) => {
        for (const line of text.cut(piece)) fresh.push(read(line));
        timer ||= window.setTimeout(flush, 100);
      },
      state: (state, problem) => {
        const rest = state === "live" || state === "ended" ? text.rest() : "";
        if (state === "live") { tail.lines.value = []; fresh = []; }
        if (state === "ended" && rest) { fresh.push(read(rest)); flush(); }
        tail.state.value = state;
        tail.problem.value = problem;
      },
    });
    return () => { clearTimeout(timer); stop(); };
  }, [path]);
  return tail;
}

/** useMesosState follows the scheduler's view of Mesos: each line is the whole of it. */
export function useMesosState<T = any>(): { state: T | undefined; problem: Problem | null } {
  const value = useMemo(() => ({ state: signal<T | undefined>(undefined), problem: signal<Problem | null>(null) }), []);
  useEffect(() => {
    if (!session.peek()?.mesos) return;
    let stop = () => {}, timer = 0, over = false, failed = 0;
    const start = () => {
      const text = cutter();
      stop = follow("/api/mesos/state?watch=true", {
        text: (piece) => {
          const whole = text.cut(piece).filter(Boolean).pop();
          if (whole) { value.state.value = JSON.parse(whole); failed = 0; }
        },
        state: (state, problem) => {
          if (state === "live") { text.rest(); value.problem.value = null; }
          if (problem) value.problem.value = problem;
          if (state === "ended" && !over) timer = window.setTimeout(() => { stop(); start(); }, problem ? backOff(failed++, 15_000) : 500);
          markOld(value.problem, !!problem && !!value.state.value);
        },
      });
    };
    start();
    return () => { over = true; clearTimeout(timer); stop(); markOld(value.problem, false); };
  }, []);
  return { state: value.state.value, problem: value.problem.value };
}

/** refused tells whether an answer stays the same for a while. */
const refused = (code: number) => code >= 400 && code < 500 && code !== 429;

/** usePoll asks again every few seconds while the page is visible, and soon after a failure. What was answered before stays. */
export function usePoll<T>(ask: () => Promise<T>, seconds: number, key: unknown): { value: T | undefined; problem: Problem | null } {
  const got = useMemo(() => ({ value: signal<T | undefined>(undefined), problem: signal<Problem | null>(null) }), [key]);
  useEffect(() => {
    let over = false, asking = false, failed = 0, timer = 0;
    const once = async () => {
      if (over || asking || document.visibilityState !== "visible") return;
      clearTimeout(timer);
      asking = true;
      try {
        const value = await ask();
        failed = 0;
        if (!over) batch(() => { got.value.value = value; got.problem.value = null; });
      } catch (error: any) {
        const code = error.code ?? 0;
        failed = refused(code) ? 0 : failed + 1;
        if (!over) got.problem.value = { code, message: error.message };
      }
      asking = false;
      if (over) return;
      markOld(got.problem, !!got.problem.value && got.value.value !== undefined);
      timer = window.setTimeout(once, failed ? Math.min(seconds * 1000, backOff(failed - 1)) : seconds * 1000);
    };
    void once();
    addEventListener("online", once);
    document.addEventListener("visibilitychange", once);
    return () => {
      over = true;
      clearTimeout(timer);
      markOld(got.problem, false);
      removeEventListener("online", once);
      document.removeEventListener("visibilitychange", once);
    };
  }, [key]);
  return { value: got.value.value, problem: got.problem.value };
}
