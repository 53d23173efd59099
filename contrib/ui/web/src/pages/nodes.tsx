import { useMemo } from "preact/hooks";
import { count } from "../format";
import { useMesosState } from "../live";
import { agentState, amount, minionText, partsOf, sum, useOf, type Agent, type MesosState } from "../mesos";
import { link } from "../router";
import { Table, type TableColumn } from "../table";
import { Bar, Empty, PageHead, Panel, Status } from "../ui";
import { MesosTrouble } from "./mesos";

const nameOf = (a: Agent) => a.node?.node || a.hostname;

/** Meter is who has a resource of an agent; its numbers are in the table and on the agent's own page. */
function Meter({ agent, ours, name }: { agent: Agent; ours: string | undefined; name: string }) {
  const use = useOf([agent], ours, name);
  const widths = [["ours", use.ours], ["others", use.others], ["offered", use.offered]] as const;
  if (agent.missing) return <span class="muted">–</span>;
  let at = 0;
  return (
    <span class="meter">
      <svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
        <rect class="rest" width="100" height="8" />
        {widths.map(([tone, n]) => { const width = use.total ? (n / use.total) * 100 : 0; const x = at; at += width; return <rect key={tone} class={tone} x={x} width={width} height="8" />; })}
      </svg>
      <span>{usedOf(agent, name)}</span>
    </span>
  );
}

const usedOf = (a: Agent, name: string) => (a.missing ? "" : `${amount(name, sum(Object.values(a.allocated), name))} of ${amount(name, a.total[name] ?? 0)}`);

export default function Nodes() {
  const { state, problem } = useMesosState<MesosState>();
  const ours = state?.framework;
  const columns = useMemo((): TableColumn<Agent>[] => [
    { id: "name", title: "Node", text: nameOf, keep: 100 },
    { id: "state", title: "State", text: (a) => agentState(a).text, show: (a) => <Status {...agentState(a)} />, keep: 95 },
    { id: "cpu", title: "CPU", text: (a) => usedOf(a, "cpus"), width: 18, order: (a) => sum(Object.values(a.allocated), "cpus"), show: (a) => <Meter agent={a} ours={ours} name="cpus" />, keep: 80 },
    { id: "memory", title: "Memory", text: (a) => usedOf(a, "mem"), width: 26, order: (a) => sum(Object.values(a.allocated), "mem"), show: (a) => <Meter agent={a} ours={ours} name="mem" />, keep: 70 },
    { id: "tasks", title: "Tasks", text: (a) => String(a.tasks), order: (a) => a.tasks, numeric: true, keep: 60 },
    { id: "cordoned", title: "Cordoned for", text: (a) => a.node?.cordonedFor ?? "", keep: 50, sparse: true },
    { id: "minion", title: "Minion", text: minionText, show: (a) => <span class={a.node?.minion ? "" : "muted"}>{minionText(a)}</span>, keep: 45 },
    { id: "rollout", title: "Rollout", text: (a) => a.node?.rollout?.state ?? "", keep: 40, sparse: true },
    { id: "attributes", title: "Attributes", text: (a) => Object.entries(a.attributes ?? {}).map(([k, v]) => `${k}:${v}`).join(" "), keep: 25, sparse: true },
    { id: "zone", title: "Zone", text: (a) => [a.region, a.zone].filter(Boolean).join("/"), hidden: true },
    { id: "maintenance", title: "Maintenance", text: (a) => (a.maintenance ? new Date(a.maintenance.start).toLocaleString() : ""), order: (a) => a.maintenance?.start ?? "", hidden: true },
    { id: "kubelet", title: "Kubelet", text: (a) => a.node?.kubelet ?? "", hidden: true },
    { id: "mesos", title: "Mesos", text: (a) => a.version ?? "", hidden: true },
    { id: "agent", title: "Agent", text: (a) => a.id, mono: true, hidden: true },
  ], [ours]);
  const agents = state?.agents ?? [];
  const there = agents.filter((a) => !a.missing);
  const cpu = useOf(there, ours, "cpus");
  return (
    <>
      <PageHead title="Agents and nodes" note={state ? `${count(there.length, "agent")}, ${count(there.filter((a) => a.node?.ready).length, "ready node")}. A minion starts with the first pod of its node.` : "Each Mesos agent is a node of Kubernetes."} />
      <MesosTrouble state={state} problem={problem} />
      {there.length > 0 && <Panel title="CPU" note={`${amount("cpus", cpu.total)} in all`}><Bar parts={partsOf(cpu, "cpus")} total={cpu.total} label="CPU" /></Panel>}
      {state && <Table label="agents and nodes" items={agents} columns={columns} keyOf={(a) => a.id} href={(a) => link(`/nodes/${encodeURIComponent(a.id)}`)}
        extra={(a) => `${a.id} ${a.hostname} ${a.address ?? ""}`}
        empty={<Empty title="Mesos has no agents yet"><p>Start a mesos-agent with --master={state.master?.address ?? "HOST:5050"}, and it becomes a node with its first offer.</p></Empty>} />}
    </>
  );
}
