// A chart of time series. Below it are their names and last values, so that nobody has to tell colours apart.
import { useEffect, useMemo, useRef } from "preact/hooks";
import type uPlot from "uplot";
import { usePart } from "./lazy";
import { usePoll } from "./live";
import { named, queryRange, unit, type Series } from "./prom";
import { dark } from "./ui";

export interface Target { expr: string; legend?: string }

const shownSeries = 20;

/** PromChart asks for its targets now and then. */
export function PromChart({ title, targets, of, seconds }: { title: string; targets: Target[]; of?: string; seconds: number }) {
  const { value, problem } = usePoll(async () => {
    const found = await Promise.all(targets.map(async (t) => (await queryRange(t.expr, seconds)).map((s) => ({ ...s, name: named(s.metric, t.legend) }))));
    return found.flat();
  }, 30, JSON.stringify([targets, seconds]));
  return (
    <section class="panel chart-panel">
      <header><h2>{title}</h2></header>
      {value ? <Chart label={title} series={value} of={of} seconds={seconds} /> : <div class="chart-empty muted">{problem?.message ?? "Loading…"}</div>}
    </section>
  );
}

export interface Named extends Series { name: string }

/** Limit is a value that a chart marks by a dashed line, if it is not far above what was measured. */
export interface Limit { name: string; value: number }

const colour = (i: number) => `var(--series-${i % 8})`;

interface ChartProps { label: string; series: Named[]; of?: string; seconds: number; limits?: Limit[] }

/** binary are steps of an axis of bytes, whose ticks are then whole KiB, MiB and so on. */
const binary = Array.from({ length: 54 }, (_, i) => 2 ** i);

/** steps are those of an axis of time, in seconds. */
const steps = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800];

/** clock writes a time of an axis whose ticks are so many seconds apart. */
const clock = (at: number, step: number): string => {
  const date = new Date(at * 1000);
  return step >= 86400 ? date.toLocaleDateString("en", { month: "short", day: "numeric" }) : date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
};

const far = 4; // times what was measured

export function Chart({ label, series, of, seconds, limits = [] }: ChartProps) {
  const at = useRef<HTMLDivElement>(null);
  const { part: plot, failure } = usePart("plot");
  const last = (s: Series) => Number(s.values[s.values.length - 1]?.[1]);
  const drawn = useMemo(() => [...series].sort((a, b) => last(b) - last(a)).slice(0, shownSeries), [series]);
  useEffect(() => {
    if (!plot || !at.current || !drawn.length) return;
    const element = at.current;
    const until = Date.now() / 1000, since = until - seconds; // limits are drawn from one to the other
    // Questions of one chart may have been asked a second apart: their values belong together all the same.
    const step = Math.max(1, Math.min(...drawn.map((s) => (s.values.length > 1 ? s.values[1]![0] - s.values[0]![0] : seconds)))), place = (t: number) => Math.round(t / step) * step;
    const times = [...new Set([since, until, ...drawn.flatMap((s) => s.values.map(([t]) => place(t)))])].sort((a, b) => a - b);
    const index = new Map(times.map((t, i) => [t, i]));
    const columns = drawn.map((s) => {
      const column: (number | null)[] = new Array(times.length).fill(null);
      for (const [t, v] of s.values) column[index.get(place(t))!] = Number.isFinite(Number(v)) ? Number(v) : null;
      return column;
    });
    const style = getComputedStyle(element);
    // The canvas takes no light-dark(): an element has the colour as it is now.
    const probe = document.createElement("i");
    element.append(probe);
    const real = (value: string) => { probe.style.color = value; return getComputedStyle(probe).color; };
    const most = Math.max(...columns.flat().map((v) => v ?? 0)), near = limits.filter((l) => l.value <= most * far);
    const muted = real("var(--muted)");
    const axis = { stroke: muted, grid: { stroke: real("var(--line)"), width: 1 }, ticks: { stroke: real("var(--line)"), width: 1 }, font: `11px ${style.fontFamily}` };
    const chart = new plot.Plot({
      width: element.clientWidth, height: 170, legend: { show: false }, cursor: { points: { size: 5 } },
      scales: { x: { min: since, max: until }, y: { range: (_u, min, max) => [Math.min(0, min ?? 0), max ? max * 1.08 : 1] } },
      series: [{}, ...drawn.map((s, i) => ({ label: s.name, stroke: real(colour(i)), width: 1.5, points: { show: s.values.length === 1 } })), ...near.map((l) => ({ label: l.name, stroke: muted, width: 1, dash: [4, 4], points: { show: false } }))],
      axes: [{ ...axis, values: (_u, ticks, _a, _s, step) => ticks.map((t) => clock(t, step)), incrs: steps }, { ...axis, size: 66, incrs: /bytes|Bps/.test(of ?? "") ? binary : undefined, values: (_u, ticks) => ticks.map((v) => unit(of, v)) }],
    }, [times, ...columns, ...near.map((l) => times.map(() => l.value))] as uPlot.AlignedData, element);
    probe.remove();
    const resized = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height: 170 }));
    resized.observe(element);
    return () => { resized.disconnect(); chart.destroy(); };
  }, [plot, drawn, seconds, limits.map((l) => l.value).join(), dark.value]);
  if (failure) return failure;
  if (!series.length) return <div class="chart-empty muted">Nothing was measured in this time</div>;
  return (
    <>
      <div class="chart" ref={at} role="img" aria-label={`${label}: ${drawn.slice(0, 6).map((s) => `${s.name} ${unit(of, last(s))}`).join(", ")}`} />
      <ul class="chart-legend" tabIndex={0} aria-label={`Legend of ${label}`}>
        {drawn.map((s, i) => <li key={s.name + i} title={s.name}><i class={`series-${i % 8}`} /><span>{s.name || "value"}</span><b>{unit(of, last(s))}</b></li>)}
        {limits.map((l) => <li key={l.name}><i class="limit" /><span>{l.name}</span><b>{unit(of, l.value)}</b></li>)}
        {series.length > shownSeries && <li class="muted">and {series.length - shownSeries} more</li>}
      </ul>
    </>
  );
}
