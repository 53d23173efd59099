import { useMayCreate } from "../rights";
import { param, link } from "../router";
import { ResourceTable } from "../resourcetable";
import { Empty, PageHead, Tabs } from "../ui";
import { kinds, workloadPage } from "../workloads";

export default function Workloads() {
  const kind = kinds.find((k) => k.plural === param("kind")) ?? kinds[0]!;
  const may = useMayCreate(param("ns"));
  const create = may && <a class="button" href={link("/create")}>Create from YAML</a>;
  return (
    <>
      <PageHead title="Workloads" note="What makes pods, and keeps them as many as you asked for.">
        {create}
      </PageHead>
      <Tabs now={kind.plural} tabs={kinds.map((k) => [k.plural, k.title])} href={(k) => link("/workloads", { kind: k === kinds[0]!.plural ? "" : k })} />
      <ResourceTable key={kind.plural} of={kind} name={kind.title} href={(r) => link(workloadPage(kind.plural, r.ns!, r.name))}
        empty={<Empty title={`No ${kind.title}${param("ns") ? ` in ${param("ns")}` : ""}`}>{create}</Empty>} />
    </>
  );
}
