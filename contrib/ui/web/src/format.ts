// Numbers, times and states as people read them.

/** age is how long ago a time was, as kubectl writes it. */
export function age(since: string | undefined, now: number): string {
  if (!since) return "–";
  return span((now - Date.parse(since)) / 1000);
}

/** span writes seconds as kubectl does: 59s, 4m12s, 3h5m, 2d4h, 45d. */
export function span(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 120) return `${s}s`;
  const m = Math.floor(s / 60);
  if (m < 10) return s % 60 ? `${m}m${s % 60}s` : `${m}m`;
  if (m < 180) return `${m}m`;
  const h = Math.floor(m / 60);
  if (h < 8) return m % 60 ? `${h}h${m % 60}m` : `${h}h`;
  if (h < 48) return `${h}h`;
  const d = Math.floor(h / 24);
  if (d < 8) return h % 24 ? `${d}d${h % 24}h` : `${d}d`;
  if (d < 730) return `${d}d`;
  return `${Math.floor(d / 365)}y`;
}

const suffixes: Record<string, number> = {
  n: 1e-9, u: 1e-6, m: 1e-3, "": 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18,
  Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50, Ei: 2 ** 60,
};

/** quantity reads a Kubernetes quantity, such as 250m or 1.5Gi. */
export function quantity(text: string | number | undefined): number {
  if (text === undefined) return 0;
  const m = /^([+-]?[\d.]+(?:[eE][+-]?\d+)?)([A-Za-z]*)$/.exec(String(text));
  return m ? Number(m[1]) * (suffixes[m[2]!] ?? NaN) : NaN;
}

export function bytes(n: number): string {
  for (const [unit, size] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]] as const) {
    if (n >= size) return `${trim(n / size)} ${unit}`;
  }
  return `${Math.round(n)} B`;
}

export const cpus = (n: number): string => (n > 0 && n < 0.0005 ? "<1m" : n !== 0 && n < 0.1 ? `${Math.round(n * 1000)}m` : trim(n));

const trim = (n: number) => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2)).replace(/\.0+$|(\.\d*?)0+$/, "$1");

export const count = (n: number, one: string, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

export type Tone = "ok" | "busy" | "warn" | "bad" | "done" | "none";

const tones: [RegExp, Tone][] = [
  [/^(Running|Ready|Active|Bound|True|Available|Healthy|Approved.*|Complete|Established|live|TASK_RUNNING|Deployed)$/i, "ok"],
  [/^(Completed|Succeeded|Released|TASK_FINISHED|Normal)$/i, "done"],
  [/(^Err|Error|BackOff|Failed|Invalid|Evicted|OOMKilled|Lost|NotReady|Unknown|Unschedulable|Denied|TASK_LOST|TASK_GONE)/i, "bad"],
  [/(Terminating|SchedulingDisabled|Warning|reconnecting|DeadlineExceeded|TASK_UNREACHABLE|TASK_KILLED)/i, "warn"],
  [/(Pending|ContainerCreating|Init:|PodInitializing|Creating|Progressing|Waiting|TASK_STAGING|TASK_STARTING|loading)/i, "busy"],
];

/** tone says how good a state is, for its icon. */
export function tone(state: string): Tone {
  for (const [pattern, t] of tones) if (pattern.test(state)) return t;
  return "none";
}

/** command quotes words for a shell. */
export const command = (...words: string[]) => words.map((w) => (/^[\w@%+=:,./-]+$/.test(w) ? w : `'${w.replaceAll("'", `'\\''`)}'`)).join(" ");
