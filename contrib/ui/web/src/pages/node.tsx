import { signal } from "@preact/signals";
import { core, k8s, pageOf, pathOf, send, type KubeObject } from "../api";
import { count } from "../format";
import { useMesosState, useTable } from "../live";
import { agentState, amount, amounts, partsOf, resources, rolloutText, titles, useOf, type Agent, type MesosState } from "../mesos";
import type { PageProps } from "../pages";
import { useRights } from "../rights";
import { link } from "../router";
import { Age, Bar, Button, confirm, Copyable, Empty, Facts, PageHead, Panel, Status, toast } from "../ui";
import { MesosTrouble } from "./mesos";

export default function Node({ params }: PageProps) {
  const { state, problem } = useMesosState<MesosState>();
  const agent = state?.agents.find((a) => a.id === params.agent);
  const above = <a href={link("/nodes")}>Agents and nodes</a>;
  if (!state) return <><PageHead above={above} title={params.agent} /><MesosTrouble state={state} problem={problem} /></>;
  if (!agent) return <><PageHead above={above} title={params.agent} /><Empty title="This agent is gone"><p>Mesos does not know an agent with this id, and it has no node.</p><a class="button" href={link("/nodes")}>All agents</a></Empty></>;
  const node = agent.node;
  return (
    <>
      <PageHead above={above} title={node?.node ?? agent.hostname} note={<><Status {...agentState(agent)} />{node?.cordonedFor && <span class="muted"> {cordonedBy(node.cordonedFor)}</span>}</>}>
        {node && <a class="button" href={link(pageOf(core("nodes"), "", node.node))}>Node in the API</a>}
        {node && <Actions agent={agent} />}
      </PageHead>
      <MesosTrouble state={state} problem={problem} />
      <div class="panels">
        {node && <Draining node={node.node} />}
        {node?.failing && <Panel title="Tasks fail here" class="wide attention-panel"><p>{node.failing}</p></Panel>}
        <Panel title="Who has what">
          {resources([agent]).map((name) => {
            const use = useOf([agent], state.framework, name);
            return <div key={name}><h3>{titles[name] ?? name} <span class="muted">{amount(name, use.total)} in all</span></h3><Bar parts={partsOf(use, name)} total={use.total} label={titles[name] ?? name} /></div>;
          })}
          {agent.missing && <p class="muted">The master does not know this agent now.</p>}
        </Panel>
        <Panel title="Agent">
          <Facts facts={[
            ["Host", agent.hostname], ["Address", agent.address], ["Mesos", agent.version],
            ["Registered", agent.registered && <><Age since={agent.registered} /> ago</>], ["Region, zone", [agent.region, agent.zone].filter(Boolean).join(", ")],
            ["Attributes", agent.attributes && Object.keys(agent.attributes).length > 0 && <span class="labels">{Object.entries(agent.attributes).map(([k, v]) => <code key={k}>{k}:{v}</code>)}</span>],
            ["Reserved", Object.entries(agent.reserved ?? {}).map(([role, a]) => `${role}: ${amounts(a)}`).join("; ")],
            ["Draining", agent.draining && <span>{agent.draining.state.toLowerCase()}{agent.draining.since && <> for <Age since={agent.draining.since} /></>}{agent.draining.markGone && ", then gone for good"}</span>],
            ["Maintenance", agent.maintenance && `${new Date(agent.maintenance.start).toLocaleString()} to ${agent.maintenance.end ? new Date(agent.maintenance.end).toLocaleString() : "an end that is not planned"}`],
            ["Id", <Copyable text={agent.id} what="the agent's id" />],
          ]} />
        </Panel>
        <Panel title="Minion">
          {!node ? <p class="muted">The agent becomes a node with its first offer to Kubernetes.</p> : <Facts facts={[
            ["State", node.minion ? <Status text="runs" tone="ok" /> : <Status text="starts with its first pod" tone="none" />],
            ["Version", node.minion && (node.km ?? "not written yet")], ["Since", node.minion && node.since && <><Age since={node.since} /> ago</>],
            ["Rollout", rolloutText(node.rollout)], ["Kept warm", node.warm && "a task without a pod keeps it running"],
            ["Kubelet", node.kubelet], ["Tasks", String(node.tasks)],
          ]} />}
        </Panel>
        <Panel title="Frameworks here">
          {Object.keys(agent.frameworks).length ? <ul class="health">{Object.entries(agent.frameworks).map(([id, a]) => (
            <li key={id}><span>{id === state.framework ? "Kubernetes" : state.frameworks.find((f) => f.id === id)?.name || id}</span><span class="muted">{amounts(a)}</span></li>))}</ul>
            : <p class="muted">No task runs here.</p>}
        </Panel>
        {node && <Pods node={node.node} />}
      </div>
    </>
  );
}

const cordonedBy = (why: string) => (why === "somebody" ? "by somebody" : `by the scheduler, for ${why}`);

function Pods({ node }: { node: string }) {
  const pods = useTable(`${pathOf(core("pods"))}?fieldSelector=spec.nodeName%3D${encodeURIComponent(node)}`);
  const list = pods.items.value;
  return (
    <Panel title="Pods here" class="wide" note={pods.state.value === "live" ? count(list.length, "pod") : undefined}>
      {pods.problem.value?.code === 403 ? <p class="muted">{pods.problem.value.message}</p> : list.length ? <div class="scroll" role="region" aria-label="Pods" tabIndex={0}><table class="plain">
        <thead><tr><th scope="col">Namespace</th><th scope="col">Pod</th><th scope="col">Ready</th><th scope="col">Status</th></tr></thead>
        <tbody>{list.slice(0, 200).map((p) => <tr key={p.uid}><td>{p.ns}</td><td><a href={link(pageOf(core("pods"), p.ns, p.name))}>{p.name}</a></td><td>{String(p.cells[1])}</td><td><Status text={String(p.cells[2])} /></td></tr>)}</tbody>
      </table>{list.length > 200 && <p class="muted">and {list.length - 200} more</p>}</div> : <p class="muted">{pods.state.value === "loading" ? "Loading…" : "None"}</p>}
    </Panel>
  );
}

/** Actions are cordon, uncordon and drain, as kubectl does them. */
function Actions({ agent }: { agent: Agent }) {
  const can = useRights("");
  const name = agent.node!.node, cordoned = agent.node!.cordonedFor;
  if (!can("patch", core("nodes"), name)) return null;
  const mark = (unschedulable: boolean) => send("PATCH", pathOf(core("nodes"), "", name), { spec: { unschedulable: unschedulable || null } });
  return (
    <>
      {cordoned ? <Button icon="play" onClick={() => confirm({
        title: `Uncordon ${name}?`, says: <p>New pods can be placed on it again.{cordoned !== "somebody" && ` The scheduler cordoned it for ${cordoned}, and may do so again.`}</p>,
        action: "Uncordon", do: () => { drains.value = { ...drains.value, [name]: undefined }; return mark(false); }, done: `${name} takes pods again`,
      })}>Uncordon</Button> : <Button icon="pause" onClick={() => confirm({
        title: `Cordon ${name}?`, says: <p>No new pods are placed on it. Those that run there stay.</p>, action: "Cordon", do: () => mark(true), done: `${name} takes no new pods`,
      })}>Cordon</Button>}
      {can("create", { group: "", plural: "pods/eviction" }) && <Button icon="evict" kind="danger" onClick={() => confirm({
        title: `Drain ${name}?`, danger: true, action: "Drain",
        says: <><p>The node is cordoned, and each of its pods is evicted: their controllers make new ones elsewhere. Pods of DaemonSets stay.</p><p>PodDisruptionBudgets are respected: a pod that may not go now is tried again until it may, as long as this page is open in the browser.</p></>,
        do: async () => { await mark(true); void drain(name); }, done: `The pods of ${name} are being moved`,
      })}>Drain</Button>}
    </>
  );
}

/** Drain is how far a drain is. */
interface Drain { evicted: number; ending: number; held: { pod: string; why: string }[]; problem?: string }

const drains = signal<Record<string, Drain | undefined>>({});
const retry = 5000; // as kubectl drain

/** drain evicts the pods of a node but those of DaemonSets and of the kubelet itself, until none is left or somebody stops it. */
async function drain(node: string) {
  if (drains.value[node]) return;
  let now: Drain = { evicted: 0, ending: 0, held: [] };
  const show = (d: Drain | undefined) => { drains.value = { ...drains.value, [node]: d }; };
  for (show(now); drains.value[node]; await new Promise((done) => setTimeout(done, retry))) {
    try {
      now = await evictOnce(node, now.evicted);
    } catch (error: any) {
      now = { ...now, problem: error.message };
    }
    if (!drains.value[node]) return; // stopped meanwhile
    show(now);
    if (!now.problem && !now.ending && !now.held.length) {
      show(undefined);
      toast(`${node} is drained: ${count(now.evicted, "pod")} evicted`);
    }
  }
}

async function evictOnce(node: string, before: number): Promise<Drain> {
  const list = await k8s(`${pathOf(core("pods"))}?fieldSelector=spec.nodeName%3D${encodeURIComponent(node)}`);
  const leaves = (list.items as KubeObject[]).filter((p) => !p.metadata.ownerReferences?.some((o) => o.controller && (o.kind === "DaemonSet" || o.kind === "Node")) && !/^(Succeeded|Failed)$/.test(p.status?.phase));
  const now: Drain = { evicted: before, ending: 0, held: [] };
  for (const p of leaves) {
    const { namespace, name, uid } = p.metadata;
    if (p.metadata.deletionTimestamp) { now.ending++; continue; }
    try {
      await send("POST", `${pathOf(core("pods"), namespace, name)}/eviction`, { apiVersion: "policy/v1", kind: "Eviction", metadata: { name, namespace }, deleteOptions: { preconditions: { uid } } });
      now.evicted++;
      now.ending++;
    } catch (error: any) {
      if (error.code !== 404) now.held.push({ pod: `${namespace}/${name}`, why: [error.message, ...(error.status?.details?.causes ?? []).map((c: any) => c.message)].join(" ") });
    }
  }
  return now;
}

/** Draining says how far a drain is, and what holds it up. */
function Draining({ node }: { node: string }) {
  const d = drains.value[node];
  if (!d) return null;
  return (
    <Panel title={`${node} is being drained`} class="wide attention-panel">
      <p role="status">{count(d.evicted, "pod")} evicted, {d.ending} still {d.ending === 1 ? "ends" : "end"}, {d.held.length} may not go now.{d.problem && ` ${d.problem}`}</p>
      {d.held.length > 0 && <><ul class="reasons">{d.held.slice(0, 20).map((h) => <li key={h.pod}><strong>{h.pod}</strong>: {h.why}</li>)}{d.held.length > 20 && <li>and {d.held.length - 20} more</li>}</ul>
        <p class="muted">They are tried again every {retry / 1000} seconds, as long as this page is open in the browser.</p></>}
      <Button onClick={() => { drains.value = { ...drains.value, [node]: undefined }; }}>Stop draining</Button>
    </Panel>
  );
}
