import { useEffect, useMemo, useState } from "preact/hooks";
import { hasGroup, k8s } from "../api";
import { count } from "../format";
import { Mark } from "../icons";
import { usePoll, useTail } from "../live";
import { Lines } from "../logview";
import { link, param, setParams } from "../router";
import { Button, Empty, Failure, Loading, PageHead } from "../ui";

/** Line is a line of the log store. */
interface Line { time: string; namespace?: string; pod?: string; container?: string; node?: string; message?: string; raw?: string; lost?: string; lostLines?: number; error?: string }

const maxLines = 5000;

const ranges: [string, string, number][] = [["5m", "5 minutes", 300], ["1h", "1 hour", 3600], ["6h", "6 hours", 21600], ["1d", "1 day", 86400], ["7d", "7 days", 604800]];

/** storeOf is the log store's path for a namespace, or for all. */
const storeOf = (ns: string) => `/apis/logs.k8sm.io/v1/${ns ? `namespaces/${encodeURIComponent(ns)}/` : ""}pods/*/log`;

export default function Logs() {
  const [there, setThere] = useState<boolean | null>(null);
  useEffect(() => { hasGroup("logs.k8sm.io").then(setThere, () => setThere(true)); }, []);
  return (
    <>
      <PageHead title="Logs" note="What containers have written, also those of pods that are gone." />
      {there === false ? <Empty title="This cluster keeps no logs"><p>It was started with <code>--logs=false</code>, or its API server listens on loopback only. A pod's page shows its own log while it is there.</p></Empty> : there ? <Search /> : <Loading />}
    </>
  );
}

function Search() {
  const ns = param("ns"), pod = param("pod"), owner = param("owner"), grep = param("grep"), live = param("live") !== "0", times = param("times") === "1", wrap = param("wrap") !== "0";
  const around = param("at"); // a time: what was written around it
  const range = ranges.find(([id]) => id === (param("range") || "1h")) ?? ranges[1]!;
  const [words, setWords] = useState(grep);
  const [from, until] = useMemo(() => (around ? [new Date(Date.parse(around) - 60_000), new Date(Date.parse(around) + 60_000)] : [new Date(Date.now() - range[2] * 1000), null]), [around, range[0], ns, pod, owner, grep]);
  const path = useMemo(() => {
    const query = new URLSearchParams({ since: from.toISOString(), tail: "1000" });
    if (until) query.set("until", until.toISOString());
    if (pod) query.set("pod", pod);
    if (owner) query.set("owner", owner);
    if (grep) query.set("grep", grep);
    if (live && !until) query.set("follow", "true");
    return `${storeOf(ns)}?${query}`;
  }, [from, until, live, ns, pod, owner, grep]);
  const log = useTail(path, maxLines, read);
  const lines = log.lines.value, problem = log.problem.value;
  const several = !pod || lines.some((l) => l.container !== lines[0]?.container);
  return (
    <div class="logs">
      <form class="toolbar" onSubmit={(e) => { e.preventDefault(); setParams({ grep: words }, true); }}>
        <label class="filter wide"><input type="search" data-filter aria-label="Search by a regular expression" placeholder="Search: error|warn" value={words} spellcheck={false} onInput={(e) => setWords(e.currentTarget.value)} /><kbd>/</kbd></label>
        <Button type="submit" icon="search">Search</Button>
        <label class="filter pod"><input aria-label="Pod" placeholder="Pod" value={pod} spellcheck={false} onChange={(e) => setParams({ pod: e.currentTarget.value.trim() }, true)} /></label>
        {around ? <Button icon="close" onClick={() => setParams({ at: "" })}>Around {new Date(around).toLocaleTimeString()}</Button>
          : <label class="select"><span>Last</span><select value={range[0]} onChange={(e) => setParams({ range: e.currentTarget.value === "1h" ? "" : e.currentTarget.value })}>{ranges.map(([id, name]) => <option key={id} value={id}>{name}</option>)}</select></label>}
        {owner && <Button icon="close" onClick={() => setParams({ owner: "" })}>{owner.replace(/-\[a-z0-9\]\+$/, "")}</Button>}
        <span class="grow" />
        {!around && <Button pressed={live} onClick={() => setParams({ live: live ? "0" : "" })}>Live</Button>}
        <Button pressed={times} onClick={() => setParams({ times: times ? "" : "1" })}>Times</Button>
        <Button pressed={wrap} onClick={() => setParams({ wrap: wrap ? "0" : "" })}>Wrap</Button>
        <Button icon="download" label="Download these lines" onClick={() => download(lines)} />
      </form>
      <Histogram ns={ns} pod={pod} owner={owner} grep={grep} from={from} until={until} />
      {problem && log.state.value === "ended" ? <Failure problem={problem} what={ns ? `the logs of ${ns}` : "the logs of all namespaces"}>{problem.code === 403 && !ns && <p>If you may see one namespace only, choose it above.</p>}</Failure>
        : <Lines lines={lines.map(textOf)} find="" wrap={wrap} prefix={(i) => <Prefix line={lines[i]!} times={times} several={several} />} />}
      <p class="log-state muted" role="status">
        <Mark tone={log.state.value === "live" ? "ok" : log.state.value === "ended" ? "done" : "busy"} />{log.state.value === "live" ? (live && !around ? "live" : "reading…") : log.state.value === "ended" ? "all that there is" : `${log.state.value}… ${problem?.message ?? ""}`}
        {" · "}{count(lines.length, "line")}{lines.length >= maxLines && ", the last ones"}{lines.length > 0 && `, the last was at ${new Date(lines[lines.length - 1]!.time).toLocaleString()}`}
      </p>
    </div>
  );
}

/** read is a line of the store's answer. */
function read(line: string): Line {
  try { return JSON.parse(line); } catch { return { time: "", error: "its answer broke off" }; }
}

/** textOf is a line's text. JSON of one line is written as its message and its fields. */
function textOf(l: Line): string {
  if (l.error) return `The log store: ${l.error}`;
  if (l.lost) return `${l.lostLines ?? "Some"} lines are missing here: ${l.lost}`;
  const text = l.message ?? (l.raw ? atob(l.raw) : "");
  if (!text.startsWith("{")) return text;
  try {
    const { msg, message, level, time: _, ts: __, ...rest } = JSON.parse(text);
    const head = [level, msg ?? message].filter((x) => typeof x === "string").join(" ");
    return [head, ...Object.entries(rest).map(([k, v]) => `${k}=${typeof v === "string" ? v : JSON.stringify(v)}`)].filter(Boolean).join(" ");
  } catch { return text; }
}

const series = (name: string) => { let h = 0; for (const c of name) h = (h * 31 + c.charCodeAt(0)) >>> 0; return h % 8; };

function Prefix({ line, times, several }: { line: Line; times: boolean; several: boolean }) {
  return (
    <>
      {times && <time class="line-time" dateTime={line.time}>{new Date(line.time).toLocaleTimeString("en-GB")}.{line.time.slice(20, 23).replace(/\D/g, "0")} </time>}
      {several && line.pod && <a class={`line-from text-${series(line.pod)}`} title={`${line.namespace}/${line.pod}/${line.container} on ${line.node}: what it wrote around ${line.time}`}
        href={link("/logs", { ns: line.namespace ?? "", pod: line.pod, at: line.time })}>{line.pod}{line.container && line.container !== "main" ? `/${line.container}` : ""} </a>}
    </>
  );
}

function download(lines: Line[]) {
  const text = lines.map((l) => `${l.time} ${l.namespace}/${l.pod}/${l.container} ${l.message ?? ""}`).join("\n") + "\n";
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  anchor.download = "logs.txt";
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
}

const quoted = (text: string) => JSON.stringify(text);

/** Histogram is how many lines there are over the time. */
function Histogram({ ns, pod, owner, grep, from, until }: { ns: string; pod: string; owner: string; grep: string; from: Date; until: Date | null }) {
  const { value } = usePoll(async () => {
    const query = ["*", pod && `pod:=${quoted(pod)}`, owner && `owner:~${quoted(`^(${owner})$`)}`, grep && `_msg:~${quoted(grep)}`].filter(Boolean).join(" ");
    const end = until ?? new Date(), step = Math.max(1, Math.ceil((end.getTime() - from.getTime()) / 60_000));
    const answer = await k8s<{ hits: { timestamps: string[]; values: number[] }[] }>(`${storeOf(ns)}/select/logsql/hits?${new URLSearchParams({ query, start: from.toISOString(), end: end.toISOString(), step: `${step}s` })}`);
    const bars: number[] = new Array(61).fill(0);
    for (const h of answer.hits ?? []) h.timestamps.forEach((t, i) => { const at = Math.floor((Date.parse(t) - from.getTime()) / 1000 / step); bars[Math.max(0, Math.min(60, at))]! += h.values[i] ?? 0; });
    return bars;
  }, 15, JSON.stringify([ns, pod, owner, grep, from.getTime(), until?.getTime()]));
  if (!value) return null;
  const most = Math.max(1, ...value), sum = value.reduce((a, b) => a + b, 0);
  return (
    <svg class="histogram" viewBox="0 0 610 40" preserveAspectRatio="none" role="img" aria-label={`${count(sum, "line")} in this time, at most ${most} at once`}>
      {value.map((n, i) => <rect key={i} x={i * 10} width="8" y={40 - (n / most) * 38} height={(n / most) * 38} class="ours"><title>{count(n, "line")}</title></rect>)}
    </svg>
  );
}
