// A container's log: followed, searched, wrapped, with colours.
import { useSignal } from "@preact/signals";
import { Virtualizer, elementScroll, measureElement, observeElementOffset, observeElementRect } from "@tanstack/virtual-core";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useMemo, useReducer, useRef } from "preact/hooks";
import { ansi } from "./ansi";
import { core, pathOf } from "./api";
import { useTail } from "./live";
import { param, setParams } from "./router";
import { Button, Failure } from "./ui";
import { Mark } from "./icons";

const maxLines = 20_000;

interface Props { ns: string; pod: string; containers: string[]; ended: boolean; restarted: boolean }

export function LogView({ ns, pod, containers, ended, restarted }: Props) {
  const container = containers.includes(param("container")) ? param("container") : containers[0]!;
  const since = param("since"), previous = param("previous") === "1", times = param("times") === "1", wrap = param("wrap") !== "0";
  const query = new URLSearchParams({ container, tailLines: "5000", timestamps: String(times) });
  if (since) query.set("sinceSeconds", since);
  if (previous) query.set("previous", "true");
  else query.set("follow", "true");
  const path = `${pathOf(core("pods"), ns, pod)}/log?${query}`;
  const log = useTail(path, maxLines, (line) => line.replace(/\r$/, ""));
  const find = param("q");
  const lines = useMemo(() => (find ? log.lines.value.filter((l) => l.toLowerCase().includes(find.toLowerCase())) : log.lines.value), [log.lines.value, find]);
  const problem = log.problem.value;
  const download = new URLSearchParams({ container, timestamps: String(times), ...(previous ? { previous: "true" } : {}) });
  return (
    <div class="logs">
      <div class="toolbar">
        {containers.length > 1 && <label class="select"><span>Container</span><select value={container} onChange={(e) => setParams({ container: e.currentTarget.value })}>{containers.map((c) => <option key={c}>{c}</option>)}</select></label>}
        <label class="select"><span>Since</span><select value={since} onChange={(e) => setParams({ since: e.currentTarget.value })}>
          <option value="">the start</option><option value="300">5 minutes</option><option value="3600">1 hour</option><option value="86400">1 day</option>
        </select></label>
        <label class="filter"><input type="search" data-filter placeholder="Search" aria-label="Search the log" value={find} spellcheck={false} onInput={(e) => setParams({ q: e.currentTarget.value })} /><kbd>/</kbd></label>
        <span class="grow" />
        {(restarted || previous) && <Button pressed={previous} onClick={() => setParams({ previous: previous ? "" : "1" })} title="The log of the container before its last restart">Previous</Button>}
        <Button pressed={times} onClick={() => setParams({ times: times ? "" : "1" })}>Times</Button>
        <Button pressed={wrap} onClick={() => setParams({ wrap: wrap ? "0" : "" })}>Wrap</Button>
        <a class="button bare" title="Download all of it" aria-label="Download all of it" download={`${pod}-${container}.log`} href={`/api/k8s${pathOf(core("pods"), ns, pod)}/log?${download}`}><svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d="M8 2.5v7.5M4.8 7L8 10.2 11.2 7M3 13.5h10" /></svg></a>
      </div>
      {problem && log.state.value === "ended" ? <Failure problem={problem} what="the log" /> : <Lines lines={lines} find={find} wrap={wrap} />}
      <p class="log-state muted" role="status">
        {log.state.value === "live" ? <><Mark tone="ok" />{previous ? "all there is" : "following"}</> : log.state.value === "ended" ? <><Mark tone="done" />{ended || previous ? "the log has ended" : "the container has ended"}</> : <><Mark tone="busy" />{log.state.value}…{problem?.message && ` ${problem.message}`}</>}
        {" · "}{lines.length.toLocaleString("en")} lines{log.lines.value.length >= maxLines && ", the last ones"}{find && ` with “${find}”`}
      </p>
    </div>
  );
}

/** Lines shows lines, of which only those in sight are in the document. At the end it stays there while lines come. */
export function Lines({ lines, find, wrap, prefix }: { lines: string[]; find: string; wrap: boolean; prefix?: (i: number) => ComponentChildren }) {
  const scroller = useRef<HTMLDivElement>(null);
  const [, draw] = useReducer((n: number) => n + 1, 0);
  const atEnd = useSignal(true);
  const virtual = useMemo(() => new Virtualizer<HTMLDivElement, HTMLDivElement>({
    count: 0, getScrollElement: () => scroller.current, estimateSize: () => 18, overscan: 20,
    scrollToFn: elementScroll, observeElementRect, observeElementOffset, measureElement, onChange: () => draw(0),
  }), [wrap]);
  virtual.setOptions({ ...virtual.options, count: lines.length });
  useLayoutEffect(() => virtual._didMount(), [virtual]);
  useLayoutEffect(() => virtual._willUpdate());
  useEffect(() => { if (atEnd.value && lines.length) virtual.scrollToIndex(lines.length - 1, { align: "end" }); }, [lines, virtual]);
  const items = virtual.getVirtualItems();
  return (
    <div class={`lines ${wrap ? "wrap" : ""}`} ref={scroller} tabIndex={0} role="log" aria-label="Log" aria-live="off"
      onScroll={(e) => { const s = e.currentTarget; atEnd.value = s.scrollHeight - s.scrollTop - s.clientHeight < 24; }}>
      <div style={{ height: `${virtual.getTotalSize()}px`, position: "relative" }}>
        <div style={{ transform: `translateY(${items[0]?.start ?? 0}px)` }}>
          {items.map((i) => <div key={i.index} data-index={i.index} ref={(n) => { if (n) virtual.measureElement(n); }} class="line">{prefix?.(i.index)}{ansi(lines[i.index] ?? "", find)}</div>)}
        </div>
      </div>
      {!lines.length && <p class="muted none">{find ? `No line has “${find}”` : "No lines yet"}</p>}
      {!atEnd.value && <button type="button" class="button to-end" onClick={() => { atEnd.value = true; virtual.scrollToIndex(lines.length - 1, { align: "end" }); }}>To the end</button>}
    </div>
  );
}
