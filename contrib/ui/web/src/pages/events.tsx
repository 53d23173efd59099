import { useMemo } from "preact/hooks";
import { core, pathOf } from "../api";
import { eventFields, lastSeen, newestFirst, type KubeEvent } from "../events";
import { span } from "../format";
import { useObjects } from "../live";
import { link, param, setParams } from "../router";
import { Table, type TableColumn } from "../table";
import { Age, Button, Empty, Failure, Live, now, PageHead, Status } from "../ui";

/** Group are events that say the same of objects of one kind. */
interface Group { key: string; events: KubeEvent[]; count: number; last: string; first: KubeEvent }

const times = (e: KubeEvent): number => e.series?.count ?? e.count ?? 1;

const columns = (ns: string): TableColumn<Group>[] => [
  { id: "last", title: "Last", text: (g) => span((now.peek() - Date.parse(g.last)) / 1000), show: (g) => <Age since={g.last} />, order: (g) => -Date.parse(g.last), keep: 60 },
  { id: "reason", title: "Reason", text: (g) => g.first.reason, show: (g) => <Status text={g.first.reason} tone={g.first.type === "Warning" ? "warn" : "done"} />, keep: 90 },
  ...(ns ? [] : [{ id: "namespace", title: "Namespace", text: (g: Group) => g.first.involvedObject.namespace ?? "", keep: 20 }]),
  { id: "object", title: "Object", text: (g) => (g.events.length > 1 ? `${g.events.length} ${g.first.involvedObject.kind}s, such as ${g.first.involvedObject.name}` : `${g.first.involvedObject.kind} ${g.first.involvedObject.name}`), keep: 40, width: 30, link: true },
  { id: "message", title: "Message", text: (g) => g.first.message ?? "", keep: 100 },
  { id: "count", title: "Count", text: (g) => String(g.count), order: (g) => g.count, numeric: true, keep: 30 },
];

/** said is a message without what differs from object to object. */
const said = (e: KubeEvent) => (e.message ?? "").replaceAll(e.involvedObject.name, "…").replace(/\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b[0-9a-f]{12,64}\b/g, "…").replace(/\d+(\.\d+)?(ms|s|m)\b/g, "…");

/** keys are what events say, which takes long to find out of thousands each time that one comes. */
const keys = new WeakMap<KubeEvent, string>();

function keyOf(e: KubeEvent): string {
  let key = keys.get(e);
  if (key === undefined) keys.set(e, key = [e.type, e.reason, e.involvedObject.kind, e.involvedObject.namespace, said(e)].join("\u0000"));
  return key;
}

export default function Events() {
  const ns = param("ns"), warnings = param("type") === "Warning";
  const feed = useObjects<KubeEvent>(pathOf(core("events"), ns) + (warnings ? "?fieldSelector=type%3DWarning" : ""), eventFields);
  const groups = useMemo(() => {
    const by = new Map<string, Group>();
    for (const e of feed.items.value) {
      const key = keyOf(e), g = by.get(key), last = lastSeen(e);
      if (!g) by.set(key, { key, events: [e], count: times(e), last, first: e });
      else {
        g.events.push(e);
        g.count += times(e);
        if (last > g.last) { g.last = last; g.first = e; }
      }
    }
    return newestFirst(by.values(), (g) => g.last);
  }, [feed.items.value]);
  const shown = useMemo(() => columns(ns), [ns]);
  const problem = feed.problem.value;
  const href = (g: Group) => {
    const o = g.first.involvedObject as { kind: string; name: string; namespace?: string; apiVersion?: string };
    return o.kind === "Pod" ? link(`/pods/${encodeURIComponent(o.namespace ?? "")}/${encodeURIComponent(o.name)}`) : link(`/resources/core/v1/events/${encodeURIComponent(g.first.metadata.namespace ?? "")}/${encodeURIComponent(g.first.metadata.name)}`);
  };
  return (
    <>
      <PageHead title="Events" note="What happened in the last hour, newest first. Events that say the same are one row." />
      {feed.state.value === "ended" && problem ? <Failure problem={problem} what={ns ? `events in ${ns}` : "events"} />
        : <Table label="events" items={groups} columns={shown} keyOf={(g) => g.key} href={href} loading={feed.state.value === "loading"}
          tools={<><Button pressed={warnings} onClick={() => setParams({ type: warnings ? "" : "Warning" })}>Warnings</Button><Live feed={feed} /></>}
          empty={<Empty title={warnings ? "No warnings in the last hour" : "No events in the last hour"} />} />}
    </>
  );
}
