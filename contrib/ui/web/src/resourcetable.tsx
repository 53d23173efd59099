// The API's own table of a resource, live.
import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { pageOf, pathOf, type Resource } from "./api";
import { span, tone } from "./format";
import { useTable, type Row, type Column } from "./live";
import { link, param } from "./router";
import { Table, type TableColumn } from "./table";
import { Age, Empty, Failure, Live, now, Status } from "./ui";

type Of = Pick<Resource, "group" | "version" | "plural" | "namespaced">;

const isAge = (c: Column) => /^(age|created|created at)$/i.test(c.name);
const stateful = new Set(["status", "phase", "state", "type", "ready"]);

/** seconds reads a duration as the API prints it, such as 3d4h or 5m. */
function seconds(text: string): number {
  let sum = 0;
  for (const [, n, unit] of text.matchAll(/(\d+)(y|d|h|m|s)/g)) sum += Number(n) * { y: 31536000, d: 86400, h: 3600, m: 60, s: 1 }[unit as "s"]!;
  return sum;
}

/** Ready is a count such as 1/2, which stands out unless all are. */
export function Ready({ cell, ended }: { cell: string; ended?: boolean }) {
  const [ready, all] = cell.split("/");
  return <span class={ready === all || all === undefined || ended ? "" : "attention"}>{cell}</span>;
}

/** columnsOf makes the page's columns of the API's. Ages tick. more replaces or adds columns by id. */
function columnsOf(columns: Column[], namespaces: boolean, more: TableColumn<Row>[] = []): TableColumn<Row>[] {
  const made: TableColumn<Row>[] = [];
  if (namespaces) made.push({ id: "namespace", title: "Namespace", text: (r) => r.ns ?? "", keep: 42 });
  columns.forEach((c, i) => {
    const id = c.name.toLowerCase().replace(/[^a-z0-9]+/g, "-");
    const cell = (r: Row) => (r.cells[i] === null || r.cells[i] === undefined ? "" : String(r.cells[i]).replace(/^<(none|unset|unknown)>$/, ""));
    const column: TableColumn<Row> = { id, title: c.name, text: cell, keep: 30 - i, hidden: !!c.priority };
    if (id === "ready") Object.assign(column, { keep: 70, show: (r: Row) => <Ready cell={cell(r)} /> });
    if (id === "name") {
      // Where there is no room for the namespace's column, it is before the name.
      const show = (r: Row, has: (id: string) => boolean) => (r.ns && !has("namespace") && namespaces ? <><span class="muted">{r.ns}/</span>{r.name}</> : r.name);
      Object.assign(column, { text: (r: Row) => r.name, show, keep: 100 });
    } else if (isAge(c)) {
      Object.assign(column, {
        text: (r: Row) => (r.created ? span((now.peek() - Date.parse(r.created)) / 1000) : cell(r)), show: (r: Row) => (r.created ? <Age since={r.created} /> : cell(r)),
        order: (r: Row) => (r.created ? -Date.parse(r.created) : seconds(cell(r))), keep: 50,
      });
    } else if (c.type === "integer" || c.type === "number") Object.assign(column, { order: (r: Row) => Number(r.cells[i] ?? 0), numeric: true });
    else if (stateful.has(id) && id !== "ready") {
      Object.assign(column, { show: (r: Row) => { const t = tone(cell(r)); return t === "none" ? cell(r) : <Status text={cell(r)} tone={t} />; }, keep: 80 });
    }
    made.push(column);
  });
  for (const m of more) {
    const at = made.findIndex((c) => c.id === m.id);
    if (at >= 0) made[at] = { ...made[at]!, ...m };
    else made.splice(Math.max(1, made.length - 1), 0, m);
  }
  return made;
}

export interface ResourceTableProps {
  of: Of;
  /** name is what the user calls the things: "pods". */
  name: string;
  /** ns is the namespace; that of the URL without it. */
  ns?: string;
  more?: TableColumn<Row>[];
  annotations?: string[];
  query?: string;
  empty?: ComponentChildren;
  tools?: ComponentChildren;
  href?: (row: Row) => string;
}

/** ResourceTable is the live table of a resource, in the namespace that the URL names. */
export function ResourceTable({ of, name, ns: fixed, more, annotations, query, empty, tools, href }: ResourceTableProps) {
  const ns = fixed ?? (of.namespaced ? param("ns") : "");
  const feed = useTable(pathOf(of, ns) + (query ? `?${query}` : ""), annotations);
  const columns = useMemo(() => columnsOf(feed.columns.value, of.namespaced && !ns, more), [feed.columns.value, ns, of.plural, more]);
  const problem = feed.problem.value;
  if (feed.state.value === "ended" && problem) {
    return <Failure problem={problem} what={ns ? `${name} in ${ns}` : name}>{problem.code === 403 && of.namespaced && !ns && <p>If you may see one namespace only, choose it above.</p>}</Failure>;
  }
  return <Table label={name} items={feed.items.value} columns={columns} keyOf={(r) => r.uid || `${r.ns}/${r.name}`}
    href={href ?? ((r) => link(pageOf(of, r.ns, r.name)))} loading={feed.state.value === "loading"} tools={<>{tools}<Live feed={feed} /></>}
    extra={(r) => Object.entries(r.labels ?? {}).map(([k, v]) => `${k}=${v}`).join("\u0000")}
    empty={empty ?? <Empty title={ns ? `No ${name} in ${ns}` : `No ${name}`} />} />;
}
