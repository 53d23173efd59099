import { session } from "../api";
import { count, span } from "../format";
import { useMesosState, type Problem } from "../live";
import { agentState, amount, amounts, partsOf, resources, titles, useOf, type Agent, type Framework, type MesosState, type Role, type Window } from "../mesos";
import { link } from "../router";
import { Age, Bar, Copyable, Empty, Facts, Failure, now, PageHead, Panel, Status } from "../ui";

export default function Mesos() {
  const { state, problem } = useMesosState<MesosState>();
  return (
    <>
      <PageHead title="Mesos" note="The agents offer what they have to frameworks. Kubernetes is one of them." />
      <MesosTrouble state={state} problem={problem} />
      {state && (state.agents.length > 0 || !state.problem) && <div class="panels">
        <Master state={state} />
        <Resources state={state} />
        <Frameworks state={state} />
        <Roles state={state} />
        <Maintenance state={state} />
        {state.unknown.length > 0 && <Panel title="What the master did not tell" class="wide attention-panel"><ul class="reasons">{state.unknown.map((u) => <li key={u.call}>{u.reason}</li>)}</ul></Panel>}
      </div>}
    </>
  );
}

/** MesosTrouble says why nothing is known of Mesos, or that what is shown is old. */
export function MesosTrouble({ state, problem }: { state: MesosState | undefined; problem: Problem | null }) {
  if (state?.noMasterSince) {
    return <Panel title="No master answers" class="attention-panel"><p>No Mesos master answers the scheduler since {new Date(state.noMasterSince).toLocaleTimeString()}, <Age since={state.noMasterSince} /> ago. Pods go on running; new ones wait. What is shown is as it was then.</p>
      <p class="muted">Masters that the scheduler tries: {state.masters.join(", ") || "none is known"}</p></Panel>;
  }
  if (state?.problem) return <Failure problem={{ code: 0, message: state.problem }} what="the Mesos cluster" />;
  if (problem && !state) return <Failure problem={problem} what="the Mesos cluster" />;
  if (problem) return <p class="muted" role="status">Not live now: {problem.message}</p>;
  if (!state && !session.value?.mesos) return <Empty title="This server knows no scheduler"><p>It shows Kubernetes only.</p></Empty>;
  return state ? null : <p class="muted" role="status">Asking the scheduler…</p>;
}

function Master({ state }: { state: MesosState }) {
  const m = state.master;
  const others = state.masters.filter((one) => one !== m?.address);
  return (
    <Panel title="Leading master" note={m && <Status text={state.noMasterSince ? "does not answer" : "leads"} tone={state.noMasterSince ? "bad" : "ok"} />}>
      {m ? <Facts facts={[
        ["Address", m.address], ["Host", m.hostname !== m.address.split(":")[0] ? m.hostname : ""], ["Version", m.version],
        ["Leads for", m.elected && <Age since={m.elected} />], ["Started", m.started && m.started !== m.elected && <><Age since={m.started} /> ago</>],
        ["Region, zone", [m.region, m.zone].filter(Boolean).join(", ")],
        ["Other masters", others.join(", ")], ["Id", <Copyable text={m.id} what="the master's id" />],
      ]} /> : <p class="muted">The master has not said who it is.</p>}
    </Panel>
  );
}

function Resources({ state }: { state: MesosState }) {
  const agents = state.agents.filter((a) => !a.missing);
  return (
    <Panel title="What the agents have" note={<a href={link("/nodes")}>{count(agents.length, "agent")}</a>}>
      {agents.length ? resources(agents).map((name) => {
        const use = useOf(agents, state.framework, name);
        return <div key={name}><h3>{titles[name] ?? name} <span class="muted">{amount(name, use.total)} in all</span></h3><Bar parts={partsOf(use, name)} total={use.total} label={titles[name] ?? name} /></div>;
      }) : <p class="muted">No agent has registered yet.</p>}
      <AgentStates agents={state.agents} />
    </Panel>
  );
}

function AgentStates({ agents }: { agents: Agent[] }) {
  const by = new Map<string, { n: number; tone: string }>();
  for (const a of agents) {
    const { text, tone } = agentState(a);
    by.set(text, { n: (by.get(text)?.n ?? 0) + 1, tone });
  }
  return <ul class="legend">{[...by].map(([text, { n, tone }]) => <li key={text}><a href={link("/nodes", { q: text.toLowerCase() })}><Status text={text} tone={tone} /></a> <b>{n}</b></li>)}</ul>;
}

/** Share is a part of the cluster, as a small bar and a number. */
export const Share = ({ share, tone = "ours", label }: { share: number; tone?: string; label: string }) => (
  <span class="share">
    <svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label={`${label} ${percent(share)}`}><rect class="rest" width="100" height="8" /><rect class={tone} width={Math.min(100, share * 100)} height="8" /></svg>
    <b>{percent(share)}</b>
  </span>
);

const percent = (share: number) => `${share > 0 && share < 0.001 ? "<0.1" : (share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;

function Frameworks({ state }: { state: MesosState }) {
  const agents = state.agents.filter((a) => !a.missing);
  const shareOf = (f: Framework, name: string) => { const { total } = useOf(agents, "", name); return total ? (f.allocated[name] ?? 0) / total : 0; };
  const list = [...state.frameworks].sort((a, b) => shareOf(b, "cpus") - shareOf(a, "cpus"));
  return (
    <Panel title="Frameworks" class="wide" note={count(list.length, "framework")}>
      {list.length ? <div class="scroll" role="region" aria-label="Frameworks" tabIndex={0}><table class="plain">
        <thead><tr><th scope="col">Name</th><th scope="col">State</th><th scope="col">CPU</th><th scope="col">Memory</th><th scope="col" class="numeric">Tasks</th><th scope="col">Roles</th><th scope="col">Principal</th><th scope="col">Id</th></tr></thead>
        <tbody>{list.map((f) => (
          <tr key={f.id}>
            <td><strong>{f.id === state.framework ? "Kubernetes" : f.name || "(no name)"}</strong>{f.id === state.framework && <span class="muted"> {f.name}</span>}</td>
            <td><Status {...frameworkState(f)} /></td>
            <td><Share share={shareOf(f, "cpus")} tone={f.id === state.framework ? "ours" : "others"} label="CPU" /><span class="muted small">{amount("cpus", f.allocated.cpus ?? 0)}</span></td>
            <td><Share share={shareOf(f, "mem")} tone={f.id === state.framework ? "ours" : "others"} label="Memory" /><span class="muted small">{amount("mem", f.allocated.mem ?? 0)}</span></td>
            <td class="numeric">{f.tasks.toLocaleString("en")}</td>
            <td>{f.roles.join(", ")}</td><td>{f.principal ?? <span class="muted">none</span>}</td><td><Copyable text={f.id} what="the framework's id" /></td>
          </tr>))}</tbody>
      </table></div> : <p class="muted">No framework has subscribed, or the master shows none to the scheduler's principal.</p>}
    </Panel>
  );
}

function frameworkState(f: Framework): { text: string; tone: string } {
  if (f.recovered) return { text: "not back yet", tone: "busy" };
  if (!f.connected) return { text: "disconnected", tone: "warn" };
  return f.active ? { text: "active", tone: "ok" } : { text: "inactive", tone: "warn" };
}

function Roles({ state }: { state: MesosState }) {
  const name = (id: string) => (id === state.framework ? "Kubernetes" : state.frameworks.find((f) => f.id === id)?.name || id);
  return (
    <Panel title="Roles" class="wide" note="Mesos offers first to the role with the smallest dominant share">
      {state.roles.length ? <div class="scroll" role="region" aria-label="Roles" tabIndex={0}><table class="plain">
        <thead><tr><th scope="col">Role</th><th scope="col">Dominant share</th><th scope="col" class="numeric">Weight</th><th scope="col">Has</th><th scope="col">Offered</th><th scope="col">Quota</th><th scope="col">Frameworks</th></tr></thead>
        <tbody>{state.roles.map((r) => (
          <tr key={r.name}>
            <td><strong>{r.name === "*" ? "* (default)" : r.name}</strong></td>
            <td><Share share={r.dominantShare} label={`Dominant share of ${r.name}`} />{r.dominantResource && <span class="muted small">{titles[r.dominantResource] ?? r.dominantResource}</span>}</td>
            <td class="numeric">{r.weight}</td>
            <td>{amounts(r.allocated) || <span class="muted">nothing</span>}</td><td>{amounts(r.offered) || <span class="muted">nothing</span>}</td>
            <td><Quota role={r} /></td><td>{r.frameworks.map(name).join(", ")}</td>
          </tr>))}</tbody>
      </table></div> : <p class="muted">The master has told of no roles.</p>}
    </Panel>
  );
}

function Quota({ role }: { role: Role }) {
  if (!role.quota) return <span class="muted">none</span>;
  const { guarantee, limit } = role.quota;
  return <>{guarantee && amounts(guarantee) && <div>guarantee {amounts(guarantee)}</div>}{limit && amounts(limit) && <div>limit {amounts(limit)}</div>}</>;
}

/** Maintenance is the schedule on a line of time, and as text for those who cannot see it. */
function Maintenance({ state }: { state: MesosState }) {
  const windows = [...state.maintenance].sort((a, b) => a.start.localeCompare(b.start));
  if (!windows.length) return <Panel title="Maintenance" class="wide"><p class="muted">None is planned.</p></Panel>;
  const begin = Math.min(now.value, ...windows.map((w) => Date.parse(w.start)));
  const ends = windows.map((w) => (w.end ? Date.parse(w.end) : Date.parse(w.start) + 4 * 3600e3));
  const length = Math.max(3600e3, Math.max(now.value + 3600e3, ...ends) - begin);
  const x = (t: number) => ((t - begin) / length) * 1000;
  return (
    <Panel title="Maintenance" class="wide" note={count(windows.length, "window")}>
      <ul class="timeline">{windows.map((w, i) => (
        <li key={i}>
          <div><strong>{machines(w)}</strong> <Status {...mode(w)} /></div>
          <svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">
            <rect class="rest" width="1000" height="10" /><rect class="warned" x={x(Date.parse(w.start))} width={Math.max(6, x(ends[i]!) - x(Date.parse(w.start)))} height="10" />
            <rect class="failed" x={Math.min(997, x(now.value))} width="3" height="10" />
          </svg>
          <div class="muted small">{new Date(w.start).toLocaleString()} to {w.end ? new Date(w.end).toLocaleString() : "an end that is not planned"}{Date.parse(w.start) > now.value && `, in ${span(Date.parse(w.start) / 1000 - now.value / 1000)}`}</div>
        </li>))}</ul>
    </Panel>
  );
}

const machines = (w: Window) => {
  const names = w.machines.map((m) => m.hostname || m.ip || "?");
  return names.length > 6 ? `${names.slice(0, 5).join(", ")} and ${names.length - 5} more` : names.join(", ");
};

function mode(w: Window): { text: string; tone: string } {
  if (w.machines.some((m) => m.mode === "DOWN")) return { text: "down", tone: "bad" };
  if (w.machines.some((m) => m.mode === "DRAINING")) return { text: "draining", tone: "warn" };
  return { text: "planned", tone: "none" };
}
