import { useMemo } from "preact/hooks";
import { discover, pageOf, type Resource } from "../api";
import { usePoll } from "../live";
import { link } from "../router";
import { Table, type TableColumn } from "../table";
import { Failure, PageHead } from "../ui";

const columns: TableColumn<Resource>[] = [
  { id: "kind", title: "Kind", text: (r) => r.kind, keep: 100 },
  { id: "name", title: "Name", text: (r) => r.plural, keep: 60 },
  { id: "group", title: "API", text: (r) => (r.group ? `${r.group}/${r.version}` : r.version), keep: 50 },
  { id: "scope", title: "Scope", text: (r) => (r.namespaced ? "Namespaced" : "Cluster"), keep: 30 },
  { id: "short", title: "Short", text: (r) => r.short.join(", "), keep: 20 },
  { id: "verbs", title: "Verbs", text: (r) => r.verbs.join(", "), keep: 10 },
];

export default function Resources() {
  const { value: all, problem } = usePoll(discover, 5, "kinds");
  const list = useMemo(() => all?.filter((r) => r.verbs.includes("list")), [all]);
  if (problem) return <><PageHead title="Any resource" /><Failure problem={problem} what="the kinds of resources" /></>;
  return (
    <>
      <PageHead title="Any resource" note="All kinds that the API server has, those of CustomResourceDefinitions too." />
      <Table label="kinds" items={list ?? []} loading={!list} columns={columns} keyOf={(r) => `${r.group}/${r.plural}`} href={(r) => link(pageOf(r))} />
    </>
  );
}
