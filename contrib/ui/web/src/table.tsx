// A table of any number of rows, of which only those in sight are in the document. Filter, order and columns are in the URL.
import { Virtualizer, elementScroll, observeElementOffset, observeElementRect } from "@tanstack/virtual-core";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import { Icon } from "./icons";
import { idle } from "./keys";
import { go, param, setParams } from "./router";
import { Loading, Menu } from "./ui";

export interface TableColumn<T> {
  id: string;
  title: string;
  /** text is what a filter finds, and what a column is as wide as. */
  text: (item: T) => string;
  /** show draws a cell; without it the text is shown. has tells whether a column is in sight. */
  show?: (item: T, has: (id: string) => boolean) => ComponentChildren;
  /** order is what rows are sorted by; the text without it. */
  order?: (item: T) => number | string;
  /** keep is how long a column stays when there is little room: the highest longest. */
  keep?: number;
  /** hidden columns are shown only when the user asks for them. */
  hidden?: boolean;
  /** link says that the cell leads to the item; without it, the cell that stays longest does. */
  link?: boolean;
  /** width is how wide the column is, in characters, where that is not as its longest text; that gets what room is left. */
  width?: number;
  /** sparse columns are shown only while some item has a text in them, or if the user asks for them. */
  sparse?: boolean;
  numeric?: boolean;
  mono?: boolean;
}

export interface TableProps<T> {
  label: string;
  items: T[];
  columns: TableColumn<T>[];
  keyOf: (item: T) => string;
  href?: (item: T) => string;
  /** empty is shown if there are no items at all. */
  empty?: ComponentChildren;
  tools?: ComponentChildren;
  loading?: boolean;
  /** extra is text that a filter finds, too, such as labels. */
  extra?: (item: T) => string;
}

const rowHeight = 36, cardHeight = 58, narrow = 560; // pixels

/** order compares numbers as numbers and texts as people do. */
const collator = new Intl.Collator("en", { numeric: true });

/** filtered are the items that have each word of a filter in some column or in extra, and no word that is written as -word. */
export function filtered<T>(items: T[], columns: TableColumn<T>[], filter: string, extra?: (item: T) => string): T[] {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return items;
  return items.filter((item) => {
    const text = (columns.map((c) => c.text(item)).join("\u0000") + "\u0000" + (extra?.(item) ?? "")).toLowerCase();
    return words.every((w) => (w.length > 1 && w.startsWith("-") ? !text.includes(w.slice(1)) : text.includes(w)));
  });
}

/** sorted are the items in the order of a column, "name", or the other way round, "-name". Another name changes nothing. */
export function sorted<T>(items: T[], columns: TableColumn<T>[], sort: string): T[] {
  const column = columns.find((c) => c.id === sort.replace(/^-/, ""));
  if (!column) return items;
  const value = column.order ?? column.text;
  const compared = items.map((item) => [value(item), item] as const).sort(([a], [b]) =>
    typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b)));
  if (sort.startsWith("-")) compared.reverse();
  return compared.map(([, item]) => item);
}

function useFiltered<T>({ items, columns, extra }: TableProps<T>) {
  const filter = param("q"), sort = param("sort");
  const found = useMemo(() => filtered(items, columns, filter, extra), [items, filter, columns]);
  return useMemo(() => sorted(found, columns, sort), [found, sort, columns]);
}

const pen = document.createElement("canvas").getContext("2d")!;

/** measured is how wide a text is, in pixels, as style.css draws heads, cells and cells that name things. */
function measured(text: string, as: "head" | "cell" | "name" | "mono"): number {
  const { fontFamily } = getComputedStyle(document.body);
  pen.font = as === "mono" ? "12px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" : `${{ head: "600 12px", cell: "400 13px", name: "550 13px" }[as]} ${fontFamily}`;
  return Math.ceil(pen.measureText(text).width);
}

const padding = 22, icon = 20, most = 300, mostName = 420; // pixels

/** Width is how wide a column is at first, at least, and would like to be, in pixels. */
interface Width<T> { c: TableColumn<T>; width: number; least: number; full: number }

/** widthOf makes a column as wide as its longest cell, within reason. */
function widthOf<T>(c: TableColumn<T>, items: T[]): Width<T> {
  const head = measured(c.title, "head") + 12, name = c.keep === 100;
  let longest = "";
  const step = Math.max(1, Math.floor(items.length / 2000));
  for (let i = 0; i < items.length; i += step) { const text = c.text(items[i]!); if (text.length > longest.length) longest = text; }
  const base = c.width ? measured("0".repeat(c.width), "cell") : 0, text = measured(longest, c.mono ? "mono" : name || c.link ? "name" : "cell") + (c.show ? icon : 4);
  const full = Math.max(head, base, text) + padding;
  const width = Math.min(base ? Math.max(base, head) + padding : full, name ? mostName : most);
  return { c, width, least: width, full };
}

/** fitted drops columns until the rest has room, and gives each its width: first the column that names things makes room, then texts that are cut off get it. */
function fitted<T>(columns: Width<T>[], room: number, all: boolean): Width<T>[] {
  const least = room < 900 ? 190 : 215;
  const left = columns.map((w) => (w.c.keep === 100 ? { ...w, least: Math.min(w.width, least) } : w)), sum = (of: (w: Width<T>) => number) => left.reduce((s, w) => s + of(w), 0);
  while (room && !all && left.length > 1 && sum((w) => w.least) > room) {
    let first = 0;
    left.forEach((w, i) => { if ((w.c.keep ?? 0) <= (left[first]!.c.keep ?? 0)) first = i; });
    left.splice(first, 1);
  }
  let spare = room - sum((w) => w.width);
  if (spare < 0) return left.map((w) => ({ ...w, width: w.width - Math.min(-spare, w.width - w.least) }));
  const cut = sum((w) => w.full - w.width), part = cut ? Math.min(1, spare / cut) : 0;
  const grown = left.map((w) => ({ ...w, width: w.width + (w.full - w.width) * part }));
  spare -= cut * part;
  // What room is left goes to the column that names things, up to a point, and then to all.
  const forName = Math.min(spare, 160), total = grown.reduce((s, w) => s + w.width, 0);
  return grown.map((w) => ({ ...w, width: w.width + (spare - forName) * (w.width / total) + (w.c.keep === 100 ? forName : 0) }));
}

export function Table<T>(props: TableProps<T>) {
  const { label, items, columns, keyOf, href, empty, tools, loading } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const [, draw] = useReducer((n: number) => n + 1, 0);
  const [room, setRoom] = useState(0);
  const [at, drawAt] = useState<string | null>(null); // the key of the row with the focus
  const current = useRef<string | null>(null); // the same, before it is drawn: keys come faster than frames
  const setAt = (key: string) => { current.current = key; drawAt(key); };
  const rows = useFiltered(props);

  const cards = room > 0 && room < narrow; // a phone: each row has its other columns below its name
  const height = useRef(rowHeight);
  const virtual = useMemo(() => new Virtualizer<HTMLDivElement, HTMLTableRowElement>({
    count: 0, getScrollElement: () => scroller.current, estimateSize: () => height.current, overscan: 8,
    scrollToFn: elementScroll, observeElementRect, observeElementOffset, onChange: () => draw(0),
  }), []);
  virtual.setOptions({ ...virtual.options, count: rows.length, getItemKey: (i) => keyOf(rows[i]!) });
  useLayoutEffect(() => {
    height.current = cards ? cardHeight : rowHeight;
    virtual.measure();
  }, [cards]);
  useLayoutEffect(() => virtual._didMount(), []);
  useLayoutEffect(() => virtual._willUpdate());
  useEffect(() => {
    const watch = new ResizeObserver(([e]) => setRoom(e!.contentRect.width));
    watch.observe(scroller.current!);
    return () => watch.disconnect();
  }, []);

  // Columns: those that were asked for, or those that are not hidden; then as many as there is room for.
  const asked = param("cols");
  const chosen = useMemo(() => columns.filter((c) => (asked ? asked.split(",").includes(c.id) : !c.hidden && !(c.sparse && !items.some((i) => c.text(i))))), [columns, asked, items]);
  const names = chosen.map((c) => c.id).join();
  const widths = useMemo(() => chosen.map((c) => widthOf(c, items)), [columns, names, items.length > 0, Math.floor(items.length / 50)]);
  const shown = useMemo(() => {
    if (!cards) return fitted(widths, room, !!asked);
    const name = widths[linkAt(chosen)]!;
    return [{ ...name, width: room }];
  }, [widths, room, asked, cards]);
  const below = useMemo(() => (cards ? chosen.filter((c) => c !== shown[0]!.c).sort((a, b) => (b.keep ?? 0) - (a.keep ?? 0)) : []), [chosen, shown]);
  const has = (id: string) => shown.some((w) => w.c.id === id);
  const sum = shown.reduce((s, w) => s + w.width, 0);

  const focus = (index: number) => {
    const to = Math.max(0, Math.min(rows.length - 1, index));
    if (!rows.length) return;
    setAt(keyOf(rows[to]!));
    virtual.scrollToIndex(to, { align: "auto" });
    requestAnimationFrame(() => scroller.current?.querySelector<HTMLElement>(`tr[data-index="${to}"]`)?.focus({ preventScroll: true }));
  };
  const indexOf = () => (current.current === null ? -1 : rows.findIndex((r) => keyOf(r) === current.current));
  useEffect(() => {
    const keys = (e: KeyboardEvent) => {
      if (!idle(e)) return;
      if (e.key === "j" || (e.key === "ArrowDown" && inTable(e.target))) focus(indexOf() + 1);
      else if (e.key === "k" || (e.key === "ArrowUp" && inTable(e.target))) focus(indexOf() - 1);
      else if (e.key === "Home" && inTable(e.target)) focus(0);
      else if (e.key === "End" && inTable(e.target)) focus(rows.length - 1);
      else if (e.key === "Enter" && (e.target === document.body || (inTable(e.target) && (e.target as Element).tagName === "TR"))) {
        const row = rows[indexOf()];
        if (!row || !href) return;
        go(href(row));
      } else return;
      e.preventDefault();
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, [rows]);
  const inTable = (target: EventTarget | null) => !!scroller.current?.contains(target as Node);

  const visible = virtual.getVirtualItems();
  const before = visible[0]?.start ?? 0;
  const after = virtual.getTotalSize() - (visible[visible.length - 1]?.end ?? 0);
  const sort = param("sort");

  return (
    <div class="table">
      <div class="toolbar">
        <Filter label={label} />
        {tools}
        <span class="muted count" role="status">{loading && !items.length ? "" : rows.length === items.length ? items.length.toLocaleString("en") : `${rows.length.toLocaleString("en")} of ${items.length.toLocaleString("en")}`}</span>
        <Menu icon="columns" label="Choose columns">
          {columns.map((c) => (
            <label key={c.id} class="check"><input type="checkbox" checked={chosen.includes(c)} onChange={(e) => {
              const ids = columns.filter((o) => (o === c ? e.currentTarget.checked : chosen.includes(o))).map((o) => o.id);
              setParams({ cols: ids.length ? ids.join(",") : "" });
            }} />{c.title}</label>
          ))}
          {asked && <button type="button" class="menu-item" onClick={() => setParams({ cols: "" })}>As it was</button>}
        </Menu>
      </div>
      <div class={`rows${cards ? " cards" : ""}`} ref={scroller} tabIndex={-1}>
        <table aria-label={label} aria-rowcount={rows.length + 1} style={{ width: asked && room && sum > room ? `${sum}px` : "100%" }}>
          <colgroup>{shown.map((w) => <col key={w.c.id} style={{ width: `${w.width}px` }} />)}</colgroup>
          <thead>
            <tr aria-rowindex={1}>
              {shown.map(({ c }) => {
                const mine = sort.replace(/^-/, "") === c.id, down = sort.startsWith("-");
                return (
                  <th key={c.id} scope="col" class={c.numeric ? "numeric" : ""} aria-sort={mine ? (down ? "descending" : "ascending") : "none"}>
                    <button type="button" onClick={() => setParams({ sort: mine ? (down ? "" : `-${c.id}`) : c.id })}>
                      {c.title}{mine && <Icon name={down ? "down" : "up"} />}
                    </button>
                  </th>
                );
              })}
            </tr>
          </thead>
          <tbody>
            {before > 0 && <tr aria-hidden="true" class="space"><td colSpan={shown.length} style={{ height: `${before}px` }} /></tr>}
            {visible.map((v) => {
              const item = rows[v.index];
              if (!item) return null;
              const key = keyOf(item);
              return (
                <tr key={key} data-index={v.index} aria-rowindex={v.index + 2} tabIndex={key === at || (at === null && v.index === 0) ? 0 : -1}
                  class={key === at ? "current" : ""} onFocus={() => setAt(key)}
                  onClick={(e) => { if (href && !(e.target as Element).closest("a,button,input,summary") && !getSelection()?.toString()) go(href(item)); }}>
                  {shown.map(({ c }, i) => {
                    const inner = c.show ? c.show(item, has) : c.text(item);
                    return <td key={c.id} class={(c.numeric ? "numeric " : "") + (c.mono ? "mono" : "")} title={c.text(item)}>
                      {i === linkAt(shown.map((s) => s.c)) && href ? <a href={href(item)} tabIndex={-1}>{inner}</a> : inner}
                      {cards && <Below item={item} columns={below} has={has} />}
                    </td>;
                  })}
                </tr>
              );
            })}
            {after > 0 && <tr aria-hidden="true" class="space"><td colSpan={shown.length} style={{ height: `${after}px` }} /></tr>}
          </tbody>
        </table>
        {!rows.length && !loading && (items.length
          ? <div class="empty"><p class="empty-title">Nothing matches “{param("q")}”</p><button type="button" class="button" onClick={() => setParams({ q: "" })}>Show all {items.length}</button></div>
          : empty)}
        {loading && !items.length && <Loading />}
      </div>
    </div>
  );
}

/** Below is a row's second line on a phone: its columns with a text, the most important first. */
function Below<T>({ item, columns, has }: { item: T; columns: TableColumn<T>[]; has: (id: string) => boolean }) {
  const some = columns.filter((c) => c.id !== "namespace" && c.text(item) && !(c.numeric && c.text(item) === "0")).slice(0, 5);
  return <div class="more">{some.map((c) => <span key={c.id}>{(c.numeric || /^\d+$/.test(c.text(item))) && `${c.title} `}{c.show ? c.show(item, has) : c.text(item)}</span>)}</div>;
}

function linkAt(columns: { keep?: number; link?: boolean }[]): number {
  const marked = columns.findIndex((c) => c.link);
  return marked >= 0 ? marked : Math.max(0, columns.findIndex((c) => c.keep === 100));
}

/** Filter is the field that narrows a list. "/" focuses it. */
export function Filter({ label }: { label: string }) {
  const ref = useRef<HTMLInputElement>(null);
  return (
    <label class="filter">
      <Icon name="search" />
      <input ref={ref} type="search" data-filter value={param("q")} placeholder="Filter" aria-label={`Filter ${label}`} spellcheck={false} autocomplete="off"
        title="Words that must all be there; -word must not"
        onInput={(e) => setParams({ q: e.currentTarget.value })}
        onKeyDown={(e) => {
          if (e.key === "Escape") { setParams({ q: "" }); ref.current?.blur(); }
          // On to the rows that are left.
          if (e.key === "Enter" || e.key === "ArrowDown") { e.preventDefault(); document.querySelector<HTMLElement>('.rows tbody tr[tabindex="0"]')?.focus(); }
        }} />
      <kbd>/</kbd>
    </label>
  );
}
