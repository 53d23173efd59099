// The events of an object, newest first.
import { useMemo } from "preact/hooks";
import { core, pageOf, pathOf, type KubeObject } from "./api";
import { useObjects } from "./live";
import { link } from "./router";
import { Age, Status } from "./ui";

export interface KubeEvent extends KubeObject {
  type: string;
  reason: string;
  message: string;
  count?: number;
  involvedObject: { kind: string; name: string; namespace?: string; uid?: string };
}

/** eventFields are those that pages show. */
export const eventFields = ["type", "reason", "message", "count", "series", "lastTimestamp", "eventTime", "involvedObject"];

export const lastSeen = (e: KubeEvent): string => e.series?.lastObservedTime ?? e.lastTimestamp ?? e.eventTime ?? e.metadata.creationTimestamp ?? "";

/** newestFirst sorts by times as the API writes them, which need no comparing by language. */
export const newestFirst = <T,>(list: Iterable<T>, last: (item: T) => string): T[] =>
  [...list].map((item): [string, T] => [last(item), item]).sort(([a], [b]) => (a < b ? 1 : a > b ? -1 : 0)).map(([, item]) => item);

export function Events({ of }: { of: KubeObject }) {
  const path = pathOf(core("events"), of.metadata.namespace ?? "") + `?fieldSelector=${encodeURIComponent(`involvedObject.uid=${of.metadata.uid}`)}`;
  const feed = useObjects<KubeEvent>(path);
  const list = useMemo(() => newestFirst(feed.items.value, lastSeen), [feed.items.value]);
  const problem = feed.problem.value;
  if (feed.state.value === "ended" && problem) return <p class="muted">{problem.message}</p>;
  if (!list.length) return <p class="muted">{feed.state.value === "loading" ? "Loading…" : "None in the last hour"}</p>;
  return <EventList events={list} />;
}

export const EventList = ({ events, objects }: { events: KubeEvent[]; objects?: boolean }) => (
  <ul class="events">{events.map((e) => (
    <li key={e.metadata.uid}>
      <Status text={e.reason} tone={e.type === "Warning" ? "warn" : "done"} />
      {objects && <span class="muted break">{e.involvedObject.kind} {e.involvedObject.kind === "Pod" ? <a href={link(pageOf(core("pods"), e.involvedObject.namespace, e.involvedObject.name))}>{e.involvedObject.name}</a> : e.involvedObject.name}</span>}
      <span class="muted right">{(e.series?.count ?? e.count ?? 1) > 1 && `${e.series?.count ?? e.count} times, `}<Age since={lastSeen(e)} /> ago</span>
      <p>{e.message}</p>
    </li>
  ))}</ul>
);
